package transaction

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/smtp"
)

// Source is who gives us a message.
type Source struct {
	Client    netip.AddrPort // zero for mail that this relay makes
	Local     netip.AddrPort // where it connected to
	Service   string         // that took the connection
	Helo      string
	Protocol  string               // the with clause of Received: ESMTPS, ...
	TLS       *tls.ConnectionState // nil in the clear
	AuthUser  string
	AuthType  string // SASL mechanism of the login
	MayRelay  bool   // may send to other domains
	Submitted bool   // by submission: first hop of this message

	// Internal marks mail made by this relay: bounces and reprocessing. It is
	// always queued and gets no Received field, so that making it again after
	// a crash gives the same octets under the same keys.
	Internal bool
	// Report marks a delivery status notification.
	Report bool
	// Parent is what Internal mail was made of, and From who gave us that, as
	// name says it.
	Parent queue.Parent
	From   string

	// Filters follow the session that the message comes by, and have been told
	// of nothing in it but the client. They are asked in this order.
	Filters []Follower
}

// name is the source for logs: its name and address.
func (s *Source) name() string {
	if !s.Client.IsValid() {
		return s.From
	}
	if s.Helo == "" {
		return "[" + s.Client.Addr().String() + "]"
	}
	return s.Helo + "[" + s.Client.Addr().String() + "]"
}

// Transaction is one mail transaction, from MAIL to the final reply. It is used
// by one goroutine.
type Transaction struct {
	a      *Acceptor
	cfg    *Config
	src    Source
	env    mail.Envelope
	rcpts  []mail.Recipient
	seen   map[mail.DeliveryKey]int // places in rcpts, nil while rcpts are few
	graded bool                     // limits are known
	limits expand.Submission        // of the sender
	named  int                      // RCPTs of one who has limits
	asked  bool                     // who else gets a copy of what the sender sends
	given  []given                  // while there are filters: which RCPT led to which recipient
}

// Begin begins a transaction. The queue id, root id, origin and arrival of env
// are set here where they are not given; only Internal sources give them. The
// error is the reply to MAIL.
func (a *Acceptor) Begin(ctx context.Context, env mail.Envelope, src Source) (*Transaction, error) {
	cfg := a.cfg.Load()
	t := &Transaction{a: a, cfg: cfg, src: src, env: env}
	if !src.Internal || t.env.QueueID == "" {
		t.env.QueueID = mail.NewQueueID()
	}
	if !src.Internal || t.env.RootID == "" {
		t.env.RootID, t.env.Origin = t.env.QueueID, cfg.Origin
	}
	if !src.Internal || t.env.Arrival.IsZero() {
		t.env.Arrival = cfg.Now()
	}
	if !src.Internal {
		t.env.AuthUser, t.env.Guaranteed = src.AuthUser, false
	}
	t.env.Recipients = nil
	for _, f := range src.Filters {
		if err := f.Session.Mail(ctx, src.client(), t.mail()); err != nil {
			return nil, fmt.Errorf("filter %s: %w", f.Name, err)
		}
	}
	t.reverse(ctx)
	return t, nil
}

// mail is the MAIL command as filters hear of it.
func (t *Transaction) mail() *policy.Mail {
	return &policy.Mail{From: t.env.ReversePath, Size: t.env.Size, Body: t.env.Body, SMTPUTF8: t.env.SMTPUTF8, QueueID: t.env.QueueID}
}

// QueueID is the id of the message that this transaction makes.
func (t *Transaction) QueueID() string { return t.env.QueueID }

// Recipients counts the final recipients so far, each once.
func (t *Transaction) Recipients() int { return len(t.rcpts) }

// relayDenied is the answer to strangers who name a domain that is not ours.
func relayDenied(to mail.Address) error {
	return &mail.Error{Op: "transaction.Rcpt", Rcpt: to, Code: 554, Status: mail.StatusRefused, Reply: "Relay access denied"}
}

// Rcpt adds a recipient as the client gave it: it is expanded, and final
// recipients that the transaction has already are left out: whoever wanted to be
// told of them is (Notify.Merge). The error is the
// reply; it concerns this recipient only.
func (t *Transaction) Rcpt(ctx context.Context, r mail.Recipient) error {
	if err := t.grade(ctx); err != nil {
		return fmt.Errorf("transaction %s: %w", t.env.QueueID, err)
	}
	final, err := t.final(ctx, &r)
	if err != nil {
		return err
	}
	if !t.src.MayRelay && !t.src.Internal {
		for i := range final {
			// A forward of one of our users may lead outside, a stranger may not.
			if final[i].Channel == mail.ChannelSMTP && len(final[i].Via) == 0 {
				return relayDenied(r.Address)
			}
		}
	}
	if len(t.rcpts)+len(final) > t.cfg.MaxRecipients {
		return replyTooMany
	}
	for _, f := range t.src.Filters {
		if err := f.Session.Rcpt(ctx, r.Address); err != nil {
			return fmt.Errorf("filter %s: %w", f.Name, err)
		}
	}
	if err := t.copies(ctx); err != nil {
		return fmt.Errorf("transaction %s: %w", t.env.QueueID, err)
	}
	for i := range final {
		t.add(&final[i], &r)
	}
	return nil
}

// replyTooMany is the answer when there is no room for more recipients.
var replyTooMany = &smtp.Reply{Code: 452, Status: mail.StatusTooManyRcpt, Text: "Too many recipients"}

// final looks r up, whose domain is completed.
func (t *Transaction) final(ctx context.Context, r *mail.Recipient) ([]mail.Recipient, error) {
	final, err := t.cfg.Final(ctx, &t.env, r, t.src.Report)
	if err != nil {
		return nil, fmt.Errorf("transaction %s: %w", t.env.QueueID, err)
	}
	return final, nil
}

// Final is where mail for r goes, whose domain it completes. report says that it
// is a report of our own, which nobody needs who is not there.
func (c *Config) Final(ctx context.Context, env *mail.Envelope, r *mail.Recipient, report bool) ([]mail.Recipient, error) {
	if r.Address.Domain == "" { // RFC 5321 4.5.1: <postmaster>
		r.Address.Domain = c.Domain
	}
	final, err := c.Expander.Rcpt(ctx, env, *r)
	if err != nil && !report {
		return c.postmaster(ctx, env, *r, err)
	}
	return final, err
}

// grade finds out, once, what holds for all that the sender submits.
func (t *Transaction) grade(ctx context.Context) (err error) {
	if t.cfg.Submission == nil || t.src.Internal || t.env.AuthUser == "" {
		return nil
	}
	if !t.graded {
		if t.limits, err = t.cfg.Submission(ctx, t.env.AuthUser); err != nil {
			return err
		}
		t.env.Guaranteed, t.graded = t.limits.Guaranteed, true
	}
	if t.named++; t.limits.Recipients > 0 && t.named > t.limits.Recipients {
		return &mail.Error{Op: "transaction.Rcpt", Code: 452, Status: mail.StatusTooManyRcpt, Reply: "Too many recipients for this user"}
	}
	return t.limits.Admits(t.env.Size)
}

// copies adds, once, who gets a copy of all that the sender sends.
func (t *Transaction) copies(ctx context.Context) error {
	if t.cfg.Copies == nil || t.asked || t.src.Internal || t.env.ReversePath.IsNull() {
		return nil
	}
	more, err := t.cfg.Copies(ctx, &t.env)
	if err != nil {
		return err
	}
	t.asked = true
	for i := range more {
		t.add(&more[i], &more[i])
	}
	return nil
}

// postmaster answers for a postmaster address of ours that the directory does
// not know: RFC 5321 4.5.1 wants it accepted.
func (c *Config) postmaster(ctx context.Context, env *mail.Envelope, r mail.Recipient, why error) ([]mail.Recipient, error) {
	if !r.Address.IsPostmaster() || !mail.Permanent(why) {
		return nil, why
	}
	var e *mail.Error
	if errors.As(why, &e) && e.Status == mail.StatusRefused {
		return nil, why // not ours to answer for
	}
	via := []string{r.Address.String()}
	if p := c.Postmaster; !p.IsNull() && p.Key() != r.Address.Key() {
		given := r
		given.Address = p
		final, err := c.Expander.Rcpt(ctx, env, given)
		if err == nil {
			for i := range final {
				final[i].Via = append(via[:1:1], final[i].Via...)
			}
			return final, nil
		}
		if !mail.Permanent(err) {
			return nil, err
		}
	}
	r.Channel, r.Via = mail.ChannelHold, via
	return []mail.Recipient{r}, nil
}

// add takes one final recipient unless the transaction has it.
func (t *Transaction) add(r, rcpt *mail.Recipient) {
	if r.Channel == mail.ChannelDiscard {
		t.discarded(r, rcpt.Address)
		return
	}
	if r.Key == (mail.DeliveryKey{}) {
		r.Key = mail.NewDeliveryKey(t.env.Origin, t.env.RootID, finalName(r))
	}
	if len(t.src.Filters) > 0 {
		t.given = append(t.given, given{rcpt.Address.Key(), r.Key})
	}
	if i, ok := t.find(r.Key); ok {
		have := &t.rcpts[i]
		have.Notify = have.Notify.Merge(r.Notify)
		if have.OriginalRecipient == "" {
			have.OriginalRecipient = r.OriginalRecipient
		}
		if have.MaxSize != 0 && (r.MaxSize == 0 || r.MaxSize > have.MaxSize) {
			have.MaxSize = r.MaxSize // one of the ways there is wide enough
		}
		return
	}
	t.rcpts = append(t.rcpts, *r)
	if t.seen != nil {
		t.seen[r.Key] = len(t.rcpts) - 1
	}
}

// discarded notes that r, of RCPT with address a, gets nothing.
func (t *Transaction) discarded(r *mail.Recipient, a mail.Address) {
	t.cfg.Mail.Discarded(maillog.Event{
		QueueID: t.env.QueueID, TraceID: t.env.RootID, Recipient: a,
		ReversePath: t.env.ReversePath, NullSender: true, Channel: r.Channel,
	})
}

// few is how many recipients are compared one by one.
const few = 16

// find is the place of the recipient with this key.
func (t *Transaction) find(key mail.DeliveryKey) (i int, ok bool) {
	if t.seen == nil && len(t.rcpts) >= few {
		t.seen = make(map[mail.DeliveryKey]int, 4*few)
		for i := range t.rcpts {
			t.seen[t.rcpts[i].Key] = i
		}
	}
	if t.seen != nil {
		i, ok = t.seen[key]
		return i, ok
	}
	for i := range t.rcpts {
		if t.rcpts[i].Key == key {
			return i, true
		}
	}
	return 0, false
}

// finalName is the name of one final delivery: mailbox and folder, or the
// address on a way out.
func finalName(r *mail.Recipient) string {
	if r.Channel == mail.ChannelLMTP && r.Mailbox != "" {
		if r.Folder == "" || strings.EqualFold(r.Folder, "INBOX") {
			return strings.ToLower(r.Mailbox)
		}
		return strings.ToLower(r.Mailbox) + "\x00" + r.Folder
	}
	name := string(r.Channel) + "\x00" + r.Address.Key()
	if r.Channel == mail.ChannelReprocess && r.Mailbox != "" { // how it goes on
		name += "\x00" + r.Mailbox
	}
	return name
}

// delay is the time since arrival.
func (t *Transaction) delay() time.Duration { return t.cfg.Now().Sub(t.env.Arrival) }
