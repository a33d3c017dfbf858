package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A login costs as much as some hundred commands, most of it keys. When all users
// of a pair come at once, because it failed over, what they wait for must not take
// the processors from mail, nor from the replica that has just come to serve and
// has its heartbeats to send. So only a few handshakes with clients and a few
// logins at a pair's replicas are under way at once; the others wait in the order
// of their coming, and cost memory. Sessions that go on and for which no user
// waits, have fewer places, of their own, and more time.
const (
	handshakesPerCPU = 2
	opensPerCPU      = 2
	restsPerCPU      = 1
	// restWithin is how long such a session waits for its turn.
	restWithin = 5 * time.Minute
	// handshakeFor and openFor are how long one keeps others out: what waits for a
	// replica that does not answer goes on beside them. They are long, so that a
	// machine that has too much to do is not given more.
	handshakeFor = time.Second
	openFor      = 2 * time.Second
)

// gate lets a few through at once.
type gate struct {
	places chan struct{}
	lent   time.Duration // at most
	queue  *atomic.Int64 // how many wait
}

func (s *Server) newGate(perCPU int, lent time.Duration) *gate {
	return &gate{make(chan struct{}, perCPU*runtime.GOMAXPROCS(0)), lent, &s.waiting}
}

// Waiting is the number of logins that wait for their turn.
func (s *Server) Waiting() int { return int(s.waiting.Load()) }

// errCrowd is the end of a wait that took too long.
var errCrowd = errors.New("too many log in at the same time")

// enter waits for a place. leave gives it back; it is given back after a while too.
func (g *gate) enter(ctx context.Context, within time.Duration) (leave func(), err error) {
	select {
	case g.places <- struct{}{}:
		return g.lend(), nil
	default:
	}
	g.queue.Add(1)
	defer g.queue.Add(-1)
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case g.places <- struct{}{}:
		return g.lend(), nil
	case <-t.C:
		return nil, errCrowd
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (g *gate) lend() (leave func()) {
	back := sync.OnceFunc(func() { <-g.places })
	t := time.AfterFunc(g.lent, back)
	return func() {
		t.Stop()
		back()
	}
}

// gates are the ones to a pair's replicas.
type gates struct {
	opens, rests *gate
}

func (s *Server) gatesOf(pair string) *gates {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gates[pair]
	if g == nil {
		g = &gates{s.newGate(opensPerCPU, openFor), s.newGate(restsPerCPU, openFor)}
		s.gates[pair] = g
	}
	return g
}

// open is Config.open when it is this session's turn: the wait for that is no part
// of the time that a replica has to be found.
func (f *front) open(user User, state string) (*back, error) {
	leave, err := f.srv.gatesOf(user.Pair).opens.enter(f.ctx, f.cfg.PreAuth/2)
	if err != nil {
		return nil, err
	}
	defer leave()
	return f.cfg.open(f.ctx, user, f.client, state)
}

// reopen is open for a session that goes on. While no answer is waited for it
// leaves the turns of the others to them.
func (p *link) reopen(state string) (*back, error) {
	f := p.front
	hurry, stop := p.rests()
	defer stop()
	leave, err := f.srv.gatesOf(f.user.Pair).rests.enter(hurry, restWithin)
	if err == nil {
		defer leave()
		return f.cfg.open(f.ctx, f.user, f.client, state)
	}
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	switch {
	case over:
		return nil, errOver
	case hurry.Err() == nil:
		return nil, err
	}
	return f.open(f.user, state)
}

// keyed is a client's connection under a handshake. It takes its turn when the
// client has said what it wants, and until the client is to answer: however far
// away that is, it keeps nobody out.
type keyed struct {
	net.Conn
	srv   *Server
	leave func() // nil: it is not its turn
}

func (k *keyed) enter(ctx context.Context, within time.Duration) (err error) {
	k.leave, err = k.srv.keys.enter(ctx, within)
	return err
}

func (k *keyed) Read(p []byte) (int, error) {
	k.done()
	return k.Conn.Read(p)
}

func (k *keyed) done() {
	if k.leave != nil {
		k.leave()
		k.leave = nil
	}
}

// inTurn is conf for handshakes over keyed connections.
func inTurn(conf *tls.Config, within time.Duration) *tls.Config {
	if conf == nil {
		return nil
	}
	own := conf.Clone()
	own.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if k, ok := hello.Conn.(*keyed); ok {
			if err := k.enter(hello.Context(), within); err != nil {
				return nil, err
			}
		}
		if conf.GetConfigForClient != nil {
			return conf.GetConfigForClient(hello)
		}
		return nil, nil
	}
	return own
}
