package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// resumed logs a client in that goes on with a session, which has an answer.
func (b *backend) resumed(c net.Conn, r *bufio.Reader, answer string) {
	io.WriteString(c, "* OK hello\r\n")
	for range 3 {
		b.line(r)
	}
	io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\nP2 "+answer+"\r\n")
}

// pairOf starts a proxy that goes to a first, and logs in.
func pairOf(t *testing.T, a, b *backend) *client {
	t.Helper()
	c := connect(t, IMAP, a, b)
	c.want("* OK *")
	c.send("a LOGIN ann secret\r\n")
	c.want("a OK *")
	return c
}

func connect(t *testing.T, proto Protocol, a, b *backend, change ...func(*Config)) *client {
	t.Helper()
	f := start(t, proto, map[string]*backend{"b": b}, func(cfg *Config) {
		for _, c := range change {
			c(cfg)
		}
	})
	t.Cleanup(func() { // its clients are gone by then
		for until := time.Now().Add(5 * time.Second); f.keeps() != 0 && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
		if n := f.keeps(); n != 0 {
			t.Errorf("%d octets are kept of sessions that are over", n)
		}
	})
	f.table.Update(route.Node{Name: "a", Pair: "pair1", Alive: true, Serving: true, Term: 1, Addr: map[route.Service]string{route.IMAP: a.l.Addr().String(), route.POP3: a.l.Addr().String()}})
	return dial(t, f.addr)
}

// keeps is what is kept of all commands.
func (f *fixture) keeps() int64 { return f.kept.memory.Load() + f.kept.files.Load() }

// heard are the lines of a backend behind the login.
func (b *backend) heardAfterLogin(t *testing.T, n int) []string {
	t.Helper()
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if lines := b.record(); len(lines) >= n+2 || time.Now().After(until) {
			return lines[min(2, len(lines)):]
		}
	}
}

// endless is one octet again and again.
type endless byte

func (e endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(e)
	}
	return len(b), nil
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
			b.resumed(c, r, "OK")
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
	t.Run("with more under way than anybody buffers", func(t *testing.T) {
		const each, appends, answer = 7 << 20, 3, 48 << 20
		take := func(b *backend, r *bufio.Reader) {
			b.line(r)
			io.CopyN(io.Discard, r, each)
			b.line(r)
		}
		a := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "* OK hello\r\n")
			b.line(r)
			b.line(r)
			io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\n")
			b.line(r)
			for range appends {
				take(b, r)
			}
			io.WriteString(c, "* OK [XRESUME c3RhdGU=] moving; leader=b\r\n")
		})
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			b.resumed(c, r, "OK")
			b.line(r)
			fmt.Fprintf(c, "* 1 FETCH (BODY[] {%d}\r\n", answer)
			io.CopyN(c, endless('x'), answer)
			io.WriteString(c, ")\r\nb OK done\r\n")
			for i := range appends {
				take(b, r)
				fmt.Fprintf(c, "c%d OK done\r\n", i)
			}
			b.line(r)
		})
		c := pairOf(t, a, b)
		go func() {
			io.WriteString(c.c, "b FETCH 1 BODY[]\r\n")
			for i := range appends {
				fmt.Fprintf(c.c, "c%d APPEND x {%d+}\r\n", i, each)
				io.CopyN(c.c, endless('y'), each)
				io.WriteString(c.c, "\r\n")
			}
		}()
		c.want("* 1 FETCH*")
		if n, err := io.CopyN(io.Discard, c.r, answer); err != nil {
			t.Fatalf("%d octets: %v", n, err)
		}
		c.want(")", "b OK done", "c0 OK done", "c1 OK done", "c2 OK done")
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
			b.resumed(c, r, "OK")
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
	t.Run("with a long command under way", func(t *testing.T) {
		// Two literals, each of which waits for leave, of which the second begins in
		// the file.
		long := strings.Repeat("x", maxKept)
		parts := []string{fmt.Sprintf("b APPEND x {%d}\r\n", len(long)), long + " {3}\r\n", "abc\r\n"}
		granted := func(c net.Conn, line string) {
			if strings.HasSuffix(line, "}") {
				io.WriteString(c, "+ go\r\n")
			}
		}
		whole := strings.ReplaceAll(strings.Join(parts, ""), "}", "+}")
		heard := make(chan string, 1)
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			b.resumed(c, r, "OK")
			text := make([]byte, len(whole))
			io.ReadFull(r, text)
			heard <- string(text)
			io.WriteString(c, "b OK took it\r\n")
		})
		c := pairOf(t, newBackend(t, leaving(3, granted)), b)
		for i, part := range parts {
			if c.send(part); i < 2 {
				c.want("+ go")
			}
		}
		c.want("b OK took it")
		if got := <-heard; got != whole {
			t.Errorf("heard %d octets, want %d", len(got), len(whole))
		}
	})
	t.Run("with more than fits", func(t *testing.T) {
		a, b := newBackend(t, leaving(2, silent)), newBackend(t, imapBackend)
		c := connect(t, IMAP, a, b, func(cfg *Config) { cfg.Spool = filepath.Join(t.TempDir(), "none") })
		c.want("* OK *")
		c.send("a LOGIN ann secret\r\n")
		c.want("a OK *")
		c.send(fmt.Sprintf("b APPEND x {%d+}\r\n%s\r\n", maxKept, strings.Repeat("x", maxKept)))
		c.want("* BYE [UNAVAILABLE] *")
		c.wantEOF()
	})
	t.Run("to an older release", func(t *testing.T) {
		b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			b.resumed(c, r, "BAD Unknown command")
			b.line(r)
		})
		c := pairOf(t, newBackend(t, leaving(0, silent)), b)
		c.want("* BYE [UNAVAILABLE] *")
		c.wantEOF()
	})
}

// TestWithoutAWord has replicas end without a word. A session in IDLE goes on when it
// was told all that the replica had said; no other one does.
func TestWithoutAWord(t *testing.T) {
	const idling, state = "+ idling\r\n", "* OK [XWAITING c3RhdGU=] Waits\r\n"
	for name, tt := range map[string]struct {
		says   []string // of the replica, before each line of the client after the first
		sends  []string // of the client, when it has the answers
		told   [][]string
		heard  []string // by the next replica; none: the session ends
		later  string   // of the client, after the end
		answer string   // of the next replica
	}{
		"in IDLE": {
			says: []string{idling + state}, told: [][]string{{"+ idling"}},
			heard: []string{"i IDLE"}, answer: "* 2 EXISTS",
		},
		"after news": {
			says: []string{idling + state + "* 1 EXISTS\r\n" + state}, told: [][]string{{"+ idling", "* 1 EXISTS"}},
			heard: []string{"i IDLE"}, answer: "* 2 EXISTS",
		},
		"at the end of IDLE": {
			says: []string{idling + state, ""}, sends: []string{"DONE\r\n"}, told: [][]string{{"+ idling"}},
			heard: []string{"i IDLE", "DONE"}, answer: "i OK done",
		},
		"between commands that are long over": {
			says: []string{idling + state, "i OK done\r\n" + state}, sends: []string{"DONE\r\n"}, told: [][]string{{"+ idling"}, {"i OK done"}},
			later: "c NOOP\r\n", heard: []string{"c NOOP"}, answer: "c OK done",
		},
		"within news": {
			says: []string{idling + state + "* 1 EXISTS\r\n"}, told: [][]string{{"+ idling", "* 1 EXISTS"}},
		},
		"without a state": {
			says: []string{idling}, told: [][]string{{"+ idling"}},
		},
		"with a command behind it": {
			says: []string{idling + state, "", ""}, sends: []string{"DONE\r\nc COPY 1 x\r\n"}, told: [][]string{{"+ idling"}},
		},
		"in another command": {
			says: []string{idling + state, "i OK done\r\n", state}, sends: []string{"DONE\r\n", "c COPY 1 x\r\n"}, told: [][]string{{"+ idling"}, {"i OK done"}},
		},
		"between commands": {
			says: []string{idling + state, "i OK done\r\n"}, sends: []string{"DONE\r\n"}, told: [][]string{{"+ idling"}, {"i OK done"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
				io.WriteString(c, "* OK hello\r\n")
				b.line(r)
				b.line(r)
				io.WriteString(c, "P0 OK\r\nP1 OK welcome\r\n")
				for _, text := range tt.says {
					b.line(r)
					io.WriteString(c, text)
				}
				b.l.Close() // with its process
			})
			b := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
				b.resumed(c, r, "OK")
				for range tt.heard {
					b.line(r)
				}
				if tt.later == "" {
					io.WriteString(c, "+ idling\r\n"+state)
				}
				io.WriteString(c, tt.answer+"\r\n")
				b.line(r)
			})
			c := pairOf(t, a, b)
			c.send("i IDLE\r\n")
			for i, lines := range tt.told {
				c.want(lines...)
				if i < len(tt.sends) {
					c.send(tt.sends[i])
				}
			}
			if tt.later != "" {
				b.heardAfterLogin(t, 1) // what the first has got it may have done
				c.send(tt.later)
			}
			if tt.heard == nil {
				c.want("* BYE [UNAVAILABLE] *")
				c.wantEOF()
				return
			}
			c.want(tt.answer)
			if got := b.heardAfterLogin(t, 1+len(tt.heard)); !slices.Equal(got, append([]string{"P2 XRESUME c3RhdGU="}, tt.heard...)) {
				t.Errorf("heard %q", got)
			}
		})
	}
}

// TestPending: a client whose commands nobody answers is not read without end.
func TestPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipe{link: link{front: &front{srv: new(Server)}}}
		p.fewer = sync.NewCond(&p.mu)
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

// popLogin answers the login of a proxy.
func (b *backend) popLogin(c net.Conn, r *bufio.Reader) {
	io.WriteString(c, "+OK hello\r\n")
	for b.line(r) != "AUTH EXTERNAL "+identity("ann@example.test") {
	}
	io.WriteString(c, "+OK\r\n+OK 2 messages\r\n")
}

// popBackend answers RETR with lines that look like all kinds of answers.
func popBackend(b *backend, c net.Conn, r *bufio.Reader) {
	b.popLogin(c, r)
	for line := b.line(r); line != ""; line = b.line(r) {
		switch {
		case strings.HasPrefix(line, "RETR"), strings.HasPrefix(line, "TOP"):
			io.WriteString(c, "+OK\r\n-ERR [XRESUME 1] no\r\n..\r\n"+strings.Repeat("x", 5000)+".\r\n.\r\n")
		case line == "LIST":
			io.WriteString(c, "+OK\r\n1 2\r\n.\r\n")
		case line == "LIST 9":
			io.WriteString(c, "-ERR no such message\r\n")
		default:
			fmt.Fprintf(c, "+OK %s\r\n", line)
		}
		if line == "QUIT" {
			return
		}
	}
}

// popLeaving hears lines after the login, answers with text, and hands on.
func popLeaving(lines int, text string) func(*backend, net.Conn, *bufio.Reader) {
	return func(b *backend, c net.Conn, r *bufio.Reader) {
		b.popLogin(c, r)
		for range lines {
			b.line(r)
		}
		io.WriteString(c, text+"-ERR [XRESUME 2] moving; leader=b\r\nc3Rh\r\ndGU=\r\n")
	}
}

func popPair(t *testing.T, a, b *backend) *client {
	t.Helper()
	c := connect(t, POP3, a, b)
	c.send("USER ann\r\nPASS secret\r\n")
	c.want("+OK *", "+OK *", "+OK 2 messages")
	return c
}

// TestPOP3HandOver is TestHandOver for POP3.
func TestPOP3HandOver(t *testing.T) {
	retrieved := []string{"+OK", "-ERR [XRESUME 1] no", "..", strings.Repeat("x", 5000) + ".", "."}
	t.Run("between commands", func(t *testing.T) {
		b := newBackend(t, popBackend)
		c := popPair(t, newBackend(t, popLeaving(1, "+OK marked\r\n")), b)
		c.send("DELE 1\r\n")
		c.want("+OK marked")
		c.send("RETR 2\r\nLIST\r\nLIST 9\r\nQUIT\r\n")
		c.want(retrieved...)
		c.want("+OK", "1 2", ".", "-ERR no such message", "+OK QUIT")
		c.wantEOF()
		if got := b.record(); len(got) < 4 || got[0] != "XRESUME 2" || got[1] != "c3Rh" || got[2] != "dGU=" {
			t.Errorf("heard %q", got)
		}
	})
	t.Run("with commands under way", func(t *testing.T) {
		c := popPair(t, newBackend(t, popLeaving(3, "+OK\r\n-ERR [XRESUME 1] no\r\n.\r\n")), newBackend(t, popBackend))
		c.send("TOP 1 0\r\nRETR 1\r\nDELE 1\r\nNO")
		c.want("+OK", "-ERR [XRESUME 1] no", ".")
		c.want(retrieved...)
		c.want("+OK DELE 1")
		c.send("OP\r\n")
		c.want("+OK NOOP")
	})
	for name, login := range map[string]string{
		"to an older release":    "+OK hello\r\n-ERR log in first\r\n",
		"to another maildrop":    "+OK hello\r\n+OK\r\n-ERR [XRESUME] the maildrop is another one\r\n",
		"to one that is in use":  "+OK hello\r\n+OK\r\n-ERR [IN-USE] another session has this maildrop\r\n",
		"with a state cut short": "",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newBackend(t, popLeaving(0, "")), newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
				io.WriteString(c, login)
				for b.line(r) != "" {
				}
			})
			if login == "" {
				a = newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
					b.popLogin(c, r)
					io.WriteString(c, "-ERR [XRESUME 2] moving\r\nc3Rh\r\n")
				})
			}
			popPair(t, a, b).wantEOF()
		})
	}
	t.Run("from an older release", func(t *testing.T) {
		a := newBackend(t, func(b *backend, c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "+OK hello\r\n")
			b.line(r)
			io.WriteString(c, "-ERR log in first\r\n")
			b.line(r)
			io.WriteString(c, "+OK 2 messages\r\n+OK done\r\n")
			b.line(r)
		})
		c := popPair(t, a, newBackend(t, popBackend))
		c.send("NOOP\r\n")
		c.want("+OK done")
		c.wantEOF()
	})
}
