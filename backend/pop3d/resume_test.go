package pop3d

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

var away = &mailbox.ErrNotServing{Leader: "pair1-b"}

// dialog is a client that a test holds open.
type dialog struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// proxied logs a proxy in that can go on elsewhere, with lines of a state.
func proxied(t *testing.T, addr string, state ...string) *dialog {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	d := &dialog{t: t, c: c, r: bufio.NewReader(c)}
	d.want("+OK *")
	d.send(fmt.Sprintf("XRESUME %d", len(state)))
	for _, line := range state {
		d.send(line)
	}
	d.want("+OK *")
	d.send("AUTH EXTERNAL " + base64.StdEncoding.EncodeToString([]byte("ann@example.test")))
	return d
}

func (d *dialog) send(line string) { io.WriteString(d.c, line+"\r\n") }

func (d *dialog) line() string {
	d.t.Helper()
	line, err := d.r.ReadString('\n')
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimRight(line, "\r\n")
}

func (d *dialog) want(lines ...string) {
	d.t.Helper()
	for _, want := range lines {
		got := d.line()
		if prefix, open := strings.CutSuffix(want, "*"); open && !strings.HasPrefix(got, prefix) || !open && got != want {
			d.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// handed reads the state of a session that ends.
func (d *dialog) handed(leader string) (state []string) {
	d.t.Helper()
	var n int
	line := d.line()
	if _, err := fmt.Sscanf(line, "-ERR [XRESUME %d]", &n); err != nil || !strings.HasSuffix(line, leader) {
		d.t.Fatalf("got %q", line)
	}
	for range n {
		state = append(state, d.line())
	}
	if line, err := d.r.ReadString('\n'); err == nil {
		d.t.Fatalf("got %q, want the end", line)
	}
	return state
}

// TestResume has a session go on with its numbers, sizes and marks, whatever has
// happened to the mailbox meanwhile, and its QUIT do what it means.
func TestResume(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	addr := start(t, boxes, false)
	deliver(t, boxes, "ann@example.test", "A: 1\r\n\r\n", "A: 2\r\n\r\n", "A: 3\r\n\r\nx\r\n", "A: 4\r\n\r\n")
	d := proxied(t, addr)
	d.want("+OK 4 messages*")
	d.send("DELE 2")
	d.want("+OK *")
	log.SetAway(away)
	d.send("RETR 3")
	state := d.handed("leader=pair1-b")
	log.SetAway(nil)

	deliver(t, boxes, "ann@example.test", "A: 5\r\n\r\n")
	acc, err := boxes.Account(t.Context(), "ann@example.test")
	if err != nil {
		t.Fatal(err)
	}
	view, err := acc.Open(t.Context(), "INBOX", false)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if _, err := view.Expunge(t.Context(), []uint32{4}, true); err != nil {
		t.Fatal(err)
	}

	d = proxied(t, addr, state...)
	d.want("+OK 3 messages*")
	d.send("RETR 3\r\nLIST\r\nRETR 2\r\nRETR 4\r\nQUIT")
	d.want("+OK 11 octets", "A: 3", "", "x", ".", "+OK 3 messages (27 octets)", "1 8", "3 11", "4 8", ".", "-ERR *", "-ERR message is gone")
	d.want("+OK bye")

	d = proxied(t, addr)
	d.want("+OK 3 messages*")
	d.send("UIDL")
	d.want("+OK *")
	for _, want := range []string{"00000001", "00000003", "00000005", "."} {
		if line := d.line(); !strings.HasSuffix(line, want) {
			t.Errorf("got %q, want one that ends with %q", line, want)
		}
	}
}

// TestResumeBehindAnswer has the replica stop serving while it reads a message. The
// client has the whole of it, once, and the session goes on elsewhere behind it.
func TestResumeBehindAnswer(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	addr := start(t, boxes, false)
	deliver(t, boxes, "ann@example.test", "A: 1\r\n\r\n", "A: 2\r\n\r\nx\r\n")
	for _, cmd := range []string{"RETR 2", "TOP 2 1"} {
		d := proxied(t, addr)
		d.want("+OK 2 messages*")
		log.SetDuring(away)
		d.send(cmd)
		d.want("+OK *", "A: 2", "", "x", ".")
		d.send("RETR 1")
		state := d.handed("leader=pair1-b")
		log.SetAway(nil)
		d = proxied(t, addr, state...)
		d.want("+OK 2 messages*")
		d.send("RETR 1\r\nQUIT")
		d.want("+OK *", "A: 1", "", ".", "+OK bye")
	}
}

// TestResumeQuit has QUIT itself done by the other replica.
func TestResumeQuit(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	addr := start(t, boxes, false)
	deliver(t, boxes, "ann@example.test", "A: 1\r\n\r\n", "A: 2\r\n\r\n")
	d := proxied(t, addr)
	d.want("+OK 2 messages*")
	d.send("DELE 1")
	d.want("+OK *")
	log.SetAway(away)
	d.send("QUIT")
	state := d.handed("leader=pair1-b")
	log.SetAway(nil)
	d = proxied(t, addr, state...)
	d.want("+OK 1 messages*")
	d.send("QUIT")
	d.want("+OK bye")
	d = proxied(t, addr)
	d.want("+OK 1 messages*")
}

// TestResumeIdle has a session handed on that waits for its client, also with half
// a command read.
func TestResumeIdle(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	s, addr := startServer(t, boxes, false)
	d := proxied(t, addr)
	d.want("+OK 0 messages*")
	io.WriteString(d.c, "NOOP\r\nST")
	d.want("+OK *")
	log.SetAway(away)
	s.Recheck()
	d.handed("leader=pair1-b")
}

// TestBadStates has made-up states refused.
func TestBadStates(t *testing.T) {
	boxes := mailboxtest.New(t)
	addr := start(t, boxes, false)
	deliver(t, boxes, "ann@example.test", "A: 1\r\n\r\n")
	for _, state := range [][]byte{{1, 0}, {1, 1, 2, 8, 1, 0, 9, 9, 9, 9, 0, 0}, {2}, {1, 200, 1}} {
		d := proxied(t, addr, base64.StdEncoding.EncodeToString(state))
		d.want("-ERR [XRESUME] the maildrop is another one")
	}
	talk(t, addr, `
		S: +OK *
		C: XRESUME
		S: -ERR *
		C: XRESUME 2000000
		S: -ERR *
		C: XRESUME 2\r\n=\r\nAAAA
		S: -ERR not a state of a session`)
}

func FuzzState(f *testing.F) {
	f.Add([]byte{1, 2, 2, 8, 5, 11, 7})
	f.Fuzz(func(t *testing.T, b []byte) {
		drop, picture, err := decodeState(b)
		if err != nil {
			return
		}
		last := uint32(0)
		for _, e := range drop {
			if e.uid <= last || e.size < 0 {
				t.Fatalf("entry %+v after uid %d", e, last)
			}
			last = e.uid
		}
		if len(drop) > len(b) || len(picture) > len(b) {
			t.Fatal("more than was given")
		}
		again, rest, err := decodeState(append(appendDrop(nil, drop), picture...))
		if err != nil || !reflect.DeepEqual(again, drop) || string(rest) != string(picture) {
			t.Fatalf("%v became %v: %v", drop, again, err)
		}
	})
}
