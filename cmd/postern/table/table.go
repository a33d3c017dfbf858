/*
Package table prints rows of text with aligned columns for a terminal.

What it prints may come from strangers, such as addresses and replies; control
characters and other octets that a terminal could act upon are printed in the
form \x1b, so nothing in a cell can leave it.
*/
package table

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// gap is the space between two columns.
const gap = 2

// Table collects rows. The zero Table is empty.
type Table struct {
	head  []string
	rows  [][]string
	right map[int]bool
}

// New begins a table with the names of its columns. A name that begins with
// ">" stands for a column of numbers, set to the right.
func New(head ...string) *Table {
	t := &Table{right: map[int]bool{}}
	for i, h := range head {
		if name, ok := strings.CutPrefix(h, ">"); ok {
			h, t.right[i] = name, true
		}
		t.head = append(t.head, strings.ToUpper(h))
	}
	return t
}

// Row adds a row; values are printed as with %v.
func (t *Table) Row(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		row[i] = Clean(fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

// Len is the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// Print writes the table; without rows, nothing.
func (t *Table) Print(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	rows := append([][]string{t.head}, t.rows...)
	widths := make([]int, len(t.head))
	for _, r := range rows {
		for i, c := range r {
			if i < len(widths) {
				widths[i] = max(widths[i], utf8.RuneCountInString(c))
			}
		}
	}
	var b strings.Builder
	for _, r := range rows {
		var line strings.Builder
		for i, c := range r {
			pad := ""
			if i < len(widths) {
				pad = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			}
			if t.right[i] {
				c, pad = pad+c, ""
			}
			line.WriteString(c)
			line.WriteString(pad)
			line.WriteString(strings.Repeat(" ", gap))
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Clean makes s safe for a terminal: one line, nothing that it acts upon.
func Clean(s string) string {
	safe := func(r rune, size int) bool {
		return !(r == utf8.RuneError && size <= 1) && (unicode.IsPrint(r) || r == ' ')
	}
	dirty := false
	for i, r := range s {
		if !safe(r, runeSize(s[i:])) {
			dirty = true
			break
		}
	}
	if !dirty {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case safe(r, size):
			b.WriteString(s[i : i+size])
		case size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += size
	}
	return b.String()
}

func runeSize(s string) int {
	_, size := utf8.DecodeRuneInString(s)
	return size
}

// Size prints a number of octets in the largest unit that it fills.
func Size(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprint(n)
	}
	v, unit := float64(n), ""
	for _, u := range []string{"K", "M", "G", "T"} {
		if v < step {
			break
		}
		v, unit = v/step, u
	}
	if v < 10 {
		return fmt.Sprintf("%.1f%s", v, unit)
	}
	return fmt.Sprintf("%.0f%s", v, unit)
}
