package responder

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxUnderWay   = 512  // questions by UDP at once
	maxNetworks   = 8192 // whose rate is known
	maxConns      = 256  // by TCP, of all clients
	connsEach     = 16   // of one network
	perConnection = 100  // questions
)

// verdict is what to do with a question by UDP.
type verdict int

const (
	reply verdict = iota
	cut           // only TC: a real client comes by TCP
	drop
)

// limiter bounds what one network of clients, and all together, may ask.
type limiter struct {
	underWay atomic.Int64

	mu       sync.Mutex // guards what follows
	rate     float64
	networks map[netip.Prefix]*bucket
	conns    map[netip.Prefix]int
	all      int // conns
}

// bucket holds the answers that a network may have now, up to a second's.
type bucket struct {
	left float64
	at   time.Time
	over uint
}

func (l *limiter) init() {
	l.networks, l.conns = map[netip.Prefix]*bucket{}, map[netip.Prefix]int{}
}

func (l *limiter) setRate(rate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = float64(rate)
}

func (l *limiter) begin() bool {
	if l.underWay.Add(1) > maxUnderWay {
		l.underWay.Add(-1)
		return false
	}
	return true
}

func (l *limiter) end() { l.underWay.Add(-1) }

// network is the block of addresses that counts as one client.
func network(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, _ := a.WithZone("").Prefix(bits) // the zero Prefix for the zero Addr
	return p
}

func (l *limiter) allow(from netip.Addr, now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := network(from)
	b := l.networks[n]
	if b == nil {
		if len(l.networks) >= maxNetworks {
			l.forget(now)
		}
		b = &bucket{left: l.rate, at: now}
		l.networks[n] = b
	}
	b.left = min(l.rate, b.left+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.left >= 1 {
		b.left--
		return reply
	}
	if b.over++; b.over%2 == 0 {
		return cut
	}
	return drop
}

// forget makes room: networks that have been silent for a second have a full
// bucket, and are as if they were new. With more than that at once, all begin
// anew.
func (l *limiter) forget(now time.Time) {
	for n, b := range l.networks {
		if now.Sub(b.at) >= time.Second {
			delete(l.networks, n)
		}
	}
	if len(l.networks) >= maxNetworks {
		clear(l.networks)
	}
}

// bounded is a listener that closes connections beyond the limits.
type bounded struct {
	net.Listener
	limits *limiter
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if n := network(addrOf(c.RemoteAddr())); b.limits.enter(n) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { b.limits.leave(n) })}, nil
		}
		c.Close()
	}
}

func (l *limiter) enter(n netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || l.conns[n] >= connsEach {
		return false
	}
	l.all++
	l.conns[n]++
	return true
}

func (l *limiter) leave(n netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.conns[n]--; l.conns[n] == 0 {
		delete(l.conns, n)
	}
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
