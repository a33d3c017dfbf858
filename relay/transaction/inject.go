package transaction

import (
	"context"
	"fmt"
	"slices"

	"github.com/postern-mail/postern/relay/queue"
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
	// Parent is the recipient of the queue that the mail comes of, which is in
	// the queue until it has been told what Inject returns. The mail waits there
	// until that is done, so that it is not made again when it has left. Zero
	// where nothing in the queue leads to the mail, or its recipients themselves
	// see to it that it comes once.
	Parent queue.Parent
	Client string // who gave us what the mail comes of, as the log names it; "" is this relay
	// Final says that Recipients are what expansion left: nobody is looked up.
	Final bool
}

// Inject queues mail of this relay's own by a transaction like any other. The
// error is temporary unless every recipient was refused for good; refusals of
// some of several are logged. Mail that the queue holds already under this id
// is queued once.
func (a *Acceptor) Inject(ctx context.Context, in Injection, body []byte) error {
	t, err := a.Begin(ctx, in.Envelope, Source{Internal: true, Report: in.Report, Parent: in.Parent, From: in.Client})
	if err != nil {
		return err
	}
	var last error
	if in.Final {
		if len(in.Recipients) > t.cfg.MaxRecipients {
			return fmt.Errorf("transaction %s: %d recipients", t.env.QueueID, len(in.Recipients))
		}
		t.rcpts = slices.Grow(t.rcpts, len(in.Recipients))
		for i := range in.Recipients {
			t.add(&in.Recipients[i], &in.Recipients[i])
		}
		in.Recipients = nil
	}
	for _, r := range in.Recipients {
		err := t.Rcpt(ctx, r)
		if err == nil {
			continue
		}
		if !mail.Permanent(err) {
			return err
		}
		last = err
		t.cfg.Log.Warn("recipient of our own mail refused", "queue_id", t.QueueID(), "recipient", r.Address.String(), "error", err)
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
