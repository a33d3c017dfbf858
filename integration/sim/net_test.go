package sim

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// retransmit is the shortest time after which a lost segment is sent again, and
// that between two attempts to connect.
const (
	retransmit = 200 * time.Millisecond
	redial     = time.Second
)

// network is what connects the hosts: streams that arrive late, in order, and
// whole, unless an end or a link fails. All of it is guarded by mu; nobody
// sleeps with mu held.
type network struct {
	seed uint64

	mu    sync.Mutex
	links map[[2]string]*link // from, to
	hosts map[string]*host
	conns []*conn
	made  uint64
}

// link is one direction between two hosts.
type link struct {
	cut    bool
	delay  time.Duration
	jitter time.Duration
	loss   float64 // of segments; each is sent again later
}

// host is a machine. It is down after a power cut: nothing answers, not even
// with a refusal.
type host struct {
	down      bool
	frozen    bool // what arrives is not read, what is sent does not leave
	listeners map[string]*listener
}

func newNetwork(seed uint64, hosts ...string) *network {
	n := &network{seed: seed, links: map[[2]string]*link{}, hosts: map[string]*host{}}
	for _, a := range hosts {
		n.hosts[a] = &host{listeners: map[string]*listener{}}
		for _, b := range hosts {
			n.links[[2]string{a, b}] = &link{delay: 100 * time.Microsecond, jitter: 100 * time.Microsecond}
		}
	}
	return n
}

// change edits the links and hosts, and wakes who waits for them.
func (n *network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	for _, c := range n.conns {
		c.in.wakeLocked()
	}
}

// link returns one direction; for change.
func (n *network) link(from, to string) *link { return n.links[[2]string{from, to}] }

// passes reports whether something gets from one host to another now.
func (n *network) passes(from, to string) bool {
	return !n.link(from, to).cut && !n.hosts[from].frozen && !n.hosts[to].frozen
}

// piece is what was written at one time, or the end of a stream.
type piece struct {
	data []byte
	err  error     // io.EOF or a reset, if there is no data
	at   time.Time // when it arrives
}

// pipe is one direction of a connection. Its fields are guarded by network.mu.
type pipe struct {
	n        *network
	from, to string
	rng      *rand.Rand
	queue    []piece
	last     time.Time // when the newest piece arrives
	stuck    bool      // the first piece arrived while the link was cut
	dead     bool      // nobody is at the receiving end any more
	wake     chan struct{}
}

func (p *pipe) wakeLocked() {
	close(p.wake)
	p.wake = make(chan struct{})
}

// put sends a piece.
func (p *pipe) put(data []byte, err error) {
	l := p.n.link(p.from, p.to)
	delay := l.delay + time.Duration(p.rng.Int64N(int64(l.jitter)+1))
	for again := retransmit; p.rng.Float64() < l.loss; again *= 2 {
		delay += again
	}
	at := time.Now().Add(delay)
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.queue = append(p.queue, piece{slices.Clone(data), err, at})
	p.wakeLocked()
}

// next returns the first piece if it is there, or how long to wait for it; 0
// means until something changes.
func (p *pipe) next(now time.Time) (first *piece, wait time.Duration) {
	if len(p.queue) == 0 {
		return nil, 0
	}
	first = &p.queue[0]
	if wait = first.at.Sub(now); wait > 0 {
		return nil, wait
	}
	if !p.n.passes(p.from, p.to) {
		p.stuck = true
		return nil, 0
	}
	if p.stuck { // it is sent again some time after the link is back
		p.stuck = false
		first.at = now.Add(time.Duration(p.rng.Int64N(int64(retransmit))) + time.Millisecond)
		return nil, first.at.Sub(now)
	}
	return first, 0
}

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// conn is one end of a connection.
type conn struct {
	n             *network
	in, out       *pipe
	local, remote addr
	owner         *endpoint

	// Guarded by network.mu.
	closed bool
	rd, wd time.Time // deadlines
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		k, wait, wake, err := c.tryRead(b)
		if err == io.EOF {
			return k, err
		}
		if k > 0 || err != nil || len(b) == 0 {
			return k, err
		}
		pause(wait, wake, nil)
	}
}

// pause waits for a time, 0 is for ever, or until wake or done is closed.
func pause(wait time.Duration, wake, done <-chan struct{}) {
	var after <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-after:
	case <-wake:
	case <-done:
	}
}

func (c *conn) tryRead(b []byte) (k int, wait time.Duration, wake chan struct{}, err error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	now := time.Now()
	switch {
	case c.closed:
		return 0, 0, nil, c.fail("read", net.ErrClosed)
	case !c.rd.IsZero() && !now.Before(c.rd):
		return 0, 0, nil, c.fail("read", os.ErrDeadlineExceeded)
	}
	p, wait := c.in.next(now)
	switch {
	case p == nil:
		if !c.rd.IsZero() && (wait == 0 || c.rd.Sub(now) < wait) {
			wait = c.rd.Sub(now)
		}
		return 0, wait, c.in.wake, nil
	case p.err == io.EOF:
		return 0, 0, nil, io.EOF
	case p.err != nil:
		return 0, 0, nil, c.fail("read", p.err)
	}
	k = copy(b, p.data)
	if p.data = p.data[k:]; len(p.data) == 0 {
		c.in.queue = c.in.queue[1:]
	}
	return k, 0, nil, nil
}

func (c *conn) Write(b []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch {
	case c.closed:
		return 0, c.fail("write", net.ErrClosed)
	case !c.wd.IsZero() && !time.Now().Before(c.wd):
		return 0, c.fail("write", os.ErrDeadlineExceeded)
	case c.owner.dead:
		return len(b), nil // it does not leave the host
	case len(c.in.queue) > 0 && c.in.queue[0].err == syscall.ECONNRESET && !c.in.queue[0].at.After(time.Now()):
		return 0, c.fail("write", syscall.ECONNRESET)
	case c.out.dead:
		if h := c.n.hosts[c.out.to]; !h.down && c.n.passes(c.out.from, c.out.to) {
			c.in.put(nil, syscall.ECONNRESET)
		}
		return len(b), nil
	}
	c.out.put(b, nil)
	return len(b), nil
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closeLocked(io.EOF)
	return nil
}

// closeLocked closes this end; the other one reads err, or nothing at all.
func (c *conn) closeLocked(err error) {
	c.closed, c.in.dead = true, true
	if err != nil && !c.owner.dead {
		c.out.put(nil, err)
	}
	c.in.wakeLocked()
	c.n.conns = slices.DeleteFunc(c.n.conns, func(o *conn) bool { return o == c })
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.rd = t
	c.in.wakeLocked()
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.wd = t // writes never wait
	return nil
}

// listener is an address that a process listens at.
type listener struct {
	owner *endpoint
	at    addr
	queue chan *conn
	done  chan struct{}
	gone  bool // guarded by network.mu
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.at, Err: net.ErrClosed}
	}
}

func (l *listener) Addr() net.Addr { return l.at }

func (l *listener) Close() error {
	l.owner.n.mu.Lock()
	defer l.owner.n.mu.Unlock()
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.gone {
		return
	}
	l.gone = true
	close(l.done)
	h := l.owner.n.hosts[l.owner.host]
	if h.listeners[string(l.at)] == l {
		delete(h.listeners, string(l.at))
	}
}

// endpoint is the network as one process on a host sees it.
type endpoint struct {
	n    *network
	host string
	dead bool // guarded by network.mu: the process is gone
}

// attach gives a process on a host that is up its place in the network.
func (n *network) attach(name string) *endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[name].down = false
	return &endpoint{n: n, host: name}
}

// sever ends what a process has open. If only the process ended, its host says
// so; after a power cut nobody does.
func (e *endpoint) sever(power bool) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	h := e.n.hosts[e.host]
	h.down = h.down || power
	for _, l := range h.listeners {
		if l.owner == e {
			l.closeLocked()
		}
	}
	for _, c := range slices.Clone(e.n.conns) {
		if c.owner == e {
			if power {
				c.closeLocked(nil)
			} else {
				c.closeLocked(syscall.ECONNRESET)
			}
		}
	}
	e.dead = true
}

func (e *endpoint) listen(at string) (net.Listener, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	h := e.n.hosts[e.host]
	if h.listeners[at] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: addr(at), Err: syscall.EADDRINUSE}
	}
	l := &listener{owner: e, at: addr(at), queue: make(chan *conn, 128), done: make(chan struct{})}
	h.listeners[at] = l
	return l, nil
}

// dial connects to HOST:PORT.
func (e *endpoint) dial(ctx context.Context, _, at string) (net.Conn, error) {
	to, _, _ := strings.Cut(at, ":")
	fail := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Addr: addr(at), Err: err} }
	for {
		wait, open := e.knock(to)
		pause(wait, nil, ctx.Done())
		if err := ctx.Err(); err != nil {
			return nil, fail(err)
		}
		if !open {
			continue
		}
		c, err := e.connect(to, at)
		if err != nil {
			return nil, fail(err)
		}
		if c != nil {
			return c, nil
		}
	}
}

// knock tells how long an attempt to connect takes, and whether the other host
// hears of it.
func (e *endpoint) knock(to string) (time.Duration, bool) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	h := e.n.hosts[to]
	if h == nil || e.dead || h.down || !e.n.passes(e.host, to) || !e.n.passes(to, e.host) {
		return redial, false
	}
	return e.n.link(e.host, to).delay + e.n.link(to, e.host).delay, true
}

// connect makes a connection; nil if the other host went away meanwhile.
func (e *endpoint) connect(to, at string) (net.Conn, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	h := e.n.hosts[to]
	if e.dead || h.down || !e.n.passes(e.host, to) || !e.n.passes(to, e.host) {
		return nil, nil
	}
	l := h.listeners[at]
	if l == nil || len(l.queue) == cap(l.queue) {
		return nil, syscall.ECONNREFUSED
	}
	e.n.made++
	there := e.n.pipe(e.host, to, 0)
	back := e.n.pipe(to, e.host, 1)
	mine := &conn{n: e.n, in: back, out: there, local: addr(e.host + ":0"), remote: addr(at), owner: e}
	other := &conn{n: e.n, in: there, out: back, local: addr(at), remote: addr(e.host + ":0"), owner: l.owner}
	e.n.conns = append(e.n.conns, mine, other)
	l.queue <- other
	return mine, nil
}

func (n *network) pipe(from, to string, k uint64) *pipe {
	return &pipe{n: n, from: from, to: to, rng: rand.New(rand.NewPCG(n.seed, 2*n.made+k)), wake: make(chan struct{})}
}
