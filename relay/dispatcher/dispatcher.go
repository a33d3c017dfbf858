/*
Package dispatcher owns the relay's listeners. It accepts connections, bounds
their number per service, hands each to the service that its listener is for,
and stops in order: first no new connections, then no new transactions, then
none at all.

	Run -> accept -> over the limit: 421 4.3.2 | ServeConn in a goroutine
	Drain -> new connections get 421 4.3.2, sessions between transactions too
	Shutdown -> listeners closed, idle sessions told 421, the rest waited for

Who has been accepted before Shutdown is greeted: with a socket that the manager of
the machine keeps open, a restart turns no connection away.

A temporary failure to accept (too many open files) is waited out with growing
pauses; it never ends a listener.

PROXY headers and TLS are the engine's: it knows who may send the one and when
to start the other. Package dispatcher reads and understands no command.
*/
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Server serves connections of one service, until Shutdown. smtp.Server is one.
type Server interface {
	// ServeConn serves one connection and returns when it is closed.
	ServeConn(ctx context.Context, c net.Conn)
	// Shutdown tells idle sessions to end and waits for the others.
	Shutdown(ctx context.Context) error
}

// Service is one service and where it listens.
type Service struct {
	Name     string
	Addrs    []string       // host:port
	Open     []net.Listener // listeners made by somebody else; closed at Shutdown
	Server   Server
	MaxConns int // at the same time; 0 is no limit

	// Busy is sent to a connection over the limit or while draining, before
	// it is closed: default "421 4.3.2 Too busy, try again later\r\n". A
	// service that starts with TLS sends nothing: set Silent.
	Busy   string
	Silent bool
}

const defaultBusy = "421 4.3.2 Too busy, try again later\r\n"

// Config describes a Dispatcher.
type Config struct {
	Services []Service
	// Listen opens the listener of an address, with lc if it is a new one.
	Listen func(lc net.ListenConfig, addr string) (net.Listener, error)
	Log    *slog.Logger
	// KeepAlive finds peers that have vanished (default 15 s idle, 4 probes of
	// 10 s); UserTimeout bounds unacknowledged data (default 60 s). Connections
	// inherit both from the listeners of addresses, on Linux.
	KeepAlive   net.KeepAliveConfig
	UserTimeout time.Duration
}

// Dispatcher accepts connections. New listens, Run accepts.
type Dispatcher struct {
	cfg       Config
	listeners []listener
	draining  atomic.Bool
	closing   chan struct{}
	closeOnce sync.Once
	start     sync.Mutex // orders the start of accepting and Shutdown
	accepting sync.WaitGroup
	conns     sync.WaitGroup
	ctx       context.Context
	cancel    context.CancelFunc
}

type listener struct {
	net.Listener
	service *service
}

// service is a Service with its count.
type service struct {
	Service
	open atomic.Int64
	max  atomic.Int64 // connections; 0 is no limit
}

// New listens on every address of every service. It opens all or none.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !cfg.KeepAlive.Enable {
		cfg.KeepAlive = keepAlive
	}
	if cfg.UserTimeout <= 0 {
		cfg.UserTimeout = userTimeout
	}
	if cfg.Listen == nil {
		cfg.Listen = func(lc net.ListenConfig, addr string) (net.Listener, error) {
			return lc.Listen(context.Background(), "tcp", addr)
		}
	}
	d := &Dispatcher{cfg: cfg, closing: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	for _, s := range cfg.Services {
		if s.Server == nil {
			return nil, errors.Join(fmt.Errorf("dispatcher: service %q has no server", s.Name), d.close())
		}
		if s.Busy == "" {
			s.Busy = defaultBusy
		}
		svc := &service{Service: s}
		svc.max.Store(int64(s.MaxConns))
		for _, l := range s.Open {
			d.listeners = append(d.listeners, listener{l, svc})
		}
		for _, addr := range s.Addrs {
			l, err := cfg.Listen(net.ListenConfig{KeepAlive: -1}, addr)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("dispatcher: service %q: %w", s.Name, err), d.close())
			}
			guard(l, cfg.KeepAlive, cfg.UserTimeout)
			d.listeners = append(d.listeners, listener{l, svc})
		}
	}
	return d, nil
}

// The defaults of Config.KeepAlive and Config.UserTimeout.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 4}

const userTimeout = time.Minute

// Guard has the connections that l accepts end within a minute of their peer's
// vanishing. l was made with ListenConfig.KeepAlive -1, which leaves them alone.
func Guard(l net.Listener) { guard(l, keepAlive, userTimeout) }

func guard(l net.Listener, k net.KeepAliveConfig, user time.Duration) {
	if c, ok := l.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			setTimeouts(raw, k, user)
		}
	}
}

// Addrs lists the addresses that a service listens on.
func (d *Dispatcher) Addrs(service string) []net.Addr {
	var addrs []net.Addr
	for _, l := range d.listeners {
		if l.service.Name == service {
			addrs = append(addrs, l.Addr())
		}
	}
	return addrs
}

// Connections counts the open connections of a service.
func (d *Dispatcher) Connections(name string) int64 {
	var n int64
	seen := map[*service]bool{}
	for _, l := range d.listeners {
		if l.service.Name == name && !seen[l.service] {
			seen[l.service] = true
			n += l.service.open.Load()
		}
	}
	return n
}

// SetMaxConns changes the limit of a service; connections beyond it stay.
func (d *Dispatcher) SetMaxConns(name string, n int) {
	for _, l := range d.listeners {
		if l.service.Name == name {
			l.service.max.Store(int64(n))
		}
	}
}

// Run accepts until Shutdown, or until ctx ends, which closes the listeners
// and nothing else. It returns nil after Shutdown.
func (d *Dispatcher) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { d.close() })
	defer stop()
	d.start.Lock()
	for _, l := range d.listeners {
		d.accepting.Go(func() { d.accept(l) })
	}
	d.start.Unlock()
	d.accepting.Wait()
	return ctx.Err()
}

// accept takes connections of one listener until it is closed.
func (d *Dispatcher) accept(l listener) {
	var pause time.Duration
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case <-d.closing:
				return
			default:
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.cfg.Log.Warn("cannot accept", "service", l.service.Name, "pause", pause, "error", err)
			select {
			case <-time.After(pause):
			case <-d.closing:
				return
			}
			continue
		}
		pause = 0
		d.take(l.service, c)
	}
}

// take hands one connection to its service.
func (d *Dispatcher) take(s *service, c net.Conn) {
	if limit := s.max.Load(); d.draining.Load() || limit > 0 && s.open.Load() >= limit {
		d.turnAway(s, c)
		return
	}
	s.open.Add(1)
	d.conns.Add(1)
	go func() {
		defer d.conns.Done()
		defer s.open.Add(-1)
		defer c.Close()
		s.Server.ServeConn(d.ctx, c)
	}()
}

// turnAway closes a connection that is one too many. The line fits the socket
// buffer of a new connection, so this does not wait for the peer.
func (d *Dispatcher) turnAway(s *service, c net.Conn) {
	if !s.Silent {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = c.Write([]byte(s.Busy))
	}
	c.Close()
}

// drainer is a Server that can have its sessions end at a good place.
type drainer interface {
	Drain()
	Undrain()
}

// Drain refuses new connections with Busy from now on; a balancer's check then
// sees 421. A Server with a method Drain ends its sessions between transactions;
// those of others go on. Undrain takes it back.
func (d *Dispatcher) Drain() { d.setDraining(true) }

// Undrain takes new connections again.
func (d *Dispatcher) Undrain() { d.setDraining(false) }

func (d *Dispatcher) setDraining(on bool) {
	d.draining.Store(on)
	for _, l := range d.listeners {
		s, ok := l.service.Server.(drainer)
		switch {
		case ok && on:
			s.Drain()
		case ok:
			s.Undrain()
		}
	}
}

// Draining reports whether new connections are refused.
func (d *Dispatcher) Draining() bool { return d.draining.Load() }

func (d *Dispatcher) close() error {
	var errs []error
	d.closeOnce.Do(func() {
		close(d.closing)
		for _, l := range d.listeners {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	})
	return errors.Join(errs...)
}

// Shutdown closes the listeners, lets every service finish what is under way
// and, when ctx ends first, cuts what is left.
func (d *Dispatcher) Shutdown(ctx context.Context) error {
	d.start.Lock()
	err := d.close()
	d.start.Unlock()
	d.accepting.Wait()
	d.draining.Store(true)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards err
	seen := map[Server]bool{}
	for _, l := range d.listeners {
		if s := l.service.Server; !seen[s] {
			seen[s] = true
			wg.Go(func() {
				if e := s.Shutdown(ctx); e != nil {
					mu.Lock()
					err = errors.Join(err, e)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	done := make(chan struct{})
	go func() {
		d.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		d.cancel()
		<-done
	}
	d.cancel()
	return err
}
