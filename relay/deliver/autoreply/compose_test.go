package autoreply

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
)

// part is one part of an answer, decoded.
type part struct{ kind, text string }

// read reads an answer with the readers of the standard library.
func read(t *testing.T, in transaction.Injection, b []byte) (netmail.Header, []part) {
	t.Helper()
	if rest := bytes.ReplaceAll(b, []byte("\r\n"), nil); bytes.ContainsAny(rest, "\r\n\x00") {
		t.Errorf("bare line ends or NUL in %q", b)
	}
	if in.Envelope.Body == mail.Body7Bit && !ascii(b) {
		t.Error("octets beyond ASCII in a 7-bit message")
	}
	m, err := netmail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	decode := func(encoding string, r io.Reader) string {
		if encoding == "quoted-printable" {
			r = quotedprintable.NewReader(r)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return m.Header, []part{{kind, decode(m.Header.Get("Content-Transfer-Encoding"), m.Body)}}
	}
	if kind != "multipart/report" || params["report-type"] != "disposition-notification" {
		t.Errorf("Content-Type %s %v", kind, params)
	}
	var parts []part
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err == io.EOF {
			return m.Header, parts
		}
		if err != nil {
			t.Fatal(err)
		}
		k, _, _ := strings.Cut(p.Header.Get("Content-Type"), ";")
		parts = append(parts, part{k, decode(p.Header.Get("Content-Transfer-Encoding"), p)})
	}
}

// one is the answer to d.
func one(t *testing.T, d *deliver.Delivery, change ...func(*Config)) (transaction.Injection, netmail.Header, []part) {
	t.Helper()
	a, out := newAgent(t, yes(), change...)
	a.Deliver(t.Context(), d)
	if len(out.in) != 1 {
		t.Fatalf("%d answers", len(out.in))
	}
	h, parts := read(t, out.in[0], out.body[0])
	return out.in[0], h, parts
}

func TestReply(t *testing.T) {
	text := strings.Replace(sample, "Subject: hi\r\n", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nReferences: <a@x>\r\n <b@x> junk\r\n", 1)
	in, h, parts := one(t, msg("root", text, reply()))
	subject, _ := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	for got, want := range map[string]string{
		h.Get("From"): "<bob@example.test>", h.Get("To"): "<ann@example.net>", subject: "Auto: Grüße",
		h.Get("Auto-Submitted"): "auto-replied", h.Get("In-Reply-To"): "<m1@example.net>",
		h.Get("References"): "<a@x> <b@x> <m1@example.net>", h.Get("Date"): "Tue, 14 Nov 2023 22:13:20 +0000",
		h.Get("Message-ID"): "<" + in.Envelope.QueueID + "@example.test>", h.Get("MIME-Version"): "1.0",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if len(parts) != 1 || parts[0] != (part{"text/plain", "Away.\r\nBack on Monday.\r\n"}) || in.Envelope.Body != mail.Body7Bit {
		t.Errorf("%+v", parts)
	}
}

func TestSubjects(t *testing.T) {
	long := strings.Repeat("ü", 400)
	for name, tt := range map[string]struct{ given, original, want string }{
		"given":              {"Gone fishing", "hi", "Gone fishing"},
		"made":               {"", "hi", "Auto: hi"},
		"none":               {"", "", "Automatic reply"},
		"too long":           {"", long, "Auto: " + strings.Repeat("ü", maxSubject-6)},
		"not one line":       {"a\r\nX-Evil: 1", "", "a X-Evil: 1"},
		"evil encoded words": {"", "=?utf-8?q?a=0D=0AX-Evil:_1?=", "Auto: a X-Evil: 1"},
	} {
		a := reply()
		a.Subject = tt.given
		text := "To: bob@example.test\r\n\r\n"
		if tt.original != "" {
			text = "Subject: " + tt.original + "\r\n" + text
		}
		_, h, _ := one(t, msg("root", text, a))
		got, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
		if err != nil || got != tt.want || h.Get("X-Evil") != "" {
			t.Errorf("%s: %q, want %q: %v", name, got, tt.want, err)
		}
		if h.Get("In-Reply-To") != "" || h.Get("References") != "" {
			t.Errorf("%s: refers to nothing", name)
		}
	}
}

func TestTexts(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"no last line end":   {"a", "a\r\n"},
		"beyond ASCII":       {"Grüße\n.\n", "Grüße\r\n.\r\n"},
		"control characters": {"a\x00\x1bb\tc\r\nd\re\n", "a  b\tc\r\nd e\r\n"},
		"a long line":        {strings.Repeat("x", 2000) + "\n", strings.Repeat("x", 2000) + "\r\n"},
		"not UTF-8":          {"a\xffb", "a\uFFFDb\r\n"},
		"like a mail file":   {"From me\n", "From me\r\n"},
		"too long":           {strings.Repeat("€", maxText), strings.Repeat("€", maxText/3) + "\r\n"},
	} {
		a := reply()
		a.Text = tt.text
		_, _, parts := one(t, msg("root", sample, a))
		if len(parts) != 1 || parts[0].text != tt.want {
			t.Errorf("%s: %.100q, want %.100q", name, parts[0].text, tt.want)
		}
	}
}

func TestNotifications(t *testing.T) {
	whole := "Received: here\r\n" + sample
	header := strings.TrimSuffix(whole, "\r\nthe body\r\n")
	for name, tt := range map[string]struct {
		mode    mail.AutoreplyMode
		max     int64
		kind    string
		content string
	}{
		"echo":                {mail.AutoreplyEcho, 0, "message/rfc822", whole},
		"echo of a large one": {mail.AutoreplyEcho, int64(len(whole) - 1), "text/rfc822-headers", header},
		"header":              {mail.AutoreplyHeader, 0, "text/rfc822-headers", header},
		"an illegal mode":     {"sometimes", 0, "text/rfc822-headers", header},
	} {
		a := reply()
		a.Mode = tt.mode
		d := msg("root", sample, a)
		d.Recipients[0].OriginalRecipient = "rfc822;b@example.test"
		_, h, parts := one(t, d, func(c *Config) { c.MaxContent = tt.max })
		if len(parts) != 3 || parts[0].text != "Away.\r\nBack on Monday.\r\n" || h.Get("Auto-Submitted") != "auto-replied" {
			t.Fatalf("%s: %+v", name, parts)
		}
		want := "Reporting-UA: example.test; Postern\r\nOriginal-Recipient: rfc822;b@example.test\r\nFinal-Recipient: rfc822; bob@example.test\r\n" +
			"Original-Message-ID: <m1@example.net>\r\nDisposition: automatic-action/MDN-sent-automatically; processed\r\n"
		if parts[1] != (part{"message/disposition-notification", want}) {
			t.Errorf("%s: %q", name, parts[1])
		}
		if parts[2] != (part{tt.kind, tt.content}) {
			t.Errorf("%s: %q", name, parts[2])
		}
	}
}

func TestBeyondASCII(t *testing.T) {
	echo := reply()
	echo.Mode = mail.AutoreplyEcho
	in, _, parts := one(t, msg("root", sample+"Grüße\r\n", echo))
	if in.Envelope.Body != mail.Body8BitMIME || in.Envelope.SMTPUTF8 || parts[2].kind != "message/rfc822" {
		t.Errorf("an 8-bit original: %+v, %+v", in.Envelope, parts)
	}
	echo.From = mail.Address{Local: "röb", Domain: "example.test"}
	in, h, parts := one(t, msg("root", sample, echo))
	if !in.Envelope.SMTPUTF8 || parts[1].kind != "message/global-disposition-notification" || parts[2].kind != "message/global" ||
		!strings.Contains(parts[1].text, "Final-Recipient: utf-8; röb@example.test\r\n") || h.Get("Message-ID") == "" {
		t.Errorf("a UTF-8 address: %+v, %+v", in.Envelope, parts)
	}
}

// FuzzAnswer: whatever a stranger sends and a directory holds, an answer is a
// well-formed message to the sender, with the fields of an answer and no others.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(sample), "subject", "text", "reply", "rfc822;x")
	f.Add([]byte("To: bob@example.test\r\nMessage-ID: <\r\n a@b>\r\nReferences: <a> <b>\r\nSubject: =?x?b?=\r\n\r\n--=_\r\n"), "a\r\nB: c", "Gr\u00fc\u00dfe\x00\n.\n", "echo", "utf-8;\n\xff")
	f.Add([]byte("To:bob@example.test"), "", "x", "header", "")
	f.Fuzz(func(t *testing.T, text []byte, subject, words, mode, orcpt string) {
		crlf := bytes.Count(text, []byte("\r\n"))
		if bytes.ContainsRune(text, 0) || bytes.Count(text, []byte("\r")) != crlf || bytes.Count(text, []byte("\n")) != crlf || len(text) > 1<<16 {
			return // the engine has refused it
		}
		a := reply()
		a.Mode, a.Subject, a.Text = mail.AutoreplyMode(mode), subject, words
		d := msg("root", string(text), a)
		d.Recipients[0].OriginalRecipient = orcpt
		agent, out := newAgent(t, yes())
		agent.Deliver(t.Context(), d)
		if len(out.in) == 0 {
			return
		}
		h, parts := read(t, out.in[0], out.body[0])
		for name := range h {
			switch strings.ToLower(name) {
			case "date", "from", "to", "subject", "message-id", "in-reply-to", "references", "auto-submitted", "mime-version", "content-type", "content-transfer-encoding":
			default:
				t.Errorf("a field %q", name)
			}
		}
		if !utf8.ValidString(parts[0].text) || len(parts[0].text) > 3*maxText || len(parts) != 1 && len(parts) != 3 {
			t.Errorf("%d parts, the first %.100q", len(parts), parts[0].text)
		}
		if len(parts) == 3 && strings.Count(parts[1].text, "\r\n") > 5 {
			t.Errorf("disposition %q", parts[1].text)
		}
	})
}
