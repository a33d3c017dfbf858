package mapping

import (
	"errors"
	"fmt"
	"strings"
)

// control says how the mapping goes on behind an entry.
type control uint8

const (
	end      control = iota
	next             // $C
	wrap             // $L
	restart          // $R
	controls = "ECLR"
)

// Flags of a result.
const (
	Yes   = 'Y'
	No    = 'N'
	False = 'F'
	True  = 'T'
	Index = 'I' // the text names a set of texts
)

const flagLetters = "YNFTI"

// piece is one step of a template.
type piece struct {
	text  string
	n     int       // wildcard, -1 for none
	fold  rune      // \ ^ or _: case of what follows
	table string    // another table, for inner
	inner *template // its input
}

type template struct {
	pieces  []piece
	control control
	flags   string
}

// compileTemplate reads a right side.
func compileTemplate(in string) (*template, error) {
	t := &template{}
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			t.pieces = append(t.pieces, piece{text: text.String(), n: -1})
			text.Reset()
		}
	}
	for i := 0; i < len(in); i++ {
		c := in[i]
		if c != '$' {
			text.WriteByte(c)
			continue
		}
		if i++; i == len(in) {
			return nil, errors.New("nothing behind the last $")
		}
		switch c = in[i]; {
		case c >= '0' && c <= '9':
			flush()
			t.pieces = append(t.pieces, piece{n: int(c - '0')})
		case c == '\\' || c == '^' || c == '_':
			flush()
			t.pieces = append(t.pieces, piece{n: -1, fold: rune(c)})
		case strings.IndexByte(controls, c) >= 0:
			t.control = control(strings.IndexByte(controls, c))
		case strings.IndexByte(flagLetters, c) >= 0:
			t.flags += string(c)
		case c == '|':
			flush()
			n := strings.IndexByte(in[i+1:], '|')
			if n < 0 {
				return nil, errors.New("$| without an end")
			}
			p, err := compileCall(in[i+1 : i+1+n])
			if err != nil {
				return nil, err
			}
			t.pieces = append(t.pieces, p)
			i += n + 1
		case strings.IndexByte(" \t*%$!\"", c) >= 0:
			text.WriteByte(c)
		default:
			return nil, fmt.Errorf("$%c is not known in a template", c)
		}
	}
	flush()
	return t, nil
}

// compileCall reads what stands between the bars of $|NAME;text|.
func compileCall(in string) (piece, error) {
	name, text, ok := strings.Cut(in, ";")
	if !ok || name == "" {
		return piece{}, errors.New("$| without a table and a semicolon")
	}
	inner, err := compileTemplate(text)
	if err == nil && (inner.control != end || inner.flags != "") {
		err = errors.New("$| with a flag inside")
	}
	return piece{n: -1, table: strings.ToUpper(name), inner: inner}, err
}

// tables are those that t calls.
func (t *template) tables(visit func(name string)) {
	for i := range t.pieces {
		if p := &t.pieces[i]; p.inner != nil {
			visit(p.table)
			p.inner.tables(visit)
		}
	}
}
