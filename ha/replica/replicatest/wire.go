package replicatest

import (
	"context"
	"net"
	"sync"
)

// Wire is the network between the nodes of a cluster; links can be cut.
type Wire struct {
	mu    sync.Mutex
	cut   map[[2]string]bool // from, to
	conns map[*wireConn]struct{}
}

func newWire() *Wire {
	return &Wire{cut: map[[2]string]bool{}, conns: map[*wireConn]struct{}{}}
}

// dialer dials for a node. names tells which node listens where.
func (w *Wire) dialer(from string, names map[string]string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := names[addr]
		if w.isCut(from, to) || w.isCut(to, from) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		wc := &wireConn{Conn: c, w: w, from: from, to: to}
		w.mu.Lock()
		w.conns[wc] = struct{}{}
		w.mu.Unlock()
		return wc, nil
	}
}

func (w *Wire) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[[2]string{from, to}]
}

// Isolate cuts a node off from others, silently, or joins it again.
func (w *Wire) Isolate(node string, others []string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range others {
		w.cut[[2]string{node, o}], w.cut[[2]string{o, node}] = cut, cut
	}
	if cut {
		return
	}
	for c := range w.conns { // what was lost on them is lost
		if c.lost {
			c.Conn.Close()
			delete(w.conns, c)
		}
	}
}

// wireConn swallows what crosses a cut link.
type wireConn struct {
	net.Conn
	w        *Wire
	from, to string
	lost     bool // guarded by w.mu
}

func (c *wireConn) Write(p []byte) (int, error) {
	if c.w.isCut(c.from, c.to) {
		c.lose()
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *wireConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.w.isCut(c.to, c.from) {
			return n, err
		}
		c.lose()
	}
}

func (c *wireConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

func (c *wireConn) lose() {
	c.w.mu.Lock()
	c.lost = true
	c.w.mu.Unlock()
}
