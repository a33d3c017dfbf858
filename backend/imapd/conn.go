package imapd

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// errWake ends a read because another goroutine called wake.
var errWake = errors.New("imapd: woken")

// conn puts a deadline on each read and write, and lets another goroutine end
// a read that waits.
type conn struct {
	net.Conn
	raw       net.Conn             // below TLS; for other goroutines
	tls       *tls.ConnectionState // nil without TLS
	readLimit time.Duration        // of one read
	until     time.Time            // no read goes on after this; zero: no such time
	write     time.Duration        // limit of one write
	heed      func() bool          // whether a wake ends a read now
	woken     atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		deadline := time.Now().Add(c.readLimit)
		if !c.until.IsZero() && c.until.Before(deadline) {
			deadline = c.until
		}
		if err := c.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		if c.woken.Load() { // wake may have come before the deadline was set
			if c.heed() {
				return 0, errWake
			}
			c.rearm()
			continue
		}
		n, err := c.Conn.Read(p)
		if n == 0 && err != nil && c.woken.Load() {
			continue
		}
		return n, err
	}
}

func (c *conn) Write(p []byte) (int, error) {
	limit := c.write
	if c.woken.Load() && c.heed() { // the session ends: a client that does not read holds nobody up
		limit = min(limit, lastWrite)
	}
	if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// wake ends a read that waits, or the next one, with errWake if heed says so,
// until rearm. Other goroutines may call it.
func (c *conn) wake() {
	c.woken.Store(true)
	c.raw.SetReadDeadline(time.Unix(1, 0)) // an error means that the connection is closed
}

// rearm lets reads wait again.
func (c *conn) rearm() { c.woken.Store(false) }
