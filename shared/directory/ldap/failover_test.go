package ldap_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// TestMaster: an address that a replica does not know yet is the master's to
// say; while that cannot be asked nobody is turned away.
func TestMaster(t *testing.T) {
	replica := dirtest.Embedded(t, fixture.Tree("x.test", 5, 1))
	master := dirtest.Embedded(t, fixture.Tree("x.test", 6, 1))
	var out logged
	d := dirtest.Dial(t, replica, func(c *ldap.Config) { c.Master, c.DefaultDomain, c.Log = master.URL, "x.test", out.log() })
	dom := domain(t, d, "x.test")
	late, away := faults("replica_lags"), faults("unavailable")
	for n, want := range map[int]bool{5: true, 6: true, 7: false} {
		_, err := d.Lookup(t.Context(), dom, user(n))
		if want != (err == nil) || !want && !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Lookup of user %d: %v", n, err)
		}
		_, err = d.Login(t.Context(), fixture.UID(n))
		if want != (err == nil) || !want && !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Login of user %d: %v", n, err)
		}
	}
	if n := faults("replica_lags") - late; n != 2 || strings.Count(out.String(), "directory replica lags") != 1 {
		t.Errorf("%v faults were counted, want 2 and one line a minute: %s", n, out.String())
	}
	before := trips()
	if _, err := d.Lookup(t.Context(), dom, user(5)); err != nil || trips()-before != 1 {
		t.Errorf("a known user asked of the master: %v requests, %v", trips()-before, err)
	}
	master.Stop()
	for range 3 {
		if _, err := d.Lookup(t.Context(), dom, user(6)); directory.FaultOf(err) != "unavailable" {
			t.Errorf("Lookup of a new user without the master: %v", err)
		}
		if _, err := d.Lookup(t.Context(), dom, user(5)); err != nil {
			t.Errorf("Lookup of a known user without the master: %v", err)
		}
	}
	if n := faults("unavailable") - away; n != 3 || !strings.Contains(out.String(), "fault=unavailable") {
		t.Errorf("%v faults were counted, want 3: %s", n, out.String())
	}
	same := dirtest.Dial(t, replica, func(c *ldap.Config) { c.Master = replica.URL })
	if _, err := same.Lookup(t.Context(), dom, user(6)); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("the only server is the master: %v", err)
	}
}

// slowConn delays what is read by what its server is slow.
type slowConn struct {
	net.Conn
	pause *atomic.Int64
}

func (c slowConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	time.Sleep(time.Duration(c.pause.Load()))
	return n, err
}

// lazy dials servers that can be made slow, by address.
type lazy struct {
	mu    sync.Mutex
	pause map[string]*atomic.Int64
	dials map[string]int
}

func (l *lazy) slow(s dirtest.Server, pause time.Duration) {
	l.of(strings.TrimPrefix(s.URL, "ldap://")).Store(int64(pause))
}

func (l *lazy) of(addr string) *atomic.Int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pause == nil {
		l.pause, l.dials = map[string]*atomic.Int64{}, map[string]int{}
	}
	if l.pause[addr] == nil {
		l.pause[addr] = new(atomic.Int64)
	}
	return l.pause[addr]
}

func (l *lazy) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return slowConn{c, l.of(addr)}, nil
}

// counter says which servers the searches went to.
type counter struct {
	mu sync.Mutex
	n  [4]int
}

func (c *counter) observe(op string, server int, _ time.Duration, err error) {
	if op == "search" && err == nil {
		c.mu.Lock()
		c.n[server]++
		c.mu.Unlock()
	}
}

func (c *counter) take() [4]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	c.n = [4]int{}
	return n
}

// TestOrder: the first server is asked while it is there, the next one when it
// goes away, and the first again when it has come back.
func TestOrder(t *testing.T) {
	tree := fixture.Tree("x.test", 5, 1)
	one, two := dirtest.Embedded(t, tree), dirtest.Embedded(t, tree)
	var seen counter
	var out logged
	d := dirtest.Dial(t, one, func(c *ldap.Config) {
		c.Servers, c.Observe, c.Log = []string{one.URL, two.URL}, seen.observe, out.log()
		c.RetryMin, c.RetryMax = 20*time.Millisecond, 100*time.Millisecond
	})
	dom := domain(t, d, "x.test")
	ask := func() {
		t.Helper()
		for range 20 {
			if _, err := d.Lookup(t.Context(), dom, user(1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	down := faults("server_down")
	seen.take()
	ask()
	if n := seen.take(); n != [4]int{20} {
		t.Errorf("asked %v, want the first server only", n)
	}
	one.Stop()
	ask() // no failure is seen
	if n := seen.take(); n != [4]int{0, 20} {
		t.Errorf("asked %v after the first server went away", n)
	}
	if s := out.String(); !strings.Contains(s, "directory server failed") || !strings.Contains(s, one.URL) {
		t.Errorf("log: %s", s)
	}
	if n := faults("server_down") - down; n != 1 {
		t.Errorf("%v faults were counted, want 1", n)
	}
	// It comes back at the same address.
	s, err := embedded.New(embedded.Config{LDIF: tree, RootDN: one.BindDN, RootPassword: one.Password})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(one.URL, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, l) })
	back := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	defer back()
	for deadline := time.Now().Add(20 * time.Second); ; {
		ask()
		n, s := seen.take(), out.String() // which is written once the server is used again
		if n[0] == 20 && strings.Contains(s, "directory server is back") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("asked %v after the first server came back; log: %s", n, s)
		}
	}
	back()
	two.Stop()
	_, _ = d.Lookup(t.Context(), dom, user(1)) // finds out
	before := faults("unavailable")
	for range 5 {
		if _, err := d.Lookup(t.Context(), dom, user(1)); !errors.Is(err, directory.ErrUnavailable) {
			t.Fatalf("Lookup without servers: %v", err)
		}
	}
	if n := faults("unavailable") - before; n != 5 {
		t.Errorf("%v faults were counted, want 5", n)
	}
	if s := out.String(); strings.Count(s, "fault=unavailable") != 1 {
		t.Errorf("an outage is told once a minute: %s", s)
	}
}

// TestFastest: with that setting the server that answers soonest gets nearly
// all questions, also when that changes.
func TestFastest(t *testing.T) {
	tree := fixture.Tree("x.test", 5, 1)
	one, two := dirtest.Embedded(t, tree), dirtest.Embedded(t, tree)
	var (
		seen counter
		net  lazy
	)
	d := dirtest.Dial(t, one, func(c *ldap.Config) {
		c.Servers, c.Observe, c.Dial, c.Fastest, c.SearchConns = []string{one.URL, two.URL}, seen.observe, net.dial, true, 1
	})
	dom := domain(t, d, "x.test")
	ask := func(n int) [4]int {
		t.Helper()
		seen.take()
		for range n {
			if _, err := d.Lookup(t.Context(), dom, user(1)); err != nil {
				t.Fatal(err)
			}
		}
		return seen.take()
	}
	net.slow(one, 60*time.Millisecond)
	ask(20)
	if n := ask(100); n[0] > 20 {
		t.Errorf("the slow first server was asked %d times, the second %d times", n[0], n[1])
	}
	net.slow(one, 0)
	net.slow(two, 60*time.Millisecond)
	for i := 0; ask(100)[0] < 90; i++ {
		if i == 20 {
			t.Fatal("the questions stay with a server that became slow")
		}
	}
}

// TestSlow: a server that does not answer is a temporary failure, and after a
// few in a row the next one is asked at once.
func TestSlow(t *testing.T) {
	tree := fixture.Tree("x.test", 5, 1)
	one := dirtest.Embedded(t, tree)
	var net lazy
	var out logged
	d := dirtest.Dial(t, one, func(c *ldap.Config) {
		c.Dial, c.Timeout, c.SearchConns, c.RetryMin, c.Log = net.dial, 100*time.Millisecond, 1, time.Hour, out.log()
	})
	dom := domain(t, d, "x.test")
	net.slow(one, 300*time.Millisecond)
	before := faults("slow")
	for range 2 {
		if _, err := d.Lookup(t.Context(), dom, user(1)); directory.FaultOf(err) != "slow" {
			t.Errorf("Lookup from a slow server: %v", err)
		}
	}
	if n := faults("slow") - before; n != 2 {
		t.Errorf("%v faults were counted, want 2", n)
	}
	if s := out.String(); !strings.Contains(s, "fault=slow") {
		t.Errorf("log: %s", s)
	}
	for range 3 {
		_, _ = d.Lookup(t.Context(), dom, user(1)) // until it counts as down
	}
	start := time.Now()
	if _, err := d.Lookup(t.Context(), dom, user(1)); !errors.Is(err, directory.ErrUnavailable) || time.Since(start) > 50*time.Millisecond {
		t.Errorf("Lookup took %v: %v", time.Since(start), err)
	}
}

// TestSlowGroups: a server that has no answer in time about groups, for want of an
// index perhaps, has not failed for other questions.
func TestSlowGroups(t *testing.T) {
	one := dirtest.Embedded(t, fixture.Tree("x.test", 5, 1))
	var net lazy
	d := dirtest.Dial(t, one, func(c *ldap.Config) {
		c.Dial, c.Timeout, c.SearchConns, c.RetryMin = net.dial, 100*time.Millisecond, 1, time.Hour
	})
	dom := domain(t, d, "x.test")
	e, err := d.Login(t.Context(), fixture.UID(1)+"@x.test")
	if err != nil {
		t.Fatal(err)
	}
	net.slow(one, 150*time.Millisecond)
	for range 5 {
		if g, err := d.Groups(t.Context(), e); directory.FaultOf(err) != "slow" {
			t.Errorf("%+v, %v", g, err)
		}
	}
	net.slow(one, 0)
	var lerr error
	for range 100 { // what was asked before has its answers first
		if _, lerr = d.Lookup(t.Context(), dom, user(1)); directory.FaultOf(lerr) != "slow" {
			break
		}
	}
	if lerr != nil {
		t.Errorf("another question: %v", lerr)
	}
}
