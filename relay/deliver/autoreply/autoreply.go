package autoreply

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Pairs delivers to the pairs and asks their memory. lmtp.Agent is one.
type Pairs interface {
	deliver.Agent
	Probe(ctx context.Context, pair string) error
	// Claim asks for the answer in env before it is sent, see lmtp.Agent.
	Claim(ctx context.Context, env *mail.Envelope, c *mail.AutoreplyClaim) deliver.Result
}

// Door takes the answers. transaction.Acceptor is one.
type Door interface {
	// Inject queues mail of our own. Mail that the queue holds already under
	// this id is queued once. An error that is mail.Permanent means that the
	// recipient is refused for good.
	Inject(ctx context.Context, in transaction.Injection, body []byte) error
}

// Rules are what may change while an Agent is used.
type Rules struct {
	MaxContent int64    // octets of a message that an echo returns whole, else its header (default 256 KiB)
	PerHour    int      // answers for one person, and to one sender, in an hour (default 100)
	Spam       []string // fields that say yes of spam (default X-Spam, X-Spam-Flag, X-Spam-Status)
}

// Config describes an Agent.
type Config struct {
	Pairs Pairs
	Rules

	Log  *slog.Logger
	Mail *maillog.Log
	Now  func() time.Time
}

// Agent delivers and answers. Any number of goroutines may use it, once Use was
// called.
type Agent struct {
	cfg   Config // but for what is in rules
	rules atomic.Pointer[Rules]
	door  Door
	limit limit
}

var _ deliver.Agent = (*Agent)(nil)

// New checks cfg and returns an Agent, which answers nothing before Use.
func New(cfg Config) (*Agent, error) {
	if cfg.Pairs == nil {
		return nil, errors.New("autoreply: no agent for the pairs")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Agent{cfg: cfg, limit: limit{now: cfg.Now}}
	a.SetRules(cfg.Rules)
	return a, nil
}

// SetRules makes r hold for what is delivered from now on.
func (a *Agent) SetRules(r Rules) {
	if r.MaxContent <= 0 {
		r.MaxContent = 256 << 10
	}
	if r.PerHour <= 0 {
		r.PerHour = 100
	}
	if r.Spam == nil {
		r.Spam = []string{"X-Spam", "X-Spam-Flag", "X-Spam-Status"}
	}
	a.rules.Store(&r)
	a.limit.set(r.PerHour)
}

// Use gives the Agent the door for its answers. The door delivers through the
// Agent, so it comes later; it is given before the first delivery.
func (a *Agent) Use(door Door) { a.door = door }

// Probe is that of the pairs.
func (a *Agent) Probe(ctx context.Context, pair string) error { return a.cfg.Pairs.Probe(ctx, pair) }

// Deliver delivers d to its pair and answers for those of its recipients whose
// pair says so.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	if settled := a.claim(ctx, d); settled != nil {
		return settled
	}
	if !slices.ContainsFunc(d.Recipients, func(r mail.Recipient) bool { return r.Autoreply != nil }) {
		return a.cfg.Pairs.Deliver(ctx, d)
	}
	p := a.plan(d)
	results := make([]deliver.Result, len(d.Recipients))
	for i := range results {
		results[i] = unstored
	}
	if len(p.sub.Recipients) > 0 {
		for n, res := range a.cfg.Pairs.Deliver(ctx, &p.sub) {
			results[p.index[n]] = res
		}
	}
	for _, i := range p.asked {
		r := &d.Recipients[i]
		if results[i].Answer && results[i].Outcome.Done() {
			a.answer(ctx, d, r, p.header)
		} else {
			a.limit.release(d.Envelope.ReversePath, r)
		}
	}
	return results
}

// unstored is the result of mail that is only to be answered and may not be.
var unstored = deliver.Result{
	Outcome: deliver.Delivered, Status: mail.StatusOK, Text: "Accepted and not stored, not answered",
}

// plan is what is asked of the pair.
type plan struct {
	sub    deliver.Delivery // what goes to the pair
	index  []int            // place in the whole of each recipient of sub
	asked  []int            // places of those whose pair is asked
	header []byte
}

// plan takes the question away from recipients who may not be answered, and
// out those who then have no use for the message.
func (a *Agent) plan(d *deliver.Delivery) plan {
	p := plan{sub: *d}
	p.sub.Recipients = make([]mail.Recipient, 0, len(d.Recipients))
	header, whole := headerOf(d.Body)
	p.header = header
	why := "header too long"
	if whole {
		why = a.refusal(d, header)
	}
	named := addressees(header)
	for i := range d.Recipients {
		r := d.Recipients[i]
		if r.Autoreply != nil {
			no := why
			if no == "" {
				no = personal(&r, d.Envelope.ReversePath, named)
			}
			if no == "" && !a.limit.reserve(d.Envelope.ReversePath, &r) {
				no = "too many answers in an hour"
			}
			if no == "" {
				p.asked = append(p.asked, i)
			} else {
				a.cfg.Log.Debug("not answered", "queue_id", d.Envelope.QueueID, "recipient", r.Address.String(), "reason", no)
				if r.Autoreply.Only {
					continue
				}
				r.Autoreply = nil
			}
		}
		p.sub.Recipients = append(p.sub.Recipients, r)
		p.index = append(p.index, i)
	}
	return p
}

// injectTime bounds how long an answer may take to be queued. The deadline of
// the delivery is not its own: the decision has been made.
const injectTime = 10 * time.Second

// answer queues the answer to d for r.
func (a *Agent) answer(ctx context.Context, d *deliver.Delivery, r *mail.Recipient, header []byte) {
	id := answerID(d.Envelope, r)
	if a.door == nil {
		return
	}
	q := r.Autoreply.Query(d.Envelope)
	m := a.compose(id, d, r, header)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), injectTime)
	defer cancel()
	err := a.door.Inject(ctx, transaction.Injection{
		Envelope: mail.Envelope{
			QueueID: id, RootID: id, Origin: d.Envelope.Origin, Arrival: a.cfg.Now(), Body: m.body, SMTPUTF8: m.utf8,
			Claim: &mail.AutoreplyClaim{Pair: r.NextHop, Mailbox: mailboxOf(r), Hash: q.Hash, Period: q.Period},
		},
		Recipients: []mail.Recipient{{Address: d.Envelope.ReversePath, Notify: mail.NotifyNever}},
	}, m.bytes)
	e := maillog.Event{
		QueueID: d.Envelope.QueueID, TraceID: d.Envelope.RootID, ReversePath: d.Envelope.ReversePath,
		Recipient: r.Address, Reply: "autoreply " + id,
	}
	if err != nil {
		e.Reply = "autoreply not queued: " + mail.AsError("autoreply", err).Reply
		a.cfg.Log.Warn("autoreply not queued", "queue_id", d.Envelope.QueueID, "recipient", r.Address.String(), "error", err)
	}
	a.cfg.Mail.Notified(e)
}

// answerID is the queue id of the answer to a message by one of its recipients.
func answerID(env *mail.Envelope, r *mail.Recipient) string {
	h := sha256.New()
	for _, s := range [...]string{"autoreply", env.Origin, env.RootID, mailboxOf(r)} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}

func mailboxOf(r *mail.Recipient) string {
	if r.Mailbox == "" {
		return r.Address.Key()
	}
	return strings.ToLower(r.Mailbox)
}
