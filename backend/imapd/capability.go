package imapd

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/imapwire"
)

// Extensions that CAPABILITY lists, before login and after it. Each has a test
// under its name.
const (
	capabilitiesAlways = "IMAP4rev1 IMAP4rev2 LITERAL+ ID ENABLE"
	capabilitiesLater  = "IDLE NAMESPACE UIDPLUS UNSELECT CHILDREN LIST-EXTENDED LIST-STATUS SPECIAL-USE" +
		" CREATE-SPECIAL-USE MOVE ESEARCH SEARCHRES CONDSTORE QRESYNC STATUS=SIZE MULTIAPPEND BINARY OBJECTID" +
		" SAVEDATE WITHIN UTF8=ACCEPT QUOTA QUOTA=RES-STORAGE QUOTA=RES-MESSAGE APPENDLIMIT="
	// capabilitiesRights is listed once the pair can keep lists of rights
	// (RFC 4314 2 and 5.1.1).
	capabilitiesRights = " ACL RIGHTS=texk"
)

// capabilities is what the client can use now.
func (s *session) capabilities() string {
	if s.account != nil {
		c := capabilitiesAlways + " " + capabilitiesLater + strconv.FormatInt(s.srv.appendLimit(), 10)
		if s.account.HasRights() {
			c += capabilitiesRights
		}
		return c
	}
	c := capabilitiesAlways + " SASL-IR AUTH=EXTERNAL"
	if s.srv.cfg.PasswordLogin {
		return c + " AUTH=PLAIN"
	}
	return c + " LOGINDISABLED"
}

// appendLimit is the largest message that APPEND takes (RFC 7889).
func (s *Server) appendLimit() int64 { return min(s.cfg.MaxAppend, s.cfg.Mailboxes.MaxMessage()) }

func (s *session) capability() error {
	if err := s.p.End(); err != nil {
		return err
	}
	s.w.WriteString("* CAPABILITY ")
	s.w.WriteString(s.capabilities())
	s.w.WriteString("\r\n")
	return nil
}

// noop is NOOP and CHECK: what changed is told before every tagged answer.
func (s *session) noop() error { return s.p.End() }

func (s *session) logout() error {
	if err := s.p.End(); err != nil {
		return err
	}
	s.w.WriteString("* BYE Session ends\r\n")
	s.tagged("OK", "", "Done")
	return errOver
}

func (s *session) namespace() error {
	if err := s.p.End(); err != nil {
		return err
	}
	s.w.WriteString("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n")
	return nil
}

// Limits of ID, RFC 2971 3.3.
const (
	maxIDFields = 30
	maxIDName   = 30
	maxIDValue  = 1024
)

// id answers ID. What a proxy says about its client goes into the log.
func (s *session) id() error {
	p := &s.p
	p.SP()
	address, port, resumes, keeps := "", "", false, false
	if !p.HasWord("NIL") {
		fields := 0
		p.List(func() {
			name := p.String()
			p.SP()
			value := p.NString()
			if fields++; fields > maxIDFields || len(name) > maxIDName || len(value) > maxIDValue {
				p.Fail("too much in ID")
			}
			switch {
			case imapwire.EqualFold(name, "X-ORIGINATING-IP"):
				address = string(value)
			case imapwire.EqualFold(name, "X-ORIGINATING-PORT"):
				port = string(value)
			case imapwire.EqualFold(name, "X-RESUME"):
				resumes = string(value) == "1"
			case imapwire.EqualFold(name, "X-WAITING"):
				keeps = string(value) == "1"
			}
		})
	}
	if err := p.End(); err != nil {
		return err
	}
	if s.account == nil && address != "" {
		s.origin = oneLine(strings.TrimSpace(address + " " + port))
	}
	s.resumes = s.resumes || s.account == nil && resumes
	s.keeps = s.keeps || s.account == nil && keeps
	s.w.WriteString("* ID (\"name\" \"Postern\")\r\n")
	return nil
}
