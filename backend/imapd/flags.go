package imapd

import (
	"math/bits"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

var systemFlags = [...]string{`\Seen`, `\Answered`, `\Flagged`, `\Deleted`, `\Draft`}

// systemFlag finds a system flag, 0 when there is none of that name.
func systemFlag(name []byte) mailbox.Flags {
	for i, f := range systemFlags {
		if equalFold(name, f) {
			return 1 << i
		}
	}
	return 0
}

func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// maxKeyword bounds a keyword (octets), as package mailbox does.
const maxKeyword = 128

// flagSet is flags as a client names them.
type flagSet struct {
	system   mailbox.Flags
	keywords []string
}

// flag takes one flag into f.
func (f *flagSet) flag(p *imapwire.Parser) {
	b := p.Flag()
	switch {
	case len(b) == 0:
	case b[0] == '\\':
		bit := systemFlag(b)
		if bit == 0 {
			p.Fail("no such flag")
		}
		f.system |= bit
	case len(b) > maxKeyword || len(f.keywords) >= mailbox.MaxKeywords:
		p.Fail("keyword too long or too many keywords")
	default:
		for _, k := range f.keywords {
			if equalFold(b, k) {
				return
			}
		}
		f.keywords = append(f.keywords, string(b))
	}
}

// appendFlags writes the flags of a message, with parentheses.
func appendFlags(dst []byte, flags mailbox.Flags, keywords []string) []byte {
	dst = append(dst, '(')
	space := false
	for rest := uint64(flags); rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(rest)
		name := ""
		if i < len(systemFlags) {
			name = systemFlags[i]
		} else if k := i - len(systemFlags); k < len(keywords) {
			name = keywords[k]
		} else {
			continue // newer than the session's table: told at the next Sync
		}
		if space {
			dst = append(dst, ' ')
		}
		dst = append(dst, name...)
		space = true
	}
	return append(dst, ')')
}

// writeFlagTable tells which flags the mailbox has and takes.
func (s *session) writeFlagTable() {
	all := mailbox.Flags(1<<len(systemFlags) - 1)
	keywords := s.view.Keywords()
	for i := range keywords {
		all |= 1 << (len(systemFlags) + i)
	}
	s.w.WriteString("* FLAGS ")
	s.w.B = appendFlags(s.w.B, all, keywords)
	s.w.WriteString("\r\n* OK [PERMANENTFLAGS ")
	if s.view.ReadOnly() {
		s.w.WriteString("()")
	} else {
		s.w.B = appendFlags(s.w.B, all, keywords)
		s.w.B = s.w.B[:len(s.w.B)-1]
		if len(keywords) < mailbox.MaxKeywords {
			s.w.WriteString(` \*`)
		}
		s.w.WriteString(")")
	}
	s.w.WriteString("] Flags\r\n")
}
