package transaction

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Expander resolves one recipient: users, aliases, lists, forwarding. Any
// number of calls may run at once.
type Expander interface {
	// Rcpt returns the final recipients that r stands for, with Channel,
	// NextHop and Mailbox set; an address of another domain comes back as it
	// is, on channel tcp_local. An empty result means that r is accepted and
	// nothing is to be delivered. The error says whether the refusal is for
	// good (mail.Permanent).
	Rcpt(ctx context.Context, env *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error)
}

// Queue is what a transaction needs of package queue.
type Queue interface {
	Reserve(n int64, recipients int) (queue.Reservation, error)
	Submit(ctx context.Context, r *queue.Reservation, it *queue.Item, body ...[]byte) error
	// Load reads what the queue has under an id.
	Load(id string) (*queue.Item, error)
}

// Pairs delivers to backend pairs.
type Pairs interface {
	deliver.Agent
	// Probe reports whether pair answers at all.
	Probe(ctx context.Context, pair string) error
}

// Mode is how a destination's mail is accepted.
type Mode uint8

const (
	// Local answers 250 when the message is on this relay's disk.
	Local Mode = iota
	// Through answers when the pair has committed the message.
	Through
)

// Config describes an Acceptor.
type Config struct {
	Hostname string // of this relay, in Received fields
	Origin   string // name of this relay in delivery keys; it never changes
	Domain   string // completes a bare <postmaster>

	Expander Expander
	Queue    Queue
	Pairs    Pairs // nil: nothing goes through
	// Copies tells who gets a copy of everything that the sender of env sends;
	// nil: nobody.
	Copies func(ctx context.Context, env *mail.Envelope) ([]mail.Recipient, error)
	// Submission tells what holds for all that a user submits; nil: nothing.
	Submission func(ctx context.Context, user string) (expand.Submission, error)
	// Reverse finds the primary address of a user's alternate one, for what
	// users submit; nil: addresses stay as they are.
	Reverse func(ctx context.Context, a mail.Address) (mail.Address, error)

	// Filters are those that recipients opt in to, in the order in which they are
	// asked.
	Filters []Filter

	// Mode tells how mail for a next hop of a channel is accepted. Nil:
	// Through for tcp_lmtpcs, Local for the rest. Channels other than
	// tcp_lmtpcs are always Local.
	Mode func(c mail.Channel, nextHop string) Mode

	// Postmaster gets the mail of every <postmaster> that the directory does
	// not know. Without one it is held for the operator.
	Postmaster mail.Address

	PairDeadline  time.Duration // default 5 s
	MaxReceived   int           // Received fields; more is a loop (default 50)
	MaxOwn        int           // of them, those of this relay (default 10)
	HoldLoops     bool          // hold what is in a loop for the operator, instead of refusing it
	MaxRecipients int           // after expansion, of one transaction (default 100,000)

	Log  *slog.Logger
	Mail *maillog.Log
	Now  func() time.Time
}

// Acceptor begins transactions. Any number of goroutines may use it.
type Acceptor struct {
	cfg   atomic.Pointer[Config] // of transactions from now on
	pairs breakers
}

// New checks cfg and returns an Acceptor.
func New(cfg Config) (*Acceptor, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	a := new(Acceptor)
	a.cfg.Store(&cfg)
	a.pairs.init(cfg)
	return a, nil
}

// Set makes cfg hold for transactions from now on; those that have begun keep what
// they began with. What probes the pairs stays, and so do log and clock. On an error
// nothing changes.
func (a *Acceptor) Set(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	a.cfg.Store(&cfg)
	a.pairs.deadline.Store(int64(cfg.PairDeadline))
	return nil
}

// check fills in what is zero.
func (cfg *Config) check() error {
	switch {
	case cfg.Hostname == "" || cfg.Origin == "":
		return errors.New("transaction: no host name or no origin")
	case cfg.Expander == nil || cfg.Queue == nil:
		return errors.New("transaction: no expander or no queue")
	}
	if cfg.Domain == "" {
		cfg.Domain = cfg.Hostname
	}
	if cfg.PairDeadline <= 0 {
		cfg.PairDeadline = 5 * time.Second
	}
	if cfg.MaxReceived <= 0 {
		cfg.MaxReceived = 50
	}
	if cfg.MaxOwn <= 0 {
		cfg.MaxOwn = 10
	}
	if cfg.MaxRecipients <= 0 {
		cfg.MaxRecipients = 100_000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}

// mode is how mail for r is accepted.
func (cfg *Config) mode(r *mail.Recipient) Mode {
	switch {
	case r.Channel != mail.ChannelLMTP || cfg.Pairs == nil:
		return Local
	case cfg.Mode != nil:
		return cfg.Mode(r.Channel, r.NextHop)
	}
	return Through
}

// Answered tells that a delivery to pair from the queue has succeeded, so that
// mail may go through again.
func (a *Acceptor) Answered(pair string) { a.pairs.answered(pair) }

// OnReady sets the function that is called when a pair that had been bypassed
// answers again. It must be quick.
func (a *Acceptor) OnReady(f func(pair string)) { a.pairs.onReady(f) }

// Bypassed lists the pairs whose mail is queued now because they do not answer.
func (a *Acceptor) Bypassed() []string { return a.pairs.open() }

// Close waits for probes that are under way.
func (a *Acceptor) Close() { a.pairs.close() }

// breakers remembers which pairs do not answer in time.
type breakers struct {
	deadline atomic.Int64
	probe    func(ctx context.Context, pair string) error
	now      func() time.Time
	log      *slog.Logger
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu    sync.RWMutex // guards the fields below
	bad   map[string]*breaker
	ready func(pair string)
}

// breaker is one pair that missed its deadline. While it exists mail for the
// pair is queued, except for one trial after each probe that succeeded.
type breaker struct {
	next    time.Time     // when to probe
	wait    time.Duration // after the next failure
	probing bool
	trial   bool // a probe succeeded: one transaction may go through
}

const (
	firstProbe = 500 * time.Millisecond
	lastProbe  = 10 * time.Second
)

func (b *breakers) init(cfg Config) {
	b.now, b.log = cfg.Now, cfg.Log
	b.deadline.Store(int64(cfg.PairDeadline))
	if cfg.Pairs != nil {
		b.probe = cfg.Pairs.Probe
	}
	b.bad = map[string]*breaker{}
	b.ctx, b.stop = context.WithCancel(context.Background())
}

func (b *breakers) within() time.Duration { return time.Duration(b.deadline.Load()) }

// admit reports whether mail for pair may go through now.
func (b *breakers) admit(pair string) bool {
	b.mu.RLock()
	none := len(b.bad) == 0
	b.mu.RUnlock()
	if none {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.bad[pair]
	switch {
	case s == nil:
		return true
	case s.trial:
		s.trial = false
		s.next = b.now().Add(b.within() + s.wait) // of the trial
		return true
	case !s.probing && !b.now().Before(s.next) && b.ctx.Err() == nil:
		s.probing = true
		b.wg.Add(1)
		go b.try(pair, s)
	}
	return false
}

// try probes pair.
func (b *breakers) try(pair string, s *breaker) {
	defer b.wg.Done()
	ctx, cancel := context.WithTimeout(b.ctx, b.within())
	defer cancel()
	err := b.probe(ctx, pair)
	b.mu.Lock()
	defer b.mu.Unlock()
	s.probing = false
	if err == nil {
		s.trial = true
		return
	}
	s.wait = min(2*s.wait, lastProbe)
	s.next = b.now().Add(s.wait)
}

// missed notes that pair did not settle a transaction within its deadline.
func (b *breakers) missed(pair string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.bad[pair]
	if s == nil {
		s = &breaker{wait: firstProbe}
		b.bad[pair] = s
		b.log.Warn("pair does not answer in time, its mail is queued", "pair", pair, "deadline", b.within())
	} else {
		s.wait = min(2*s.wait, lastProbe)
	}
	s.next = b.now().Add(s.wait)
}

// answered notes that pair settled a delivery in time.
func (b *breakers) answered(pair string) {
	b.mu.RLock()
	none := len(b.bad) == 0
	b.mu.RUnlock()
	if none {
		return
	}
	b.mu.Lock()
	_, was := b.bad[pair]
	delete(b.bad, pair)
	ready := b.ready
	b.mu.Unlock()
	if was {
		b.log.Info("pair answers again", "pair", pair)
		if ready != nil {
			ready(pair)
		}
	}
}

func (b *breakers) onReady(f func(pair string)) {
	b.mu.Lock()
	b.ready = f
	b.mu.Unlock()
}

func (b *breakers) open() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	names := make([]string, 0, len(b.bad))
	for name := range b.bad {
		names = append(names, name)
	}
	return names
}

func (b *breakers) close() {
	b.stop()
	b.wg.Wait()
}
