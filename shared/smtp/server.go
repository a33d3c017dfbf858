package smtp

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server answers connections as one service describes. All its methods may be
// called at once.
type Server struct {
	cfg    atomic.Pointer[ServerConfig] // of connections from now on
	name   string                       // begins the id of each connection
	serial atomic.Uint64

	draining atomic.Bool // Shutdown has been called
	leaving  atomic.Bool // Drain has been called

	mu        sync.Mutex // guards what follows
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	idle      chan struct{} // closed when draining and the last connection is gone
}

// NewServer checks cfg, fills in the limits that are zero and returns a server.
func NewServer(cfg ServerConfig) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var b [5]byte
	rand.Read(b[:])
	s := &Server{
		name:      strings.ToLower(base32.HexEncoding.EncodeToString(b[:])) + "-",
		conns:     map[*conn]struct{}{},
		listeners: map[net.Listener]struct{}{},
		idle:      make(chan struct{}),
	}
	s.cfg.Store(&cfg)
	return s, nil
}

// Set makes cfg hold for connections from now on; those that are open keep what
// they began with. On an error nothing changes.
func (s *Server) Set(cfg ServerConfig) error {
	if err := cfg.check(); err != nil {
		return err
	}
	s.cfg.Store(&cfg)
	return nil
}

// check fills in what is zero.
func (cfg *ServerConfig) check() error {
	switch {
	case cfg.NewSession == nil:
		return errors.New("smtp: server without NewSession")
	case !plain(cfg.Hostname) || cfg.Hostname == "" || strings.Contains(cfg.Hostname, " "):
		return fmt.Errorf("smtp: bad host name %q", cfg.Hostname)
	case cfg.Protocol != SMTP && cfg.Protocol != LMTP:
		return fmt.Errorf("smtp: unknown protocol %d", cfg.Protocol)
	case cfg.TLS == nil && (cfg.ImplicitTLS || cfg.RequireTLS):
		return errors.New("smtp: TLS wanted without a TLS configuration")
	case !plain(cfg.Private):
		return fmt.Errorf("smtp: bad private capability %q", cfg.Private)
	}
	for _, m := range cfg.Mechanisms {
		if m != "PLAIN" && m != "LOGIN" && m != "EXTERNAL" {
			return fmt.Errorf("smtp: unknown mechanism %q", m)
		}
	}
	for _, list := range [][]string{cfg.PrivateMail, cfg.PrivateRcpt} {
		for _, k := range list {
			if !isKeyword(k) || k != strings.ToUpper(k) {
				return fmt.Errorf("smtp: bad private parameter %q", k)
			}
		}
	}
	cfg.Limits.fill()
	if cfg.Limits.Line < 512 { // RFC 5321 4.5.3.1.4
		return fmt.Errorf("smtp: line limit %d is under 512", cfg.Limits.Line)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// fill replaces zero fields by their defaults.
func (l *Limits) fill() {
	d := DefaultLimits()
	for _, f := range []struct{ v, def *int }{
		{&l.Line, &d.Line},
		{&l.Header, &d.Header},
		{&l.Recipients, &d.Recipients},
		{&l.Errors, &d.Errors},
		{&l.Transactions, &d.Transactions},
	} {
		if *f.v == 0 {
			*f.v = *f.def
		}
	}
	for _, f := range []struct{ v, def *time.Duration }{
		{&l.CommandTimeout, &d.CommandTimeout},
		{&l.DataTimeout, &d.DataTimeout},
		{&l.DataTotal, &d.DataTotal},
		{&l.HandshakeTimout, &d.HandshakeTimout},
		{&l.SessionTotal, &d.SessionTotal},
	} {
		if *f.v == 0 {
			*f.v = *f.def
		}
	}
	if l.Size == 0 {
		l.Size = d.Size
	}
}

// Serve accepts connections from l and serves each in a goroutine, until ctx
// ends or Shutdown is called; it then returns nil when its connections are
// gone. When ctx ends they are stopped at once. Serve closes l. It waits and
// tries again when descriptors or memory run out.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	var wg sync.WaitGroup
	defer func() {
		stop()
		l.Close()
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		wg.Wait()
	}()
	var pause time.Duration
	for {
		if s.draining.Load() {
			return nil
		}
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || s.draining.Load() {
				return nil
			}
			if !shortage(err) {
				return fmt.Errorf("smtp: accept: %w", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Load().Log.Warn("accept pauses", "err", err, "pause", pause)
			if !sleep(ctx, pause) {
				return nil
			}
			continue
		}
		pause = 0
		wg.Go(func() { s.ServeConn(ctx, nc) })
	}
}

// shortage reports errors of accept that pass: those of one connection, and
// descriptors, buffers or memory that others will give back.
func shortage(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR, syscall.EPROTO,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return isTimeout(err)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// ServeConn serves one connection and closes it; it returns when all is over.
// When ctx ends the session gets 421 4.3.2 and is cut, in whatever phase it is.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	cfg := s.cfg.Load()
	c := &conn{srv: s, cfg: cfg, limits: &cfg.Limits, ctx: ctx, cancel: cancel, nc: nc, raw: nc, cut: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(past); close(c.cut) })
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	defer func() {
		stop()
		cancel()
		s.mu.Lock()
		delete(s.conns, c)
		if s.draining.Load() && len(s.conns) == 0 {
			s.closeIdle()
		}
		s.mu.Unlock()
	}()
	now := time.Now()
	c.sessionEnd = now.Add(c.limits.SessionTotal)
	c.info = ConnInfo{
		ID:       s.name + strconv.FormatUint(s.serial.Add(1), 10),
		Protocol: cfg.Protocol,
		Local:    addrPort(nc.LocalAddr()),
		Peer:     addrPort(nc.RemoteAddr()),
	}
	c.info.Remote = c.info.Peer
	c.in.open(c.limits.Line)
	c.serve()
	c.end()
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// closeIdle tells Shutdown that nothing is left. The caller holds mu.
func (s *Server) closeIdle() {
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
}

// Drain ends sessions between transactions by 421 4.3.2, so that their clients
// take another server; open transactions go on to their reply, and Undrain takes it
// back. Listeners stay open: a new connection gets 421 too.
func (s *Server) Drain() {
	s.leaving.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.idle.Load() {
			c.raw.SetReadDeadline(past)
		}
	}
}

// Undrain takes sessions and transactions again.
func (s *Server) Undrain() { s.leaving.Store(false) }

// away reports whether sessions between transactions have to end.
func (s *Server) away() bool { return s.draining.Load() || s.leaving.Load() }

// Shutdown stops accepting and drains: sessions between transactions get 421
// 4.3.2, one that has just been accepted behind its banner, and open transactions go
// on to their reply. It returns nil when every
// connection is gone. When ctx ends first, the rest is cut and Shutdown returns
// ctx's error without waiting for hooks that still run.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		if c.idle.Load() {
			c.raw.SetReadDeadline(past)
		}
	}
	if len(s.conns) == 0 {
		s.closeIdle()
	}
	s.mu.Unlock()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.cancel()
	}
	return fmt.Errorf("smtp: %d sessions cut: %w", len(s.conns), ctx.Err())
}

// addrPort is the address of a connection; the zero AddrPort for what has none,
// such as a unix socket or a pipe.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
