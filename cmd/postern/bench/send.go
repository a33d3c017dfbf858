package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// sender is where the mail says that it comes from; the domain exists nowhere
// (RFC 2606).
var sender = mail.Address{Local: "load", Domain: "bench.test"}

// due is a message and when it was to be sent; zero is at once.
type due struct {
	n  int
	at time.Time
}

// send sends at the rate of the profile until ctx ends, and lets what is under
// way come to its end.
func (r *run) send(ctx context.Context, began time.Time) {
	work := make(chan due)
	var wg sync.WaitGroup
	for w := range r.p.Senders {
		wg.Go(func() { r.sender(ctx, w, work) })
	}
	for n := 0; ; n++ {
		d := due{n: n}
		if r.p.Deliveries > 0 {
			d.at = began.Add(time.Duration(float64(n) / r.p.Deliveries * float64(time.Second)))
			if !sleepUntil(ctx, d.at) {
				break
			}
		}
		if r.sent.Add(int64(r.p.Size)) > r.p.MaxBytes {
			r.end(errBytes)
			break
		}
		select {
		case work <- d:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(work)
	wg.Wait()
}

// sender has one connection at a time, each to the next relay.
func (r *run) sender(ctx context.Context, w int, work <-chan due) {
	var c *smtp.Client
	doors := r.t.SMTP
	opened := w
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	for d := range work {
		if d.at.IsZero() {
			d.at = time.Now()
		}
		r.deliveries.asked.Add(1)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.p.Timeout)
		var err error
		if c == nil {
			c, err = smtp.Dial(limited, doors[opened%len(doors)].Addr, smtp.ClientConfig{Hello: sender.Domain, Dial: r.t.Dial})
			if opened++; err != nil {
				c = nil
			}
		}
		if err == nil {
			err = r.deliver(limited, c, d.n)
		}
		cancel()
		r.deliveries.count(time.Since(d.at), err)
		if err == nil {
			continue
		}
		r.failed(fmt.Errorf("delivery: %w", err))
		if c != nil {
			c.Close()
			c = nil
		}
		sleepUntil(ctx, time.Now().Add(20*time.Millisecond))
	}
}

// deliver sends message n.
func (r *run) deliver(ctx context.Context, c *smtp.Client, n int) error {
	t := smtp.Transaction{Mail: smtp.MailArgs{From: sender, Size: -1}}
	for i := range r.p.Recipients {
		u := &r.t.Users[(n*r.p.Recipients+i)%len(r.t.Users)]
		to, err := mail.ParseAddress(u.Address, true)
		if err != nil {
			return err
		}
		t.Rcpts = append(t.Rcpts, smtp.RcptArgs{To: to})
	}
	t.Body = [][]byte{r.message(n, t.Rcpts[0].To)}
	res, err := c.Send(ctx, &t)
	if err != nil {
		return err
	}
	for i := range t.Rcpts {
		if reply := res.Final(i); reply == nil || !reply.OK() {
			return fmt.Errorf("answered %v", reply)
		}
	}
	if !c.Usable() {
		return errors.New("the relay closed the connection")
	}
	return nil
}

// line is one line of text.
var line = strings.Repeat("the quick brown fox jumps over the lazy dog ", 2)[:76] + "\r\n"

// message makes message n.
func (r *run) message(n int, to mail.Address) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nSubject: load %d\r\nDate: %s\r\nMessage-ID: <%s.%d@%s>\r\n\r\n",
		sender, to, n, time.Now().Format(time.RFC1123Z), r.id, n, sender.Domain)
	for b.Len()+len(line) <= r.p.Size {
		b.WriteString(line)
	}
	if rest := r.p.Size - b.Len(); rest >= 2 {
		b.WriteString(line[:rest-2] + "\r\n")
	}
	return b.Bytes()
}
