package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// passed puts copies of sockets where a service manager would have put them,
// from descriptor first on.
func passed(t *testing.T, first int, all ...socket) {
	t.Helper()
	for i, l := range all {
		f, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(f.Fd()), first+i, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func environ(kv map[string]string) (func(string) string, func(string) error) {
	return func(k string) string { return kv[k] }, func(k string) error { delete(kv, k); return nil }
}

// TestListen: an address that the manager has opened is taken from it, again and
// again; any other one is opened; what nobody asked for is named.
func TestListen(t *testing.T) {
	const first = 200
	one, all := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", ":0")
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	passed(t, first, one, all, listen(t, "unix", filepath.Join(t.TempDir(), "s")), udp)
	env := map[string]string{"LISTEN_PID": strconv.Itoa(os.Getpid()), "LISTEN_FDS": "4", "LISTEN_FDNAMES": "a:b:c"}
	get, unset := environ(env)
	in, err := inherit(get, unset, first)
	if err != nil || len(in.all) != 4 || len(env) != 0 {
		t.Fatalf("%d sockets, %v left of the environment: %v", len(in.all), env, err)
	}
	defer in.close()
	for range 2 {
		l, err := in.listen(net.ListenConfig{}, one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if a, err := l.Accept(); err != nil {
			t.Error(err)
		} else {
			a.Close()
		}
		l.Close()
	}
	for range 2 {
		p, err := in.listenPacket(udp.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteTo([]byte("to myself"), udp.LocalAddr()); err != nil {
			t.Error(err)
		}
		_ = p.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, from, err := p.ReadFrom(make([]byte, 64)); n != 9 || err != nil || from.String() != udp.LocalAddr().String() {
			t.Errorf("%d octets of %v: %v", n, from, err)
		}
		p.Close()
	}
	own, err := in.listen(net.ListenConfig{}, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own.Close()
	var out strings.Builder
	in.unclaimed(slog.New(slog.NewTextHandler(&out, nil)))
	if n := strings.Count(out.String(), "level=ERROR"); n != 2 || strings.Contains(out.String(), one.Addr().String()) || strings.Contains(out.String(), udp.LocalAddr().String()) {
		t.Errorf("said: %s", out.String())
	}
}

func TestInherit(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for name, tt := range map[string]struct {
		pid, fds string
		ok       bool
	}{
		"none":             {"", "", true},
		"of somebody else": {"1", "3", true},
		"no number":        {me, "many", false},
		"too many":         {me, "100000", false},
		"below none":       {me, "-1", false},
		"not there":        {me, "1", false},
	} {
		get, unset := environ(map[string]string{"LISTEN_PID": tt.pid, "LISTEN_FDS": tt.fds})
		in, err := inherit(get, unset, 300)
		if (err == nil) != tt.ok || err == nil && len(in.all) > 0 {
			t.Errorf("%s: %+v %v", name, in, err)
		}
	}
}

func TestSameAddress(t *testing.T) {
	tcp := func(s string) net.Addr { a, _ := net.ResolveTCPAddr("tcp", s); return a }
	for _, tt := range []struct {
		have, want string
		same       bool
	}{
		{"[::]:25", ":25", true},
		{"0.0.0.0:25", ":25", true},
		{"0.0.0.0:25", "[::]:25", true},
		{"[::]:25", ":smtp", true},
		{"[::]:25", ":587", false},
		{"[::]:25", "192.0.2.1:25", false},
		{"192.0.2.1:25", ":25", false},
		{"192.0.2.1:25", "192.0.2.1:25", true},
		{"[::ffff:192.0.2.1]:25", "192.0.2.1:25", true},
		{"[2001:db8::1]:25", "[2001:db8::1]:25", true},
		{"127.0.0.1:25", "localhost:25", false},
		{"127.0.0.1:25", "25", false},
	} {
		if got := sameAddress(tcp(tt.have), tt.want); got != tt.same {
			t.Errorf("%s for %s: %v", tt.have, tt.want, got)
		}
	}
}

// manager is the socket of a service manager.
func manager(t *testing.T) (messages <-chan string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", name)
	said, done := make(chan string), make(chan struct{})
	go func() {
		defer close(said)
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			select {
			case said <- string(b[:n]):
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() { close(done); c.Close() })
	return said
}

// TestWatchdog: signs of life come as long as the node answers, and only then.
func TestWatchdog(t *testing.T) {
	said := manager(t)
	var dead atomic.Bool
	var looks atomic.Int32
	alive := func(context.Context) error {
		looks.Add(1)
		if dead.Load() {
			return errors.New("no answer")
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watchdog(ctx, time.Millisecond, alive, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	for range 3 {
		if m := <-said; m != "WATCHDOG=1" {
			t.Fatalf("said %q", m)
		}
	}
	dead.Store(true)
	// The signs under way are read; after them there are looks, and no sign.
	quiet := func(n int32) bool {
		for from := looks.Load(); looks.Load() < from+n; {
			select {
			case <-said:
				return false
			case <-time.After(time.Millisecond):
			}
		}
		return true
	}
	for i := 0; !quiet(5); i++ {
		if i > 10 {
			t.Fatal("signs of life from a node that does not answer")
		}
	}
	dead.Store(false)
	<-said
	cancel()
	<-done
}

func TestWatchdogEvery(t *testing.T) {
	for name, tt := range map[string]struct {
		pid, usec string
		want      time.Duration
	}{
		"none":             {"", "", 0},
		"half":             {strconv.Itoa(os.Getpid()), "30000000", 15 * time.Second},
		"no pid":           {"", "30000000", 15 * time.Second},
		"of somebody else": {"1", "30000000", 0},
		"nonsense":         {"", "soon", 0},
		"below none":       {"", "-5", 0},
		"too much":         {"", "9223372036854775807", 0},
	} {
		get, _ := environ(map[string]string{"WATCHDOG_PID": tt.pid, "WATCHDOG_USEC": tt.usec})
		if got := watchdogEvery(get); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
