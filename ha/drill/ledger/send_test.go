package ledger

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// door is an SMTP server that answers as it is told to.
type door struct {
	greeting, rcpt, final string // "" closes the connection instead

	mu       sync.Mutex
	messages []string
}

func (d *door) serve(c net.Conn) {
	defer c.Close()
	if d.greeting == "" {
		return
	}
	fmt.Fprintf(c, "%s\r\n", d.greeting)
	r := textproto.NewReader(bufio.NewReader(c))
	for {
		line, err := r.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		answer := "250 OK"
		switch verb {
		case "EHLO":
			answer = "250-here\r\n250 SIZE"
		case "RCPT":
			answer = d.rcpt
		case "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			text, err := r.ReadDotBytes()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.messages = append(d.messages, string(text))
			d.mu.Unlock()
			answer = d.final
		}
		if answer == "" {
			return
		}
		fmt.Fprintf(c, "%s\r\n", answer)
	}
}

// dialer connects to d in memory.
func (d *door) dialer(wg *sync.WaitGroup) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		a, b := net.Pipe()
		wg.Go(func() { d.serve(b) })
		return a, nil
	}
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name  string
		door  *door
		want  Outcome
		reply string
	}{
		{"250", &door{greeting: "220 hi", rcpt: "250 OK", final: "250 2.0.0 kept"}, Acknowledged, "250 2.0.0 kept"},
		{"451 after the dot", &door{greeting: "220 hi", rcpt: "250 OK", final: "451 later"}, Refused, "451 later"},
		{"closed after the dot", &door{greeting: "220 hi", rcpt: "250 OK"}, Unknown, "EOF"},
		{"no reply of SMTP after the dot", &door{greeting: "220 hi", rcpt: "250 OK", final: "maybe"}, Unknown, `no reply of SMTP: "maybe"`},
		{"refused at RCPT", &door{greeting: "220 hi", rcpt: "550 5.1.1 who?", final: "250 OK"}, Refused, "550 5.1.1 who?"},
		{"closed at RCPT", &door{greeting: "220 hi", final: "250 OK"}, Refused, "EOF"},
		{"refused at the door", &door{greeting: "421 busy"}, Refused, "421 busy"},
		{"closed at the door", &door{}, Refused, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var wg sync.WaitGroup
			defer wg.Wait()
			ld := &Load{Run: "r", Senders: 1, Doors: []Door{{"relay1", "x"}}, Recipients: []string{"a@example.org"}, Size: 300, Timeout: 5 * time.Second, Dial: c.door.dialer(&wg)}
			l := New()
			o, reply, err := ld.Probe(l, 1, "b@example.org")
			if err != nil || o != c.want || reply != c.reply {
				t.Fatalf("got %v %q %v, want %v %q", o, reply, err, c.want, c.reply)
			}
			e := l.Entries()[0]
			if e.Recipient != "b@example.org" || e.Via != "relay1" || e.Answered.Before(e.Sent) {
				t.Errorf("entry %+v", e)
			}
			ok, refused, unknown := l.Counts()
			if ok+refused+unknown != 1 || (o == Acknowledged) != (ok == 1) {
				t.Errorf("counts %d %d %d", ok, refused, unknown)
			}
			if n := l.Refusals()[c.reply]; (o == Acknowledged) == (n == 1) {
				t.Errorf("refusals %v", l.Refusals())
			}
		})
	}
}

// TestSend looks at a whole load: every message is in the ledger and at the
// door once, and is the one that Body makes.
func TestSend(t *testing.T) {
	var wg sync.WaitGroup
	defer wg.Wait()
	d := &door{greeting: "220 hi", rcpt: "250 OK", final: "250 OK"}
	ld := &Load{
		Run: "run", Senders: 3, Rate: 3000, Doors: []Door{{"relay1", "x"}, {"relay2", "y"}}, Recipients: []string{"a@example.org", "b@example.org"},
		Size: 500, Timeout: 5 * time.Second, Dial: d.dialer(&wg),
	}
	l := New()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ld.Send(ctx, l) }()
	for {
		if ok, _, _ := l.Counts(); ok >= 50 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	entries := l.Entries()
	seen := map[string]bool{}
	for _, e := range entries {
		if e.Outcome != Acknowledged || seen[e.ID] {
			t.Errorf("entry %+v", e)
		}
		seen[e.ID] = true
	}
	if len(d.messages) != len(entries) || len(l.Acks()) != len(entries) {
		t.Fatalf("%d messages at the door, %d entries, %d acknowledgements", len(d.messages), len(entries), len(l.Acks()))
	}
	for _, m := range d.messages {
		_, id, _ := strings.Cut(m, "Message-ID: <")
		id, _, _ = strings.Cut(id, ">")
		_, body, _ := strings.Cut(m, "\n\n")
		if !seen[id] || body != strings.ReplaceAll(string(Body(id, 500)), "\r\n", "\n") {
			t.Errorf("message %s is not what was entered", id)
		}
	}
}

// FuzzReply gives a sender octets in place of replies: it ends with an error or
// a reply of its class, and never waits.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"250 OK\r\n", "250-a\r\n250 b\r\n", "250\r\n", "2\r\n", "\r\n", "999 x\r\n", "250-\n250-\n", strings.Repeat("x", 5000)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &sender{r: bufio.NewReaderSize(bytes.NewReader(in), maxLine)}
		line, err := s.reply()
		if err == nil && (len(line) < 3 || line[0] < '2' || line[0] > '5') {
			t.Errorf("reply %q", line)
		}
	})
}
