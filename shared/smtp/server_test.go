package smtp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewServerChecks(t *testing.T) {
	for name, change := range map[string]func(*ServerConfig){
		"no hook":       func(c *ServerConfig) { c.NewSession = nil },
		"no name":       func(c *ServerConfig) { c.Hostname = "" },
		"bad name":      func(c *ServerConfig) { c.Hostname = "a\r\nb" },
		"TLS":           func(c *ServerConfig) { c.RequireTLS = true },
		"mechanism":     func(c *ServerConfig) { c.Mechanisms = []string{"CRAM-MD5"} },
		"line":          func(c *ServerConfig) { c.Limits.Line = 100 },
		"private":       func(c *ServerConfig) { c.Private = "X\r\n" },
		"private param": func(c *ServerConfig) { c.PrivateRcpt = []string{"x key"} },
	} {
		if _, err := NewServer(testConfig(&sink{}, change)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// shortListener fails with EMFILE a few times before it accepts.
type shortListener struct {
	net.Listener
	fails int
	at    []time.Time
}

func (l *shortListener) Accept() (net.Conn, error) {
	l.at = append(l.at, time.Now())
	if l.fails--; l.fails >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return nil, errors.New("a fault that does not pass")
}
func (l *shortListener) Close() error { return nil }

func TestAcceptBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &shortListener{fails: 12}
		err := newTestServer(t, testConfig(&sink{})).Serve(context.Background(), l)
		if err == nil || !strings.Contains(err.Error(), "does not pass") {
			t.Errorf("Serve: %v", err)
		}
		for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000} {
			if d := l.at[i+1].Sub(l.at[i]); d != want*time.Millisecond {
				t.Errorf("pause %d: %v, want %v", i, d, want*time.Millisecond)
			}
		}
	})
}

// infoServer reports the ConnInfo of each new session.
func infoServer(t *testing.T, opts ...func(*ServerConfig)) (string, chan ConnInfo) {
	s := &sink{}
	infos := make(chan ConnInfo, 10)
	cfg := testConfig(s, opts...)
	cfg.NewSession = func(ctx context.Context, c *ConnInfo) (Session, error) {
		infos <- *c
		return s.newSession(ctx, c)
	}
	addr, _ := listen(t, cfg)
	return addr, infos
}

func proxyV2(cmd, family byte, body string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{cmd, family, byte(len(body) >> 8), byte(len(body))}) + body
}

func TestProxyHeader(t *testing.T) {
	v4 := "\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x67\x00\x19"
	v6 := "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x12\x67\x00\x19"
	for name, tt := range map[string]struct{ header, remote, local string }{
		"v1":              {"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\r\n", "192.0.2.1:4711", "198.51.100.2:25"},
		"v1 IPv6":         {"PROXY TCP6 2001:db8::1 2001:db8::2 4711 25\r\n", "[2001:db8::1]:4711", "[2001:db8::2]:25"},
		"v1 unknown":      {"PROXY UNKNOWN\r\n", "peer", ""},
		"v1 unknown long": {"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n", "peer", ""},
		"v2":              {proxyV2(0x21, 0x11, v4), "192.0.2.1:4711", "198.51.100.2:25"},
		"v2 with TLV":     {proxyV2(0x21, 0x11, v4+"\x04\x00\x03abc"), "192.0.2.1:4711", "198.51.100.2:25"},
		"v2 IPv6":         {proxyV2(0x21, 0x21, v6), "[2001:db8::1]:4711", "[2001:db8::2]:25"},
		"v2 local":        {proxyV2(0x20, 0, ""), "peer", ""},
		"v2 unix":         {proxyV2(0x21, 0x31, strings.Repeat("\x00", 216)), "peer", ""},
		"v1 no CRLF":      {"PROXY TCP4 " + strings.Repeat("1", 100), "", ""},
		"v1 bare LF":      {"PROXY TCP4 192.0.2.1 198.51.100.2 4711 25\n" + strings.Repeat("x", 100), "", ""},
		"v1 port":         {"PROXY TCP4 192.0.2.1 198.51.100.2 65536 25\r\n", "", ""},
		"v1 zone":         {"PROXY TCP6 fe80::1%eth0 fe80::2 1 25\r\n", "", ""},
		"v1 mixed":        {"PROXY TCP4 192.0.2.1 2001:db8::2 1 25\r\n", "", ""},
		"v2 short":        {proxyV2(0x21, 0x11, "abc"), "", ""},
		"v2 command":      {proxyV2(0x22, 0x11, v4), "", ""},
		"v2 version":      {proxyV2(0x11, 0x11, v4), "", ""},
		"v2 too long":     {"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", "", ""},
	} {
		for _, implicit := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s tls=%v", name, implicit), func(t *testing.T) {
				addr, infos := infoServer(t, func(c *ServerConfig) {
					c.TrustProxy = everybody
					if implicit {
						c.TLS, c.ImplicitTLS = testTLS(t), true
					}
				})
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				if implicit && tt.remote != "" {
					// The first flight of TLS comes in one packet with the header.
					nc = tls.Client(&gluedConn{nc, tt.header}, testClientTLS(t, false))
				} else {
					io.WriteString(nc, tt.header)
				}
				nc.SetReadDeadline(time.Now().Add(5 * time.Second))
				line, err := bufio.NewReader(nc).ReadString('\n')
				if tt.remote == "" {
					if err != io.EOF || line != "" || len(infos) != 0 {
						t.Errorf("got %q %v", line, err)
					}
					return
				}
				if !strings.HasPrefix(line, "220 ") {
					t.Fatalf("got %q %v", line, err)
				}
				info := <-infos
				peer := netip.MustParseAddrPort(nc.LocalAddr().String())
				remote, local := peer, netip.MustParseAddrPort(addr)
				if tt.remote != "peer" {
					remote, local = netip.MustParseAddrPort(tt.remote), netip.MustParseAddrPort(tt.local)
				}
				if info.Peer != peer || info.Remote != remote || info.Local != local {
					t.Errorf("%+v", info)
				}
			})
		}
	}
}

// gluedConn puts head in front of the first write.
type gluedConn struct {
	net.Conn
	head string
}

func (c *gluedConn) Write(b []byte) (int, error) {
	n := len(c.head)
	m, err := c.Conn.Write(append([]byte(c.head), b...))
	c.head = ""
	return max(m-n, 0), err
}

func TestXClientInfo(t *testing.T) {
	addr, infos := infoServer(t, func(c *ServerConfig) { c.TrustXCLIENT = everybody })
	talk(t, addr, "XCLIENT ADDR=IPV6:2001:db8::1 PORT=4711 NAME=a+20b DESTADDR=198.51.100.2 DESTPORT=587\r\nXCLIENT NAME=[TEMPUNAVAIL] HELO=h\r\nQUIT\r\n")
	<-infos
	first, second := <-infos, <-infos
	if first.Remote.String() != "[2001:db8::1]:4711" || first.Local.String() != "198.51.100.2:587" || first.XClient["NAME"] != "a b" || first.Peer == first.Remote {
		t.Errorf("%+v", first)
	}
	if second.Remote != first.Remote || second.XClient["NAME"] != "[TEMPUNAVAIL]" || second.XClient["HELO"] != "h" || first.XClient["HELO"] != "" {
		t.Errorf("%+v", second)
	}
}

// TestXClientTrust asks about the host behind a proxy, not about the proxy, and
// an address that XCLIENT gave is not asked about.
func TestXClientTrust(t *testing.T) {
	addr, _ := infoServer(t, func(c *ServerConfig) {
		c.TrustProxy = everybody
		c.TrustXCLIENT = func(p netip.AddrPort) bool { return p.Addr() == netip.MustParseAddr("192.0.2.9") }
	})
	if out := talk(t, addr, "PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nXCLIENT ADDR=192.0.2.9\r\nQUIT\r\n"); !strings.Contains(out, "\r\n500 ") {
		t.Errorf("%q", out)
	}
	if out := talk(t, addr, "PROXY TCP4 192.0.2.9 192.0.2.2 1 25\r\nXCLIENT ADDR=192.0.2.1\r\nXCLIENT PORT=5\r\nQUIT\r\n"); strings.Count(out, "220 ") != 3 {
		t.Errorf("%q", out)
	}
}

func TestExternal(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
		c.TLS, c.ImplicitTLS, c.Mechanisms = testTLS(t), true, []string{"EXTERNAL"}
	}))
	c := dialTest(t, addr, ClientConfig{TLS: testClientTLS(t, true), Implicit: true})
	if m, _ := c.Extension("auth"); m != "EXTERNAL" {
		t.Errorf("AUTH %q", m)
	}
	if err := c.Auth(context.Background(), "external", "", ""); err != nil {
		t.Error(err)
	}
	stranger := dialTest(t, addr, ClientConfig{TLS: testClientTLS(t, false), Implicit: true})
	if err := stranger.Auth(context.Background(), "EXTERNAL", "ann", ""); !errors.Is(err, ErrNoAuth) {
		t.Errorf("without a certificate: %v", err)
	}
	if r, err := stranger.simple(context.Background(), "AUTH EXTERNAL ="); err == nil || r.Code != 504 {
		t.Errorf("without a certificate: %v %v", r, err)
	}
}

// TestCloseNotifyInChunk ends TLS inside a BDAT chunk and goes on in the clear
// (CVE-2026-45185). Nothing is delivered.
func TestCloseNotifyInChunk(t *testing.T) {
	s := &sink{}
	addr, srv := listen(t, testConfig(s, func(c *ServerConfig) { c.TLS, c.ImplicitTLS = testTLS(t), true }))
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	nc := tls.Client(raw, testClientTLS(t, false))
	r := bufio.NewReader(nc)
	expect(t, r, "220")
	io.WriteString(nc, "EHLO a\r\nMAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.com>\r\nBDAT 20 LAST\r\n0123456789")
	expect(t, r, "250")
	expect(t, r, "250")
	expect(t, r, "250")
	nc.CloseWrite()
	io.WriteString(raw, "0123456789")
	io.Copy(io.Discard, raw)
	srv.Shutdown(context.Background())
	if n := len(s.got()); n != 0 || !strings.Contains(strings.Join(s.seen(), " "), "Reset Close") {
		t.Errorf("%d messages, calls %q", n, s.seen())
	}
}

// TestStartTLSForgets runs STARTTLS inside a transaction.
func TestStartTLSForgets(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.TLS = testTLS(t) }))
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	r := bufio.NewReader(raw)
	expect(t, r, "220")
	for _, cmd := range []string{"EHLO a", "MAIL FROM:<ann@example.net>", "STARTTLS"} {
		say(t, raw, cmd+"\r\n")
		expect(t, r, "2")
	}
	nc := tls.Client(raw, testClientTLS(t, false))
	r = bufio.NewReader(nc)
	say(t, nc, "RCPT TO:<bob@example.com>\r\n")
	expect(t, r, "503")
	if got := strings.Join(s.seen(), ", "); got != "Hello a, Mail <ann@example.net>, Reset" {
		t.Errorf("calls %s", got)
	}
}

// TestRetain keeps a message's octets past Data.
func TestRetain(t *testing.T) {
	var kept [][]byte
	var releases []func()
	s := &sink{data: func(m *Message) []*Reply {
		kept = append(kept, m.Bytes)
		releases = append(releases, m.Retain())
		return []*Reply{replyOK}
	}}
	addr, _ := listen(t, testConfig(s))
	c := dialTest(t, addr, ClientConfig{})
	for i := range 5 {
		body := strings.Repeat(fmt.Sprint(i), 5000) + "\r\n"
		if _, err := c.Send(context.Background(), transactionTo(t, body, "bob@example.com")); err != nil {
			t.Fatal(err)
		}
	}
	for i, b := range kept {
		if want := strings.Repeat(fmt.Sprint(i), 5000) + "\r\n"; string(b) != want {
			t.Errorf("message %d: %.20q", i, b)
		}
		releases[i]()
	}
	(&Message{Bytes: []byte("x")}).Retain()()
}

// TestAdmit sends messages of announced and unannounced size and watches what
// is admitted: never less than what is held, all of it given back.
func TestAdmit(t *testing.T) {
	var held, most atomic.Int64
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
		c.Admit = func(n int64) (func(), error) {
			if v := held.Add(n); v > most.Load() {
				most.Store(v)
			}
			return func() { held.Add(-n) }, nil
		}
	}))
	for _, announced := range []bool{true, false} {
		for _, size := range []int{1, 20_000, 300_000, 5_000_000} {
			most.Store(0)
			param := ""
			if announced {
				param = fmt.Sprintf(" SIZE=%d", size+2)
			}
			out := talk(t, addr, "EHLO a\r\nMAIL FROM:<ann@example.net>"+param+"\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n"+
				strings.Repeat("x", size)+"\r\n.\r\nQUIT\r\n")
			if !strings.Contains(out, "250 2.1.5 Delivered\r\n221") {
				t.Fatalf("%q", out)
			}
			if held.Load() != 0 || most.Load() < int64(size) || most.Load() > 2*int64(size)+minBody+bodySlack {
				t.Errorf("size %d announced %v: most %d, held %d", size, announced, most.Load(), held.Load())
			}
		}
	}
}

// TestFullSize sends a message of just the limit, 50 MB by default, and one
// octet more.
func TestFullSize(t *testing.T) {
	line := strings.Repeat("x", 1022) + "\r\n"
	for _, size := range []int{1 << 20, 50 << 20} {
		got := 0
		s := &sink{data: func(m *Message) []*Reply { got = len(m.Bytes); return []*Reply{replyOK} }}
		addr, _ := listen(t, testConfig(s, func(c *ServerConfig) {
			if size < 50<<20 {
				c.Limits.Size = int64(size)
			}
		}))
		c := dialTest(t, addr, ClientConfig{})
		delete(c.ext, "SIZE") // so that the client does not announce it
		body := strings.Repeat(line, size>>10)
		res, err := c.Send(context.Background(), transactionTo(t, body, "bob@example.com"))
		if err != nil || got != len(body) {
			t.Fatalf("%d octets, %+v %v", got, res, err)
		}
		if size == 50<<20 {
			continue
		}
		got = 0
		res, err = c.Send(context.Background(), transactionTo(t, "x"+body, "bob@example.com"))
		if err != nil || got != 0 || res.Final(0).Code != 552 {
			t.Fatalf("%d octets, %+v %v", got, res.Final(0), err)
		}
		if err := c.Noop(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// TestFlood sends a message that does not end.
func TestFlood(t *testing.T) {
	s := &sink{}
	addr, _ := listen(t, testConfig(s, func(c *ServerConfig) { c.Limits.Size = 1000 }))
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	say(t, nc, "EHLO a\r\nMAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n")
	line := []byte(strings.Repeat("x", 1022) + "\r\n")
	for i := 0; ; i++ {
		if _, err := nc.Write(line); err != nil {
			return
		}
		if i > 100<<10 {
			t.Fatal("still read after 100 MB")
		}
	}
}

// TestReplyText is what a reply looks like on the wire whatever a hook says.
func TestReplyText(t *testing.T) {
	for _, tt := range []struct {
		r    Reply
		utf8 bool
		want string
	}{
		{Reply{Code: 250, Text: "a\nb"}, false, "250-2.0.0 a\r\n250 2.0.0 b\r\n"},
		{Reply{Code: 550, Status: [3]int{5, 1, 1}, Text: "a\rb\x00c"}, false, "550 5.1.1 a?b?c\r\n"},
		{Reply{Code: 450, Status: [3]int{5, 1, 1}, Text: "ü"}, false, "450 4.0.0 ?\r\n"},
		{Reply{Code: 450, Status: [3]int{4, 1, 1}, Text: "ü\xff"}, true, "450 4.1.1 ü?\r\n"},
		{Reply{Code: 354, Text: "go"}, false, "354 go\r\n"},
		{Reply{Code: 99, Text: "x"}, false, "451 4.0.0 x\r\n"},
		{Reply{Code: 250, Text: strings.Repeat("x", 600)}, false, "250 2.0.0 " + strings.Repeat("x", 480) + "\r\n"},
	} {
		if got := string(appendReply(nil, &tt.r, tt.utf8)); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.r, got, tt.want)
		}
	}
}

// TestReplyFor: a refusal keeps its code through wrapping, and what nobody
// classified is temporary and tells nothing.
func TestReplyFor(t *testing.T) {
	r := &Reply{Code: 552, Text: "x"}
	if got := ReplyFor(fmt.Errorf("wrapped: %w", r)); got != r {
		t.Errorf("%+v", got)
	}
	if got := ReplyFor(io.ErrUnexpectedEOF); got.Code != 451 || strings.Contains(got.Text, "EOF") || !got.Temporary() {
		t.Errorf("%+v", got)
	}
}

// TestIdleMemory holds connections open and looks at what one costs.
func TestIdleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: short")
	}
	srv := newTestServer(t, testConfig(&sink{}))
	const n = 500
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var conns []net.Conn
	done := make(chan struct{}, n)
	for range n {
		a, b := net.Pipe()
		go func() { srv.ServeConn(context.Background(), a); done <- struct{}{} }()
		r := make([]byte, 200)
		if _, err := b.Read(r); err != nil {
			t.Fatal(err)
		}
		io.WriteString(b, "EHLO a\r\n")
		if _, err := b.Read(r); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, b)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := int64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse) / n
	t.Logf("%d octets for an idle connection", each)
	if each > 24<<10 {
		t.Errorf("%d octets for an idle connection", each)
	}
	for _, c := range conns {
		c.Close()
	}
	for range n {
		<-done
	}
}
