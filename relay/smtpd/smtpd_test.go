package smtpd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// directory knows the domain us.example with the user bob, whose name contains
// nothing odd, and everything else is outside.
type directory struct{}

func (directory) Rcpt(_ context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	if !strings.EqualFold(r.Address.Domain, "us.example") {
		r.Channel, r.NextHop = mail.ChannelSMTP, r.Address.Domain
		return []mail.Recipient{r}, nil
	}
	switch r.Address.Local {
	case "bob":
		r.Channel, r.NextHop, r.Mailbox = mail.ChannelLMTP, "p1", "bob@us.example"
	case "fwd":
		r.Via = []string{r.Address.String()}
		r.Address = mail.Address{Local: "x", Domain: "other.example"}
		r.Channel, r.NextHop = mail.ChannelSMTP, "other.example"
	default:
		return nil, &mail.Error{Op: "expand", Rcpt: r.Address, Status: mail.StatusBadMailbox, Reply: "User unknown"}
	}
	return []mail.Recipient{r}, nil
}

// sink is pairs and queue in one: it keeps what was accepted.
type sink struct {
	mu    sync.Mutex
	to    []string
	items []*queue.Item
	body  string
}

func (s *sink) Deliver(_ context.Context, d *deliver.Delivery) []deliver.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = ""
	for _, b := range d.Body {
		s.body += string(b)
	}
	for _, r := range d.Recipients {
		s.to = append(s.to, r.Mailbox)
	}
	return deliver.All(d, deliver.Result{Outcome: deliver.Delivered, Code: 250})
}

func (s *sink) Probe(context.Context, string) error { return nil }

func (s *sink) Reserve(int64, int) (queue.Reservation, error) { return queue.Reservation{}, nil }

func (s *sink) Load(string) (*queue.Item, error) { return nil, queue.ErrNotFound }

func (s *sink) Submit(_ context.Context, _ *queue.Reservation, it *queue.Item, body ...[]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items = append(s.items, it)
	s.body = ""
	for _, b := range body {
		s.body += string(b)
	}
	for _, r := range it.Recipients {
		s.to = append(s.to, r.Address.String())
	}
	return nil
}

// passwords accepts ann with "secret".
type passwords struct{}

func (passwords) Password(_ context.Context, user, password, authz string) (string, error) {
	switch {
	case user == "down":
		return "", errors.New("directory down")
	case user == "ann" && password == "secret" && (authz == "" || authz == "ann"):
		return "ann@us.example", nil
	}
	return "", &mail.Error{Op: "auth", Status: mail.Status{5, 7, 8}, Reply: "no"}
}

func (passwords) Certificate(_ context.Context, cs *tls.ConnectionState, _ string) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", &mail.Error{Op: "auth", Status: mail.Status{5, 7, 8}, Reply: "no"}
	}
	return cs.PeerCertificates[0].Subject.CommonName, nil
}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"relay.example"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

type house struct {
	sink
	service *Service
	addr    string
	tls     *tls.Config
}

func start(t *testing.T, role Role, change ...func(*Config)) *house {
	t.Helper()
	h := &house{tls: certificate(t)}
	a, err := transaction.New(transaction.Config{Hostname: "relay.example", Origin: "r1", Domain: "us.example", Expander: directory{}, Queue: h, Pairs: h})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "test", Role: role, Acceptor: a, Auth: passwords{}, Hostname: "relay.example"}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.service = s
	srv, err := smtp.NewServer(smtp.ServerConfig{Hostname: "relay.example", TLS: h.tls, Mechanisms: []string{"PLAIN", "LOGIN"}, NewSession: s.NewSession})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx, l) })
	t.Cleanup(func() { l.Close(); cancel(); wg.Wait(); a.Close() })
	return h
}

// dialogue sends lines and returns the last line of the last reply.
func dialogue(t *testing.T, addr string, lines ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r := newLines(c)
	last := r.reply()
	for _, line := range lines {
		if last == "" {
			return last
		}
		fmt.Fprintf(c, "%s\r\n", line)
		last = r.reply()
	}
	return last
}

type lines struct {
	c   net.Conn
	buf string
}

func newLines(c net.Conn) *lines { return &lines{c: c} }

func (l *lines) reply() string {
	for {
		line, rest, ok := strings.Cut(l.buf, "\r\n")
		if ok {
			l.buf = rest
			if len(line) < 4 || line[3] != '-' {
				return line
			}
			continue
		}
		b := make([]byte, 4096)
		n, err := l.c.Read(b)
		if err != nil {
			return ""
		}
		l.buf += string(b[:n])
	}
}

// TestOpenRelay: nothing that a stranger writes is sent outside (S9).
func TestOpenRelay(t *testing.T) {
	h := start(t, MX)
	for i, to := range []string{
		"<x@other.example>", "<x@OTHER.example>", "<x@sub.us.example>", "<x@us.example.other.example>", "<x@other.example.us.example>",
		"<x%other.example@us.example>", "<other.example!x@us.example>", "<x%other.example%third.example@us.example>",
		"<@us.example:x@other.example>", "<@us.example,@relay.example:x@other.example>", "<\"x@other.example\"@us.example>",
		"<\"x@other.example\">", "<x@[192.0.2.9]>", "<x@[127.0.0.1]>", "<x@[IPv6:::1]>", "<x@relay.example>", "<x@localhost>",
		"<x@other.example@us.example>", "<x@us.example@other.example>", "<x>", "<>", "x@other.example", "<x@other.example> SIZE=3",
		"<\"x%other.example\"@us.example>", "<bob@us.example.>", "<postmaster@other.example>", "<x@192.0.2.9>",
	} {
		for _, from := range []string{"<>", "<bob@us.example>", "<spammer@third.example>", "<postmaster@us.example>"} {
			got := dialogue(t, h.addr, "EHLO x", "MAIL FROM:"+from, "RCPT TO:"+to, "DATA")
			if !strings.HasPrefix(got, "5") {
				t.Errorf("case %d: MAIL FROM:%s RCPT TO:%s: DATA answered %q", i+1, from, to, got)
			}
		}
	}
	if len(h.to) != 0 {
		t.Errorf("relayed: %v", h.to)
	}
}

func TestReplies(t *testing.T) {
	mx, sub := start(t, MX), start(t, Submission)
	inside := start(t, MX, func(c *Config) { c.MayRelay = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	plain := "AUTH PLAIN AGFubgBzZWNyZXQ=" // ann secret
	for name, tt := range map[string]struct {
		h     *house
		lines []string
		want  string
	}{
		"our user":               {mx, []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<bob@us.example>"}, "250"},
		"unknown user":           {mx, []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<eve@us.example>"}, "550 5.1.1 User unknown"},
		"forward":                {mx, []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<fwd@us.example>"}, "250"},
		"stranger":               {mx, []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<x@other.example>"}, "554 5.7.1 Relay access denied"},
		"postmaster":             {mx, []string{"EHLO x", "MAIL FROM:<>", "RCPT TO:<PostMaster>"}, "250"},
		"inside":                 {inside, []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<x@other.example>"}, "250"},
		"submission before AUTH": {sub, []string{"EHLO x", "MAIL FROM:<a@us.example>"}, "530 5.7.0"},
		"AUTH before TLS":        {sub, []string{"EHLO x", plain}, "5"},
	} {
		if got := dialogue(t, tt.h.addr, tt.lines...); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// submit sends one message with the engine's client, by TLS and AUTH.
func submit(t *testing.T, h *house, user, password, to, body string) (*smtp.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := smtp.Dial(ctx, h.addr, smtp.ClientConfig{Hello: "client.example", TLS: &tls.Config{InsecureSkipVerify: true}, RequireTLS: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if user != "" {
		if err := c.Auth(ctx, "PLAIN", user, password); err != nil {
			return nil, err
		}
	}
	a, _ := mail.ParseAddress(to, false)
	return c.Send(ctx, &smtp.Transaction{
		Mail: smtp.MailArgs{From: mail.Address{Local: "ann", Domain: "us.example"}}, Rcpts: []smtp.RcptArgs{{To: a}}, Body: [][]byte{[]byte(body)},
	})
}

func TestSubmission(t *testing.T) {
	h := start(t, Submission)
	res, err := submit(t, h, "ann", "secret", "x@other.example", "From: a\r\n\r\nhello\r\n")
	if err != nil || len(res.Data) != 1 || !res.Data[0].OK() {
		t.Fatalf("%+v %v", res, err)
	}
	head, _, _ := strings.Cut(h.body, "\r\n\r\n")
	for _, want := range []string{"ESMTPSA", "\r\nDate: ", "\r\nMessage-ID: <", "@relay.example>"} {
		if strings.Count(head, want) != 1 {
			t.Errorf("%q not once in %q", want, head)
		}
	}
	if h.items[0].Envelope.AuthUser != "ann@us.example" || h.to[0] != "x@other.example" {
		t.Errorf("queued %+v", h.items[0])
	}
	complete := "Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nmessage-id: <1@x>\r\n\r\nhello\r\n"
	if _, err := submit(t, h, "ann", "secret", "bob@us.example", complete); err != nil || !strings.HasSuffix(h.body, complete) || strings.Count(h.body, "Date") != 1 {
		t.Errorf("complete message was changed: %q", h.body)
	}
	for user, want := range map[string]string{"ann": "535", "eve": "535", "down": "454"} {
		if _, err := submit(t, h, user, "wrong", "bob@us.example", "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", user, err, want)
		}
	}
}

// TestSet: settings hold for sessions from then on; wrong ones for none.
func TestSet(t *testing.T) {
	h := start(t, MX)
	const denied = "554 5.7.1 Relay access denied"
	outside := []string{"EHLO x", "MAIL FROM:<a@b.example>", "RCPT TO:<x@other.example>"}
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	open := newLines(c)
	open.reply()
	cfg := *h.service.cfg.Load()
	cfg.MayRelay = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if err := h.service.Set(cfg); err != nil {
		t.Fatal(err)
	}
	bad := cfg
	bad.Acceptor, bad.MayRelay = nil, nil
	if h.service.Set(bad) == nil {
		t.Error("a configuration without an acceptor is taken")
	}
	if got := dialogue(t, h.addr, outside...); !strings.HasPrefix(got, "250 ") {
		t.Errorf("a session after Set: %q", got)
	}
	got := ""
	for _, line := range outside {
		fmt.Fprintf(c, "%s\r\n", line)
		got = open.reply()
	}
	if got != denied {
		t.Errorf("a session from before Set: %q", got)
	}
	cfg.MayRelay = nil
	if err := h.service.Set(cfg); err != nil {
		t.Fatal(err)
	}
	if got := dialogue(t, h.addr, outside...); got != denied {
		t.Errorf("a session after the second Set: %q", got)
	}
}

func TestLimitsPerAddress(t *testing.T) {
	now := time.Unix(0, 0)
	cfg := &Config{Limits: Limits{Sessions: 2, PerMinute: 5}, Now: func() time.Time { return now }}
	s := new(Service)
	s.counts.init()
	at := func(a string) *smtp.ConnInfo { return &smtp.ConnInfo{Remote: netip.MustParseAddrPort(a)} }
	r1, refused := s.admit(cfg, at("192.0.2.1:1"))
	if refused != nil {
		t.Fatal(refused)
	}
	r2, _ := s.admit(cfg, at("[::ffff:192.0.2.1]:2"))
	if _, refused := s.admit(cfg, at("192.0.2.1:3")); refused != replyTooMany {
		t.Errorf("third session: %v", refused)
	}
	if _, refused := s.admit(cfg, at("192.0.2.2:3")); refused != nil {
		t.Errorf("another address: %v", refused)
	}
	r1()
	r2()
	for i := range 3 {
		r, refused := s.admit(cfg, at("192.0.2.1:4"))
		if refused != nil {
			t.Fatalf("session %d: %v", i+3, refused)
		}
		r()
	}
	if _, refused := s.admit(cfg, at("192.0.2.1:5")); refused != replyTooFast {
		t.Errorf("sixth session in a minute: %v", refused)
	}
	now = now.Add(75 * time.Second) // 5 sessions count for three quarters
	for i := range 2 {
		r, refused := s.admit(cfg, at("192.0.2.1:6"))
		if refused != nil {
			t.Fatalf("%d: %v", i, refused)
		}
		r()
	}
	if _, refused := s.admit(cfg, at("192.0.2.1:7")); refused != replyTooFast {
		t.Errorf("sliding minute: %v", refused)
	}
	for i := range 3 {
		_, refused := s.admit(cfg, at(fmt.Sprintf("[2001:db8:0:1::%d]:1", i)))
		if (refused != nil) != (i == 2) {
			t.Errorf("session %d of one /64: %v", i, refused)
		}
	}
}

// follower writes down what a filter is told, and refuses what says "bad".
type follower struct {
	mu  sync.Mutex
	log []string
}

func (f *follower) Name() string { return "follower" }

func (f *follower) told(bad bool, format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, fmt.Sprintf(format, args...))
	if bad {
		return &smtp.Reply{Code: 554, Status: mail.StatusRefused, Text: "Not you"}
	}
	return nil
}

func (f *follower) Open(_ context.Context, c *policy.Client) (policy.Session, error) {
	if err := f.told(c.Service == "bad", "open %s %s", c.Service, c.Remote.Addr()); err != nil {
		return nil, err
	}
	return following{f}, nil
}

type following struct{ *follower }

func (f following) Hello(_ context.Context, c *policy.Client) error {
	return f.told(c.Helo == "bad", "hello %s %v", c.Helo, c.TLS != nil)
}

func (f following) Mail(_ context.Context, c *policy.Client, m *policy.Mail) error {
	if m.QueueID == "" {
		return errors.New("no queue id")
	}
	return f.told(m.From.Local == "bad", "mail %s %s", m.From, strings.TrimSpace(c.AuthUser+" "+c.AuthType))
}

func (f following) Rcpt(_ context.Context, to mail.Address) error {
	return f.told(to.Local == "fwd", "rcpt %s", to)
}

func (f following) Message(_ context.Context, b [][]byte) policy.Verdict {
	_ = f.told(false, "message %s", bytes.Join(b, nil))
	return policy.Verdict{}
}
func (f following) Reset() { _ = f.told(false, "reset") }
func (f following) Close() { _ = f.told(false, "close") }

// TestFilter: what a filter hears of a session, and that its word counts.
func TestFilter(t *testing.T) {
	for name, tt := range map[string]struct {
		service string
		lines   []string
		last    string
		log     []string
	}{
		"before the banner": {"bad", nil, "554 5.7.1 Not you", []string{"open bad 127.0.0.1"}},
		"name":              {"mx", []string{"EHLO bad"}, "554 5.7.1 Not you", []string{"hello bad false"}},
		"sender":            {"mx", []string{"EHLO x", "MAIL FROM:<bad@x.test>"}, "554 5.7.1 Not you", []string{"hello x false", "mail bad@x.test ", "reset"}},
		"recipients": {
			"mx",
			[]string{"EHLO x", "MAIL FROM:<a@x.test>", "RCPT TO:<eve@us.example>", "RCPT TO:<fwd@us.example>", "RCPT TO:<bob@us.example>", "RSET"},
			"250 2.0.0 Reset",
			[]string{"hello x false", "mail a@x.test ", "rcpt fwd@us.example", "rcpt bob@us.example", "reset"},
		},
		"message": {
			"mx",
			[]string{"EHLO x", "MAIL FROM:<>", "RCPT TO:<bob@us.example>", "DATA", "A: b\r\n.", "MAIL FROM:<c@x.test>"},
			"250",
			[]string{"hello x false", "mail  ", "rcpt bob@us.example", "message A: b\r\n", "reset", "mail c@x.test ", "reset"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &follower{}
			h := start(t, MX, func(c *Config) { c.Name, c.Filters = tt.service, []policy.Filter{f} })
			if got := dialogue(t, h.addr, tt.lines...); !strings.HasPrefix(got, tt.last) {
				t.Errorf("last answer %q, want %q", got, tt.last)
			}
			want := tt.log
			if tt.service != "bad" {
				want = slices.Concat([]string{"open mx 127.0.0.1"}, tt.log, []string{"close"})
			}
			deadline := time.Now().Add(10 * time.Second)
			for {
				f.mu.Lock()
				got := slices.Clone(f.log)
				f.mu.Unlock()
				if slices.Equal(got, want) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("told %q, want %q", got, want)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	// Who logs in.
	f := &follower{}
	h := start(t, Submission, func(c *Config) { c.Filters = []policy.Filter{f} })
	if _, err := submit(t, h, "ann", "secret", "bob@us.example", "x"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.log, "mail ann@us.example ann@us.example PLAIN") || !slices.ContainsFunc(f.log, func(s string) bool { return strings.HasPrefix(s, "message Date: ") }) {
		t.Errorf("%q", f.log)
	}
}
