package mailbox

import (
	"context"
	"errors"
	"math"
	"slices"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
)

// View is one session's picture of a mailbox: its numbering changes only in
// Sync. It is for one goroutine, Changed apart.
type View struct {
	a        *Account
	id       uint64
	readOnly bool
	watch    *notify.Watcher

	info Info     // as of the last Sync
	uids []uint32 // by sequence number, ascending
	gone []uint32 // UIDs in uids that are removed and not yet reported, ascending
}

// Open selects the mailbox called name.
func (a *Account) Open(ctx context.Context, name string, readOnly bool) (*View, error) {
	name, err := mailboxName(name)
	if err != nil {
		return nil, ErrNoMailbox
	}
	n, err := a.s.cfg.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	m, _, err := a.find(n, name)
	n.Close()
	if err != nil {
		return nil, a.unlessStale(ctx, err)
	}
	v := &View{a: a, id: m.ID, readOnly: readOnly, watch: a.s.cfg.Hub.Watch(m.ID)}
	v.info.UIDNext = 1
	ch, err := v.Sync(ctx, true)
	if err == nil && ch.Gone {
		err = ErrNoMailbox
	}
	if err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// unlessStale returns err, or the reason why this replica cannot know.
func (a *Account) unlessStale(ctx context.Context, err error) error {
	if stale := a.s.cfg.Log.Confirm(ctx); stale != nil {
		return stale
	}
	return err
}

// Info describes the mailbox as of the last Sync.
func (v *View) Info() Info { return v.info }

// ReadOnly reports whether the mailbox was opened so.
func (v *View) ReadOnly() bool { return v.readOnly }

// Keywords names the bits after the system flags, as of the last Sync.
func (v *View) Keywords() []string { return v.info.Keywords }

// Len is the number of messages in the picture.
func (v *View) Len() int { return len(v.uids) }

// UID of the message with this sequence number, from 1 on.
func (v *View) UID(seq int) uint32 { return v.uids[seq-1] }

// Seq is the sequence number of uid; when it has none, ok is false and seq is
// the one it would have.
func (v *View) Seq(uid uint32) (seq int, ok bool) {
	i, ok := slices.BinarySearch(v.uids, uid)
	return i + 1, ok
}

// Changed is readable when Sync may find something.
func (v *View) Changed() <-chan struct{} { return v.watch.C() }

// Close ends the picture.
func (v *View) Close() { v.watch.Close() }

// stepsBeforeSeek is how many rows a walk passes over one by one.
const stepsBeforeSeek = 8

// Rows calls f for each of the sequence numbers, ascending, with the row as it
// is now. Rows that are gone are left out and reported by ErrExpunged at the end.
func (v *View) Rows(ctx context.Context, seqs []int, f func(seq int, row *Row) error) error {
	if err := v.a.s.cfg.Log.Confirm(ctx); err != nil {
		return err
	}
	n, err := v.a.s.cfg.Store.Snapshot()
	if err != nil {
		return err
	}
	defer n.Close()
	scan := n.Rows(v.id)
	missing, ok, begun := false, false, false
	for _, seq := range seqs {
		uid := v.uids[seq-1]
		if begun && ok {
			for steps := 0; ok && scan.UID() < uid && steps < stepsBeforeSeek; steps++ {
				ok = scan.Next()
			}
		}
		if !begun || ok && scan.UID() < uid {
			ok, begun = scan.Seek(uid), true
		}
		if !ok || scan.UID() != uid {
			if err := scan.Err(); err != nil {
				return err
			}
			missing = true
			continue
		}
		w := scan.Row()
		if w == nil {
			return scan.Err()
		}
		row := Row{
			UID: w.UID, Flags: Flags(w.Flags), ModSeq: w.ModSeq, InternalDate: w.InternalDate,
			SaveDate: w.SaveDate, Size: w.Size, MessageID: w.MessageID,
		}
		if err := f(seq, &row); err != nil {
			return err
		}
	}
	if err := v.a.s.cfg.Log.Confirm(ctx); err != nil {
		return err
	}
	if missing {
		return ErrExpunged
	}
	return nil
}

// Sync brings the picture up to date and says what changed. Without expunge,
// messages that are gone keep their number until a Sync with it.
func (v *View) Sync(ctx context.Context, expunge bool) (Changes, error) {
	n, err := v.a.s.cfg.Store.Snapshot()
	if err != nil {
		return Changes{}, err
	}
	defer n.Close()
	m, err := n.Mailbox(v.a.id, v.id)
	var c store.Counters
	if err == nil {
		c, err = n.Counters(v.a.id, v.id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return Changes{Gone: true, Exists: len(v.uids)}, v.a.unlessStale(ctx, nil)
	}
	if err != nil {
		return Changes{}, err
	}
	ch := Changes{Exists: len(v.uids), ModSeq: c.ModSeq, Keywords: len(m.Keywords) > len(v.info.Keywords)}
	var flagged []uint32
	if c.ModSeq != v.info.HighestModSeq {
		if flagged, err = v.catchUp(n, &c, &ch); err != nil {
			return Changes{}, err
		}
	}
	if expunge {
		v.renumber(&ch)
	}
	for _, uid := range flagged {
		if seq, ok := v.Seq(uid); ok {
			ch.Flagged = append(ch.Flagged, seq)
		}
	}
	ch.Exists = len(v.uids)
	v.info = infoOf(&m, &c)
	return ch, v.a.s.cfg.Log.Confirm(ctx)
}

// catchUp reads what happened since the last Sync: removals into v.gone, new
// messages into v.uids. It returns the UIDs whose flags changed, ascending.
func (v *View) catchUp(n *store.Snapshot, c *store.Counters, ch *Changes) (flagged []uint32, err error) {
	since, first := v.info.HighestModSeq, v.info.HighestModSeq == 0
	switch {
	case first:
	case since < c.Floor: // the journal no longer reaches back: compare everything
		flagged, err = v.compare(n, since)
	default:
		err = n.Journal(v.id, since, func(_ uint64, change []byte) error {
			return v.noted(change, &flagged)
		})
	}
	if err != nil {
		return nil, err
	}
	scan := n.Rows(v.id)
	for ok := scan.Seek(v.info.UIDNext); ok; ok = scan.Next() {
		v.uids = append(v.uids, scan.UID())
		ch.Grown = !first
	}
	slices.Sort(v.gone)
	v.gone = slices.Compact(v.gone)
	slices.Sort(flagged)
	flagged = slices.DeleteFunc(slices.Compact(flagged), func(uid uint32) bool {
		_, gone := slices.BinarySearch(v.gone, uid)
		return gone
	})
	return flagged, scan.Err()
}

// noted takes over one change of the journal, as far as it is in the picture.
func (v *View) noted(change []byte, flagged *[]uint32) error {
	if len(change) == 0 {
		return nil
	}
	set, err := command.DecodeUIDSet(change[1:])
	if err != nil {
		return err
	}
	for _, r := range set {
		for i, _ := slices.BinarySearch(v.uids, r.First); i < len(v.uids) && v.uids[i] <= r.Last; i++ {
			if change[0] == store.ChangedGone {
				v.gone = append(v.gone, v.uids[i])
			} else {
				*flagged = append(*flagged, v.uids[i])
			}
		}
	}
	return nil
}

// compare finds changes by reading every row.
func (v *View) compare(n *store.Snapshot, since uint64) (flagged []uint32, err error) {
	scan := n.Rows(v.id)
	i := 0
	for ok := scan.Seek(1); ok && scan.UID() < v.info.UIDNext; ok = scan.Next() {
		for ; i < len(v.uids) && v.uids[i] < scan.UID(); i++ {
			v.gone = append(v.gone, v.uids[i])
		}
		i++
		w := scan.Row()
		if w == nil {
			break
		}
		if w.ModSeq > since {
			flagged = append(flagged, w.UID)
		}
	}
	for ; i < len(v.uids); i++ {
		v.gone = append(v.gone, v.uids[i])
	}
	return flagged, scan.Err()
}

// renumber takes the messages that are gone out of the picture.
func (v *View) renumber(ch *Changes) {
	if len(v.gone) == 0 {
		return
	}
	kept := v.uids[:0]
	k := 0
	for i, uid := range v.uids {
		if k < len(v.gone) && v.gone[k] == uid {
			ch.Expunged = append(ch.Expunged, i+1-k)
			ch.ExpungedUIDs = append(ch.ExpungedUIDs, uid)
			k++
			continue
		}
		kept = append(kept, uid)
	}
	v.uids, v.gone = kept, nil
}

// ChangedSince lists the UIDs with a MODSEQ above since and the UIDs removed
// since then, both ascending. complete is false when removals that far back
// are no longer known: vanished is then every UID below UIDNEXT that has no
// message (RFC 7162 3.2.5.2 allows it).
func (v *View) ChangedSince(ctx context.Context, since uint64) (changed, vanished []uint32, complete bool, err error) {
	n, err := v.a.s.cfg.Store.Snapshot()
	if err != nil {
		return nil, nil, false, err
	}
	defer n.Close()
	c, err := n.Counters(v.a.id, v.id)
	if err != nil {
		return nil, nil, false, v.a.unlessStale(ctx, ErrNoMailbox)
	}
	complete = since >= c.Floor
	at := uint32(1)
	scan := n.Rows(v.id)
	for ok := scan.Seek(1); ok; ok = scan.Next() {
		w := scan.Row()
		if w == nil {
			break
		}
		if w.ModSeq > since {
			changed = append(changed, w.UID)
		}
		if !complete {
			for ; at < w.UID; at++ {
				vanished = append(vanished, at)
			}
			at = w.UID + 1
		}
	}
	if err := scan.Err(); err != nil {
		return nil, nil, false, err
	}
	if !complete {
		for ; at < c.UIDNext; at++ {
			vanished = append(vanished, at)
		}
		return changed, vanished, false, v.a.s.cfg.Log.Confirm(ctx)
	}
	err = n.Journal(v.id, since, func(_ uint64, change []byte) error {
		if len(change) == 0 || change[0] != store.ChangedGone {
			return nil
		}
		set, err := command.DecodeUIDSet(change[1:])
		vanished = appendSet(vanished, set)
		return err
	})
	if err != nil {
		return nil, nil, false, err
	}
	slices.Sort(vanished)
	return changed, slices.Compact(vanished), true, v.a.s.cfg.Log.Confirm(ctx)
}

// inBulk calls f with uids, ascending, in sets that one entry can take. nil is
// every message.
func (v *View) inBulk(uids []uint32, f func(set command.UIDSet) error) error {
	if uids == nil && len(v.uids) <= bulk {
		return f(command.UIDSet{{First: 1, Last: math.MaxUint32}})
	}
	if uids == nil {
		uids = v.uids
	}
	if !slices.IsSorted(uids) {
		uids = slices.Clone(uids)
		slices.Sort(uids)
	}
	for chunk := range slices.Chunk(slices.Compact(slices.Clone(uids)), bulk) {
		var set command.UIDSet
		for _, uid := range chunk {
			set = set.Add(uid)
		}
		if err := f(set); err != nil {
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
// messages that have a larger MODSEQ are left alone.
func (v *View) Store(ctx context.Context, uids []uint32, op StoreOp, flags Flags, keywords []string, unchangedSince *uint64) (res StoreResult, err error) {
	if v.readOnly {
		return res, ErrReadOnly
	}
	if len(keywords) > MaxKeywords {
		return res, ErrLimit
	}
	c := command.Store{
		Account: v.a.id, Mailbox: v.id, Action: command.StoreOp(op), Flags: uint64(flags), Keywords: keywords,
	}
	if unchangedSince != nil {
		c.Conditional, c.Unchanged = true, *unchangedSince
	}
	err = v.inBulk(uids, func(set command.UIDSet) error {
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
		res.ModSeq = r.ModSeq
		return nil
	})
	return res, err
}

// Expunge removes those of uids (nil: all) that have \Deleted, or all of uids
// when force.
func (v *View) Expunge(ctx context.Context, uids []uint32, force bool) (expunged []uint32, err error) {
	if v.readOnly {
		return nil, ErrReadOnly
	}
	if uids == nil && force {
		return nil, nil
	}
	err = v.inBulk(uids, func(set command.UIDSet) error {
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

// Copy adds the messages to the mailbox called to.
func (v *View) Copy(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	return v.copy(ctx, uids, to, false)
}

// Move takes the messages to the mailbox called to.
func (v *View) Move(ctx context.Context, uids []uint32, to string) (CopyResult, error) {
	if v.readOnly {
		return CopyResult{}, ErrReadOnly
	}
	return v.copy(ctx, uids, to, true)
}

func (v *View) copy(ctx context.Context, uids []uint32, to string, move bool) (res CopyResult, err error) {
	if to, err = mailboxName(to); err != nil {
		return res, ErrNoMailbox
	}
	if len(uids) == 0 {
		return res, nil
	}
	err = v.inBulk(uids, func(set command.UIDSet) error {
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
