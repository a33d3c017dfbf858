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

// dnsOutage leaves the relays without DNS. Mail for our users needs none; mail
// to elsewhere waits.
func dnsOutage(ctx context.Context, f *field) error {
	out, ok := f.t.(Elsewhere)
	if !ok {
		return errors.New("this target has no server elsewhere to send to")
	}
	to, _ := out.Elsewhere()
	a := Action{Kind: DNSOff}
	from, sent := time.Now(), 0
	// The fault is real once a relay has asked in vain, so something has to go out.
	send := func() error {
		sent++
		err := f.submit(ctx, out.Submission(), to, fmt.Sprintf("%s-out-%d@%s", f.load.Run, sent, "drill.test"))
		if err != nil {
			return f.expect(false, "mail to elsewhere is accepted", "message %d: %v", sent, err)
		}
		return nil
	}
	errs := make(chan error, 1)
	go func() {
		err := f.wait(ctx, settle)
		if err == nil {
			err = send()
		}
		errs <- err
	}()
	err := f.act(ctx, a)
	if broken := <-errs; broken != nil || err != nil {
		return errors.Join(err, broken)
	}
	var broken error
	for sent < outgoing {
		broken = errors.Join(broken, send())
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	_, early := out.Elsewhere()
	broken = errors.Join(broken,
		f.expect(n > 0, "mail for our users flows", "%d messages acknowledged without DNS", n),
		f.expect(len(early) == 0, "mail to elsewhere waits", "%d of %d messages have arrived", len(early), sent),
		f.noBounce())
	if err := f.back(ctx, a); err != nil {
		return errors.Join(broken, err)
	}
	var texts []string
	since := time.Now()
	f.until(ctx, arriveWithin, func() bool { _, texts = out.Elsewhere(); return len(texts) >= sent })
	once := 0
	for i := range sent {
		id := fmt.Sprintf("Message-ID: <%s-out-%d@", f.load.Run, i+1)
		copies := 0
		for _, t := range texts {
			copies += strings.Count(t, id)
		}
		if copies == 1 {
			once++
		}
	}
	return errors.Join(broken,
		f.expect(once == sent, "with DNS back, mail to elsewhere arrives once", "%d of %d messages do, %v after", once, sent, time.Since(since).Round(100*time.Millisecond)),
		f.awaitWell(ctx, wellWithin))
}
