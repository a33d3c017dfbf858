package imapwire

// Classes of octets, RFC 9051 section 9.
const (
	classAtom   = 1 << iota // ATOM-CHAR
	classAstr               // ASTRING-CHAR: ATOM-CHAR or "]"
	classList               // list-char: ASTRING-CHAR or a wildcard
	classTag                // tag: ASTRING-CHAR without "+"
	classQuoted             // as it is in a quoted string, 7-bit
)

var class = func() (t [256]uint8) {
	for c := 0x20; c < 0x7f; c++ {
		if c != '"' && c != '\\' {
			t[c] |= classQuoted
		}
		switch c {
		case '(', ')', '{', ' ', '"', '\\':
		case '%', '*':
			t[c] |= classList
		case ']':
			t[c] |= classAstr | classList | classTag
		case '+':
			t[c] |= classAtom | classAstr | classList
		default:
			t[c] |= classAtom | classAstr | classList | classTag
		}
	}
	return t
}()

func isTagChar(c byte) bool { return class[c]&classTag != 0 }

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func upper(c byte) byte {
	if c >= 'a' && c <= 'z' {
		return c - ('a' - 'A')
	}
	return c
}

// equalFold compares b with upper, which is in upper case ASCII.
func equalFold(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range b {
		if upper(b[i]) != word[i] {
			return false
		}
	}
	return true
}

// EqualFold reports whether b is the keyword word, which is given in upper
// case ASCII (RFC 9051: keywords compare without case).
func EqualFold(b []byte, word string) bool { return equalFold(b, word) }
