package imapwire

import (
	"errors"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrUTF7 says that a mailbox name is not in the one spelling that modified
// UTF-7 has for it.
var ErrUTF7 = errors.New("imapwire: not modified UTF-7")

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,"

var base64Value = func() (t [256]int8) {
	for i := range t {
		t[i] = -1
	}
	for i := range len(base64Alphabet) {
		t[base64Alphabet[i]] = int8(i)
	}
	return t
}()

// plainUTF7 reports whether name is its own modified UTF-7.
func plainUTF7(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c < 0x20 || c > 0x7e || c == '&' {
			return false
		}
	}
	return true
}

// AppendUTF7 writes name, UTF-8, in modified UTF-7 (RFC 3501 5.1.3). Octets
// that are not UTF-8 become U+FFFD.
func AppendUTF7(dst []byte, name string) []byte {
	for i := 0; i < len(name); {
		c := name[i]
		if c == '&' {
			dst = append(dst, '&', '-')
			i++
			continue
		}
		if c >= 0x20 && c <= 0x7e {
			dst = append(dst, c)
			i++
			continue
		}
		dst = append(dst, '&')
		var bits uint32
		n := 0
		put := func(unit uint32) {
			bits = bits<<16 | unit
			for n += 16; n >= 6; n -= 6 {
				dst = append(dst, base64Alphabet[bits>>(n-6)&0x3f])
			}
		}
		for i < len(name) && (name[i] < 0x20 || name[i] > 0x7e) {
			r, size := utf8.DecodeRuneInString(name[i:])
			i += size
			if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
				put(uint32(r1))
				put(uint32(r2))
			} else {
				put(uint32(r))
			}
		}
		if n > 0 {
			dst = append(dst, base64Alphabet[bits<<(6-n)&0x3f])
		}
		dst = append(dst, '-')
	}
	return dst
}

// DecodeUTF7 reads modified UTF-7. It accepts only what AppendUTF7 writes, so
// that two spellings never name one mailbox.
func DecodeUTF7[T Text](s T) (string, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c := s[i]
		if c < 0x20 || c > 0x7e {
			return "", ErrUTF7
		}
		i++
		if c != '&' {
			out = append(out, c)
			continue
		}
		start := i
		for i < len(s) && s[i] != '-' {
			i++
		}
		if i == len(s) {
			return "", ErrUTF7
		}
		if i == start {
			out = append(out, '&')
		} else {
			var ok bool
			if out, ok = appendShifted(out, s[start:i]); !ok {
				return "", ErrUTF7
			}
			if i+2 < len(s) && s[i+1] == '&' && s[i+2] != '-' {
				return "", ErrUTF7 // two runs where one would do
			}
		}
		i++
	}
	return string(out), nil
}

// appendShifted decodes one base64 run of UTF-16.
func appendShifted[T Text](out []byte, s T) ([]byte, bool) {
	var bits uint32
	var high rune // first half of a surrogate pair
	n := 0
	for i := 0; i < len(s); i++ {
		v := base64Value[s[i]]
		if v < 0 {
			return out, false
		}
		bits = bits<<6 | uint32(v)
		if n += 6; n < 16 {
			continue
		}
		n -= 16
		unit := rune(bits >> n & 0xffff)
		switch {
		case high != 0:
			r := utf16.DecodeRune(high, unit)
			if r == utf8.RuneError {
				return out, false
			}
			out = utf8.AppendRune(out, r)
			high = 0
		case unit >= 0xd800 && unit < 0xdc00:
			high = unit
		case utf16.IsSurrogate(unit), unit >= 0x20 && unit <= 0x7e:
			return out, false
		default:
			out = utf8.AppendRune(out, unit)
		}
	}
	return out, high == 0 && n < 6 && bits&(1<<n-1) == 0
}
