package imapd

import (
	"errors"
	"slices"
	"sync"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
	"github.com/postern-mail/postern/shared/message"
)

// fetchRows is how many rows are read at a time: reading them is over before
// the first is sent, so that a slow client keeps no snapshot of the store open.
const fetchRows = 256

// fetcher is what a FETCH or SEARCH needs while it runs.
type fetcher struct {
	s       *session
	items   fetchItems
	seqs    [fetchRows]int
	places  [fetchRows]int // sequence numbers of rows
	rows    [fetchRows]mailbox.Row
	bits    [fetchRows]uint32 // items of rows
	n       int               // rows
	scratch []byte            // octets of one item

	wide     bool // quoted strings may be UTF-8
	keywords []string

	missing    bool // some messages were gone
	unknownCTE bool // some parts cannot be decoded
	damaged    bool // some messages cannot be read
}

// maxScratch is the largest buffer that goes back to the pool.
const maxScratch = 64 << 10

var fetchers = sync.Pool{New: func() any { return new(fetcher) }}

func (s *session) newFetcher() *fetcher {
	f := fetchers.Get().(*fetcher)
	f.s, f.wide, f.keywords = s, s.wide(), s.view.Keywords()
	return f
}

func (f *fetcher) release() {
	if cap(f.scratch) > maxScratch {
		f.scratch = nil
	}
	f.s, f.items, f.keywords, f.n = nil, fetchItems{}, nil, 0
	f.missing, f.unknownCTE, f.damaged = false, false, false
	fetchers.Put(f)
}

// read gets the rows of the next numbers of cur, and reports whether there were
// numbers.
func (f *fetcher) read(cur *cursor) (bool, error) {
	f.n = 0
	bits := f.items.bits
	seqs := cur.fill(f.seqs[:0])
	if len(seqs) == 0 {
		return false, nil
	}
	err := f.s.view.Rows(f.s.ctx, seqs, func(seq int, row *mailbox.Row) error {
		f.places[f.n], f.rows[f.n], f.bits[f.n] = seq, *row, bits
		f.n++
		return nil
	})
	if errors.Is(err, mailbox.ErrExpunged) {
		f.missing, err = true, nil
	}
	return true, err
}

func (s *session) fetch() error {
	f := s.newFetcher()
	defer f.release()
	ranges, err := s.fetchArguments(f)
	if err != nil {
		return err
	}
	cur := cursor{ranges: ranges}
	for {
		more, err := f.read(&cur)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if err := f.markSeen(); err != nil {
			return err
		}
		for i := range f.n {
			if err := f.answer(f.places[i], &f.rows[i], f.bits[i]); err != nil {
				return err
			}
			if err := s.spill(); err != nil {
				return err
			}
		}
	}
	switch {
	case f.damaged:
		return no("SERVERBUG", "Some messages cannot be read")
	case f.unknownCTE:
		return no("UNKNOWN-CTE", "Some parts have an unknown encoding")
	case f.missing && !s.uid:
		s.code, s.text = "[EXPUNGEISSUED]", "Some of the messages are no longer there"
	}
	return nil
}

// fetchArguments takes the arguments of FETCH and resolves which messages it
// is about.
func (s *session) fetchArguments(f *fetcher) ([]imapwire.Range, error) {
	p := &s.p
	var since *int64
	vanished := false
	p.SP()
	set := p.Set()
	p.SP()
	readItems(p, &f.items)
	if p.Has(' ') {
		p.List(func() {
			switch {
			case since == nil && p.HasWord("CHANGEDSINCE"):
				p.SP()
				n := p.Number64()
				since = &n
			case p.HasWord("VANISHED"):
				vanished = true
			default:
				p.Fail("unknown modifier of FETCH")
			}
		})
	}
	if err := p.End(); err != nil {
		return nil, err
	}
	if vanished && (!s.qresync || !s.uid || since == nil) { // RFC 7162 3.2.6
		return nil, bad("VANISHED wants QRESYNC, UID FETCH and CHANGEDSINCE")
	}
	ranges, err := s.resolve(set, s.uid)
	if err != nil {
		return nil, err
	}
	if s.uid {
		f.items.bits |= itemUID
	}
	if f.items.bits&itemModSeq != 0 || since != nil {
		s.needModSeq()
	}
	if since != nil || s.condstore && f.items.bits&itemFlags != 0 {
		f.items.bits |= itemModSeq
	}
	if since == nil {
		return ranges, nil
	}
	return s.changedSince(set, ranges, uint64(*since), vanished)
}

// changedSince leaves of ranges what changed after since, and tells which UIDs
// of set are gone if asked to.
func (s *session) changedSince(set imapwire.Set, ranges []imapwire.Range, since uint64, tell bool) ([]imapwire.Range, error) {
	changed, vanished, _, err := s.view.ChangedSince(s.ctx, since)
	if err != nil {
		return nil, err
	}
	if tell {
		known := s.saved
		if !set.Saved {
			known = set.Resolve(max(s.view.Info().UIDNext, 2) - 1)
		}
		vanished = slices.DeleteFunc(vanished, func(uid uint32) bool { return !imapwire.Contains(known, uid) })
		if err := s.writeVanished(vanished, true); err != nil {
			return nil, err
		}
	}
	return intersect(ranges, s.seqRanges(uidRanges(changed))), nil
}

// markSeen sets \Seen on the messages whose text will be sent. The flags of
// those that had it not are sent too.
func (f *fetcher) markSeen() error {
	s := f.s
	if !f.items.seen || s.view.ReadOnly() {
		return nil
	}
	var uids []uint32
	for i := range f.n {
		if f.rows[i].Flags&mailbox.FlagSeen == 0 {
			uids = append(uids, f.rows[i].UID)
		}
	}
	if len(uids) == 0 {
		return nil
	}
	res, err := s.view.Store(s.ctx, uids, mailbox.StoreAdd, mailbox.FlagSeen, nil, nil)
	if err != nil || len(res.Changed) == 0 {
		return err
	}
	s.own++
	for i := range f.n {
		if _, ok := slices.BinarySearch(res.Changed, f.rows[i].UID); ok {
			f.rows[i].Flags |= mailbox.FlagSeen
			f.rows[i].ModSeq = res.ModSeq
			f.bits[i] |= itemFlags
			if s.condstore {
				f.bits[i] |= itemModSeq
			}
		}
	}
	return nil
}

// answer writes the FETCH response of one message.
func (f *fetcher) answer(seq int, row *mailbox.Row, bits uint32) error {
	var (
		s    = f.s
		c    *mailbox.Content
		root *message.Part
	)
	if bits&needPart != 0 || len(f.items.sections) > 0 {
		var err error
		c, err = s.view.Message(s.ctx, row)
		if errors.Is(err, mailbox.ErrExpunged) {
			f.missing = true
			return nil
		}
		ok := false
		if err == nil {
			defer c.Close()
			root, ok, err = f.prepare(c, bits)
		}
		if err != nil {
			f.damaged = true
			return s.unreadable(row, err)
		}
		if !ok {
			f.unknownCTE = true
			return nil
		}
	}
	b := imapwire.AppendNumber(append(s.w.B, "* "...), seq)
	b = append(b, " FETCH "...)
	open := len(b)
	b = f.appendRow(b, row, bits)
	if bits&itemEnvelope != 0 {
		b = message.AppendEnvelope(append(b, " ENVELOPE "...), root.Envelope, f.wide)
	}
	if bits&itemBody != 0 {
		b = message.AppendBodyStructure(append(b, " BODY "...), root, false, f.wide)
	}
	if bits&itemBodyStructure != 0 {
		b = message.AppendBodyStructure(append(b, " BODYSTRUCTURE "...), root, true, f.wide)
	}
	first := len(b) == open
	if first {
		b = append(b, '(')
	} else {
		b[open] = '(' // in place of the space
	}
	s.w.B = b
	for i := range f.items.sections {
		if !first || i > 0 {
			s.w.B = append(s.w.B, ' ')
		}
		if err := f.writeSection(c, root, &f.items.sections[i]); err != nil {
			return err
		}
	}
	s.w.B = append(s.w.B, ")\r\n"...)
	return nil
}

// appendRow writes what the row answers, each item after a space.
func (f *fetcher) appendRow(b []byte, row *mailbox.Row, bits uint32) []byte {
	if bits&itemUID != 0 {
		b = imapwire.AppendNumber(append(b, " UID "...), row.UID)
	}
	if bits&itemFlags != 0 {
		b = appendFlags(append(b, " FLAGS "...), row.Flags, f.keywords)
	}
	if bits&itemModSeq != 0 {
		b = append(imapwire.AppendNumber(append(b, " MODSEQ ("...), row.ModSeq), ')')
	}
	if bits&itemInternalDate != 0 {
		b = imapwire.AppendDateTime(append(b, " INTERNALDATE "...), row.InternalDate)
	}
	if bits&itemSize != 0 {
		b = imapwire.AppendNumber(append(b, " RFC822.SIZE "...), row.Size)
	}
	if bits&itemSaveDate != 0 {
		b = imapwire.AppendDateTime(append(b, " SAVEDATE "...), row.SaveDate)
	}
	if bits&itemEmailID != 0 {
		b = append(appendEmailID(append(b, " EMAILID ("...), row.MessageID), ')')
	}
	if bits&itemThreadID != 0 {
		b = append(b, " THREADID NIL"...)
	}
	return b
}

// unreadable logs that a message cannot be read, and returns nil unless the
// session must end.
func (s *session) unreadable(row *mailbox.Row, err error) error {
	var not *mailbox.ErrNotServing
	if errors.As(err, &not) || s.ctx.Err() != nil {
		return err
	}
	s.srv.cfg.Log.Error("imap message cannot be read", "account", s.accountName(), "mailbox", s.view.Info().Name, "uid", row.UID, "err", err)
	return nil
}
