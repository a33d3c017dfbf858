package fsm

import (
	"math"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// copy adds the rows of one mailbox to another. No octet of a message is
// written: the new rows refer to the same messages.
func (f *FSM) copy(c *command.Copy) (any, error) {
	from, err := f.mailbox(c.Account, c.Mailbox)
	if from == nil || err != nil {
		return &command.Copied{Code: command.NoMailbox}, err
	}
	if f.closed(from.owner) {
		return &command.Copied{Code: command.Moving}, nil
	}
	to := from.owner.box(c.To)
	if to == nil {
		return &command.Copied{Code: command.NoMailbox}, nil
	}
	if err := f.settle(from); err != nil {
		return nil, err
	}
	ans := &command.Copied{UIDValidity: to.UIDValidity, FirstUID: to.n.UIDNext}
	var size, count int64
	var used uint64 // flags of the rows
	err = f.each(from, c.UIDs, func(w *store.Row) error {
		ans.Source = ans.Source.Add(w.UID)
		size += w.Size
		count++
		used |= w.Flags
		return nil
	})
	if err != nil {
		return nil, err
	}
	if int64(to.n.UIDNext)+count > math.MaxUint32 {
		return &command.Copied{Code: command.AtLimit}, nil
	}
	if !c.Move && count > 0 {
		if code := from.owner.room(size, count); code != command.OK {
			return &command.Copied{Code: code}, nil
		}
	}
	if count == 0 {
		return ans, nil
	}
	return ans, f.copyRows(c, ans.Source, from, to, f.translate(from, to, used))
}

// copyRows adds the rows of set to to, and takes them from from when moving.
func (f *FSM) copyRows(c *command.Copy, set command.UIDSet, from, to *mailbox, bits []uint64) error {
	rows := make([]store.Row, 0, set.Count())
	want := func(w *store.Row) bool {
		rows = append(rows, *w)
		return true
	}
	var err error
	if c.Move {
		_, err = f.take(from, set, true, want)
	} else {
		err = f.each(from, set, func(w *store.Row) error {
			want(w)
			return f.batch.AddRefs(w.MessageID, 1)
		})
	}
	if err != nil {
		return err
	}
	to.n.ModSeq++
	for i := range rows {
		w := &rows[i]
		w.Flags = w.Flags&systemFlags | mapped(w.Flags>>firstKeyword, bits)
		w.ModSeq, w.Created, w.SaveDate = to.n.ModSeq, to.n.ModSeq, c.Time
		f.add(to, w)
	}
	return nil
}

// translate returns the flag in to for each keyword of from that is used. A
// keyword for which there is no room in to is lost.
func (f *FSM) translate(from, to *mailbox, used uint64) []uint64 {
	bits := make([]uint64, len(from.Keywords))
	for i, name := range from.Keywords {
		if used&(1<<(firstKeyword+i)) != 0 {
			bits[i], _ = f.keywords(to, []string{name})
		}
	}
	return bits
}

func mapped(keywords uint64, bits []uint64) uint64 {
	var out uint64
	for i := 0; keywords != 0 && i < len(bits); i++ {
		if keywords&1 != 0 {
			out |= bits[i]
		}
		keywords >>= 1
	}
	return out
}
