package mailbox

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/backend/command"
)

// maxCopy is how many messages one COPY takes: it is one entry, since all of
// them are copied or none.
const maxCopy = 100_000

// sets calls f with uids in sets of at most most messages. Messages that follow
// each other in the picture make one range: the UIDs between them were removed
// and never come back. With nil the sets are every UID of the picture.
func (v *View) sets(uids []uint32, most int, f func(set command.UIDSet) error) error {
	if uids == nil {
		return v.all(most, f)
	}
	if !slices.IsSorted(uids) {
		uids = slices.Clone(uids)
		slices.Sort(uids)
	}
	var set command.UIDSet
	count, last := 0, -1 // sequence number of the UID before
	for i, uid := range uids {
		if i > 0 && uid == uids[i-1] || uid == 0 {
			continue
		}
		seq, ok := v.uids.seq(uid)
		switch {
		case ok && last >= 0 && seq == last+1 && len(set) > 0:
			set[len(set)-1].Last = uid
		case len(set) > 0 && uid <= set[len(set)-1].Last:
		default:
			set = set.Add(uid)
		}
		if last = -1; ok {
			last = seq
		}
		if count++; count == most {
			if err := f(set); err != nil {
				return err
			}
			set, count, last = nil, 0, -1
		}
	}
	if count == 0 {
		return nil
	}
	return f(set)
}

// all calls f with ranges of UIDs that hold the whole picture.
func (v *View) all(most int, f func(set command.UIDSet) error) error {
	for seq := 1; seq <= v.uids.len(); seq += most {
		end := min(seq+most-1, v.uids.len())
		if err := f(command.UIDSet{{First: v.uids.uid(seq), Last: v.uids.uid(end)}}); err != nil {
			return err
		}
	}
	return nil
}

func appendSet(uids []uint32, set command.UIDSet) []uint32 {
	for _, r := range set {
		for uid := r.First; ; uid++ {
			uids = append(uids, uid)
			if uid == r.Last {
				break
			}
		}
	}
	return uids
}

// Store changes flags; keywords are names, made when new. With unchangedSince,
// messages that have a larger MODSEQ are left alone. A large set is changed in
// several steps, and ModSeq is that of the last.
func (v *View) Store(ctx context.Context, uids []uint32, op StoreOp, flags Flags, keywords []string, unchangedSince *uint64) (res StoreResult, err error) {
	if v.readOnly {
		return res, ErrReadOnly
	}
	if op != StoreRemove && !validKeywords(keywords) {
		return res, ErrLimit
	}
	if len(keywords) > command.MaxKeywords {
		keywords = keywords[:command.MaxKeywords]
	}
	c := command.Store{
		Account: v.a.id, Mailbox: v.id, Action: command.StoreOp(op), Flags: uint64(flags), Keywords: keywords,
	}
	if unchangedSince != nil {
		c.Conditional, c.Unchanged = true, *unchangedSince
	}
	if uids == nil {
		return res, nil
	}
	err = v.sets(uids, bulk, func(set command.UIDSet) error {
		c.Head, c.UIDs = v.a.s.head(), set
		r, err := propose[*command.Stored](ctx, v.a.s, &c)
		if err == nil {
			err = codeError(r.Code)
		}
		if err != nil {
			return err
		}
		res.Changed = appendSet(res.Changed, r.Changed)
		res.Modified = appendSet(res.Modified, r.Modified)
		if len(r.Changed) > 0 {
			res.ModSeq = r.ModSeq
		}
		return nil
	})
	return res, err
}

// Expunge removes those of uids (nil: all of the picture) that have \Deleted,
// or with force all of uids, none when uids is nil.
func (v *View) Expunge(ctx context.Context, uids []uint32, force bool) (expunged []uint32, err error) {
	if v.readOnly {
		return nil, ErrReadOnly
	}
	if uids == nil && force {
		return nil, nil
	}
	err = v.sets(uids, bulk, func(set command.UIDSet) error {
		r, err := propose[*command.Expunged](ctx, v.a.s, &command.Expunge{
			Head: v.a.s.head(), Account: v.a.id, Mailbox: v.id, UIDs: set, Force: force,
		})
		if err == nil {
			err = codeError(r.Code)
		}
		if err == nil {
			expunged = appendSet(expunged, r.UIDs)
		}
		return err
	})
	return expunged, err
}

// Copy adds the messages to the mailbox called to, all or none (RFC 9051
// 6.4.7); ErrLimit for more than one entry can take.
func (v *View) Copy(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	if len(uids) > maxCopy {
		return CopyResult{}, ErrLimit
	}
	return v.copy(ctx, uids, to, maxCopy, false)
}

// Move takes the messages to the mailbox called to. Each is in one of the two
// mailboxes at any time; a large set moves in several steps (RFC 6851 3.3).
func (v *View) Move(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	if v.readOnly {
		return CopyResult{}, ErrReadOnly
	}
	return v.copy(ctx, uids, to, bulk, true)
}

func (v *View) copy(ctx context.Context, uids []uint32, to string, most int, move bool) (res CopyResult, err error) {
	if to, err = mailboxName(to); err != nil {
		return res, ErrNoMailbox
	}
	if len(uids) == 0 {
		return res, nil
	}
	err = v.sets(uids, most, func(set command.UIDSet) error {
		r, err := propose[*command.Copied](ctx, v.a.s, &command.Copy{
			Head: v.a.s.head(), Account: v.a.id, Mailbox: v.id, UIDs: set, To: to, Move: move,
		})
		if err == nil {
			err = codeError(r.Code)
		}
		if err != nil {
			return err
		}
		res.UIDValidity = r.UIDValidity
		before := len(res.Source)
		res.Source = appendSet(res.Source, r.Source)
		for i := range len(res.Source) - before {
			res.Target = append(res.Target, r.FirstUID+uint32(i))
		}
		return nil
	})
	return res, err
}
