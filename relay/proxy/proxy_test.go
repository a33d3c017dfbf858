package proxy

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
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend is a replica that answers by a script: what it reads is recorded.
type backend struct {
	l      net.Listener
	mu     sync.Mutex
	conns  int
	heard  []string
	active []net.Conn
}

func newBackend(t *testing.T, serve func(b *backend, c net.Conn, r *bufio.Reader)) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{l: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			b.active = append(b.active, c)
			b.mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(b, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { l.Close(); b.drop(); wg.Wait() })
	return b
}

func (b *backend) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.active {
		c.Close()
	}
}

func (b *backend) dials() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

func (b *backend) record() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.heard)
}

func (b *backend) line(r *bufio.Reader) string {
	line, err := r.ReadString('\n')
	if err != nil {
		return ""
	}
	b.mu.Lock()
	b.heard = append(b.heard, strings.TrimSpace(line))
	b.mu.Unlock()
	return strings.TrimSpace(line)
}

// imapBackend logs anybody in and then echoes what it hears as untagged text.
func imapBackend(b *backend, c net.Conn, r *bufio.Reader) {
	io.WriteString(c, "* OK hello\r\n")
	b.line(r)
	io.WriteString(c, "* ID NIL\r\nP0 OK\r\n")
	b.line(r)
	io.WriteString(c, "P1 OK [CAPABILITY IMAP4rev1 IDLE] welcome\r\n")
	for {
		line := b.line(r)
		if line == "" {
			return
		}
		tag, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(rest, "LOGOUT"):
			fmt.Fprintf(c, "* BYE bye\r\n%s OK done\r\n", tag)
			return
		case strings.HasSuffix(line, "{5}"):
			io.WriteString(c, "+ go\r\n")
			io.CopyN(io.Discard, r, 5)
			b.line(r)
			fmt.Fprintf(c, "%s OK took it\r\n", tag)
		case strings.HasSuffix(line, "{99}"):
			fmt.Fprintf(c, "%s NO [TOOBIG] no\r\n", tag)
		case strings.HasPrefix(rest, "FETCH"):
			fmt.Fprintf(c, "* 1 FETCH (BODY[] {12}\r\nX9 OK\r\nabcd\n)\r\n%s OK done\r\n", tag)
		default:
			fmt.Fprintf(c, "* OK heard %s\r\n%s OK done\r\n", rest, tag)
		}
	}
}

type fixture struct {
	*Server
	addr  string
	table *route.Table
	asked atomic.Int32
}

func start(t *testing.T, proto Protocol, backends map[string]*backend, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{table: &route.Table{}}
	for name, b := range backends {
		f.table.Update(route.Node{Name: name, Pair: "pair1", Alive: true, Addr: map[route.Service]string{route.IMAP: b.l.Addr().String(), route.POP3: b.l.Addr().String()}})
	}
	cfg := Config{
		Protocol: proto, Hostname: "relay.test", TLS: testTLS(t), Routes: f.table, Within: time.Second,
		PlainWithoutTLS: func(netip.AddrPort) bool { return true },
		Login: func(_ context.Context, cred auth.Credentials, _ Client) (User, error) {
			f.asked.Add(1)
			switch {
			case cred.User == "down":
				return User{}, errors.New("directory away")
			case cred.User != "ann" || cred.Password != "secret":
				return User{}, ErrRefused
			}
			return User{Account: "ann@example.test", Pair: "pair1"}, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

var certOnce = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"relay.test"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	cert, err := certOnce()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

// client is one side of a dialogue.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(s string) { c.t.Helper(); io.WriteString(c.c, s) }

// want reads lines and compares each; a trailing * matches any rest.
func (c *client) want(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		got, err := c.r.ReadString('\n')
		got = strings.TrimRight(got, "\r\n")
		prefix, open := strings.CutSuffix(want, "*")
		if err != nil || open && !strings.HasPrefix(got, prefix) || !open && got != want {
			c.t.Fatalf("got %q (%v), want %q", got, err, want)
		}
	}
}

func (c *client) wantEOF() {
	c.t.Helper()
	if line, err := c.r.ReadString('\n'); err == nil {
		c.t.Fatalf("got %q, want the end", line)
	}
}

func TestIMAPSession(t *testing.T) {
	b := newBackend(t, imapBackend)
	f := start(t, IMAP, map[string]*backend{"a": b}, nil)
	c := dial(t, f.addr)
	c.want("* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID STARTTLS AUTH=PLAIN AUTH=LOGIN] relay.test ready")
	c.send("a CAPABILITY\r\nb SELECT INBOX\r\nc LOGIN ann wrong\r\n")
	c.want("* CAPABILITY *", "a OK done", "b BAD *", "c NO [AUTHENTICATIONFAILED] *")
	if b.dials() != 0 {
		t.Fatal("a wrong password reached a backend")
	}
	// The command behind the login is passed on, and a literal in the login is read.
	c.send("d LOGIN {3+}\r\nann secret\r\ne NOOP one\r\n")
	c.want("d OK [CAPABILITY IMAP4rev1 IDLE] welcome", "* OK heard NOOP one", "e OK done")
	c.send("f APPEND x {5}\r\n")
	c.want("+ go")
	c.send("hello\r\n")
	c.want("f OK took it")
	c.send("g APPEND x {99}\r\n")
	c.want("g NO [TOOBIG] no")
	c.send("h NOOP two\r\n")
	c.want("* OK heard NOOP two", "h OK done")
	c.send("i FETCH 1 BODY[]\r\n")
	c.want("* 1 FETCH (BODY[] {12}", "X9 OK", "abcd", ")", "i OK done")
	c.send("j LOGOUT\r\n")
	c.want("* BYE bye", "j OK done")
	c.wantEOF()
	want := "P1 AUTHENTICATE EXTERNAL " + identity("ann@example.test")
	heard := b.record()
	if len(heard) < 2 || heard[1] != want || !strings.Contains(heard[0], `"x-originating-ip" "127.0.0.1"`) {
		t.Errorf("backend heard %q", heard)
	}
	for _, line := range heard {
		if strings.Contains(line, "secret") {
			t.Errorf("a password reached the backend: %q", line)
		}
	}
}

func TestIMAPAuthenticate(t *testing.T) {
	f := start(t, IMAP, map[string]*backend{"a": newBackend(t, imapBackend)}, nil)
	c := dial(t, f.addr)
	c.want("* OK *")
	c.send("a AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n")
	c.want("a OK *")
	c = dial(t, f.addr)
	c.want("* OK *")
	c.send("a AUTHENTICATE LOGIN\r\n")
	c.want("+ VXNlcm5hbWU6")
	c.send("YW5u\r\n")
	c.want("+ UGFzc3dvcmQ6")
	c.send("c2VjcmV0\r\n")
	c.want("a OK *")
	c = dial(t, f.addr)
	c.want("* OK *")
	c.send("a AUTHENTICATE PLAIN\r\n")
	c.want("+ ")
	c.send("*\r\n")
	c.want("a BAD *")
	c.send("b AUTHENTICATE PLAIN AGRvd24AeA==\r\n")
	c.want("b NO [UNAVAILABLE] *")
}

func TestHostileBeforeLogin(t *testing.T) {
	b := newBackend(t, imapBackend)
	for name, tt := range map[string]struct {
		send string
		want []string
	}{
		"big literal asked for":  {"a LOGIN {999999}\r\n", []string{"a BAD [TOOBIG] *"}},
		"big literal sent":       {"a LOGIN {999999+}\r\n", []string{"* BYE [TOOBIG] *"}},
		"long line":              {"a LOGIN " + strings.Repeat("x", 20000) + "\r\n", []string{"* BYE *"}},
		"line end in login":      {"a LOGIN \"ann\\\r\n\" secret\r\n", []string{"a BAD *"}},
		"NUL in login":           {"a LOGIN {5+}\r\nann\x00x secret\r\n", []string{"a *"}},
		"no tag":                 {"\r\n", []string{"* BAD *"}},
		"starttls and a command": {"a STARTTLS\r\nb LOGIN ann secret\r\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, IMAP, map[string]*backend{"a": b}, nil)
			c := dial(t, f.addr)
			c.want("* OK *")
			c.send(tt.send)
			c.want(tt.want...)
			if tt.want == nil {
				c.wantEOF()
			}
		})
	}
	if b.dials() != 0 {
		t.Errorf("%d connections reached the backend", b.dials())
	}
}

func TestTooManyRefusedLogins(t *testing.T) {
	f := start(t, IMAP, nil, func(c *Config) { c.Failures = 1 })
	c := dial(t, f.addr)
	c.want("* OK *")
	c.send("a LOGIN ann no\r\n")
	c.want("a NO *", "* BYE *")
	c.wantEOF()
}

// TestTooManySessions: a pair that takes no more sessions of a user is asked once, and
// the client hears why.
func TestTooManySessions(t *testing.T) {
	b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "* OK hello\r\n")
		b.line(r)
		b.line(r)
		io.WriteString(c, "P0 OK\r\nP1 NO [LIMIT] Too many sessions of this user\r\n")
	})
	f := start(t, IMAP, map[string]*backend{"a": b}, nil)
	c := dial(t, f.addr)
	c.want("* OK *")
	c.send("a LOGIN ann secret\r\nb NOOP\r\n")
	c.want("a NO [LIMIT] Too many sessions of this user", "b OK *")
	if n := b.dials(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestSet: settings hold for sessions from then on; wrong ones for none.
func TestSet(t *testing.T) {
	f := start(t, IMAP, nil, nil)
	before := dial(t, f.addr)
	before.want("* OK *")
	cfg := *f.cfg.Load()
	cfg.Failures, cfg.Hostname = 1, "other.test"
	if err := f.Set(cfg); err != nil {
		t.Fatal(err)
	}
	bad := cfg
	bad.Login, bad.Hostname = nil, "wrong.test"
	if f.Set(bad) == nil {
		t.Error("a configuration without Login is taken")
	}
	after := dial(t, f.addr)
	after.want("* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID STARTTLS AUTH=PLAIN AUTH=LOGIN] other.test ready")
	after.send("a LOGIN ann no\r\n")
	after.want("a NO *", "* BYE *")
	after.wantEOF()
	before.send("a LOGIN ann no\r\nb LOGIN ann no\r\nc LOGIN ann no\r\n")
	before.want("a NO *", "b NO *", "c NO *", "* BYE *")
	before.wantEOF()
}

func TestPasswordNeedsTLS(t *testing.T) {
	b := newBackend(t, imapBackend)
	f := start(t, IMAP, map[string]*backend{"a": b}, func(c *Config) { c.PlainWithoutTLS = nil })
	c := dial(t, f.addr)
	c.want("* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID STARTTLS LOGINDISABLED] *")
	c.send("a LOGIN ann secret\r\n")
	c.want("a NO [PRIVACYREQUIRED] *")
	if f.asked.Load() != 0 {
		t.Error("the password was checked")
	}
	c.send("b STARTTLS\r\n")
	c.want("b OK *")
	tc := tls.Client(c.c, &tls.Config{InsecureSkipVerify: true})
	c.c, c.r = tc, bufio.NewReader(tc)
	c.send("c LOGIN ann secret\r\nd LOGOUT\r\n")
	c.want("c OK *", "* BYE *", "d OK *")
}

func TestUnavailable(t *testing.T) {
	busy := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "* BYE [UNAVAILABLE] not serving\r\n")
	})
	for name, backends := range map[string]map[string]*backend{"nobody": nil, "nobody serves": {"a": busy}} {
		t.Run(name, func(t *testing.T) {
			f := start(t, IMAP, backends, nil)
			c := dial(t, f.addr)
			c.want("* OK *")
			began := time.Now()
			c.send("a LOGIN ann secret\r\n")
			c.want("a NO [UNAVAILABLE] *")
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("answered after %v with Within of 1 s", d)
			}
			c.send("b NOOP\r\n")
			c.want("b OK done")
		})
	}
}

func TestFollowsTheLeader(t *testing.T) {
	b := newBackend(t, imapBackend)
	a := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "* OK hello\r\n")
		b.line(r)
		b.line(r)
		io.WriteString(c, "P0 OK\r\nP1 NO [UNAVAILABLE] not serving; leader=b.\r\n")
	})
	f := start(t, IMAP, map[string]*backend{"a": a, "b": b}, nil)
	c := dial(t, f.addr)
	c.want("* OK *")
	c.send("a LOGIN ann secret\r\n")
	c.want("a OK *")
	if n := f.table.Candidates("pair1")[0].Name; n != "b" {
		t.Errorf("next time %s is asked first, want b", n)
	}
	// The replica goes away: the client is told, not left waiting.
	b.drop()
	c.want("* BYE [UNAVAILABLE] *")
	c.wantEOF()
}

// TestUserMoved: a login goes to the pair that the one asked names, once.
func TestUserMoved(t *testing.T) {
	sendsOn := func(pair string) *backend {
		return newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "* OK hello\r\n")
			b.line(r)
			b.line(r)
			io.WriteString(c, "P0 OK\r\nP1 NO [UNAVAILABLE] Mailbox is not here; pair="+pair+"\r\n")
		})
	}
	for name, tt := range map[string]struct {
		now  *backend
		want string
	}{
		"moved":           {newBackend(t, imapBackend), "a OK *"},
		"sent on by both": {sendsOn("pair1"), "a NO [UNAVAILABLE] *"},
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			f := start(t, IMAP, map[string]*backend{"a": sendsOn("pair2")}, func(c *Config) {
				c.Moved = func(account string) {
					if account == "ann@example.test" {
						told.Add(1)
					}
				}
			})
			f.table.Update(route.Node{Name: "b", Pair: "pair2", Alive: true, Serving: true, Addr: map[route.Service]string{route.IMAP: tt.now.l.Addr().String()}})
			c := dial(t, f.addr)
			c.want("* OK *")
			c.send("a LOGIN ann secret\r\n")
			c.want(tt.want)
			if told.Load() == 0 {
				t.Error("nobody was told")
			}
		})
	}
}

// TestMoved: a replica that is frozen holds nobody up once another one serves,
// neither a session nor a login.
func TestMoved(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	var logins atomic.Bool
	frozen := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
		if logins.Load() {
			io.WriteString(c, "* OK hello\r\n")
			b.line(r)
			b.line(r)
			io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\n")
			b.line(r)
		}
		<-end
	})
	b := newBackend(t, imapBackend)
	serves := func(f *fixture, name string, on *backend, term uint64) {
		f.table.Update(route.Node{Name: name, Pair: "pair1", Alive: true, Serving: true, Term: term, Addr: map[route.Service]string{route.IMAP: on.l.Addr().String()}})
	}
	t.Run("session", func(t *testing.T) {
		f := start(t, IMAP, nil, nil)
		serves(f, "a", frozen, 1)
		logins.Store(true)
		c := dial(t, f.addr)
		c.want("* OK *")
		c.send("a LOGIN ann secret\r\n")
		c.want("a OK *")
		c.send("b NOOP\r\n")
		serves(f, "b", b, 2)
		c.want("* BYE [UNAVAILABLE] *")
		c.wantEOF()
	})
	t.Run("login", func(t *testing.T) {
		f := start(t, IMAP, nil, func(c *Config) { c.Within = 20 * time.Second })
		serves(f, "a", frozen, 1)
		logins.Store(false)
		before := frozen.dials()
		c := dial(t, f.addr)
		c.want("* OK *")
		c.send("a LOGIN ann secret\r\n")
		for frozen.dials() == before {
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		serves(f, "b", b, 2)
		c.want("a OK *")
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("logged in %v after the news", d)
		}
	})
}

func TestPOP3Session(t *testing.T) {
	b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "+OK hello\r\n")
		b.line(r)
		b.line(r)
		io.WriteString(c, "+OK\r\n+OK 2 messages\r\n")
		for {
			line := b.line(r)
			if line == "" {
				return
			}
			fmt.Fprintf(c, "+OK %s\r\n", line)
			if line == "QUIT" {
				return
			}
		}
	})
	f := start(t, POP3, map[string]*backend{"a": b}, nil)
	c := dial(t, f.addr)
	c.want("+OK *")
	c.send("CAPA\r\n")
	c.want("+OK *", "TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION Postern", "STLS", "USER", "SASL PLAIN LOGIN", ".")
	c.send("STAT\r\nUSER ann\r\nPASS nope\r\n")
	c.want("-ERR log in first", "+OK send PASS", "-ERR [AUTH] login refused")
	if b.dials() != 0 {
		t.Fatal("a wrong password reached a backend")
	}
	c.send("USER ann\r\nPASS secret\r\nSTAT\r\nQUIT\r\n")
	c.want("+OK send PASS", "+OK 2 messages", "+OK STAT", "+OK QUIT")
	c.wantEOF()
	if got := b.record()[1]; got != "AUTH EXTERNAL "+identity("ann@example.test") {
		t.Errorf("backend heard %q", got)
	}
}
