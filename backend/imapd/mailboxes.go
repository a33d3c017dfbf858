package imapd

import (
	"strings"
)

// create is CREATE, with special uses (RFC 6154 3) and the new mailbox's id
// (RFC 8474 4.1).
func (s *session) create() error {
	p := &s.p
	p.SP()
	name, nameErr := s.mailboxName("CANNOT")
	var uses []string
	if p.Has(' ') {
		p.List(func() {
			if !p.HasWord("USE") {
				p.Fail("USE expected")
			}
			p.SP()
			p.List(func() { uses = append(uses, string(p.Flag())) })
		})
	}
	if err := p.End(); err != nil {
		return err
	}
	if nameErr != nil {
		return nameErr
	}
	// RFC 9051 6.3.4: a separator at the end says that children will follow.
	info, err := s.account.Create(s.ctx, strings.TrimSuffix(name, "/"), uses)
	if err != nil {
		return err
	}
	s.done = true
	s.code = string(append(appendMailboxID([]byte("[MAILBOXID ("), info.ID), ")]"...))
	return nil
}

func (s *session) deleteMailbox() error {
	name, err := s.oneName("NONEXISTENT")
	if err != nil {
		return err
	}
	var id uint64
	if s.view != nil {
		if info, err := s.account.Status(s.ctx, name); err == nil {
			id = info.ID
		}
	}
	if err := s.account.Delete(s.ctx, name); err != nil {
		return err
	}
	s.done = true
	if s.view != nil && s.view.Info().ID == id {
		s.deselect()
		s.w.WriteString("* OK [CLOSED] Mailbox is deleted\r\n")
	}
	return nil
}

// oneName takes the only argument of a command, a mailbox name.
func (s *session) oneName(code string) (string, error) {
	s.p.SP()
	name, nameErr := s.mailboxName(code)
	if err := s.p.End(); err != nil {
		return "", err
	}
	return name, nameErr
}

func (s *session) rename() error {
	p := &s.p
	p.SP()
	from, fromErr := s.mailboxName("NONEXISTENT")
	p.SP()
	to, toErr := s.mailboxName("CANNOT")
	switch err := p.End(); {
	case err != nil:
		return err
	case fromErr != nil:
		return fromErr
	case toErr != nil:
		return toErr
	}
	err := s.account.Rename(s.ctx, from, strings.TrimSuffix(to, "/"))
	s.done = err == nil
	return err
}

func (s *session) subscribe() error { return s.setSubscribed(true) }

func (s *session) unsubscribe() error { return s.setSubscribed(false) }

func (s *session) setSubscribed(on bool) error {
	name, err := s.oneName("CANNOT")
	if err != nil {
		return err
	}
	return s.account.Subscribe(s.ctx, strings.TrimSuffix(name, "/"), on)
}
