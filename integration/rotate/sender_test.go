package rotate

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/textproto"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
)

// sender is a mail server elsewhere: it sends some messages over each connection,
// and one that a relay does not take now, before its final dot, goes to the next
// relay. What no relay takes is a failed delivery.
type sender struct {
	doors      []ledger.Door
	recipients []string
	every      time.Duration

	door int
	c    net.Conn
	text *textproto.Reader
	left int // messages for this connection
	n    int // sent
}

const answerWithin = 20 * time.Second

// run sends until ctx ends.
func (s *sender) run(ctx context.Context, t *testing.T, book *ledger.Ledger, worker int) {
	defer s.hangUp()
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	s.door = worker
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.n++
		e := ledger.Entry{
			ID:        fmt.Sprintf("%s.%d.%d@drill.test", runName, worker, s.n),
			Recipient: s.recipients[(s.n*senders+worker)%len(s.recipients)], Sent: time.Now(),
		}
		n, err := book.Begin(e)
		if err != nil {
			t.Error(err)
			return
		}
		o, reply := s.anywhere(e.ID, e.Recipient)
		book.End(n, s.at().Name, o, reply, time.Now())
	}
}

func (s *sender) at() ledger.Door { return s.doors[s.door%len(s.doors)] }

func (s *sender) hangUp() {
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// anywhere tries every relay once, and the first one on a new connection too.
func (s *sender) anywhere(id, rcpt string) (o ledger.Outcome, reply string) {
	for range len(s.doors) + 1 {
		var dotted bool
		if o, reply, dotted = s.send(id, rcpt); o == ledger.Acknowledged || dotted {
			return o, reply
		}
		s.hangUp()
		s.door++
	}
	return o, reply
}

// command sends a line and reads the answer.
func (s *sender) command(want int, format string, args ...any) error {
	_ = s.c.SetDeadline(time.Now().Add(answerWithin))
	if format != "" {
		if _, err := fmt.Fprintf(s.c, format+"\r\n", args...); err != nil {
			return err
		}
	}
	_, _, err := s.text.ReadResponse(want)
	return err
}

func (s *sender) connect() error {
	if s.c != nil && s.left > 0 {
		return nil
	}
	if s.c != nil {
		_ = s.command(2, "QUIT")
		s.hangUp()
		s.door++
	}
	c, err := net.DialTimeout("tcp", s.at().Addr, answerWithin)
	if err != nil {
		return err
	}
	s.c, s.text, s.left = c, textproto.NewReader(bufio.NewReader(c)), 10
	if err := s.command(2, ""); err != nil {
		return err
	}
	return s.command(2, "EHLO drill.test")
}

// send reports also whether the final dot was sent: from then on only the answer
// decides.
func (s *sender) send(id, rcpt string) (o ledger.Outcome, reply string, dotted bool) {
	err := s.connect()
	for _, line := range []string{"MAIL FROM:<" + ledger.Sender + ">", "RCPT TO:<" + rcpt + ">"} {
		if err == nil {
			err = s.command(2, "%s", line)
		}
	}
	if err == nil {
		err = s.command(3, "DATA")
	}
	if err != nil {
		return ledger.Refused, err.Error(), false
	}
	s.left--
	if _, err := s.c.Write(ledger.Message(id, rcpt, bodySize)); err != nil {
		s.hangUp()
		return ledger.Unknown, err.Error(), true
	}
	switch err := s.command(2, "").(type) {
	case nil:
		return ledger.Acknowledged, "", true
	case *textproto.Error:
		s.hangUp()
		return ledger.Refused, err.Error(), true
	default:
		s.hangUp()
		return ledger.Unknown, err.Error(), true
	}
}
