package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const zoneText = `
example.com.       300 MX 20 b.example.com.
example.com.       300 MX 10 a.Example.COM.
a.example.com.     300 A 192.0.2.1
a.example.com.     300 AAAA 2001:db8::1
b.example.com.     300 CNAME c.example.com.
c.example.com.     300 A 192.0.2.3
null.example.com.  300 MX 0 .
text.example.com.  300 TXT "v=spf1 " "-all"
text.example.com.  300 TXT "other"
1.2.0.192.in-addr.arpa. 300 PTR a.example.com.
onlyv4.example.com. 300 A 192.0.2.4
`

func server(t *testing.T, zone *Zone) string {
	t.Helper()
	s, err := Listen("127.0.0.1:0", zone)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s.Addr()
}

func client(t *testing.T, servers ...string) *Client {
	t.Helper()
	c, err := NewClient(Config{Servers: servers, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestResolvers is the contract of Resolver, for the zone in memory and for a
// client over the network.
func TestResolvers(t *testing.T) {
	zone, err := ParseZone("example.com", zoneText)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := zone.Add(fmt.Sprintf("many.example.com. TXT \"%03d%s\"", i, strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
	}
	zone.Fail("ill.example.com", errors.New("SERVFAIL"))
	for name, r := range map[string]Resolver{"zone": zone, "client": client(t, server(t, zone))} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from the cache
				ctx := t.Context()
				mx, err := r.MX(ctx, "EXAMPLE.com.")
				if err != nil || fmt.Sprint(mx) != "[{a.example.com 10} {b.example.com 20}]" {
					t.Errorf("MX = %v, %v", mx, err)
				}
				if mx, err := r.MX(ctx, "null.example.com"); err != nil || len(mx) != 1 || mx[0].Host != "" {
					t.Errorf("null MX = %v, %v", mx, err)
				}
				for host, want := range map[string]string{"a.example.com": "[192.0.2.1 2001:db8::1]", "b.example.com": "[192.0.2.3]", "onlyv4.example.com": "[192.0.2.4]"} {
					if a, err := r.Addrs(ctx, host); err != nil || fmt.Sprint(a) != want {
						t.Errorf("Addrs(%s) = %v, %v", host, a, err)
					}
				}
				if txt, err := r.TXT(ctx, "text.example.com"); err != nil || fmt.Sprint(txt) != "[v=spf1 -all other]" {
					t.Errorf("TXT = %v, %v", txt, err)
				}
				if txt, err := r.TXT(ctx, "many.example.com"); err != nil || len(txt) != 200 {
					t.Errorf("large answer: %d, %v", len(txt), err)
				}
				if ptr, err := r.PTR(ctx, netip.MustParseAddr("::ffff:192.0.2.1")); err != nil || fmt.Sprint(ptr) != "[a.example.com]" {
					t.Errorf("PTR = %v, %v", ptr, err)
				}
				for what, ask := range map[string]func() error{
					"no name":    func() error { _, err := r.MX(ctx, "nothing.example.com"); return err },
					"no type":    func() error { _, err := r.MX(ctx, "a.example.com"); return err },
					"no address": func() error { _, err := r.Addrs(ctx, "text.example.com"); return err },
					"no PTR":     func() error { _, err := r.PTR(ctx, netip.MustParseAddr("2001:db8::9")); return err },
				} {
					if err := ask(); !errors.Is(err, ErrNotFound) {
						t.Errorf("%s: %v, want ErrNotFound", what, err)
					}
				}
				if _, err := r.MX(ctx, "ill.example.com"); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("SERVFAIL: %v", err)
				}
				if _, err := r.Addrs(ctx, "ill.example.com"); err == nil || errors.Is(err, ErrNotFound) {
					t.Errorf("SERVFAIL: %v", err)
				}
			}
		})
	}
}

func TestServerIsDown(t *testing.T) {
	zone, err := ParseZone("example.com", zoneText)
	if err != nil {
		t.Fatal(err)
	}
	down := "127.0.0.1:1"
	if mx, err := client(t, down, server(t, zone)).MX(t.Context(), "example.com"); err != nil || len(mx) != 2 {
		t.Errorf("second server: %v %v", mx, err)
	}
	if _, err := client(t, down).MX(t.Context(), "example.com"); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("no server: %v", err)
	}
	for _, bad := range []string{"", "a b", strings.Repeat("x", 64) + ".com", "a..b", strings.Repeat("x.", 200), "x\x00.com"} {
		if _, err := client(t, down).MX(t.Context(), bad); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound without asking", bad, err)
		}
	}
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c cache
		c.init(2)
		var asked atomic.Int32
		answer := func(err error) func(context.Context) ([]dns.RR, time.Duration, error) {
			return func(context.Context) ([]dns.RR, time.Duration, error) {
				asked.Add(1)
				time.Sleep(time.Second)
				return nil, time.Minute, err
			}
		}
		get := func(name string, err error) error {
			_, got := c.get(t.Context(), question{name, 1}, time.Now(), answer(err))
			return got
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _ = get("a", nil) })
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times at once", n)
		}
		time.Sleep(58 * time.Second)
		_ = get("a", nil)
		if n := asked.Load(); n != 1 {
			t.Errorf("asked again within the TTL")
		}
		time.Sleep(3 * time.Second)
		_ = get("a", nil)
		if n := asked.Load(); n != 2 {
			t.Errorf("not asked after the TTL")
		}
		asked.Store(0)
		_ = get("b", ErrNotFound)
		if err := get("b", nil); !errors.Is(err, ErrNotFound) || asked.Load() != 1 {
			t.Errorf("not found is not kept: %v", err)
		}
		_ = get("c", errors.New("SERVFAIL"))
		if err := get("c", nil); err != nil || asked.Load() != 3 {
			t.Errorf("a failure is kept: %v", err)
		}
		if len(c.entries) != 2 || c.recent.Len() != 2 {
			t.Errorf("%d entries", len(c.entries))
		}
		// Who gives up leaves the others their answer.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wg.Go(func() {
			if err := get("d", nil); err != nil {
				t.Errorf("the patient one: %v", err)
			}
		})
		synctest.Wait()
		if _, err := c.get(ctx, question{"d", 1}, time.Now(), answer(nil)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient one: %v", err)
		}
		wg.Wait()
		// And when all give up, the question ends.
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		ended := make(chan struct{})
		_, _ = c.get(ctx, question{"e", 1}, time.Now(), func(ctx context.Context) ([]dns.RR, time.Duration, error) {
			<-ctx.Done()
			close(ended)
			return nil, 0, ctx.Err()
		})
		<-ended
	})
}

func FuzzRead(f *testing.F) {
	var m dns.Msg
	m.SetQuestion("example.com.", dns.TypeMX)
	if b, err := m.Pack(); err == nil {
		f.Add(b, "example.com")
	}
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		c := &Client{cfg: Config{MaxTTL: time.Hour, MaxMissTTL: time.Minute}}
		rrs, ttl, err := c.read(&m, name, dns.TypeMX)
		if err == nil && len(rrs) == 0 || ttl < 0 || ttl > time.Hour {
			t.Errorf("%v %v %v", rrs, ttl, err)
		}
	})
}
