package message

import (
	"bytes"
	"iter"
)

// lineEnd is the offset behind the line that begins at off, and the length of
// its line end: 2 for CRLF, 1 for LF, 0 at the end of b.
func lineEnd(b []byte, off int) (next, eol int) {
	i := bytes.IndexByte(b[off:], '\n')
	if i < 0 {
		return len(b), 0
	}
	next = off + i + 1
	if i > 0 && b[next-2] == '\r' {
		return next, 2
	}
	return next, 1
}

func isWSP(c byte) bool { return c == ' ' || c == '\t' }

// HeaderLen is the length of the header block at the start of b, with the
// empty line that ends it. A block without one goes to the end of b. A block
// of more than MaxHeader octets ends before the line that goes beyond.
func HeaderLen(b []byte) int {
	limit := min(len(b), MaxHeader)
	for at := 0; at < limit; {
		next, eol := lineEnd(b[:limit], at)
		if eol == 0 {
			return headerCut(len(b), at, next)
		}
		if next-at == eol {
			return next
		}
		at = next
	}
	return limit
}

// headerCut is where a header block ends whose last line, at offset at, has no
// end before limit: with the message, or before that line.
func headerCut(size, at, limit int) int {
	if limit == size || at == 0 {
		return limit
	}
	return at
}

// Fields lists the fields of a header block in order, without allocating. A
// line without a colon that continues nothing is a Field with an empty Name.
// The list ends at the empty line.
func Fields(header []byte) iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for at := 0; at < len(header); {
			next, eol := lineEnd(header, at)
			if next-at == eol {
				return
			}
			for next < len(header) && isWSP(header[next]) {
				next, _ = lineEnd(header, next)
			}
			if !yield(makeField(header[at:next])) {
				return
			}
			at = next
		}
	}
}

func makeField(raw []byte) Field {
	f := Field{Raw: raw}
	line, _ := lineEnd(raw, 0)
	colon := bytes.IndexByte(raw[:line], ':')
	if colon < 0 {
		return f
	}
	f.Body = raw[colon+1:]
	for colon > 0 && isWSP(raw[colon-1]) {
		colon--
	}
	f.Name = raw[:colon]
	return f
}

// lowerASCII is the lower case of one octet.
func lowerASCII(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c |= 0x20
	}
	return c
}

// equalFold compares without ASCII case.
func equalFold[A, B ~string | ~[]byte](a A, b B) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lowerASCII(a[i]) != lowerASCII(b[i]) {
			return false
		}
	}
	return true
}

// Get returns the value of the first field of that name, in any case, unfolded
// and without white space around it. The value is part of header unless it was
// folded.
func Get(header []byte, name string) ([]byte, bool) {
	for f := range Fields(header) {
		if equalFold(f.Name, name) && f.Body != nil {
			return Unfold(f.Body), true
		}
	}
	return nil, false
}

// Unfold returns a field body in one line: without its line ends (RFC 5322
// 2.2.3) and without white space around it. The result is part of body if
// there was no fold.
func Unfold(body []byte) []byte {
	body = bytes.Trim(body, " \t\r\n")
	if bytes.IndexByte(body, '\n') < 0 {
		return body
	}
	return appendUnfolded(make([]byte, 0, len(body)), body)
}

// appendUnfolded appends body without its line ends.
func appendUnfolded(dst, body []byte) []byte {
	for len(body) > 0 {
		next, eol := lineEnd(body, 0)
		dst = append(dst, body[:next-eol]...)
		body = body[next:]
	}
	return dst
}

// Select appends to dst the fields of header whose names are among names, or
// if not is set those whose names are not, as they are, and the empty line:
// what IMAP calls HEADER.FIELDS and HEADER.FIELDS.NOT (RFC 9051 6.4.5.1).
// Names compare without case.
func Select(dst, header []byte, names []string, not bool) []byte {
	for f := range Fields(header) {
		if listed(f.Name, names) == not {
			continue
		}
		dst = append(dst, f.Raw...)
		if f.Raw[len(f.Raw)-1] != '\n' {
			dst = append(dst, '\r', '\n')
		}
	}
	return append(dst, '\r', '\n')
}

func listed(name []byte, names []string) bool {
	for _, n := range names {
		if len(name) > 0 && equalFold(name, n) {
			return true
		}
	}
	return false
}
