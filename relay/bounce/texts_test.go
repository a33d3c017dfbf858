package bounce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"mime"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// TestLanguages: a notification is in the language that its sender wants, as
// far as there are texts in it, and what programs read is the same in all.
func TestLanguages(t *testing.T) {
	for name, tt := range map[string]struct {
		wanted, usual  string
		language       string
		subject, phase string
	}{
		"nobody knows":  {"", "", "en", "Delivery failed", "could not be delivered"},
		"German":        {"de", "", "de", "Zustellung fehlgeschlagen", "Empfängern nicht zugestellt"},
		"of a country":  {"pt-BR, fr-CA;q=0.5", "", "fr", "Échec de la remise", "n'a pas pu être remis"},
		"Spanish":       {"es", "", "es", "Entrega fallida", "No se pudo entregar"},
		"Italian":       {"it", "", "it", "Consegna non riuscita", "Non è stato possibile"},
		"Japanese":      {"ja", "", "ja", "配送できませんでした", "再送は行われません。"},
		"there is none": {"tlh", "it", "it", "Consegna non riuscita", "Non è stato possibile"},
		"no tag":        {"../../etc/passwd", "", "en", "Delivery failed", "could not be delivered"},
	} {
		var asked mail.Address
		b, d := newBouncer(t, func(c *Config) {
			c.Language = tt.usual
			c.Wanted = func(_ context.Context, a mail.Address) (string, error) { asked = a; return tt.wanted, nil }
		})
		if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if asked != item().Envelope.ReversePath {
			t.Errorf("%s: asked about %s", name, asked)
		}
		if in := d.in[0].Envelope; in.Body != mail.Body7Bit || in.SMTPUTF8 {
			t.Errorf("%s: the words make it %s", name, in.Body)
		}
		for line := range bytes.Lines(d.body[0]) {
			if len(line) > 80 {
				t.Errorf("%s: line of %d octets: %s", name, len(line), line)
			}
		}
		r := read(t, d.body[0])
		var words mime.WordDecoder
		subject, err := words.DecodeHeader(r.header.Get("Subject"))
		if err != nil || subject != tt.subject || r.language != tt.language || !strings.Contains(r.text, tt.phase) {
			t.Errorf("%s: %q in %q, %v\n%s", name, subject, r.language, err, r.text)
		}
		for _, part := range []string{"relay.example", "<bob@other.example>", "mx.other.example", "550 5.1.1"} {
			if !strings.Contains(r.text, part) {
				t.Errorf("%s: no %q in\n%s", name, part, r.text)
			}
		}
		if got := r.rcpts[0]; got.Get("Action") != "failed" || got.Get("Status") != "5.1.1" || r.status != "message/delivery-status" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestEveryText: each language has each kind, and nothing in braces is left.
func TestEveryText(t *testing.T) {
	texts, err := LoadTexts(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(texts.Languages(), " "); got != "de en es fr it ja" {
		t.Errorf("languages %s", got)
	}
	for _, tag := range texts.Languages() {
		seen := map[string]bool{}
		for _, k := range kinds {
			b, d := newBouncer(t, func(c *Config) { c.Language = tag })
			if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", k.state, refusal)}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
			r := read(t, d.body[0])
			if strings.ContainsAny(r.text, "{}") || seen[r.header.Get("Subject")] {
				t.Errorf("%s, %s: %q\n%s", tag, k.kind, r.header.Get("Subject"), r.text)
			}
			seen[r.header.Get("Subject")] = true
			if until := strings.Contains(r.text, "2023-11-26 22:13 UTC"); until != (k.kind == delayed) {
				t.Errorf("%s, %s: says until when: %v\n%s", tag, k.kind, until, r.text)
			}
		}
	}
}

// TestLanguageUnknown: while the directory cannot answer the notification
// waits, but neither for long nor for one answer.
func TestLanguageUnknown(t *testing.T) {
	down := errors.New("directory down")
	last := rcpt("bob", queue.Failed, refusal)
	last.LastTry = item().Envelope.Arrival.Add(time.Hour)
	now := last.LastTry.Add(waitFor)
	b, d := newBouncer(t, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Wanted = func(context.Context, mail.Address) (string, error) { return "", down }
	})
	report := func() error {
		return b.Report(t.Context(), item(), []queue.Recipient{last}, []byte("Accept-Language: de\r\n"+sample))
	}
	if err := report(); !errors.Is(err, down) || len(d.in) != 0 {
		t.Errorf("%v, %d notifications", err, len(d.in))
	}
	now = now.Add(time.Second)
	if err := report(); err != nil || len(d.in) != 1 {
		t.Fatalf("%v, %d notifications", err, len(d.in))
	}
	if r := read(t, d.body[0]); r.language != "de" {
		t.Errorf("in %q", r.language)
	}
}

// TestLanguageHangs: a directory that does not answer holds nobody up.
func TestLanguageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newBouncer(t, func(c *Config) {
			c.Now = func() time.Time { return item().Envelope.Arrival }
			c.Wanted = func(ctx context.Context, _ mail.Address) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}
		})
		begin := time.Now()
		err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample))
		if took := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || took != askFor || len(d.in) != 0 {
			t.Errorf("%v after %v, %d notifications", err, took, len(d.in))
		}
	})
}

// TestHeaderLanguage: who has no language in the directory is told in that of
// the message.
func TestHeaderLanguage(t *testing.T) {
	for _, tt := range []struct{ header, wanted, want string }{
		{"Accept-Language: it, en;q=0.5\r\n", "", "it"},
		{"Accept-Language: it\r\n", "de", "de"},
		{"Accept-Language: it\r\n", "tlh", "it"},
		{"X-Accept-Language: es\r\nPreferred-Language: fr-CA\r\n", "", "fr"},
		{"X-Accept-Language: es\r\nAccept-Language: ../x\r\n", "", "es"},
		{"", "", "en"},
	} {
		b, d := newBouncer(t, func(c *Config) {
			c.Wanted = func(context.Context, mail.Address) (string, error) { return tt.wanted, nil }
		})
		if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(tt.header+sample)); err != nil {
			t.Fatal(err)
		}
		if r := read(t, d.body[0]); r.language != tt.want {
			t.Errorf("%q, %q: in %q, want %q", tt.header, tt.wanted, r.language, tt.want)
		}
	}
}

// TestLanguageTable: NOTIFICATION_LANGUAGE is asked first, with what the original
// asks it, and is followed where there are texts.
func TestLanguageTable(t *testing.T) {
	tables, err := mapping.Parse("mappings", []byte(`NOTIFICATION_LANGUAGE

  bounced|*|*|*|*          $Ija
  delayed,delivered|*      $Iit
  *|tcp_auth|*|*|*         $I/imta/lang/de/|Subject|utf-8
  *|*|fr*|*|*              $Ifr
  *|reprocess|*|*|*        $Ies
  *|*|*|*.it|*             $Iit
  *|*|*|*.ch|*             $Iklingon
  *|*|*|*.at|*             de
  *|*|*|*|bob2@*           $Ide
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*queue.Item)
		states []queue.State
		header string
		wanted string
		want   string
	}{
		"kind":            {states: []queue.State{queue.Returned}, want: "ja"},
		"kinds":           {states: []queue.State{queue.Delivered, queue.Pending}, want: "it"},
		"login":           {change: func(it *queue.Item) { it.Envelope.AuthUser = "ann" }, want: "de"},
		"header":          {header: "Accept-Language: fr-CH\r\n", wanted: "ja", want: "fr"},
		"directory":       {wanted: "fr", want: "fr"},
		"made here":       {change: func(it *queue.Item) { it.Parent.ID = "x" }, want: "es"},
		"country":         {change: func(it *queue.Item) { it.Envelope.ReversePath.Domain = "mail.example.it" }, want: "it"},
		"no such texts":   {change: func(it *queue.Item) { it.Envelope.ReversePath.Domain = "example.ch" }, wanted: "es", want: "es"},
		"no $I":           {change: func(it *queue.Item) { it.Envelope.ReversePath.Domain = "example.at" }, wanted: "es", want: "es"},
		"first recipient": {states: []queue.State{queue.Failed, queue.Failed}, want: "en"},
		"nothing":         {wanted: "ja", want: "ja"},
	} {
		asked := 0
		b, d := newBouncer(t, func(c *Config) {
			c.Tables = tables
			c.Wanted = func(context.Context, mail.Address) (string, error) { asked++; return tt.wanted, nil }
		})
		it := item()
		if tt.change != nil {
			tt.change(it)
		}
		var rcpts []queue.Recipient
		for i, s := range tt.states {
			rcpts = append(rcpts, rcpt(fmt.Sprintf("bob%d", i+1), s, refusal))
		}
		if rcpts == nil {
			rcpts = []queue.Recipient{rcpt("bob", queue.Failed, refusal)}
		}
		if err := b.Report(t.Context(), it, rcpts, []byte(tt.header+sample)); err != nil {
			t.Fatal(err)
		}
		if r := read(t, d.body[0]); r.language != tt.want || asked > 1 || tt.header != "" && asked > 0 {
			t.Errorf("%s: in %q, want %q; the directory was asked %d times", name, r.language, tt.want, asked)
		}
	}
}

// TestOwnTexts: an operator's files replace sections and add languages.
func TestOwnTexts(t *testing.T) {
	english, err := embedded.ReadFile("texts/en.txt")
	if err != nil {
		t.Fatal(err)
	}
	texts, err := LoadTexts(fstest.MapFS{
		"de.txt":    {Data: []byte("\ufeff[closing]\r\nFragen? Hotline von {host}: 110\r\n\r\n# nichts\r\n[author]\r\nPoststelle\r\n")},
		"pt-BR.txt": {Data: bytes.ReplaceAll(english, []byte("Delivery failed"), []byte("Falha na entrega"))},
		"README":    {Data: []byte("no text")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for wanted, want := range map[string][3]string{
		"de":    {"Poststelle <MAILER-DAEMON@relay.example>", "Zustellung fehlgeschlagen", "110\r\n"},
		"pt-br": {"Mail Delivery System <MAILER-DAEMON@relay.example>", "Falha na entrega", "below"},
		"pt":    {"Mail Delivery System <MAILER-DAEMON@relay.example>", "Delivery failed", "below"},
	} {
		b, d := newBouncer(t, func(c *Config) {
			c.Texts = texts
			c.Wanted = func(context.Context, mail.Address) (string, error) { return wanted, nil }
		})
		if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
		r := read(t, d.body[0])
		if r.header.Get("From") != want[0] || r.header.Get("Subject") != want[1] || !strings.Contains(r.text, want[2]) {
			t.Errorf("%s: %s, %s\n%s", wanted, r.header.Get("From"), r.header.Get("Subject"), r.text)
		}
	}
	if _, err := New(Config{Hostname: "h", Origin: "o", Door: &door{}, Language: "nl"}); err == nil {
		t.Error("a usual language without texts is taken")
	}
}

// TestSet: other settings hold for the next notification, and wrong ones change
// nothing.
func TestSet(t *testing.T) {
	b, d := newBouncer(t)
	cfg := Config{Hostname: "relay.example", Origin: "relay1", Door: d, Language: "nl"}
	if err := b.Set(cfg); err == nil {
		t.Error("a usual language without texts is taken")
	}
	for _, language := range []string{"", "it"} {
		if cfg.Language = language; language != "" {
			if err := b.Set(cfg); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
	}
	if first, second := read(t, d.body[0]).language, read(t, d.body[1]).language; first != "en" || second != "it" {
		t.Errorf("in %s, then in %s", first, second)
	}
}

// TestBadTexts: what is wrong with a file is said when it is read.
func TestBadTexts(t *testing.T) {
	for name, file := range map[string]struct{ name, text, want string }{
		"no section":      {"de.txt", "Hallo", "before the first section"},
		"unknown section": {"de.txt", "[bounced]\nx", "[bounced] is no section"},
		"twice":           {"de.txt", "[author]\nx\n[author]\ny", "stands twice"},
		"no text":         {"de.txt", "[failed]\nSubject: x\n\n[author]\nx", "no text"},
		"no subject":      {"de.txt", "[failed]\nx", "no subject"},
		"two subjects":    {"de.txt", "[failed]\nSubject: x\nSubject: y\nz", "second subject"},
		"two lines":       {"de.txt", "[said]\nx\ny", "more lines than one"},
		"unknown holder":  {"de.txt", "[greeting]\n{reply}", "only {host}"},
		"holder twice":    {"de.txt", "[greeting]\n{host} {host}", "each once"},
		"open brace":      {"de.txt", "[greeting]\n{host", "only {host}"},
		"closed brace":    {"de.txt", "[greeting]\nx}", "only {host}"},
		"control":         {"de.txt", "[greeting]\nx\x00", "control character"},
		"bare CR":         {"de.txt", "[greeting]\nx\ry", "control character"},
		"not UTF-8":       {"de.txt", "[greeting]\nx\xff", "not UTF-8"},
		"long line":       {"de.txt", "[greeting]\n" + strings.Repeat("x", 500), "more than 400 octets"},
		"large":           {"de.txt", strings.Repeat("# \n", 1<<15), "octets"},
		"new and partial": {"nl.txt", "[author]\nPostbode", "is missing"},
		"no language":     {"read me.txt", "[author]\nx", "not named after a language"},
	} {
		if _, err := LoadTexts(fstest.MapFS{file.name: {Data: []byte(file.text)}}); err == nil || !strings.Contains(err.Error(), file.want) {
			t.Errorf("%s: %v, want %q", name, err, file.want)
		}
	}
}

// FuzzTexts: whatever an operator's file says, it is refused when it is read or
// makes notifications that can be read. The inputs to begin with are small: what
// the fuzzer keeps of an input it tries without each part of it.
func FuzzTexts(f *testing.F) {
	base, err := LoadTexts(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"\ufeff[author]\r\nPoststelle\r\n", "[greeting]\n# {\n{host}\n\n.\n", "[closing]\nFrom {host}\n",
		"[failed]\nSubject: x\n\nnein\n", "[delayed]\nSubject: 遅延\n待\n[until]\n{until}\n", "[said]\n{reply}{server}",
		"[failed]\nSubject: {\n}\n[said]\n{reply}{server}\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseTexts(text)
		if err != nil {
			return
		}
		texts := &Texts{languages: maps.Clone(base.languages)}
		if err := texts.add(fstest.MapFS{"en.txt": {Data: []byte(text)}}); err != nil {
			t.Fatalf("parsed and not loaded: %v", err)
		}
		b, d := newBouncer(t, func(c *Config) { c.Texts = texts })
		for _, state := range []queue.State{queue.Failed, queue.Pending} {
			if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", state, refusal)}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
		}
		for i, body := range d.body {
			r := read(t, body)
			if len(r.header["From"]) != 1 || len(r.header["Subject"]) != 1 || len(r.rcpts) != 1 {
				t.Errorf("notification %d: %v", i, r.header)
			}
			for line := range bytes.Lines(body) {
				if len(line) > 1000 {
					t.Errorf("line of %d octets", len(line))
				}
			}
			if s, ok := l["greeting"]; ok && !strings.Contains(r.text, s.fill("host", "relay.example")) {
				t.Errorf("%q is not in %q", s.lines, r.text)
			}
		}
	})
}
