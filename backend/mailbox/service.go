package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
)

// Config is what New needs. Zero numbers take the defaults named.
type Config struct {
	Log   Log
	Store *store.Store
	Hub   *notify.Hub // woken by the state machine

	MaxMessage int64            // octets of one message, 50 MB
	InFlight   int64            // octets being written over all sessions, 64 MB
	KeyLife    time.Duration    // how long a delivery key is remembered, 8 days
	Now        func() time.Time // time.Now

	// Level is that of the pair's format (command.Level); nil: 1. From level 2 on
	// deliveries are proposed in their compact form, answers can be claimed,
	// accounts removed and mailboxes given lists of rights. Without claims an answer
	// is given to the delivery that asks first.
	Level func() uint32

	// Owners reports whether a mailbox without a list of rights takes by its
	// address only what its owner posts; nil: it takes everything. It counts from
	// level 2 on.
	Owners func() bool

	// Answers reports whether autoreplies are made at all; nil: yes. While they
	// are not, nobody is remembered, and mail that is only to be answered is
	// accepted and not stored.
	Answers func() bool
}

// Service is the one door to the mail of a pair. Any number of goroutines may
// use it.
type Service struct {
	cfg      Config
	inFlight atomic.Int64 // octets reserved by take
	most     atomic.Int64 // of them; Config.InFlight at first
	bodies   bodies       // messages that a delivery may name
}

// level2 reports whether the pair can apply what level 2 of the format brings.
func (s *Service) level2() bool { return s.cfg.Level != nil && s.cfg.Level() >= 2 }

// owners reports whether mailboxes without a list of rights are their owners'.
func (s *Service) owners() bool { return s.level2() && s.cfg.Owners != nil && s.cfg.Owners() }

// New checks cfg.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil || cfg.Store == nil || cfg.Hub == nil {
		return nil, errors.New("mailbox: Log, Store and Hub are required")
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = 50 << 20
	}
	if cfg.InFlight == 0 {
		cfg.InFlight = 64 << 20
	}
	if cfg.KeyLife == 0 {
		cfg.KeyLife = 8 * 24 * time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg}
	s.SetInFlight(cfg.InFlight)
	return s, nil
}

// Ready returns nil when this replica serves, or *ErrNotServing.
func (s *Service) Ready(ctx context.Context) error { return s.cfg.Log.Confirm(ctx) }

// MaxMessage is the size of the largest message taken, in octets.
func (s *Service) MaxMessage() int64 { return s.cfg.MaxMessage }

// Account opens the account called name, making it on first use with INBOX and
// the usual special-use mailboxes. ErrBadName when it cannot be a name.
func (s *Service) Account(ctx context.Context, name string) (*Account, error) {
	name, err := accountName(name)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	if err := s.here(name); err != nil {
		return nil, err
	}
	id, err := s.cfg.Store.AccountID(name)
	if errors.Is(err, store.ErrNotFound) {
		var done *command.Done
		done, err = propose[*command.Done](ctx, s, &command.Account{Head: s.head(), Name: name, Seed: s.seed()})
		if err == nil {
			id, err = done.Account, codeError(done.Code)
		}
	}
	if err != nil {
		return nil, err
	}
	return &Account{s: s, id: id, name: name}, nil
}

// Accounts lists account names in order, at most limit, after the given one.
func (s *Service) Accounts(ctx context.Context, after string, limit int) ([]string, error) {
	if err := s.cfg.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	n, err := s.cfg.Store.Snapshot()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	var names []string
	err = n.Accounts(after, func(name string) bool {
		if len(names) < limit {
			names = append(names, name)
		}
		return len(names) < limit
	})
	return names, err
}

// head is the head of a command made now.
func (s *Service) head() command.Head { return command.Head{Time: s.cfg.Now().UnixNano()} }

// seed is a UIDVALIDITY to begin with: seconds, as is the custom, so that an
// account that is made again later has a larger one.
func (s *Service) seed() uint32 { return uint32(s.cfg.Now().Unix()) }

// SetInFlight makes n the bound of what is written from now on, in octets.
func (s *Service) SetInFlight(n int64) { s.most.Store(n) }

// take reserves n octets of what may be in flight.
func (s *Service) take(n int64) (release func(), err error) {
	if s.inFlight.Add(n) > s.most.Load() {
		s.inFlight.Add(-n)
		return nil, ErrBusy
	}
	return func() { s.inFlight.Add(-n) }, nil
}

// propose writes one command and returns its answer, of the type T that the
// state machine gives to such a command.
func propose[T any](ctx context.Context, s *Service, c command.Command) (T, error) {
	answer, _, err := proposeEntry[T](ctx, s, command.Append(nil, c))
	return answer, err
}

func proposeEntry[T any](ctx context.Context, s *Service, entry []byte) (answer T, index uint64, err error) {
	result, index, err := s.cfg.Log.Propose(ctx, entry)
	if err != nil {
		return answer, index, err
	}
	switch r := result.(type) {
	case T:
		return r, index, nil
	case error:
		return answer, index, r
	}
	return answer, index, fmt.Errorf("mailbox: answer of type %T: %w", result, ErrUnknownState)
}

// codeError is the error that a code of the state machine stands for.
func codeError(c command.Code) error {
	switch c {
	case command.OK:
		return nil
	case command.NoAccount:
		return ErrNoAccount
	case command.NoMailbox:
		return ErrNoMailbox
	case command.Exists:
		return ErrExists
	case command.HasChildren:
		return ErrHasChildren
	case command.NotAllowed:
		return ErrBadName
	case command.OverQuota, command.QuotaZero:
		return ErrOverQuota
	case command.AtLimit:
		return ErrLimit
	case command.KeyMismatch:
		return ErrKeyMismatch
	case command.Moving:
		return &ErrMoved{}
	}
	return fmt.Errorf("mailbox: code %d: %w", c, ErrUnknownState)
}
