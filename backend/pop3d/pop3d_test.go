package pop3d

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, boxes *mailbox.Service, passwords bool) string {
	t.Helper()
	_, addr := startServer(t, boxes, passwords)
	return addr
}

func startServer(t *testing.T, boxes *mailbox.Service, passwords bool) (*Server, string) {
	t.Helper()
	s, err := New(Config{
		Mailboxes: boxes, Hostname: "store.test", Passwords: passwords,
		Authenticate: func(_ context.Context, mech, authz, user, password string, _ *tls.ConnectionState, _ net.Addr) (string, error) {
			if mech == "EXTERNAL" && authz != "" {
				return authz, nil
			}
			if mech != "PLAIN" || password != "secret" {
				return "", errors.New("wrong password")
			}
			return user + "@example.test", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, l.Addr().String()
}

// TestSetMaxConns: the bound is another one for connections from now on; those that
// are open stay.
func TestSetMaxConns(t *testing.T) {
	boxes := mailboxtest.New(t)
	s, addr := startServer(t, boxes, true)
	open := func() (*bufio.Reader, net.Conn, string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		r := bufio.NewReader(c)
		line, _ := r.ReadString('\n')
		return r, c, line
	}
	first, conn, greeting := open()
	if !strings.HasPrefix(greeting, "+OK") {
		t.Fatal(greeting)
	}
	s.SetMaxConns(1)
	if _, _, greeting := open(); greeting != "" {
		t.Errorf("beyond the bound: %s", greeting)
	}
	s.SetMaxConns(2)
	if _, _, greeting := open(); !strings.HasPrefix(greeting, "+OK") {
		t.Errorf("below it again: %q", greeting)
	}
	if _, err := io.WriteString(conn, "QUIT\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := first.ReadString('\n'); !strings.HasPrefix(line, "+OK") {
		t.Errorf("the session that was open: %q %v", line, err)
	}
}

func deliver(t *testing.T, boxes *mailbox.Service, account string, msgs ...string) {
	t.Helper()
	for _, m := range msgs {
		res, err := boxes.Deliver(context.Background(), &mailbox.Delivery{Message: []byte(m), Recipients: []mailbox.DeliveryRecipient{{Account: account}}})
		if err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
	}
}

// talk sends what follows C: and compares what follows S:, one line a step. A
// trailing * matches any rest.
func talk(t *testing.T, addr, dialog string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(c)
	for step := range strings.Lines(dialog) {
		step = strings.Trim(step, "\t\n")
		switch {
		case strings.HasPrefix(step, "C: "):
			io.WriteString(c, strings.ReplaceAll(step[3:], `\r\n`, "\r\n")+"\r\n")
		case strings.HasPrefix(step, "S: "):
			got, err := r.ReadString('\n')
			got = strings.TrimRight(got, "\r\n")
			prefix, open := strings.CutSuffix(step[3:], "*")
			if err != nil || open && !strings.HasPrefix(got, prefix) || !open && got != step[3:] {
				t.Fatalf("got %q (%v), want %q", got, err, step[3:])
			}
		case step == "end":
			if line, err := r.ReadString('\n'); err == nil {
				t.Fatalf("got %q, want the end", line)
			}
		}
	}
}

func TestSession(t *testing.T) {
	boxes := mailboxtest.New(t)
	deliver(t, boxes, "ann@example.test", "Subject: one\r\n\r\n.dot\r\nline 2\r\nline 3\r\n", "Subject: two\r\n\r\n", "Subject: three\r\n\r\nno line end")
	srv, addr := startServer(t, boxes, true)
	talk(t, addr, `
		S: +OK store.test POP3 ready
		C: STAT
		S: -ERR log in first
		C: CAPA
		S: +OK *
		S: TOP
		S: UIDL
		S: RESP-CODES
		S: AUTH-RESP-CODE
		S: PIPELINING
		S: EXPIRE NEVER
		S: IMPLEMENTATION Postern
		S: USER
		S: SASL PLAIN EXTERNAL
		S: .
		C: USER ann\r\nPASS wrong\r\nUSER ann\r\nPASS secret\r\nSTAT
		S: +OK send PASS
		S: -ERR [AUTH] login refused
		S: +OK send PASS
		S: +OK 3 messages, 83 octets
		S: +OK 3 83
		C: LIST 2
		S: +OK 2 16
		C: UIDL
		S: +OK *
		S: 1 *
		S: 2 *
		S: 3 *
		S: .
		C: RETR 1
		S: +OK 38 octets
		S: Subject: one
		S: 
		S: ..dot
		S: line 2
		S: line 3
		S: .
		C: TOP 1 1
		S: +OK *
		S: Subject: one
		S: 
		S: ..dot
		S: .
		C: TOP 1 0
		S: +OK *
		S: Subject: one
		S: 
		S: .
		C: RETR 3
		S: +OK 29 octets
		S: Subject: three
		S: 
		S: no line end
		S: .
		C: RETR 4
		S: -ERR no such message
		C: TOP 1
		S: -ERR *
		C: DELE 1
		S: +OK *
		C: RETR 1
		S: -ERR *
		C: RSET
		S: +OK 
		C: DELE 2
		S: +OK *
		C: LIST
		S: +OK 2 messages *
		S: 1 38
		S: 3 29
		S: .
		C: QUIT
		S: +OK bye
		end`)
	talk(t, addr, `
		S: +OK *
		C: AUTH PLAIN `+base64.StdEncoding.EncodeToString([]byte("\x00ann\x00secret"))+`
		S: +OK 2 messages*
		C: DELE 1
		S: +OK *
		`) // the connection breaks: nothing is deleted
	for held := true; held; runtime.Gosched() {
		srv.mu.Lock()
		held = len(srv.locked) > 0
		srv.mu.Unlock()
	}
	talk(t, addr, `
		S: +OK *
		C: USER ann\r\nPASS secret
		S: +OK *
		S: +OK 2 messages*`)
}

func TestProxySession(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	addr := start(t, boxes, false)
	external := base64.StdEncoding.EncodeToString([]byte("bob@example.test"))
	talk(t, addr, `
		S: +OK *
		C: USER bob
		S: -ERR [AUTH] *
		C: AUTH EXTERNAL
		S: + 
		C: `+external+`
		S: +OK 0 messages, 0 octets
		C: QUIT
		S: +OK bye
		end`)
	log.SetAway(&mailbox.ErrNotServing{Leader: "pair1-b"})
	talk(t, addr, `
		S: +OK *
		C: AUTH EXTERNAL `+external+`
		S: -ERR [SYS/TEMP] not serving; leader=pair1-b
		end`)
}

func TestOneSessionAnAccount(t *testing.T) {
	addr := start(t, mailboxtest.New(t), true)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "USER ann\r\nPASS secret\r\n")
	r := bufio.NewReader(c)
	for range 3 {
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatal(line, err)
		}
	}
	talk(t, addr, `
		S: +OK *
		C: USER ann\r\nPASS secret
		S: +OK *
		S: -ERR [IN-USE] *`)
}

func TestHostile(t *testing.T) {
	addr := start(t, mailboxtest.New(t), true)
	talk(t, addr, `
		S: +OK *
		C: `+strings.Repeat("x", 20000)+`
		S: -ERR [SYS/PERM] line too long
		C: USER `+strings.Repeat("y", 2000)+`\r\nNOOP
		S: -ERR [SYS/PERM] line too long
		S: -ERR log in first
		C: AUTH PLAIN ====
		S: -ERR not base64
		C: `+strings.Repeat(`bad\r\n`, 7)+`
		S: -ERR unknown command
		S: -ERR unknown command
		S: -ERR unknown command
		S: -ERR unknown command
		S: -ERR unknown command
		S: -ERR unknown command
		end`)
}

func FuzzStuffer(f *testing.F) {
	f.Add("a: b\r\n\r\n.x\r\n..\r\n", 3, -1)
	f.Add("", 1, 0)
	f.Fuzz(func(t *testing.T, body string, cut, lines int) {
		body = strings.ReplaceAll(strings.ReplaceAll(body, "\r", ""), "\n", "\r\n")
		cut = min(max(cut, 0), len(body))
		var out strings.Builder
		w := bufio.NewWriter(&out)
		s := stuffer{w: w, start: true, header: true, lines: lines}
		for _, piece := range []string{body[:cut], body[cut:]} {
			if err := s.write([]byte(piece)); err != nil && !errors.Is(err, errEnough) {
				t.Fatal(err)
			}
		}
		s.end()
		w.Flush()
		got := out.String()
		if !strings.HasSuffix(got, ".\r\n") || strings.Contains(strings.TrimSuffix("\r\n"+got, ".\r\n"), "\r\n.\r\n") {
			t.Fatalf("the end is not where it should be: %q", got)
		}
		if lines < 0 {
			back := strings.TrimPrefix(strings.ReplaceAll("\r\n"+strings.TrimSuffix(got, ".\r\n"), "\r\n.", "\r\n"), "\r\n")
			if back != body && back != body+"\r\n" {
				t.Fatalf("%q came back as %q", body, back)
			}
		}
	})
}
