package dispatcher

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers "hello" and then waits for the peer, or for Shutdown.
type echo struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	deaf bool // does not end at Shutdown
}

func (e *echo) ServeConn(ctx context.Context, c net.Conn) {
	e.mu.Lock()
	if e.open == nil {
		e.open = map[net.Conn]bool{}
	}
	e.open[c] = true
	e.mu.Unlock()
	_, _ = io.WriteString(c, "hello")
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, c)
	e.mu.Lock()
	delete(e.open, c)
	e.mu.Unlock()
}

func (e *echo) Shutdown(ctx context.Context) error {
	if e.deaf {
		<-ctx.Done()
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for c := range e.open {
		c.Close()
	}
	return nil
}

func start(t *testing.T, s Service) (d *Dispatcher, addr string, done chan error) {
	t.Helper()
	d, err := New(Config{Services: []Service{s}})
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan error, 1)
	go func() { done <- d.Run(context.Background()) }()
	return d, d.Addrs(s.Name)[0].String(), done
}

func read(t *testing.T, addr string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := make([]byte, 100)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _ := c.Read(b)
	return c, string(b[:n])
}

func TestLimitAndDrain(t *testing.T) {
	d, addr, done := start(t, Service{Name: "mx", Addrs: []string{"127.0.0.1:0"}, Server: &echo{}, MaxConns: 2})
	for range 2 {
		if _, got := read(t, addr); got != "hello" {
			t.Fatalf("%q", got)
		}
	}
	if n := d.Connections("mx"); n != 2 {
		t.Errorf("%d connections", n)
	}
	if _, got := read(t, addr); got != defaultBusy {
		t.Errorf("third connection: %q", got)
	}
	d.SetMaxConns("submission", 9) // another service
	if _, got := read(t, addr); got != defaultBusy {
		t.Errorf("third connection: %q", got)
	}
	d.SetMaxConns("mx", 3)
	if _, got := read(t, addr); got != "hello" {
		t.Errorf("third connection with a limit of three: %q", got)
	}
	d.SetMaxConns("mx", 1) // ends none
	if _, got := read(t, addr); got != defaultBusy || d.Connections("mx") != 3 {
		t.Errorf("beyond a limit that was lowered: %q, %d connections", got, d.Connections("mx"))
	}
	d.SetMaxConns("mx", 0) // no limit
	if _, got := read(t, addr); got != "hello" {
		t.Errorf("without a limit: %q", got)
	}
	d.Drain()
	if _, got := read(t, addr); got != defaultBusy || !d.Draining() {
		t.Errorf("while draining: %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

// TestShutdownGreets: whoever has been accepted when Shutdown comes is greeted.
func TestShutdownGreets(t *testing.T) {
	for range 50 {
		d, addr, done := start(t, Service{Name: "mx", Addrs: []string{"127.0.0.1:0"}, Server: &echo{}})
		var clients sync.WaitGroup
		first := make(chan struct{})
		for i := range 4 {
			clients.Go(func() {
				for n := 0; ; n++ {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						return
					}
					b := make([]byte, 100)
					k, err := c.Read(b)
					c.Close()
					if k > 0 && string(b[:k]) != "hello" {
						t.Errorf("connection %d: %q", n, b[:k])
					}
					if err != nil {
						return
					}
					if i == 0 && n == 0 {
						close(first)
					}
				}
			})
		}
		<-first
		if err := d.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		clients.Wait()
	}
}

func TestShutdownCuts(t *testing.T) {
	d, addr, done := start(t, Service{Name: "mx", Addrs: []string{"127.0.0.1:0"}, Server: &echo{deaf: true}})
	read(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := d.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown = %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// flaky fails to accept a few times, as for want of descriptors.
type flaky struct {
	net.Listener
	fail int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.fail > 0 {
		f.fail--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestAcceptRecovers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, addr, done := start(t, Service{Name: "mx", Open: []net.Listener{&flaky{l, 3}}, Server: &echo{}})
	if _, got := read(t, addr); got != "hello" {
		t.Errorf("%q", got)
	}
	if err := d.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-done
}

func TestNewFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	if _, err := New(Config{Services: []Service{{Name: "a", Addrs: []string{addr, l.Addr().String()}, Server: &echo{}}}}); err == nil {
		t.Fatal("taken address accepted")
	}
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Errorf("first listener left open: %v", err)
	} else {
		again.Close()
	}
}
