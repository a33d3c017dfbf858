package imapwire

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf8"
)

// Limits of a Parser.
const (
	MaxDepth    = 50    // nesting of parentheses
	MaxElements = 20000 // elements of all lists and sets of one command
)

// SyntaxError tells what a command has wrong and where.
type SyntaxError struct {
	Offset  int    // in the command's text
	Message string // for the peer: "mailbox name expected"
}

func (e *SyntaxError) Error() string {
	return e.Message + " at octet " + strconv.Itoa(e.Offset)
}

// A Parser takes tokens out of the text of one command, literals inline as
// Reader.Inline leaves them. Results are parts of the text, or copies where a
// quoted string has backslashes. The first error sticks: later calls return
// zero values.
type Parser struct {
	b        []byte
	i        int
	err      *SyntaxError
	depth    int
	elements int
}

// Reset makes p read text from offset on.
func (p *Parser) Reset(text []byte, offset int) {
	*p = Parser{b: text, i: offset}
}

// Err is the first error, nil when there was none.
func (p *Parser) Err() error {
	if p.err == nil {
		return nil
	}
	return p.err
}

// Fail records an error at the present place unless there is one already.
func (p *Parser) Fail(message string) {
	if p.err == nil {
		p.err = &SyntaxError{Offset: p.i, Message: message}
	}
}

// Offset is the place of the next octet in the text.
func (p *Parser) Offset() int { return p.i }

func (p *Parser) ok() bool { return p.err == nil }

// Peek is the next octet; 0 at the end or after an error.
func (p *Parser) Peek() byte {
	if p.err != nil || p.i >= len(p.b) {
		return 0
	}
	return p.b[p.i]
}

// Has takes c if it is next.
func (p *Parser) Has(c byte) bool {
	if p.Peek() != c || c == 0 {
		return false
	}
	p.i++
	return true
}

// Expect takes c.
func (p *Parser) Expect(c byte) {
	if !p.Has(c) {
		if c == ' ' {
			p.Fail("space expected")
			return
		}
		p.Fail(`"` + string(rune(c)) + `" expected`)
	}
}

// SP takes one space.
func (p *Parser) SP() { p.Expect(' ') }

// AtEnd reports whether the text is finished but for its CRLF.
func (p *Parser) AtEnd() bool {
	return p.ok() && len(p.b)-p.i == 2 && p.b[p.i] == '\r' && p.b[p.i+1] == '\n'
}

// End takes the CRLF that ends the command and returns the first error.
func (p *Parser) End() error {
	switch {
	case !p.ok():
	case p.AtEnd():
		p.i += 2
	case p.i < len(p.b) && p.b[p.i] == '\n':
		p.Fail("lines end in CRLF")
	default:
		p.Fail("end of command expected")
	}
	return p.Err()
}

func (p *Parser) run(set uint8) []byte {
	if p.err != nil {
		return nil
	}
	start := p.i
	for p.i < len(p.b) && class[p.b[p.i]]&set != 0 {
		p.i++
	}
	return p.b[start:p.i]
}

// Atom takes an atom.
func (p *Parser) Atom() []byte {
	b := p.run(classAtom)
	if len(b) == 0 {
		p.Fail("atom expected")
		return nil
	}
	return b
}

// Word takes letters, digits, "." and "-": the names of items and keys.
func (p *Parser) Word() []byte {
	if p.err != nil {
		return nil
	}
	start := p.i
	for p.i < len(p.b) && (isAlpha(p.b[p.i]) || isDigit(p.b[p.i]) || p.b[p.i] == '.' || p.b[p.i] == '-') {
		p.i++
	}
	if p.i == start {
		p.Fail("keyword expected")
	}
	return p.b[start:p.i]
}

// HasWord takes word, given in upper case, if it is next and ends there.
func (p *Parser) HasWord(word string) bool {
	if p.err != nil || len(p.b)-p.i < len(word) || !equalFold(p.b[p.i:p.i+len(word)], word) {
		return false
	}
	if end := p.i + len(word); end < len(p.b) && class[p.b[end]]&classAtom != 0 {
		return false
	}
	p.i += len(word)
	return true
}

// AString takes an astring: atom, quoted string or literal.
func (p *Parser) AString() []byte {
	if c := p.Peek(); c == '"' || c == '{' {
		return p.String()
	}
	b := p.run(classAstr)
	if len(b) == 0 {
		p.Fail("string expected")
		return nil
	}
	return b
}

// ListMailbox takes the pattern of LIST: astring, wildcards allowed.
func (p *Parser) ListMailbox() []byte {
	if c := p.Peek(); c == '"' || c == '{' {
		return p.String()
	}
	b := p.run(classList)
	if len(b) == 0 {
		p.Fail("mailbox pattern expected")
		return nil
	}
	return b
}

// NString takes a string or NIL; nothing is nil.
func (p *Parser) NString() []byte {
	if p.HasWord("NIL") {
		return nil
	}
	b := p.String()
	if b == nil && p.ok() {
		b = []byte{}
	}
	return b
}

// String takes a quoted string or a literal without NUL.
func (p *Parser) String() []byte {
	switch p.Peek() {
	case '"':
		return p.quoted()
	case '{':
		b := p.literal()
		if bytes.IndexByte(b, 0) >= 0 {
			p.Fail("NUL in a literal")
			return nil
		}
		return b
	}
	p.Fail("string expected")
	return nil
}

// quoted takes a quoted string. UTF-8 is taken as RFC 9051 has it, also from
// clients that did not ask for it; what it may be used for is the caller's
// question.
func (p *Parser) quoted() []byte {
	start := p.i + 1
	var copied []byte // set once a backslash was seen
	high := false
	for i := start; i < len(p.b); i++ {
		c := p.b[i]
		switch {
		case class[c]&classQuoted != 0:
		case c == '"':
			b := p.b[start:i]
			if copied != nil {
				b = copied
			}
			if high && !utf8.Valid(b) {
				p.Fail("quoted string is not UTF-8")
				return nil
			}
			p.i = i + 1
			return b
		case c == '\\':
			if copied == nil {
				copied = append(make([]byte, 0, 64), p.b[start:i]...)
			}
			if i++; i == len(p.b) || (p.b[i] != '"' && p.b[i] != '\\') {
				p.i = i
				p.Fail("backslash quotes only itself and the double quote")
				return nil
			}
			c = p.b[i]
		case c >= utf8.RuneSelf:
			high = true
		case c == '\t': // not in the grammar, but sent
		default:
			p.i = i
			if c == '\r' || c == '\n' {
				p.Fail("quoted string has no end")
			} else {
				p.Fail("control character in a quoted string")
			}
			return nil
		}
		if copied != nil {
			copied = append(copied, c)
		}
	}
	p.Fail("quoted string has no end")
	return nil
}

// literal takes {n} or {n+}, CRLF and n octets.
func (p *Parser) literal() []byte {
	p.Expect('{')
	n := p.Number64()
	p.Has('+')
	p.Expect('}')
	if p.ok() && (len(p.b)-p.i < 2 || p.b[p.i] != '\r' || p.b[p.i+1] != '\n') {
		p.Fail("line end expected behind a literal's size")
	}
	if p.ok() && n > int64(len(p.b)-p.i-2) {
		p.Fail("literal is cut short")
	}
	if !p.ok() {
		return nil
	}
	p.i += 2
	b := p.b[p.i : p.i+int(n)]
	p.i += int(n)
	return b
}

// Number takes a number of 32 bits.
func (p *Parser) Number() uint32 {
	v := p.digits()
	if v > math.MaxUint32 {
		p.Fail("number too large")
		return 0
	}
	return uint32(v)
}

// NZNumber takes a number of 32 bits that is not zero.
func (p *Parser) NZNumber() uint32 {
	v := p.Number()
	if v == 0 {
		p.Fail("number greater than zero expected")
	}
	return v
}

// Number64 takes a number of 63 bits (RFC 9051 number64, and
// mod-sequence-valzer of RFC 7162).
func (p *Parser) Number64() int64 {
	v := p.digits()
	if v == math.MaxInt64 {
		p.Fail("number too large")
		return 0
	}
	return v
}

func (p *Parser) digits() int64 {
	if p.err != nil {
		return 0
	}
	start := p.i
	for p.i < len(p.b) && isDigit(p.b[p.i]) {
		p.i++
	}
	if p.i == start {
		p.Fail("number expected")
		return 0
	}
	return saturate(p.b[start:p.i])
}

// Element counts one element of a list or set and fails beyond MaxElements.
func (p *Parser) Element() bool {
	if p.elements++; p.elements > MaxElements {
		p.Fail("too many elements")
	}
	return p.ok()
}

// Enter counts one level of nesting and fails beyond MaxDepth; Leave undoes it.
func (p *Parser) Enter() bool {
	if p.depth++; p.depth > MaxDepth {
		p.Fail("nested too deeply")
	}
	return p.ok()
}

// Leave ends a level begun with Enter.
func (p *Parser) Leave() { p.depth-- }

// List takes "(", elements separated by single spaces, ")"; f takes one.
func (p *Parser) List(f func()) {
	p.Expect('(')
	if !p.Enter() {
		return
	}
	defer p.Leave()
	if p.Has(')') {
		return
	}
	for p.Element() {
		f()
		if p.Has(')') || !p.ok() {
			return
		}
		p.SP()
	}
}

// Flag takes a flag: an atom, or a backslash and an atom.
func (p *Parser) Flag() []byte {
	start := p.i
	p.Has('\\')
	b := p.run(classAtom)
	if len(b) == 0 {
		p.Fail("flag expected")
		return nil
	}
	return p.b[start:p.i]
}

// Until takes what stands before c, and c itself, and fails when c does not
// follow.
func (p *Parser) Until(c byte) []byte {
	if p.err != nil {
		return nil
	}
	n := bytes.IndexByte(p.b[p.i:], c)
	if n < 0 {
		p.Fail(`"` + string(rune(c)) + `" expected`)
		return nil
	}
	b := p.b[p.i : p.i+n]
	p.i += n + 1
	return b
}
