package bounce

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
)

// door keeps what is injected.
type door struct {
	in   []transaction.Injection
	body [][]byte
	err  error
}

func (d *door) Inject(_ context.Context, in transaction.Injection, body []byte) error {
	if d.err != nil {
		return d.err
	}
	d.in, d.body = append(d.in, in), append(d.body, bytes.Clone(body))
	return nil
}

func newBouncer(t *testing.T, change ...func(*Config)) (*Bouncer, *door) {
	t.Helper()
	d := &door{}
	cfg := Config{Hostname: "relay.example", Origin: "relay1", Door: d}
	for _, c := range change {
		c(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b, d
}

func item() *queue.Item {
	return &queue.Item{Envelope: mail.Envelope{
		QueueID: "0123456789abcdefghijklmnop", RootID: "root", Origin: "relay1", EnvelopeID: "env+id=1",
		ReversePath: mail.Address{Local: "ann", Domain: "example.net"}, Arrival: time.Unix(1700000000, 0),
	}}
}

func rcpt(local string, s queue.State, a queue.Answer) queue.Recipient {
	return queue.Recipient{
		Recipient: mail.Recipient{
			Address: mail.Address{Local: local, Domain: "other.example"}, OriginalRecipient: "rfc822;orig-" + local + "@other.example",
			Channel: mail.ChannelSMTP, Key: mail.NewDeliveryKey("o", "r", local),
		},
		State: s, LastTry: time.Unix(1700003600, 0), Answer: a,
	}
}

var refusal = queue.Answer{Code: 550, Status: mail.StatusBadMailbox, Text: "5.1.1 <x>: user\r\nX-Evil: 1", Relay: "mx.other.example[192.0.2.7:25]"}

const sample = "From: ann\r\nSubject: hi\r\nMessage-ID: <m1@example.net>\r\n\r\nthe body\r\n"

// report is a notification as an RFC 3464 reader sees it.
type report struct {
	header    textproto.MIMEHeader
	text      string
	language  string
	status    string // content type of the status part
	message   textproto.MIMEHeader
	rcpts     []textproto.MIMEHeader
	content   string
	contentOf string // content type
}

// read reads a notification by the rules of RFC 3464 and RFC 3462.
func read(t *testing.T, b []byte) report {
	t.Helper()
	if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) || bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\r")) {
		t.Error("bare line ends")
	}
	if !utf8.Valid(b) {
		t.Error("not UTF-8")
	}
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(b)))
	var rep report
	var err error
	if rep.header, err = r.ReadMIMEHeader(); err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(rep.header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("Content-Type %q: %v", rep.header.Get("Content-Type"), err)
	}
	eight := slices.ContainsFunc(b, func(c byte) bool { return c >= 0x80 })
	if want := map[bool]string{true: "8bit", false: "7bit"}[eight]; rep.header.Get("Content-Transfer-Encoding") != want {
		t.Errorf("Content-Transfer-Encoding %q, want %q", rep.header.Get("Content-Transfer-Encoding"), want)
	}
	parts := multipart.NewReader(r.R, params["boundary"])
	for n := 0; ; n++ {
		p, err := parts.NextRawPart()
		if err == io.EOF {
			if n != 3 {
				t.Errorf("%d parts", n)
			}
			return rep
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		switch n {
		case 0:
			rep.language = p.Header.Get("Content-Language")
			switch p.Header.Get("Content-Transfer-Encoding") {
			case "quoted-printable":
				content, err = io.ReadAll(quotedprintable.NewReader(bytes.NewReader(content)))
			case "base64":
				content, err = io.ReadAll(base64.NewDecoder(base64.StdEncoding, bytes.NewReader(content)))
			}
			if err != nil {
				t.Fatal(err)
			}
			rep.text = string(content)
		case 1:
			rep.status = p.Header.Get("Content-Type")
			groups := strings.Split(strings.TrimSuffix(string(content), "\r\n"), "\r\n\r\n")
			for i, g := range groups {
				h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(g + "\r\n\r\n"))).ReadMIMEHeader()
				if err != nil {
					t.Fatalf("group %q: %v", g, err)
				}
				if i == 0 {
					rep.message = h
				} else {
					rep.rcpts = append(rep.rcpts, h)
				}
			}
		case 2:
			rep.content, rep.contentOf = string(content), p.Header.Get("Content-Type")
		}
	}
}

func TestFailed(t *testing.T) {
	b, d := newBouncer(t)
	it := item()
	secret := rcpt("alias", queue.Failed, queue.Answer{Code: 552, Status: mail.Status{5, 2, 2}, Text: "full", Relay: "pair1-a"})
	secret.Channel, secret.Via = mail.ChannelLMTP, []string{"alias@our.example"}
	secret.Address = mail.Address{Local: "hidden", Domain: "private.example"}
	secret.OriginalRecipient = ""
	rcpts := []queue.Recipient{rcpt("bob", queue.Failed, refusal), secret}
	if err := b.Report(t.Context(), it, rcpts, []byte(sample)); err != nil {
		t.Fatal(err)
	}
	in := d.in[0]
	if !in.Report || !in.Envelope.ReversePath.IsNull() || len(in.Recipients) != 1 || in.Recipients[0].Address != it.Envelope.ReversePath || in.Envelope.RootID != in.Envelope.QueueID {
		t.Errorf("injected %+v", in)
	}
	r := read(t, d.body[0])
	for k, want := range map[string]string{
		"Subject": "Delivery failed", "Auto-Submitted": "auto-replied", "To": "<ann@example.net>", "References": "<m1@example.net>",
		"From": "Mail Delivery System <MAILER-DAEMON@relay.example>",
	} {
		if got := r.header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	for k, want := range map[string]string{"Reporting-Mta": "dns; relay.example", "Original-Envelope-Id": "env+id=1", "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000"} {
		if got := r.message.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	want := []map[string]string{
		{
			"Original-Recipient": "rfc822; orig-bob@other.example", "Final-Recipient": "rfc822; bob@other.example", "Action": "failed",
			"Status": "5.1.1", "Remote-Mta": "dns; mx.other.example", "Diagnostic-Code": "smtp; 550 5.1.1 5.1.1 <x>: user  X-Evil: 1",
		},
		{"Final-Recipient": "rfc822; alias@our.example", "Action": "failed", "Status": "5.2.2", "Remote-Mta": ""},
	}
	for i, w := range want {
		for k, v := range w {
			if got := r.rcpts[i].Get(k); got != v {
				t.Errorf("recipient %d: %s: %q, want %q", i, k, got, v)
			}
		}
	}
	if r.content != sample || r.contentOf != "message/rfc822" || r.status != "message/delivery-status" {
		t.Errorf("%s %s %q", r.status, r.contentOf, r.content)
	}
	for _, hidden := range []string{"hidden@", "private.example", "pair1-a", "X-Evil:1"} {
		if strings.Contains(strings.TrimSuffix(string(d.body[0]), sample), hidden) {
			t.Errorf("the sender is shown %q", hidden)
		}
	}
	if r.header.Get("X-Evil") != "" || r.rcpts[0].Get("X-Evil") != "" {
		t.Error("a reply has become a field")
	}
}

// TestForms: action, status and content by state and RET.
func TestForms(t *testing.T) {
	for name, tt := range map[string]struct {
		state                   queue.State
		answer                  queue.Answer
		ret                     string
		action, status, content string
		subject                 string
	}{
		"failed":           {queue.Failed, refusal, "", "failed", "5.1.1", "message/rfc822", "Delivery failed"},
		"failed, headers":  {queue.Failed, refusal, "HDRS", "failed", "5.1.1", "text/rfc822-headers", "Delivery failed"},
		"failed, no code":  {queue.Failed, queue.Answer{}, "FULL", "failed", "5.0.0", "message/rfc822", "Delivery failed"},
		"timed out":        {queue.TimedOut, queue.Answer{Status: mail.StatusNoAnswer, Text: "no answer"}, "", "failed", "4.4.1", "message/rfc822", "Delivery failed: time limit reached"},
		"full too long":    {queue.TimedOut, queue.Answer{Code: 452, Status: mail.StatusOverQuota, Text: "Mailbox full"}, "", "failed", "5.2.2", "message/rfc822", "Delivery failed: time limit reached"},
		"never tried":      {queue.TimedOut, queue.Answer{}, "", "failed", "4.4.7", "message/rfc822", "Delivery failed: time limit reached"},
		"returned":         {queue.Returned, queue.Answer{}, "", "failed", "5.7.0", "message/rfc822", "Delivery stopped by an administrator"},
		"delayed":          {queue.Pending, queue.Answer{Status: mail.StatusNoAnswer}, "FULL", "delayed", "4.4.1", "text/rfc822-headers", "Delivery delayed"},
		"delivered":        {queue.Delivered, queue.Answer{Code: 250, Status: mail.StatusDelivered}, "FULL", "delivered", "2.1.5", "text/rfc822-headers", "Delivered"},
		"relayed":          {queue.Relayed, queue.Answer{Code: 250}, "", "relayed", "2.0.0", "text/rfc822-headers", "Passed on without further report"},
		"expanded":         {queue.Expanded, queue.Answer{}, "", "expanded", "2.0.0", "text/rfc822-headers", "Passed on to a list"},
		"delayed, no word": {queue.Pending, queue.Answer{}, "", "delayed", "4.0.0", "text/rfc822-headers", "Delivery delayed"},
	} {
		b, d := newBouncer(t)
		it := item()
		it.Envelope.Ret = tt.ret
		if err := b.Report(t.Context(), it, []queue.Recipient{rcpt("bob", tt.state, tt.answer)}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
		r := read(t, d.body[0])
		if got := r.rcpts[0]; got.Get("Action") != tt.action || got.Get("Status") != tt.status || r.contentOf != tt.content || r.header.Get("Subject") != tt.subject {
			t.Errorf("%s: %v %s %q", name, got, r.contentOf, r.header.Get("Subject"))
		}
		if tt.state == queue.Pending != (r.rcpts[0].Get("Will-Retry-Until") != "") {
			t.Errorf("%s: Will-Retry-Until %q", name, r.rcpts[0].Get("Will-Retry-Until"))
		}
		if strings.Contains(r.contentOf, "headers") && (strings.Contains(r.content, "the body") || !strings.Contains(r.content, "Subject: hi")) {
			t.Errorf("%s: content %q", name, r.content)
		}
	}
}

func TestLargeMessage(t *testing.T) {
	b, d := newBouncer(t, func(c *Config) { c.MaxContent = 100 })
	msg := sample + strings.Repeat("x\r\n", 100)
	if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(msg)); err != nil {
		t.Fatal(err)
	}
	if r := read(t, d.body[0]); r.contentOf != "text/rfc822-headers" {
		t.Errorf("%s", r.contentOf)
	}
}

func TestBeyondASCII(t *testing.T) {
	b, d := newBouncer(t)
	it := item()
	if err := b.Report(t.Context(), it, []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte("Subject: x\r\n\r\ngrüße\r\n")); err != nil {
		t.Fatal(err)
	}
	if in := d.in[0]; in.Envelope.Body != mail.Body8BitMIME || in.Envelope.SMTPUTF8 {
		t.Errorf("8-bit message: %+v", in.Envelope)
	}
	read(t, d.body[0])
	it.Envelope.SMTPUTF8 = true
	it.Envelope.ReversePath = mail.Address{Local: "änne", Domain: "例.example"}
	odd := rcpt("jörg", queue.Failed, refusal)
	odd.OriginalRecipient = ""
	if err := b.Report(t.Context(), it, []queue.Recipient{odd}, []byte(sample)); err != nil {
		t.Fatal(err)
	}
	if in := d.in[1]; !in.Envelope.SMTPUTF8 {
		t.Errorf("UTF-8 addresses: %+v", in.Envelope)
	}
	r := read(t, d.body[1])
	if r.status != "message/global-delivery-status" || r.contentOf != "message/global" || r.rcpts[0].Get("Final-Recipient") != "utf-8; jörg@other.example" {
		t.Errorf("%s %s %v", r.status, r.contentOf, r.rcpts)
	}
}

// TestSameAgain: the notification made after a crash is the same one.
func TestSameAgain(t *testing.T) {
	b, d := newBouncer(t)
	later, _ := newBouncer(t, func(c *Config) { c.Door = d })
	rcpts := []queue.Recipient{rcpt("bob", queue.Failed, refusal)}
	for _, x := range []*Bouncer{b, later} {
		if err := x.Report(t.Context(), item(), rcpts, []byte(sample)); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(d.in[0].Envelope) != fmt.Sprint(d.in[1].Envelope) || !bytes.Equal(d.body[0], d.body[1]) {
		t.Error("made again it is another one")
	}
	if !queue.ValidID(d.in[0].Envelope.QueueID) {
		t.Errorf("id %q", d.in[0].Envelope.QueueID)
	}
	ids := map[string]bool{d.in[0].Envelope.QueueID: true}
	it := item()
	for n := range 3 {
		it.Notices = n
		if err := b.Report(t.Context(), it, []queue.Recipient{rcpt("bob", queue.Pending, refusal)}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
		ids[d.in[len(d.in)-1].Envelope.QueueID] = true
	}
	if len(ids) != 4 {
		t.Errorf("%d ids for 4 notifications", len(ids))
	}
}

func TestNeverAboutNotifications(t *testing.T) {
	b, d := newBouncer(t)
	null, dsn := item(), item()
	null.Envelope.ReversePath = mail.Address{}
	dsn.Report = true
	for _, it := range []*queue.Item{null, dsn} {
		if err := b.Report(t.Context(), it, []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample)); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.in) != 0 {
		t.Errorf("%d notifications", len(d.in))
	}
}

func TestErrors(t *testing.T) {
	b, d := newBouncer(t)
	rcpts := []queue.Recipient{rcpt("bob", queue.Failed, refusal)}
	d.err = &mail.Error{Op: "expand", Status: mail.StatusBadMailbox}
	if err := b.Report(t.Context(), item(), rcpts, []byte(sample)); err != nil {
		t.Errorf("unknown sender: %v", err)
	}
	d.err = errors.New("directory down")
	if err := b.Report(t.Context(), item(), rcpts, []byte(sample)); err == nil {
		t.Error("a temporary failure is forgotten")
	}
}

func TestCap(t *testing.T) {
	now := time.Unix(0, 0)
	b, d := newBouncer(t, func(c *Config) { c.PerHour = 3; c.Now = func() time.Time { return now } })
	send := func() {
		for range 10 {
			if err := b.Report(t.Context(), item(), []queue.Recipient{rcpt("bob", queue.Failed, refusal)}, []byte(sample)); err != nil {
				t.Fatal(err)
			}
		}
	}
	send()
	if len(d.in) != 3 {
		t.Errorf("%d of 3 sent", len(d.in))
	}
	now = now.Add(time.Hour)
	send()
	if len(d.in) != 6 {
		t.Errorf("%d of 6 sent", len(d.in))
	}
}

func FuzzCompose(f *testing.F) {
	f.Add("bob", "5.1.1 no\r\nsuch user", "mx[1]", "rfc822;x", []byte(sample))
	f.Add("jörg", "\xff\x00", "", "utf-8;\n", []byte("\x00\r\n.\r\n\xff"))
	f.Fuzz(func(t *testing.T, local, text, relay, orcpt string, msg []byte) {
		if len(msg) > 1<<16 || bytes.ContainsAny(msg, "\x00") || !utf8.Valid(msg) || bytes.Count(msg, []byte("\r")) != bytes.Count(msg, []byte("\r\n")) || bytes.Count(msg, []byte("\n")) != bytes.Count(msg, []byte("\r\n")) {
			return // the engine has refused it
		}
		a, err := mail.ParseAddress(local+"@x.example", true)
		if err != nil {
			return
		}
		b, d := newBouncer(t)
		r := rcpt("x", queue.Failed, queue.Answer{Code: 550, Text: text, Relay: relay})
		r.Address, r.OriginalRecipient = a, orcpt
		if err := b.Report(t.Context(), item(), []queue.Recipient{r}, msg); err != nil {
			t.Fatal(err)
		}
		rep := read(t, d.body[0])
		if len(rep.rcpts) != 1 || rep.rcpts[0].Get("Status") != "5.0.0" {
			t.Errorf("%v", rep.rcpts)
		}
	})
}

// TestAuthor: a notification is from the address that the recipients' domain
// wants, when they agree and the reader can read it.
func TestAuthor(t *testing.T) {
	wanted := mail.Address{Local: "post", Domain: "other.example"}
	with := func(local string, a mail.Address) queue.Recipient {
		r := rcpt(local, queue.Failed, refusal)
		r.Reports = a
		return r
	}
	const ours = "<MAILER-DAEMON@relay.example>"
	for name, tt := range map[string]struct {
		rcpts []queue.Recipient
		want  string
	}{
		"wanted":         {[]queue.Recipient{with("bob", wanted), with("eve", wanted)}, "<post@other.example>"},
		"by one of two":  {[]queue.Recipient{with("bob", mail.Address{}), with("eve", wanted)}, ours},
		"by none":        {[]queue.Recipient{with("bob", mail.Address{})}, ours},
		"two wishes":     {[]queue.Recipient{with("bob", wanted), with("eve", mail.Address{Local: "x", Domain: "y.example"})}, ours},
		"not for ASCII":  {[]queue.Recipient{with("bob", mail.Address{Local: "pöst", Domain: "other.example"})}, ours},
		"among UTF-8":    {[]queue.Recipient{with("böb", mail.Address{Local: "pöst", Domain: "other.example"})}, "<pöst@other.example>"},
		"a quoted local": {[]queue.Recipient{with("bob", mail.Address{Local: "post master", Domain: "other.example"})}, "<\"post master\"@other.example>"},
	} {
		b, d := newBouncer(t)
		if err := b.Report(t.Context(), item(), tt.rcpts, []byte(sample)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := read(t, d.body[0]).header.Get("From"); got != "Mail Delivery System "+tt.want {
			t.Errorf("%s: From: %s", name, got)
		}
	}
}
