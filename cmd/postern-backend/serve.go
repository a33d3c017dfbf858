package main

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/backend/imapd"
	"github.com/postern-mail/postern/backend/lmtpd"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/pop3d"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// server is what the three protocol servers have in common.
type server interface {
	Serve(ctx context.Context, l net.Listener) error
}

// serve starts the mail protocols: behind mutual TLS for the relays, and
// plainly on loopback where measuring is configured.
func serve(n *daemon.Node[config.Backend], boxes *mailbox.Service, mailLog *maillog.Log) error {
	c := n.Config
	lmtp := lmtpd.Config{
		Mailboxes: boxes, Hostname: c.Node, Domain: c.Bench.Domain, TLS: n.TLS.Server(tlsconf.RelayMX),
		PrivateFor: func(*smtp.ConnInfo) bool { return true }, // no other peer gets through the handshake
		MaxMessage: int64(c.Mail.MaxSize), Log: n.Log, Mail: mailLog,
	}
	imap := imapd.Config{
		Mailboxes: boxes, Hostname: c.Node, TLS: n.TLS.Server(tlsconf.RelayProxy), Authenticate: external,
		Log: n.Log, Metrics: counts{}, MaxSessions: c.Mail.MaxSessions, MaxAppend: int64(c.Mail.MaxSize),
		AuthDelay: time.Millisecond, // the relay has made the client wait already
	}
	pop3 := pop3d.Config{
		Mailboxes: boxes, Hostname: c.Node, TLS: n.TLS.Server(tlsconf.RelayProxy), Authenticate: external,
		MaxConns: c.Mail.MaxSessions, Log: n.Log,
	}
	if err := serveOne(n, "lmtp", c.Serve.LMTP, lmtp, lmtpd.New); err != nil {
		return err
	}
	if err := serveOne(n, "imap", c.Serve.IMAP, imap, imapd.New); err != nil {
		return err
	}
	if err := serveOne(n, "pop3", c.Serve.POP3, pop3, pop3d.New); err != nil {
		return err
	}
	if c.Bench.LMTP != "" {
		lmtp.TLS, lmtp.PrivateFor = nil, nil
		if err := serveOne(n, "bench lmtp", c.Bench.LMTP, lmtp, lmtpd.New); err != nil {
			return err
		}
	}
	if c.Bench.IMAP != "" {
		imap.TLS, imap.PasswordLogin, imap.Authenticate = nil, true, benchPassword(&c.Bench)
		if err := serveOne(n, "bench imap", c.Bench.IMAP, imap, imapd.New); err != nil {
			return err
		}
	}
	return nil
}

// serveOne listens on addr and serves until the stop.
func serveOne[C any, S server](n *daemon.Node[config.Backend], name, addr string, cfg C, newServer func(C) (S, error)) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	run, cancel := context.WithCancel(context.Background())
	n.Go(name, func(context.Context) error { return s.Serve(run, l) })
	n.OnStop(name, func(ctx context.Context) error {
		defer cancel()
		if d, ok := any(s).(interface{ Shutdown(context.Context) error }); ok {
			ctx, done := context.WithTimeout(ctx, 5*time.Second)
			defer done()
			return d.Shutdown(ctx)
		}
		return nil
	})
	n.Log.Log(context.Background(), slog.LevelInfo, "listening", "service", name, "addr", l.Addr().String())
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

// counts keeps the IMAP server's figures.
type counts struct{}

func (counts) SessionChange(delta int)              { metrics.IMAPSessions.Add(float64(delta)) }
func (counts) Login(bool)                           {}
func (counts) Command(_, _ string, _ time.Duration) {}
