package transaction

import (
	"context"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// Injection is mail that this relay makes: a notification, or the members of a
// list.
type Injection struct {
	// Envelope has QueueID, RootID, Origin and Arrival set, so that making the
	// same mail again after a crash is the same mail.
	Envelope   mail.Envelope
	Recipients []mail.Recipient
	Report     bool // a delivery status notification
}

// Inject queues mail of this relay's own by a transaction like any other. The
// error is temporary unless every recipient was refused for good; refusals of
// some of several are logged. Mail that the queue holds already under this id
// is queued once.
func (a *Acceptor) Inject(ctx context.Context, in Injection, body []byte) error {
	t, err := a.Begin(ctx, in.Envelope, Source{Internal: true, Report: in.Report})
	if err != nil {
		return err
	}
	var last error
	for _, r := range in.Recipients {
		err := t.Rcpt(ctx, r)
		if err == nil {
			continue
		}
		if !mail.Permanent(err) {
			return err
		}
		last = err
		a.cfg.Log.Warn("recipient of our own mail refused", "queue_id", t.QueueID(), "recipient", r.Address.String(), "error", err)
	}
	if t.Recipients() == 0 {
		return last // nil when all of it is to be discarded
	}
	eightBit := in.Envelope.Body == mail.Body8BitMIME
	return replyError(t.Data(ctx, Content{Bytes: body, EightBit: eightBit}))
}

// replyError is the reply as an error, nil for 2yz.
func replyError(r *smtp.Reply) error {
	if r.OK() {
		return nil
	}
	return &mail.Error{Op: "transaction.Data", Code: r.Code, Status: r.Status, Reply: r.Text}
}

// Reenter queues a message again for what d's recipients now stand for, under
// the same root queue id. It is how large lists and held users come back to
// the door; expansion is told so by the context (see Reprocessing).
func (a *Acceptor) Reenter(ctx context.Context, d *deliver.Delivery, queueID string) error {
	env := *d.Envelope
	env.QueueID = queueID
	rcpts := make([]mail.Recipient, len(d.Recipients))
	for i, r := range d.Recipients {
		r.Channel, r.NextHop, r.Mailbox, r.Folder, r.Quota, r.Key = "", "", "", "", nil, mail.DeliveryKey{}
		rcpts[i] = r
	}
	body := d.Body[0]
	if len(d.Body) > 1 {
		body = nil
		for _, b := range d.Body {
			body = append(body, b...)
		}
	}
	in := Injection{Envelope: env, Recipients: rcpts, Report: d.Report}
	return a.Inject(context.WithValue(ctx, reprocessing{}, true), in, body)
}

type reprocessing struct{}

// Reprocessing reports whether an expansion is made for a message that comes
// back to the door: nothing may be put off again.
func Reprocessing(ctx context.Context) bool { return ctx.Value(reprocessing{}) != nil }
