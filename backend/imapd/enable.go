package imapd

import "github.com/postern-mail/postern/shared/imapwire"

// enable switches extensions on (RFC 5161). Names that it does not know are
// passed over.
func (s *session) enable() error {
	p := &s.p
	var condstore, qresync, rev2, utf8 bool
	for first := true; first || p.Peek() == ' '; first = false {
		p.SP()
		switch name := p.Atom(); {
		case imapwire.EqualFold(name, "CONDSTORE"):
			condstore = true
		case imapwire.EqualFold(name, "QRESYNC"):
			qresync = true
		case imapwire.EqualFold(name, "IMAP4REV2"):
			rev2 = true
		case imapwire.EqualFold(name, "UTF8=ACCEPT"):
			utf8 = true
		}
		if !p.Element() {
			break
		}
	}
	if err := p.End(); err != nil {
		return err
	}
	s.w.WriteString("* ENABLED")
	on := func(flag *bool, asked bool, name string) {
		if asked && !*flag {
			*flag = true
			s.w.WriteString(name)
		}
	}
	on(&s.qresync, qresync, " QRESYNC")
	on(&s.condstore, condstore, " CONDSTORE")
	on(&s.rev2, rev2, " IMAP4rev2")
	on(&s.utf8, utf8, " UTF8=ACCEPT")
	s.w.WriteString("\r\n")
	s.condstore = s.condstore || s.qresync // RFC 7162 3.2.3
	return nil
}

// wide reports whether quoted strings and mailbox names may be UTF-8.
func (s *session) wide() bool { return s.rev2 || s.utf8 }

// needModSeq enables CONDSTORE on first use (RFC 7162 3.1).
func (s *session) needModSeq() {
	if s.condstore {
		return
	}
	s.condstore = true
	if s.view != nil {
		s.w.WriteString("* OK [HIGHESTMODSEQ ")
		s.w.B = imapwire.AppendNumber(s.w.B, s.view.Info().HighestModSeq)
		s.w.WriteString("] Enabled\r\n")
	}
}
