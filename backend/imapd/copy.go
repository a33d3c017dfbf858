package imapd

import (
	"errors"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

func (s *session) copy() error {
	uids, to, err := s.copyArguments()
	if err != nil {
		return err
	}
	res, err := s.view.Copy(s.ctx, uids, to)
	if err != nil {
		return tryCreate(err)
	}
	s.done = true
	if len(res.Source) < len(uids) {
		s.text = "Some of the messages were no longer there"
	}
	if len(res.Source) > 0 {
		s.code = string(appendCopyUID(nil, &res))
	}
	return nil
}

// move is MOVE (RFC 6851): the new UIDs are told before the old ones go.
func (s *session) move() error {
	uids, to, err := s.copyArguments()
	if err != nil {
		return err
	}
	res, err := s.view.Move(s.ctx, uids, to)
	if err != nil {
		return tryCreate(err)
	}
	s.done = true
	if len(res.Source) > 0 {
		s.w.WriteString("* OK ")
		s.w.B = appendCopyUID(s.w.B, &res)
		s.w.WriteString(" Moved\r\n")
	}
	return nil
}

func (s *session) copyArguments() (uids []uint32, to string, err error) {
	p := &s.p
	p.SP()
	set := p.Set()
	p.SP()
	to, nameErr := s.mailboxName("TRYCREATE")
	if err := p.End(); err != nil {
		return nil, "", err
	}
	if nameErr != nil {
		return nil, "", nameErr
	}
	ranges, err := s.resolve(set, s.uid)
	if err != nil {
		return nil, "", err
	}
	return s.uids(ranges), to, nil
}

// tryCreate answers that the mailbox to add to is missing.
func tryCreate(err error) error {
	if errors.Is(err, mailbox.ErrNoMailbox) {
		return no("TRYCREATE", "No such mailbox")
	}
	return err
}

func appendCopyUID(dst []byte, res *mailbox.CopyResult) []byte {
	dst = imapwire.AppendNumber(append(dst, "[COPYUID "...), res.UIDValidity)
	dst = imapwire.AppendSet(append(dst, ' '), res.Source)
	dst = imapwire.AppendSet(append(dst, ' '), res.Target)
	return append(dst, ']')
}
