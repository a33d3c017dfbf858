package autoreply

import (
	"context"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Gate is an agent of another channel, by which answers leave too: each is
// claimed first. It passes everything else on.
func (a *Agent) Gate(next deliver.Agent) deliver.Agent { return gate{a, next} }

type gate struct {
	a    *Agent
	next deliver.Agent
}

func (g gate) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	if settled := g.a.claim(ctx, d); settled != nil {
		return settled
	}
	return g.next.Deliver(ctx, d)
}

// claimTime bounds how long an answer waits for its pair in one attempt: it is in
// the way of mail to where it goes.
const claimTime = 10 * time.Second

// claim asks the pair for an answer that is about to leave, at each attempt, so
// that nothing about it need be kept here. It returns nil for an answer that may
// go, and for other mail.
func (a *Agent) claim(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	c := d.Envelope.Claim
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	r := a.cfg.Pairs.Claim(ctx, d.Envelope, c)
	switch {
	case !r.Outcome.Done():
		// The pair that remembers does not answer; the destination was not asked.
		res := deliver.Defer(mail.StatusNoAnswer, "Not known whether this answer may be sent: "+r.Text, r.Err)
		res.Relay, res.NotAsked, res.Busy = r.Relay, true, true
		return deliver.All(d, res)
	case r.Answer:
		return nil
	}
	a.cfg.Mail.Notified(maillog.Event{
		QueueID: d.Envelope.QueueID, TraceID: d.Envelope.RootID, NullSender: true, Relay: r.Relay,
		Reply: "autoreply not sent: its sender has another",
	})
	return deliver.All(d, deliver.Result{
		Outcome: deliver.Delivered, Status: mail.StatusOK, Relay: r.Relay, Text: "Not sent: its sender has another answer", NotAsked: true,
	})
}
