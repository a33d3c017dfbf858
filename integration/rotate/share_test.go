package rotate

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/peertest"
)

const zone = "mx.postern.test"

// ask puts questions to one relay's responder, with nothing remembered.
func ask(t *testing.T, server string) *dns.Client {
	t.Helper()
	c, err := dns.NewClient(dns.Config{Servers: []string{server}, Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// named are the relays that the responder at server names: by their addresses,
// and by MX.
func named(t *testing.T, server string) (addrs, mx string) {
	t.Helper()
	c := ask(t, server)
	list, err := c.Addrs(t.Context(), zone)
	if err != nil {
		return err.Error(), ""
	}
	slices.SortFunc(list, netip.Addr.Compare)
	hosts, err := c.MX(t.Context(), zone)
	if err != nil {
		return fmt.Sprint(list), err.Error()
	}
	var names []string
	for _, h := range hosts {
		names = append(names, strings.TrimSuffix(h.Host, "."+zone))
	}
	slices.Sort(names)
	return fmt.Sprint(list), strings.Join(names, " ")
}

// awaitNamed waits until every responder that runs names these relays.
func awaitNamed(t *testing.T, relays []cluster.Relay, addrs, mx string) {
	t.Helper()
	from := time.Now()
	for _, r := range relays {
		for {
			a, m := named(t, r.DNS)
			if a == addrs && m == mx {
				break
			}
			if time.Since(from) > 30*time.Second {
				t.Fatalf("%s names %s and %s, want %s and %s", r.Name, a, m, addrs, mx)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Logf("%s named after %v", mx, time.Since(from).Round(time.Millisecond))
}

// TestResponder: every relay answers with the relays that are fit; one that drains
// is left out until it returns, one that is down too, and its own name stays.
func TestResponder(t *testing.T) {
	c := cluster.Start(t, "--relays", "3", "--pairs", "1", "--users", "2", "--responder")
	relays := c.Info().Relays
	const all, allNames = "[127.0.0.11 127.0.0.12 127.0.0.13]", "relay1 relay2 relay3"
	awaitNamed(t, relays, all, allNames)
	if _, err := ask(t, relays[0].DNS).Addrs(t.Context(), "nobody."+zone); !errors.Is(err, dns.ErrNotFound) {
		t.Errorf("a name that does not exist: %v", err)
	}
	if _, err := ask(t, relays[0].DNS).Addrs(t.Context(), "example.com"); err == nil || errors.Is(err, dns.ErrNotFound) {
		t.Errorf("a name of others: %v, want it refused", err)
	}
	must := func(args ...string) {
		t.Helper()
		if out, err := c.Postern(args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	must("node", "drain", "relay2")
	awaitNamed(t, relays, "[127.0.0.11 127.0.0.13]", "relay1 relay3")
	if a, err := ask(t, relays[1].DNS).Addrs(t.Context(), "relay2."+zone); err != nil || fmt.Sprint(a) != "[127.0.0.12]" {
		t.Errorf("the relay that drains has lost its own name: %v, %v", a, err)
	}
	must("node", "undrain", "relay2")
	awaitNamed(t, relays, all, allNames)
	must("node", "stop", "relay3")
	awaitNamed(t, relays[:2], "[127.0.0.11 127.0.0.12]", "relay1 relay2")
	must("node", "start", "relay3")
	awaitNamed(t, c.Info().Relays, all, allNames)
}

// clients opens n connections, dial choosing where to, and holds them until the
// test ends or they are closed by the function returned. Each has been greeted.
func clients(t *testing.T, n int, dial func() (net.Conn, error)) (closeAll func()) {
	t.Helper()
	var mu sync.Mutex
	var held []net.Conn
	var failed atomic.Int64
	var last atomic.Value
	var wg sync.WaitGroup
	work := make(chan struct{})
	for range 30 {
		wg.Go(func() {
			for range work {
				conn, err := dial()
				if err == nil {
					_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
					var line string
					if line, err = bufio.NewReaderSize(conn, 512).ReadString('\n'); err == nil && !strings.HasPrefix(line, "220 ") {
						err = errors.New(line)
					}
					mu.Lock()
					held = append(held, conn)
					mu.Unlock()
				}
				if err != nil {
					failed.Add(1)
					last.Store(err.Error())
				}
			}
		})
	}
	for range n {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	closeAll = sync.OnceFunc(func() {
		for _, c := range held {
			c.Close()
		}
	})
	t.Cleanup(closeAll)
	if failed.Load() > 0 {
		t.Errorf("%d of %d connections failed: %v", failed.Load(), n, last.Load())
	}
	return closeAll
}

// shares are the SMTP connections that each relay has open.
func shares(b *bench) map[string]int {
	b.t.Helper()
	out := map[string]int{}
	for _, n := range decode[struct {
		Nodes []struct {
			Name, Role  string
			Connections int
		}
	}](b, "status").Nodes {
		if n.Role == "relay" {
			out[n.Name] = n.Connections
		}
	}
	return out
}

// even fails unless each relay has the share of n connections that is one of
// relays, within a tenth.
func even(b *bench, n, relays int) {
	b.t.Helper()
	var got map[string]int
	want := n / relays
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		got = shares(b)
		sum := 0
		for _, have := range got {
			sum += have
		}
		if sum == n {
			break
		}
	}
	b.t.Logf("%d connections: %v", n, got)
	with := 0
	for name, have := range got {
		if have == 0 {
			continue
		}
		with++
		if have < want*9/10 || have > want*11/10 {
			b.t.Errorf("%s has %d of %d connections, want %d within a tenth", name, have, n, want)
		}
	}
	if with != relays {
		b.t.Errorf("%d relays have connections, want %d: %v", with, relays, got)
	}
}

// shared is a cluster of three relays, if 3,000 connections can be held.
func shared(t *testing.T) (*bench, []cluster.Relay) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 4*connections {
		peertest.Lacks(t, "%d open files are allowed (%v), %d needed", limit.Cur, err, 4*connections)
	}
	c := cluster.Start(t, "--relays", "3", "--pairs", "1", "--users", "2", "--responder")
	relays := c.Info().Relays
	awaitNamed(t, relays, "[127.0.0.11 127.0.0.12 127.0.0.13]", "relay1 relay2 relay3")
	return &bench{t: t, c: c}, relays
}

const connections = 3000

// TestShareDNS: three relays share 3,000 connections behind plain DNS. Each client
// asks one of the name servers and takes the first address.
func TestShareDNS(t *testing.T) {
	b, relays := shared(t)
	var next atomic.Int64
	_, port, _ := net.SplitHostPort(relays[0].Public)
	clients(t, connections, func() (net.Conn, error) {
		list, err := ask(t, relays[int(next.Add(1))%len(relays)].DNS).Addrs(t.Context(), zone)
		if err != nil {
			return nil, err
		}
		return net.DialTimeout("tcp", net.JoinHostPort(list[0].String(), port), 30*time.Second)
	})
	even(b, connections, 3)
}
