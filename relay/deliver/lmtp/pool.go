package lmtp

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/smtp"
)

// node is one address to deliver to, and its connections.
type node struct {
	name  string // node name, or the address of a foreign server
	addr  string
	tls   *tls.Config
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex // guards the fields below
	idle   []idleConn // the newest last
	closed bool
}

type idleConn struct {
	c     *smtp.Client
	since time.Time
}

// acquire takes a slot, which bounds the connections to one node.
func (n *node) acquire(ctx context.Context) error {
	select {
	case n.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case n.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) release() { <-n.slots }

// take returns the newest idle connection, or nil.
func (n *node) take(now time.Time, maxIdle time.Duration) *smtp.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.idle) > 0 {
		last := n.idle[len(n.idle)-1]
		n.idle[len(n.idle)-1] = idleConn{}
		n.idle = n.idle[:len(n.idle)-1]
		if now.Sub(last.since) < maxIdle && last.c.Usable() {
			return last.c
		}
		last.c.Close()
	}
	return nil
}

// give keeps a connection for the next transaction, and lets go of those that
// have been idle for too long.
func (n *node) give(c *smtp.Client, now time.Time, keep int, maxIdle time.Duration) {
	var old []idleConn
	n.mu.Lock()
	stale := 0
	for stale < len(n.idle) && now.Sub(n.idle[stale].since) >= maxIdle {
		stale++
	}
	if stale > 0 {
		old = append(old, n.idle[:stale]...)
		n.idle = append(n.idle[:0], n.idle[stale:]...)
	}
	if n.closed || len(n.idle) >= keep {
		old = append(old, idleConn{c: c})
	} else {
		n.idle = append(n.idle, idleConn{c, now})
	}
	n.mu.Unlock()
	for _, o := range old {
		o.c.Close()
	}
}

// drain closes the idle connections: the peer has gone.
func (n *node) drain(forever bool) {
	n.mu.Lock()
	idle := n.idle
	n.idle = nil
	n.closed = n.closed || forever
	n.mu.Unlock()
	for _, i := range idle {
		i.c.Close()
	}
}
