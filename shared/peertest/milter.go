package peertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// MilterSession is a session in which a filter of mail is asked, what the filter is
// told, and what becomes of the messages. The file of such sessions that belongs to
// package milter has what Postfix does, which a test of Postfix checks and the
// package compares itself with.
type MilterSession struct {
	Name     string
	Options  []string `json:",omitempty"` // of the filter
	Helo     string
	Addr     string `json:",omitempty"` // of the client, if it is not 192.0.2.7
	Host     string `json:",omitempty"` // its name: "none", or "unverified"; else it has one
	TLS      bool   `json:",omitempty"` // STARTTLS, and Helo again
	Messages []*MilterMessage
	Events   []string
}

// MilterMessage is one message. Its answers are in the order of MAIL, RCPT and
// DATA, "" for a good one.
type MilterMessage struct {
	From string // with its parameters
	To   []string
	Text []string `json:",omitempty"` // lines; none: RSET instead of DATA
	More int      `json:",omitempty"` // lines of 70 octets besides
	Gone bool     `json:",omitempty"` // it is accepted, and there is nothing of it

	Replies    []string
	Stored     []string `json:",omitempty"` // as it is kept, without our own trace and More
	Sender     string   `json:",omitempty"`
	Recipients []string `json:",omitempty"`
	Held       bool     `json:",omitempty"`
}

// milterLine is a line of More.
var milterLine = strings.Repeat("x", 68)

// Octets is the message as it is sent.
func (m *MilterMessage) Octets() []byte {
	return []byte(strings.Join(m.Text, "\r\n") + "\r\n" + strings.Repeat(milterLine+"\r\n", m.More))
}

// Keep sets what is kept of a message with LF line ends.
func (m *MilterMessage) Keep(text string) {
	text = strings.TrimSuffix(strings.ReplaceAll(text, milterLine+"\n", ""), "\n")
	m.Stored = strings.Split(text, "\n")
}

// MilterSessions reads a file of sessions.
func MilterSessions(t testing.TB, file string) (all []*MilterSession) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// MilterFilter is the command that runs a filter on libmilter: a script, and what it
// wants to be told.
func MilterFilter(t testing.TB, script string, args ...string) *exec.Cmd {
	t.Helper()
	const python = "/usr/bin/python3" // the one that Debian's packages are for
	if err := exec.Command(python, "-c", "import Milter").Run(); err != nil {
		Lacks(t, "python3-milter is not installed")
	}
	cmd := exec.Command(python, append([]string{script}, args...)...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.WaitDelay = time.Second
	return cmd
}

// MilterEvents waits until a filter's log has the end of n sessions and returns the
// events of the last, a line each: arguments, and the macros that are new or
// another since the event before; one that is gone has a hyphen. What is another
// every time is left out.
func MilterEvents(t testing.TB, log string, n int) (events []string) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var data []byte
	for deadline := time.Now().Add(20 * time.Second); bytes.Count(data, []byte(`"event": "close"`)) < n; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("no %d sessions in the filter's log:\n%s", n, data)
		}
		data, _ = os.ReadFile(log)
	}
	last, before := 0, map[string]string{}
	for line := range bytes.Lines(data) {
		var e struct {
			Session int
			Event   string
			Args    []any
			Macros  map[string]string
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		if e.Session < last {
			continue
		}
		if e.Session > last {
			last, events, before = e.Session, nil, nil
		}
		text := e.Event
		for _, a := range e.Args {
			s := fmt.Sprint(a)
			if len(s) > 1000 {
				s = fmt.Sprintf("%d octets", len(s))
			}
			text += fmt.Sprintf(" %q", s)
		}
		for _, name := range slices.Sorted(maps.Keys(e.Macros)) {
			switch name {
			case "v", "{daemon_port}":
				delete(e.Macros, name)
				continue
			case "i":
				e.Macros[name] = "ID"
			}
			if old, ok := before[name]; !ok || old != e.Macros[name] {
				text += " " + name + "=" + e.Macros[name]
			}
		}
		for _, name := range slices.Sorted(maps.Keys(before)) {
			if _, ok := e.Macros[name]; !ok {
				text += " -" + name
			}
		}
		events, before = append(events, text), e.Macros
	}
	return events
}
