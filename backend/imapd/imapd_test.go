package imapd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// checkLogin is a Config.Authenticate: EXTERNAL for anybody, else the password
// "secret".
func checkLogin(_ context.Context, mech, authz, user, pass string, _ *tls.ConnectionState, _ net.Addr) (string, error) {
	wrong := &mail.Error{Op: "test", Status: mail.StatusRefused, Err: errors.New("wrong credentials")}
	switch {
	case mech == "EXTERNAL" && authz == "down@example.test":
		return "", errors.New("directory does not answer")
	case mech == "EXTERNAL" && authz != "":
		return authz, nil
	case mech == "EXTERNAL", pass != "secret":
		return "", wrong
	}
	return user, nil
}

// fixture is a server on loopback.
type fixture struct {
	t     testing.TB
	boxes *mailbox.Service
	log   *mailboxtest.Log
	srv   *Server
	addr  string
}

func start(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t}
	f.boxes, f.log = mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Level = func() uint32 { return 2 } })
	cfg := Config{
		Mailboxes: f.boxes, Hostname: "store.test", Authenticate: checkLogin, PasswordLogin: true,
		AuthDelay: time.Millisecond, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if f.srv, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// client speaks the protocol line by line.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func (f *fixture) dial() *client {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &client{t: f.t, conn: conn, r: bufio.NewReaderSize(conn, 1<<20)}
	return c
}

// login returns a client that has logged in.
func (f *fixture) login(user string) *client {
	f.t.Helper()
	c := f.dial()
	c.line()
	c.do("LOGIN " + user + " secret")
	return c
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// line reads one response, literals included, without its last CRLF.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.read()
	if err != nil {
		c.t.Fatalf("after %q: %v", s, err)
	}
	return s
}

func (c *client) read() (string, error) {
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
		line = strings.TrimSuffix(line, "\r\n")
		open := strings.LastIndexByte(line, '{')
		if open < 0 || !strings.HasSuffix(line, "}") || strings.HasPrefix(b.String(), "* OK") {
			return strings.TrimSuffix(b.String(), "\r\n"), nil
		}
		n, err := strconv.Atoi(line[open+1 : len(line)-1])
		if err != nil {
			return strings.TrimSuffix(b.String(), "\r\n"), nil
		}
		if _, err := io.CopyN(&b, c.r, int64(n)); err != nil {
			return b.String(), err
		}
	}
}

// ask sends a command with the tag x and returns the responses, the tagged one
// last and without its tag.
func (c *client) ask(command string) []string {
	c.t.Helper()
	c.send("x " + command + "\r\n")
	var lines []string
	for {
		line := c.line()
		if rest, ok := strings.CutPrefix(line, "x "); ok {
			return append(lines, rest)
		}
		lines = append(lines, line)
	}
}

// do is ask for a command that must succeed.
func (c *client) do(command string) []string {
	c.t.Helper()
	lines := c.ask(command)
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "OK") {
		c.t.Fatalf("%s: %q", command, last)
	}
	return lines[:len(lines)-1]
}

// appendMail adds a message to a mailbox and returns its UID.
func (c *client) appendMail(box, flags, text string) {
	c.t.Helper()
	c.do(fmt.Sprintf("APPEND %s (%s) {%d+}\r\n%s", box, flags, len(text), text))
}

// crlf turns the lines of s into lines of the protocol.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// talk runs a dialog. Lines "C: " are sent, lines "S: " are compared with what
// comes, where "*" stands for anything inside a line; a literal of the server
// is written as the lines that it has. "C+" sends without a line end, "=" sends
// nothing and expects the connection to be closed. "L: " is a command that
// must succeed, whatever else is answered. "B: " is octets in hexadecimal that
// the server sends. "V: " is like S, and what stands for its "$" replaces each "$"
// from there on. Other lines are comments.
func (c *client) talk(dialog string) {
	c.t.Helper()
	kept := ""
	for step := range strings.Lines(dialog) {
		step = strings.Trim(step, "\t\n")
		if kept != "" {
			step = strings.ReplaceAll(step, "$", kept)
		}
		switch {
		case strings.HasPrefix(step, "L: "):
			c.do(unquote(step[3:]))
		case strings.HasPrefix(step, "B: "):
			want, err := hex.DecodeString(strings.ReplaceAll(step[3:], " ", ""))
			if err != nil {
				c.t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c.r, got); err != nil || !bytes.Equal(got, want) {
				c.t.Fatalf("got %x %v, want %x", got, err, want)
			}
		case strings.HasPrefix(step, "V: "):
			before, after, _ := strings.Cut(step[3:], "$")
			line := c.line()
			if !strings.HasPrefix(line, before) || !strings.HasSuffix(line, after) {
				c.t.Fatalf("got %q, want %q", line, step[3:])
			}
			kept = line[len(before) : len(line)-len(after)]
		case strings.HasPrefix(step, "C: "):
			c.send(step[3:] + "\r\n")
		case strings.HasPrefix(step, "C+ "):
			c.send(unquote(step[3:]))
		case strings.HasPrefix(step, "S: "):
			line, err := c.r.ReadString('\n')
			got := strings.TrimSuffix(line, "\r\n")
			if err != nil || !like(got, step[3:]) {
				c.t.Fatalf("got  %q %v\nwant %q", got, err, step[3:])
			}
		case step == "=":
			if b, err := io.ReadAll(c.r); len(b) > 0 {
				c.t.Fatalf("connection goes on with %q %v", b, err)
			}
		}
	}
}

func unquote(s string) string {
	return strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00").Replace(s)
}

// like compares with a pattern in which "*" behind the first octet stands for
// anything.
func like(got, pattern string) bool {
	if got == pattern {
		return true
	}
	quoted := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `?`, `\?`).Replace(pattern)
	if strings.HasPrefix(quoted, "*") {
		quoted = `\` + quoted
	}
	// path.Match does not let "*" stand for a slash.
	ok, err := path.Match(strings.ReplaceAll(quoted, "/", "\x01"), strings.ReplaceAll(got, "/", "\x01"))
	return ok && err == nil
}

var noDeadline time.Time
