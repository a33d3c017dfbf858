package rotate

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
)

// TestShareBalancer: three relays share 3,000 connections behind a balancer that
// knows nothing but /readyz, and two of them do while the third one drains.
func TestShareBalancer(t *testing.T) {
	b, relays := shared(t)
	front, knows := balance(t, relays)
	dialFront := func() (net.Conn, error) { return net.DialTimeout("tcp", front, 30*time.Second) }
	end := clients(t, connections, dialFront)
	even(b, connections, 3)
	end()
	b.must("node", "drain", "relay2", "--wait", "30s")
	knows(2)
	end = clients(t, 600, dialFront)
	even(b, 600, 2)
	end()
	b.must("node", "undrain", "relay2")
	knows(3)
	clients(t, 600, dialFront)
	even(b, 600, 3)
}

// balance is a balancer: it asks every relay for /readyz and gives each connection
// to the next of those that say 200. knows waits until so many do.
func balance(t *testing.T, relays []cluster.Relay) (addr string, knows func(n int)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	ready := make([]atomic.Bool, len(relays))
	look := func() {
		for i, r := range relays {
			ready[i].Store(isReady(ctx, r.Metrics))
		}
	}
	look()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
				look()
			}
		}
	})
	wg.Go(func() {
		turn := 0
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			for range relays {
				if turn++; ready[turn%len(relays)].Load() {
					break
				}
			}
			to := relays[turn%len(relays)].SMTP
			wg.Go(func() { splice(ctx, conn, to) })
		}
	})
	return l.Addr().String(), func(n int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			have := 0
			for i := range ready {
				if ready[i].Load() {
					have++
				}
			}
			if have == n {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the balancer knows %d relays that are ready, want %d", have, n)
			}
		}
	}
}

// isReady asks a relay as a balancer does.
func isReady(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// splice joins a connection with a new one to addr until either ends.
func splice(ctx context.Context, conn net.Conn, addr string) {
	defer conn.Close()
	up, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); up.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(plain{conn}, plain{up})
		conn.Close()
	}()
	_, _ = io.Copy(plain{up}, plain{conn})
	up.Close()
	<-done
}

// plain hides what lets io.Copy take a pipe, which costs two more open files.
type plain struct{ io.ReadWriter }
