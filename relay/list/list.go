package list

import (
	"bytes"
	"mime"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// Changes is what a list does to its messages.
type Changes struct {
	List mail.Address // the list itself

	Remove []string // names of fields
	Add    []string // "Name: value", where there is no such field
	Tag    string   // at the start of Subject unless it is there already

	// Unsubscribe are URLs for List-Unsubscribe; with one of https among them
	// one click is enough (RFC 8058).
	Unsubscribe []string

	Prefix, Suffix string // texts, lines ended by LF

	// Moderate marks a copy for the moderators: nothing but X-Original-To,
	// which names the list, is added.
	Moderate bool
}

// Apply returns the list's copy of msg. notes say what was left out and why.
func Apply(msg []byte, c *Changes) (out []byte, notes []string) {
	if c.Moderate {
		out = make([]byte, 0, len(msg)+len(c.List.Local)+len(c.List.Domain)+32)
		out = append(out, "X-Original-To: "...)
		out = append(append(append(out, c.List.String()...), '\r', '\n'), msg...)
		return out, nil
	}
	var edits []edit
	var header []byte // of the message, when a text changes it
	if c.Prefix != "" || c.Suffix != "" {
		var why string
		if header, edits, why = insert(msg, message.Parse(msg), c.Prefix, c.Suffix); why != "" {
			notes = append(notes, "text left out: "+why)
		}
	}
	n := message.HeaderLen(msg)
	if header == nil {
		header = msg[:n]
	}
	head, more := c.fields(header)
	notes = append(notes, more...)
	if signed := brokenSignatures(msg[:n], head, edits != nil); signed != "" {
		notes = append(notes, "signature no longer holds: "+signed)
	}
	out = make([]byte, 0, len(msg)+len(head)+len(c.Prefix)+len(c.Suffix)+256)
	out = append(out, head...)
	if n == len(msg) || blank(msg[:n]) { // not when the header is too long to be read whole
		out = append(out, '\r', '\n')
	}
	at := int64(n)
	for _, e := range edits {
		out = append(out, msg[at:e.from]...)
		out = append(out, e.with...)
		at = e.to
	}
	return append(out, msg[at:]...), notes
}

// blank reports whether a header block ends in its empty line.
func blank(header []byte) bool {
	return bytes.HasSuffix(header, []byte("\r\n\r\n")) || bytes.Equal(header, []byte("\r\n")) || bytes.HasSuffix(header, []byte("\n\n"))
}

// edit replaces octets of the message.
type edit struct {
	from, to int64
	with     []byte
}

// fields returns the list's header, without the empty line.
func (c *Changes) fields(header []byte) (out []byte, notes []string) {
	own, drop := c.own(), c.Remove
	have := map[string]bool{}
	tagged := c.Tag == ""
	for f := range message.Fields(header) {
		name := string(f.Name)
		if name != "" && (listField(name) || slices.ContainsFunc(drop, func(d string) bool { return strings.EqualFold(d, name) })) {
			continue
		}
		have[strings.ToLower(name)] = true
		if !tagged && strings.EqualFold(name, "Subject") {
			tagged = true
			out = c.subject(out, f)
			continue
		}
		out = append(out, f.Raw...)
		if !bytes.HasSuffix(f.Raw, []byte("\n")) {
			out = append(out, '\r', '\n')
		}
	}
	if !tagged {
		out = message.AppendField(out, "Subject", c.Tag)
	}
	for _, text := range c.Add {
		name, value, ok := strings.Cut(text, ":")
		name = strings.TrimSpace(name)
		switch {
		case !ok || !message.ValidFieldName(name):
			notes = append(notes, "not a header field: "+text)
		case !have[strings.ToLower(name)]:
			have[strings.ToLower(name)] = true
			out = message.AppendField(out, name, strings.TrimSpace(value))
		}
	}
	for _, f := range own {
		out = append(append(append(append(out, f.name...), ": "...), f.value...), '\r', '\n')
	}
	return out, notes
}

// listField reports whether a field belongs to the list that a message came by:
// the copy is another list's, whose members are not to leave that one (RFC 2369 4).
func listField(name string) bool {
	for _, f := range []string{
		"List-Id", "List-Help", "List-Subscribe", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Post", "List-Owner", "List-Archive",
	} {
		if strings.EqualFold(f, name) {
			return true
		}
	}
	return false
}

// subject appends the Subject f with the tag.
func (c *Changes) subject(out []byte, f message.Field) []byte {
	text := message.DecodeWords(string(message.Unfold(f.Body)))
	if strings.Contains(strings.ToLower(text), strings.ToLower(c.Tag)) {
		return append(out, f.Raw...)
	}
	tag := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, c.Tag)
	out = append(append(append(out, f.Name...), ": "...), mime.QEncoding.Encode("utf-8", tag)...)
	if rest := bytes.TrimLeft(f.Body, " \t"); len(bytes.TrimSpace(rest)) > 0 {
		out = append(append(out, ' '), rest...)
		return out
	}
	return append(out, '\r', '\n')
}

type field struct{ name, value string }

// own are the fields that are the list's and nobody else's (RFC 2369, 2919,
// 8058).
func (c *Changes) own() []field {
	if c.List.IsNull() || !c.List.IsASCII() {
		return nil
	}
	label := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(c.List.Local))
	out := []field{
		{"List-Id", "<" + strings.Trim(label, ".") + "." + c.List.Domain + ">"},
		{"List-Post", "<mailto:" + uri(c.List.String()) + ">"},
	}
	var urls []string
	click := false
	for _, u := range c.Unsubscribe {
		if u = uri(strings.TrimSpace(u)); u != "" {
			urls = append(urls, "<"+u+">")
			click = click || len(u) > 8 && strings.EqualFold(u[:8], "https://")
		}
	}
	if len(urls) > 0 {
		out = append(out, field{"List-Unsubscribe", strings.Join(urls, ",\r\n ")})
	}
	if click {
		out = append(out, field{"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"})
	}
	return out
}

// uri writes what cannot stand in a URI between angle brackets as %XX.
func uri(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '"' || c == '\\' || c == ',' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
