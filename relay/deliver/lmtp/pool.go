package lmtp

import (
	"context"
	"crypto/tls"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/smtp"
)

// node is one address to deliver to, and its connections.
type node struct {
	name  string // node name, or the address of a foreign server
	addr  string
	tls   *tls.Config
	slots slots

	mu     sync.Mutex // guards the fields below
	idle   []idleConn // the newest last
	closed bool
}

type idleConn struct {
	c     *smtp.Client
	since time.Time
}

// slots bound the connections to one node: each in use has one.
type slots struct {
	mu      sync.Mutex // guards what follows
	most    int
	used    int
	waiting []chan struct{} // closed when it has one; the longest first
}

// acquire waits for a slot.
func (s *slots) acquire(ctx context.Context) error {
	s.mu.Lock()
	if s.used < s.most {
		s.used++
		s.mu.Unlock()
		return nil
	}
	got := make(chan struct{})
	s.waiting = append(s.waiting, got)
	s.mu.Unlock()
	select {
	case <-got:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, got); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return ctx.Err()
	}
	return nil // it was given just now
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.give()
}

// bound makes n the number of slots. Those in use beyond it are not given again.
func (s *slots) bound(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = n
	s.give()
}

// give gives slots to those that wait, so that none is free while one of them does.
// The caller holds mu.
func (s *slots) give() {
	for len(s.waiting) > 0 && s.used < s.most {
		close(s.waiting[0])
		s.waiting = slices.Delete(s.waiting, 0, 1)
		s.used++
	}
}

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
