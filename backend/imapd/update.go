package imapd

import (
	"errors"
	"slices"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// update tells the client what changed in the selected mailbox. Without
// expunge nothing disappears (RFC 9051 7.5.1). With always it looks even when
// no change was announced.
func (s *session) update(expunge, always bool) error {
	due := always || expunge && s.behind
	select {
	case <-s.view.Changed():
		due = true
	default:
	}
	if !due {
		return nil
	}
	before := s.view.Info().HighestModSeq
	ch, err := s.view.Sync(s.ctx, expunge)
	if err != nil {
		return err
	}
	if ch.Gone {
		return bye("", "Mailbox was deleted")
	}
	s.behind = !expunge
	if ch.Keywords {
		s.writeFlagTable()
	}
	if len(ch.Expunged) > 0 {
		if err := s.writeExpunged(&ch); err != nil {
			return err
		}
	}
	if ch.Grown {
		s.untagged(ch.Exists, "EXISTS")
	}
	// Each change of a mailbox has a MODSEQ of its own: when there were as many
	// as this session made, none is news. Else a change of this session may hide
	// one of another, unless its result was told.
	if ch.ModSeq-before != uint64(s.own) {
		err = s.writeFlagged(ch.Flagged)
	}
	s.own, s.told = 0, s.told[:0]
	return err
}

// untagged writes "* n word".
func (s *session) untagged(n int, word string) {
	b := append(s.w.B, "* "...)
	b = append(imapwire.AppendNumber(b, n), ' ')
	s.w.B = append(append(b, word...), "\r\n"...)
}

func (s *session) writeExpunged(ch *mailbox.Changes) error {
	if s.qresync {
		return s.writeVanished(ch.ExpungedUIDs, false)
	}
	for _, seq := range ch.Expunged {
		s.untagged(seq, "EXPUNGE")
		if err := s.spill(); err != nil {
			return err
		}
	}
	return nil
}

// writeVanished tells UIDs that are gone (RFC 7162 3.2.10), some per line.
func (s *session) writeVanished(uids []uint32, earlier bool) error {
	ranges := uidRanges(uids)
	for len(ranges) > 0 {
		n := min(len(ranges), 1000)
		s.w.WriteString("* VANISHED ")
		if earlier {
			s.w.WriteString("(EARLIER) ")
		}
		s.w.B = append(imapwire.AppendRanges(s.w.B, ranges[:n]), "\r\n"...)
		if err := s.spill(); err != nil {
			return err
		}
		ranges = ranges[n:]
	}
	return nil
}

// writeFlagged tells the flags of messages, those apart that have been told.
func (s *session) writeFlagged(seqs []int) error {
	keywords := s.view.Keywords()
	withUID := s.uid || s.condstore || s.rev2
	err := s.view.Rows(s.ctx, seqs, func(seq int, row *mailbox.Row) error {
		if slices.Contains(s.told, row.ModSeq) {
			return nil
		}
		s.writeFlags(seq, row, keywords, withUID)
		return nil
	})
	if errors.Is(err, mailbox.ErrExpunged) {
		err = nil
	}
	if err != nil {
		return err
	}
	return s.spill()
}

// writeFlags writes a FETCH response with the flags of one message.
func (s *session) writeFlags(seq int, row *mailbox.Row, keywords []string, withUID bool) {
	b := append(s.w.B, "* "...)
	b = append(imapwire.AppendNumber(b, seq), " FETCH ("...)
	if withUID {
		b = append(imapwire.AppendNumber(append(b, "UID "...), row.UID), ' ')
	}
	b = appendFlags(append(b, "FLAGS "...), row.Flags, keywords)
	if s.condstore {
		b = append(imapwire.AppendNumber(append(b, " MODSEQ ("...), row.ModSeq), ')')
	}
	s.w.B = append(b, ")\r\n"...)
}
