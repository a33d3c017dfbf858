package list

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

var staff = mail.Address{Local: "staff", Domain: "example.org"}

const plain = "Received: by x\r\nFrom: a@x\r\nTo: staff@example.org\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nReply-To: a@x\r\nList-Id: <old>\r\n\r\nhello\r\n"

func TestFields(t *testing.T) {
	c := &Changes{
		List: staff, Remove: []string{"reply-to", "Disposition-Notification-To"},
		Add: []string{"Reply-To: staff@example.org", "From: nobody", "X-Ünsafe: x", "no colon", "X-Two: a\r\nEvil: b", "x-two: again"},
		Tag: "[staff]", Unsubscribe: []string{"https://example.org/u?a=1,2", "mailto:staff-request@example.org?subject=unsubscribe"},
	}
	out, notes := Apply([]byte(plain), c)
	want := "Received: by x\r\nFrom: a@x\r\nTo: staff@example.org\r\nSubject: [staff] =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" +
		"Reply-To: staff@example.org\r\nX-Two: a Evil: b\r\nList-Id: <staff.example.org>\r\nList-Post: <mailto:staff@example.org>\r\n" +
		"List-Unsubscribe: <https://example.org/u?a=1%2C2>,\r\n <mailto:staff-request@example.org?subject=unsubscribe>\r\n" +
		"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nhello\r\n"
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if len(notes) != 2 {
		t.Errorf("notes %q", notes)
	}
	// The tag is not put there twice, whoever wrote it.
	again, _ := Apply(out, c)
	if n := bytes.Count(again, []byte("[staff]")); n != 1 {
		t.Errorf("%d tags:\n%s", n, again)
	}
	c = &Changes{List: staff, Tag: "[größe]", Unsubscribe: []string{"mailto:x@y"}}
	out, _ = Apply([]byte("Subject:\r\n folded\r\n subject\r\n\r\n"), c)
	m, err := netmail.ReadMessage(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if got := message.DecodeWords(m.Header.Get("Subject")); got != "[größe] folded subject" {
		t.Errorf("subject %q", got)
	}
	if m.Header.Get("List-Unsubscribe-Post") != "" {
		t.Errorf("one click without https")
	}
	for _, msg := range []string{"", "\r\n", "\r\nbody", "From: a@x", "From: a@x\r\n", "Subject:\r\n\r\nx"} {
		out, _ := Apply([]byte(msg), c)
		m, err := netmail.ReadMessage(bytes.NewReader(out))
		if err != nil || message.DecodeWords(m.Header.Get("Subject")) != "[größe]" {
			t.Errorf("%q: %v\n%s", msg, err, out)
		}
		if body, _ := io.ReadAll(m.Body); !strings.HasSuffix(msg, string(body)) {
			t.Errorf("%q: body %q", msg, body)
		}
	}
}

func TestModerate(t *testing.T) {
	out, _ := Apply([]byte(plain), &Changes{List: staff, Moderate: true, Tag: "[x]", Prefix: "y"})
	if string(out) != "X-Original-To: staff@example.org\r\n"+plain {
		t.Errorf("%s", out)
	}
}

// read is the text of the first text part as a program of somebody else's reads
// it, and the whole message's structure is checked on the way.
func read(t *testing.T, msg []byte) string {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(msg))
	if err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	return first(t, m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), m.Body)
}

func first(t *testing.T, kind, encoding string, body io.Reader) string {
	t.Helper()
	media, params, err := mime.ParseMediaType(kind)
	if kind == "" {
		media = "text/plain"
	} else if err != nil {
		t.Fatalf("%q: %v", kind, err)
	}
	if strings.HasPrefix(media, "multipart/") {
		r := multipart.NewReader(body, params["boundary"])
		found := ""
		for {
			p, err := r.NextRawPart()
			if err == io.EOF {
				return found
			}
			if err != nil {
				t.Fatal(err)
			}
			if text := first(t, p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p); found == "" {
				found = text
			}
		}
	}
	if !strings.HasPrefix(media, "text/") {
		return ""
	}
	switch strings.ToLower(encoding) {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	p := &message.Part{Type: "TEXT", Subtype: "PLAIN", Body: message.Span{Len: int64(len(raw))}, Params: []message.Param{{Name: "charset", Value: params["charset"]}}}
	text, _ := p.Text(raw, 0)
	return string(text)
}

func TestTexts(t *testing.T) {
	mixed := func(first string) string {
		return "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b b\"\r\n\r\npreamble\r\n--b b\r\n" + first + "\r\n--b b\r\nContent-Type: application/octet-stream\r\n\r\ndata\r\n--b b--\r\n"
	}
	for name, tt := range map[string]struct{ msg, prefix, suffix, want string }{
		"plain":             {"Subject: x\r\n\r\nhello\r\n", "top\n", "end\nof it\n", "top\r\nhello\r\nend\r\nof it\r\n"},
		"no line end":       {"Subject: x\r\n\r\nhello", "", "end\n", "hello\r\nend\r\n"},
		"empty":             {"Subject: x\r\n\r\n", "", "end\n", "end\r\n"},
		"beyond ASCII":      {"Subject: x\r\n\r\nhello\r\n", "", "schöne Grüße\n", "hello\r\nschöne Grüße\r\n"},
		"utf-8":             {"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nhällo\r\n", "ö\n", "ü\n", "ö\r\nhällo\r\nü\r\n"},
		"latin 1":           {"Content-Type: text/plain; charset=iso-8859-1; format=flowed\r\nContent-Transfer-Encoding: 8bit\r\n\r\nh\xe4llo\r\n", "top\n", "end\n", "top\r\nhällo\r\nend\r\n"},
		"latin 1, more":     {"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\nh\xe4llo\r\n", "", "日本\n", "hällo\r\n日本\r\n"},
		"quoted":            {"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nh=C3=A4llo=\r\n there\r\n", "a=b\n", "ü\n", "a=b\r\nhällo there\r\nü\r\n"},
		"base64":            {"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\naMOkbGxvDQo=\r\n", "top\n", "ü\n", "top\r\nhällo\r\nü\r\n"},
		"utf-16":            {"Content-Type: text/plain; charset=utf-16le\r\nContent-Transfer-Encoding: base64\r\n\r\naADkAA0ACgA=\r\n", "", "end\n", "hä\r\nend\r\n"},
		"in a multipart":    {mixed("\r\nhello"), "top\n", "end\n", "top\r\nhello\r\nend"},
		"in one, with more": {mixed("Content-Type: text/plain\r\n\r\nhello\r\n"), "", "ü\n", "hello\r\nü"},
		"html":              {mixed("Content-Type: text/html\r\n\r\n<html><BODY class=x>hi</body></html>"), "a<b\n", "c\nd\n", "<html><BODY class=x><p>a&lt;b</p>\r\nhi<p>c<br>\r\nd</p>\r\n</body></html>"},
		"alternative":       {mixed("Content-Type: multipart/alternative; boundary=q\r\n\r\n--q\r\n\r\nhello\r\n--q\r\nContent-Type: text/html\r\n\r\n<p>hi\r\n--q--\r\n"), "", "end\n", "hello\r\nend"},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes := Apply([]byte(tt.msg), &Changes{List: staff, Prefix: tt.prefix, Suffix: tt.suffix})
			if len(notes) > 0 {
				t.Fatalf("notes %q", notes)
			}
			if got := read(t, out); got != tt.want {
				t.Errorf("got %q, want %q\n%s", got, tt.want, out)
			}
			if again, _ := Apply([]byte(tt.msg), &Changes{List: staff, Prefix: tt.prefix, Suffix: tt.suffix}); !bytes.Equal(out, again) {
				t.Error("another copy the second time")
			}
			if before, after := attachmentOf(tt.msg), attachmentOf(string(out)); before != after {
				t.Errorf("the rest changed: %q, %q", before, after)
			}
		})
	}
}

// attachmentOf is what follows the first part.
func attachmentOf(msg string) string {
	i := strings.Index(msg, "\r\n--b b\r\nContent-Type: application")
	if i < 0 {
		return ""
	}
	return msg[i:]
}

// What is signed or encrypted keeps every octet of its body.
func TestProtected(t *testing.T) {
	signed := "Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nhello\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--s--\r\n"
	for name, msg := range map[string]string{
		"signed":         signed,
		"encrypted":      "Content-Type: multipart/encrypted; boundary=s\r\n\r\n--s\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--s--\r\n",
		"S/MIME":         "Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n\r\nAAAA\r\n",
		"inline":         "Subject: x\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n\r\nhello\r\n",
		"signed inside":  "Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n" + signed + "\r\n--m\r\n\r\nfooter of another list\r\n--m--\r\n",
		"no text at all": "Content-Type: image/png\r\n\r\nx\r\n",
		"odd charset":    "Content-Type: text/plain; charset=x-unknown\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xff\xfe\r\n",
		"own delimiter":  "Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\n\r\nx\r\n--m--\r\n",
	} {
		out, notes := Apply([]byte(msg), &Changes{List: staff, Suffix: "--m\nend ü\n"})
		body := msg[strings.Index(msg, "\r\n\r\n"):]
		if len(notes) != 1 || !strings.HasSuffix(string(out), body) {
			t.Errorf("%s: notes %q\n%s", name, notes, out)
		}
	}
}

// A signature of the sender's domain that the changes end is named; one that
// they leave alone is not.
func TestSignatures(t *testing.T) {
	const msg = "DKIM-Signature: v=1; a=rsa-sha256; d=one.example; s=x;\r\n h=From:Subject:\r\n  Reply-To:List-Id; bh=x; b=x\r\n" +
		"DKIM-Signature: v=1; d=two.example; h=from : date; bh=x; b=x\r\n" +
		"From: a@x\r\nDate: today\r\nSubject: hi\r\nReply-To: a@x\r\n\r\nhello\r\n"
	for name, tt := range map[string]struct {
		c    Changes
		want string
	}{
		"nothing that is signed": {Changes{Add: []string{"X-List: y"}, Remove: []string{"Sender"}}, ""},
		"a tag":                  {Changes{Tag: "[x]"}, "one.example"},
		"a tag that is there":    {Changes{Tag: "hi"}, ""},
		"a field removed":        {Changes{Remove: []string{"reply-to"}}, "one.example"},
		"a field of the list's":  {Changes{List: staff}, "one.example"},
		"a field replaced":       {Changes{Remove: []string{"Date"}, Add: []string{"Date: tomorrow"}}, "two.example"},
		"the same again":         {Changes{Remove: []string{"Date"}, Add: []string{"Date: today"}}, ""},
		"a text":                 {Changes{Suffix: "bye\n"}, "one.example, two.example"},
	} {
		want := []string{"signature no longer holds: " + tt.want}
		if tt.want == "" {
			want = nil
		}
		if _, notes := Apply([]byte(msg), &tt.c); !slices.Equal(notes, want) {
			t.Errorf("%s: notes %q, want %q", name, notes, want)
		}
	}
}

// What outer lists say of themselves is not said of this one.
func TestOtherLists(t *testing.T) {
	const msg = "List-Unsubscribe: <https://other.example/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nLIST-HELP: <mailto:x@y>\r\n" +
		"List-Owner: <mailto:x@y>\r\nList-Archive: <x>\r\nList-Subscribe: <x>\r\nList-Post: NO\r\nList-Of-Things: kept\r\nSubject: x\r\n\r\nhello\r\n"
	out, _ := Apply([]byte(msg), &Changes{List: staff})
	const want = "List-Of-Things: kept\r\nSubject: x\r\nList-Id: <staff.example.org>\r\nList-Post: <mailto:staff@example.org>\r\n\r\nhello\r\n"
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func TestWrap(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := Capture{To: mail.Address{Local: "audit", Domain: "example.org"}, ReversePath: mail.Address{Local: "a", Domain: "x"}, Recipient: "ana@example.org\r\nEvil: 1", AuthUser: "ana", ID: "q1", Arrival: at}
	inner := plain + "--capture-q1\r\n\xff\r\n"
	out := Wrap([]byte(inner), c)
	m, err := netmail.ReadMessage(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	var parts []string
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(p)
		parts = append(parts, string(b))
	}
	if len(parts) != 3 || parts[2] != inner || strings.Contains(parts[1], "\r\nEvil") || m.Header.Get("Evil") != "" {
		t.Errorf("%q", parts)
	}
	if !bytes.Equal(out, Wrap([]byte(inner), c)) {
		t.Error("another copy the second time")
	}
}

// FuzzApply looks for a message or change that panics, that loses octets of a
// body without a text, or whose copy is another the second time.
func FuzzApply(f *testing.F) {
	f.Add([]byte(plain), "top\n", "end ü\n", "[x]", "A: b")
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n"), "", "e", "", "")
	f.Add([]byte("Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\naADkAA0ACgA="), "a", "b", "ü", ":")
	f.Add([]byte("DKIM-Signature: d=x; h=from::subject; =;\r\nSubject: y\r\n\r\n"), "", "", "z", "")
	f.Fuzz(func(t *testing.T, msg []byte, prefix, suffix, tag, add string) {
		c := &Changes{List: staff, Remove: []string{"subject"}, Add: []string{add}, Tag: tag, Prefix: prefix, Suffix: suffix}
		out, _ := Apply(msg, c)
		again, _ := Apply(msg, c)
		if !bytes.Equal(out, again) {
			t.Error("another copy the second time")
		}
		c.Prefix, c.Suffix = "", ""
		out, _ = Apply(msg, c)
		if body := msg[message.HeaderLen(msg):]; !bytes.HasSuffix(out, body) {
			t.Errorf("body lost: %q", out)
		}
		Wrap(msg, Capture{To: staff, ID: "x", Recipient: add})
	})
}
