package imapd

import (
	"strings"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

// Rights of RFC 4314 2.1 and those of RFC 2086 that stand for several (2.1.1):
// "c" for "kx", "d" for "te". Digits are no rights here.
const (
	knownRights    = mailbox.OwnerRights + obsoleteRights
	obsoleteRights = "cd"
)

// aclArguments are those that the commands of RFC 4314 have in common: a mailbox
// and perhaps an identifier, which is also as it is stored.
type aclArguments struct {
	mailbox    string
	identifier string // as the client spells it
	stored     string
	rights     string
}

// readACL takes the arguments of a command: a mailbox name, and as many more as
// the command has.
func (s *session) readACL(more int) (c aclArguments, err error) {
	p := &s.p
	p.SP()
	name, nameErr := s.mailboxName("NONEXISTENT")
	c.mailbox = name
	for i, to := range []*string{&c.identifier, &c.rights}[:more] {
		p.SP()
		raw := p.AString()
		if i == 0 && len(raw) == 0 { // RFC 4314 3
			p.Fail("identifier expected")
		}
		*to = string(raw)
	}
	if err := p.End(); err != nil {
		return c, err
	}
	if nameErr != nil {
		return c, nameErr
	}
	if more > 0 {
		c.stored, err = s.account.Identifier(c.identifier)
	}
	return c, err
}

// setACL is SETACL (RFC 4314 3.1).
func (s *session) setACL() error {
	c, err := s.readACL(2)
	op, rights := mailbox.StoreReplace, c.rights
	switch {
	case strings.HasPrefix(rights, "+"):
		op, rights = mailbox.StoreAdd, rights[1:]
	case strings.HasPrefix(rights, "-"):
		op, rights = mailbox.StoreRemove, rights[1:]
	}
	if i := strings.IndexFunc(rights, func(r rune) bool { return !strings.ContainsRune(knownRights, r) }); i >= 0 {
		return bad("A right is not known")
	}
	if err != nil {
		return err
	}
	return s.grant(c, op, rights)
}

// deleteACL is DELETEACL (RFC 4314 3.2).
func (s *session) deleteACL() error {
	c, err := s.readACL(1)
	if err != nil {
		return err
	}
	return s.grant(c, mailbox.StoreReplace, "")
}

func (s *session) grant(c aclArguments, op mailbox.StoreOp, rights string) error {
	err := s.account.SetGrant(s.ctx, c.mailbox, c.stored, op, rights)
	s.done = err == nil
	return err
}

// getACL is GETACL (RFC 4314 3.3). The owner has no line in the list and is shown
// with one.
func (s *session) getACL() error {
	c, err := s.readACL(0)
	if err != nil {
		return err
	}
	grants, err := s.account.Grants(s.ctx, c.mailbox)
	if err != nil {
		return err
	}
	s.w.WriteString("* ACL ")
	s.writeName(c.mailbox)
	s.writeACLStrings(s.account.Name(), knownRights)
	for _, g := range grants {
		s.writeACLStrings(g.Identifier, g.Rights)
	}
	s.w.WriteString("\r\n")
	return nil
}

// listRights is LISTRIGHTS (RFC 4314 3.4): what the identifier always has, and
// what it can be given.
func (s *session) listRights() error {
	c, err := s.readACL(1)
	if err != nil {
		return err
	}
	info, err := s.account.Status(s.ctx, c.mailbox)
	if err != nil {
		return err
	}
	s.w.WriteString("* LISTRIGHTS ")
	s.writeName(c.mailbox)
	who, negative := strings.CutPrefix(c.stored, mailbox.Negative)
	switch owner := who == s.account.Name(); {
	case negative && (owner || info.Name == "INBOX"): // nothing is ever taken
		s.writeACLStrings(c.identifier, "")
	case owner:
		s.writeACLStrings(c.identifier, knownRights)
	case info.Name == "INBOX":
		s.writeACLStrings(c.identifier, mailbox.PostRight)
	default:
		s.writeACLStrings(c.identifier, "", mailbox.PostRight)
	}
	s.w.WriteString("\r\n")
	return nil
}

// myRights is MYRIGHTS (RFC 4314 3.5). All mailboxes that there are to a session
// are its user's.
func (s *session) myRights() error {
	c, err := s.readACL(0)
	if err != nil {
		return err
	}
	if _, err := s.account.Status(s.ctx, c.mailbox); err != nil {
		return err
	}
	s.w.WriteString("* MYRIGHTS ")
	s.writeName(c.mailbox)
	s.writeACLStrings(knownRights)
	s.w.WriteString("\r\n")
	return nil
}

func (s *session) writeACLStrings(list ...string) {
	for _, text := range list {
		s.w.B = imapwire.AppendAString(append(s.w.B, ' '), text, s.wide())
	}
}
