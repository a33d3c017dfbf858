package welcome

import (
	"bytes"
	"mime/quotedprintable"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// Bounds of a text from the directory.
const (
	maxText   = 64 << 10 // octets
	maxFields = 50
)

// ours are the fields that a text cannot have: they are made here, or would
// contradict what is.
var ours = map[string]bool{
	"date": true, "to": true, "message-id": true, "auto-submitted": true, "mime-version": true, "content-type": true,
	"content-transfer-encoding": true, "return-path": true, "received": true, "bcc": true,
}

// compose makes the message for a mailbox of the text that its domain has for
// new ones: lines ended by "$", header fields and an empty line first, or no
// header at all. The same arguments give the same octets, on every relay.
func compose(id string, to mail.Address, date time.Time, text string) []byte {
	text = strings.ToValidUTF8(directory.Lines(text), "\uFFFD")
	if len(text) > maxText {
		n := maxText
		for !utf8.RuneStart(text[n]) {
			n--
		}
		text = text[:n]
	}
	fields, body := split(text)
	h := message.AppendField(nil, "Date", date.UTC().Format(time.RFC1123Z))
	seen := map[string]bool{}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		key := strings.ToLower(name)
		if !ours[key] && !seen[key] && strings.TrimSpace(value) != "" {
			h = message.AppendField(h, name, value)
			seen[key] = true
		}
	}
	if !seen["from"] {
		h = message.AppendMailboxField(h, "From", "", mail.Address{Local: "postmaster", Domain: to.Domain})
	}
	if !seen["subject"] {
		h = message.AppendField(h, "Subject", "Welcome")
	}
	h = message.AppendMailboxField(h, "To", "", to)
	h = message.AppendField(h, "Message-ID", "<"+id+"@"+host(to)+">")
	h = message.AppendField(h, "Auto-Submitted", "auto-generated") // RFC 3834 5
	b := bytes.NewBuffer(h)
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	w := quotedprintable.NewWriter(b)
	w.Write([]byte(strings.ReplaceAll(clean(body), "\n", "\r\n"))) // to memory
	w.Close()
	return b.Bytes()
}

// host is the domain of an address, for places where only ASCII can be.
func host(a mail.Address) string {
	if !a.IsASCII() {
		return "welcome.invalid"
	}
	return a.Domain
}

// split takes the header off a text. It has one when its first lines, up to an
// empty one, are fields and their continuations.
func split(text string) (fields []string, body string) {
	rest := text
	for {
		line, after, more := strings.Cut(rest, "\n")
		line = strings.TrimSuffix(line, "\r")
		name, _, ok := strings.Cut(line, ":")
		switch {
		case line == "" && len(fields) > 0:
			return fields, after
		case len(fields) > 0 && (line != "" && (line[0] == ' ' || line[0] == '\t')):
			fields[len(fields)-1] += " " + line
		case ok && message.ValidFieldName(name) && len(fields) < maxFields:
			fields = append(fields, line)
		default:
			return nil, text
		}
		if !more {
			return fields, ""
		}
		rest = after
	}
}

// clean is text without control characters but tabs and line ends, with an end
// to the last line.
func clean(text string) string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	text = strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (r < ' ' || r == 0x7f) {
			return ' '
		}
		return r
	}, text)
	return strings.TrimRight(text, "\n") + "\n"
}
