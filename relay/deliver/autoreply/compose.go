package autoreply

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// Bounds of an answer's own words.
const (
	maxText       = 64 << 10 // octets
	maxSubject    = 250      // characters
	maxReferences = 20       // message ids
	maxMessageID  = 250      // octets of one
)

// composed is a finished answer. The same delivery gives the same octets, on
// every relay.
type composed struct {
	bytes []byte
	body  mail.BodyType
	utf8  bool
}

// compose makes the answer to d for r.
func (a *Agent) compose(id string, d *deliver.Delivery, r *mail.Recipient, header []byte) composed {
	m := composed{body: mail.Body7Bit, utf8: !author(r).IsASCII() || !d.Envelope.ReversePath.IsASCII()}
	h := fields(id, d, r, header)
	text, encoding := encode(clean(r.Autoreply.Text))
	var o bytes.Buffer
	o.Grow(len(h) + len(text) + 2048)
	o.Write(h)
	if r.Autoreply.Mode == mail.AutoreplyReply {
		o.WriteString("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n")
		o.Write(text)
		m.bytes = o.Bytes()
		return m
	}
	content, whole := a.content(d, r.Autoreply.Mode, header)
	outer := "7bit"
	if !ascii(content) || m.utf8 {
		m.body, outer = mail.Body8BitMIME, "8bit"
	}
	boundary := "=_" + id
	for bytes.Contains(content, []byte(boundary)) || bytes.Contains(text, []byte(boundary)) {
		boundary += "_"
	}
	kind := func(plain, global string) string { // RFC 6533
		if m.utf8 {
			return global
		}
		return plain
	}
	contentType := kind("text/rfc822-headers", "message/global-headers")
	if whole {
		contentType = kind("message/rfc822", "message/global")
	}
	o.WriteString("Content-Transfer-Encoding: " + outer)
	o.WriteString("\r\nContent-Type: multipart/report; report-type=disposition-notification;\r\n\tboundary=\"" + boundary + "\"\r\n\r\n")
	part := func(contentType, encoding string, b []byte) {
		o.WriteString("--" + boundary + "\r\nContent-Type: " + contentType + "\r\nContent-Transfer-Encoding: " + encoding + "\r\n\r\n")
		o.Write(b)
		o.WriteString("\r\n")
	}
	part("text/plain; charset=utf-8", encoding, text)
	part(kind("message/disposition-notification", "message/global-disposition-notification"), outer, disposition(r, header, m.utf8))
	part(contentType, outer, content)
	o.WriteString("--" + boundary + "--\r\n")
	m.bytes = o.Bytes()
	return m
}

// author is who answers.
func author(r *mail.Recipient) mail.Address {
	if a := r.Autoreply.From; !a.IsNull() {
		return a
	}
	return r.Address
}

// fields is the header of an answer up to the description of its content
// (RFC 3834 3, RFC 5230 5).
func fields(id string, d *deliver.Delivery, r *mail.Recipient, header []byte) []byte {
	from := author(r)
	h := make([]byte, 0, 1024)
	h = message.AppendField(h, "Date", d.Envelope.Arrival.UTC().Format(time.RFC1123Z))
	h = message.AppendMailboxField(h, "From", "", from)
	h = message.AppendMailboxField(h, "To", "", d.Envelope.ReversePath)
	h = message.AppendField(h, "Subject", subject(r.Autoreply.Subject, header))
	h = message.AppendField(h, "Message-ID", "<"+id+"@"+host(from)+">")
	if of := messageID(header); of != "" {
		h = message.AppendField(h, "In-Reply-To", of)
		h = message.AppendField(h, "References", strings.Join(append(references(header), of), " "))
	}
	h = message.AppendField(h, "Auto-Submitted", "auto-replied")
	return append(h, "MIME-Version: 1.0\r\n"...)
}

// host is the domain of an address, for places where only ASCII can be.
func host(a mail.Address) string {
	if a.Domain == "" || !a.IsASCII() {
		return "autoreply.invalid"
	}
	return a.Domain
}

// subject is the one given, or made from the original's.
func subject(given string, header []byte) string {
	s := given
	if s == "" {
		s = "Automatic reply"
		if v, ok := message.Get(header, "Subject"); ok && len(v) > 0 {
			s = "Auto: " + message.DecodeWords(string(v))
		}
	}
	n := 0
	for i := range s {
		if n++; n > maxSubject {
			return s[:i]
		}
	}
	return s
}

// messageID is that of the original, "" if it has none to refer to.
func messageID(header []byte) string {
	if v, ok := message.Get(header, "Message-ID"); ok && isMessageID(string(v)) {
		return string(v)
	}
	return ""
}

func isMessageID(s string) bool {
	if len(s) < 3 || len(s) > maxMessageID || s[0] != '<' || s[len(s)-1] != '>' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// references are what the original refers to (RFC 5322 3.6.4), the last ones.
func references(header []byte) []string {
	v, ok := message.Get(header, "References")
	if !ok {
		v, _ = message.Get(header, "In-Reply-To")
	}
	var ids []string
	for _, id := range strings.Fields(string(v)) {
		if isMessageID(id) {
			ids = append(ids, id)
		}
	}
	return ids[max(0, len(ids)-maxReferences+1):]
}

// clean is text with CRLF line ends, an end to the last line, no other control
// characters than tabs, and at most maxText octets.
func clean(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) > maxText {
		n := maxText
		for !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (r < ' ' || r == 0x7f) {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimRight(text, "\n") + "\n"
	return strings.ReplaceAll(text, "\n", "\r\n")
}

// encode is text as a body that every way can carry, and its transfer encoding.
func encode(text string) (b []byte, encoding string) {
	plain := ascii([]byte(text))
	for line := range strings.Lines(text) {
		plain = plain && len(line) <= 80 && !strings.HasPrefix(line, "From ")
	}
	if plain {
		return []byte(text), "7bit"
	}
	var o bytes.Buffer
	w := quotedprintable.NewWriter(&o)
	w.Write([]byte(text)) // to memory
	w.Close()
	return o.Bytes(), "quoted-printable"
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// disposition is the part for programs (RFC 8098 3.1).
func disposition(r *mail.Recipient, header []byte, eai bool) []byte {
	from := author(r)
	kind := "rfc822; "
	if eai {
		kind = "utf-8; "
	}
	var b []byte
	field := func(name, value string) {
		value = strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, value)
		b = append(b, name+": "+value+"\r\n"...)
	}
	field("Reporting-UA", host(from)+"; Postern")
	if o := r.OriginalRecipient; o != "" && len(o) <= 500 && (eai || ascii([]byte(o))) && strings.Contains(o, ";") {
		field("Original-Recipient", o)
	}
	field("Final-Recipient", kind+from.String())
	if id := messageID(header); id != "" {
		field("Original-Message-ID", id)
	}
	field("Disposition", "automatic-action/MDN-sent-automatically; processed")
	return b
}

// content is what an answer returns of the message: all of it in an echo, when
// it is small enough, else its header.
func (a *Agent) content(d *deliver.Delivery, mode mail.AutoreplyMode, header []byte) (content []byte, whole bool) {
	if mode == mail.AutoreplyEcho && d.Size() <= a.rules.Load().MaxContent {
		return bytes.Join(d.Body, nil), true
	}
	return bytes.TrimSuffix(header, []byte("\r\n")), false
}
