package embedded

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	maxLDIFLine  = 1 << 20
	maxLDIFLines = 400000 // in one record
)

// record is one record of LDIF (RFC 2849): an entry, or a change.
type record struct {
	line    int // where it begins
	dn      string
	op      byte // opAdd for entries and additions, opDelete, opModify, opModifyDN
	attrs   []attribute
	changes []change

	newRDN      string
	deleteOld   bool
	newSuperior string
	hasSuperior bool
}

// LDIFError says in which line LDIF cannot be read.
type LDIFError struct {
	Line int
	Err  error
}

func (e *LDIFError) Error() string { return fmt.Sprintf("LDIF line %d: %v", e.Line, e.Err) }

func (e *LDIFError) Unwrap() error { return e.Err }

// ldifReader reads records one by one. It reads values that stand in the file
// only: "attribute:< URL" is refused.
type ldifReader struct {
	r     *bufio.Reader
	line  int
	ahead []byte // a physical line that was read too far, nil if none
	eof   bool

	// offset is where the record that next returned last ends: octets up to
	// and with the empty line after it. complete is false when the file ended
	// without one.
	offset   int64
	complete bool
	pos      int64
}

func newLDIFReader(r io.Reader) *ldifReader { return &ldifReader{r: bufio.NewReaderSize(r, 64<<10)} }

// physical returns the next line without its end. io.EOF when there is none.
func (l *ldifReader) physical() ([]byte, error) {
	if l.ahead != nil {
		b := l.ahead
		l.ahead = nil
		return b, nil
	}
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		l.pos += int64(len(part))
		if len(line)+len(part) > maxLDIFLine {
			return nil, errors.New("line too long")
		}
		line = append(line, part...)
		switch err {
		case nil:
			l.line++
			line = bytes.TrimSuffix(line, []byte("\n"))
			return bytes.TrimSuffix(line, []byte("\r")), nil
		case bufio.ErrBufferFull:
		case io.EOF:
			l.eof = true
			if len(line) == 0 {
				return nil, io.EOF
			}
			l.line++
			return line, nil
		default:
			return nil, err
		}
	}
}

// logical returns the next line with its continuations joined, skipping
// comments; nil at the empty line that ends a record.
func (l *ldifReader) logical() ([]byte, error) {
	for {
		line, err := l.physical()
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			return nil, nil
		}
		line = bytes.Clone(line)
		for {
			more, err := l.physical()
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
			if len(more) == 0 || more[0] != ' ' {
				l.ahead = append([]byte{}, more...)
				break
			}
			if len(line)+len(more) > 16<<20 {
				return nil, errors.New("line too long")
			}
			line = append(line, more[1:]...)
		}
		if line[0] != '#' {
			return line, nil
		}
	}
}

// next returns the next record, or io.EOF.
func (l *ldifReader) next() (*record, error) {
	var lines []ldifLine
	start := 0
	l.complete = false
	for {
		raw, err := l.logical()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, &LDIFError{l.line, err}
		}
		if raw == nil {
			if len(lines) == 0 {
				continue
			}
			l.complete = true
			l.offset = l.pos
			break
		}
		line, err := parseLDIFLine(raw)
		if err != nil {
			return nil, &LDIFError{l.line, err}
		}
		if len(lines) == 0 {
			if line.name == "version" {
				if line.value != "1" {
					return nil, &LDIFError{l.line, errors.New("unknown version")}
				}
				continue
			}
			start = l.line
		}
		if len(lines) == maxLDIFLines {
			return nil, &LDIFError{l.line, errors.New("record too long")}
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return nil, io.EOF
	}
	rec, err := parseRecord(lines)
	if err != nil {
		return nil, &LDIFError{start, err}
	}
	rec.line = start
	return rec, nil
}

type ldifLine struct {
	spelled string // attribute as spelled
	name    string // in lower case; "-" for the separator of modifications
	value   string
}

func parseLDIFLine(b []byte) (ldifLine, error) {
	if string(b) == "-" {
		return ldifLine{"-", "-", ""}, nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return ldifLine{}, errors.New("NUL in line")
	}
	colon := bytes.IndexByte(b, ':')
	if colon <= 0 {
		return ldifLine{}, errors.New("no colon")
	}
	spelled := string(b[:colon])
	if !validName(spelled) {
		return ldifLine{}, fmt.Errorf("bad attribute description %.40q", spelled)
	}
	l := ldifLine{spelled: spelled, name: strings.ToLower(spelled)}
	v := b[colon+1:]
	switch {
	case len(v) > 0 && v[0] == ':':
		raw, err := base64.StdEncoding.DecodeString(string(bytes.Trim(v[1:], " ")))
		if err != nil {
			return ldifLine{}, fmt.Errorf("%s: %w", spelled, err)
		}
		l.value = string(raw)
	case len(v) > 0 && v[0] == '<':
		return ldifLine{}, fmt.Errorf("%s: values from files are not read", spelled)
	default:
		l.value = string(bytes.TrimLeft(v, " "))
	}
	return l, nil
}

func parseRecord(lines []ldifLine) (*record, error) {
	if lines[0].name != "dn" {
		return nil, errors.New("record does not begin with a dn line")
	}
	r := &record{dn: lines[0].value, op: opAdd}
	if len(r.dn) > maxDN {
		return nil, errors.New("dn too long")
	}
	lines = lines[1:]
	for len(lines) > 0 && lines[0].name == "control" {
		if strings.Contains(lines[0].value, " true") {
			return nil, errors.New("critical control")
		}
		lines = lines[1:]
	}
	kind := "add"
	if len(lines) > 0 && lines[0].name == "changetype" {
		kind = strings.ToLower(lines[0].value)
		lines = lines[1:]
	}
	switch kind {
	case "add":
		return r, r.parseAttributes(lines)
	case "delete":
		r.op = opDelete
		if len(lines) > 0 {
			return nil, errors.New("a deletion has no attributes")
		}
		return r, nil
	case "modify":
		r.op = opModify
		return r, r.parseChanges(lines)
	case "modrdn", "moddn":
		r.op = opModifyDN
		return r, r.parseModifyDN(lines)
	}
	return nil, fmt.Errorf("unknown changetype %.20q", kind)
}

func (r *record) parseAttributes(lines []ldifLine) error {
	if len(lines) == 0 {
		return errors.New("entry without attributes")
	}
	at := map[string]int{}
	for _, l := range lines {
		if l.name == "-" {
			return errors.New("unexpected -")
		}
		i, ok := at[l.name]
		if !ok {
			if len(r.attrs) == maxAttributes {
				return errLimit
			}
			i = len(r.attrs)
			at[l.name] = i
			r.attrs = append(r.attrs, attribute{name: l.spelled, lower: l.name})
		}
		r.attrs[i].values = append(r.attrs[i].values, l.value)
	}
	return nil
}

func (r *record) parseChanges(lines []ldifLine) error {
	kinds := map[string]int64{"add": 0, "delete": 1, "replace": 2, "increment": 3}
	for len(lines) > 0 {
		kind, ok := kinds[lines[0].name]
		name := lines[0].value
		if !ok || !validName(name) {
			return fmt.Errorf("bad modification %.40q", lines[0].spelled+": "+name)
		}
		c := change{kind, attribute{name: name, lower: strings.ToLower(name)}}
		lines = lines[1:]
		for len(lines) > 0 && lines[0].name != "-" {
			if lines[0].name != c.lower {
				return fmt.Errorf("%.40q in the modification of %s", lines[0].spelled, name)
			}
			c.values = append(c.values, lines[0].value)
			lines = lines[1:]
		}
		if len(lines) > 0 {
			lines = lines[1:]
		}
		if len(r.changes) == maxAttributes {
			return errLimit
		}
		r.changes = append(r.changes, c)
	}
	return nil
}

func (r *record) parseModifyDN(lines []ldifLine) error {
	for _, l := range lines {
		switch l.name {
		case "newrdn":
			r.newRDN = l.value
		case "deleteoldrdn":
			r.deleteOld = l.value == "1"
		case "newsuperior":
			r.newSuperior, r.hasSuperior = l.value, true
		default:
			return fmt.Errorf("%.40q in a modrdn", l.spelled)
		}
	}
	if r.newRDN == "" {
		return errors.New("modrdn without newrdn")
	}
	return nil
}

// appendLine appends "name: value", in base64 where RFC 2849 wants it, folded
// at 76 columns.
func appendLine(b []byte, name, value string) []byte {
	start := len(b)
	b = append(b, name...)
	if safeString(value) {
		b = append(b, ": "...)
		b = append(b, value...)
	} else {
		b = append(b, ":: "...)
		b = base64.StdEncoding.AppendEncode(b, []byte(value))
	}
	if n := len(b) - start; n > 76 {
		line := string(b[start:])
		b = append(b[:start], line[:76]...)
		for line = line[76:]; line != ""; {
			k := min(75, len(line))
			b = append(append(b, "\n "...), line[:k]...)
			line = line[k:]
		}
	}
	return append(b, '\n')
}

// safeString is SAFE-STRING of RFC 2849, without a space at the end.
func safeString(s string) bool {
	if s == "" {
		return true
	}
	if c := s[0]; c == ' ' || c == ':' || c == '<' || s[len(s)-1] == ' ' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == 0 || c == '\n' || c == '\r' || c >= 0x80 {
			return false
		}
	}
	return true
}

func appendEntry(b []byte, o *object) []byte {
	b = appendLine(b, "dn", o.dn)
	b = append(b, "changetype: add\n"...)
	for i := range o.attrs {
		for _, v := range o.attrs[i].values {
			b = appendLine(b, o.attrs[i].name, v)
		}
	}
	return append(b, '\n')
}

func appendChanges(b []byte, dn string, changes []change) []byte {
	b = appendLine(b, "dn", dn)
	b = append(b, "changetype: modify\n"...)
	for _, c := range changes {
		b = appendLine(b, [...]string{"add", "delete", "replace", "increment"}[c.kind], c.name)
		for _, v := range c.values {
			b = appendLine(b, c.name, v)
		}
		b = append(b, "-\n"...)
	}
	return append(b, '\n')
}
