package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/relay/dispatcher"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// public is the certificate shown to clients and the Internet, watched for
// changes.
func (r *relay) public() (*tls.Config, error) {
	p, err := tlsconf.LoadPublic(r.c.Public.Cert, r.c.Public.Key)
	if err != nil {
		return nil, err
	}
	cas, err := pool(r.c.Public.ClientCA)
	if err != nil {
		return nil, err
	}
	r.n.Go("public certificate", func(ctx context.Context) error { p.Watch(ctx, 10*time.Second, r.n.Log); return nil })
	return p.Server(cas), nil
}

// loopback reports whether a client may send its password without TLS.
func (r *relay) loopback(peer netip.AddrPort) bool {
	return r.c.Proxy.PlainLoopback && peer.Addr().Unmap().IsLoopback()
}

// serveMail starts the services that take mail.
func (r *relay) serveMail() error {
	cert, err := r.public()
	if err != nil {
		return err
	}
	checker := r.checker()
	var services []dispatcher.Service
	add := func(name string, addrs []string, role smtpd.Role, implicit bool) error {
		if len(addrs) == 0 {
			return nil
		}
		cfg := smtpd.Config{
			Name: name, Role: role, Acceptor: r.acceptor, MayRelay: r.c.Trust.Relay, Hostname: r.c.Hostname,
			Limits: smtpd.Limits{Sessions: r.c.SMTP.MaxPerAddress, Unlimited: func(a netip.Addr) bool {
				return a.IsLoopback() || r.c.Trust.Relay.Contains(a) || r.c.Trust.Proxy.Contains(a)
			}},
			Log: r.n.Log, Mail: r.mailLog,
		}
		engine := r.engine(cert, implicit)
		if role == smtpd.Submission {
			cfg.Auth = checker
			engine.Mechanisms = []string{auth.Plain, auth.Login}
			if r.c.Public.ClientCA != "" {
				engine.Mechanisms = append(engine.Mechanisms, auth.External)
			}
			engine.PlainWithoutTLS = r.loopback
		}
		service, err := smtpd.New(cfg)
		if err != nil {
			return err
		}
		engine.NewSession = counted(name, login.Sessions(service.NewSession))
		server, err := smtp.NewServer(engine)
		if err != nil {
			return err
		}
		services = append(services, dispatcher.Service{
			Name: name, Addrs: addrs, Server: server, MaxConns: r.c.SMTP.MaxSessions, Silent: implicit,
		})
		return nil
	}
	if r.has("mx") {
		err = add("mx", r.c.SMTP.Listen, smtpd.MX, false)
	}
	if err == nil && r.has("submit") {
		if err = add("submission", r.c.Submission.Listen, smtpd.Submission, false); err == nil {
			err = add("submissions", r.c.Submission.TLSListen, smtpd.Submission, true)
		}
	}
	if err != nil || len(services) == 0 {
		return err
	}
	return r.dispatch(services)
}

// checker checks logins.
func (r *relay) checker() *login.Checker {
	return &login.Checker{
		Directory: r.dir.cache, Netgroups: r.dir.netgroups, Pair: r.n.Routes.Pair, Host: login.HostOf(r.resolver), AdminFrom: r.c.Trust.Admin.Contains, Log: r.n.Log,
	}
}

func (r *relay) dispatch(services []dispatcher.Service) error {
	d, err := dispatcher.New(dispatcher.Config{Services: services, Listen: daemon.ListenWith, Log: r.n.Log})
	if err != nil {
		return err
	}
	r.connections = func() (n int) {
		for _, s := range services {
			n += int(d.Connections(s.Name))
		}
		return n
	}
	for _, s := range services {
		r.n.Metrics.GaugeFunc(metrics.SMTPOpenNow, "Connections open now, by service.", map[string]string{"service": s.Name},
			func() float64 { return float64(d.Connections(s.Name)) })
	}
	r.n.Go("dispatcher", func(context.Context) error { return d.Run(context.Background()) })
	r.n.OnStop("dispatcher", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return d.Shutdown(ctx)
	})
	r.n.Drain = func(_ context.Context, on bool) error {
		if on {
			d.Drain()
		} else {
			d.Undrain()
		}
		return nil
	}
	return nil
}

// engine is what every SMTP listener of this relay has in common.
func (r *relay) engine(cert *tls.Config, implicit bool) smtp.ServerConfig {
	limits := smtp.DefaultLimits()
	s := &r.c.SMTP
	limits.Size, limits.Recipients, limits.Errors = int64(s.MaxSize), s.MaxRecipients, s.MaxErrors
	limits.CommandTimeout, limits.DataTimeout = s.CommandTimeout, s.DataTimeout
	trust := r.c.Trust
	return smtp.ServerConfig{
		Protocol: smtp.SMTP, Hostname: r.c.Hostname, Limits: limits, Log: r.n.Log, TLS: cert, ImplicitTLS: implicit,
		TrustProxy:   func(p netip.AddrPort) bool { return trust.Proxy.Contains(p.Addr()) },
		TrustXCLIENT: func(p netip.AddrPort) bool { return trust.XCLIENT.Contains(p.Addr()) },
		LineEnds: func(p netip.AddrPort) smtp.LineEnds {
			if trust.NormalizeBare.Contains(p.Addr()) {
				return smtp.NormalizeBare
			}
			return smtp.RejectBare
		},
		Admit: r.admit(int64(s.InFlight)),
	}
}

// admit bounds the octets of messages in memory, over all listeners.
func (r *relay) admit(limit int64) func(n int64) (func(), error) {
	return func(n int64) (func(), error) {
		if r.inFlight.Add(n) > limit && n < r.inFlight.Load() { // a single message always fits
			r.inFlight.Add(-n)
			return nil, &smtp.Reply{Code: 452, Status: mail.StatusSystemFull, Text: "Too many messages under way, try again"}
		}
		var once atomic.Bool
		return func() {
			if !once.Swap(true) {
				r.inFlight.Add(-n)
			}
		}, nil
	}
}

// counted counts the sessions of a service.
func counted(name string, f func(context.Context, *smtp.ConnInfo) (smtp.Session, error)) func(context.Context, *smtp.ConnInfo) (smtp.Session, error) {
	n := metrics.SMTPSessions.With(name)
	return func(ctx context.Context, c *smtp.ConnInfo) (smtp.Session, error) {
		n.Inc()
		return f(ctx, c)
	}
}

// serveAccess starts the access proxies.
func (r *relay) serveAccess() error {
	if !r.has("proxy") {
		return nil
	}
	cert, err := r.public()
	if err != nil {
		return err
	}
	checker := r.checker()
	for _, s := range []struct {
		name     string
		addrs    []string
		protocol proxy.Protocol
		implicit bool
	}{
		{"imap", r.c.IMAP.Listen, proxy.IMAP, false},
		{"imaps", r.c.IMAP.TLSListen, proxy.IMAP, true},
		{"pop3", r.c.POP3.Listen, proxy.POP3, false},
		{"pop3s", r.c.POP3.TLSListen, proxy.POP3, true},
	} {
		if len(s.addrs) == 0 {
			continue
		}
		p, err := proxy.New(proxy.Config{
			Protocol: s.protocol, Hostname: r.c.Hostname, TLS: cert, Implicit: s.implicit, PlainWithoutTLS: r.loopback,
			Login: countLogins(s.name, checker.Proxy), Routes: r.n.Routes, BackendTLS: r.n.TLS.Client("", tlsconf.Backend),
			Within: r.c.Proxy.BackendTimeout, PreAuth: r.c.Proxy.LoginTimeout, Idle: r.c.Proxy.IdleTimeout,
			MaxConns: r.c.Proxy.MaxSessions, PerAddress: r.c.Proxy.MaxPerAddress, Log: r.n.Log,
		})
		if err != nil {
			return err
		}
		if err := r.listen(s.name, s.addrs, p); err != nil {
			return err
		}
	}
	return nil
}

// listen serves an access proxy on its addresses until the stop.
func (r *relay) listen(name string, addrs []string, p *proxy.Server) error {
	r.sessions = append(r.sessions, p)
	r.n.Metrics.GaugeFunc(metrics.ProxyOpenNow, "Client sessions open now, by service.", map[string]string{"service": name},
		func() float64 { return float64(p.Sessions()) })
	for _, addr := range addrs {
		l, err := daemon.ListenWith(net.ListenConfig{KeepAlive: -1}, addr)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		dispatcher.Guard(l)
		run, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		r.n.Go(name, func(context.Context) error { defer close(done); return p.Serve(run, l) })
		r.n.OnStop(name, func(ctx context.Context) error {
			cancel()
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	return nil
}

func countLogins(name string, f func(context.Context, auth.Credentials, proxy.Client) (proxy.User, error)) func(context.Context, auth.Credentials, proxy.Client) (proxy.User, error) {
	ok, refused := metrics.ProxyLogins.With(name, "ok"), metrics.ProxyLogins.With(name, "refused")
	return func(ctx context.Context, cred auth.Credentials, c proxy.Client) (proxy.User, error) {
		u, err := f(ctx, cred, c)
		if err != nil {
			refused.Inc()
		} else {
			ok.Inc()
		}
		return u, err
	}
}
