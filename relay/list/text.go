package list

import (
	"bytes"
	"encoding/base64"
	"html"
	"io"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/message"
)

// place is the part that a text goes into.
type place struct {
	part       *message.Part
	root       bool
	boundaries []string // of the multiparts around it
}

const protected = "the message is signed or encrypted"

// find is the first text part. why says that there is none, or that it must
// not be touched.
func find(p *message.Part, root bool, boundaries []string) (at *place, why string) {
	switch p.Type {
	case "MULTIPART":
		switch p.Subtype {
		case "SIGNED", "ENCRYPTED":
			return nil, protected
		case "REPORT":
			return nil, ""
		}
		boundaries = append(boundaries[:len(boundaries):len(boundaries)], param(p, "boundary"))
		for _, c := range p.Children {
			if at, why = find(c, false, boundaries); at != nil || why != "" {
				return at, why
			}
		}
	case "APPLICATION":
		switch p.Subtype {
		case "PKCS7-MIME", "X-PKCS7-MIME", "PGP", "PGP-ENCRYPTED":
			return nil, protected
		}
	case "TEXT":
		if !strings.EqualFold(p.Disposition, "attachment") && (p.Subtype == "PLAIN" || p.Subtype == "HTML") {
			return &place{p, root, boundaries}, ""
		}
	}
	return nil, ""
}

func param(p *message.Part, name string) string {
	for i := range p.Params {
		if strings.EqualFold(p.Params[i].Name, name) {
			return p.Params[i].Value
		}
	}
	return ""
}

// insert puts prefix and suffix around the first text of msg. header is the
// message's own header block when that changes, nil otherwise.
func insert(msg []byte, root *message.Part, prefix, suffix string) (header []byte, edits []edit, why string) {
	at, why := find(root, true, nil)
	switch {
	case why != "":
		return nil, nil, why
	case at == nil:
		return nil, nil, "the message has no text"
	}
	p := at.part
	body := msg[p.Body.Off:p.Body.End()]
	if bytes.Contains(body, []byte("-----BEGIN PGP ")) {
		return nil, nil, protected
	}
	before, after := crlf(prefix), crlf(suffix)
	for _, b := range at.boundaries {
		if b != "" && (strings.Contains(before, "--"+b) || strings.Contains(after, "--"+b)) {
			return nil, nil, "it contains the message's own delimiter"
		}
	}
	if p.Subtype == "HTML" {
		return at.html(msg, prefix, suffix)
	}
	if raw := at.raw(body, before, after); raw != nil {
		return nil, raw, ""
	}
	return at.rewrite(msg, before, after)
}

// crlf gives a text the line ends of a message.
func crlf(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "\r", ""), "\n", "\r\n") }

// ascii are charsets in which the octets of ASCII stand for themselves, at the
// start and the end of a text.
func asciiLike(charset string) bool {
	switch charset {
	case "", "us-ascii", "ascii", "utf-8", "utf8", "iso-2022-jp", "shift_jis", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5", "tis-620", "macintosh":
		return true
	}
	for _, p := range []string{"iso-8859-", "windows-125", "koi8-"} {
		if strings.HasPrefix(charset, p) {
			return true
		}
	}
	return false
}

func isASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// raw adds the texts without touching what is there; nil where the part's
// charset or encoding has no room for them.
func (at *place) raw(body []byte, before, after string) []edit {
	p := at.part
	charset := strings.ToLower(strings.TrimSpace(param(p, "charset")))
	plain := isASCII(before) && isASCII(after)
	if !(plain && asciiLike(charset)) && charset != "utf-8" && charset != "utf8" {
		return nil
	}
	encode := func(s string) string { return s }
	switch p.Encoding {
	case "7BIT":
		if !plain || tooLong(before) || tooLong(after) {
			return nil
		}
	case "8BIT", "BINARY":
		if tooLong(before) || tooLong(after) {
			return nil
		}
	case "QUOTED-PRINTABLE":
		encode = qp
	default:
		return nil
	}
	var edits []edit
	if before != "" {
		edits = append(edits, edit{p.Body.Off, p.Body.Off, []byte(encode(before))})
	}
	if after != "" {
		tail := encode(after)
		if len(body) > 0 && body[len(body)-1] != '\n' {
			tail = "\r\n" + tail
		}
		if !at.root {
			tail = strings.TrimSuffix(tail, "\r\n")
		}
		edits = append(edits, edit{p.Body.End(), p.Body.End(), []byte(tail)})
	}
	return edits
}

// tooLong reports whether a line is longer than SMTP takes (RFC 5321 4.5.3.1.6).
func tooLong(s string) bool {
	for line := range strings.SplitSeq(s, "\r\n") {
		if len(line) > 990 {
			return true
		}
	}
	return false
}

// rewrite makes the part UTF-8, with the texts in it.
func (at *place) rewrite(msg []byte, before, after string) (header []byte, edits []edit, why string) {
	text, ok := at.text(msg)
	if !ok {
		return nil, nil, "the text is in a charset that is not known: " + param(at.part, "charset")
	}
	if n := len(text); n > 0 && text[n-1] != '\n' && after != "" {
		text += "\r\n"
	}
	return at.replace(msg, before+text+after)
}

// text is the part's text in UTF-8.
func (at *place) text(msg []byte) (string, bool) {
	text, ok := at.part.Text(msg, 0)
	if !ok || !utf8.Valid(text) {
		return "", false
	}
	return crlf(string(text)), true
}

// html adds the texts as paragraphs.
func (at *place) html(msg []byte, prefix, suffix string) (header []byte, edits []edit, why string) {
	text, ok := at.text(msg)
	if !ok {
		return nil, nil, "the text is in a charset that is not known: " + param(at.part, "charset")
	}
	paragraph := func(s string) string {
		if s == "" {
			return ""
		}
		return "<p>" + strings.ReplaceAll(html.EscapeString(strings.TrimRight(s, "\r\n")), "\n", "<br>\r\n") + "</p>\r\n"
	}
	lower := strings.ToLower(text)
	if len(lower) != len(text) { // folding moved the offsets
		lower = text
	}
	end := strings.LastIndex(lower, "</body")
	if end < 0 {
		end = len(text)
	}
	start := 0
	if i := strings.Index(lower, "<body"); i >= 0 && i < end {
		if j := strings.IndexByte(lower[i:], '>'); j >= 0 && i+j+1 <= end {
			start = i + j + 1
		}
	}
	return at.replace(msg, text[:start]+paragraph(prefix)+text[start:end]+paragraph(suffix)+text[end:])
}

// replace puts text in the place of the part's body, as UTF-8 in
// quoted-printable, or in base64 if that is what the part has now.
func (at *place) replace(msg []byte, text string) (header []byte, edits []edit, why string) {
	p := at.part
	encoding, body := "quoted-printable", ""
	if p.Encoding == "BASE64" {
		encoding, body = "base64", b64(text)
	} else {
		body = qp(text)
	}
	if !at.root {
		body = strings.TrimSuffix(body, "\r\n")
	}
	var head []byte
	for f := range message.Fields(msg[p.Header.Off:p.Header.End()]) {
		if name := string(f.Name); strings.EqualFold(name, "Content-Type") || strings.EqualFold(name, "Content-Transfer-Encoding") {
			continue
		}
		head = append(head, f.Raw...)
		if !bytes.HasSuffix(f.Raw, []byte("\n")) {
			head = append(head, '\r', '\n')
		}
	}
	head = append(head, "Content-Type: text/"+strings.ToLower(p.Subtype)+"; charset=utf-8"...)
	for _, q := range p.Params {
		if strings.EqualFold(q.Name, "charset") || !message.ValidFieldName(q.Name) || !isASCII(q.Value) ||
			strings.ContainsAny(q.Value, "\"\\\r\n") || len(q.Value) > 100 {
			continue
		}
		head = append(head, ";\r\n "+strings.ToLower(q.Name)+"=\""+q.Value+"\""...)
	}
	head = append(head, "\r\nContent-Transfer-Encoding: "+encoding+"\r\n"...)
	if at.root {
		if !hasField(head, "MIME-Version") {
			head = append(head, "MIME-Version: 1.0\r\n"...)
		}
		return append(head, '\r', '\n'), []edit{{p.Body.Off, p.Body.End(), []byte(body)}}, ""
	}
	head = append(head, '\r', '\n')
	return nil, []edit{{p.Header.Off, p.Header.End(), head}, {p.Body.Off, p.Body.End(), []byte(body)}}, ""
}

func hasField(header []byte, name string) bool {
	_, ok := message.Get(header, name)
	return ok
}

// qp is quoted-printable (RFC 2045 6.7).
func qp(s string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, s) // a strings.Builder takes everything
	_ = w.Close()
	return b.String()
}

// b64 is base64 in lines of 76 characters.
func b64(s string) string {
	code := base64.StdEncoding.EncodeToString([]byte(s))
	var b strings.Builder
	for len(code) > 76 {
		b.WriteString(code[:76] + "\r\n")
		code = code[76:]
	}
	if code != "" {
		b.WriteString(code + "\r\n")
	}
	return b.String()
}
