package bounce

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// Door takes the notifications. transaction.Acceptor is one.
type Door interface {
	Inject(ctx context.Context, in transaction.Injection, body []byte) error
}

// Config describes a Bouncer.
type Config struct {
	Hostname string       // Reporting-MTA, and in Message-ID
	Origin   string       // this relay's name in delivery keys
	From     mail.Address // author; where the domain of the recipients names none; default MAILER-DAEMON@Hostname
	Door     Door

	// Wanted finds the languages that a sender wants, as preferredLanguage has
	// them; "" for a sender who is not ours or says nothing. An error puts the
	// notification off, for an hour at most. Nil: nobody's are known.
	Wanted   func(ctx context.Context, sender mail.Address) (string, error)
	Language string          // of everybody else (default en)
	Texts    *Texts          // default those of LoadTexts(nil)
	Tables   *mapping.Tables // LanguageTable, if there is one, chooses before Wanted

	Lifetime   time.Duration // told in delay warnings (default 12 days)
	MaxContent int64         // octets of a message that is returned whole (default 1 MiB)
	PerHour    int           // notifications to one address (default 100)

	Log  *slog.Logger
	Mail *maillog.Log
	Now  func() time.Time
}

// Bouncer makes notifications. Any number of goroutines may use it.
type Bouncer struct {
	conf atomic.Pointer[Config]

	mu   sync.Mutex // guards the fields below
	hour time.Time  // begin of the hour being counted
	sent map[string]int
}

// New checks cfg and returns a Bouncer.
func New(cfg Config) (*Bouncer, error) {
	b := &Bouncer{sent: map[string]int{}}
	if err := b.Set(cfg); err != nil {
		return nil, err
	}
	return b, nil
}

// Set makes cfg hold for notifications from now on. On an error nothing changes.
func (b *Bouncer) Set(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	b.conf.Store(&cfg)
	return nil
}

func (b *Bouncer) cfg() *Config { return b.conf.Load() }

// check fills in what is zero.
func (cfg *Config) check() error {
	if cfg.Hostname == "" || cfg.Origin == "" || cfg.Door == nil {
		return errors.New("bounce: no host name, origin or door")
	}
	if cfg.From.IsNull() {
		cfg.From = mail.Address{Local: "MAILER-DAEMON", Domain: cfg.Hostname}
	}
	if cfg.Lifetime <= 0 {
		cfg.Lifetime = 12 * 24 * time.Hour
	}
	if cfg.MaxContent <= 0 {
		cfg.MaxContent = 1 << 20
	}
	if cfg.PerHour <= 0 {
		cfg.PerHour = 100
	}
	if cfg.Texts == nil {
		var err error
		if cfg.Texts, err = LoadTexts(nil); err != nil {
			return err
		}
	}
	if cfg.Language = strings.ToLower(cfg.Language); cfg.Language == "" {
		cfg.Language = usualLanguage
	}
	if !cfg.Texts.Has(cfg.Language) {
		return fmt.Errorf("bounce: no texts in %q; there are %s", cfg.Language, strings.Join(cfg.Texts.Languages(), ", "))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}

// Report implements jobctl.Reporter: it queues one notification about rcpts to
// the sender of it.
func (b *Bouncer) Report(ctx context.Context, it *queue.Item, rcpts []queue.Recipient, msg []byte) error {
	to := it.Envelope.ReversePath
	if to.IsNull() || it.Report || len(rcpts) == 0 {
		return nil
	}
	wanted, err := b.languages(ctx, it, rcpts, msg)
	if err != nil {
		return err
	}
	n := b.compose(it, rcpts, msg, wanted)
	if !b.admit(to) {
		b.cfg().Log.Warn("notification suppressed, too many to one address", "queue_id", it.ID(), "kind", n.kind)
		return nil
	}
	env := mail.Envelope{
		QueueID: n.id, RootID: n.id, Origin: b.cfg().Origin, Arrival: n.date, Body: n.body, SMTPUTF8: n.utf8,
	}
	// All of rcpts are told of together: the first stands for them.
	parent := queue.Parent{ID: it.ID(), Key: rcpts[0].Key, State: rcpts[0].State}
	if parent.State == queue.Pending {
		parent.Notice = it.Notices + 1
	}
	err = b.cfg().Door.Inject(ctx, transaction.Injection{
		Envelope: env, Recipients: []mail.Recipient{{Address: to, Notify: mail.NotifyNever}}, Report: true, Parent: parent,
	}, n.bytes)
	if err != nil && !mail.Permanent(err) {
		return err
	}
	e := maillog.Event{
		QueueID: it.ID(), TraceID: it.Envelope.RootID, ReversePath: to, Recipients: len(rcpts), Reply: string(n.kind) + " notification " + n.id,
	}
	if err != nil {
		e.Reply = string(n.kind) + " notification refused: " + mail.AsError("bounce", err).Reply
	}
	b.cfg().Mail.Notified(e)
	return nil
}

// maxTargets bounds the addresses that are counted in an hour.
const maxTargets = 100_000

// admit counts a notification to an address.
func (b *Bouncer) admit(to mail.Address) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg().Now()
	if age := now.Sub(b.hour); age >= time.Hour || age < 0 {
		b.hour = now
		clear(b.sent)
	}
	key := to.Key()
	if b.sent[key] >= b.cfg().PerHour {
		return false
	}
	if len(b.sent) < maxTargets || b.sent[key] > 0 {
		b.sent[key]++
	}
	return true
}

// reportID is the queue id of the notification about rcpts of it.
func reportID(it *queue.Item, rcpts []queue.Recipient) string {
	h := sha256.New()
	h.Write([]byte("report\x00" + it.ID() + "\x00"))
	for i := range rcpts {
		h.Write(rcpts[i].Key[:])
		h.Write([]byte{byte(rcpts[i].State)})
		if rcpts[i].State == queue.Pending { // each warning is another one
			h.Write(binary.AppendVarint(nil, int64(it.Notices)))
		}
	}
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}
