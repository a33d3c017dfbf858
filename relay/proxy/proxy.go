package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/auth"
)

// Protocol is what a listener speaks.
type Protocol int

// The protocols of the access proxy.
const (
	IMAP Protocol = iota
	POP3
)

func (p Protocol) String() string {
	if p == POP3 {
		return "pop3"
	}
	return "imap"
}

func (p Protocol) service() route.Service {
	if p == POP3 {
		return route.POP3
	}
	return route.IMAP
}

// Client is what is known of a client when it logs in.
type Client struct {
	Protocol Protocol
	Addr     netip.AddrPort
	TLS      *tls.ConnectionState // nil in the clear
}

// User is a person who has proved who they are.
type User struct {
	Account string // uid@canonical.domain
	Pair    string
}

// ErrRefused is the answer to a wrong password, an unknown user or one who may
// not log in here; which of them is nobody's business but the log's.
var ErrRefused = errors.New("login refused")

// Routes says which nodes to try for a pair. *route.Table is one. While ends when
// another node says that it serves.
type Routes interface {
	Candidates(pair string) []route.Node
	Redirect(pair, node string)
	While(pair, node string) context.Context
}

// Config describes one listener's service.
type Config struct {
	Protocol Protocol
	Hostname string
	// TLS is offered as STARTTLS, or spoken at once with Implicit.
	TLS      *tls.Config
	Implicit bool
	// PlainWithoutTLS says that this client may send a password in the clear.
	PlainWithoutTLS func(netip.AddrPort) bool
	// Login checks credentials. ErrRefused, or an error that is temporary.
	// It runs in many goroutines at once.
	Login func(ctx context.Context, cred auth.Credentials, c Client) (User, error)

	Routes     Routes
	BackendTLS *tls.Config // with this relay's relay-proxy certificate
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	// Moved is told of an account that a pair says is at another one; nil: nobody.
	Moved  func(account string)
	Within time.Duration // to find a serving replica, 5 s

	PreAuth    time.Duration // from connect to login, 60 s
	Idle       time.Duration // without a byte from the client after login, 35 min (RFC 9051 5.4 asks for 30)
	MaxConns   int           // 20,000
	PerAddress int           // open connections of one address, 200
	Failures   int           // refused logins before the connection ends, 3
	Spool      string        // directory for long commands under way; the system's for temporary files
	Log        *slog.Logger
}

// Server is an access proxy for one protocol and one kind of listener.
type Server struct {
	cfg     atomic.Pointer[Config] // of sessions from now on
	kept    store                  // of commands, to send them again
	keys    *gate                  // to handshakes with clients
	waiting atomic.Int64           // logins, at a gate

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	byAddr map[netip.Addr]int
	gates  map[string]*gates // to the replicas of each pair
	closed bool
	wg     sync.WaitGroup
}

// New checks cfg and fills in its defaults.
func New(cfg Config) (*Server, error) {
	s := &Server{conns: map[net.Conn]struct{}{}, byAddr: map[netip.Addr]int{}, gates: map[string]*gates{}}
	s.keys = s.newGate(handshakesPerCPU, handshakeFor)
	if err := s.Set(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Set makes cfg hold for sessions from now on; those that are open keep what they
// began with. On an error nothing changes.
func (s *Server) Set(cfg Config) error {
	switch {
	case cfg.Login == nil || cfg.Routes == nil:
		return errors.New("proxy: Login and Routes are required")
	case cfg.Implicit && cfg.TLS == nil:
		return errors.New("proxy: implicit TLS needs a certificate")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Within, 5*time.Second)
	def(&cfg.PreAuth, time.Minute)
	def(&cfg.Idle, 35*time.Minute)
	for p, v := range map[*int]int{&cfg.MaxConns: 20000, &cfg.PerAddress: 200, &cfg.Failures: 3} {
		if *p == 0 {
			*p = v
		}
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.PlainWithoutTLS == nil {
		cfg.PlainWithoutTLS = func(netip.AddrPort) bool { return false }
	}
	cfg.TLS = inTurn(cfg.TLS, cfg.PreAuth)
	s.cfg.Store(&cfg)
	return nil
}

// Serve accepts clients until ctx ends or l is closed, then closes every
// session and waits for them. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close(); s.closeAll() })
	defer stop()
	defer s.wg.Wait()
	defer s.closeAll()
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED):
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond): // let some sessions end
			}
			continue
		default:
			return err
		}
		addr := addrOf(c)
		cfg := s.cfg.Load()
		if !s.track(cfg, c, addr.Addr()) {
			c.SetWriteDeadline(time.Now().Add(time.Second))
			if !cfg.Implicit {
				c.Write([]byte(tooMany[cfg.Protocol]))
			}
			c.Close()
			continue
		}
		s.wg.Go(func() {
			defer s.untrack(c, addr.Addr())
			s.serveConn(ctx, cfg, c, addr)
		})
	}
}

var tooMany = map[Protocol]string{
	IMAP: "* BYE [LIMIT] Too many connections\r\n",
	POP3: "-ERR [SYS/TEMP] Too many connections\r\n",
}

// Sessions is the number of open connections.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func (s *Server) track(cfg *Config, c net.Conn, addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := cfg.PerAddress
	if addr.IsLoopback() {
		limit = cfg.MaxConns // a balancer or a test on this host
	}
	if s.closed || len(s.conns) >= cfg.MaxConns || s.byAddr[addr] >= limit {
		return false
	}
	s.conns[c] = struct{}{}
	s.byAddr[addr]++
	return true
}

func (s *Server) untrack(c net.Conn, addr netip.Addr) {
	c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.byAddr[addr]--; s.byAddr[addr] <= 0 {
		delete(s.byAddr, addr)
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}

func (s *Server) serveConn(ctx context.Context, cfg *Config, c net.Conn, addr netip.AddrPort) {
	c.SetDeadline(time.Now().Add(cfg.PreAuth))
	f := &front{srv: s, cfg: cfg, ctx: ctx, conn: c, client: Client{Protocol: cfg.Protocol, Addr: addr}}
	if cfg.Implicit {
		if err := f.startTLS(); err != nil {
			cfg.Log.Info("proxy handshake failed", "protocol", cfg.Protocol, "client", addr, "err", err)
			return
		}
	}
	if cfg.Protocol == POP3 {
		f.pop3()
	} else {
		f.imap()
	}
}

// front is the client's side of a session.
type front struct {
	srv      *Server
	cfg      *Config
	ctx      context.Context
	conn     net.Conn
	client   Client
	user     User // who has logged in
	failures int
}

func (f *front) startTLS() error {
	k := &keyed{Conn: f.conn, srv: f.srv}
	defer k.done()
	tc := tls.Server(k, f.cfg.TLS)
	if err := tc.HandshakeContext(f.ctx); err != nil {
		return err
	}
	state := tc.ConnectionState()
	f.conn, f.client.TLS = tc, &state
	return nil
}

// mayPassword reports whether a password may be sent now.
func (f *front) mayPassword() bool {
	return f.client.TLS != nil || f.cfg.PlainWithoutTLS(f.client.Addr)
}

// login checks credentials and opens the user's backend session. greeting is
// what the backend said to it.
func (f *front) login(cred auth.Credentials) (*back, error) {
	user, err := f.cfg.Login(f.ctx, cred, f.client)
	if err != nil {
		f.cfg.Log.Info("proxy login", "protocol", f.client.Protocol, "client", f.client.Addr, "user", cred.User, "mech", cred.Mechanism, "status", "refused", "err", err)
		if !errors.Is(err, ErrRefused) {
			return nil, errUnavailable
		}
		f.failures++
		delay := time.NewTimer(time.Duration(f.failures) * 500 * time.Millisecond)
		defer delay.Stop()
		select {
		case <-delay.C:
		case <-f.ctx.Done():
		}
		return nil, err
	}
	b, err := f.open(user, "")
	if err != nil {
		f.cfg.Log.Warn("proxy login", "protocol", f.client.Protocol, "client", f.client.Addr, "account", user.Account, "pair", user.Pair, "status", "unavailable", "err", err)
		if errors.Is(err, errLimit) {
			return nil, errLimit
		}
		return nil, errUnavailable
	}
	f.user, f.user.Pair = user, b.pair
	f.cfg.Log.Info("proxy login", "protocol", f.client.Protocol, "client", f.client.Addr, "account", user.Account, "pair", b.pair, "node", b.node, "status", "ok")
	return b, nil
}

// errUnavailable is told to clients as a temporary failure.
var errUnavailable = errors.New("backend not available")

func addrOf(c net.Conn) netip.AddrPort {
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return netip.AddrPort{}
}

// outBuffers hold output on its way; a session borrows one while it has
// something to say.
var outBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 32<<10) }}

func borrowWriter(c net.Conn) *bufio.Writer {
	w := outBuffers.Get().(*bufio.Writer)
	w.Reset(c)
	return w
}

func returnWriter(w *bufio.Writer) {
	w.Reset(nil)
	outBuffers.Put(w)
}
