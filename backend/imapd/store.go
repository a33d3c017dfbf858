package imapd

import (
	"errors"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// storeStep is how many messages one call of View.Store gets, so that each
// call is one change with one MODSEQ.
const storeStep = 20_000

// storeCommand is the arguments of STORE.
type storeCommand struct {
	set       imapwire.Set
	unchanged *uint64
	op        mailbox.StoreOp
	silent    bool
	flags     flagSet
}

func (s *session) store() error {
	var c storeCommand
	if err := s.readStore(&c); err != nil {
		return err
	}
	if c.silent { // so that it hides nothing that others did before
		if err := s.update(s.uid, false); err != nil {
			return err
		}
	}
	ranges, err := s.resolve(c.set, s.uid)
	if err != nil {
		return err
	}
	if c.unchanged != nil {
		s.needModSeq()
	}
	if s.view.ReadOnly() {
		return mailbox.ErrReadOnly
	}
	uids := s.uids(ranges)
	var modified []uint32
	missing := false
	for len(uids) > 0 {
		n := min(len(uids), storeStep)
		step := uids[:n]
		uids = uids[n:]
		res, err := s.view.Store(s.ctx, step, c.op, c.flags.system, c.flags.keywords, c.unchanged)
		if err != nil {
			return err
		}
		if len(res.Changed) > 0 {
			s.done = s.done || c.unchanged != nil // the condition would find this change
			s.own++
		}
		modified = append(modified, res.Modified...)
		gone, err := s.tellStored(&c, step, &res)
		if err != nil {
			return err
		}
		missing = missing || gone
	}
	switch {
	case len(modified) > 0:
		s.code, s.text = s.modifiedCode(modified), "Some messages were changed by others"
	case missing && !s.uid:
		s.code, s.text = "[EXPUNGEISSUED]", "Some of the messages are no longer there"
	}
	return nil
}

func (s *session) readStore(c *storeCommand) error {
	p := &s.p
	p.SP()
	c.set = p.Set()
	p.SP()
	if p.Has('(') {
		if !p.HasWord("UNCHANGEDSINCE") {
			p.Fail("UNCHANGEDSINCE expected")
		}
		p.SP()
		since := uint64(p.Number64())
		c.unchanged = &since
		p.Expect(')')
		p.SP()
	}
	switch {
	case p.Has('+'):
		c.op = mailbox.StoreAdd
	case p.Has('-'):
		c.op = mailbox.StoreRemove
	}
	switch word := p.Word(); {
	case imapwire.EqualFold(word, "FLAGS"):
	case imapwire.EqualFold(word, "FLAGS.SILENT"):
		c.silent = true
	default:
		p.Fail("FLAGS expected")
	}
	p.SP()
	if p.Peek() == '(' {
		p.List(func() { c.flags.flag(p) })
	} else {
		for c.flags.flag(p); p.Has(' '); {
			c.flags.flag(p)
		}
	}
	return p.End()
}

// tellStored writes the flags that the messages of a step have now. Only their
// MODSEQ is told when the client asked for silence. gone is true when some of
// them are no longer there.
func (s *session) tellStored(c *storeCommand, uids []uint32, res *mailbox.StoreResult) (gone bool, err error) {
	if c.silent {
		if !s.condstore {
			return false, nil
		}
		for _, uid := range res.Changed { // RFC 7162 3.1.3
			seq, ok := s.view.Seq(uid)
			if !ok {
				continue
			}
			b := imapwire.AppendNumber(append(s.w.B, "* "...), seq)
			b = imapwire.AppendNumber(append(b, " FETCH (UID "...), uid)
			b = imapwire.AppendNumber(append(b, " MODSEQ ("...), res.ModSeq)
			s.w.B = append(b, "))\r\n"...)
			if err := s.spill(); err != nil {
				return false, err
			}
		}
		return false, nil
	}
	left := make(map[uint32]bool, len(res.Modified))
	for _, uid := range res.Modified {
		left[uid] = true
	}
	seqs := make([]int, 0, len(uids))
	for _, uid := range uids {
		if seq, ok := s.view.Seq(uid); ok && !left[uid] {
			seqs = append(seqs, seq)
		}
	}
	if ch, err := s.newKeywords(c); err != nil || ch {
		return false, err
	}
	keywords := s.view.Keywords()
	withUID := s.uid || s.condstore || s.rev2
	err = s.view.Rows(s.ctx, seqs, func(seq int, row *mailbox.Row) error {
		s.writeFlags(seq, row, keywords, withUID)
		return nil
	})
	if errors.Is(err, mailbox.ErrExpunged) {
		gone, err = true, nil
	}
	if err != nil {
		return false, err
	}
	if len(res.Changed) > 0 {
		s.told = append(s.told, res.ModSeq)
	}
	return gone, s.spill()
}

// newKeywords tells the flag table when the command made a keyword that this
// session has not heard of; then the changes are told with it.
func (s *session) newKeywords(c *storeCommand) (told bool, err error) {
	table := s.view.Keywords()
	for _, name := range c.flags.keywords {
		if !contains(table, name) && c.op != mailbox.StoreRemove {
			s.own = 0 // what is not told here is told by that
			return true, s.update(s.uid, true)
		}
	}
	return false, nil
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if equalFold([]byte(n), name) {
			return true
		}
	}
	return false
}

// modifiedCode names the messages that UNCHANGEDSINCE left alone (RFC 7162
// 3.1.3), with their UIDs or sequence numbers.
func (s *session) modifiedCode(uids []uint32) string {
	numbers := uids
	if !s.uid {
		numbers = make([]uint32, 0, len(uids))
		for _, uid := range uids {
			if seq, ok := s.view.Seq(uid); ok {
				numbers = append(numbers, uint32(seq))
			}
		}
	}
	b := imapwire.AppendSet([]byte("[MODIFIED "), numbers)
	return string(append(b, ']'))
}
