package lmtp

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver/lmtp/lmtptest"
)

// frozen is a server's end of a connection that hears nothing and says nothing
// once it is stopped at a word of the client; it stays open.
type frozen struct {
	net.Conn
	at      string
	stopped *atomic.Bool
	seen    chan struct{} // closed when it has stopped
	end     chan struct{}
}

func (f frozen) stop() {
	if f.stopped.CompareAndSwap(false, true) {
		close(f.seen)
	}
	<-f.end
}

func (f frozen) Read(b []byte) (int, error) {
	n, err := f.Conn.Read(b)
	if f.stopped.Load() || f.at != "" && strings.Contains(string(b[:n]), f.at) {
		f.stop()
		return 0, net.ErrClosed
	}
	return n, err
}

func (f frozen) Write(b []byte) (int, error) {
	if f.stopped.Load() || f.at == "" {
		f.stop()
		return 0, net.ErrClosed
	}
	return f.Conn.Write(b)
}

// TestMoved: a delivery to a node that is frozen goes to the node that comes to
// serve, as soon as that is known.
func TestMoved(t *testing.T) {
	for name, tt := range map[string]struct {
		at    string
		plain bool // without keys: it cannot be sent again
		want  string
	}{
		"before the greeting":         {at: "", want: "delivered"},
		"at LHLO":                     {at: "LHLO", want: "delivered"},
		"in the message":              {at: "body\r\n", want: "delivered"},
		"in the message, without key": {at: "body\r\n", plain: true, want: "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := frozen{at: tt.at, stopped: new(atomic.Bool), seen: make(chan struct{}), end: make(chan struct{})}
			var opts []lmtptest.Option
			if tt.plain {
				opts = append(opts, lmtptest.Plain)
			}
			n0 := sink(t, func(c net.Conn) net.Conn { g := f; g.Conn = c; return g }, opts...)
			n1 := sink(t, nil, opts...)
			defer close(f.end)
			table := pair(n0, n1)
			a := agent(t, Config{Routes: table, Rounds: 1, DataDone: 3 * time.Second})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			done := make(chan string, 1)
			go func() { done <- outcomes(a.Deliver(ctx, delivery(1))) }()
			<-f.seen
			start := time.Now()
			table.Update(route.Node{Name: "n1", Pair: "pair1", Alive: true, Serving: true, Term: 2, Addr: map[route.Service]string{route.LMTP: n1.Addr}})
			got, took := <-done, time.Since(start)
			if got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			if stored := len(n1.Stored()) == 1; stored == tt.plain {
				t.Errorf("stored at the node that serves: %v", stored)
			}
			if tt.plain && took < 2*time.Second {
				t.Errorf("given up after %v, although nobody else may be asked", took)
			}
			if !tt.plain && took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}
