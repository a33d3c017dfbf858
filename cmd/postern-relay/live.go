package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/cmd/internal/journal"
	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/deliver/autoreply"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	outbound "github.com/postern-mail/postern/relay/deliver/smtp"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/dns/responder"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// inside is what a relay makes of the options that may change while it runs. It is
// made whole and never changed; a reload makes another one. Who has begun something
// with one goes on with it: a session, a transaction, a question to the directory.
type inside struct {
	c        *config.Relay
	resolver dns.Resolver
	dir      *lookups
	expander *expand.Expander
	filters  []filter
	clientCA []byte      // of public.client_ca
	cert     *tls.Config // for clients and the Internet; nil without a listener for them
}

// now is the inside in use.
func (r *relay) now() *inside { return r.in.Load() }

// makeInside makes what c says; with the directory of before where nothing about it
// has changed. Nothing in it runs yet.
func (r *relay) makeInside(c *config.Relay, before *inside) (*inside, error) {
	if err := checkPublic(c); err != nil {
		return nil, err
	}
	in := &inside{c: c}
	var err error
	if err := in.openCert(r.public, before); err != nil {
		return nil, fmt.Errorf("public.client_ca: %w", err)
	}
	if in.resolver, err = dns.NewClient(dns.Config{Servers: c.DNS.Servers}); err != nil {
		return nil, fmt.Errorf("dns.servers: %w", err)
	}
	if in.filters, err = makeFilters(c, in.resolver, before, r.n.Log); err != nil {
		return nil, err
	}
	var old *lookups
	if before != nil {
		old = before.dir
	}
	if in.dir, err = r.makeLookups(c, old); err != nil {
		return nil, err
	}
	cfg, err := r.expandConfig(in)
	if err == nil {
		in.expander, err = expand.New(cfg)
	}
	if err != nil {
		in.dir.closeUnless(old)
		return nil, err
	}
	return in, nil
}

// openCert makes the TLS configuration of the public listeners. That of before stays as
// long as it would be the same: clients resume their sessions with it.
func (in *inside) openCert(public *tlsconf.Public, before *inside) error {
	cas, text, err := pool(in.c.Public.ClientCA)
	if err != nil {
		return err
	}
	in.clientCA = text
	switch {
	case public == nil:
	case before != nil && bytes.Equal(before.clientCA, text):
		in.cert = before.cert
	default:
		in.cert = public.Server(cas)
	}
	return nil
}

// openInside makes the first inside.
func (r *relay) openInside() error {
	in, err := r.makeInside(r.c, nil)
	if err != nil {
		return err
	}
	r.in.Store(in)
	in.dir.run()
	r.n.OnStop("directory", func(context.Context) error {
		r.endRetired()
		r.retired.Wait()
		r.now().dir.rest()
		r.now().dir.servers.Close()
		return nil
	})
	return nil
}

// reload makes another inside of next and has every part use it, or says why not
// and changes nothing.
func (r *relay) reload(_, next *config.Relay) error {
	before := r.now()
	in, err := r.makeInside(next, before)
	if err != nil {
		return err
	}
	use, err := r.prepare(in)
	if err != nil {
		in.dir.closeUnless(before.dir)
		return err
	}
	if in.dir != before.dir {
		before.dir.rest()
		in.dir.run()
		r.retire(before)
	}
	r.in.Store(in)
	use()
	return nil
}

// prepare makes the settings of all parts that run, and returns what gives them to
// the parts. What could be refused is refused here.
func (r *relay) prepare(in *inside) (use func(), err error) {
	var uses []func()
	var errs []error
	// add takes a part's Set and a New that checks the same.
	add := func(check, set func() error) {
		if err := check(); err != nil {
			errs = append(errs, err)
		}
		uses = append(uses, func() {
			if err := set(); err != nil { // it was just checked
				r.n.Log.Error("a part has refused its settings", "err", err)
			}
		})
	}
	door := r.doorConfig(in)
	add(func() error { _, err := transaction.New(door); return err }, func() error { return r.acceptor.Set(door) })
	for _, s := range r.mail {
		engine, service := r.engineConfig(in, s), r.serviceConfig(in, s)
		add(func() error { _, err := smtpd.New(service); return err }, func() error { return s.service.Set(service) })
		add(func() error { _, err := smtp.NewServer(engine); return err }, func() error { return s.server.Set(engine) })
		uses = append(uses, func() { r.dispatcher.SetMaxConns(s.name, in.c.SMTP.MaxSessions) })
	}
	for _, s := range r.access {
		cfg := r.proxyConfig(in, s)
		add(func() error { _, err := proxy.New(cfg); return err }, func() error { return s.server.Set(cfg) })
	}
	if r.outside != nil {
		cfg, err := outsideConfig(in)
		if err != nil {
			return nil, err
		}
		add(func() error { _, err := outbound.New(cfg); return err }, func() error { return r.outside.Set(cfg) })
	}
	if r.responder != nil {
		cfg := r.responderConfig(in)
		add(func() error { _, err := responder.New(cfg); return err }, func() error { return r.responder.Set(cfg) })
	}
	add(func() error { return journal.Check(in.c.Tracing) }, func() error { return r.record.Set(in.c.Journal, in.c.Tracing) })
	notices, err := r.noticeConfig(in)
	if err != nil {
		return nil, err
	}
	add(func() error { _, err := bounce.New(notices); return err }, func() error { return r.bouncer.Set(notices) })
	pool := r.poolConfig(in)
	add(func() error { _, err := lmtp.New(pool); return err }, func() error { return r.pool.Set(pool) })
	uses = append(uses, func() {
		r.n.Routes.Assume(staticNodes(in.c))
		r.queue.SetLimits(queueLimits(in.c))
		r.answers.SetRules(answerRules(in.c))
		r.jobs.SetRules(jobRules(in.c))
	})
	return func() {
		for _, f := range uses {
			f()
		}
	}, errors.Join(errs...)
}

// retire closes the connections of a directory that is not asked any more when what
// was begun with it has had its time.
func (r *relay) retire(before *inside) {
	ctx, servers := r.retiring, before.dir.servers // the rest of it is not kept for that
	t := time.NewTimer(lasting(before.c))
	r.retired.Go(func() {
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		servers.Close()
	})
}

// lasting is how long what has begun may still ask the directory that it began
// with: a session that comes to its login, a transaction up to the next command and
// the end of its data. Who takes longer is told to try again.
func lasting(c *config.Relay) time.Duration {
	return max(c.SMTP.CommandTimeout+c.SMTP.DataTimeout, c.Proxy.LoginTimeout) + 2*c.Directory.Timeout
}

// doorConfig is how mail is accepted.
func (r *relay) doorConfig(in *inside) transaction.Config {
	c := in.c
	cfg := transaction.Config{
		Hostname: c.Hostname, Origin: c.Node, Domain: c.Directory.DefaultDomain,
		Expander: in.expander, Queue: r.queue, Pairs: r.pairs, PairDeadline: c.Accept.PairDeadline, MaxReceived: c.SMTP.MaxReceived,
		MaxOwn: c.SMTP.MaxOwnReceived, HoldLoops: c.SMTP.HoldLoops, Filters: in.optIn(),
		Log: r.n.Log, Mail: r.mailLog,
	}
	s := &in.dir.schema
	if s.Capture != "" {
		cfg.Copies = in.expander.Sender
	}
	if len(c.Expand.GuaranteedChannels) > 0 || s.SenderRecipients != "" || s.SenderMaxBlocks != "" {
		cfg.Submission = in.expander.Submission
	}
	if c.Expand.Reverse {
		cfg.Reverse = in.expander.Reverse
	}
	if c.Accept.Mode != "through" {
		cfg.Mode = func(mail.Channel, string) transaction.Mode { return transaction.Local }
	}
	return cfg
}

func queueLimits(c *config.Relay) queue.Limits {
	return queue.Limits{MaxMessages: int64(c.Queue.MaxMessages), MaxBytes: int64(c.Queue.MaxBytes), MinFree: int64(c.Queue.Reserve)}
}

func answerRules(c *config.Relay) autoreply.Rules {
	a := &c.Autoreply
	return autoreply.Rules{PerHour: a.PerHour, MaxContent: int64(a.MaxContent), Spam: a.SpamFields}
}

func jobRules(c *config.Relay) jobctl.Rules {
	schedule, hold := c.Retry.Schedule, c.Retry.HoldCheck
	if hold == 0 {
		hold = -1 // held mail waits for an operator
	}
	return jobctl.Rules{
		Backoff:  map[mail.Priority][]time.Duration{mail.Urgent: schedule, mail.Normal: schedule, mail.NonUrgent: schedule},
		Notices:  c.Retry.Warn,
		Lifetime: c.Retry.Lifetime, HoldCheck: hold, QuotaGrace: c.Retry.QuotaGrace,
		Limits: map[mail.Channel]jobctl.Limit{
			mail.ChannelSMTP: {Channel: c.Outbound.Concurrency, Destination: c.Outbound.PerDestination},
			mail.ChannelLMTP: {Channel: 4 * c.LMTP.Connections, Destination: c.LMTP.Connections},
		},
	}
}

// checker checks logins.
func (r *relay) checker(in *inside) *login.Checker {
	return &login.Checker{
		Directory: in.dir.cache, Netgroups: in.dir.netgroups, Pair: r.n.Routes.Pair, Host: login.HostOf(in.resolver), AdminFrom: in.c.Trust.Admin.Contains, Log: r.n.Log,
		VerifyCertificate: in.dir.schema.Certificate != "",
	}
}

// expanderNow asks the expander in use, for parts that keep one.
type expanderNow struct{ r *relay }

func (x expanderNow) Again(ctx context.Context, env *mail.Envelope, rcpt mail.Recipient, msg []byte, trace func(expand.Step)) (*expand.Next, error) {
	return x.r.now().expander.Again(ctx, env, rcpt, msg, trace)
}

func (x expanderNow) OnHold(ctx context.Context, env *mail.Envelope, rcpt mail.Recipient) bool {
	return x.r.now().expander.OnHold(ctx, env, rcpt)
}

// mailService is a listener that takes mail.
type mailService struct {
	name     string
	addrs    []string
	role     smtpd.Role
	implicit bool
	service  *smtpd.Service
	server   *smtp.Server
}

// accessService is a listener of the access proxy.
type accessService struct {
	name     string
	addrs    []string
	protocol proxy.Protocol
	implicit bool
	server   *proxy.Server
}
