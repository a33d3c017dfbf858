package mapping

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// kind tells the elements of a pattern apart.
type kind uint8

const (
	literal kind = iota
	one          // a character of a class
	many         // a run of them
	back         // the same as what an earlier wildcard has matched
)

// element is one step of a pattern.
type element struct {
	kind kind
	char rune // of a literal, in lower case
	n    int  // of back
	in   func(rune) bool
	lazy bool
	kept bool
}

// pattern is a compiled left side.
type pattern struct {
	elements []element
	backs    bool // what matches here depends on what has matched before
}

// maxKept is how many wildcards a template can name.
const maxKept = 10

// maxRuns bounds the wildcards for runs in a pattern.
const maxRuns = 32

func between(pairs string) func(rune) bool {
	runes := []rune(pairs)
	return func(c rune) bool {
		for i := 0; i+1 < len(runes); i += 2 {
			if c >= runes[i] && c <= runes[i+1] {
				return true
			}
		}
		return false
	}
}

func any1(rune) bool { return true }

// classes are the letters behind "$" that stand before a wildcard.
var classes = map[rune]func(rune) bool{
	'A': between("azAZ"),
	'B': between("01"),
	'D': between("09"),
	'H': between("09afAF"),
	'O': between("07"),
	'S': between("azAZ09__$$"),
	'T': between("  \t\t\v\v"),
	'X': between("09afAF"),
}

// compile reads a pattern.
func compile(text string) (*pattern, error) {
	p := &pattern{}
	in := []rune(text)
	keep, kept, runs := true, 0, 0
	lazy := false
	var class func(rune) bool
	for i := 0; i < len(in); i++ {
		c := in[i]
		if c == '*' || c == '%' {
			e := element{kind: one, in: class, lazy: lazy, kept: keep}
			if c == '*' {
				e.kind = many
				if runs++; runs > maxRuns {
					return nil, fmt.Errorf("more than %d runs", maxRuns)
				}
			}
			if e.in == nil {
				e.in = any1
			}
			if keep {
				if kept++; kept > maxKept {
					return nil, errors.New("more than ten wildcards are kept")
				}
			}
			p.elements = append(p.elements, e)
			class, lazy = nil, false
			continue
		}
		if class != nil || lazy {
			if c != '$' {
				return nil, fmt.Errorf("%q without a wildcard behind it", string(in[:i]))
			}
		}
		if c != '$' {
			p.elements = append(p.elements, element{kind: literal, char: unicode.ToLower(c)})
			continue
		}
		if i++; i == len(in) {
			return nil, errors.New("nothing behind the last $")
		}
		switch c = in[i]; {
		case c == '_':
			lazy = true
		case c == '@' || c == '^':
			keep = c == '^'
		case c == '[':
			end := i + 1
			for end < len(in) && in[end] != ']' {
				end++
			}
			set, err := readSet(in[i+1 : end])
			if err != nil || end == len(in) {
				return nil, fmt.Errorf("$[ without an end, or with nothing in it")
			}
			class, i = set, end
		case classes[c] != nil:
			class = classes[c]
		case c >= '0' && c <= '9':
			if i+1 >= len(in) || in[i+1] != '*' || int(c-'0') >= kept {
				return nil, fmt.Errorf("$%c is not followed by *, or no such wildcard is before it", c)
			}
			p.elements = append(p.elements, element{kind: back, n: int(c - '0')})
			p.backs = true
			i++
		case strings.ContainsRune(" \t*%$!|<>\\\"';:,.@-+=/#&~`?", c):
			p.elements = append(p.elements, element{kind: literal, char: c})
		default:
			return nil, fmt.Errorf("$%c is not known in a pattern", c)
		}
	}
	if class != nil || lazy {
		return nil, errors.New("a class without a wildcard behind it")
	}
	return p, nil
}

// readSet reads what stands between "$[" and "]".
func readSet(in []rune) (func(rune) bool, error) {
	not := len(in) > 0 && in[0] == '^'
	if not {
		in = in[1:]
	}
	if len(in) == 0 {
		return nil, errors.New("empty")
	}
	var pairs []rune
	for i := 0; i < len(in); i++ {
		if i+2 < len(in) && in[i+1] == '-' && in[i] <= in[i+2] {
			pairs = append(pairs, in[i], in[i+2])
			i += 2
			continue
		}
		pairs = append(pairs, in[i], in[i])
	}
	inside := between(string(pairs))
	return func(c rune) bool {
		return (inside(c) || inside(unicode.ToLower(c)) || inside(unicode.ToUpper(c))) != not
	}, nil
}

// matcher is one comparison of a text with a pattern.
type matcher struct {
	p      *pattern
	in     []rune
	budget *int
	kept   [maxKept][2]int
	failed map[int]bool // places from which the rest does not match
}

// match reports whether all of in matches, and what the wildcards have matched.
func (p *pattern) match(in []rune, budget *int) (kept [maxKept]string, n int, ok bool) {
	m := matcher{p: p, in: in, budget: budget}
	if !p.backs {
		m.failed = map[int]bool{}
	}
	n, ok = m.from(0, 0, 0)
	for i := range n {
		kept[i] = string(in[m.kept[i][0]:m.kept[i][1]])
	}
	return kept, n, ok
}

// from matches the elements from e on with the text from at on; n wildcards are
// kept so far.
func (m *matcher) from(e, at, n int) (int, bool) {
	for ; e < len(m.p.elements); e++ {
		if *m.budget--; *m.budget < 0 {
			return 0, false
		}
		x := &m.p.elements[e]
		switch x.kind {
		case many:
			return m.run(e, at, n)
		case back:
			part := m.in[m.kept[x.n][0]:m.kept[x.n][1]]
			if *m.budget -= len(part); len(m.in)-at < len(part) || !strings.EqualFold(string(part), string(m.in[at:at+len(part)])) {
				return 0, false
			}
			at += len(part)
		default:
			if at == len(m.in) || x.kind == literal && unicode.ToLower(m.in[at]) != x.char || x.kind == one && !x.in(m.in[at]) {
				return 0, false
			}
			if x.kind == one && x.kept {
				m.kept[n] = [2]int{at, at + 1}
				n++
			}
			at++
		}
	}
	return n, at == len(m.in)
}

// run matches a run and what is behind it.
func (m *matcher) run(e, at, n int) (int, bool) {
	place := e*(len(m.in)+1) + at
	if m.failed[place] {
		return 0, false
	}
	x := &m.p.elements[e]
	most := at
	for most < len(m.in) && x.in(m.in[most]) {
		most++
	}
	if *m.budget -= most - at; *m.budget < 0 {
		return 0, false
	}
	end, last, step := most, at, -1
	if x.lazy {
		end, last, step = at, most, 1
	}
	for ; ; end += step {
		next := n
		if x.kept {
			m.kept[n] = [2]int{at, end}
			next++
		}
		if got, ok := m.from(e+1, end, next); ok {
			return got, true
		}
		if end == last || *m.budget < 0 {
			break
		}
	}
	if m.failed != nil {
		m.failed[place] = true
	}
	return 0, false
}
