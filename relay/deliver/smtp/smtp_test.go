package smtp

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/smtp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is an SMTP server somewhere in the Internet.
type peer struct {
	mail, data func() *smtp.Reply
	rcpt       func(r *smtp.RcptArgs) *smtp.Reply

	mu       sync.Mutex
	got      []string // bodies
	to       []smtp.RcptArgs
	from     []smtp.MailArgs
	tls      []bool
	helo     []string
	sessions int
}

type peerSession struct {
	p *peer
	c *smtp.ConnInfo
}

func (s *peerSession) Hello(context.Context, *smtp.ConnInfo) error { return nil }
func (s *peerSession) Auth(context.Context, string, string, string, string) (string, error) {
	return "", errors.New("no")
}

func (s *peerSession) Mail(_ context.Context, m *smtp.MailArgs) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.from, s.p.tls, s.p.helo = append(s.p.from, *m), append(s.p.tls, s.c.TLS != nil), append(s.p.helo, s.c.Helo)
	if s.p.mail != nil {
		if r := s.p.mail(); r != nil {
			return r
		}
	}
	return nil
}

func (s *peerSession) Rcpt(_ context.Context, r *smtp.RcptArgs) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.rcpt != nil {
		if reply := s.p.rcpt(r); reply != nil {
			return reply
		}
	}
	s.p.to = append(s.p.to, *r)
	return nil
}

func (s *peerSession) Data(_ context.Context, m *smtp.Message) []*smtp.Reply {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.got = append(s.p.got, string(m.Bytes))
	if s.p.data != nil {
		return []*smtp.Reply{s.p.data()}
	}
	return []*smtp.Reply{{Code: 250, Status: mail.StatusOK, Text: "queued as 7"}}
}

func (s *peerSession) Reset() {}
func (s *peerSession) Close() {}

func certificate(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// internet is a DNS and the servers behind it: addresses 127.0.0.x stand for
// hosts; all listen on one port.
type internet struct {
	t    *testing.T
	zone *dns.Zone
	port string
}

func newInternet(t *testing.T) *internet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		peertest.Lacks(t, "no loopback addresses beyond 127.0.0.1: %v", err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	return &internet{t: t, zone: &dns.Zone{}, port: port}
}

func (n *internet) record(lines ...string) {
	for _, l := range lines {
		if err := n.zone.Add(l); err != nil {
			n.t.Fatal(err)
		}
	}
}

// serve lets p answer at ip.
func (n *internet) serve(ip string, p *peer, cfg smtp.ServerConfig) {
	n.t.Helper()
	cfg.Hostname = "mx.example"
	cfg.NewSession = func(_ context.Context, c *smtp.ConnInfo) (smtp.Session, error) {
		p.mu.Lock()
		p.sessions++
		p.mu.Unlock()
		return &peerSession{p, c}, nil
	}
	srv, err := smtp.NewServer(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	l, err := net.Listen("tcp", ip+":"+n.port)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ctx, l) })
	n.t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
}

// script answers connections at ip by sending what is written.
func (n *internet) script(ip string, f func(r *bufio.Reader, w io.Writer)) {
	n.t.Helper()
	l, err := net.Listen("tcp", ip+":"+n.port)
	if err != nil {
		n.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(bufio.NewReader(c), c)
			})
		}
	})
	n.t.Cleanup(func() { l.Close(); wg.Wait() })
}

func (n *internet) agent(change ...func(*Config)) *Agent {
	n.t.Helper()
	cfg := Config{Hello: "relay.example", Resolver: n.zone, Port: n.port, Connect: time.Second, Command: 5 * time.Second, DataDone: 5 * time.Second}
	for _, c := range change {
		c(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { a.Close() })
	return a
}

func delivery(to ...string) *deliver.Delivery {
	d := &deliver.Delivery{
		Envelope: &mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "x.example"}, EnvelopeID: "id1", Ret: "HDRS"},
		Body:     [][]byte{[]byte("Subject: x\r\n"), []byte("\r\n.dot\r\nbody\r\n")},
	}
	for _, s := range to {
		a, err := mail.ParseAddress(s, true)
		if err != nil {
			panic(err)
		}
		d.Recipients = append(d.Recipients, mail.Recipient{
			Address: a, NextHop: a.Domain, Channel: mail.ChannelSMTP,
			Notify: mail.NotifyFailure, OriginalRecipient: "rfc822;orig@x.example",
		})
	}
	return d
}

func TestDeliver(t *testing.T) {
	n := newInternet(t)
	n.record("d.example. MX 10 mx.d.example.", "mx.d.example. A 127.0.0.2")
	p := &peer{rcpt: func(r *smtp.RcptArgs) *smtp.Reply {
		switch r.To.Local {
		case "none":
			return &smtp.Reply{Code: 550, Status: mail.StatusBadMailbox, Text: "no such user"}
		case "busy":
			return &smtp.Reply{Code: 450, Status: mail.Status{4, 2, 1}, Text: "busy"}
		}
		return nil
	}}
	n.serve("127.0.0.2", p, smtp.ServerConfig{TLS: certificate(t)})
	a := n.agent()
	d := delivery("bob@d.example", "none@d.example", "busy@d.example", `"odd name"@d.example`)
	for range 3 {
		got := a.Deliver(t.Context(), d)
		want := []deliver.Outcome{deliver.Passed, deliver.Failed, deliver.Deferred, deliver.Passed}
		for i, r := range got {
			if r.Outcome != want[i] {
				t.Errorf("recipient %d: %+v, want %v", i, r, want[i])
			}
		}
		if got[0].Text != "queued as 7" || got[0].Relay != "mx.d.example[127.0.0.2:"+n.port+"]" || got[1].Status != mail.StatusBadMailbox || got[1].Text != "no such user" {
			t.Errorf("%+v", got)
		}
	}
	if p.got[0] != "Subject: x\r\n\r\n.dot\r\nbody\r\n" || !p.tls[0] || p.helo[0] != "relay.example" || p.sessions != 1 {
		t.Errorf("got %q, TLS %v, helo %q, %d sessions", p.got, p.tls, p.helo, p.sessions)
	}
	if p.from[0].EnvelopeID != "id1" || p.from[0].Ret != "HDRS" || p.to[0].Notify != mail.NotifyFailure || !strings.EqualFold(p.to[0].OriginalRecipient, "rfc822;orig@x.example") || p.to[1].To.Local != "odd name" {
		t.Errorf("%+v %+v", p.from, p.to)
	}
}

// TestRoutes: which hosts are tried, in which order, and what is final.
func TestRoutes(t *testing.T) {
	n := newInternet(t)
	n.record(
		"pref.example. MX 20 b.example.", "pref.example. MX 10 a.example.", "pref.example. MX 30 c.example.",
		"a.example. A 127.0.0.3", "b.example. A 127.0.0.4", "c.example. A 127.0.0.2",
		"implicit.example. A 127.0.0.2",
		"null.example. MX 0 .",
		"gone.example. MX 10 nohost.example.",
		"loop.example. MX 10 relay.example.", "loop.example. MX 20 c.example.", "relay.example. A 127.0.0.9",
		"backup.example. MX 10 c.example.", "backup.example. MX 20 relay.example.",
		"selfaddr.example. MX 10 other.example.", "other.example. A 127.0.0.9",
		"ill.example. MX 10 c.example.", "illhost.example. MX 10 sick.example.", "halfill.example. MX 10 sick.example.", "halfill.example. MX 20 c.example.",
		"two.example. MX 10 multi.example.", "multi.example. A 127.0.0.3", "multi.example. A 127.0.0.2",
	)
	n.zone.Fail("ill.example", errors.New("SERVFAIL"))
	n.zone.Fail("sick.example", errors.New("SERVFAIL"))
	p := &peer{}
	n.serve("127.0.0.2", p, smtp.ServerConfig{})
	a := n.agent(func(c *Config) { c.SelfAddrs = []netip.Addr{netip.MustParseAddr("127.0.0.9")} })
	for domain, want := range map[string]string{
		"pref.example": "passed 2.0.0", "implicit.example": "passed 2.0.0", "two.example": "passed 2.0.0",
		"null.example": "failed 5.1.10", "nothing.example": "failed 5.1.2", "gone.example": "failed 5.4.4",
		"loop.example": "failed 5.4.6", "selfaddr.example": "failed 5.4.6", "backup.example": "passed 2.0.0",
		"ill.example": "deferred 4.4.3", "illhost.example": "deferred 4.4.3", "halfill.example": "passed 2.0.0",
		"[127.0.0.2]": "passed 2.0.0", "[127.0.0.9]": "failed 5.4.6", "[nonsense]": "failed 5.1.2", "[127.0.0.5]": "deferred 4.4.1",
	} {
		d := delivery("bob@" + domain)
		r := a.Deliver(t.Context(), d)[0]
		if got := fmt.Sprintf("%v %v", r.Outcome, r.Status); got != want {
			t.Errorf("%s: %s, want %s (%+v)", domain, got, want, r)
		}
	}
}

func TestPreferenceIsRandomAmongEquals(t *testing.T) {
	n := newInternet(t)
	n.record("d.example. MX 10 a.example.", "d.example. MX 10 b.example.", "d.example. MX 5 first.example.", "a.example. A 127.0.0.3", "b.example. A 127.0.0.4", "first.example. A 127.0.0.5")
	a := n.agent()
	seen := map[string]int{}
	for range 100 {
		targets, fail := a.targets(t.Context(), "d.example")
		if fail != nil || len(targets) != 3 || targets[0].host != "first.example" {
			t.Fatal(targets, fail)
		}
		seen[targets[1].host]++
	}
	if seen["a.example"] < 20 || seen["b.example"] < 20 {
		t.Errorf("%v", seen)
	}
}

func TestServerFailures(t *testing.T) {
	say := func(lines ...string) func(*bufio.Reader, io.Writer) {
		return func(r *bufio.Reader, w io.Writer) {
			for i, l := range lines {
				if i > 0 {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
				}
				_, _ = io.WriteString(w, l)
			}
		}
	}
	ehlo := "250-mx\r\n250 SIZE 1000\r\n"
	for name, tt := range map[string]struct {
		server func(*bufio.Reader, io.Writer)
		want   string
		next   bool // the next exchanger is tried
	}{
		"refuses to talk":       {say("554 5.7.1 go away\r\n"), "deferred", true},
		"busy":                  {say("421 4.3.2 busy\r\n"), "deferred", true},
		"closes":                {say(""), "deferred", true},
		"nonsense":              {say("hello\r\n"), "deferred", true},
		"421 at MAIL":           {say("220 mx\r\n", ehlo, ehlo, "421 4.3.2 busy\r\n"), "deferred", true},
		"refuses MAIL":          {say("220 mx\r\n", ehlo, ehlo, "550 5.7.1 you\r\n"), "failed", false},
		"defers MAIL":           {say("220 mx\r\n", ehlo, ehlo, "451 4.7.1 grey\r\n"), "deferred", false},
		"lost at RCPT":          {say("220 mx\r\n", ehlo, ehlo, "250 ok\r\n"), "deferred", true},
		"refuses DATA":          {say("220 mx\r\n", ehlo, ehlo, "250 ok\r\n", "250 ok\r\n", "554 no\r\n"), "failed", false},
		"lost after DATA":       {say("220 mx\r\n", ehlo, ehlo, "250 ok\r\n", "250 ok\r\n", "354 go\r\n"), "unknown", false},
		"strange final reply":   {say("220 mx\r\n", ehlo, ehlo, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "", "354 go on\r\n"), "deferred", false},
		"old server, HELO only": {say("220 mx\r\n", "500 what\r\n", "500 what\r\n", "250 mx\r\n", "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "", "250 done\r\n"), "relayed", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newInternet(t)
			n.record("d.example. MX 10 a.example.", "a.example. A 127.0.0.3", "d.example. MX 20 b.example.", "b.example. A 127.0.0.2")
			second := &peer{}
			n.script("127.0.0.3", tt.server)
			n.serve("127.0.0.2", second, smtp.ServerConfig{})
			a := n.agent()
			r := a.Deliver(t.Context(), delivery("bob@d.example"))[0]
			want := tt.want
			if tt.next {
				want = "passed"
			}
			if r.Outcome.String() != want || (second.sessions > 0) != tt.next {
				t.Errorf("%+v, want %s; second exchanger had %d sessions", r, want, second.sessions)
			}
		})
	}
}

// TestTLS: used when offered, given up when broken, unless required.
func TestTLS(t *testing.T) {
	n := newInternet(t)
	n.record("broken.example. A 127.0.0.3", "plain.example. A 127.0.0.2")
	plain := &peer{}
	n.serve("127.0.0.2", plain, smtp.ServerConfig{})
	clear := 0
	n.script("127.0.0.3", func(r *bufio.Reader, w io.Writer) {
		_, _ = io.WriteString(w, "220 mx\r\n")
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(line, "EHLO"):
				_, _ = io.WriteString(w, "250-mx\r\n250 starttls\r\n")
			case strings.HasPrefix(line, "STARTTLS"):
				_, _ = io.WriteString(w, "220 go\r\nnot TLS at all, and long enough to be read\r\n")
				return
			case strings.HasPrefix(line, "MAIL"):
				clear++
				_, _ = io.WriteString(w, "550 5.7.1 seen\r\n")
			default:
				_, _ = io.WriteString(w, "221 bye\r\n")
			}
		}
	})
	if r := n.agent().Deliver(t.Context(), delivery("bob@plain.example"))[0]; r.Outcome != deliver.Passed {
		t.Errorf("plain: %+v", r)
	}
	must := n.agent(func(c *Config) { c.RequireTLS = true })
	if r := must.Deliver(t.Context(), delivery("bob@plain.example"))[0]; r.Outcome != deliver.Deferred || len(plain.from) != 1 {
		t.Errorf("plain, TLS required: %+v", r)
	}
	if r := must.Deliver(t.Context(), delivery("bob@broken.example"))[0]; r.Outcome != deliver.Deferred || clear != 0 {
		t.Errorf("broken, TLS required: %+v, %d in the clear", r, clear)
	}
}

// TestInjection: bytes that came before the handshake end the session.
func TestInjection(t *testing.T) {
	n := newInternet(t)
	n.record("d.example. A 127.0.0.3")
	n.script("127.0.0.3", func(r *bufio.Reader, w io.Writer) {
		_, _ = io.WriteString(w, "220 mx\r\n")
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(w, "250-mx\r\n250 STARTTLS\r\n")
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(w, "220 go\r\n250 evil\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	if r := n.agent().Deliver(t.Context(), delivery("bob@d.example"))[0]; r.Outcome != deliver.Deferred || !strings.Contains(fmt.Sprint(r.Err), "before the TLS handshake") {
		t.Errorf("%+v", r)
	}
}

// TestNothingBareLeaves is S2.
func TestNothingBareLeaves(t *testing.T) {
	a := newInternet(t).agent()
	for _, body := range []string{"a\nb\r\n", "a\rb\r\n", "a\r\n.\n.\r\n", "\r\n.\r\r\n", "a\x00b\r\n", "a\r"} {
		for split := range len(body) + 1 {
			d := delivery("bob@d.example")
			d.Body = [][]byte{[]byte(body[:split]), []byte(body[split:])}
			if r := a.Deliver(t.Context(), d)[0]; r.Outcome != deliver.Failed || r.Status != mail.StatusBadContent {
				t.Errorf("%q: %+v", body, r)
			}
		}
	}
	d := delivery("bob@d.example")
	d.Recipients[0].Address = mail.Address{Local: "x>\r\nRCPT TO:<y", Domain: "d.example"}
	if r := a.Deliver(t.Context(), d)[0]; r.Outcome != deliver.Failed || r.Status != mail.StatusBadSyntax {
		t.Errorf("address: %+v", r)
	}
}

func TestUTF8(t *testing.T) {
	n := newInternet(t)
	n.record("d.example. A 127.0.0.2", "old.example. A 127.0.0.3", "xn--fsqu00a.example. A 127.0.0.2")
	p := &peer{}
	n.serve("127.0.0.2", p, smtp.ServerConfig{})
	n.script("127.0.0.3", func(r *bufio.Reader, w io.Writer) {
		_, _ = io.WriteString(w, "220 mx\r\n")
		for {
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
			_, _ = io.WriteString(w, "250 mx\r\n")
		}
	})
	a := n.agent()
	for to, want := range map[string]deliver.Outcome{"jörg@d.example": deliver.Passed, "jörg@old.example": deliver.Failed, "bob@例子.example": deliver.Passed} {
		if r := a.Deliver(t.Context(), delivery(to))[0]; r.Outcome != want {
			t.Errorf("%s: %+v", to, r)
		}
	}
	if !slices.ContainsFunc(p.to, func(r smtp.RcptArgs) bool { return r.To.Local == "jörg" }) || !p.from[0].SMTPUTF8 {
		t.Errorf("%+v", p.to)
	}
}

func TestSmarthost(t *testing.T) {
	n := newInternet(t)
	p, special := &peer{}, &peer{}
	n.serve("127.0.0.2", p, smtp.ServerConfig{})
	n.serve("127.0.0.3", special, smtp.ServerConfig{})
	a := n.agent(func(c *Config) {
		c.Smarthost = "127.0.0.2:" + n.port
		c.Routes = map[string]string{"special.example": "127.0.0.3:" + n.port}
	})
	for _, to := range []string{"bob@anywhere.example", "bob@special.example"} {
		if r := a.Deliver(t.Context(), delivery(to))[0]; r.Outcome != deliver.Passed {
			t.Errorf("%s: %+v", to, r)
		}
	}
	if len(p.got) != 1 || len(special.got) != 1 {
		t.Errorf("%d and %d", len(p.got), len(special.got))
	}
}

// TestSet: a connection that was in use while the settings changed is not kept,
// and the next message goes where they say now.
func TestSet(t *testing.T) {
	n := newInternet(t)
	var a *Agent
	cfg := Config{Hello: "relay.example", Smarthost: "127.0.0.2:" + n.port, Command: 5 * time.Second, DataDone: 5 * time.Second}
	after := cfg
	after.Smarthost = "127.0.0.3:" + n.port
	before, now := &peer{}, &peer{}
	before.data = func() *smtp.Reply {
		if err := a.Set(after); err != nil {
			t.Error(err)
		}
		return &smtp.Reply{Code: 250, Status: mail.StatusOK, Text: "queued"}
	}
	n.serve("127.0.0.2", before, smtp.ServerConfig{})
	n.serve("127.0.0.3", now, smtp.ServerConfig{})
	a = n.agent(func(c *Config) { *c = cfg })
	for range 3 {
		if r := a.Deliver(t.Context(), delivery("bob@anywhere.example"))[0]; r.Outcome != deliver.Passed {
			t.Fatalf("%+v", r)
		}
	}
	if len(before.got) != 1 || len(now.got) != 2 || now.sessions != 1 {
		t.Errorf("%d messages before, %d now over %d connections", len(before.got), len(now.got), now.sessions)
	}
}

// TestContextEnds: a peer that says nothing does not hold an attempt.
func TestContextEnds(t *testing.T) {
	n := newInternet(t)
	n.record("d.example. A 127.0.0.3")
	n.script("127.0.0.3", func(r *bufio.Reader, w io.Writer) {
		_, _ = io.WriteString(w, "220 mx\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if r := n.agent().Deliver(ctx, delivery("bob@d.example"))[0]; r.Outcome != deliver.Deferred || time.Since(begin) > 3*time.Second {
		t.Errorf("%+v after %v", r, time.Since(begin))
	}
}
