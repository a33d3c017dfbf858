package welcome

import (
	"context"
	"encoding/base32"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Pairs delivers to the pairs. lmtp.Agent is one, autoreply.Agent another.
type Pairs interface {
	deliver.Agent
	Probe(ctx context.Context, pair string) error
}

// Door takes the messages. transaction.Acceptor is one.
type Door interface {
	// Inject queues mail of our own. Mail that the queue holds already under
	// this id is queued once.
	Inject(ctx context.Context, in transaction.Injection, body []byte) error
}

// Config describes an Agent.
type Config struct {
	Pairs Pairs
	Log   *slog.Logger
	Mail  *maillog.Log
}

// Agent delivers and welcomes. Any number of goroutines may use it, once Use was
// called.
type Agent struct {
	cfg  Config
	door Door
}

var _ Pairs = (*Agent)(nil)

// New checks cfg and returns an Agent, which welcomes nobody before Use.
func New(cfg Config) (*Agent, error) {
	if cfg.Pairs == nil {
		return nil, errors.New("welcome: no agent for the pairs")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{cfg: cfg}, nil
}

// Use gives the Agent the door. The door delivers through the Agent, so it comes
// later; it is given before the first delivery.
func (a *Agent) Use(door Door) { a.door = door }

// Probe is that of the pairs.
func (a *Agent) Probe(ctx context.Context, pair string) error { return a.cfg.Pairs.Probe(ctx, pair) }

// Deliver delivers d to its pair and welcomes those of its recipients whose
// mailbox is new.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	results := a.cfg.Pairs.Deliver(ctx, d)
	for i := range results {
		if r := &d.Recipients[i]; results[i].Created != 0 && results[i].Outcome.Done() && r.Welcome != "" && a.door != nil {
			a.welcome(ctx, d, r, results[i].Created)
		}
	}
	return results
}

// injectTime bounds how long a welcome may take to be queued. The deadline of
// the delivery is not its own.
const injectTime = 10 * time.Second

// welcome queues the first message for the mailbox of r, which was made at a
// Unix time.
func (a *Agent) welcome(ctx context.Context, d *deliver.Delivery, r *mail.Recipient, created int64) {
	at := strings.LastIndexByte(r.Mailbox, '@')
	if at <= 0 {
		return
	}
	to := mail.Address{Local: r.Mailbox[:at], Domain: r.Mailbox[at+1:]}
	key := mail.WelcomeKey(r.Mailbox, created)
	id := strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(key[:]))
	date := time.Unix(created, 0)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), injectTime)
	defer cancel()
	err := a.door.Inject(ctx, transaction.Injection{
		Envelope: mail.Envelope{QueueID: id, RootID: id, Origin: d.Envelope.Origin, Arrival: date, Body: mail.Body7Bit, SMTPUTF8: !to.IsASCII()},
		Recipients: []mail.Recipient{{
			Address: to, Notify: mail.NotifyNever, Channel: mail.ChannelLMTP, NextHop: r.NextHop, Mailbox: r.Mailbox, Key: key, Quota: r.Quota,
		}},
		Final: true,
	}, compose(id, to, date, r.Welcome))
	e := maillog.Event{QueueID: d.Envelope.QueueID, TraceID: d.Envelope.RootID, Recipient: to, NullSender: true, Reply: "welcome " + id}
	if err != nil {
		e.Reply = "welcome not queued: " + mail.AsError("welcome", err).Reply
		a.cfg.Log.Warn("welcome not queued", "queue_id", d.Envelope.QueueID, "recipient", to.String(), "error", err)
	}
	a.cfg.Mail.Notified(e)
}
