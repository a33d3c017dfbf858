package imapd

import (
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// Items of STATUS, as bits; in the order of the response.
const (
	statusMessages = 1 << iota
	statusRecent
	statusUIDNext
	statusUIDValidity
	statusUnseen
	statusDeleted
	statusSize
	statusHighestModSeq
	statusMailboxID
	statusAppendLimit
	statusDeletedStorage
)

var statusNames = []string{
	"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "HIGHESTMODSEQ", "MAILBOXID", "APPENDLIMIT",
	"DELETED-STORAGE",
}

// readStatusItems takes the list of items of STATUS.
func readStatusItems(p *imapwire.Parser) (items int) {
	p.List(func() {
		word := upperWord(p)
		for i, name := range statusNames {
			if word == name {
				items |= 1 << i
				return
			}
		}
		p.Fail("unknown item of STATUS")
	})
	if items == 0 {
		p.Fail("items expected")
	}
	return items
}

func (s *session) status() error {
	p := &s.p
	p.SP()
	name, nameErr := s.mailboxName("NONEXISTENT")
	p.SP()
	items := readStatusItems(p)
	if err := p.End(); err != nil {
		return err
	}
	if nameErr != nil {
		return nameErr
	}
	if items&statusHighestModSeq != 0 {
		s.needModSeq()
	}
	info, err := s.account.Status(s.ctx, name)
	if err != nil {
		return err
	}
	return s.writeStatus(&info, items)
}

func (s *session) writeStatus(info *mailbox.Info, items int) error {
	var deleted int64
	if items&statusDeletedStorage != 0 {
		var err error
		if deleted, err = s.deletedStorage(info); err != nil {
			return err
		}
	}
	s.w.WriteString("* STATUS ")
	s.writeName(info.Name)
	b := append(s.w.B, ' ')
	open := len(b)
	for i, name := range statusNames {
		if items&(1<<i) == 0 {
			continue
		}
		b = append(append(append(b, ' '), name...), ' ')
		switch 1 << i {
		case statusMessages:
			b = imapwire.AppendNumber(b, info.Messages)
		case statusRecent: // \Recent is not kept
			b = append(b, '0')
		case statusUIDNext:
			b = imapwire.AppendNumber(b, info.UIDNext)
		case statusUIDValidity:
			b = imapwire.AppendNumber(b, info.UIDValidity)
		case statusUnseen:
			b = imapwire.AppendNumber(b, info.Unseen)
		case statusDeleted:
			b = imapwire.AppendNumber(b, info.Deleted)
		case statusSize:
			b = imapwire.AppendNumber(b, info.Size)
		case statusHighestModSeq:
			b = imapwire.AppendNumber(b, info.HighestModSeq)
		case statusMailboxID:
			b = append(appendMailboxID(append(b, '('), info.ID), ')')
		case statusAppendLimit:
			b = imapwire.AppendNumber(b, s.srv.appendLimit())
		case statusDeletedStorage:
			b = imapwire.AppendNumber(b, deleted)
		}
	}
	b[open] = '('
	s.w.B = append(b, ")\r\n"...)
	return nil
}
