package lmtp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

// Routes knows where a pair can be reached. A route.Table is one. Its answers
// are hints; Redirect is told what the pair itself said. While ends when another
// node says that it serves.
type Routes interface {
	Candidates(pair string) []route.Node
	Redirect(pair, node string)
	While(pair, node string) context.Context
}

// Foreign is an LMTP server that is not one of our pairs, under a pair's name.
type Foreign struct {
	Addrs    []string // host:port, tried in order
	TLS      *tls.Config
	Implicit bool // TLS from the first byte, else STARTTLS when offered
}

// Config describes an Agent.
type Config struct {
	Hello   string // our name in LHLO
	Routes  Routes
	Foreign map[string]Foreign // by the name that mailHost gives

	// TLS returns the configuration for connections to a node, which start
	// with the handshake. Nil, or a nil result, connects in the clear.
	TLS func(node string) *tls.Config

	// Moved is told of a mailbox (uid@domain) that a pair says is at another one:
	// what is remembered of the directory is old. Nil: nobody. It is called in the
	// course of a delivery.
	Moved func(mailbox string)

	MaxIdle       int           // idle connections kept per node (default 64)
	MaxConns      int           // connections per node (default 256)
	IdleTime      time.Duration // an idle connection is closed after it (default 60 s)
	MaxRecipients int           // of one transaction (default 2,000)
	Rounds        int           // times that all candidates are tried in one attempt; 0 is until ctx ends

	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Phase deadlines (defaults 3 s, 20 s, 30 s). The context's end counts too.
	Connect, Command, DataDone time.Duration
}

// Agent delivers to pairs. Any number of goroutines may use it.
type Agent struct {
	conf  atomic.Pointer[Config]
	mu    sync.Mutex // guards nodes
	nodes map[string]*node

	bodies bodies
}

var _ deliver.Agent = (*Agent)(nil)

// New checks cfg and returns an Agent.
func New(cfg Config) (*Agent, error) {
	a := &Agent{nodes: map[string]*node{}}
	if err := a.Set(cfg); err != nil {
		return nil, err
	}
	return a, nil
}

// Set makes cfg hold for deliveries from now on. Connections in use stay, also those
// beyond MaxConns. On an error nothing changes.
func (a *Agent) Set(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conf.Store(&cfg)
	for _, n := range a.nodes {
		n.slots.bound(cfg.MaxConns)
	}
	return nil
}

func (a *Agent) cfg() *Config { return a.conf.Load() }

// check fills in what is zero.
func (cfg *Config) check() error {
	if cfg.Hello == "" {
		return errors.New("lmtp: no name for LHLO")
	}
	if cfg.Routes == nil {
		cfg.Routes = new(route.Table)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&cfg.IdleTime, time.Minute)
	def(&cfg.Connect, 3*time.Second)
	def(&cfg.Command, 20*time.Second)
	def(&cfg.DataDone, 30*time.Second)
	num(&cfg.MaxIdle, 64)
	num(&cfg.MaxConns, 256)
	num(&cfg.MaxRecipients, 2000)
	return nil
}

// Close closes the idle connections; those in use are closed after their
// transaction.
func (a *Agent) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.nodes {
		n.drain(true)
	}
	return nil
}

// candidates lists the nodes of pair in the order to try them.
func (a *Agent) candidates(pair string, room []*node) []*node {
	if f, ok := a.cfg().Foreign[pair]; ok {
		for _, addr := range f.Addrs {
			room = append(room, a.node(addr, addr, func() *tls.Config { return f.TLS }))
		}
		return room
	}
	for _, n := range a.cfg().Routes.Candidates(pair) {
		if addr := n.Addr[route.LMTP]; addr != "" {
			room = append(room, a.node(n.Name, addr, func() *tls.Config {
				if a.cfg().TLS == nil {
					return nil
				}
				return a.cfg().TLS(n.Name)
			}))
		}
	}
	return room
}

// node returns the connections to an address; a node that moved gets new ones.
func (a *Agent) node(name, addr string, conf func() *tls.Config) *node {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[name]
	if n != nil && n.addr == addr {
		return n
	}
	if n != nil {
		n.drain(true)
	}
	n = &node{name: name, addr: addr, tls: conf()}
	n.slots.bound(a.cfg().MaxConns)
	a.nodes[name] = n
	return n
}

// dial opens a connection to n.
func (a *Agent) dial(ctx context.Context, n *node, foreign *Foreign) (*smtp.Client, error) {
	cfg := smtp.ClientConfig{
		Protocol: smtp.LMTP, Hello: a.cfg().Hello, TLS: n.tls, Implicit: n.tls != nil, RequireTLS: n.tls != nil,
		Dial: a.cfg().Dial, Connect: a.cfg().Connect, Command: a.cfg().Command, DataDone: a.cfg().DataDone,
	}
	if foreign != nil {
		cfg.Implicit, cfg.RequireTLS = foreign.Implicit && n.tls != nil, foreign.Implicit
	}
	return smtp.Dial(ctx, n.addr, cfg)
}

// grace is the time that a node has to answer after another one has come to
// serve: at a hand-over it answers what it has begun.
const grace = 100 * time.Millisecond

// stay returns a context for what is asked of a node: it ends when ctx does, or
// soon after another node of the pair has come to serve.
func (a *Agent) stay(ctx context.Context, pair string, n *node) (context.Context, func()) {
	here, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(a.cfg().Routes.While(pair, n.name), func() {
		time.AfterFunc(grace, func() { end(route.ErrMoved) })
	})
	return here, func() {
		stop()
		end(nil)
	}
}

// Probe reports whether some node of pair answers: it connects, or uses an
// idle connection, and says NOOP.
func (a *Agent) Probe(ctx context.Context, pair string) error {
	f, foreign := a.cfg().Foreign[pair]
	err := fmt.Errorf("lmtp: %s: %w", pair, deliver.ErrNoRoute)
	for _, n := range a.candidates(pair, nil) {
		if err = n.slots.acquire(ctx); err != nil {
			return err
		}
		here, end := a.stay(ctx, pair, n)
		err = a.probe(here, n, foreign, &f)
		end()
		n.slots.release()
		if err == nil {
			return nil
		}
	}
	return err
}

func (a *Agent) probe(ctx context.Context, n *node, foreign bool, f *Foreign) error {
	c := n.take(time.Now(), a.cfg().IdleTime)
	if c == nil {
		if !foreign {
			f = nil
		}
		var err error
		if c, err = a.dial(ctx, n, f); err != nil {
			return err
		}
	}
	if err := c.Noop(ctx); err != nil {
		c.Close()
		n.drain(false)
		return err
	}
	n.give(c, time.Now(), a.cfg().MaxIdle, a.cfg().IdleTime)
	return nil
}

// Deliver gives d to the pair that is the next hop of its recipients, in one
// transaction for each MaxRecipients of them.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	results := make([]deliver.Result, len(d.Recipients))
	name, named := a.bodies.nameOf(d)
	most := a.cfg().MaxRecipients
	for from := 0; from < len(results); from += most {
		to := min(from+most, len(results))
		t := try{a: a, d: d, rcpts: d.Recipients[from:to], results: results[from:to], name: name, named: named}
		t.run(ctx)
		t.elsewhere(ctx)
	}
	return results
}

// elsewhere asks the pairs that the one asked has named, once: its answer is the
// result of recipients who have moved there.
func (t *try) elsewhere(ctx context.Context) {
	byPair := map[string][]int{}
	for i, pair := range t.pairs {
		if t.a.cfg().Moved != nil {
			t.a.cfg().Moved(t.rcpts[i].Mailbox)
		}
		if len(t.a.cfg().Routes.Candidates(pair)) > 0 {
			byPair[pair] = append(byPair[pair], i)
		}
	}
	for pair, at := range byPair {
		metrics.UserRedirects.With("lmtp").Add(float64(len(at)))
		next := try{a: t.a, d: t.d, rcpts: make([]mail.Recipient, len(at)), results: make([]deliver.Result, len(at)), name: t.name, named: t.named, claim: t.claim}
		for k, i := range at {
			next.rcpts[k] = t.rcpts[i]
			next.rcpts[k].NextHop = pair
		}
		next.run(ctx)
		for k, i := range at {
			if r := next.results[k]; t.results[i].Outcome != deliver.Unknown || r.Outcome != deliver.Deferred {
				t.results[i] = r // else an earlier transaction may have stored it
			}
		}
	}
}

// noAnswer is the result of a recipient that nobody has answered for yet.
func noAnswer(err error) deliver.Result {
	r := deliver.Defer(mail.StatusNoAnswer, "The mailbox server does not answer", err)
	r.Busy = true
	return r
}
