package raftnet_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// counted is a listener that counts the connections that it gave out.
type counted struct {
	net.Listener
	accepted chan struct{}
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

// TestStrangers opens more connections than may be unauthenticated at a time:
// the rest waits in the system's queue, and Close ends all.
func TestStrangers(t *testing.T) {
	const limit, more = 64, 30
	server, _ := replicatest.NewCA(t).Issue(t, "pair1-a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	replicatest.Must(t, err)
	n := counted{l, make(chan struct{}, 2*(limit+more))}
	port, err := raftnet.NewPort(n, server, func(tls.ConnectionState) error { return nil }, slog.New(slog.DiscardHandler))
	replicatest.Must(t, err)
	var conns []net.Conn
	for range limit + more {
		c, err := net.Dial("tcp", l.Addr().String())
		replicatest.Must(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	for range limit {
		<-n.accepted
	}
	select {
	case <-n.accepted:
		t.Errorf("over %d connections that have not authenticated", limit)
	case <-time.After(300 * time.Millisecond):
	}
	// One that goes makes room.
	conns[0].Close()
	select {
	case <-n.accepted:
	case <-time.After(10 * time.Second):
		t.Error("no room after one has gone")
	}
	done := make(chan error)
	go func() { done <- port.Close() }()
	select {
	case err := <-done:
		replicatest.Must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not end")
	}
}
