package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/mail"
)

func TestHostileDialogs(t *testing.T) {
	long := strings.Repeat("x", 70<<10)
	for name, dialog := range map[string]string{
		"no command": `
			C: 
			S: * BAD *
			C: onlytag
			S: * BAD *
			C: a
			S: * BAD *
			C: a *
			S: a BAD *
			C: (a) NOOP
			S: * BAD *
			C: a NOSUCHCOMMAND
			S: a BAD *
			C: a UID NOOP
			S: a BAD *
			C: a NOOP x
			S: a BAD *
			C+ a NOOP\n
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"long tag": `
			C: ` + strings.Repeat("t", 200) + ` NOOP
			S: * BAD *
			C: a NOOP
			S: a OK *`,
		"ten faults": strings.Repeat("C: a NOSUCH\nS: a BAD *\n", maxBad) + `
			S: * BYE *
			=`,
		"nine faults and nine": strings.Repeat("C: a NOSUCH\nS: a BAD *\n", maxBad-1) + "C: a NOOP\nS: a OK *\n" +
			strings.Repeat("C: a NOSUCH\nS: a BAD *\n", maxBad-1) + `
			C: a NOOP
			S: a OK *`,
		"literal that is waited with": `
			C: a SUBSCRIBE {65537}
			S: a NO [TOOBIG] *
			C: a SUBSCRIBE {99999999999999999999999}
			S: a NO [TOOBIG] *
			C: a NOSUCH {10}
			S: a BAD *
			C: a APPEND INBOX {99999999999999999999999}
			S: a NO [TOOBIG] *
			C: a NOOP
			S: a OK *`,
		"literal that comes anyhow": `
			C: a SUBSCRIBE {70000+}
			C+ ` + long[:70000] + `\r\n
			S: a NO [TOOBIG] *
			C: a NOSUCH {10+}
			C: b NOOP\r\n {10+}
			C: c NOOP\r\n
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"literal that is too large to skip": `
			C: a SUBSCRIBE {1048577+}
			S: * BYE [TOOBIG] *
			=`,
		"message that is too large to skip": `
			C: a APPEND INBOX {2000000000+}
			S: * BYE [TOOBIG] *
			=`,
		"long line": `
			C+ a NOOP ` + long + `\r\n
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"literal in an open quote": `
			C: a SUBSCRIBE "x {10}
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"NUL": `
			C+ a SUBSCRIBE "x\0"\r\n
			S: a BAD *
			C+ a SUBSCRIBE {3+}\r\nx\0y\r\n
			S: a BAD *
			C: a NOOP
			S: a OK *`,
		"not IDLE's end": `
			C: a IDLE
			S: + *
			C: b NOOP
			S: a BAD *
			C: a NOOP
			S: a OK *`,
	} {
		t.Run(name, func(t *testing.T) { start(t, nil).login("eva@example.test").talk(dialog) })
	}
}

func TestLoginDialogs(t *testing.T) {
	f := start(t, nil)
	for name, dialog := range map[string]string{
		"refused three times": `
			C: a LOGIN eva@example.test wrong
			S: a NO [AUTHENTICATIONFAILED] *
			C: a AUTHENTICATE PLAIN AGV2YUBleGFtcGxlLnRlc3QAd3Jvbmc=
			S: a NO [AUTHENTICATIONFAILED] *
			C: a AUTHENTICATE EXTERNAL =
			S: a NO [AUTHENTICATIONFAILED] *
			S: * BYE *
			=`,
		"not now": `
			C: a AUTHENTICATE EXTERNAL ZG93bkBleGFtcGxlLnRlc3Q=
			S: a NO [UNAVAILABLE] *
			C: a NOOP
			S: a OK *`,
		"syntax": `
			C: a AUTHENTICATE EXTERNAL !!!
			S: a BAD *
			C: a AUTHENTICATE PLAIN YQ== YQ==
			S: a BAD *
			C: a AUTHENTICATE CRAM-MD5
			S: a NO *
			C: a AUTHENTICATE PLAIN
			S: + 
			C: not base64
			S: a BAD *
			C: a LOGIN eva@example.test
			S: a BAD *
			C: a LOGIN {4097}
			S: a NO [TOOBIG] *
			C: a LOGIN {16+}
			C: eva@example.test {6}
			S: + OK
			C: secret
			S: a OK *
			C: a LOGIN eva@example.test secret
			S: a BAD *`,
		"the proxy's words": `
			C+ P0 ID ("x-originating-ip" "192.0.2.1" "x-originating-port" "4711" "x-tls" "yes")\r\nP1 AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==\r\n
			S: * ID *
			S: P0 OK *
			S: P1 OK [CAPABILITY *`,
	} {
		t.Run(name, func(t *testing.T) {
			c := f.dial()
			c.line()
			c.talk(dialog)
		})
	}
}

func TestSessionLimits(t *testing.T) {
	f := start(t, func(c *Config) {
		c.MaxSessions, c.SessionsPerAccount, c.AppendMemory, c.MaxAppend = 4, 2, 100<<10, 90<<10
	})
	one := f.login("eva@example.test")
	two := f.login("EVA@example.test")
	three := f.dial()
	three.line()
	if got := three.ask("LOGIN eva@example.test secret"); !strings.HasPrefix(got[0], "NO [LIMIT]") {
		t.Error(got)
	}
	three.do("LOGIN ann@example.test secret")
	f.login("bob@example.test")
	if got := f.dial().line(); !strings.HasPrefix(got, "* BYE [UNAVAILABLE]") {
		t.Error(got)
	}
	if n := f.srv.Sessions(); n != 4 {
		t.Errorf("%d sessions", n)
	}
	f.srv.SetMaxSessions(5)
	extra := f.dial()
	extra.line()
	f.srv.SetMaxSessions(4)
	if got := f.dial().line(); !strings.HasPrefix(got, "* BYE [UNAVAILABLE]") {
		t.Error(got)
	}
	extra.talk("C: a NOOP\nS: a OK *\nC: a LOGOUT\nS: * BYE *\nS: a OK *\n=")
	// The memory for messages on their way is one session's at a time.
	one.talk("C: a APPEND INBOX {81920}\nS: + OK")
	two.talk("C: a APPEND INBOX {81920}\nS: a NO [UNAVAILABLE] *\nC: a APPEND INBOX {92161}\nS: a NO [TOOBIG] *")
	one.send(strings.Repeat("x", 81920) + "\r\n")
	if got := one.line(); !strings.HasPrefix(got, "a OK") {
		t.Error(got)
	}
	two.talk("C: a APPEND INBOX {81920}\nS: + OK")
	two.conn.Close()
	one.talk("C: a LOGOUT\nS: * BYE *\nS: a OK *\n=")
	for f.srv.appending.Load() != 0 || f.srv.Sessions() != 2 { // the sessions end soon
		time.Sleep(time.Millisecond)
	}
	f.login("eva@example.test")
}

func TestNotServing(t *testing.T) {
	f := start(t, nil)
	c, idle := f.login("eva@example.test"), f.login("eva@example.test")
	c.do("SELECT INBOX")
	idle.do("SELECT INBOX")
	idle.talk("C: i IDLE\nS: + *")
	f.log.SetAway(&mailbox.ErrNotServing{Leader: "node-2.b"})
	other := f.dial()
	other.line()
	if got := other.ask("AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA=="); !strings.HasPrefix(got[0], "NO [UNAVAILABLE]") || !strings.HasSuffix(got[0], "leader=node-2.b") {
		t.Error(got)
	}
	want := "* BYE [UNAVAILABLE] This replica does not serve now; leader=node-2.b"
	c.talk("C: a NOOP\nS: " + want + "\n=")
	idle.talk("S: " + want + "\n=") // noticed within servingCheck
	f.log.SetAway(nil)
	other.do("AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==")
	other.do("SELECT INBOX")
}

// TestUnknownOutcome ends the session when nobody knows whether a change was
// made.
func TestUnknownOutcome(t *testing.T) {
	for _, command := range []string{"STORE 1 +FLAGS (x)", "APPEND INBOX {6+}\r\nA: b\r\n", "CREATE x", "EXPUNGE", "COPY 1 Sent", "FETCH 1 BODY[]"} {
		f := start(t, nil)
		c := f.login("eva@example.test")
		c.appendMail("INBOX", "", "A: b\r\n")
		c.do("SELECT INBOX")
		f.log.SetAway(errors.New("lost in the log"))
		c.send("a " + command + "\r\n")
		if got := c.line(); !strings.HasPrefix(got, "* BYE") {
			t.Errorf("%s: %q", command, got)
		}
		if b, _ := io.ReadAll(c.r); len(b) > 0 {
			t.Errorf("%s: and %q", command, b)
		}
	}
	f := start(t, nil)
	c := f.login("eva@example.test")
	f.log.SetAway(mailbox.ErrBusy)
	if got := c.ask("CREATE x"); !strings.HasPrefix(got[0], "NO [UNAVAILABLE]") {
		t.Error(got)
	}
}

func TestShutdown(t *testing.T) {
	f := start(t, nil)
	waiting, idle, busy := f.login("eva@example.test"), f.login("eva@example.test"), f.login("eva@example.test")
	idle.do("SELECT INBOX")
	idle.talk("C: i IDLE\nS: + *")
	busy.talk("C: a APPEND INBOX {6}\nS: + OK")
	if err := f.srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	for _, c := range []*client{waiting, idle, busy} {
		c.talk("S: * BYE [UNAVAILABLE] *\n=")
	}
	if n := f.srv.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if err := f.srv.Serve(context.Background(), listen(t)); err != nil {
		t.Error(err)
	}
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestShutdownCutsOff closes the connections that are not done in time: here
// one whose login is being asked about.
func TestShutdownCutsOff(t *testing.T) {
	asked := make(chan struct{})
	f := start(t, func(c *Config) {
		c.Authenticate = func(ctx context.Context, _, _, _, _ string, _ *tls.ConnectionState, _ net.Addr) (string, error) {
			close(asked)
			<-ctx.Done()
			return "", ctx.Err()
		}
	})
	c := f.dial()
	c.line()
	c.send("a LOGIN eva@example.test secret\r\n")
	<-asked
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.srv.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a Config without mailboxes is taken")
	}
}

// counter is a Metrics.
type counter struct {
	lines chan string
}

func (m counter) SessionChange(delta int) { m.lines <- fmt.Sprint("session ", delta) }
func (m counter) Login(ok bool)           { m.lines <- fmt.Sprint("login ", ok) }
func (m counter) Command(name, answer string, took time.Duration) {
	m.lines <- fmt.Sprint(name, " ", answer, " ", took >= 0)
}

func TestMetrics(t *testing.T) {
	m := counter{make(chan string, 100)}
	f := start(t, func(c *Config) { c.Metrics, c.Log = m, slog.New(slog.DiscardHandler) })
	c := f.dial()
	c.line()
	c.ask("LOGIN eva wrong")
	c.ask("LOGIN eva secret")
	c.ask("SELECT nowhere")
	c.ask("FETCH")
	c.ask("SELECT INBOX")
	c.ask("FETCH 1")
	c.conn.Close()
	for _, want := range []string{
		"session 1", "login false", "LOGIN NO true", "login true", "LOGIN OK true", "SELECT NO true", "FETCH BAD true",
		"SELECT OK true", "FETCH BAD true", "session -1",
	} {
		if got := <-m.lines; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTLS(t *testing.T) {
	cert := selfSigned(t)
	f := start(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}
		c.PasswordLogin = false
		c.Authenticate = func(_ context.Context, mech, authz, _, _ string, cs *tls.ConnectionState, _ net.Addr) (string, error) {
			if cs == nil || len(cs.PeerCertificates) == 0 || mech != "EXTERNAL" {
				return "", &mail.Error{Status: mail.StatusRefused}
			}
			return authz, nil
		}
	})
	c := f.dial()
	c.conn = tls.Client(c.conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	c.r.Reset(c.conn)
	c.talk(`
		S: * OK *
		C: a AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==
		S: a OK *
		L: SELECT INBOX
		C: a IDLE
		S: + *`)
	other := f.dial()
	other.conn = tls.Client(other.conn, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	other.r.Reset(other.conn)
	other.talk(`
		S: * OK *
		C: a AUTHENTICATE EXTERNAL ZXZhQGV4YW1wbGUudGVzdA==
		S: a OK *
		L: APPEND INBOX {6+}\r\nA: b\r\n`)
	c.talk(`
		S: * 1 EXISTS
		C: DONE
		S: a OK *
		C: a FETCH 1 UID
		S: * 1 FETCH (UID 1)
		S: a OK *`)
}

// TestShutdownUnread ends sessions whose clients do not read what they asked
// for.
func TestShutdownUnread(t *testing.T) {
	f := start(t, nil)
	c := f.login("eva@example.test")
	c.appendMail("INBOX", "", strings.Repeat("A: b\r\n", 1<<20))
	c.do("SELECT INBOX")
	for range 20 {
		c.send("a FETCH 1 BODY.PEEK[]\r\n")
	}
	c.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	io.ReadFull(c.r, make([]byte, 10)) // the server is at it
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := f.srv.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v although a client does not read", err)
	}
}
