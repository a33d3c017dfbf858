package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Door is an SMTP listener of a relay.
type Door struct{ Name, Addr string }

// Load is a set of senders.
type Load struct {
	Run        string // begins every Message-ID
	Senders    int
	Rate       int // messages per second over all senders; 0 is as fast as they are answered
	Doors      []Door
	Recipients []string
	Size       int           // octets of a message, about
	Timeout    time.Duration // of one answer
	Dial       func(ctx context.Context, addr string) (net.Conn, error)
}

const (
	// afterRefusal is the pause of a sender that was refused.
	afterRefusal = 20 * time.Millisecond
	// lasts is the age at which a sender ends its connection after a message, so
	// that a relay that takes no new ones is rid of it.
	lasts = time.Second
	// domain is where the load says that it comes from; it exists nowhere
	// (RFC 2606).
	domain = "drill.test"
	// Sender is the reverse path of every message.
	Sender = "load@" + domain
	// maxLine bounds a line of a reply.
	maxLine = 4096
)

// Send sends until ctx ends, writing every outcome into l. A message under way
// then is finished within Timeout. It returns ErrFull when the ledger is.
func (ld *Load) Send(ctx context.Context, l *Ledger) error {
	var seq atomic.Int64
	var full atomic.Bool
	var wg sync.WaitGroup
	interval := time.Duration(0)
	if ld.Rate > 0 {
		interval = time.Duration(ld.Senders) * time.Second / time.Duration(ld.Rate)
	}
	for w := range ld.Senders {
		wg.Go(func() {
			s := &sender{load: ld, turn: w}
			defer s.close()
			next := time.Now().Add(interval * time.Duration(w) / time.Duration(ld.Senders))
			for sleepUntil(ctx, next) && !full.Load() {
				next = time.Now().Add(interval)
				k := int(seq.Add(1))
				ok, err := s.one(l, w, k)
				if err != nil {
					full.Store(true)
					return
				}
				if !ok {
					next = later(next, time.Now().Add(afterRefusal))
				}
			}
		})
	}
	wg.Wait()
	if full.Load() {
		return ErrFull
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// sender is one connection at a time, each to the next relay: also after one that
// refused, as a mail server goes on to the next MX.
type sender struct {
	load  *Load
	turn  int // of the relays
	door  Door
	c     net.Conn
	r     *bufio.Reader
	since time.Time // of the connection
}

func (s *sender) close() {
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// one sends message k and reports whether it was acknowledged.
func (s *sender) one(l *Ledger, worker, k int) (bool, error) {
	ld := s.load
	e := Entry{
		ID: fmt.Sprintf("%s.%d.%d@%s", ld.Run, worker, k, domain), Recipient: ld.Recipients[k%len(ld.Recipients)], Sent: time.Now(),
	}
	n, err := l.Begin(e)
	if err != nil {
		return false, err
	}
	if s.c == nil {
		s.door = ld.Doors[s.turn%len(ld.Doors)]
		s.turn++
		if err := s.dial(); err != nil {
			l.End(n, s.door.Name, Refused, plain(err), time.Now())
			return false, nil
		}
	}
	o, reply, err := s.send(e.ID, e.Recipient)
	l.End(n, s.door.Name, o, reply, time.Now())
	if err == nil && time.Since(s.since) > lasts {
		fmt.Fprint(s.c, "QUIT\r\n") // its answer changes nothing
		err = net.ErrClosed
	}
	if err != nil {
		s.close()
	}
	return o == Acknowledged, nil
}

// Probe sends one message outside a Load, for a recipient of the caller's.
func (ld *Load) Probe(l *Ledger, k int, to string) (Outcome, string, error) {
	one := *ld
	one.Recipients = []string{to}
	s := &sender{load: &one, turn: ld.Senders + k}
	defer s.close()
	if _, err := s.one(l, ld.Senders, k); err != nil {
		return Unknown, "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id := fmt.Sprintf("%s.%d.%d@%s", ld.Run, ld.Senders, k, domain)
	for i := len(l.entries) - 1; i >= 0; i-- {
		if l.entries[i].ID == id {
			return l.entries[i].Outcome, l.entries[i].Reply, nil
		}
	}
	return Unknown, "", errors.New("the message is not in the ledger")
}

// plain is an error without the ports of this side, so that equal causes count
// as one.
func plain(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		if op.Timeout() {
			return op.Op + ": no answer in time"
		}
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

func (s *sender) dial() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.load.Timeout)
	defer cancel()
	c, err := s.load.Dial(ctx, s.door.Addr)
	if err != nil {
		return err
	}
	s.c, s.r, s.since = c, bufio.NewReaderSize(c, maxLine), time.Now()
	_ = c.SetDeadline(time.Now().Add(s.load.Timeout)) // a connection that cannot have one fails when used
	line, err := s.reply()
	if err == nil && line[0] == '2' {
		fmt.Fprintf(c, "EHLO %s\r\n", domain)
		line, err = s.reply()
	}
	if err == nil && line[0] != '2' {
		err = errors.New(line)
	}
	if err != nil {
		s.close()
	}
	return err
}

// maxLines bounds the lines of one reply.
const maxLines = 100

func (s *sender) reply() (string, error) {
	for range maxLines {
		b, err := s.r.ReadSlice('\n')
		if err != nil {
			return "", err
		}
		line := strings.TrimRight(string(b), "\r\n")
		if len(line) < 3 || line[0] < '2' || line[0] > '5' {
			return "", fmt.Errorf("no reply of SMTP: %q", line)
		}
		if len(line) == 3 || line[3] != '-' {
			return line, nil
		}
	}
	return "", errors.New("a reply without an end")
}

// send returns an error when the connection cannot be used again.
func (s *sender) send(id, rcpt string) (Outcome, string, error) {
	_ = s.c.SetDeadline(time.Now().Add(s.load.Timeout))
	for _, cmd := range []string{"MAIL FROM:<" + Sender + ">", "RCPT TO:<" + rcpt + ">", "DATA"} {
		fmt.Fprintf(s.c, "%s\r\n", cmd)
		line, err := s.reply()
		if err != nil {
			return Refused, plain(err), err
		}
		if line[0] != '2' && line[0] != '3' {
			return Refused, line, errors.New(line)
		}
	}
	if _, err := s.c.Write(Message(id, rcpt, s.load.Size)); err != nil {
		return Unknown, plain(err), err // all of it may have left this host
	}
	line, err := s.reply()
	switch {
	case err != nil:
		return Unknown, plain(err), err
	case line[0] != '2':
		return Refused, line, nil
	}
	return Acknowledged, line, nil
}

// Body is the text of the message id, of about size octets. It can be made
// again from the id, so that a reader can tell whether it is whole.
func Body(id string, size int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%06d %s is entered once and read once\r\n", i, id)
	}
	return b.Bytes()
}

// Message is the message id with its final dot.
func Message(id, rcpt string, size int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Drill <%s>\r\nTo: <%s>\r\nSubject: drill %s\r\nDate: %s\r\nMessage-ID: <%s>\r\n\r\n",
		Sender, rcpt, id, time.Now().Format(time.RFC1123Z), id)
	b.Write(Body(id, size))
	b.WriteString(".\r\n")
	return b.Bytes()
}
