package cluster

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is what a sender knows of one message.
type Outcome int

// A sender never tries again, so an unknown message may be there once or not
// at all.
const (
	Unknown Outcome = iota // no final answer arrived after the dot was sent
	Acknowledged
	Refused // an answer other than 2yz, or the dot was never sent
)

// Ledger is the record, outside the system under test, of what every sender
// was told.
type Ledger struct {
	mu      sync.Mutex
	entries map[string]*Entry // by Message-ID
	acks    []time.Time
	refused map[string]int
}

// Entry is one message for one recipient.
type Entry struct {
	ID        string
	Recipient string
	Outcome   Outcome
	Reply     string
	Sent      time.Time
	Answered  time.Time
}

// NewLedger returns an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{entries: map[string]*Entry{}, refused: map[string]int{}}
}

// Entries returns a copy of every entry.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Entry, 0, len(l.entries))
	for _, e := range l.entries {
		out = append(out, *e)
	}
	return out
}

// Counts returns how many messages had each outcome.
func (l *Ledger) Counts() (ok, refused, unknown int) {
	for _, e := range l.Entries() {
		switch e.Outcome {
		case Acknowledged:
			ok++
		case Refused:
			refused++
		default:
			unknown++
		}
	}
	return ok, refused, unknown
}

// LongestGap is the longest time between two acknowledgements.
func (l *Ledger) LongestGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var gap time.Duration
	for i := 1; i < len(l.acks); i++ {
		gap = max(gap, l.acks[i].Sub(l.acks[i-1]))
	}
	return gap
}

// FirstAckAfter is the time of the first acknowledgement of a message that was
// sent after at.
func (l *Ledger) FirstAckAfter(at time.Time) (time.Time, bool) {
	var first time.Time
	for _, e := range l.Entries() {
		if e.Outcome == Acknowledged && e.Sent.After(at) && (first.IsZero() || e.Answered.Before(first)) {
			first = e.Answered
		}
	}
	return first, !first.IsZero()
}

func (l *Ledger) put(e *Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[e.ID] = e
	if e.Outcome == Acknowledged {
		l.acks = append(l.acks, e.Answered)
	}
}

// Load is a set of senders.
type Load struct {
	Senders    int
	Addrs      func() []string // SMTP or LMTP addresses to choose from
	LMTP       bool
	Recipients []string
	Size       int // octets of a message; at least 300
	Pause      time.Duration
	OneShot    bool // a new connection for each message
	Messages   int  // of all senders together, then they end; 0: until they are told to
	Timeout    time.Duration
}

// Run sends until stop is closed or Messages are sent, writing every outcome
// into l.
func (ld Load) Run(l *Ledger, stop <-chan struct{}) {
	if ld.Timeout == 0 {
		ld.Timeout = 20 * time.Second
	}
	run := fmt.Sprintf("%d", time.Now().UnixNano())
	var seq atomic.Int64
	var wg sync.WaitGroup
	for w := range ld.Senders {
		wg.Go(func() {
			var s *sender
			defer func() {
				if s != nil {
					s.c.Close()
				}
			}()
			for {
				select {
				case <-stop:
					return
				case <-time.After(ld.Pause):
				}
				k := seq.Add(1)
				if ld.Messages > 0 && k > int64(ld.Messages) {
					return
				}
				e := &Entry{ID: fmt.Sprintf("%s.%d.%d@ledger.test", run, w, k), Recipient: ld.Recipients[int(k)%len(ld.Recipients)], Sent: time.Now()}
				var err error
				if s == nil {
					addrs := ld.Addrs()
					s, err = dialSender(addrs[(w+int(k))%len(addrs)], ld.LMTP, ld.Timeout)
				}
				if err != nil {
					e.Outcome, e.Reply = Refused, err.Error()
					s = nil
				} else {
					e.Outcome, e.Reply, err = s.send(e.ID, e.Recipient, ld.Size, ld.Timeout)
					if err != nil || ld.OneShot {
						s.c.Close()
						s = nil
					}
				}
				e.Answered = time.Now()
				l.put(e)
				if e.Outcome != Acknowledged {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

// sender is a client with as little cleverness as possible: no pipelining, no
// retry, no code shared with the system under test.
type sender struct {
	c net.Conn
	r *bufio.Reader
}

func dialSender(addr string, lmtp bool, timeout time.Duration) (*sender, error) {
	c, err := net.DialTimeout("tcp", addr, timeout)
	if err != nil {
		return nil, err
	}
	s := &sender{c, bufio.NewReader(c)}
	c.SetDeadline(time.Now().Add(timeout))
	hello := "EHLO"
	if lmtp {
		hello = "LHLO"
	}
	if _, err = s.reply(); err == nil {
		fmt.Fprintf(c, "%s ledger.test\r\n", hello)
		var line string
		if line, err = s.reply(); err == nil && line[0] != '2' {
			err = fmt.Errorf("%s", line)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

func (s *sender) reply() (string, error) {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if len(line) < 4 {
			return "", fmt.Errorf("short reply %q", line)
		}
		if line[3] != '-' {
			return strings.TrimSpace(line), nil
		}
	}
}

// send returns err when the connection cannot be used again.
func (s *sender) send(id, rcpt string, size int, timeout time.Duration) (Outcome, string, error) {
	s.c.SetDeadline(time.Now().Add(timeout))
	for _, cmd := range []string{"MAIL FROM:<load@ledger.test>", "RCPT TO:<" + rcpt + ">", "DATA"} {
		fmt.Fprintf(s.c, "%s\r\n", cmd)
		line, err := s.reply()
		if err != nil {
			return Refused, err.Error(), err
		}
		if line[0] != '2' && line[0] != '3' {
			return Refused, line, fmt.Errorf("%s", line)
		}
	}
	if _, err := s.c.Write(Message(id, rcpt, size)); err != nil {
		return Unknown, err.Error(), err // part of it may have arrived, the dot with it
	}
	line, err := s.reply()
	if err != nil {
		return Unknown, err.Error(), err
	}
	if line[0] != '2' {
		return Refused, line, nil
	}
	return Acknowledged, line, nil
}

// Message makes a message of about size octets with its final dot.
func Message(id, rcpt string, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Ledger <load@ledger.test>\r\nTo: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s>\r\n\r\n",
		rcpt, id, time.Now().Format(time.RFC1123Z), id)
	line := strings.Repeat("all work is entered twice or not at all ", 2)[:72] + "\r\n"
	for b.Len() < size {
		b.WriteString(line)
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}
