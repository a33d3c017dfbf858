package pop3d

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// Limits of one connection.
const (
	maxLine    = 1024 // octets of a command line; RFC 2449 asks for 255, SASL for more
	maxErrors  = 10   // refused commands before the connection is closed
	bufferSize = 4 << 10
)

// lastWrite is how long the last words of a session that must end may take.
const lastWrite = 5 * time.Second

// Config describes a POP3 service.
type Config struct {
	Mailboxes *mailbox.Service
	Hostname  string
	TLS       *tls.Config // nil: plain, for measuring on loopback only
	// Authenticate returns the account of a login. mech is PLAIN (also for
	// USER and PASS) or EXTERNAL, where password is empty and the peer's
	// certificate is in cs.
	Authenticate func(ctx context.Context, mech, authz, user, password string, cs *tls.ConnectionState, peer net.Addr) (account string, err error)
	Passwords    bool          // offer USER and SASL PLAIN
	Idle         time.Duration // autologout; RFC 1939 asks for at least 10 minutes
	MaxConns     int           // open connections, 0 is 10,000
	Log          *slog.Logger
}

// Server serves POP3.
type Server struct {
	cfg     Config
	serving *mailbox.Serving

	mu     sync.Mutex            // guards what follows
	conns  map[net.Conn]*session // nil before the TLS handshake is done
	locked map[string]bool       // accounts with a session
	most   int                   // connections at once
	closed bool
	wg     sync.WaitGroup
}

// New checks cfg.
func New(cfg Config) (*Server, error) {
	if cfg.Mailboxes == nil || cfg.Authenticate == nil {
		return nil, errors.New("pop3d: Mailboxes and Authenticate are required")
	}
	if cfg.Idle == 0 {
		cfg.Idle = 10 * time.Minute
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 10000
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		cfg: cfg, serving: mailbox.NewServing(cfg.Mailboxes),
		conns: map[net.Conn]*session{}, locked: map[string]bool{}, most: cfg.MaxConns,
	}, nil
}

// SetMaxConns makes n the bound of connections that are taken from now on; those that
// are open stay.
func (s *Server) SetMaxConns(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = n
}

// Recheck has the server ask at once whether this replica still serves. It does
// not block.
func (s *Server) Recheck() { s.serving.Recheck() }

// Serve accepts connections until ctx ends or l is closed, then ends the sessions,
// each when it has answered the command that it is at, and waits. It returns nil
// when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer s.endAll()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close(); s.endAll() })
	defer stop()
	s.wg.Go(func() { s.serving.Watch(ctx, s.wakeAll) })
	for {
		c, err := l.Accept()
		if err != nil {
			var ne net.Error
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			if errors.As(err, &ne) && ne.Timeout() || isExhausted(err) {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(100 * time.Millisecond): // out of descriptors: let some close
				}
				continue
			}
			return err
		}
		if !s.track(c) {
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.untrack(c)
			s.serveConn(ctx, c)
		})
	}
}

func (s *Server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.most {
		return false
	}
	s.conns[c] = nil
	return true
}

func (s *Server) untrack(c net.Conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// endAll has every session end: those that wait at once, and none waits longer for
// a client that does not read.
func (s *Server) endAll() {
	s.mu.Lock()
	s.closed = true
	for c, ss := range s.conns {
		if ss == nil {
			c.Close()
		}
	}
	s.mu.Unlock()
	s.wakeAll()
}

func (s *Server) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ss := range s.conns {
		if ss != nil {
			ss.wake()
		}
	}
}

// begun notes the session of a connection; false when it is not to begin.
func (s *Server) begun(c net.Conn, ss *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c] = ss
	return true
}

// lock takes the account's maildrop; false when a session holds it.
func (s *Server) lock(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locked[account] {
		return false
	}
	s.locked[account] = true
	return true
}

func (s *Server) unlock(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locked, account)
}

func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	ss := &session{srv: s, ctx: ctx, raw: c, conn: c, peer: c.RemoteAddr()}
	if s.cfg.TLS != nil {
		tc := tls.Server(c, s.cfg.TLS)
		c.SetDeadline(time.Now().Add(15 * time.Second))
		if err := tc.HandshakeContext(ctx); err != nil {
			s.cfg.Log.Info("pop3 handshake failed", "peer", c.RemoteAddr(), "err", err)
			return
		}
		state := tc.ConnectionState()
		ss.conn, ss.tls = tc, &state
	}
	ss.r = bufio.NewReaderSize(ss.conn, bufferSize)
	ss.w = bufio.NewWriterSize(ss.conn, bufferSize)
	if !s.begun(c, ss) {
		return
	}
	defer ss.close()
	ss.run()
}
