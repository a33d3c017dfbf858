package smtp

import (
	"strings"
	"unicode/utf8"
)

const hexDigits = "0123456789ABCDEF"

// appendXtext prints s as xtext (RFC 3461 section 4): "+", "=" and all that is
// not printable ASCII as "+XX".
func appendXtext(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; isXchar(c) {
			b = append(b, c)
		} else {
			b = append(b, '+', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

func isXchar(c byte) bool { return c > ' ' && c < 0x7f && c != '+' && c != '=' }

// decodeXtext reads xtext. What it stands for must be UTF-8 without control
// characters: it ends up in header fields, logs and commands.
func decodeXtext(s string) (string, bool) {
	if strings.IndexByte(s, '+') >= 0 {
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			if s[i] != '+' {
				b.WriteByte(s[i])
				continue
			}
			if i+2 >= len(s) {
				return "", false
			}
			hi := strings.IndexByte(hexDigits, s[i+1])
			lo := strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		}
		s = b.String()
	}
	return s, isText(s)
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	if plain(s) {
		return true
	}
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return false
		}
	}
	return true
}
