package fsm

import (
	"math"
	"strings"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// Flag bits that the state machine knows (RFC 9051 2.3.2).
const (
	flagSeen    = 1 << 0
	flagDeleted = 1 << 3

	systemFlags  = 1<<5 - 1
	firstKeyword = 5
	maxKeywords  = 64 - firstKeyword
)

// everything is the set of all UIDs.
var everything = command.UIDSet{{First: 1, Last: math.MaxUint32}}

// journalSpan is how many changes of a mailbox are remembered at least, and
// how many more at most before the oldest go.
const journalSpan = 16384

// keywords returns the bits of keywords in a mailbox, giving bits to new ones.
// ok is false when some did not fit. Names compare without case.
func (f *FSM) keywords(m *mailbox, names []string) (bits uint64, ok bool) {
	ok, grown := true, false
	for _, name := range names {
		i := m.keyword(name)
		if i < 0 {
			if len(m.Keywords) >= maxKeywords {
				ok = false
				continue
			}
			i, grown = len(m.Keywords), true
			m.Keywords = append(m.Keywords, name)
		}
		bits |= 1 << (firstKeyword + i)
	}
	if grown {
		f.batch.PutMailbox(&m.Mailbox)
	}
	return bits, ok
}

// keyword is the place of a keyword in the mailbox's table, -1 when it is new.
func (m *mailbox) keyword(name string) int {
	for i, k := range m.Keywords {
		if strings.EqualFold(k, name) {
			return i
		}
	}
	return -1
}

// known returns the bits of those keywords that the mailbox knows.
func (m *mailbox) known(names []string) (bits uint64, missing int) {
	for _, name := range names {
		if i := m.keyword(name); i >= 0 {
			bits |= 1 << (firstKeyword + i)
		} else {
			missing++
		}
	}
	return bits, missing
}

// add puts a row behind the others of m and charges it.
func (f *FSM) add(m *mailbox, w *store.Row) {
	w.UID = m.nextUID()
	m.count(w, 1)
	f.batch.PutRow(m.ID, &m.n, w, nil)
	f.touch(m)
}

// count adds a row to the counters, or with n = -1 takes it out.
func (m *mailbox) count(w *store.Row, n int) {
	m.n.Messages += uint32(n)
	m.n.Size += int64(n) * w.Size
	m.owner.count += int64(n)
	m.owner.bytes += int64(n) * w.Size
	m.countFlags(w.Flags, n)
}

func (m *mailbox) countFlags(flags uint64, n int) {
	if flags&flagSeen == 0 {
		m.n.Unseen += uint32(n)
	}
	if flags&flagDeleted != 0 {
		m.n.Deleted += uint32(n)
	}
}

// each calls f with the rows of m in set, in order. The mailbox is settled.
func (f *FSM) each(m *mailbox, set command.UIDSet, fn func(w *store.Row) error) error {
	n, err := f.store.MailboxSnapshot(m.ID)
	if err != nil {
		return err
	}
	defer n.Close()
	scan := n.Rows(m.ID)
	for _, r := range set {
		for ok := scan.Seek(r.First); ok && scan.UID() <= r.Last; ok = scan.Next() {
			w := scan.Row()
			if w == nil {
				return scan.Err()
			}
			if err := fn(w); err != nil {
				return err
			}
			// No step further than needed: it would pass every older value of
			// the last row that is still in memory.
			if w.UID == r.Last {
				break
			}
		}
		if err := scan.Err(); err != nil {
			return err
		}
	}
	return nil
}

// journal notes a change under the mailbox's MODSEQ and forgets old ones.
func (f *FSM) journal(m *mailbox, kind byte, uids command.UIDSet) {
	f.scratch = uids.AppendBinary(append(f.scratch[:0], kind))
	f.batch.PutJournal(m.ID, m.n.ModSeq, f.scratch)
	if m.n.ModSeq > m.n.Floor+2*journalSpan {
		floor := m.n.ModSeq - journalSpan
		f.batch.DeleteJournal(m.ID, m.n.Floor, floor+1)
		m.n.Floor = floor
	}
	f.touch(m)
}

func (f *FSM) setFlags(c *command.Store) (any, error) {
	m, err := f.mailbox(c.Account, c.Mailbox)
	if m == nil || err != nil {
		return &command.Stored{Code: command.NoMailbox}, err
	}
	if f.closed(m.owner) {
		return &command.Stored{Code: command.Moving}, nil
	}
	if err := f.settle(m); err != nil {
		return nil, err
	}
	bits, missing := m.known(c.Keywords)
	if missing > 0 && c.Action != command.StoreRemove {
		if len(m.Keywords)+missing > maxKeywords {
			return &command.Stored{Code: command.AtLimit}, nil
		}
		bits, _ = f.keywords(m, c.Keywords)
		f.touch(m)
	}
	bits |= c.Flags & systemFlags

	ans := &command.Stored{ModSeq: m.nextModSeq()}
	err = f.each(m, c.UIDs, func(w *store.Row) error {
		if c.Conditional && w.ModSeq > c.Unchanged {
			ans.Modified = ans.Modified.Add(w.UID)
			return nil
		}
		old := *w
		switch c.Action {
		case command.StoreReplace:
			w.Flags = bits
		case command.StoreAdd:
			w.Flags |= bits
		case command.StoreRemove:
			w.Flags &^= bits
		}
		if w.Flags == old.Flags {
			return nil
		}
		w.ModSeq = ans.ModSeq
		m.countFlags(old.Flags, -1)
		m.countFlags(w.Flags, 1)
		f.batch.PutRow(m.ID, &m.n, w, &old)
		ans.Changed = ans.Changed.Add(w.UID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(ans.Changed) > 0 {
		m.n.ModSeq = ans.ModSeq
		f.journal(m, store.ChangedFlags, ans.Changed)
	}
	return ans, nil
}

// take removes the rows of m in set that want says, and notes it. The messages
// keep their references when keep is set.
func (f *FSM) take(m *mailbox, set command.UIDSet, keep bool, want func(w *store.Row) bool) (command.UIDSet, error) {
	var taken command.UIDSet
	err := f.each(m, set, func(w *store.Row) error {
		if !want(w) {
			return nil
		}
		taken = taken.Add(w.UID)
		m.count(w, -1)
		f.batch.DeleteRow(m.ID, &m.n, w)
		if keep {
			return nil
		}
		return f.batch.AddRefs(w.MessageID, -1)
	})
	if err != nil {
		return nil, err
	}
	if len(taken) > 0 {
		m.n.ModSeq++
		f.journal(m, store.ChangedGone, taken)
	}
	return taken, nil
}

func (f *FSM) expunge(c *command.Expunge) (any, error) {
	m, err := f.mailbox(c.Account, c.Mailbox)
	if m == nil || err != nil {
		return &command.Expunged{Code: command.NoMailbox}, err
	}
	if f.closed(m.owner) {
		return &command.Expunged{Code: command.Moving}, nil
	}
	if err := f.settle(m); err != nil {
		return nil, err
	}
	uids, err := f.take(m, c.UIDs, false, func(w *store.Row) bool {
		return c.Force || w.Flags&flagDeleted != 0
	})
	if err != nil {
		return nil, err
	}
	return &command.Expunged{UIDs: uids, ModSeq: m.n.ModSeq}, nil
}
