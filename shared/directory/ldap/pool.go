package ldap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/metrics"
)

// maxTimeouts is how many queries in a row may stay unanswered before a server
// counts as down. One slow search must not take a server from everybody.
const maxTimeouts = 3

// pool asks the servers in order. Each query goes to the first that is
// healthy, and to the next one when that fails.
type pool struct {
	cfg     *Config
	servers []*server
	turn    atomic.Uint32
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup // probes

	mu     sync.Mutex // guards closed against a probe that starts
	closed bool
}

func newPool(cfg *Config) (*pool, error) {
	if len(cfg.Servers) == 0 {
		return nil, errors.New("no servers")
	}
	p := &pool{cfg: cfg}
	for n, s := range cfg.Servers {
		e, err := parseEndpoint(s)
		if err != nil {
			return nil, err
		}
		p.servers = append(p.servers, newServer(cfg, n, e))
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
	for _, s := range p.servers {
		s.down.Store(true)
		s.drop()
		s.end()
	}
}

// query is one exchange on a connection.
type query struct {
	op        string                           // "search", "page", "bind" or "write"
	ask       func(*line) error                // on a line shared with others,
	paged     bool                             // or on one of its own, or
	stock     func(*server) *stock[*ldap.Conn] // on a connection of its own, from there
	run       func(*ldap.Conn) error           // with the library
	slowIsBad bool                             // count time-outs against the server
	paused    time.Duration                    // of its time, what the asker has used
}

// do runs q on the first server that can answer it. The error is the server's
// last word, or ErrUnavailable.
func (p *pool) do(ctx context.Context, q *query) error {
	var last error
	for _, s := range p.order() {
		if s.down.Load() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		err := p.try(ctx, s, q)
		if !elsewhere(err) {
			return err
		}
		last = err
	}
	if last == nil {
		return directory.ErrUnavailable
	}
	return fmt.Errorf("%w: %w", directory.ErrUnavailable, last)
}

// exploreEvery is how many queries pass between two that go to a server that is
// not the fastest, to learn what has become of it.
const exploreEvery = 64

// order is the servers in the order in which they are to be asked: as
// configured or, with Fastest, by the time they took lately.
func (p *pool) order() []*server {
	if !p.cfg.Fastest || len(p.servers) == 1 {
		return p.servers
	}
	list := slices.Clone(p.servers)
	slices.SortStableFunc(list, func(a, b *server) int { return cmp.Compare(a.took.Load(), b.took.Load()) })
	if n := p.turn.Add(1); n%exploreEvery == 0 {
		other := 1 + int(n/exploreEvery)%(len(list)-1)
		list[0], list[other] = list[other], list[0]
	}
	return list
}

// measured remembers how long an answer took: an average in which the last
// eight count for two thirds.
func (s *server) measured(took time.Duration) {
	old := s.took.Load()
	if old == 0 {
		s.took.Store(int64(took))
		return
	}
	s.took.Store(old + (int64(took)-old)/8)
}

// try runs q on s, again when a connection turns out to have been closed while
// it was idle.
func (p *pool) try(ctx context.Context, s *server, q *query) error {
	for attempt := 0; ; attempt++ {
		start := time.Now()
		sent, used, err := p.once(ctx, s, q)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		took := time.Since(start) - q.paused
		if sent {
			metrics.DirRoundTrips.With(q.op).Inc()
			if q.op == "search" {
				s.measured(took)
			}
		}
		if p.cfg.Observe != nil {
			p.cfg.Observe(q.op, s.n, took, err)
		}
		switch {
		case !fatal(err):
			s.timeouts.Store(0)
			return err
		case used && took < p.cfg.Timeout/2 && attempt <= len(s.active):
			continue // the next connection is new, or fails as a new one
		case sent && took >= p.cfg.Timeout && (!q.slowIsBad || s.timeouts.Add(1) < maxTimeouts):
			return fmt.Errorf("%w: %w", directory.ErrSlow, err)
		}
		p.fail(s, err)
		return err
	}
}

// once runs q on one connection: sent says that there was one, used that it
// had existed before.
func (p *pool) once(ctx context.Context, s *server, q *query) (sent, used bool, err error) {
	switch {
	case q.paged:
		return borrow(ctx, s, s.pages, q.ask)
	case q.ask == nil:
		return borrow(ctx, s, q.stock(s), q.run)
	}
	l, used, err := s.conn(ctx)
	if err != nil {
		return false, false, &setupError{err}
	}
	start := time.Now()
	if err = q.ask(l); fatal(err) && ctx.Err() == nil && time.Since(start) < p.cfg.Timeout {
		l.Close() // others on it fail too, and find a new one
	}
	return true, used, err
}

// borrow runs f on a connection that nobody else uses meanwhile.
func borrow[C closer](ctx context.Context, s *server, st *stock[C], f func(C) error) (sent, used bool, err error) {
	c, used, err := st.take(ctx, s.cfg.Timeout)
	if err != nil {
		return false, false, &setupError{err}
	}
	keep := false
	defer func() { st.give(c, keep && !s.down.Load()) }()
	err = f(c)
	keep = !fatal(err) && !unfinished(err)
	return true, used, err
}

// setupError is why there is no connection. That a server refuses StartTLS or
// our name is no answer to the question, so the result in it cannot be seen.
type setupError struct{ err error }

func (e *setupError) Error() string { return e.err.Error() }

// crowded reports whether err says that all connections are in use.
func crowded(err error) bool {
	var e *setupError
	return errors.As(err, &e) && e.err == errCrowded
}

// fatal reports whether err is a failure of the connection or the server and
// not an answer.
func fatal(err error) bool {
	if err == nil || unfinished(err) || crowded(err) {
		return false
	}
	var le *ldap.Error
	if !errors.As(err, &le) {
		return true // dial, TLS, or an answer that cannot be decoded
	}
	switch le.ResultCode {
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable,
		ldap.ErrorNetwork, ldap.ErrorUnexpectedMessage, ldap.ErrorUnexpectedResponse: // the library's own
		return true
	}
	return false
}

// elsewhere reports whether another server may do better.
func elsewhere(err error) bool {
	return fatal(err) || crowded(err) || ldap.IsErrorAnyOf(err, ldap.LDAPResultOperationsError, ldap.LDAPResultTimeLimitExceeded,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultOther)
}

// fail takes s out of use and starts the probe that brings it back.
func (p *pool) fail(s *server, cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !s.down.CompareAndSwap(false, true) {
		return
	}
	metrics.DirFaults.With("server_down").Inc()
	p.cfg.Log.Warn("directory server failed", "server", s.url, "error", cause)
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		s.drop()
		p.probe(s)
	}()
}

func (p *pool) probe(s *server) {
	pause := p.cfg.RetryMin
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, p.cfg.RetryMax)
		c, err := s.line(p.ctx)
		if err == nil {
			// Binding anonymously sends nothing: ask for the root DSE.
			_, err = c.search(p.ctx, "", ldap.ScopeBaseObject, everything, []string{"1.1"}, 1)
			if !fatal(err) {
				err = nil
			}
			if err != nil {
				c.Close()
			}
		}
		if err != nil {
			p.cfg.Log.Debug("directory server still away", "server", s.url, "error", err)
			continue
		}
		s.timeouts.Store(0)
		if old := s.active[0].conn.Swap(c); old != nil {
			old.Close()
		}
		s.down.Store(false)
		p.cfg.Log.Info("directory server is back", "server", s.url)
		return
	}
}

// available reports whether any server is in use.
func (p *pool) available() bool {
	for _, s := range p.servers {
		if !s.down.Load() {
			return true
		}
	}
	return false
}
