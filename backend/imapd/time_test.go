package imapd

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

// inBubble runs f with a client of a server whose time is virtual.
func inBubble(t *testing.T, f func(t *testing.T, c *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv, err := New(Config{
			Mailboxes: mailboxtest.New(t), Hostname: "store.test", Authenticate: checkLogin, PasswordLogin: true,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.serve(context.Background(), there)
		}()
		f(t, &client{t: t, conn: here, r: bufio.NewReader(here)})
		here.Close()
		<-done
	})
}

// took is the virtual time that f takes.
func took(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

func TestLoginTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		time.Sleep(50 * time.Second)
		c.do("NOOP")
		if d := took(func() { c.talk("S: * BYE *\n=") }); d != 10*time.Second {
			t.Errorf("after %v", d)
		}
	})
}

func TestAuthDelay(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			d := took(func() { c.ask("LOGIN eva@example.test wrong") })
			if d != want {
				t.Errorf("answer %d after %v", i, d)
			}
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do("LOGIN eva@example.test secret")
		time.Sleep(29 * time.Minute)
		c.do("NOOP")
		if d := took(func() { c.talk("S: * BYE *\n=") }); d != 30*time.Minute {
			t.Errorf("after %v", d)
		}
	})
}

// TestQuiet: a session without commands tells its proxy once how another one goes on.
func TestQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do(strings.Replace(asProxy, ")", ` "x-waiting" "1")`, 1))
		c.do("LOGIN eva@example.test secret")
		c.do("SELECT INBOX")
		for range 2 {
			if d := took(func() { c.talk("S: * OK [XWAITING *] Waits") }); d != linger {
				t.Errorf("after %v", d)
			}
			time.Sleep(20 * time.Minute)
			c.do("NOOP")
		}
		c.talk("S: * OK [XWAITING *] Waits")
		if d := took(func() { c.talk("S: * BYE *\n=") }); d != 30*time.Minute-linger {
			t.Errorf("the end after %v", d)
		}
	})
}

func TestIdleKeepAlive(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do("LOGIN eva@example.test secret")
		c.do("SELECT INBOX")
		c.talk("C: i IDLE\nS: + *")
		begun := time.Now()
		for n := 1; n < 15; n++ {
			c.talk("S: * OK Still here")
			if d := time.Since(begun); d != time.Duration(n)*2*time.Minute {
				t.Errorf("sign of life %d after %v", n, d)
			}
		}
		c.talk("S: * BYE *\n=")
		if d := time.Since(begun); d != 30*time.Minute {
			t.Errorf("end after %v", d)
		}
	})
}

// TestSlowCommand has a command come in pieces, some of them late.
func TestSlowCommand(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do("LOGIN eva@example.test secret")
		for _, pause := range []time.Duration{time.Second, time.Minute, 20 * time.Minute} {
			for _, piece := range []string{"a CRE", "ATE {", "1}\r", "\n"} {
				time.Sleep(pause)
				c.send(piece)
			}
			c.talk("S: + OK")
			time.Sleep(4 * time.Minute)
			c.talk("C: x\nS: a *")
		}
	})
}

// TestSlowLiteral bounds how long a message may take that comes octet by octet.
func TestSlowLiteral(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do("LOGIN eva@example.test secret")
		c.talk("C: a APPEND INBOX {4096}\nS: + OK")
		var sending sync.WaitGroup
		sending.Go(func() {
			for {
				if _, err := io.WriteString(c.conn, "x"); err != nil {
					return
				}
				time.Sleep(time.Minute)
			}
		})
		if d := took(func() { c.talk("S: * BYE *\n=") }); d != 5*time.Minute+2*time.Second {
			t.Errorf("after %v", d)
		}
		c.conn.Close()
		sending.Wait()
	})
}

// TestSlowReader ends a session whose client does not read.
func TestSlowReader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *client) {
		c.line()
		c.do("LOGIN eva@example.test secret")
		c.appendMail("INBOX", "", strings.Repeat("A: b\r\n", 50000))
		c.do("SELECT INBOX")
		c.send("a FETCH 1 BODY[]\r\n")
		time.Sleep(5*time.Minute + time.Second)
		if b, err := io.ReadAll(c.r); err != nil || len(b) > 100000 {
			t.Errorf("%d octets, %v", len(b), err)
		}
	})
}
