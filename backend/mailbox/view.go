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

	info Info      // as of the last Sync
	uids numbering // the messages in the picture
	gone []uint32  // UIDs in uids that are removed and not yet reported, ascending
}

// Open selects the mailbox called name.
func (a *Account) Open(ctx context.Context, name string, readOnly bool) (*View, error) {
	name, err := mailboxName(name)
	if err != nil {
		return nil, ErrNoMailbox
	}
	n, err := a.s.cfg.Store.AccountSnapshot(a.id)
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
func (v *View) Len() int { return v.uids.len() }

// UID of the message with this sequence number, from 1 to Len.
func (v *View) UID(seq int) uint32 { return v.uids.uid(seq) }

// Seq is the sequence number of uid; when it has none, ok is false and seq is
// the one it would have.
func (v *View) Seq(uid uint32) (seq int, ok bool) { return v.uids.seq(uid) }

// Changed is readable when Sync may find something.
func (v *View) Changed() <-chan struct{} { return v.watch.C() }

// Close ends the picture.
func (v *View) Close() { v.watch.Close() }

// stepsBeforeSeek is how many rows a walk passes over one by one.
const stepsBeforeSeek = 8

// Rows calls f for each of the sequence numbers, ascending, with the row as it
// is now. Rows that are gone are left out and reported by ErrExpunged at the
// end. The row is valid during the call.
func (v *View) Rows(ctx context.Context, seqs []int, f func(seq int, row *Row) error) error {
	if err := v.a.s.cfg.Log.Confirm(ctx); err != nil {
		return err
	}
	n, err := v.a.s.cfg.Store.MailboxSnapshot(v.id)
	if err != nil {
		return err
	}
	defer n.Close()
	w := walk{scan: n.Rows(v.id)}
	missing := false
	var row Row
	for _, seq := range seqs {
		if !w.to(v.uids.uid(seq)) {
			if err := w.scan.Err(); err != nil {
				return err
			}
			missing = true
			continue
		}
		r := w.scan.Row()
		if r == nil {
			return w.scan.Err()
		}
		row = Row{
			UID: r.UID, Flags: Flags(r.Flags), ModSeq: r.ModSeq, InternalDate: r.InternalDate,
			SaveDate: r.SaveDate, Size: r.Size, MessageID: r.MessageID,
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

// walk goes to rows in the order of UIDs, by steps where they are near.
type walk struct {
	scan  store.RowScan
	begun bool
	ok    bool
}

// to goes to the row of uid, and reports whether there is one.
func (w *walk) to(uid uint32) bool {
	for steps := 0; w.ok && w.scan.UID() < uid && steps < stepsBeforeSeek; steps++ {
		w.ok = w.scan.Next()
	}
	if !w.begun || w.ok && w.scan.UID() < uid {
		w.ok, w.begun = w.scan.Seek(uid), true
	}
	return w.ok && w.scan.UID() == uid
}

// Sync brings the picture up to date and says what changed. Without expunge,
// messages that are gone keep their number until a Sync with it. After an error
// the picture is as before.
func (v *View) Sync(ctx context.Context, expunge bool) (_ Changes, err error) {
	n, err := v.a.s.cfg.Store.Snapshot()
	if err != nil {
		return Changes{}, err
	}
	defer n.Close()
	before := View{info: v.info, uids: v.uids, gone: slices.Clone(v.gone)}
	defer func() {
		if err != nil {
			v.info, v.uids, v.gone = before.info, before.uids, before.gone
		}
	}()
	mv, err := n.Move(v.a.name)
	if err == nil {
		err = v.a.s.moved(&mv)
	}
	if err != nil {
		return Changes{}, err
	}
	m, err := n.Mailbox(v.a.id, v.id)
	var c store.Counters
	if err == nil {
		c, err = n.Counters(v.a.id, v.id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return Changes{Gone: true, Exists: v.uids.len()}, v.a.unlessStale(ctx, nil)
	}
	if err != nil {
		return Changes{}, err
	}
	ch := Changes{ModSeq: c.ModSeq, Keywords: len(m.Keywords) > len(v.info.Keywords)}
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
	ch.Exists = v.uids.len()
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
		v.uids.add(scan.UID())
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
	kind, set, err := decodeChange(change)
	if err != nil {
		return err
	}
	list := flagged
	if kind == store.ChangedGone {
		list = &v.gone
	}
	for _, r := range set {
		v.uids.each(r.First, r.Last, func(uid uint32) { *list = append(*list, uid) })
	}
	return nil
}

// compare finds changes by reading every row.
func (v *View) compare(n *store.Snapshot, since uint64) (flagged []uint32, err error) {
	scan := n.Rows(v.id)
	next := uint32(1)
	lost := func(uid uint32) { v.gone = append(v.gone, uid) }
	for ok := scan.Seek(1); ok && scan.UID() < v.info.UIDNext; ok = scan.Next() {
		v.uids.each(next, scan.UID()-1, lost)
		next = scan.UID() + 1
		w := scan.Row()
		if w == nil {
			break
		}
		if w.ModSeq > since {
			flagged = append(flagged, w.UID)
		}
	}
	v.uids.each(next, math.MaxUint32, lost)
	return flagged, scan.Err()
}

// renumber takes the messages that are gone out of the picture.
func (v *View) renumber(ch *Changes) {
	if len(v.gone) == 0 {
		return
	}
	ch.ExpungedUIDs = v.gone
	ch.Expunged = make([]int, len(v.gone))
	for i, uid := range v.gone {
		seq, _ := v.uids.seq(uid)
		ch.Expunged[i] = seq - i
	}
	v.uids.remove(v.gone)
	v.gone = nil
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
	if complete = since >= c.Floor; complete {
		changed, vanished, err = v.journalSince(n, since)
	} else {
		changed, vanished, err = v.rowsSince(n, since, c.UIDNext)
	}
	if err != nil {
		return nil, nil, false, err
	}
	return changed, vanished, complete, v.a.s.cfg.Log.Confirm(ctx)
}

// journalSince reads the journal for flags and removals, and new rows from the
// last one back: they came in the order of their MODSEQ.
func (v *View) journalSince(n *store.Snapshot, since uint64) (changed, vanished []uint32, err error) {
	err = n.Journal(v.id, since, func(_ uint64, change []byte) error {
		kind, set, err := decodeChange(change)
		if kind == store.ChangedGone {
			vanished = appendSet(vanished, set)
			return err
		}
		changed = appendSet(changed, set)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	scan := n.Rows(v.id)
	for ok := scan.SeekBefore(math.MaxUint32); ok; ok = scan.Prev() {
		w := scan.Row()
		if w == nil || w.Created <= since {
			break
		}
		changed = append(changed, w.UID)
	}
	slices.Sort(vanished)
	vanished = slices.Compact(vanished)
	slices.Sort(changed)
	changed = slices.DeleteFunc(slices.Compact(changed), func(uid uint32) bool {
		_, gone := slices.BinarySearch(vanished, uid)
		return gone
	})
	return changed, vanished, scan.Err()
}

// rowsSince reads every row.
func (v *View) rowsSince(n *store.Snapshot, since uint64, next uint32) (changed, vanished []uint32, err error) {
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
		for ; at < w.UID; at++ {
			vanished = append(vanished, at)
		}
		at = w.UID + 1
	}
	for ; at < next; at++ {
		vanished = append(vanished, at)
	}
	return changed, vanished, scan.Err()
}

// decodeChange reads a note of the journal.
func decodeChange(change []byte) (kind byte, set command.UIDSet, err error) {
	if len(change) == 0 {
		return 0, nil, errors.New("mailbox: empty note in the journal")
	}
	set, err = command.DecodeUIDSet(change[1:])
	return change[0], set, err
}
