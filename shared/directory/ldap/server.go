package ldap

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// server is one LDAP server and the connections to it.
type server struct {
	cfg *Config
	n   int // number in Config.Servers
	endpoint

	down     atomic.Bool
	timeouts atomic.Int32 // queries in a row without an answer
	took     atomic.Int64 // nanoseconds that a search takes, about; 0 before the first

	active []slot // multiplexed, bound as the service
	turn   atomic.Uint32
	binds  *stock[*ldap.Conn] // for binds as other people: not bound as anybody in particular
	writes *stock[*ldap.Conn] // for changes, bound as the service
	pages  *stock[*line]      // for paged searches, bound as the service: slapd has one paged search per connection

	linesMu sync.Mutex // guards what follows
	lines   map[*line]bool
	ended   bool
	readers sync.WaitGroup // of lines; begun under linesMu while ended is not set
}

// slot holds one multiplexed connection. mu is held while dialling, so that
// others wait for the result instead of dialling too.
type slot struct {
	mu   sync.Mutex
	conn atomic.Pointer[line]
}

// stock holds connections that one question uses at a time.
type stock[C closer] struct {
	dial  func(ctx context.Context) (C, error)
	inUse chan struct{} // a token for each
	mu    sync.Mutex    // guards idle
	idle  []C
}

type closer interface {
	comparable
	IsClosing() bool
	Close() error
}

func newStock[C closer](size int, dial func(ctx context.Context) (C, error)) *stock[C] {
	return &stock[C]{dial: dial, inUse: make(chan struct{}, size)}
}

func newServer(cfg *Config, n int, e endpoint) *server {
	s := &server{cfg: cfg, n: n, endpoint: e, active: make([]slot, cfg.SearchConns), lines: map[*line]bool{}}
	s.binds = newStock(cfg.BindConns, func(ctx context.Context) (*ldap.Conn, error) { return s.dial(ctx, false) })
	s.writes = newStock(cfg.BindConns, func(ctx context.Context) (*ldap.Conn, error) { return s.dial(ctx, true) })
	s.pages = newStock(cfg.BindConns, s.line)
	return s
}

// guarded is a connection whose writes cannot block for ever: the library
// writes from the one goroutine that also handles time-outs. After a failed
// write the stream may be cut anywhere, so the connection ends.
type guarded struct {
	net.Conn
	timeout time.Duration
}

func (g *guarded) Write(b []byte) (int, error) {
	g.Conn.SetWriteDeadline(time.Now().Add(g.timeout))
	n, err := g.Conn.Write(b)
	if err != nil {
		g.Conn.Close()
	}
	return n, err
}

// line connects for searches and binds as the service.
func (s *server) line(ctx context.Context) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	raw, err := s.cfg.Dial(ctx, s.network, s.addr)
	if err != nil {
		return nil, err
	}
	raw.SetReadDeadline(deadline)
	var nc net.Conn = &guarded{raw, s.cfg.Timeout}
	fail := func(what string, err error) (*line, error) {
		nc.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	secure := s.tls
	var id int64
	if s.cfg.StartTLS && !s.tls && s.network != "unix" {
		id++
		r := bufio.NewReader(nc)
		if err := exchange(nc, r, id, opExtendedDone, startTLSRequest); err != nil {
			return fail("StartTLS", err)
		}
		if r.Buffered() > 0 {
			return fail("StartTLS", errors.New("answer before the handshake"))
		}
		secure = true
	}
	if secure {
		tc := tls.Client(nc, s.tlsConfig())
		if err := tc.HandshakeContext(ctx); err != nil {
			return fail("TLS", err)
		}
		nc = tc
	}
	r := bufio.NewReaderSize(nc, 32<<10)
	if s.cfg.BindDN != "" {
		id++
		if err := exchange(nc, r, id, opBindResponse, bindRequest(s.cfg.BindDN, s.cfg.Password)); err != nil {
			return fail("bind as "+s.cfg.BindDN, err)
		}
	}
	raw.SetReadDeadline(time.Time{})
	l := newLine(nc, id, s.cfg.Timeout)
	if !s.run(l, r) {
		return fail("line", errClosed)
	}
	return l, nil
}

// run reads from l until it ends; it is false when the server is not used any
// more.
func (s *server) run(l *line, r *bufio.Reader) bool {
	s.linesMu.Lock()
	defer s.linesMu.Unlock()
	if s.ended {
		return false
	}
	s.lines[l] = true
	s.readers.Go(func() {
		l.read(r)
		s.linesMu.Lock()
		delete(s.lines, l)
		s.linesMu.Unlock()
	})
	return true
}

// end ends all lines, those in use too, and waits for their readers.
func (s *server) end() {
	s.linesMu.Lock()
	s.ended = true
	for l := range s.lines {
		l.Close()
	}
	s.linesMu.Unlock()
	s.readers.Wait()
}

// dial connects with the library, for what is not a plain search, and, when
// service is set, binds as the service.
func (s *server) dial(ctx context.Context, service bool) (*ldap.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	nc, err := s.cfg.Dial(ctx, s.network, s.addr)
	if err != nil {
		return nil, err
	}
	nc.SetReadDeadline(deadline)
	nc = &guarded{nc, s.cfg.Timeout}
	raw := nc
	if s.tls {
		tc := tls.Client(nc, s.tlsConfig())
		if err := tc.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, err
		}
		nc = tc
	}
	c := ldap.NewConn(nc, s.tls)
	c.SetTimeout(s.cfg.Timeout)
	c.Start()
	if s.cfg.StartTLS && !s.tls && s.network != "unix" {
		if err := c.StartTLS(s.tlsConfig()); err != nil {
			c.Close()
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	if service && s.cfg.BindDN != "" {
		if err := c.Bind(s.cfg.BindDN, s.cfg.Password); err != nil {
			c.Close()
			return nil, fmt.Errorf("bind as %s: %w", s.cfg.BindDN, err)
		}
	}
	raw.SetReadDeadline(time.Time{})
	return c, nil
}

func (s *server) tlsConfig() *tls.Config {
	var c *tls.Config
	if s.cfg.TLS == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	} else {
		c = s.cfg.TLS.Clone()
	}
	if c.ServerName == "" {
		c.ServerName = s.host
	}
	return c
}

// conn returns a multiplexed connection and whether it existed before.
func (s *server) conn(ctx context.Context) (c *line, used bool, err error) {
	sl := &s.active[s.turn.Add(1)%uint32(len(s.active))]
	if c := sl.conn.Load(); c != nil && !c.IsClosing() {
		return c, true, nil
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if c := sl.conn.Load(); c != nil && !c.IsClosing() {
		return c, true, nil
	}
	if s.down.Load() { // found out while we waited for the lock
		return nil, false, errors.New("server is down")
	}
	c, err = s.line(ctx)
	if err != nil {
		return nil, false, err
	}
	sl.conn.Store(c)
	return c, false, nil
}

// errCrowded says that all connections of a kind are in use and stay so. Who
// has one may be waiting for another: a list in a list.
var errCrowded = errors.New("no free connection")

// take returns a connection for exclusive use, and whether it existed before.
// Every take that succeeds is followed by one give.
func (st *stock[C]) take(ctx context.Context, patience time.Duration) (c C, used bool, err error) {
	var none C
	select {
	case st.inUse <- struct{}{}:
	default:
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case st.inUse <- struct{}{}:
		case <-timer.C:
			return none, false, errCrowded
		case <-ctx.Done():
			return none, false, ctx.Err()
		}
	}
	st.mu.Lock()
	for len(st.idle) > 0 && c == none {
		last := len(st.idle) - 1
		c, st.idle = st.idle[last], st.idle[:last]
		if c.IsClosing() {
			c = none
		}
	}
	st.mu.Unlock()
	if c != none {
		return c, true, nil
	}
	if c, err = st.dial(ctx); err != nil {
		<-st.inUse
		return none, false, err
	}
	return c, false, nil
}

// give ends the exclusive use of a connection; keep says that it is as good as
// before.
func (st *stock[C]) give(c C, keep bool) {
	if keep && !c.IsClosing() {
		st.mu.Lock()
		st.idle = append(st.idle, c)
		st.mu.Unlock()
	} else {
		c.Close()
	}
	<-st.inUse
}

// drop closes the connections that nobody uses.
func (st *stock[C]) drop() {
	st.mu.Lock()
	idle := st.idle
	st.idle = nil
	st.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// drop closes all connections that are not in exclusive use.
func (s *server) drop() {
	for i := range s.active {
		if c := s.active[i].conn.Swap(nil); c != nil {
			c.Close()
		}
	}
	s.binds.drop()
	s.writes.drop()
	s.pages.drop()
}
