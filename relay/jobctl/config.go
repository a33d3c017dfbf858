package jobctl

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Queue is what the controller needs of package queue.
type Queue interface {
	Scan(ctx context.Context, found func(*queue.Item) error) error
	Load(id string) (*queue.Item, error)
	Body(it *queue.Item, buf []byte) ([]byte, error)
	Update(it *queue.Item, durable bool) error
	Remove(it *queue.Item, durable bool) error
	SetAside(id string, why error) error
	Mark(id string) (done func())
	Suspects() []string
	ClearSuspects() error
}

// Reporter makes delivery status notifications.
type Reporter interface {
	// Report tells the sender of it about rcpts, whose State says what
	// happened: Pending is a delay. It returns nil when the notification is on
	// disk, or none is to be made; an error is temporary. The same call after
	// a crash makes no second notification. msg is the message.
	Report(ctx context.Context, it *queue.Item, rcpts []queue.Recipient, msg []byte) error
}

// Limit bounds the deliveries of a channel that run at once.
type Limit struct {
	Channel     int // in all (default 100)
	Destination int // to one next hop (default 20)
	// Timeout bounds one attempt (default 10 minutes, 30 s for tcp_lmtpcs).
	Timeout time.Duration
}

// Config describes a Controller. Zero fields take the defaults of mta.md 7.4
// and 8.1.
type Config struct {
	Queue    Queue
	Agents   map[mail.Channel]deliver.Agent
	Reporter Reporter

	// Backoff is the retry schedule of each priority; the last one repeats.
	Backoff map[mail.Priority][]time.Duration
	// Short is the schedule of pairs without a leader and busy mailboxes, for
	// at most ShortFor.
	Short    []time.Duration
	ShortFor time.Duration
	// Notices are the ages at which the sender is warned; Lifetime is the age
	// at which the message is returned, after at least MinAttempts attempts.
	Notices     []time.Duration
	Lifetime    time.Duration
	MinAttempts int
	// QuotaGrace is the age at which a message is returned that a full mailbox
	// does not take; by default Lifetime.
	QuotaGrace time.Duration

	Limits       map[mail.Channel]Limit
	MaxTracked   int           // jobs in memory (default 100,000)
	MaxBody      int64         // octets of messages being delivered (default 256 MiB)
	Rescan       time.Duration // while jobs are left on disk (default 1 min)
	PoisonLimit  int           // crashes before a message is held (default 3)
	DeadAfter    int           // failed attempts in a row before a destination is probed only (default 5)
	DeadPause    time.Duration // first pause between probes, doubled up to DeadPauseMax (1 min, 15 min)
	DeadPauseMax time.Duration

	// OnHold reports whether a recipient of the channel hold is still to be
	// held; it is asked every HoldCheck (default 5 minutes, negative: never), and
	// whoever is not goes on without an operator. Nil: all are held until Release.
	OnHold    func(ctx context.Context, env *mail.Envelope, r mail.Recipient) bool
	HoldCheck time.Duration

	// OnDelivered is told of each destination that took a message.
	OnDelivered func(c mail.Channel, nextHop string)

	Log  *slog.Logger
	Mail *maillog.Log
}

func minutes(n ...int) []time.Duration {
	out := make([]time.Duration, len(n))
	for i, m := range n {
		out[i] = time.Duration(m) * time.Minute
	}
	return out
}

const day = 24 * time.Hour

func (c *Config) defaults() error {
	if c.Queue == nil || c.Reporter == nil {
		return errors.New("jobctl: no queue or no reporter")
	}
	backoff := map[mail.Priority][]time.Duration{
		mail.Urgent:    minutes(30, 60, 60, 120, 120, 120, 240),
		mail.Normal:    minutes(60, 120, 120, 240, 240, 240, 480),
		mail.NonUrgent: minutes(120, 240, 240, 480, 480, 480, 960),
	}
	for p, b := range c.Backoff {
		if len(b) > 0 {
			backoff[p] = b
		}
	}
	c.Backoff = backoff
	if len(c.Short) == 0 {
		c.Short = []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, time.Minute}
	}
	if c.Notices == nil {
		c.Notices = []time.Duration{3 * day, 6 * day, 9 * day}
	}
	dur := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	dur(&c.ShortFor, 15*time.Minute)
	dur(&c.Lifetime, 12*day)
	dur(&c.QuotaGrace, c.Lifetime)
	dur(&c.Rescan, time.Minute)
	if c.HoldCheck == 0 {
		c.HoldCheck = 5 * time.Minute
	}
	dur(&c.DeadPause, time.Minute)
	dur(&c.DeadPauseMax, 15*time.Minute)
	num(&c.MinAttempts, 4)
	num(&c.MaxTracked, 100_000)
	num(&c.PoisonLimit, 3)
	num(&c.DeadAfter, 5)
	if c.MaxBody <= 0 {
		c.MaxBody = 256 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// limit returns the limits of a channel with its defaults.
func (c *Config) limit(ch mail.Channel) Limit {
	l := c.Limits[ch]
	if l.Channel <= 0 {
		l.Channel = 100
	}
	if l.Destination <= 0 {
		l.Destination = 20
	}
	if l.Timeout <= 0 {
		l.Timeout = 10 * time.Minute
		if ch == mail.ChannelLMTP {
			l.Timeout = 30 * time.Second
		}
	}
	return l
}
