package imapd

import (
	"errors"
	"math"
	"slices"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

func (s *session) selectMailbox() error { return s.open(false) }

func (s *session) examine() error { return s.open(true) }

// resync is what a client knows of a mailbox (RFC 7162 3.2.5).
type resync struct {
	uidValidity uint32
	modSeq      int64
	known       *imapwire.Set // UIDs
	seqs, uids  []imapwire.Range
}

func (s *session) open(readOnly bool) error {
	p := &s.p
	p.SP()
	name, nameErr := s.mailboxName("NONEXISTENT")
	var (
		condstore bool
		qr        *resync
	)
	if p.Peek() == ' ' {
		p.SP()
		p.List(func() {
			switch {
			case p.HasWord("CONDSTORE"):
				condstore = true
			case p.HasWord("QRESYNC") && qr == nil:
				p.SP()
				qr = readResync(p)
			default:
				p.Fail("unknown parameter of SELECT")
			}
		})
	}
	if err := p.End(); err != nil {
		return err
	}
	if qr != nil && !s.qresync {
		return bad("Enable QRESYNC first")
	}
	if s.view != nil {
		s.deselect()
		s.w.WriteString("* OK [CLOSED] Mailbox before is closed\r\n")
	}
	if nameErr != nil {
		return nameErr
	}
	view, err := s.account.Open(s.ctx, name, readOnly)
	if err != nil {
		return err
	}
	s.view = view
	if condstore {
		s.condstore = true
	}
	if err = s.describe(); err == nil && qr != nil && qr.uidValidity == view.Info().UIDValidity {
		err = s.catchUp(qr)
	}
	if err != nil {
		s.deselect()
		return err
	}
	s.code, s.text = "[READ-WRITE]", "Selected"
	if readOnly {
		s.code = "[READ-ONLY]"
	}
	return nil
}

// readResync takes the argument of QRESYNC.
func readResync(p *imapwire.Parser) *resync {
	qr := new(resync)
	p.Expect('(')
	qr.uidValidity = p.NZNumber()
	p.SP()
	qr.modSeq = p.Number64()
	if qr.modSeq == 0 {
		p.Fail("number greater than zero expected")
	}
	if p.Has(' ') {
		if p.Peek() != '(' {
			set := plainSet(p)
			qr.known = &set
			if p.Peek() == ' ' {
				p.SP()
			}
		}
		if p.Has('(') {
			qr.seqs = plainSet(p).Ranges
			p.SP()
			qr.uids = plainSet(p).Ranges
			p.Expect(')')
		}
	}
	p.Expect(')')
	return qr
}

// plainSet takes a set without "*" and "$".
func plainSet(p *imapwire.Parser) imapwire.Set {
	set := p.Set()
	if set.Saved {
		p.Fail("numbers expected")
	}
	for _, r := range set.Ranges {
		if r.Start == 0 || r.Stop == 0 {
			p.Fail("numbers expected")
		}
	}
	return set
}

// describe tells what the mailbox that was opened holds.
func (s *session) describe() error {
	info := s.view.Info()
	s.writeFlagTable()
	s.untagged(s.view.Len(), "EXISTS")
	if !s.rev2 {
		s.w.WriteString("* 0 RECENT\r\n")
		if err := s.writeUnseen(&info); err != nil {
			return err
		}
	}
	b := imapwire.AppendNumber(append(s.w.B, "* OK [UIDVALIDITY "...), info.UIDValidity)
	b = imapwire.AppendNumber(append(b, "] UIDs valid\r\n* OK [UIDNEXT "...), info.UIDNext)
	b = imapwire.AppendNumber(append(b, "] Next UID\r\n* OK [HIGHESTMODSEQ "...), info.HighestModSeq)
	b = appendMailboxID(append(b, "] Highest\r\n* OK [MAILBOXID ("...), info.ID)
	s.w.B = append(b, ")] Mailbox\r\n"...)
	if s.rev2 { // RFC 9051 6.3.2
		s.w.WriteString("* LIST () \"/\" ")
		s.writeName(info.Name)
		s.w.WriteString("\r\n")
	}
	return s.spill()
}

// unseenRows bounds the search for the first message without \Seen: RFC 3501
// lets a client assume nothing when it is not told.
const unseenRows = 16384

var errFound = errors.New("found")

// writeUnseen tells rev1 clients which message is the first without \Seen.
func (s *session) writeUnseen(info *mailbox.Info) error {
	if info.Unseen == 0 {
		return nil
	}
	first := 0
	cur := cursor{ranges: []imapwire.Range{{Start: 1, Stop: uint32(min(s.view.Len(), unseenRows))}}}
	room := make([]int, 0, 256)
	for seqs := cur.fill(room); first == 0 && len(seqs) > 0; seqs = cur.fill(room) {
		err := s.view.Rows(s.ctx, seqs, func(seq int, row *mailbox.Row) error {
			if row.Flags&mailbox.FlagSeen == 0 {
				first = seq
				return errFound
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFound) && !errors.Is(err, mailbox.ErrExpunged) {
			return err
		}
	}
	if first > 0 {
		s.w.B = append(imapwire.AppendNumber(append(s.w.B, "* OK [UNSEEN "...), first), "] First unseen\r\n"...)
	}
	return nil
}

// catchUp tells what happened since the client last looked.
func (s *session) catchUp(qr *resync) error {
	changed, vanished, complete, err := s.view.ChangedSince(s.ctx, uint64(qr.modSeq))
	if err != nil {
		return err
	}
	known := []imapwire.Range{{Start: 1, Stop: math.MaxUint32}}
	if qr.known != nil {
		known = qr.known.Resolve(math.MaxUint32)
	}
	agreed := uint32(0)
	if !complete {
		agreed = s.agreed(qr)
	}
	vanished = slices.DeleteFunc(vanished, func(uid uint32) bool {
		return uid <= agreed || !imapwire.Contains(known, uid)
	})
	if err := s.writeVanished(vanished, true); err != nil {
		return err
	}
	seqs := make([]int, 0, len(changed))
	for _, uid := range changed {
		if seq, ok := s.view.Seq(uid); ok && imapwire.Contains(known, uid) {
			seqs = append(seqs, seq)
		}
	}
	return s.writeFlagged(seqs)
}

// agreed is the largest UID of the client's list whose message has the number
// that the client gives it: below it both know the same messages.
func (s *session) agreed(qr *resync) uint32 {
	seqs, uids := cursor{ranges: qr.seqs}, cursor{ranges: qr.uids}
	var seqRoom, uidRoom [1]int
	last := uint32(0)
	for range 1000 {
		seq, uid := seqs.fill(seqRoom[:0]), uids.fill(uidRoom[:0])
		if len(seq) == 0 || len(uid) == 0 || seq[0] > s.view.Len() || s.view.UID(seq[0]) != uint32(uid[0]) {
			break
		}
		last = uint32(uid[0])
	}
	return last
}

// closeMailbox is CLOSE: removals are not told (RFC 9051 6.4.1).
func (s *session) closeMailbox() error {
	if err := s.p.End(); err != nil {
		return err
	}
	if !s.view.ReadOnly() {
		if _, err := s.view.Expunge(s.ctx, nil, false); err != nil && !errors.Is(err, mailbox.ErrNoMailbox) {
			return err
		}
	}
	s.deselect()
	return nil
}

func (s *session) unselect() error {
	if err := s.p.End(); err != nil {
		return err
	}
	s.deselect()
	return nil
}
