package message

// state tells how a scan of one syntax element ended.
type state int8

const (
	broken state = iota - 1 // the element is not well formed
	atEnd                   // it was read, nothing follows
	more                    // it was read, s[i] follows it
)

const (
	classAtext   = 1 << iota // RFC 5322 atext, or an octet beyond ASCII
	classToken               // RFC 2045 token, or an octet beyond ASCII
	classSpecial             // in need of quoting in a phrase
)

// classes says for each octet which elements it can be part of.
var classes = func() (t [256]byte) {
	for c := 0x21; c < 256; c++ {
		if c != 0x7f {
			t[c] = classAtext | classToken
		}
	}
	for _, c := range []byte("()<>@,;:\\\"[]") {
		t[c] = classSpecial
	}
	t['.'] = classToken
	for _, c := range []byte("/?=") {
		t[c] = classAtext
	}
	return t
}()

// piece is text taken from a scanner's input. It stays a part of the input as
// long as it is one run of octets there, as most names and values are; otherwise
// it is a copy.
type piece struct {
	lo, hi int
	buf    []byte
	copied bool
}

func (p *piece) add(s string, lo, hi int) {
	switch {
	case lo == hi:
	case p.copied:
		p.buf = append(p.buf, s[lo:hi]...)
	case p.lo == p.hi:
		p.lo, p.hi = lo, hi
	case p.hi == lo:
		p.hi = hi
	default:
		p.copied = true
		p.buf = append(append(p.buf, s[p.lo:p.hi]...), s[lo:hi]...)
	}
}

func (p *piece) addByte(s string, c byte) {
	if !p.copied {
		if p.lo < p.hi && p.hi < len(s) && s[p.hi] == c {
			p.hi++
			return
		}
		p.copied = true
		p.buf = append(p.buf, s[p.lo:p.hi]...)
	}
	p.buf = append(p.buf, c)
}

func (p *piece) len() int {
	if p.copied {
		return len(p.buf)
	}
	return p.hi - p.lo
}

func (p *piece) string(s string) string {
	if p.copied {
		return string(p.buf)
	}
	return s[p.lo:p.hi]
}

func (p *piece) reset() { *p = piece{buf: p.buf[:0]} }

// scanner reads the lexical elements of RFC 5322 and RFC 2045 from an unfolded
// field value, leniently.
type scanner struct {
	s           string
	i           int
	keepComment bool
	comment     piece // the last comment, when keepComment
}

func (sc *scanner) state() state {
	if sc.i < len(sc.s) {
		return more
	}
	return atEnd
}

// at reports whether c comes next.
func (sc *scanner) at(c byte) bool { return sc.i < len(sc.s) && sc.s[sc.i] == c }

func (sc *scanner) is(class byte) bool {
	return sc.i < len(sc.s) && classes[sc.s[sc.i]]&class != 0
}

// cfws skips white space and comments.
func (sc *scanner) cfws() state {
	for sc.i < len(sc.s) {
		switch sc.s[sc.i] {
		case ' ', '\t', '\r', '\n':
			sc.i++
		case '(':
			if sc.skipComment() == broken {
				return broken
			}
		default:
			return more
		}
	}
	return atEnd
}

func (sc *scanner) skipComment() state {
	sc.i++
	if sc.keepComment {
		sc.comment.reset()
	}
	start, depth := sc.i, 1
	for ; sc.i < len(sc.s); sc.i++ {
		switch sc.s[sc.i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				sc.keep(start, sc.i)
				sc.i++
				return sc.state()
			}
		case '\\':
			sc.keep(start, sc.i)
			sc.i++
			start = sc.i
			if sc.i >= len(sc.s) {
				return broken
			}
		}
	}
	return broken
}

func (sc *scanner) keep(lo, hi int) {
	if sc.keepComment {
		sc.comment.add(sc.s, lo, hi)
	}
}

// run adds the octets of a class to p, and dots too if dot is set.
func (sc *scanner) run(p *piece, class byte, dot bool) {
	start := sc.i
	for sc.i < len(sc.s) && (classes[sc.s[sc.i]]&class != 0 || dot && sc.s[sc.i] == '.') {
		sc.i++
	}
	p.add(sc.s, start, sc.i)
}

// atom reads 1*atext and what space follows.
func (sc *scanner) atom(p *piece) state {
	if !sc.is(classAtext) {
		return broken
	}
	sc.run(p, classAtext, false)
	return sc.cfws()
}

// token reads a MIME token, which may turn out empty.
func (sc *scanner) token(p *piece) state {
	sc.run(p, classToken, false)
	return sc.cfws()
}

// dotAtom reads atoms with dots between them, allowing space around the dots
// as RFC 822 did.
func (sc *scanner) dotAtom(p *piece) state {
	if !sc.is(classAtext) {
		return broken
	}
	for {
		sc.run(p, classAtext, false)
		if st := sc.cfws(); st != more || sc.s[sc.i] != '.' {
			return st
		}
		sc.i++
		p.addByte(sc.s, '.')
		if sc.cfws() != more || !sc.is(classAtext) {
			return broken
		}
	}
}

// localPart reads atoms and dots in any order: ".a..b." is in use. Space is
// allowed before dots only.
func (sc *scanner) localPart(p *piece) state {
	for {
		dot := sc.i
		for sc.at('.') {
			sc.i++
		}
		p.add(sc.s, dot, sc.i)
		switch {
		case dot < sc.i && sc.i == len(sc.s):
			return atEnd
		case dot < sc.i && sc.s[sc.i] == '@':
			return more
		}
		if st := sc.atom(p); st != more || sc.s[sc.i] != '.' {
			return st
		}
	}
}

// quoted reads a quoted-string, adding what it stands for.
func (sc *scanner) quoted(p *piece) state {
	sc.i++
	start := sc.i
	for ; sc.i < len(sc.s); sc.i++ {
		switch sc.s[sc.i] {
		case '"':
			p.add(sc.s, start, sc.i)
			sc.i++
			return sc.cfws()
		case '\\':
			p.add(sc.s, start, sc.i)
			sc.i++
			start = sc.i
			if sc.i >= len(sc.s) {
				return broken
			}
		}
	}
	return broken
}

// phrase reads words, each an atom, a run of dots and atoms or a
// quoted-string, putting one space between them.
func (sc *scanner) phrase(p *piece) state {
	if sc.i >= len(sc.s) {
		return atEnd
	}
	if sc.s[sc.i] == '.' {
		return broken
	}
	for {
		var st state
		if sc.s[sc.i] == '"' {
			st = sc.quoted(p)
		} else {
			sc.run(p, classAtext, true)
			st = sc.cfws()
		}
		if st != more {
			return st
		}
		if !sc.is(classAtext) && !sc.at('"') && !sc.at('.') {
			return more
		}
		p.addByte(sc.s, ' ')
	}
}

// domain reads what follows an "@", which comes next.
func (sc *scanner) domain(p *piece) state {
	sc.i++
	if sc.cfws() != more {
		return broken
	}
	if !sc.at('[') {
		return sc.dotAtom(p)
	}
	start := sc.i
	for sc.i++; sc.i < len(sc.s) && sc.s[sc.i] != '['; sc.i++ {
		switch sc.s[sc.i] {
		case '\\':
			sc.i++
		case ']':
			sc.i++
			p.add(sc.s, start, sc.i)
			return sc.cfws()
		}
	}
	sc.i = min(sc.i, len(sc.s))
	return broken
}
