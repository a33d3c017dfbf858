package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/imapwire"
)

// leaving logs a client in, hears some lines, and hands the session on. told is
// called with each line.
func leaving(lines int, told func(c net.Conn, line string)) func(*backend, net.Conn, *bufio.Reader) {
	return func(b *backend, c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "* OK hello\r\n")
		b.line(r)
		b.line(r)
		io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\n")
		for range lines {
			told(c, b.line(r))
		}
		io.WriteString(c, "* OK [XRESUME c3RhdGU=] moving; leader=b\r\n")
	}
}

// pairOf starts a proxy that goes to a first.
func pairOf(t *testing.T, a, b *backend) *client {
	t.Helper()
	f := start(t, IMAP, map[string]*backend{"b": b}, nil)
	t.Cleanup(func() { // its clients are gone by then
		for until := time.Now().Add(5 * time.Second); f.kept.Load() != 0 && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		if n := f.kept.Load(); n != 0 {
			t.Errorf("%d octets are kept of sessions that are over", n)
		}
	})
	f.table.Update(route.Node{Name: "a", Pair: "pair1", Alive: true, Serving: true, Term: 1, Addr: map[route.Service]string{route.IMAP: a.l.Addr().String()}})
	c := dial(t, f.addr)
	c.want("* OK *")
	c.send("a LOGIN ann secret\r\n")
	c.want("a OK *")
	return c
}

// heard are the lines of a backend behind the login.
func (b *backend) heardAfterLogin(t *testing.T, n int) []string {
	t.Helper()
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if lines := b.record(); len(lines) >= n+2 || time.Now().After(until) {
			return lines[min(2, len(lines)):]
		}
	}
}

// TestHandOver moves sessions to another replica at moments of all kinds; the
// client notices nothing.
func TestHandOver(t *testing.T) {
	silent := func(net.Conn, string) {}
	t.Run("between commands", func(t *testing.T) {
		a, b := newBackend(t, leaving(1, func(c net.Conn, _ string) { io.WriteString(c, "* 1 EXISTS\r\nb OK done\r\n") })), newBackend(t, imapBackend)
		c := pairOf(t, a, b)
		c.send("b NOOP\r\n")
		c.want("* 1 EXISTS", "b OK done")
		c.send("c NOOP\r\nd LOGOUT\r\n")
		c.want("* OK heard NOOP", "c OK done", "* BYE bye", "d OK done")
		c.wantEOF()
		if got := b.record(); len(got) < 3 || got[2] != "P2 XRESUME c3RhdGU=" || !strings.Contains(got[0], `"x-resume" "1"`) {
			t.Errorf("heard %q", got)
		}
	})
	t.Run("with commands under way", func(t *testing.T) {
		a, b := newBackend(t, leaving(2, silent)), newBackend(t, imapBackend)
		c := pairOf(t, a, b)
		c.send("b NOOP\r\nc STORE {3+}\r\nx y z\r\nd CHECK\r\n")
		c.want("* OK heard NOOP", "b OK done", "* OK heard STORE {3+}", "c OK done", "* OK heard y z", "x OK done", "* OK heard CHECK", "d OK done")
	})
	t.Run("in IDLE", func(t *testing.T) {
		idling := func(c net.Conn, _ string) { io.WriteString(c, "+ idling\r\n") }
		a := newBackend(t, leaving(1, idling))
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "* OK hello\r\n")
			for range 3 {
				b.line(r)
			}
			io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\nP2 OK\r\n")
			b.line(r)
			io.WriteString(c, "+ idling again\r\n* 2 EXISTS\r\n")
			b.line(r)
			io.WriteString(c, "i OK done\r\n")
			b.line(r)
		})
		c := pairOf(t, a, b)
		c.send("i IDLE\r\n")
		c.want("+ idling", "* 2 EXISTS")
		c.send("DONE\r\n")
		c.want("i OK done")
		if got := b.heardAfterLogin(t, 3); len(got) != 3 || got[1] != "i IDLE" || got[2] != "DONE" {
			t.Errorf("heard %q", got)
		}
	})
	t.Run("before leave for a literal", func(t *testing.T) {
		a, b := newBackend(t, leaving(1, silent)), newBackend(t, imapBackend)
		c := pairOf(t, a, b)
		c.send("b APPEND x {5}\r\n")
		c.want("+ go")
		c.send("12345\r\n")
		c.want("b OK took it")
	})
	t.Run("after it", func(t *testing.T) {
		granted := func(c net.Conn, line string) {
			if strings.HasSuffix(line, "{5}") {
				io.WriteString(c, "+ go\r\n")
			}
		}
		heard := make(chan string, 1)
		a := newBackend(t, leaving(1, granted))
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "* OK hello\r\n")
			for range 3 {
				b.line(r)
			}
			io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\nP2 OK\r\n")
			text := make([]byte, len("b APPEND x {5+}\r\n12345\r\n"))
			io.ReadFull(r, text)
			heard <- string(text)
			io.WriteString(c, "b OK took it\r\n")
		})
		c := pairOf(t, a, b)
		c.send("b APPEND x {5}\r\n")
		c.want("+ go")
		c.send("123")
		time.Sleep(20 * time.Millisecond) // it may arrive before or behind the move
		c.send("45\r\n")
		c.want("b OK took it")
		if got := <-heard; got != "b APPEND x {5+}\r\n12345\r\n" {
			t.Errorf("heard %q", got)
		}
	})
	t.Run("with too much under way", func(t *testing.T) {
		a, b := newBackend(t, leaving(2, silent)), newBackend(t, imapBackend)
		c := pairOf(t, a, b)
		c.send(fmt.Sprintf("b APPEND x {%d+}\r\n%s\r\n", maxKept, strings.Repeat("x", maxKept)))
		c.want("* BYE [UNAVAILABLE] *")
		c.wantEOF()
	})
	t.Run("to an older release", func(t *testing.T) {
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "* OK hello\r\n")
			for range 3 {
				b.line(r)
			}
			io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\nP2 BAD Unknown command\r\n")
			b.line(r)
		})
		c := pairOf(t, newBackend(t, leaving(0, silent)), b)
		c.want("* BYE [UNAVAILABLE] *")
		c.wantEOF()
	})
}

// TestPending: a client whose commands nobody answers is not read without end.
func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{front: &front{srv: new(Server)}}
		p.fewer.L = &p.mu
		begun := make(chan error, 3)
		for i := range maxPending {
			if err := p.begin(&sent{tag: strconv.Itoa(i)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			go func() { begun <- p.begin(&sent{tag: "more"}) }()
		}
		synctest.Wait()
		if n := len(begun); n != 0 {
			t.Fatalf("%d of two commands beyond the limit were taken", n)
		}
		p.note(&imapwire.Response{Kind: imapwire.Tagged, Tag: []byte("7")})
		synctest.Wait()
		if n := len(begun); n != 1 || len(p.pending) != maxPending {
			t.Fatalf("%d were taken after one answer, %d wait for theirs", n, len(p.pending))
		}
		p.end()
		synctest.Wait()
		if first, second := <-begun, <-begun; first != nil || !errors.Is(second, errOver) {
			t.Errorf("%v, %v", first, second)
		}
	})
}
