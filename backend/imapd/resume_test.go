package imapd

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/shared/imapwire"
)

const asProxy = `ID ("x-originating-ip" "192.0.2.1" "x-resume" "1")`

// proxied returns a client that can go on elsewhere.
func (f *fixture) proxied() *client {
	f.t.Helper()
	c := f.dial()
	c.line()
	c.do(asProxy)
	c.do("LOGIN eva@example.test secret")
	return c
}

// handed reads the state of a session that ends.
func (c *client) handed() string {
	c.t.Helper()
	line := c.line()
	state, ok := strings.CutPrefix(line, "* OK [XRESUME ")
	state, text, end := strings.Cut(state, "]")
	if !ok || !end || !strings.HasSuffix(text, "leader=node-2.b") {
		c.t.Fatalf("got %q", line)
	}
	c.talk("=")
	return state
}

var away = &mailbox.ErrNotServing{Leader: "node-2.b"}

// TestResume has a session go on with what it had, and tells it what has changed
// meanwhile.
func TestResume(t *testing.T) {
	f := start(t, nil)
	other := f.login("eva@example.test")
	for range 4 {
		other.appendMail("INBOX", "", "A: b\r\n")
	}
	c := f.proxied()
	c.do("ENABLE QRESYNC")
	c.do("SELECT INBOX")
	c.do("SEARCH RETURN (SAVE) 2:3")
	// Message 1 goes while its number is still in use.
	other.do("SELECT INBOX")
	other.do("STORE 1 +FLAGS.SILENT (\\Deleted)")
	other.do("EXPUNGE")
	c.talk("C: a FETCH 1:4 UID\nS: * 2 FETCH (UID 2)\nS: * 3 FETCH (UID 3)\nS: * 4 FETCH (UID 4)\nS: a * *")
	f.log.SetAway(away)
	c.send("b NOOP\r\n")
	state := c.handed()
	f.log.SetAway(nil)
	other.appendMail("INBOX", "", "A: c\r\n")
	other.do("STORE 2 +FLAGS (\\Flagged)") // UID 3

	c = f.proxied()
	c.talk("C: r XRESUME " + state + "\nS: r OK Done")
	c.talk("C: f FETCH 4 UID\nS: * 4 FETCH (UID 4)\nS: f OK *")
	c.talk("C: n NOOP\nS: * VANISHED 1\nS: * 4 EXISTS\nS: * 2 FETCH (UID 3 FLAGS (\\Flagged) MODSEQ (*))\nS: n OK *")
	c.talk("C: s UID FETCH $ UID\nS: * 1 FETCH (UID 2)\nS: * 2 FETCH (UID 3)\nS: s OK *")
	c.talk("C: x XRESUME " + state + "\nS: x BAD *")
}

// TestResumeIdle has a session end in IDLE, and one that waits for nothing.
func TestResumeIdle(t *testing.T) {
	f := start(t, nil)
	f.login("eva@example.test").do("NOOP") // makes the account
	idle, selected, none := f.proxied(), f.proxied(), f.proxied()
	idle.do("EXAMINE INBOX")
	idle.talk("C: i IDLE\nS: + *")
	selected.do("SELECT INBOX")
	f.log.SetAway(away)
	f.srv.Recheck()
	var states []string
	for _, c := range []*client{idle, selected, none} {
		states = append(states, c.handed())
	}
	f.log.SetAway(nil)
	for _, state := range states {
		next := f.proxied()
		next.talk("C: r XRESUME " + state + "\nS: r OK Done")
		next.do("NOOP")
	}
}

// TestWaiting has sessions in IDLE end without a word, and go on with what they had
// told their proxy: whatever happens after that is told by the next replica.
func TestWaiting(t *testing.T) {
	f := start(t, nil)
	other := f.login("eva@example.test")
	other.appendMail("INBOX", "", "A: b\r\n")
	waits := func() *client {
		c := f.dial()
		c.line()
		c.do(strings.Replace(asProxy, ")", ` "x-waiting" "1")`, 1))
		c.do("LOGIN eva@example.test secret")
		return c
	}
	state := func(c *client) string {
		t.Helper()
		state, text, ok := strings.Cut(strings.TrimPrefix(c.line(), "* OK [XWAITING "), "]")
		if !ok || text != " Waits" || len(state) > 100 {
			t.Fatalf("got %q, %q", state, text)
		}
		return state
	}
	c := waits()
	c.do("SELECT INBOX")
	c.talk("C: i IDLE\nS: + *")
	first := state(c)
	other.appendMail("INBOX", "", "A: c\r\n")
	c.talk("S: * 2 EXISTS")
	second := state(c)
	c.send("DONE\r\n")
	c.talk("S: i OK *")
	other.appendMail("INBOX", "", "A: d\r\n")
	for _, tt := range []struct{ state, told string }{{first, "* 3 EXISTS"}, {second, "* 3 EXISTS"}} {
		next := waits()
		next.talk("C: r XRESUME " + tt.state + "\nS: r OK Done")
		next.talk("C: i IDLE\nS: " + tt.told + "\nS: + *")
		state(next)
	}
	none := waits()
	none.talk("C: i IDLE\nS: + *")
	next := waits()
	next.talk("C: r XRESUME " + state(none) + "\nS: r OK Done")
	next.talk("C: c CLOSE\nS: c BAD *")

	// A proxy that did not ask for it, and a state that is too long.
	plain := f.proxied()
	plain.do("SELECT INBOX")
	plain.talk("C: i IDLE\nS: + *")
	plain.send("DONE\r\n")
	plain.talk("S: i OK *")
	s := session{keeps: true, account: &mailbox.Account{}, w: new(imapwire.Writer)}
	for i := range uint32(maxWaiting) {
		s.saved = append(s.saved, imapwire.Range{Start: 2*i + 1, Stop: 2*i + 1})
	}
	if s.tellState(); len(s.w.B) > 0 {
		t.Errorf("tells %d octets", len(s.w.B))
	}
}

// TestResumeOnce has commands end in the middle: those that have made their
// change are answered, the others are not.
func TestResumeOnce(t *testing.T) {
	for command, done := range map[string]bool{
		"APPEND INBOX {6+}\r\nA: b\r\n": true, "COPY 1 Sent": true, "MOVE 1 Sent": true, "CREATE x": true, "RENAME Sent y": true, "DELETE Sent": true,
		"STORE 1 (UNCHANGEDSINCE 99) +FLAGS.SILENT (x)": true,
		"STORE 1 +FLAGS.SILENT (x)":                     false,
		"EXPUNGE":                                       false,
	} {
		f := start(t, nil)
		f.login("eva@example.test").appendMail("INBOX", "\\Deleted", "A: b\r\n")
		c := f.proxied()
		c.do("SELECT INBOX")
		f.log.SetAfter(away)
		c.send("a " + command + "\r\n")
		line := c.line()
		for strings.HasPrefix(line, "* ") && !strings.Contains(line, "XRESUME") {
			line = c.line()
		}
		if got := strings.HasPrefix(line, "a OK"); got != done {
			t.Errorf("%s: %q", command, line)
		}
	}
	// One that was not offered ends as ever.
	f := start(t, nil)
	c := f.login("eva@example.test")
	f.log.SetAway(away)
	c.talk("C: a LIST \"\" *\nS: * BYE [UNAVAILABLE] *\n=")
}

// TestResumeRefused gives states that are none, or not this user's.
func TestResumeRefused(t *testing.T) {
	f := start(t, nil)
	f.login("eva@example.test").appendMail("INBOX", "", "A: b\r\n")
	c := f.proxied()
	c.do("SELECT INBOX")
	f.log.SetAway(away)
	c.send("b NOOP\r\n")
	state := c.handed()
	f.log.SetAway(nil)
	ann := f.dial()
	ann.line()
	ann.do(asProxy)
	ann.do("LOGIN ann@example.test secret")
	ann.talk("C: r XRESUME " + state + "\nS: r NO [CANNOT] *")
	raw, err := base64.StdEncoding.DecodeString(state)
	if err != nil {
		t.Fatal(err)
	}
	for n := range raw {
		if r, err := decodeState(raw[:n]); err == nil && len(r.picture) == 0 {
			t.Errorf("%d of %d octets are a state: %+v", n, len(raw), r)
		}
	}
	plain := f.login("eva@example.test")
	plain.talk("C: r XRESUME " + state + "\nS: r BAD *")
	late := f.proxied()
	late.do("NOOP")
	late.talk("C: r XRESUME " + state + "\nS: r BAD *")
}

// FuzzState decodes what somebody has made up. What is accepted is written again
// as it was.
func FuzzState(f *testing.F) {
	f.Add([]byte{1, 0, 0})
	f.Add([]byte{1, resumeQresync | resumeCondstore, 1, 3, 9})
	f.Add([]byte{1, resumeSelected, 0, 1, 0, 1, 1, 2, 3, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeState(b)
		if err != nil {
			return
		}
		s := session{condstore: r.flags&resumeCondstore != 0, qresync: r.flags&resumeQresync != 0, rev2: r.flags&resumeRev2 != 0, utf8: r.flags&resumeUTF8 != 0, saved: r.saved}
		again, err := decodeState(bytes.Join([][]byte{withFlags(s.state(maxResume), r.flags), r.picture}, nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v, %v, want %+v", again, err, r)
		}
		last := uint32(0)
		for _, g := range r.saved {
			if g.Start <= last || g.Stop < g.Start {
				t.Errorf("saved %+v", r.saved)
			}
			last = g.Stop
		}
	})
}

func withFlags(b []byte, flags byte) []byte {
	if b != nil {
		b[1] = flags
	}
	return b
}

// TestStateTooLong has a result that is too long to go on with.
func TestStateTooLong(t *testing.T) {
	s := session{}
	for i := range uint32(maxResume) {
		s.saved = append(s.saved, imapwire.Range{Start: 2*i + 1, Stop: 2*i + 1})
	}
	if b := s.state(maxResume); b != nil {
		t.Errorf("a state of %d octets", len(b))
	}
}
