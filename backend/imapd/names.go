package imapd

import (
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/imapwire"
)

// mailboxName takes a mailbox name and returns it in UTF-8. The error for one
// that is misspelled has the response code given; callers look at the syntax
// of the whole command first.
func (s *session) mailboxName(code string) (string, error) {
	raw := s.p.AString()
	if err := s.p.Err(); err != nil {
		return "", err
	}
	name, ok := s.decodeName(raw)
	if !ok {
		return "", no(code, "Mailbox name is not spelled as one")
	}
	return name, nil
}

// decodeName reads a name or pattern as the client writes it: UTF-8 once that
// is enabled, else modified UTF-7. What cannot be that because it is not ASCII
// is taken as UTF-8 all the same: some clients write so as soon as they see
// IMAP4rev2 listed.
func (s *session) decodeName(raw []byte) (string, bool) {
	if s.wide() || !isASCII(raw) {
		return string(raw), utf8.Valid(raw)
	}
	name, err := imapwire.DecodeUTF7(raw)
	return name, err == nil
}

func (s *session) writeName(name string) {
	s.w.B = imapwire.AppendMailbox(s.w.B, name, s.wide())
}

// mailboxID is a mailbox's id as clients see it (RFC 8474 4).
func appendMailboxID(dst []byte, id uint64) []byte { return appendHex(append(dst, 'F'), id) }

// appendEmailID is a message's id as clients see it (RFC 8474 5.1).
func appendEmailID(dst []byte, id uint64) []byte { return appendHex(append(dst, 'M'), id) }

func appendHex(dst []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&0xf])
	}
	return dst
}
