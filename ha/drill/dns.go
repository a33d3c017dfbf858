package drill

import (
	"context"
	"errors"
	"fmt"
	"net/smtp"
	"strings"
	"time"
)

const (
	// outgoing is how many messages go elsewhere while DNS is away.
	outgoing = 2
	// arriveWithin is their time when it is back: a destination that could not be
	// found several times is looked for once a minute.
	arriveWithin = 90 * time.Second
)

// submit hands a message to the relay as a user's program does.
func (f *field) submit(ctx context.Context, addr, to, id string) error {
	ctx, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	nc, err := f.t.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	conf := f.t.TLS()
	c, err := smtp.NewClient(nc, conf.ServerName)
	if err != nil {
		return err
	}
	u := f.user.User
	if err := errors.Join(c.StartTLS(conf), c.Auth(smtp.PlainAuth("", u.Login, u.Password, conf.ServerName)), c.Mail(u.Address), c.Rcpt(to)); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "From: <%s>\r\nTo: <%s>\r\nMessage-ID: <%s>\r\nSubject: %s\r\n\r\na drill\r\n", u.Address, to, id, id)
	return errors.Join(err, w.Close(), c.Quit())
}

// outside is mail that is sent elsewhere while DNS is away.
type outside struct {
	f    *field
	to   Elsewhere
	sent int
}

func (o *outside) send(ctx context.Context) error {
	o.sent++
	to, _ := o.to.Elsewhere()
	if err := o.f.submit(ctx, o.to.Submission(), to, o.id(o.sent)+"@drill.test"); err != nil {
		return o.f.expect(false, "mail to elsewhere is accepted", "message %d: %v", o.sent, err)
	}
	return nil
}

func (o *outside) id(n int) string { return fmt.Sprintf("%s-out-%d", o.f.load.Run, n) }

// withoutDNS takes DNS away and has the first relay accept mail that needs it.
func (f *field) withoutDNS(ctx context.Context) (*outside, error) {
	to, ok := f.t.(Elsewhere)
	if !ok {
		return nil, errors.New("this target has no server elsewhere to send to")
	}
	o := &outside{f: f, to: to}
	// The fault is real once a relay has asked in vain, so something has to go out.
	errs := make(chan error, 1)
	go func() {
		err := f.wait(ctx, settle)
		if err == nil {
			err = o.send(ctx)
		}
		errs <- err
	}()
	err := f.act(ctx, Action{Kind: DNSOff})
	if broken := <-errs; broken != nil || err != nil {
		return nil, errors.Join(err, broken)
	}
	var broken error
	for o.sent < outgoing {
		broken = errors.Join(broken, o.send(ctx))
	}
	return o, broken
}

// waits asserts that nothing has arrived.
func (o *outside) waits() error {
	_, early := o.to.Elsewhere()
	return o.f.expect(len(early) == 0, "mail to elsewhere waits", "%d of %d messages have arrived", len(early), o.sent)
}

// arrives gives DNS back and asserts that everything arrives, once.
func (o *outside) arrives(ctx context.Context) error {
	f := o.f
	if err := f.back(ctx, Action{Kind: DNSOff}); err != nil {
		return err
	}
	var texts []string
	since := time.Now()
	f.until(ctx, arriveWithin, func() bool { _, texts = o.to.Elsewhere(); return len(texts) >= o.sent })
	once := 0
	for i := range o.sent {
		copies := 0
		for _, t := range texts {
			copies += strings.Count(t, "Message-ID: <"+o.id(i+1)+"@")
		}
		if copies == 1 {
			once++
		}
	}
	return f.expect(once == o.sent, "with DNS back, mail to elsewhere arrives once", "%d of %d messages do, %v after", once, o.sent, time.Since(since).Round(100*time.Millisecond))
}

// dnsOutage leaves the relays without DNS. Mail for our users needs none; mail
// to elsewhere waits.
func dnsOutage(ctx context.Context, f *field) error {
	from := time.Now()
	out, broken := f.withoutDNS(ctx)
	if out == nil {
		return broken
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	broken = errors.Join(broken, f.expect(n > 0, "mail for our users flows", "%d messages acknowledged without DNS", n), out.waits(), f.noBounce())
	return errors.Join(broken, out.arrives(ctx), f.awaitWell(ctx, wellWithin))
}
