package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/smtp"
)

// Role is what a service is for.
type Role uint8

const (
	// MX takes mail for our domains, from anybody.
	MX Role = iota
	// Submission takes mail from our users, who log in.
	Submission
)

// Authenticator checks who logs in.
type Authenticator interface {
	// Password checks user and password, and that user may act as authz where
	// that is not empty, and returns the canonical login name. A wrong
	// password or an unknown user is a *mail.Error of class 5; anything else
	// is temporary. Any number of calls may run at once.
	Password(ctx context.Context, user, password, authz string) (login string, err error)
	// Certificate does the same for the verified client certificate of a
	// connection (SASL EXTERNAL).
	Certificate(ctx context.Context, cs *tls.ConnectionState, authz string) (login string, err error)
}

// Limits bound what one client address may do. Zero is no limit.
type Limits struct {
	Sessions  int // at the same time, of one address (IPv6: of one /64)
	PerMinute int // new sessions of one address
	Unlimited func(addr netip.Addr) bool
}

// Config describes one service.
type Config struct {
	Name     string // in logs: "mx", "submission"
	Role     Role
	Acceptor *transaction.Acceptor

	Auth Authenticator // Submission needs one
	// MayRelay lists client networks that may relay without logging in.
	MayRelay []netip.Prefix
	// Filters judge all mail of the service. They follow each session, in this
	// order.
	Filters []policy.Filter
	Limits  Limits

	// MaySend says whether login may use from as reverse-path. Nil: yes. The
	// error is the reply.
	MaySend func(ctx context.Context, login string, from mail.Address) error

	Hostname string // in Message-ID fields
	Log      *slog.Logger
	Mail     *maillog.Log
	Now      func() time.Time
}

// Service makes the sessions of one service. It fits smtp.ServerConfig's
// NewSession.
type Service struct {
	cfg    atomic.Pointer[Config] // of sessions from now on
	counts counts
}

// New checks cfg and returns a Service.
func New(cfg Config) (*Service, error) {
	s := new(Service)
	s.counts.init()
	if err := s.Set(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Set makes cfg hold for sessions from now on; those that are open keep what they
// began with. On an error nothing changes.
func (s *Service) Set(cfg Config) error {
	switch {
	case cfg.Acceptor == nil:
		return errors.New("smtpd: no acceptor")
	case cfg.Role == Submission && cfg.Auth == nil:
		return errors.New("smtpd: submission without authentication")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s.cfg.Store(&cfg)
	return nil
}

// NewSession is asked by the engine before the banner.
func (s *Service) NewSession(ctx context.Context, c *smtp.ConnInfo) (smtp.Session, error) {
	cfg := s.cfg.Load()
	release, r := s.admit(cfg, c)
	sess := &session{cfg: cfg, c: c, release: release}
	if r == nil {
		r = sess.open(ctx)
	}
	if r != nil {
		sess.Close()
		cfg.Mail.Connection(maillog.Event{Client: c.Remote.Addr().String(), Code: r.Code, Status: r.Status, Reply: r.Text})
		return nil, r
	}
	return sess, nil
}
