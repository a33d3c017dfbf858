package imapwire

import (
	"strconv"
	"unicode/utf8"
)

// Text is what the Append functions write: a string or octets.
type Text interface{ ~string | ~[]byte }

// quotedLimit is the length beyond which a literal is written instead of a
// quoted string.
const quotedLimit = 4096

// AppendQuoted writes s as a quoted string. The caller knows that s holds no
// CR, LF or NUL and, unless UTF-8 was agreed on, no octet above 127.
func AppendQuoted[T Text](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}

// AppendLiteral writes s as a literal.
func AppendLiteral[T Text](dst []byte, s T) []byte {
	dst = AppendLiteralHeader(dst, int64(len(s)), false)
	return append(dst, s...)
}

// AppendLiteralHeader writes {n} and CRLF, with "~" before when binary.
func AppendLiteralHeader(dst []byte, n int64, binary bool) []byte {
	if binary {
		dst = append(dst, '~')
	}
	dst = append(dst, '{')
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "}\r\n"...)
}

// AppendString writes s as a quoted string if that can carry it, else as a
// literal. utf8OK says whether quoted strings may hold UTF-8.
func AppendString[T Text](dst []byte, s T, utf8OK bool) []byte {
	if !quotable(s, utf8OK) {
		return AppendLiteral(dst, s)
	}
	return AppendQuoted(dst, s)
}

// AppendNString writes s as AppendString does, nil as NIL.
func AppendNString(dst []byte, s *string, utf8OK bool) []byte {
	if s == nil {
		return append(dst, "NIL"...)
	}
	return AppendString(dst, *s, utf8OK)
}

// AppendAString writes s as an atom if it can be one, else as AppendString.
func AppendAString[T Text](dst []byte, s T, utf8OK bool) []byte {
	if isAtom(s) {
		return append(dst, s...)
	}
	return AppendString(dst, s, utf8OK)
}

func isAtom[T Text](s T) bool {
	if len(s) == 0 || len(s) > quotedLimit {
		return false
	}
	for i := 0; i < len(s); i++ {
		if class[s[i]]&classAstr == 0 {
			return false
		}
	}
	return len(s) != 3 || upper(s[0]) != 'N' || upper(s[1]) != 'I' || upper(s[2]) != 'L'
}

func quotable[T Text](s T, utf8OK bool) bool {
	if len(s) > quotedLimit {
		return false
	}
	high := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case class[c]&classQuoted != 0, c == '"', c == '\\':
		case c >= utf8.RuneSelf && utf8OK:
			high = true
		default:
			return false
		}
	}
	return !high || validUTF8(s)
}

// validUTF8 reports whether s is UTF-8, without a conversion that allocates.
func validUTF8[T Text](s T) bool {
	var scratch [utf8.UTFMax]byte
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		n := copy(scratch[:], s[i:])
		r, size := utf8.DecodeRune(scratch[:n])
		if r == utf8.RuneError && size == 1 {
			return false
		}
		i += size
	}
	return true
}

// AppendMailbox writes a mailbox name given in UTF-8: as it is when utf8OK
// (IMAP4rev2 or UTF8=ACCEPT enabled), else in modified UTF-7.
func AppendMailbox(dst []byte, name string, utf8OK bool) []byte {
	if utf8OK || plainUTF7(name) {
		return AppendAString(dst, name, utf8OK)
	}
	var scratch [256]byte
	return AppendAString(dst, AppendUTF7(scratch[:0], name), false)
}

// AppendNumber writes n.
func AppendNumber[T ~int | ~int64 | ~uint32 | ~uint64](dst []byte, n T) []byte {
	return strconv.AppendUint(dst, uint64(n), 10)
}
