package smtp

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipeSession serves one end of a pipe inside a synctest bubble and returns the
// other.
func pipeSession(t *testing.T, s *Server) (nc net.Conn, r *bufio.Reader, done chan struct{}) {
	a, b := net.Pipe()
	done = make(chan struct{})
	go func() {
		defer close(done)
		s.ServeConn(context.Background(), a)
	}()
	return b, bufio.NewReader(b), done
}

func expect(t *testing.T, r *bufio.Reader, prefix string) {
	t.Helper()
	for {
		l, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(l, prefix[:min(3, len(prefix))]) || len(l) < 4 {
			t.Fatalf("got %q %v, want %q", l, err, prefix)
		}
		if l[3] == ' ' {
			if !strings.HasPrefix(l, prefix) {
				t.Fatalf("got %q, want %q", l, prefix)
			}
			return
		}
	}
}

func say(t *testing.T, nc net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(nc, s); err != nil {
		t.Fatalf("%q: %v", s, err)
	}
}

var slowLimits = Limits{
	CommandTimeout: time.Minute, DataTimeout: 20 * time.Second, DataTotal: 100 * time.Second,
	HandshakeTimout: 5 * time.Second, SessionTotal: time.Hour,
}

// TestTimeouts lets a peer fall silent or drip in each phase. The session ends
// when the phase's time is over, and nothing that comes later is run.
func TestTimeouts(t *testing.T) {
	begin := "EHLO a\r\n|250|MAIL FROM:<ann@example.net>\r\n|250|RCPT TO:<bob@example.com>\r\n|250|"
	for name, tt := range map[string]struct {
		script string        // what is sent, each followed by the reply to wait for
		drip   string        // then this again and again
		every  time.Duration // at this pace
		after  time.Duration // until the session ends
		reply  string
	}{
		"silent at the banner":  {"", "", 0, time.Minute, "421 4.4.2 Timeout"},
		"silent after EHLO":     {"EHLO a\r\n|250|", "", 0, time.Minute, "421 4.4.2 Timeout"},
		"drips a command":       {"EHLO a\r\n|250|", "x", 7 * time.Second, time.Minute, "421 4.4.2 Timeout"},
		"silent in transaction": {begin, "", 0, time.Minute, "421 4.4.2 Timeout"},
		"silent at DATA":        {begin + "DATA\r\n|354|", "", 0, 20 * time.Second, "421 4.4.2 Timeout"},
		"drips DATA":            {begin + "DATA\r\n|354|", "RSET\r\n", 10 * time.Second, 100 * time.Second, "421 4.4.2 Timeout"},
		"silent in BDAT":        {begin + "BDAT 100\r\n||", "", 0, 20 * time.Second, "421 4.4.2 Timeout"},
		"drips BDAT":            {begin + "BDAT 10000 LAST\r\n||", "RSET\r\n", 10 * time.Second, 100 * time.Second, "421 4.4.2 Timeout"},
		"too long a session":    {"EHLO a\r\n|250|", "NOOP\r\n", 50 * time.Second, time.Hour, "421 4.4.2 Session"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &sink{}
				nc, r, done := pipeSession(t, newTestServer(t, testConfig(s, func(c *ServerConfig) { c.Limits = slowLimits })))
				expect(t, r, "220")
				parts := strings.Split(tt.script, "|")
				for i := 0; i+1 < len(parts); i += 2 {
					say(t, nc, parts[i])
					if parts[i+1] != "" {
						expect(t, r, parts[i+1])
					}
				}
				start := time.Now()
				stop := make(chan struct{})
				if tt.drip != "" {
					go func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(tt.every):
								io.WriteString(nc, tt.drip)
							}
						}
					}()
				}
				for {
					l, err := r.ReadString('\n')
					if err != nil {
						t.Fatalf("closed without a word: %v", err)
					}
					if strings.HasPrefix(l, "250") && tt.drip == "NOOP\r\n" {
						continue
					}
					if !strings.HasPrefix(l, tt.reply) {
						t.Fatalf("got %q, want %q", l, tt.reply)
					}
					break
				}
				if d := time.Since(start); d != tt.after {
					t.Errorf("ended after %v, want %v", d, tt.after)
				}
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("still open: %v", err)
				}
				close(stop)
				<-done
				// What the peer dripped into its message was not run.
				for _, c := range s.seen() {
					if strings.HasPrefix(c, "Data") {
						t.Errorf("calls %q", s.seen())
					}
				}
				if n := strings.Count(strings.Join(s.seen(), " "), "Reset"); n > 1 {
					t.Errorf("calls %q", s.seen())
				}
			})
		})
	}
}

// TestSilentReader fills a pipe that nobody reads.
func TestSilentReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, done := pipeSession(t, newTestServer(t, testConfig(&sink{}, func(c *ServerConfig) { c.Limits = slowLimits })))
		start := time.Now()
		<-done
		if d := time.Since(start); d != time.Minute {
			t.Errorf("ended after %v", d)
		}
	})
}

// TestHandshakeTimeout is a peer that never begins TLS or its PROXY header.
func TestHandshakeTimeout(t *testing.T) {
	for name, opt := range map[string]func(*ServerConfig){
		"implicit TLS": func(c *ServerConfig) { c.TLS, c.ImplicitTLS = testTLS(t), true },
		"PROXY":        func(c *ServerConfig) { c.TrustProxy = everybody },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := testConfig(&sink{}, func(c *ServerConfig) { c.Limits = slowLimits }, opt)
				nc, r, done := pipeSession(t, newTestServer(t, cfg))
				start := time.Now()
				if b, err := r.ReadByte(); err != io.EOF {
					t.Errorf("got %q %v", b, err)
				}
				<-done
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("ended after %v", d)
				}
				nc.Close()
			})
		})
	}
}

// TestShutdown drains: an idle session is told so at once, an open transaction
// ends with its reply.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		srv := newTestServer(t, testConfig(s))
		idle, idleR, idleDone := pipeSession(t, srv)
		busy, busyR, busyDone := pipeSession(t, srv)
		expect(t, idleR, "220")
		expect(t, busyR, "220")
		say(t, idle, "EHLO a\r\n")
		expect(t, idleR, "250")
		say(t, busy, "EHLO a\r\n")
		expect(t, busyR, "250")
		say(t, busy, "MAIL FROM:<ann@example.net>\r\n")
		expect(t, busyR, "250")
		synctest.Wait()
		end := make(chan error)
		go func() { end <- srv.Shutdown(context.Background()) }()
		expect(t, idleR, "421 4.3.2")
		<-idleDone
		_, newR, newDone := pipeSession(t, srv) // accepted before
		expect(t, newR, "220")
		expect(t, newR, "421 4.3.2")
		<-newDone
		time.Sleep(10 * time.Second)
		say(t, busy, "RCPT TO:<bob@example.com>\r\n")
		expect(t, busyR, "250")
		say(t, busy, "DATA\r\n")
		expect(t, busyR, "354")
		say(t, busy, "x\r\n.\r\n")
		expect(t, busyR, "250 2.1.5")
		expect(t, busyR, "421 4.3.2")
		<-busyDone
		if err := <-end; err != nil {
			t.Error(err)
		}
		if len(s.got()) != 1 {
			t.Errorf("%d messages", len(s.got()))
		}
	})
}

// TestDrain: sessions between transactions are told to go elsewhere, an open one
// ends with its reply, a new one is not begun; and all of it is taken back.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		srv := newTestServer(t, testConfig(s))
		idle, idleR, idleDone := pipeSession(t, srv)
		busy, busyR, busyDone := pipeSession(t, srv)
		expect(t, idleR, "220")
		expect(t, busyR, "220")
		say(t, idle, "EHLO a\r\n")
		expect(t, idleR, "250")
		say(t, busy, "EHLO a\r\n")
		expect(t, busyR, "250")
		say(t, busy, "MAIL FROM:<ann@example.net>\r\n")
		expect(t, busyR, "250")
		synctest.Wait()
		srv.Drain()
		expect(t, idleR, "421 4.3.2")
		<-idleDone
		_, newR, newDone := pipeSession(t, srv)
		expect(t, newR, "421 4.3.2")
		<-newDone
		say(t, busy, "RCPT TO:<bob@example.com>\r\n")
		expect(t, busyR, "250")
		say(t, busy, "DATA\r\n")
		expect(t, busyR, "354")
		say(t, busy, "x\r\n.\r\n")
		expect(t, busyR, "250 2.1.5")
		expect(t, busyR, "421 4.3.2")
		<-busyDone
		srv.Undrain()
		again, againR, againDone := pipeSession(t, srv)
		expect(t, againR, "220")
		say(t, again, "EHLO a\r\n")
		expect(t, againR, "250")
		say(t, again, "MAIL FROM:<ann@example.net>\r\n")
		expect(t, againR, "250")
		say(t, again, "QUIT\r\n")
		expect(t, againR, "221")
		<-againDone
		if len(s.got()) != 1 {
			t.Errorf("%d messages", len(s.got()))
		}
	})
}

// TestShutdownCut does not wait longer than its context.
func TestShutdownCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newTestServer(t, testConfig(&sink{}))
		busy, r, done := pipeSession(t, srv)
		expect(t, r, "220")
		say(t, busy, "EHLO a\r\n")
		expect(t, r, "250")
		say(t, busy, "MAIL FROM:<ann@example.net>\r\n")
		expect(t, r, "250")
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		end := make(chan error)
		go func() { end <- srv.Shutdown(ctx) }()
		expect(t, r, "421 4.3.2")
		if err := <-end; err == nil {
			t.Error("no error")
		}
		<-done
	})
}

// TestStop ends a session in DATA when the server's context does.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newTestServer(t, testConfig(&sink{}))
		a, nc := net.Pipe()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.ServeConn(ctx, a)
		}()
		r := bufio.NewReader(nc)
		expect(t, r, "220")
		say(t, nc, "EHLO a\r\n")
		expect(t, r, "250")
		say(t, nc, "MAIL FROM:<ann@example.net>\r\n")
		expect(t, r, "250")
		say(t, nc, "RCPT TO:<bob@example.com>\r\n")
		expect(t, r, "250")
		say(t, nc, "DATA\r\n")
		expect(t, r, "354")
		say(t, nc, "x\r\n")
		cancel()
		expect(t, r, "421 4.3.2")
		<-done
	})
}

// TestClientTimeouts is a server that falls silent in each phase.
func TestClientTimeouts(t *testing.T) {
	cfg := ClientConfig{
		Connect: 5 * time.Second, Command: 10 * time.Second, DataInit: 20 * time.Second,
		DataBlock: 30 * time.Second, DataDone: 40 * time.Second,
	}
	for name, tt := range map[string]struct {
		script []string // what the server says after each line of the client
		after  time.Duration
		sent   bool
		dial   bool
	}{
		"banner": {nil, 10 * time.Second, false, true},
		"hello":  {[]string{"220 x\r\n"}, 10 * time.Second, false, true},
		"mail":   {[]string{"220 x\r\n", "250 x\r\n"}, 10 * time.Second, false, false},
		"rcpt":   {[]string{"220 x\r\n", "250 x\r\n", "250 x\r\n"}, 10 * time.Second, false, false},
		"data":   {[]string{"220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n"}, 20 * time.Second, false, false},
		"dot":    {[]string{"220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "354 x\r\n", ""}, 40 * time.Second, true, false},
		"block":  {[]string{"220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "354 x\r\n"}, 30 * time.Second, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer a.Close()
				go func() {
					r := bufio.NewReader(a)
					for i, line := range tt.script {
						if i > 0 {
							r.ReadString('\n')
						}
						io.WriteString(a, line)
					}
					if name != "block" {
						io.Copy(io.Discard, r)
					}
				}()
				start := time.Now()
				c, err := NewClient(context.Background(), b, "x", cfg)
				if tt.dial {
					if err == nil || !isTimeout(err) || time.Since(start) != tt.after {
						t.Fatalf("%v after %v", err, time.Since(start))
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				start = time.Now()
				res, err := c.Send(context.Background(), transactionTo(t, "x\r\n", "bob@example.com"))
				if !isTimeout(err) || c.Usable() || res.Sent != tt.sent || res.Final(0) != nil && name != "x" {
					t.Errorf("%v, sent %v, %v", err, res.Sent, res.Final(0))
				}
				want := tt.after
				if name == "block" {
					want += lastWord // the peer's last word is waited for
				}
				if d := time.Since(start); d != want {
					t.Errorf("ended after %v, want %v", d, want)
				}
				c.Close()
			})
		})
	}
}

// TestClientContext ends a Send when its context does.
func TestClientContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			r := bufio.NewReader(a)
			io.WriteString(a, "220 x\r\n")
			r.ReadString('\n')
			io.WriteString(a, "250 x\r\n")
			io.Copy(io.Discard, r)
		}()
		c, err := NewClient(context.Background(), b, "x", ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_, err = c.Send(ctx, transactionTo(t, "x\r\n", "bob@example.com"))
		if err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) || c.Usable() {
			t.Errorf("%v, usable %v", err, c.Usable())
		}
		c.Close()
	})
}
