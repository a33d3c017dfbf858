package milter

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/message"
)

// field is one header field as it stands in the message, with its line end.
type field struct {
	raw  []byte
	name []byte
}

// value is what a filter is told: without the last line end, lines apart by LF,
// and unless lead is set without one space before it, as Sendmail has it.
func (f field) value(lead bool) []byte {
	v := f.raw[bytes.IndexByte(f.raw, ':')+1:]
	v = bytes.TrimSuffix(v, crlf)
	if !lead && len(v) > 0 && v[0] == ' ' {
		v = v[1:]
	}
	if bytes.IndexByte(v, '\n') < 0 {
		return v
	}
	return bytes.ReplaceAll(v, crlf, crlf[1:])
}

var crlf = []byte("\r\n")

// parts is a message in the parts that a filter is told of.
type parts struct {
	fields []field
	empty  bool // an empty line is between header and body
	body   []byte
}

// split finds the parts of msg by their offsets. The header ends at the empty line
// or at the first line that is no part of one, as in Postfix: what a filter is not
// told as header it is told as body, so there is nothing that it does not see.
func split(msg []byte) (p parts) {
	from := 0 // where the last field begins
	for at := 0; at < len(msg); {
		next := len(msg)
		if i := bytes.IndexByte(msg[at:], '\n'); i >= 0 {
			next = at + i + 1
		}
		line := msg[at:next]
		switch {
		case bytes.Equal(line, crlf):
			p.empty, p.body = true, msg[next:]
			return p
		case line[0] == ' ' || line[0] == '\t':
			if len(p.fields) == 0 {
				p.body = msg[at:]
				return p
			}
			p.fields[len(p.fields)-1].raw = msg[from:next:next]
		default:
			name := fieldName(line)
			if name == nil {
				p.body = msg[at:]
				return p
			}
			p.fields, from = append(p.fields, field{msg[at:next:next], name}), at
		}
		at = next
	}
	return p
}

// fieldName is the name of the field that line begins, nil if it begins none.
func fieldName(line []byte) []byte {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return nil
	}
	name := bytes.TrimRight(line[:colon], " \t")
	if !validName(name) {
		return nil
	}
	return name
}

// validName reports whether s is the name of a field: RFC 5322 2.2, ftext.
func validName[S ~string | ~[]byte](s S) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ':' {
			return false
		}
	}
	return len(s) > 0
}

// edit is one change of the header.
type edit struct {
	code        byte // respAddHeader, respInsHeader, respChgHeader
	index       uint32
	name, value string
}

// edits are the changes that a filter wants in a message.
type edits struct {
	header  []edit
	body    []byte // what replaces the body
	newBody bool
}

// apply makes the message that p and e give, nil if that is the same, and says what
// was changed. lead says that values bring their own space behind the colon.
// Whatever the edits are, the message has strict CRLF and each value stays inside
// its field. left is told of edits that are left out.
func (e *edits) apply(p parts, lead bool, left func(why string)) (msg []byte, notes []string, err error) {
	// Our own Received field is counted, but is not there yet.
	fields := slices.Concat([]field{{}}, p.fields)
	for _, c := range e.header {
		if !validName(c.name) {
			left(fmt.Sprintf("%.40q is no name of a field", printable(c.name)))
			continue
		}
		if fields, c.code = c.do(fields, lead); c.code != 0 {
			notes = append(notes, c.name+map[byte]string{respAddHeader: " added", respChgHeader: " changed", respDelHeader: " removed"}[c.code])
		}
	}
	if len(notes) == 0 && !e.newBody {
		return nil, nil, nil
	}
	edited, body := len(notes) > 0, p.body
	if e.newBody {
		if body, err = strict(e.body); err != nil {
			return nil, nil, err
		}
		notes = append(notes, "body replaced")
	}
	size := len(body) + 4
	for _, f := range fields {
		size += len(f.raw)
	}
	if edited && size-len(body) > message.MaxHeader {
		return nil, nil, fmt.Errorf("the header would have %d octets", size-len(body))
	}
	msg = make([]byte, 0, size)
	for _, f := range fields {
		msg = append(msg, f.raw...)
		if f.raw != nil && !bytes.HasSuffix(msg, crlf) {
			msg = append(msg, crlf...)
		}
	}
	if p.empty || len(body) > 0 {
		msg = append(msg, crlf...)
	}
	return append(msg, body...), notes, nil
}

// respDelHeader is what respChgHeader with an empty value does.
const respDelHeader = 'D'

// do changes the header and says what that was, 0 if nothing.
func (c *edit) do(fields []field, lead bool) ([]field, byte) {
	switch c.code {
	case respInsHeader:
		at := int(min(int64(len(fields)), int64(c.index)))
		return slices.Insert(fields, at, c.field(lead)), respAddHeader
	case respChgHeader:
		n, name := max(c.index, 1), []byte(c.name) // 0 is the first, as in Sendmail
		for i := range fields {
			if !bytes.EqualFold(fields[i].name, name) {
				continue
			}
			if n--; n > 0 {
				continue
			}
			if c.value == "" {
				return slices.Delete(fields, i, i+1), respDelHeader
			}
			fields[i] = c.field(lead)
			return fields, respChgHeader
		}
		if c.value == "" {
			return fields, 0
		}
	}
	return append(fields, c.field(lead)), respAddHeader
}

// field writes the field. A line of the value that does not begin with white space
// gets some; one of nothing else is dropped, since it would end the header for
// many.
func (c *edit) field(lead bool) field {
	raw := make([]byte, 0, len(c.name)+len(c.value)+8)
	raw = append(append(raw, c.name...), ':')
	if !lead {
		raw = append(raw, ' ')
	}
	text := lines.Replace(c.value)
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			if strings.Trim(line, " \t") == "" {
				continue
			}
			raw = append(raw, crlf...)
			if line[0] != ' ' && line[0] != '\t' {
				raw = append(raw, '\t')
			}
		}
		raw = append(raw, line...)
	}
	return field{append(raw, crlf...), []byte(c.name)}
}

var lines = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "")

// strict returns b with CRLF line ends only, the last line with one, too.
func strict(b []byte) ([]byte, error) {
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, fmt.Errorf("the new body has NUL")
	}
	bare := 0
	for i, c := range b {
		if c == '\n' && (i == 0 || b[i-1] != '\r') || c == '\r' && (i+1 == len(b) || b[i+1] != '\n') {
			bare++
		}
	}
	ended := len(b) == 0 || b[len(b)-1] == '\n' || b[len(b)-1] == '\r'
	if bare == 0 && ended {
		return b, nil
	}
	out := make([]byte, 0, len(b)+bare+2)
	for i, c := range b {
		switch {
		case c == '\n' && (i == 0 || b[i-1] != '\r'), c == '\r' && (i+1 == len(b) || b[i+1] != '\n'):
			out = append(out, crlf...)
		default:
			out = append(out, c)
		}
	}
	if !ended {
		out = append(out, crlf...)
	}
	return out, nil
}
