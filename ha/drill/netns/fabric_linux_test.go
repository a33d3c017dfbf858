package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/peertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// need skips where namespaces cannot be made.
func need(t *testing.T) {
	t.Helper()
	if err := Possible(); err != nil {
		peertest.Lacks(t, "%v", err)
	}
	name := prefix + "try" + newID()[:4]
	if err := batch(t.Context(), "", []string{"netns add " + name}); err != nil {
		peertest.Lacks(t, "namespaces cannot be made here: %v", err)
	}
	if err := batch(t.Context(), "", []string{"netns del " + name}); err != nil {
		t.Fatal(err)
	}
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	f := &fabric{id: newID()[:6], hosts: map[string]string{}}
	t.Cleanup(func() {
		if err := f.remove(context.Background()); err != nil {
			t.Error(err)
		}
		left, err := command(context.Background(), "", "ip", "netns", "list")
		if err != nil || strings.Contains(left, f.ns("")) {
			t.Errorf("left: %q, %v", left, err)
		}
	})
	errs := f.build(t.Context())
	for i, h := range []string{"a", "b"} {
		errs = errors.Join(errs, f.add(t.Context(), data, h, 11+i))
	}
	if err := errors.Join(errs, f.add(t.Context(), dmz, "relay", 11)); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fabric) mustReach(t *testing.T, from, to string, want bool) {
	t.Helper()
	got := false
	for range 20 { // a link comes up after a moment
		var err error
		if got, err = f.reaches(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
	}
	t.Errorf("%s reaches %s: %v, want %v", from, to, got, want)
}

// TestCut cuts neighbours one way, then both ways, and mends them.
func TestCut(t *testing.T) {
	need(t)
	f := newFabric(t)
	ctx := t.Context()
	f.mustReach(t, "a", "b", true)
	f.mustReach(t, "b", "a", true)
	if err := f.cut(ctx, "a", []string{f.from("b")}); err != nil {
		t.Fatal(err)
	}
	if n, err := f.dropped(ctx, "a"); err != nil || n != 0 {
		t.Errorf("%d dropped before anything was sent, %v", n, err)
	}
	f.mustReach(t, "b", "a", false)
	f.mustReach(t, "a", "b", true)
	if n, err := f.dropped(ctx, "a"); err != nil || n == 0 {
		t.Errorf("%d dropped, %v", n, err)
	}
	if err := f.cut(ctx, "b", []string{f.from("a")}); err != nil {
		t.Fatal(err)
	}
	f.mustReach(t, "a", "b", false)
	for _, h := range []string{"a", "b", "b"} { // a second time does no harm
		if err := f.mend(ctx, h); err != nil {
			t.Fatal(err)
		}
	}
	f.mustReach(t, "b", "a", true)
	f.mustReach(t, "a", "b", true)
}

// TestFirewall tries ports between the zones: what is not in the matrix is
// refused.
func TestFirewall(t *testing.T) {
	need(t)
	f := newFabric(t)
	f.mustReach(t, "a", "b", true)
	for _, c := range []struct {
		from, to string
		port     int
		want     bool
	}{
		{"relay", "a", portLMTP, true},
		{"relay", "a", portIMAP, true},
		{"relay", "a", portGossip, true},
		{"relay", "a", portRaft, false},
		{"a", "relay", portGossip, true},
		{"a", "relay", portSMTP, false},
		{"a", "b", portRaft, true},
	} {
		if got := f.connects(t, c.from, c.to, c.port); got != c.want {
			t.Errorf("%s to %s port %d: %v, want %v", c.from, c.to, c.port, got, c.want)
		}
	}
}

func (f *fabric) connects(t *testing.T, from, to string, port int) bool {
	t.Helper()
	var l net.Listener
	if err := within(f.ns(to), func() (err error) {
		l, err = net.Listen("tcp4", at(f.hosts[to], port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c, err := dial(ctx, f.ns(from), "tcp4", l.Addr().String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// TestNothingOutside: a namespace has no way to this host, and this process
// stays where it is.
func TestNothingOutside(t *testing.T) {
	need(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := newFabric(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := dial(ctx, f.ns("a"), "tcp4", l.Addr().String()); err == nil {
		c.Close()
		t.Error("a namespace reaches this host")
	}
	after, err := os.Readlink("/proc/self/ns/net")
	if err != nil || after != before {
		t.Errorf("this process was in %s and is in %s, %v", before, after, err)
	}
	if _, err := dial(t.Context(), f.ns("a"), "tcp4", "localhost:25"); err == nil || !strings.Contains(err.Error(), "not numeric") {
		t.Errorf("a name is looked up: %v", err)
	}
	if err := within(prefix+"nobody", func() error { return io.EOF }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
