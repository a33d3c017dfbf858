package welcome

import (
	"bytes"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	postern "github.com/postern-mail/postern/shared/mail"
)

var (
	bob   = postern.Address{Local: "bob", Domain: "example.test"}
	birth = time.Unix(1_700_000_000, 0)
)

// read is a welcome as a reader of RFC 5322 and 2045 sees it.
func read(t testing.TB, b []byte) (mail.Header, string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	return m.Header, string(body)
}

func TestCompose(t *testing.T) {
	for name, tt := range map[string]struct {
		text          string
		from, subject string
		body          string
	}{
		"text only":         {"Hello.$Bye.", "<postmaster@example.test>", "Welcome", "Hello.\r\nBye.\r\n"},
		"header":            {"Subject: Hi$From: Help <help@example.test>$$Hello.$$$", "Help <help@example.test>", "Hi", "Hello.\r\n"},
		"header only":       {"Subject: Hi", "<postmaster@example.test>", "Hi", "\r\n"},
		"twice":             {"Subject: a$subject: b$$x", "<postmaster@example.test>", "a", "x\r\n"},
		"folded":            {"Subject: a$ b$$x", "<postmaster@example.test>", "a b", "x\r\n"},
		"no header":         {"Dear user: hello$$x: y", "<postmaster@example.test>", "Welcome", "Dear user: hello\r\n\r\nx: y\r\n"},
		"a dollar":          {`5\24 and \5c`, "<postmaster@example.test>", "Welcome", "5$ and \\\r\n"},
		"fields of ours":    {"Date: never$To: all$Content-Type: text/html$Received: x$$x", "<postmaster@example.test>", "Welcome", "x\r\n"},
		"beyond ASCII":      {"Subject: Grüße$$Schöne Grüße", "<postmaster@example.test>", "=?utf-8?", "Schöne Grüße\r\n"},
		"control characers": {"Subject: a\x00b$$\x07x\xff", "<postmaster@example.test>", "a b", " x\uFFFD\r\n"},
	} {
		b := compose("id", bob, birth, tt.text)
		h, body := read(t, b)
		if !strings.HasPrefix(h.Get("Subject"), tt.subject) || h.Get("From") != tt.from || body != tt.body {
			t.Errorf("%s: From %q, Subject %q, %q", name, h.Get("From"), h.Get("Subject"), body)
		}
		if h.Get("To") != "<bob@example.test>" || h.Get("Date") != "Tue, 14 Nov 2023 22:13:20 +0000" || len(h["Date"]) != 1 || h.Get("Received") != "" {
			t.Errorf("%s: %v", name, h)
		}
		if !bytes.Equal(b, compose("id", bob, birth, tt.text)) {
			t.Errorf("%s: not the same octets", name)
		}
	}
}

// FuzzCompose: whatever stands in the directory makes a message of 7 bits with
// one of each field that there may be one of, and lines of SMTP.
func FuzzCompose(f *testing.F) {
	for _, s := range []string{"", "Hello", "Subject: x$$y", "A:$ b$$", ":$", "a: \r\nBcc: x\n\ny", "Subject: " + strings.Repeat("ü", 500)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := compose("id", bob, birth, text)
		h, _ := read(t, b)
		for _, once := range []string{"Date", "To", "Message-Id", "Mime-Version", "Content-Type", "Content-Transfer-Encoding", "Auto-Submitted"} {
			if len(h[once]) != 1 {
				t.Errorf("%d %s", len(h[once]), once)
			}
		}
		if len(h["From"]) != 1 || len(h["Subject"]) != 1 {
			t.Errorf("%d From, %d Subject", len(h["From"]), len(h["Subject"]))
		}
		for _, never := range []string{"Bcc", "Received", "Return-Path"} {
			if len(h[never]) > 0 {
				t.Errorf("%s: %q", never, h[never])
			}
		}
		for line := range bytes.Lines(b) {
			if !bytes.HasSuffix(line, []byte("\r\n")) || bytes.ContainsAny(line[:len(line)-2], "\r\n\x00") || len(line) > 1000 {
				t.Errorf("line %q", line)
			}
			for _, c := range line {
				if c > 0x7f {
					t.Fatalf("8 bits in %q", line)
				}
			}
		}
	})
}
