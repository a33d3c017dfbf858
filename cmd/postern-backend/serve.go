package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/pop3d"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// server is what the three protocol servers have in common.
type server interface {
	Serve(ctx context.Context, l net.Listener) error
}

// serve starts the mail protocols of a group: behind mutual TLS for the relays,
// and plainly on loopback where measuring is configured, for the first group.
func (l *live) serve() error {
	n := l.place.n
	c := n.Config
	at, err := addresses(c, l.place.group)
	if err != nil {
		return err
	}
	lmtp := lmtpd.Config{
		Mailboxes: l.boxes, Hostname: c.Node, Pair: l.place.group.Pair, Domain: c.Bench.Domain, TLS: n.TLS.Server(tlsconf.RelayMX),
		PrivateFor: func(*smtp.ConnInfo) bool { return true }, // no other peer gets through the handshake
		MaxMessage: int64(c.Mail.MaxSize), Log: n.Log, Mail: l.place.mail,
	}
	imap := imapd.Config{
		Mailboxes: l.boxes, Hostname: c.Node, TLS: n.TLS.Server(tlsconf.RelayProxy), Authenticate: external,
		Log: n.Log, Metrics: counts{l.place.group.Pair}, MaxSessions: c.Mail.MaxSessions, MaxAppend: int64(c.Mail.MaxSize),
		AuthDelay: time.Millisecond, // the relay has made the client wait already
	}
	pop3 := pop3d.Config{
		Mailboxes: l.boxes, Hostname: c.Node, TLS: n.TLS.Server(tlsconf.RelayProxy), Authenticate: external,
		MaxConns: c.Mail.MaxSessions, Log: n.Log,
	}
	if err := serveOne(l, "lmtp", at.LMTP, lmtp, lmtpd.New); err != nil {
		return err
	}
	if err := serveOne(l, "imap", at.IMAP, imap, imapd.New); err != nil {
		return err
	}
	if err := serveOne(l, "pop3", at.POP3, pop3, pop3d.New); err != nil {
		return err
	}
	if l.place.group != &c.Groups[0] {
		return nil
	}
	if c.Bench.LMTP != "" {
		lmtp.TLS, lmtp.PrivateFor = nil, nil
		if err := serveOne(l, "bench lmtp", c.Bench.LMTP, lmtp, lmtpd.New); err != nil {
			return err
		}
	}
	if c.Bench.IMAP != "" {
		imap.TLS, imap.PasswordLogin, imap.Authenticate = nil, true, benchPassword(&c.Bench)
		if err := serveOne(l, "bench imap", c.Bench.IMAP, imap, imapd.New); err != nil {
			return err
		}
	}
	return nil
}

// serveOne listens on addr and serves until the replica stops.
func serveOne[C any, S server](l *live, name, addr string, cfg C, newServer func(C) (S, error)) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if r, ok := any(s).(interface{ Recheck() }); ok {
		l.mu.Lock()
		l.recheck = append(l.recheck, r.Recheck)
		l.mu.Unlock()
	}
	switch s := any(s).(type) {
	case *imapd.Server:
		l.sessions = append(l.sessions, s.SetMaxSessions)
	case *pop3d.Server:
		l.sessions = append(l.sessions, s.SetMaxConns)
	}
	run, cancel := context.WithCancel(context.Background())
	l.run(func() error { return s.Serve(run, ln) })
	l.onStop(func(ctx context.Context) error {
		defer cancel()
		if d, ok := any(s).(interface{ Shutdown(context.Context) error }); ok {
			ctx, done := context.WithTimeout(ctx, 5*time.Second)
			defer done()
			return d.Shutdown(ctx)
		}
		return nil
	})
	l.place.n.Log.Info("listening", "service", name, "pair", l.place.group.Pair, "addr", ln.Addr().String())
	return nil
}

// external is the login of an access proxy: the certificate is its credential,
// checked by the handshake, and the user's name its authorization identity.
func external(_ context.Context, mech, authz, _, _ string, cs *tls.ConnectionState, _ net.Addr) (string, error) {
	if mech != "EXTERNAL" || cs == nil || authz == "" {
		return "", refused("EXTERNAL with an authorization identity is the only login here")
	}
	return strings.ToLower(authz), nil
}

// benchPassword lets anybody on the loopback in who knows the password.
func benchPassword(b *config.Bench) imapd.Authenticate {
	return func(_ context.Context, mech, authz, user, pass string, _ *tls.ConnectionState, _ net.Addr) (string, error) {
		want := b.Password.Reveal()
		if mech == "EXTERNAL" || want == "" || authz != "" && authz != user || subtle.ConstantTimeCompare([]byte(pass), []byte(want)) != 1 {
			return "", refused("wrong password")
		}
		if !strings.Contains(user, "@") && b.Domain != "" {
			user += "@" + b.Domain
		}
		return strings.ToLower(user), nil
	}
}

func refused(text string) error {
	return &mail.Error{Op: "login", Status: mail.StatusRefused, Reply: text}
}

// counts keeps the IMAP server's figures of a pair.
type counts struct{ pair string }

func (c counts) SessionChange(delta int) { metrics.IMAPSessions.With(c.pair).Add(float64(delta)) }

func (c counts) Login(ok bool) {
	result := "ok"
	if !ok {
		result = "refused"
	}
	metrics.IMAPLogins.With(c.pair, result).Inc()
}

func (c counts) Command(_, answer string, _ time.Duration) {
	metrics.IMAPCommands.With(c.pair, answer).Inc()
}
