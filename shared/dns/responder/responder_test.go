package responder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func three(fit ...bool) []Relay {
	out := make([]Relay, len(fit))
	for i, f := range fit {
		out[i] = Relay{fmt.Sprintf("relay%d", i+1), []netip.Addr{
			netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1)),
		}, f}
	}
	return out
}

func responder(t testing.TB, relays func() []Relay) *Responder {
	t.Helper()
	r, err := New(Config{Zone: "mx.example.com", Names: []string{"imap.mx.example.com"}, TTL: 30 * time.Second, Rate: 5, Relays: relays})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// short is a section as sorted words without the names asked for.
func short(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		f := strings.Fields(strings.TrimPrefix(rr.String(), rr.Header().String()))
		out = append(out, dns.TypeToString[rr.Header().Rrtype]+" "+strings.Join(f, " "))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestAnswers(t *testing.T) {
	soa := "SOA relay1.mx.example.com. hostmaster.mx.example.com."
	for _, tt := range []struct {
		fit         []bool
		name        string
		qtype       uint16
		rcode       int
		want, extra string
	}{
		{[]bool{true, true}, "mx.example.com.", dns.TypeA, 0, "A 192.0.2.1; A 192.0.2.2", ""},
		{[]bool{true, false}, "IMAP.mx.example.com.", dns.TypeA, 0, "A 192.0.2.1", ""},
		{[]bool{true, false}, "mx.example.com.", dns.TypeAAAA, 0, "AAAA 2001:db8::1", ""},
		{[]bool{false, true}, "mx.example.com.", dns.TypeMX, 0, "MX 10 relay2.mx.example.com.", "A 192.0.2.2; AAAA 2001:db8::2"},
		// With nobody fit, mail waits rather than bounce.
		{[]bool{false, false}, "mx.example.com.", dns.TypeMX, 0, "MX 10 relay1.mx.example.com.; MX 10 relay2.mx.example.com.", "A 192.0.2.1; A 192.0.2.2; AAAA 2001:db8::1; AAAA 2001:db8::2"},
		{[]bool{true, false}, "relay2.mx.example.com.", dns.TypeA, 0, "A 192.0.2.2", ""},
		{[]bool{true, false}, "mx.example.com.", dns.TypeNS, 0, "NS relay1.mx.example.com.; NS relay2.mx.example.com.", "A 192.0.2.1; A 192.0.2.2; AAAA 2001:db8::1; AAAA 2001:db8::2"},
		{[]bool{true}, "mx.example.com.", dns.TypeANY, 0, `HINFO "RFC8482" ""`, ""},
		{nil, "mx.example.com.", dns.TypeA, 0, "", ""},
		{[]bool{true}, "mx.example.com.", dns.TypeTXT, 0, "", ""},
		{[]bool{true}, "relay1.mx.example.com.", dns.TypeMX, 0, "", ""},
		{[]bool{true}, "relay9.mx.example.com.", dns.TypeA, dns.RcodeNameError, "", ""},
		{[]bool{true}, "example.com.", dns.TypeA, dns.RcodeRefused, "", ""},
		{[]bool{true}, "xmx.example.com.", dns.TypeA, dns.RcodeRefused, "", ""},
		{[]bool{true}, "mx.example.com.", dns.TypeAXFR, dns.RcodeRefused, "", ""},
	} {
		r := responder(t, func() []Relay { return three(tt.fit...) })
		q := new(dns.Msg)
		q.SetQuestion(tt.name, tt.qtype)
		q.SetEdns0(4096, false)
		m := r.zone.Load().answer(q, true)
		what := tt.name + dns.TypeToString[tt.qtype]
		if m.Rcode != tt.rcode || short(m.Answer) != tt.want {
			t.Errorf("%s: %s, %s, want %s", what, dns.RcodeToString[m.Rcode], short(m.Answer), tt.want)
		}
		extra := slices.DeleteFunc(slices.Clone(m.Extra), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
		if short(extra) != tt.extra {
			t.Errorf("%s: additional %s, want %s", what, short(extra), tt.extra)
		}
		if m.RecursionAvailable || m.Authoritative != (tt.rcode != dns.RcodeRefused) {
			t.Errorf("%s: header %v", what, m.MsgHdr)
		}
		if negative := m.Authoritative && tt.want == ""; negative != (len(m.Ns) == 1) || negative && tt.fit != nil && !strings.HasPrefix(short(m.Ns), soa) {
			t.Errorf("%s: authority %s", what, short(m.Ns))
		}
		for _, rr := range m.Answer {
			if rr.Header().Ttl != 30 || rr.Header().Name != tt.name {
				t.Errorf("%s: %s", what, rr)
			}
		}
	}
	r := responder(t, func() []Relay { return three(true) })
	q := new(dns.Msg)
	q.SetQuestion("mx.example.com.", dns.TypeSOA)
	if m := r.zone.Load().answer(q, true); !strings.HasPrefix(short(m.Answer), soa) || !strings.HasSuffix(short(m.Answer), "3600 600 604800 30") {
		t.Errorf("SOA: %s", short(m.Answer))
	}
	q.SetEdns0(4096, false)
	q.IsEdns0().SetVersion(1)
	if m := r.zone.Load().answer(q, true); m.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS 1: %s", dns.RcodeToString[m.Rcode])
	}
	q = new(dns.Msg)
	q.SetUpdate("mx.example.com.")
	if m := r.zone.Load().answer(q, true); m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("update: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestNew(t *testing.T) {
	good := Config{Zone: "mx.example.com", TTL: time.Minute, Rate: 1, Relays: func() []Relay { return nil }}
	for name, change := range map[string]func(*Config){
		"no zone":               func(c *Config) { c.Zone = "" },
		"zone with a space":     func(c *Config) { c.Zone = "a b" },
		"name outside":          func(c *Config) { c.Names = []string{"mail.example.com"} },
		"no TTL":                func(c *Config) { c.TTL = 0 },
		"no rate":               func(c *Config) { c.Rate = 0 },
		"server without a name": func(c *Config) { c.NS = []string{"..."} },
		"contact":               func(c *Config) { c.Contact = "@x" },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good.Contact = "dns.admin@example.com"
	if r, err := New(good); err != nil || r.zone.Load().cfg.Contact != `dns\.admin.example.com.` {
		t.Errorf("%v, %v", r, err)
	}
}

// TestSet: another zone, names and rate hold from the next question on, with a newer
// serial number; what is wrong changes nothing.
func TestSet(t *testing.T) {
	cfg := Config{Zone: "mx.example.com", NS: []string{"NS1.Example.net"}, TTL: time.Minute, Rate: 1, Relays: func() []Relay { return three(true) }}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.NS[0] != "NS1.Example.net" {
		t.Errorf("the caller's list was changed: %v", cfg.NS)
	}
	ask := func(name string, qtype uint16) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion(name, qtype)
		return r.zone.Load().answer(q, true)
	}
	serial := func(zone string) uint32 { return ask(zone, dns.TypeSOA).Answer[0].(*dns.SOA).Serial }
	first := serial("mx.example.com.")
	wrong := cfg
	wrong.Zone, wrong.Names = "mx.example.org", []string{"imap.mx.example.com"}
	if r.Set(wrong) == nil {
		t.Error("a name outside the zone is taken")
	}
	if m := ask("mx.example.com.", dns.TypeA); len(m.Answer) != 1 || serial("mx.example.com.") != first {
		t.Errorf("a refusal has changed something: %v", m)
	}
	cfg.Zone, cfg.Names, cfg.TTL, cfg.Rate = "mx.example.org", []string{"imap.mx.example.org"}, 5*time.Second, 3
	if err := r.Set(cfg); err != nil {
		t.Fatal(err)
	}
	if m := ask("mx.example.com.", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("the zone of before is answered: %v", m)
	}
	if m := ask("imap.mx.example.org.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].Header().Ttl != 5 {
		t.Errorf("%v", m)
	}
	if now := serial("mx.example.org."); now <= first {
		t.Errorf("serial %d after %d", now, first)
	}
	from, at, answered := netip.MustParseAddr("192.0.2.1"), time.Now(), 0
	for range 6 {
		if r.limits.allow(from, at) == reply {
			answered++
		}
	}
	if answered != 3 {
		t.Errorf("%d answers a second", answered)
	}
}

// TestWire asks over sockets: UDP cut short, TCP whole, the rate of one network,
// connections beyond the limit, and a stop that leaves nothing.
func TestWire(t *testing.T) {
	var many []Relay
	for i := range 200 {
		many = append(many, Relay{fmt.Sprintf("relay-with-a-long-name-%d", i), []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}, true})
	}
	r := responder(t, func() []Relay { return many })
	var mu sync.Mutex
	counts := map[string]int{}
	r.zone.Load().cfg.Count = func(protocol, result string) {
		mu.Lock()
		defer mu.Unlock()
		counts[protocol+" "+result]++
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Serve(ctx, []net.PacketConn{p}, []net.Listener{l}) }()
	q := new(dns.Msg)
	q.SetQuestion("mx.example.com.", dns.TypeMX)
	c := dns.Client{Timeout: 5 * time.Second}
	m, _, err := c.Exchange(q, addr)
	if err == nil {
		m.Compress = true
	}
	if err != nil || !m.Truncated || m.Len() > dns.MinMsgSize {
		t.Errorf("UDP: %v, %v", m, err)
	}
	c.Net = "tcp"
	if m, _, err = c.Exchange(q, addr); err != nil || m.Truncated || len(m.Answer) != len(many) {
		t.Errorf("TCP: %v", err)
	}

	// The rate of this network is used up at once.
	u, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	q.SetQuestion("relay-with-a-long-name-1.mx.example.com.", dns.TypeA)
	raw, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if _, err := u.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string) int { mu.Lock(); defer mu.Unlock(); return counts[what] }
	for end := time.Now().Add(10 * time.Second); has("udp ok")+has("udp dropped")+has("udp cut") < 41 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	mu.Lock()
	if counts["udp ok"] < 4 || counts["udp ok"] > 20 || counts["udp dropped"] < 5 || counts["udp cut"] < 5 {
		t.Errorf("%v", counts)
	}
	mu.Unlock()

	var conns []net.Conn
	for range connsEach + 1 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	last := conns[connsEach]
	_ = last.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection too many: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(r.limits.conns) != 0 {
		t.Errorf("places not given back: %v", r.limits.conns)
	}
}

func TestLimiter(t *testing.T) {
	var l limiter
	l.init()
	l.setRate(2)
	at := time.Now()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1")
	var got []verdict
	for range 6 {
		got = append(got, l.allow(a, at))
	}
	if !slices.Equal(got, []verdict{reply, reply, drop, cut, drop, cut}) {
		t.Errorf("%v", got)
	}
	if l.allow(netip.MustParseAddr("192.0.2.200"), at) == reply {
		t.Error("a neighbour has a rate of its own")
	}
	if l.allow(b, at) != reply || l.allow(a, at.Add(time.Second)) != reply {
		t.Error("another network, or this one a second later, is refused")
	}
	for i := range 3 * maxNetworks {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), at.Add(time.Duration(i)*time.Millisecond))
		v6 := [16]byte{0x20, 1, 0, 0, byte(i >> 8), byte(i)}
		l.allow(netip.AddrFrom16(v6), at)
	}
	if len(l.networks) > maxNetworks {
		t.Errorf("%d networks are remembered", len(l.networks))
	}
}

func FuzzAnswer(f *testing.F) {
	r := responder(f, func() []Relay { return three(true, false, true) })
	for _, t := range []uint16{dns.TypeA, dns.TypeMX, dns.TypeANY, dns.TypeSOA} {
		q := new(dns.Msg)
		q.SetQuestion("imap.MX.example.com.", t)
		q.SetEdns0(600, true)
		raw, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q := new(dns.Msg)
		if q.Unpack(raw) != nil {
			return
		}
		for _, udp := range []bool{true, false} {
			m := r.zone.Load().answer(q, udp)
			out, err := m.Pack()
			if err != nil {
				t.Fatalf("%v\n%v", err, q)
			}
			if udp && len(out) > maxUDP && len(q.Question) < 2 {
				t.Errorf("%d octets by UDP", len(out))
			}
			if m.Id != q.Id {
				t.Error("another id")
			}
		}
	})
}
