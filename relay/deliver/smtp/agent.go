package smtp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
)

// Config describes an Agent.
type Config struct {
	Hello    string // our name in EHLO
	Resolver dns.Resolver
	Port     string // of exchangers, default "25"

	// Smarthost, "host:port", takes all mail. Routes names the server,
	// "host:port", for single domains, in lower case; "*" is all others.
	Smarthost string
	Routes    map[string]string

	TLS        *tls.Config // base of every handshake; nil is the default
	RequireTLS bool        // never in the clear

	// SelfNames and SelfAddrs are this relay: an exchanger by such a name, or
	// at such an address, is us.
	SelfNames []string
	SelfAddrs []netip.Addr

	MaxHosts int           // addresses tried in one attempt (default 6)
	IdleTime time.Duration // a connection is kept after a message (default 4 s)
	MaxIdle  int           // connections kept in all (default 100)

	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Deadlines: connecting (30 s), a command (5 min), a piece of the message
	// (3 min), the reply to it (10 min); RFC 5321 4.5.3.2.
	Connect, Command, DataBlock, DataDone time.Duration
}

// Agent delivers to other domains. Any number of goroutines may use it.
type Agent struct {
	conf atomic.Pointer[Config]
	self map[string]bool

	mu     sync.Mutex // guards the fields below
	idle   map[string][]*session
	kept   int
	closed bool
}

var _ deliver.Agent = (*Agent)(nil)

// New checks cfg and returns an Agent.
func New(cfg Config) (*Agent, error) {
	a := &Agent{self: map[string]bool{strings.ToLower(cfg.Hello): true}, idle: map[string][]*session{}}
	for _, n := range cfg.SelfNames {
		a.self[strings.ToLower(n)] = true
	}
	if err := a.Set(cfg); err != nil {
		return nil, err
	}
	return a, nil
}

// Set makes cfg hold for connections from now on, but for the names of this relay;
// those that are kept are closed. On an error nothing changes.
func (a *Agent) Set(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	a.conf.Store(&cfg)
	a.dropIdle(false)
	return nil
}

func (a *Agent) cfg() *Config { return a.conf.Load() }

// check fills in what is zero.
func (cfg *Config) check() error {
	if cfg.Hello == "" {
		return errors.New("smtp: no name for EHLO")
	}
	if cfg.Resolver == nil && cfg.Smarthost == "" {
		return errors.New("smtp: no resolver and no smarthost")
	}
	if cfg.Port == "" {
		cfg.Port = "25"
	}
	if cfg.MaxHosts <= 0 {
		cfg.MaxHosts = 6
	}
	if cfg.MaxIdle <= 0 {
		cfg.MaxIdle = 100
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&cfg.IdleTime, 4 * time.Second},
		{&cfg.Connect, 30 * time.Second},
		{&cfg.Command, 5 * time.Minute},
		{&cfg.DataBlock, 3 * time.Minute},
		{&cfg.DataDone, 10 * time.Minute},
	} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	return nil
}

// Close ends the connections that are kept.
func (a *Agent) Close() error {
	a.dropIdle(true)
	return nil
}

// dropIdle ends the connections that are kept, and keeps none any more if closed.
func (a *Agent) dropIdle(closed bool) {
	a.mu.Lock()
	idle := a.idle
	a.idle, a.kept, a.closed = map[string][]*session{}, 0, a.closed || closed
	a.mu.Unlock()
	for _, list := range idle {
		for _, s := range list {
			s.timer.Stop()
			s.close()
		}
	}
}

// Deliver gives d to its next hop, a domain.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	if !strict(d.Body) {
		return deliver.All(d, deliver.Result{Outcome: deliver.Failed, Status: mail.StatusBadContent, Text: "Message has a bare CR, a bare LF or a NUL"})
	}
	t := &try{a: a, d: d, results: make([]deliver.Result, len(d.Recipients))}
	t.check()
	if len(t.open) == 0 {
		return t.results
	}
	domain := strings.ToLower(d.Recipients[0].NextHop)
	if domain == "" {
		domain = strings.ToLower(d.Recipients[0].Address.Domain)
	}
	if s := a.take(domain); s != nil && t.run(ctx, s) {
		return t.results
	}
	cfg := a.cfg() // before the targets: a connection is kept if both are of now
	targets, fail := a.targets(ctx, domain)
	if fail != nil {
		t.all(*fail)
		return t.results
	}
	tried := 0
	for _, target := range targets {
		if tried == cfg.MaxHosts || ctx.Err() != nil {
			break
		}
		tried++
		s, err := a.connect(ctx, cfg, domain, target)
		if err != nil {
			t.unreached(target, err)
			continue
		}
		if t.run(ctx, s) {
			break
		}
	}
	return t.results
}

// take returns a connection kept for domain, or nil.
func (a *Agent) take(domain string) *session {
	a.mu.Lock()
	defer a.mu.Unlock()
	for list := a.idle[domain]; len(list) > 0; list = a.idle[domain] {
		s := list[len(list)-1]
		if a.idle[domain] = list[:len(list)-1]; len(list) == 1 {
			delete(a.idle, domain)
		}
		a.kept--
		if s.timer.Stop() {
			return s
		}
	}
	return nil
}

// maxUses is how many messages one connection carries.
const maxUses = 100

// keep keeps a connection for the next message to its domain, unless it was
// opened by what held before Set.
func (a *Agent) keep(s *session) {
	s.uses++
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || s.cfg != a.cfg() || a.kept >= s.cfg.MaxIdle || s.uses >= maxUses {
		go s.quit()
		return
	}
	a.kept++
	s.fresh = false
	s.timer = time.AfterFunc(s.cfg.IdleTime, func() { a.expire(s) })
	a.idle[s.domain] = append(a.idle[s.domain], s)
}

// expire ends a connection that nobody used again.
func (a *Agent) expire(s *session) {
	a.mu.Lock()
	list := a.idle[s.domain]
	for i, o := range list {
		if o == s {
			a.idle[s.domain] = append(list[:i:i], list[i+1:]...)
			if len(list) == 1 {
				delete(a.idle, s.domain)
			}
			a.kept--
			break
		}
	}
	a.mu.Unlock()
	s.quit()
}

// strict reports whether body has CRLF line ends only, and no NUL.
func strict(body [][]byte) bool {
	last := byte(0)
	for _, b := range body {
		for _, c := range b {
			if c == 0 || c == '\n' && last != '\r' || last == '\r' && c != '\n' {
				return false
			}
			last = c
		}
	}
	return last != '\r'
}
