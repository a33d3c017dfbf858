package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/relay/dispatcher"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// openPublic reads the certificate shown to clients and the Internet and watches it
// for changes.
func (r *relay) openPublic() error {
	if !slices.ContainsFunc([]string{"mx", "submit", "proxy"}, r.has) {
		return nil
	}
	p, err := tlsconf.LoadPublic(r.c.Public.Cert, r.c.Public.Key)
	if err != nil {
		return err
	}
	r.n.Go("public certificate", func(ctx context.Context) error { p.Watch(ctx, 10*time.Second, r.n.Log); return nil })
	r.public = p
	return nil
}

// loopback tells who may send a password without TLS.
func loopback(c *config.Relay) func(peer netip.AddrPort) bool {
	return func(peer netip.AddrPort) bool { return c.Proxy.PlainLoopback && peer.Addr().Unmap().IsLoopback() }
}

// serveMail starts the services that take mail.
func (r *relay) serveMail() error {
	if r.has("mx") {
		r.mail = append(r.mail, &mailService{name: "mx", addrs: r.c.SMTP.Listen, role: smtpd.MX})
	}
	if r.has("submit") {
		r.mail = append(r.mail,
			&mailService{name: "submission", addrs: r.c.Submission.Listen, role: smtpd.Submission},
			&mailService{name: "submissions", addrs: r.c.Submission.TLSListen, role: smtpd.Submission, implicit: true})
	}
	r.mail = slices.DeleteFunc(r.mail, func(s *mailService) bool { return len(s.addrs) == 0 })
	var services []dispatcher.Service
	for _, s := range r.mail {
		var err error
		if s.service, err = smtpd.New(r.serviceConfig(r.now(), s)); err != nil {
			return err
		}
		if s.server, err = smtp.NewServer(r.engineConfig(r.now(), s)); err != nil {
			return err
		}
		services = append(services, dispatcher.Service{
			Name: s.name, Addrs: s.addrs, Server: s.server, MaxConns: r.c.SMTP.MaxSessions, Silent: s.implicit,
		})
	}
	if len(services) == 0 {
		return nil
	}
	return r.dispatch(services)
}

// serviceConfig is what the sessions of a service do.
func (r *relay) serviceConfig(in *inside, s *mailService) smtpd.Config {
	c := in.c
	cfg := smtpd.Config{
		Name: s.name, Role: s.role, Acceptor: r.acceptor, MayRelay: c.Trust.Relay, Hostname: c.Hostname,
		Limits: smtpd.Limits{Sessions: c.SMTP.MaxPerAddress, Unlimited: func(a netip.Addr) bool {
			return a.IsLoopback() || c.Trust.Relay.Contains(a) || c.Trust.Proxy.Contains(a)
		}},
		Log: r.n.Log, Mail: r.mailLog,
	}
	cfg.Filters = in.following("mx")
	if s.role == smtpd.Submission {
		cfg.Auth, cfg.Filters = r.checker(in), in.following("submit")
	}
	return cfg
}

func (r *relay) dispatch(services []dispatcher.Service) error {
	d, err := dispatcher.New(dispatcher.Config{Services: services, Listen: daemon.ListenWith, Log: r.n.Log})
	if err != nil {
		return err
	}
	r.dispatcher = d
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

// engineConfig is how a service speaks SMTP.
func (r *relay) engineConfig(in *inside, s *mailService) smtp.ServerConfig {
	limits := smtp.DefaultLimits()
	c, trust := &in.c.SMTP, &in.c.Trust
	limits.Size, limits.Recipients, limits.Errors = int64(c.MaxSize), c.MaxRecipients, c.MaxErrors
	limits.CommandTimeout, limits.DataTimeout = c.CommandTimeout, c.DataTimeout
	cfg := smtp.ServerConfig{
		Protocol: smtp.SMTP, Hostname: in.c.Hostname, Limits: limits, Log: r.n.Log, TLS: in.cert, ImplicitTLS: s.implicit,
		TrustProxy:   func(p netip.AddrPort) bool { return trust.Proxy.Contains(p.Addr()) },
		TrustXCLIENT: func(p netip.AddrPort) bool { return trust.XCLIENT.Contains(p.Addr()) },
		LineEnds: func(p netip.AddrPort) smtp.LineEnds {
			if trust.NormalizeBare.Contains(p.Addr()) {
				return smtp.NormalizeBare
			}
			return smtp.RejectBare
		},
		Admit:      r.admit(int64(c.InFlight)),
		NewSession: counted(s.name, login.Sessions(s.service.NewSession)),
	}
	if s.role == smtpd.Submission {
		cfg.Mechanisms = []string{auth.Plain, auth.Login}
		if in.c.Public.ClientCA != "" {
			cfg.Mechanisms = append(cfg.Mechanisms, auth.External)
		}
		cfg.PlainWithoutTLS = loopback(in.c)
	}
	return cfg
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
	for _, s := range []*accessService{
		{name: "imap", addrs: r.c.IMAP.Listen, protocol: proxy.IMAP},
		{name: "imaps", addrs: r.c.IMAP.TLSListen, protocol: proxy.IMAP, implicit: true},
		{name: "pop3", addrs: r.c.POP3.Listen, protocol: proxy.POP3},
		{name: "pop3s", addrs: r.c.POP3.TLSListen, protocol: proxy.POP3, implicit: true},
	} {
		if len(s.addrs) == 0 {
			continue
		}
		var err error
		if s.server, err = proxy.New(r.proxyConfig(r.now(), s)); err != nil {
			return err
		}
		r.access = append(r.access, s)
		if err := r.listen(s.name, s.addrs, s.server); err != nil {
			return err
		}
	}
	return nil
}

// proxyConfig is what the sessions of an access proxy do.
func (r *relay) proxyConfig(in *inside, s *accessService) proxy.Config {
	c := &in.c.Proxy
	return proxy.Config{
		Protocol: s.protocol, Hostname: in.c.Hostname, TLS: in.cert, Implicit: s.implicit, PlainWithoutTLS: loopback(in.c),
		Login: countLogins(s.name, r.checker(in).Proxy), Routes: r.n.Routes, BackendTLS: r.n.TLS.Client("", tlsconf.Backend),
		Moved: r.moved, Within: c.BackendTimeout, PreAuth: c.LoginTimeout, Idle: c.IdleTimeout,
		MaxConns: c.MaxSessions, PerAddress: c.MaxPerAddress, Spool: in.c.Dir, Log: r.n.Log,
	}
}

// listen serves an access proxy on its addresses until the stop.
func (r *relay) listen(name string, addrs []string, p *proxy.Server) error {
	r.n.Metrics.GaugeFunc(metrics.ProxyOpenNow, "Client sessions open now, by service.", map[string]string{"service": name},
		func() float64 { return float64(p.Sessions()) })
	r.n.Metrics.GaugeFunc(metrics.ProxyWaiting, "Logins that wait because many come at once, by service.", map[string]string{"service": name},
		func() float64 { return float64(p.Waiting()) })
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
