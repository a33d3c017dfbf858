package imapwire

import (
	"bytes"
	"math"
)

// Literal is the announcement of a literal at the end of a line.
type Literal struct {
	Size    int64 // octets; MaxInt64 stands for anything larger
	NonSync bool  // {n+}: the sender does not wait (RFC 7888)
	Binary  bool  // ~{n}: may hold NUL (RFC 3516)
}

// ParseLiteral reports the literal that line announces: line ends in "{", a
// number, "+" or not, "}" and CRLF, with "~" before or not. A line that ends
// in a bare LF announces nothing.
func ParseLiteral(line []byte) (lit Literal, ok bool) {
	n := len(line)
	if n < 5 || line[n-1] != '\n' || line[n-2] != '\r' || line[n-3] != '}' {
		return Literal{}, false
	}
	i := n - 4
	if line[i] == '+' {
		lit.NonSync = true
		i--
	}
	last := i
	for i >= 0 && isDigit(line[i]) {
		i--
	}
	if i < 0 || i == last || line[i] != '{' {
		return Literal{}, false
	}
	lit.Size = saturate(line[i+1 : last+1])
	lit.Binary = i > 0 && line[i-1] == '~'
	return lit, true
}

// CommandLiteral is ParseLiteral for a line of a client, where an announcement
// inside a quoted string is none: such a line is wrong, and what follows it is
// a new command.
func CommandLiteral(line []byte) (lit Literal, ok bool) {
	lit, ok = ParseLiteral(line)
	if ok && openQuote(line) {
		return Literal{}, false
	}
	return lit, ok
}

// openQuote reports whether line ends inside a quoted string.
func openQuote(line []byte) bool {
	if bytes.IndexByte(line, '"') < 0 {
		return false
	}
	open := false
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '"':
			open = !open
		case '\\':
			if open {
				i++
			}
		}
	}
	return open
}

// saturate reads digits; what does not fit is MaxInt64.
func saturate(digits []byte) int64 {
	var v int64
	for _, c := range digits {
		d := int64(c - '0')
		if v > (math.MaxInt64-d)/10 {
			return math.MaxInt64
		}
		v = v*10 + d
	}
	return v
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
