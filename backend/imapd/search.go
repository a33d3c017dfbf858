package imapd

import (
	"errors"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// Options of SEARCH RETURN (RFC 9051 6.4.4), as bits.
const (
	returnMin = 1 << iota
	returnMax
	returnAll
	returnCount
	returnSave
)

// searchCommand is the arguments of SEARCH.
type searchCommand struct {
	extended bool // RETURN was written
	options  int
	modSeq   bool
	key      searchKey
}

// found is the result of a search: the messages in order.
type found struct {
	seqs, uids []uint32
	modSeqs    []uint64 // only when they are asked for
}

func (s *session) search() error {
	var c searchCommand
	var res found
	err := s.readSearch(&c)
	if err == nil {
		if c.modSeq {
			s.needModSeq()
		}
		err = s.find(&c, &res)
	}
	if err != nil {
		var r *reply
		if c.options&returnSave != 0 && errors.As(err, &r) && r.status == "NO" { // RFC 5182 2.1
			s.saved = nil
		}
		return err
	}
	if c.options&returnSave != 0 {
		s.save(&c, &res)
	}
	if c.options == returnSave {
		return nil
	}
	s.writeFound(&c, &res)
	return s.spill()
}

func (s *session) readSearch(c *searchCommand) error {
	p := &searchParser{Parser: &s.p, s: s, now: time.Now()}
	p.SP()
	if p.HasWord("RETURN") {
		c.extended = true
		p.SP()
		p.List(func() { c.options |= readReturn(p.Parser) })
		p.SP()
	}
	if c.options == 0 {
		c.options = returnAll
	}
	if p.HasWord("CHARSET") {
		p.SP()
		charset := p.AString()
		p.SP()
		switch {
		case p.Err() != nil:
		case s.utf8: // RFC 6855 3
			return bad("No CHARSET once UTF8=ACCEPT is enabled")
		case equalFold(charset, "US-ASCII"):
			p.ascii = true
		case !equalFold(charset, "UTF-8"):
			return no("BADCHARSET (US-ASCII UTF-8)", "Charset not known")
		}
	}
	c.key = p.keys()
	if err := p.End(); err != nil {
		return err
	}
	c.modSeq = p.modSeq
	c.key.bind(s.view.Keywords())
	return p.err
}

func readReturn(p *imapwire.Parser) int {
	switch upperWord(p) {
	case "MIN":
		return returnMin
	case "MAX":
		return returnMax
	case "ALL":
		return returnAll
	case "COUNT":
		return returnCount
	case "SAVE":
		return returnSave
	}
	p.Fail("unknown option of RETURN")
	return 0
}

// find looks at the messages. A key with a set at the top bounds which.
func (s *session) find(c *searchCommand, res *found) error {
	f := s.newFetcher()
	defer f.release()
	ranges := []imapwire.Range{}
	if n := s.view.Len(); n > 0 {
		ranges = append(ranges, imapwire.Range{Start: 1, Stop: uint32(n)})
	}
	for i := range c.key.kids {
		if k := &c.key.kids[i]; k.op == opSet {
			ranges = intersect(ranges, k.ranges)
		}
	}
	m := candidate{s: s}
	cur := cursor{ranges: ranges}
	for {
		more, err := f.read(&cur)
		if err != nil || !more {
			return err
		}
		for i := range f.n {
			m.seq, m.row, m.err = f.places[i], &f.rows[i], nil
			matches := c.key.match(&m)
			m.close()
			if m.err != nil && !errors.Is(m.err, mailbox.ErrExpunged) {
				if err := s.unreadable(m.row, m.err); err != nil {
					return err
				}
				return no("SERVERBUG", "Some messages cannot be read")
			}
			if matches {
				res.add(c, m.seq, m.row)
			}
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
	}
}

func (r *found) add(c *searchCommand, seq int, row *mailbox.Row) {
	r.seqs, r.uids = append(r.seqs, uint32(seq)), append(r.uids, row.UID)
	if c.modSeq {
		r.modSeqs = append(r.modSeqs, row.ModSeq)
	}
}

// save keeps the result as "$". With MIN or MAX alone it is those messages
// (RFC 5182 2.4).
func (s *session) save(c *searchCommand, r *found) {
	uids := r.uids
	if n := len(uids); n > 0 && c.options&(returnAll|returnCount) == 0 && c.options&(returnMin|returnMax) != 0 {
		switch c.options & (returnMin | returnMax) {
		case returnMin:
			uids = uids[:1]
		case returnMax:
			uids = uids[n-1:]
		default:
			uids = []uint32{uids[0], uids[n-1]}
			if n == 1 {
				uids = uids[:1]
			}
		}
	}
	s.saved = uidRanges(uids)
}

// writeFound writes the result: as SEARCH to rev1 clients that did not ask for
// more, else as ESEARCH.
func (s *session) writeFound(c *searchCommand, r *found) {
	numbers := r.seqs
	if s.uid {
		numbers = r.uids
	}
	if !c.extended && !s.rev2 {
		b := append(s.w.B, "* SEARCH"...)
		for _, n := range numbers {
			b = imapwire.AppendNumber(append(b, ' '), n)
		}
		if c.modSeq && len(numbers) > 0 {
			b = append(imapwire.AppendNumber(append(b, " (MODSEQ "...), r.highest(c)), ')')
		}
		s.w.B = append(b, "\r\n"...)
		return
	}
	b := append(append(append(s.w.B, "* ESEARCH (TAG \""...), s.tag...), "\")"...)
	if s.uid {
		b = append(b, " UID"...)
	}
	if n := len(numbers); n > 0 {
		if c.options&returnMin != 0 {
			b = imapwire.AppendNumber(append(b, " MIN "...), numbers[0])
		}
		if c.options&returnMax != 0 {
			b = imapwire.AppendNumber(append(b, " MAX "...), numbers[n-1])
		}
		if c.options&returnAll != 0 {
			b = imapwire.AppendSet(append(b, " ALL "...), numbers)
		}
	}
	if c.options&returnCount != 0 {
		b = imapwire.AppendNumber(append(b, " COUNT "...), len(numbers))
	}
	if c.modSeq && len(numbers) > 0 {
		b = imapwire.AppendNumber(append(b, " MODSEQ "...), r.highest(c))
	}
	s.w.B = append(b, "\r\n"...)
}

// highest is the MODSEQ to tell: the highest of the messages that the answer
// names (RFC 7162 3.1.5, RFC 4731 3.2).
func (r *found) highest(c *searchCommand) uint64 {
	n := len(r.modSeqs)
	switch c.options &^ returnSave {
	case returnMin:
		return r.modSeqs[0]
	case returnMax:
		return r.modSeqs[n-1]
	case returnMin | returnMax:
		return max(r.modSeqs[0], r.modSeqs[n-1])
	}
	highest := uint64(0)
	for _, v := range r.modSeqs {
		highest = max(highest, v)
	}
	return highest
}
