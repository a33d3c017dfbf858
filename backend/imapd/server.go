package imapd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// lastWrite is how long a write may still take once a session must end.
const lastWrite = 5 * time.Second

// Server answers IMAP connections.
type Server struct {
	cfg Config

	appending atomic.Int64 // octets of messages being received
	closing   atomic.Bool
	serving   *mailbox.Serving

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	accounts  map[string]int // sessions of each account
	most      int            // sessions at once
	running   sync.WaitGroup // sessions
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Server{
		cfg:       cfg,
		serving:   mailbox.NewServing(cfg.Mailboxes),
		listeners: make(map[net.Listener]struct{}),
		sessions:  make(map[*session]struct{}),
		accounts:  make(map[string]int),
		most:      cfg.MaxSessions,
	}, nil
}

// SetMaxSessions makes n the bound of connections that are taken from now on; those
// that are open stay.
func (s *Server) SetMaxSessions(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = n
}

// errTooMany is a connection beyond the bound.
var errTooMany = errors.New("too many sessions")

// Serve answers connections of l until ctx is done or Shutdown is called; then
// it closes l, ends its sessions with BYE, waits for them and returns nil. Any
// number of listeners can be served at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		l.Close()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	var own, watch sync.WaitGroup
	watch.Go(func() { s.serving.Watch(ctx, s.wakeAll) })
	stop := context.AfterFunc(ctx, func() { l.Close() })
	err := s.accept(ctx, l, &own)
	stop()
	l.Close()
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	if ctx.Err() != nil {
		s.wakeAll()
	}
	own.Wait()
	cancel()
	watch.Wait()
	return err
}

func (s *Server) accept(ctx context.Context, l net.Listener, own *sync.WaitGroup) error {
	pause := 5 * time.Millisecond
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			own.Go(func() { s.serve(ctx, nc) })
		case ctx.Err() != nil || s.closing.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("imapd: listener %s: %w", l.Addr(), err)
		default: // out of descriptors, or a connection that is gone already
			s.cfg.Log.Warn("imap accept", "err", err)
			select {
			case <-time.After(pause):
				pause = min(2*pause, time.Second)
			case <-ctx.Done():
			}
		}
	}
}

// serve runs one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	c := &conn{
		Conn:      nc,
		raw:       nc,
		readLimit: s.cfg.LoginTimeout,
		until:     time.Now().Add(s.cfg.LoginTimeout),
		write:     s.cfg.IOTimeout,
	}
	ses := newSession(ctx, s, c)
	if err := s.register(ses); err != nil {
		nc.SetDeadline(time.Now().Add(time.Second))
		if s.cfg.TLS == nil {
			nc.Write([]byte("* BYE [UNAVAILABLE] Too many connections\r\n")) // best effort
		}
		return
	}
	defer s.unregister(ses)
	if s.cfg.TLS != nil {
		tc := tls.Server(nc, s.cfg.TLS)
		if err := tc.SetDeadline(c.until); err != nil {
			return
		}
		if err := tc.HandshakeContext(ctx); err != nil {
			s.cfg.Log.Info("imap TLS handshake failed", "peer", nc.RemoteAddr().String(), "err", err)
			return
		}
		state := tc.ConnectionState()
		c.Conn, c.tls = tc, &state
		defer tc.Close()
	}
	ses.run()
}

func (s *Server) register(ses *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() || len(s.sessions) >= s.most {
		return errTooMany
	}
	s.sessions[ses] = struct{}{}
	s.running.Add(1)
	if s.cfg.Metrics != nil {
		s.cfg.Metrics.SessionChange(1)
	}
	return nil
}

func (s *Server) unregister(ses *session) {
	s.mu.Lock()
	delete(s.sessions, ses)
	s.mu.Unlock()
	s.running.Done()
	if s.cfg.Metrics != nil {
		s.cfg.Metrics.SessionChange(-1)
	}
}

// enter counts a session of account; false when it has too many.
func (s *Server) enter(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[account] >= s.cfg.SessionsPerAccount {
		return false
	}
	s.accounts[account]++
	return true
}

func (s *Server) leave(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.accounts[account]--; s.accounts[account] <= 0 {
		delete(s.accounts, account)
	}
}

// Sessions is the number of connections.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Shutdown closes the listeners, lets each session finish the command that it
// is at, and ends it with BYE. It returns when all have ended, or ctx's error
// after closing the connections of those that had not when ctx was done.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	s.wakeAll()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for ses := range s.sessions {
		ses.cancel()
		ses.conn.raw.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

func (s *Server) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ses := range s.sessions {
		ses.conn.wake()
		if ses.ctx.Err() != nil { // a client that does not read holds nobody up
			ses.conn.raw.SetWriteDeadline(time.Now().Add(lastWrite))
		}
	}
}

// Recheck has the server ask at once whether this replica still serves. It does
// not block.
func (s *Server) Recheck() { s.serving.Recheck() }
