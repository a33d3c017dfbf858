package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrNoTable says that there is no table of that name.
	ErrNoTable = errors.New("no such mapping table")
	// ErrLimit says that a mapping went on for too long.
	ErrLimit = errors.New("mapping goes on for too long")
)

// Bounds of a file and of one mapping.
const (
	maxFile    = 4 << 20
	maxEntries = 10_000 // of one table
	maxColumn  = 4096   // octets of a pattern or a template
	maxProbe   = 16 << 10
	maxResult  = 16 << 10
	maxApplied = 1000      // entries in one mapping
	maxDepth   = 10        // tables inside each other
	maxSteps   = 1_000_000 // comparisons in one mapping
)

// Tables are the tables of a file. The zero value has none.
type Tables struct{ byName map[string][]entry }

type entry struct {
	left  *pattern
	right *template
}

// Parse reads a file of tables. name stands in errors.
func Parse(name string, text []byte) (*Tables, error) {
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: %d octets, more than %d", name, len(text), maxFile)
	}
	p := parser{t: &Tables{byName: map[string][]entry{}}, calls: map[string]int{}}
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		at, line := i+1, lines[i]
		for strings.HasSuffix(line, "\\") && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + strings.TrimLeft(lines[i], " \t")
		}
		if err := p.line(line, at); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, at, err)
		}
	}
	for called, at := range p.calls {
		if _, ok := p.t.byName[called]; !ok {
			return nil, fmt.Errorf("%s:%d: %w: %s", name, at, ErrNoTable, called)
		}
	}
	return p.t, nil
}

type parser struct {
	t     *Tables
	table string
	calls map[string]int // tables that templates name, and where
}

func (p *parser) line(line string, at int) error {
	switch {
	case strings.TrimSpace(line) == "" || line[0] == '!':
		return nil
	case line[0] != ' ' && line[0] != '\t':
		name := strings.ToUpper(strings.TrimSpace(line))
		if !validName(name) {
			return fmt.Errorf("%q is no name of a table", strings.TrimSpace(line))
		}
		if _, ok := p.t.byName[name]; ok {
			return fmt.Errorf("a second table %s", name)
		}
		p.table, p.t.byName[name] = name, []entry{}
		return nil
	case p.table == "":
		return errors.New("an entry before the first table")
	}
	columns := split(line)
	if len(columns) > 2 {
		return fmt.Errorf("%d columns: a blank is written \"$ \"", len(columns))
	}
	columns = append(columns, "") // a template may be empty
	if len(columns[0]) > maxColumn || len(columns[1]) > maxColumn {
		return fmt.Errorf("longer than %d octets", maxColumn)
	}
	left, err := compile(columns[0])
	if err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	right, err := compileTemplate(columns[1])
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	right.tables(func(name string) {
		if _, ok := p.calls[name]; !ok {
			p.calls[name] = at
		}
	})
	if len(p.t.byName[p.table]) == maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	p.t.byName[p.table] = append(p.t.byName[p.table], entry{left, right})
	return nil
}

// validName reports whether name, in upper case, can be that of a table.
func validName(name string) bool {
	for i, c := range name {
		letter := c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9') && !strings.ContainsRune("-_.$", c)) {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// split cuts a line at blanks that no "$" stands before.
func split(line string) (columns []string) {
	begin := -1
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			if begin >= 0 {
				columns, begin = append(columns, line[begin:i]), -1
			}
			continue
		case begin < 0:
			begin = i
		}
		if line[i] == '$' && i+1 < len(line) {
			i++
		}
	}
	if begin >= 0 {
		columns = append(columns, line[begin:])
	}
	return columns
}

// Has reports whether there is a table of that name, which is compared without
// case.
func (t *Tables) Has(name string) bool {
	if t == nil {
		return false
	}
	_, ok := t.byName[strings.ToUpper(name)]
	return ok
}

// Names are the tables there are, in order.
func (t *Tables) Names() []string {
	var names []string
	if t != nil {
		for name := range t.byName {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Result is what a table makes of a probe.
type Result struct {
	Text    string // the probe itself without a match
	Matched bool
	Flags   string // letters
}

// Has reports whether a flag is set.
func (r *Result) Has(flag byte) bool { return strings.IndexByte(r.Flags, flag) >= 0 }

// Apply maps probe by a table. ErrNoTable, or ErrLimit.
func (t *Tables) Apply(name, probe string) (Result, error) {
	if t == nil {
		return Result{}, fmt.Errorf("%w: %s", ErrNoTable, name)
	}
	m := mapper{t: t, budget: maxSteps}
	return m.apply(strings.ToUpper(name), probe, 0)
}

// mapper is one call of Apply.
type mapper struct {
	t       *Tables
	budget  int
	applied int
}

func (m *mapper) apply(name, probe string, depth int) (Result, error) {
	entries, ok := m.t.byName[name]
	if !ok {
		return Result{}, fmt.Errorf("%w: %s", ErrNoTable, name)
	}
	if depth > maxDepth || len(probe) > maxProbe {
		return Result{}, fmt.Errorf("%w: %s", ErrLimit, name)
	}
	r := Result{Text: probe}
	input := []rune(probe)
	again := false // $L: once more from the top
	for i := 0; i < len(entries); {
		text, ok, err := m.entry(&entries[i], input, depth)
		if err != nil {
			return Result{}, fmt.Errorf("%w: %s", err, name)
		}
		turn := next
		if ok {
			if m.applied++; m.applied > maxApplied {
				return Result{}, fmt.Errorf("%w: %s", ErrLimit, name)
			}
			e := entries[i].right
			r = Result{Text: text, Matched: true, Flags: e.flags}
			input, turn = []rune(text), e.control
		}
		switch {
		case ok && turn == end:
			return r, nil
		case ok && turn == restart:
			i, again = 0, false
			continue
		case ok:
			again = turn == wrap
		}
		if i++; i == len(entries) && again {
			i, again = 0, false
		}
	}
	return r, nil
}

// entry is what an entry makes of input; ok says whether it matches.
func (m *mapper) entry(e *entry, input []rune, depth int) (text string, ok bool, err error) {
	kept, _, ok := e.left.match(input, &m.budget)
	if m.budget < 0 {
		return "", false, ErrLimit
	}
	if !ok {
		return "", false, nil
	}
	return m.fill(e.right, &kept, depth)
}

func (m *mapper) fill(t *template, kept *[maxKept]string, depth int) (string, bool, error) {
	var out strings.Builder
	fold := '_'
	for i := range t.pieces {
		p := &t.pieces[i]
		text := p.text
		switch {
		case p.fold != 0:
			fold = p.fold
			continue
		case p.n >= 0:
			text = kept[p.n]
		case p.inner != nil:
			in, ok, err := m.fill(p.inner, kept, depth)
			if !ok || err != nil {
				return "", false, err
			}
			r, err := m.apply(p.table, in, depth+1)
			if err != nil || !r.Matched {
				return "", false, err
			}
			text = r.Text
		}
		switch fold {
		case '\\':
			text = strings.ToLower(text)
		case '^':
			text = strings.ToUpper(text)
		}
		if out.Len()+len(text) > maxResult {
			return "", false, ErrLimit
		}
		out.WriteString(text)
	}
	return out.String(), true, nil
}
