package reprocess

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"log/slog"
	"sort"
	"strings"
	"sync"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
)

// Door takes mail back. transaction.Acceptor is one.
type Door interface {
	// Inject queues a message. A mail.Permanent error means that it is refused
	// for good.
	Inject(ctx context.Context, in transaction.Injection, body []byte) error
}

// Expander decides what a recipient stands for now. expand.Expander is one.
type Expander interface {
	Again(ctx context.Context, env *mail.Envelope, r mail.Recipient, msg []byte, trace func(expand.Step)) (*expand.Next, error)
}

// Config is what New needs.
type Config struct {
	Door     Door
	Expander Expander
	Log      *slog.Logger
}

// Agent is the channel's program.
type Agent struct {
	cfg   Config
	locks [64]sync.Mutex // by queue id: one is not queued twice at the same time

	mu   sync.Mutex // guards what follows
	done map[string]bool
	ring [lately]string
	next int
}

// lately is how many ids are remembered.
const lately = 8192

var _ deliver.Agent = (*Agent)(nil)

// New returns an Agent.
func New(cfg Config) (*Agent, error) {
	if cfg.Door == nil || cfg.Expander == nil {
		return nil, errors.New("reprocess: Door and Expander are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{cfg: cfg, done: map[string]bool{}}, nil
}

// Deliver gives each recipient back to the door by itself, so that a refusal
// of one is no other's. Those that need nothing but the same new reverse-path
// stay together.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	results := make([]deliver.Result, len(d.Recipients))
	body := d.Body[0]
	if len(d.Body) > 1 {
		body = nil
		for _, b := range d.Body {
			body = append(body, b...)
		}
	}
	batches := map[mail.Address]*batch{}
	var order []mail.Address
	for i, r := range d.Recipients {
		n, err := a.cfg.Expander.Again(ctx, d.Envelope, r, body, nil)
		switch {
		case err != nil && mail.Permanent(err) && r.Address.IsPostmaster() && !d.Report:
			a.postmaster(ctx, d, body, i, results)
		case err != nil:
			results[i] = deliver.FromError("reprocess", err)
		case itself(n, &r):
			a.cfg.Log.Error("recipient of the channel reprocess leads to itself", "queue_id", d.Envelope.QueueID, "recipient", r.Address.String())
			results[i] = deliver.Defer(mail.Status{4, 3, 5}, "Not set up correctly, try again later", nil)
		case n.Change == nil && n.ReversePath != nil:
			b := batches[*n.ReversePath]
			if b == nil {
				b = &batch{next: *n}
				b.next.Recipients = nil
				batches[*n.ReversePath] = b
				order = append(order, *n.ReversePath)
			}
			b.add(i, r, n)
		default:
			b := &batch{index: []int{i}, keys: []mail.DeliveryKey{r.Key}, next: *n}
			a.queue(ctx, d, body, b, results)
		}
	}
	for _, path := range order {
		a.queue(ctx, d, body, batches[path], results)
	}
	return results
}

// batch is recipients of one message that become one new message.
type batch struct {
	index []int // of the delivery's recipients
	keys  []mail.DeliveryKey
	next  expand.Next
	again bool // from the door on: what it does for everybody is to be done
}

// postmaster gives mail for a postmaster whom the directory does not know back
// to the door, which answers for it (RFC 5321 4.5.1).
func (a *Agent) postmaster(ctx context.Context, d *deliver.Delivery, body []byte, i int, results []deliver.Result) {
	r := d.Recipients[i]
	b := &batch{index: []int{i}, keys: []mail.DeliveryKey{r.Key}, again: true}
	r.Channel, r.NextHop, r.Mailbox, r.Folder, r.Quota, r.Key = "", "", "", "", nil, mail.DeliveryKey{}
	b.next.Recipients = []mail.Recipient{r}
	a.queue(ctx, d, body, b, results)
}

func (b *batch) add(i int, r mail.Recipient, n *expand.Next) {
	b.index = append(b.index, i)
	b.keys = append(b.keys, r.Key)
	b.next.Recipients = append(b.next.Recipients, n.Recipients...)
}

func (a *Agent) queue(ctx context.Context, d *deliver.Delivery, body []byte, b *batch, results []deliver.Result) {
	res := deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK, Text: "nobody is left"}
	if len(b.next.Recipients) > 0 {
		id := childID(d.Envelope, b)
		res.Text = "expanded as " + id
		if err := a.submit(ctx, d, body, b, id); err != nil {
			res = deliver.FromError("reprocess", err)
		} else {
			res.Ended = b.next.Bare
		}
	}
	for _, i := range b.index {
		results[i] = res
	}
}

// submit queues b once.
func (a *Agent) submit(ctx context.Context, d *deliver.Delivery, body []byte, b *batch, id string) error {
	n := &b.next
	lock := &a.locks[id[len(id)-1]%64]
	lock.Lock()
	defer lock.Unlock()
	a.mu.Lock()
	known := a.done[id]
	a.mu.Unlock()
	if known {
		return nil
	}
	env := *d.Envelope
	env.QueueID = id
	report := d.Report
	if n.Change != nil {
		var notes []string
		body, notes = n.Change(body)
		for _, note := range notes {
			a.cfg.Log.Warn("list could not change its message", "queue_id", id, "list", n.Recipients[0].Address.String(), "note", note)
		}
		env.RootID = id
		report = false
		env.Size = int64(len(body))
		if eightBit(body) {
			env.Body = mail.Body8BitMIME
		}
	}
	if n.ReversePath != nil {
		env.ReversePath = *n.ReversePath
	}
	if n.Bare {
		env.EnvelopeID, env.Ret = "", ""
	}
	err := a.cfg.Door.Inject(ctx, transaction.Injection{
		Envelope: env, Recipients: n.Recipients, Report: report, Final: !b.again, Client: d.Client,
		// One of b stands for all: they end together.
		Parent: queue.Parent{ID: d.Envelope.QueueID, Key: b.keys[0]},
	}, body)
	if err == nil {
		a.remember(id)
	}
	return err
}

func (a *Agent) remember(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.done, a.ring[a.next])
	a.ring[a.next] = id
	a.next = (a.next + 1) % lately
	a.done[id] = true
}

func eightBit(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

// itself reports whether r is to be looked up once more as it is.
func itself(n *expand.Next, r *mail.Recipient) bool {
	if n.Change != nil {
		return false
	}
	for i := range n.Recipients {
		f := &n.Recipients[i]
		if f.Channel == mail.ChannelReprocess && f.Mailbox == r.Mailbox && f.Address.Key() == r.Address.Key() {
			return true
		}
	}
	return false
}

// childID is the queue id of what a batch becomes. The same recipient of the
// same root message becomes the same one, whatever the message that it came by.
// What is held may be released and held again: there the message counts.
func childID(env *mail.Envelope, b *batch) string {
	sort.Slice(b.keys, func(i, j int) bool { return string(b.keys[i][:]) < string(b.keys[j][:]) })
	h := sha256.New()
	h.Write([]byte("reprocess\x00" + env.Origin + "\x00" + env.RootID + "\x00"))
	for i := range b.keys {
		h.Write(b.keys[i][:])
	}
	for i := range b.next.Recipients {
		if b.again || b.next.Recipients[i].Channel == mail.ChannelHold {
			h.Write([]byte("\x00held\x00" + env.QueueID))
			break
		}
	}
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}
