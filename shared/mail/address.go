package mail

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// Lengths of RFC 5321 4.5.3.1, in octets.
const (
	MaxLocalPart = 64
	MaxDomain    = 255
	MaxPath      = 256
)

// Errors of the address parser; callers test for them to choose a reply.
var (
	ErrAddressSyntax  = errors.New("address syntax")
	ErrAddressControl = errors.New("control character in address")
	ErrAddressTooLong = errors.New("address too long")
	ErrAddressUTF8    = errors.New("address needs SMTPUTF8")
)

// Address is local-part@domain. Local holds the meaning, not the spelling: the
// quotes and backslashes of a quoted local part are removed by the parser and
// put back by String. Domain is kept as given, in lower case ASCII; it is
// empty for the bare <postmaster> of RFC 5321 4.5.1. The zero Address is the
// null reverse-path <>.
type Address struct {
	Local  string
	Domain string
}

// IsNull reports whether a is the null reverse-path.
func (a Address) IsNull() bool { return a.Local == "" && a.Domain == "" }

// IsPostmaster reports whether a is postmaster, at any domain or none
// (RFC 5321 4.5.1; the local part compares without case).
func (a Address) IsPostmaster() bool { return strings.EqualFold(a.Local, "postmaster") }

// String prints a as in a path without the angle brackets, quoting the local
// part when it is not a dot-string.
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	local := a.Local
	if !isDotString(local) {
		local = quote(local)
	}
	if a.Domain == "" {
		return local
	}
	return local + "@" + a.Domain
}

// Path prints a with its angle brackets, "<>" for the null reverse-path.
func (a Address) Path() string { return "<" + a.String() + ">" }

// Key is a in the form used to compare addresses: both parts in lower case.
// Local parts compare without case because the directory's attributes do.
func (a Address) Key() string { return strings.ToLower(a.Local) + "@" + strings.ToLower(a.Domain) }

// IsASCII reports whether a can travel without SMTPUTF8.
func (a Address) IsASCII() bool { return isASCII(a.Local) && isASCII(a.Domain) }

// ParseAddress reads local-part@domain (RFC 5321 Mailbox, with the widening of
// RFC 6531 when utf8OK). A bare "postmaster" is accepted without a domain.
func ParseAddress(s string, utf8OK bool) (Address, error) {
	a, rest, err := scanMailbox(s, utf8OK)
	if err != nil {
		return Address{}, err
	}
	if rest != "" {
		return Address{}, ErrAddressSyntax
	}
	return a, nil
}

// ParsePath reads a path of MAIL or RCPT at the start of s, brackets included,
// and returns what follows it. A source route is read and ignored (RFC 5321
// 4.1.1.3, appendix F.2). "<>" gives the zero Address; whether that is allowed
// is the caller's question.
func ParsePath(s string, utf8OK bool) (a Address, rest string, err error) {
	if s == "" || s[0] != '<' {
		return Address{}, s, ErrAddressSyntax
	}
	s = s[1:]
	if strings.HasPrefix(s, ">") {
		return Address{}, s[1:], nil
	}
	if s != "" && s[0] == '@' { // A-d-l ":"
		colon := strings.IndexByte(s, ':')
		if colon < 0 {
			return Address{}, s, ErrAddressSyntax
		}
		for _, hop := range strings.Split(s[:colon], ",") {
			if len(hop) < 2 || hop[0] != '@' {
				return Address{}, s, ErrAddressSyntax
			}
			if err := checkDomain(hop[1:], utf8OK); err != nil {
				return Address{}, s, err
			}
		}
		s = s[colon+1:]
	}
	a, rest, err = scanMailbox(s, utf8OK)
	if err != nil {
		return Address{}, rest, err
	}
	if rest == "" || rest[0] != '>' {
		return Address{}, rest, ErrAddressSyntax
	}
	return a, rest[1:], nil
}

func scanMailbox(s string, utf8OK bool) (Address, string, error) {
	local, rest, err := scanLocal(s, utf8OK)
	if err != nil {
		return Address{}, rest, err
	}
	if len(local) > MaxLocalPart {
		return Address{}, rest, ErrAddressTooLong
	}
	if rest == "" || rest[0] != '@' {
		if strings.EqualFold(local, "postmaster") {
			return Address{Local: local}, rest, nil
		}
		return Address{}, rest, ErrAddressSyntax
	}
	rest = rest[1:]
	end := len(rest)
	if strings.HasPrefix(rest, "[") {
		if i := strings.IndexByte(rest, ']'); i >= 0 {
			end = i + 1
		}
	} else if i := strings.IndexAny(rest, "> \t"); i >= 0 {
		end = i
	}
	domain := rest[:end]
	if err := checkDomain(domain, utf8OK); err != nil {
		return Address{}, rest, err
	}
	if len(local)+1+len(domain) > MaxPath-2 {
		return Address{}, rest, ErrAddressTooLong
	}
	return Address{Local: local, Domain: lowerASCII(domain)}, rest[end:], nil
}

// scanLocal reads a dot-string or a quoted-string and returns its meaning.
func scanLocal(s string, utf8OK bool) (local, rest string, err error) {
	if s == "" {
		return "", s, ErrAddressSyntax
	}
	if s[0] == '"' {
		return scanQuoted(s, utf8OK)
	}
	i, dot := 0, true
	for i < len(s) {
		c := s[i]
		switch {
		case c == '.':
			if dot {
				return "", s, ErrAddressSyntax
			}
			dot = true
			i++
			continue
		case isAtext(c):
		case c >= utf8.RuneSelf:
			n, err := checkRune(s[i:], utf8OK)
			if err != nil {
				return "", s, err
			}
			i += n
			dot = false
			continue
		case c < ' ' || c == 0x7f:
			return "", s, ErrAddressControl
		default:
			if dot {
				return "", s, ErrAddressSyntax
			}
			return s[:i], s[i:], nil
		}
		dot = false
		i++
	}
	if dot {
		return "", s, ErrAddressSyntax
	}
	return s[:i], s[i:], nil
}

func scanQuoted(s string, utf8OK bool) (local, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			if b.Len() == 0 {
				return "", s, ErrAddressSyntax
			}
			return b.String(), s[i+1:], nil
		case c == '\\':
			i++
			if i == len(s) {
				return "", s, ErrAddressSyntax
			}
			if s[i] < ' ' || s[i] >= 0x7f {
				return "", s, ErrAddressControl
			}
			b.WriteByte(s[i])
		case c < ' ' || c == 0x7f:
			return "", s, ErrAddressControl
		case c >= utf8.RuneSelf:
			n, err := checkRune(s[i:], utf8OK)
			if err != nil {
				return "", s, err
			}
			b.WriteString(s[i : i+n])
			i += n - 1
		default:
			b.WriteByte(c)
		}
	}
	return "", s, ErrAddressSyntax
}

func checkRune(s string, utf8OK bool) (int, error) {
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case r == utf8.RuneError && n <= 1:
		return 0, ErrAddressSyntax
	case r < 0xa0 || r == 0x2028 || r == 0x2029: // C1 controls and line separators
		return 0, ErrAddressControl
	case !utf8OK:
		return 0, ErrAddressUTF8
	}
	return n, nil
}

// checkDomain accepts a domain of letters, digits, hyphens (and underscores,
// which exist in the wild) or an address literal.
func checkDomain(d string, utf8OK bool) error {
	if d == "" {
		return ErrAddressSyntax
	}
	if len(d) > MaxDomain {
		return ErrAddressTooLong
	}
	if d[0] == '[' {
		if d[len(d)-1] != ']' || len(d) < 3 {
			return ErrAddressSyntax
		}
		for i := 1; i < len(d)-1; i++ {
			switch c := d[i]; {
			case c < ' ' || c >= 0x7f:
				return ErrAddressControl
			case c == '[' || c == ']' || c == '\\' || c == ' ':
				return ErrAddressSyntax
			}
		}
		return nil
	}
	for _, label := range strings.Split(d, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return ErrAddressSyntax
		}
		for i := 0; i < len(label); {
			c := label[i]
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
				i++
			case c >= utf8.RuneSelf:
				n, err := checkRune(label[i:], utf8OK)
				if err != nil {
					return err
				}
				i += n
			case c < ' ' || c == 0x7f:
				return ErrAddressControl
			default:
				return ErrAddressSyntax
			}
		}
	}
	return nil
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

func isDotString(s string) bool {
	dot := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '.':
			if dot {
				return false
			}
			dot = true
		case isAtext(c) || c >= utf8.RuneSelf:
			dot = false
		default:
			return false
		}
	}
	return !dot
}

// isAtext reports whether c is atext of RFC 5322 3.2.3.
func isAtext(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'A' && s[i] <= 'Z' {
			return strings.Map(func(r rune) rune {
				if r >= 'A' && r <= 'Z' {
					return r + 'a' - 'A'
				}
				return r
			}, s)
		}
	}
	return s
}
