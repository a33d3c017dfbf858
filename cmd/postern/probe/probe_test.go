package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a cluster of a relay, a pair and another one, whose witness stands on
// a machine of the first.
const small = `{
  "version": 1, "cluster": "c", "inside": ["10.0.0.0/16"],
  "groups": {"management": ["10.0.3.0/24"], "directory": ["10.0.2.5"], "resolver": ["192.0.2.53"]},
  "hosts": {"internet": ["192.0.2.53"], "management": ["10.0.3.10"]},
  "nodes": [
    {"name": "relay1", "tier": "relay", "zone": "dmz", "address": "10.0.1.11", "pairs": [], "services": {"smtp": [25], "admin": [8443]}},
    {"name": "a", "tier": "backend", "zone": "data", "address": "10.0.2.10", "pairs": ["pair1"], "services": {"lmtp": [2424], "raft": [8300], "admin": [8443]}},
    {"name": "b", "tier": "backend", "zone": "data", "address": "10.0.2.11", "pairs": ["pair1", "pair2"], "services": {"lmtp": [2424, 2425], "raft": [8300], "admin": [8443]}},
    {"name": "c", "tier": "backend", "zone": "data", "address": "10.0.2.12", "pairs": ["pair2"], "services": {"lmtp": [2424], "raft": [8300], "admin": [8443]}},
    {"name": "w", "tier": "witness", "zone": "data", "address": "10.0.2.10", "pairs": ["pair2"], "services": {"raft": [8301], "admin": [8444]}}
  ],
  "rules": [
    {"id": "mx", "from": "internet", "to": "relay", "protocols": ["tcp"], "services": ["smtp"]},
    {"id": "lmtp", "from": "relay", "to": "backend", "protocols": ["tcp"], "services": ["lmtp"], "secret": "relay-mx"},
    {"id": "raft", "from": "backend", "to": "backend", "protocols": ["tcp"], "services": ["raft"], "within": "pair", "secret": "backend"},
    {"id": "raft", "from": "backend", "to": "witness", "protocols": ["tcp"], "services": ["raft"], "within": "pair", "secret": "backend"},
    {"id": "raft", "from": "witness", "to": "backend", "protocols": ["tcp"], "services": ["raft"], "within": "pair", "secret": "witness"},
    {"id": "directory", "from": "relay", "to": "directory", "protocols": ["tcp"], "ports": [389]},
    {"id": "outbound", "from": "relay", "to": "internet", "protocols": ["tcp"], "ports": [25, 53]},
    {"id": "resolver", "from": "relay", "to": "resolver", "protocols": ["tcp", "udp"], "ports": [53]},
    {"id": "admin", "from": "management", "to": "backend", "protocols": ["tcp"], "services": ["admin"], "secret": "admin"}
  ]
}`

func parsed(t testing.TB) *Matrix {
	t.Helper()
	m, err := Parse([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestPlan: what is allowed from each place, worked out by hand. A machine's nodes
// share their rights.
func TestPlan(t *testing.T) {
	m := parsed(t)
	if got := strings.Join(m.Vantages(), " "); got != "internet management directory relay1 a b c w" {
		t.Errorf("places: %s", got)
	}
	for from, want := range map[string]string{
		"internet":   "relay1:25",
		"management": "a,w:8443 b:8443 c:8443",
		"directory":  "",
		"relay1":     "a,w:2424 b:2424 b:2425 c:2424 directory:389 internet,resolver:25? internet,resolver:53 internet,resolver:53/udp",
		"a":          "b:8300 c:8300", // c for w, which is on the same machine
		"b":          "a,w:8300 a,w:8301 c:8300",
		"c":          "a,w:8301 b:8300",
		"w":          "b:8300 c:8300",
	} {
		probes, err := m.Plan(from, []int{7})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		tried := map[string]int{}
		for _, p := range probes {
			if p.From != from || p.Address == m.addressOf(from) {
				t.Errorf("from %s: %+v", from, p)
			}
			if p.Protocol == "tcp" {
				tried[p.To]++
			}
			if p.Rule == "" {
				continue
			}
			s := fmt.Sprintf("%s:%d", p.To, p.Port)
			if p.Protocol == "udp" {
				s += "/udp"
			}
			if p.any {
				s += "?"
			}
			got = append(got, s)
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			t.Errorf("from %s: %s, want %s", from, s, want)
		}
		for host, n := range tried {
			if n != len(m.ports([]int{7})) {
				t.Errorf("from %s: %d ports of %s are tried", from, n, host)
			}
		}
		if len(tried) < 5 {
			t.Errorf("from %s: %d hosts are tried", from, len(tried))
		}
	}
	if _, err := m.Plan("resolver", nil); err == nil {
		t.Error("the resolver is no place to probe from")
	}
	if _, err := m.Plan("relay1", []int{70000}); err == nil {
		t.Error("a port that there is not")
	}
}

func (m *Matrix) addressOf(from string) netip.Addr {
	if n := m.index[from]; n != nil {
		return n.Address
	}
	return m.single[from][0]
}

func TestRefused(t *testing.T) {
	for name, tt := range map[string][3]string{ // replaced, by, part of the error
		"no JSON":          {`{`, `[`, "no JSON"},
		"version":          {`"version": 1`, `"version": 2`, "version 2"},
		"tier":             {`"tier": "relay"`, `"tier": "relais"`, `relais`},
		"name twice":       {`"name": "b"`, `"name": "a"`, `"a"`},
		"name of a group":  {`"name": "b"`, `"name": "internet"`, `"internet"`},
		"address":          {`"10.0.1.11"`, `"10.0.1"`, "no JSON"},
		"no address":       {`"10.0.1.11"`, `""`, "relay1 has no address"},
		"port":             {`[25]`, `[0]`, "port 0"},
		"network":          {`"10.0.3.0/24"`, `"10.0.3.0/33"`, "neither"},
		"host elsewhere":   {`"management": ["10.0.3.10"]`, `"management": ["10.0.4.10"]`, "not in the group"},
		"unknown group":    {`"from": "internet"`, `"from": "world"`, "world"},
		"protocol":         {`["tcp", "udp"]`, `["tcp", "icmp"]`, "icmp"},
		"within":           {`"within": "pair"`, `"within": "site"`, "site"},
		"no nodes":         {`"nodes": [`, `"nodes": [], "n": [`, "0 nodes"},
		"group of a tier":  {`"resolver": [`, `"relay": [`, `"relay"`},
		"hosts of no kind": {`"hosts": {"internet"`, `"hosts": {"moon"`, "moon"},
	} {
		_, err := Parse([]byte(strings.Replace(small, tt[0], tt[1], 1)))
		if err == nil || !strings.Contains(err.Error(), tt[2]) {
			t.Errorf("%s: %v, want %q", name, err, tt[2])
		}
	}
	if _, err := Parse(make([]byte, MaxFile+1)); err == nil {
		t.Error("a file that is too large")
	}
}

// TestStates tries real listeners on loopback.
func TestStates(t *testing.T) {
	ca, err := tlsconf.InitCA(t.TempDir(), "c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	prefix := t.TempDir() + "/node"
	if _, err := ca.Issue(prefix, tlsconf.Request{Node: "n", Roles: []tlsconf.Role{tlsconf.Backend}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(prefix+".pem", prefix+"-key.pem")
	if err != nil {
		t.Fatal(err)
	}
	strict := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	old := strict.Clone()
	old.MaxVersion = tls.VersionTLS12
	lax := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	greet := func(c net.Conn) { fmt.Fprint(c, "220 hello\r\n"); wait(c) }
	for name, tt := range map[string]struct {
		serve func(net.Conn)
		role  string
		want  State
	}{
		"asks for a certificate":          {func(c net.Conn) { greet(tls.Server(c, strict)) }, "backend", Open},
		"asks for a certificate, TLS 1.2": {func(c net.Conn) { greet(tls.Server(c, old)) }, "backend", Open},
		"takes any peer":                  {func(c net.Conn) { greet(tls.Server(c, lax)) }, "backend", Talks},
		"takes any peer and says nothing": {func(c net.Conn) { wait(tls.Server(c, lax)) }, "backend", Talks},
		"knows no TLS":                    {greet, "backend", Talks},
		"no certificate wanted":           {greet, "", Open},
		"nobody":                          {nil, "", Reset},
	} {
		t.Run(name, func(t *testing.T) {
			p := []Probe{{Address: netip.MustParseAddr("127.0.0.1"), Protocol: "tcp", Port: listen(t, tt.serve), role: tt.role}}
			if err := Run(t.Context(), p, Options{Timeout: 300 * time.Millisecond, Parallel: 2}); err != nil || p[0].State != tt.want {
				t.Errorf("%s, %v, want %s", p[0].State, err, tt.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := []Probe{{Address: netip.MustParseAddr("127.0.0.1"), Protocol: "tcp", Port: 1}}
	if err := Run(ctx, p, Options{Timeout: time.Second}); err == nil || p[0].State != Unclear {
		t.Errorf("ended by the caller: %v, %s", err, p[0].State)
	}
}

// wait reads until the peer is gone.
func wait(c net.Conn) {
	buf := make([]byte, 100)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// listen returns a port at which f serves; with nil nobody listens there.
func listen(t *testing.T, f func(net.Conn)) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if f == nil {
		l.Close()
		return port
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
			c.Close()
		}
	}()
	return port
}

func TestUDP(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	state := func() State {
		p := []Probe{{Address: netip.MustParseAddr("127.0.0.1"), Protocol: "udp", Port: port}}
		if err := Run(t.Context(), p, Options{Timeout: 150 * time.Millisecond, Parallel: 1}); err != nil {
			t.Fatal(err)
		}
		return p[0].State
	}
	if s := state(); s != Silent {
		t.Errorf("no answer: %s", s)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	if s := state(); s != Open {
		t.Errorf("an answer: %s", s)
	}
	c.Close()
	<-done
	if s := state(); s != Reset {
		t.Errorf("nobody listens: %s", s)
	}
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		rule   string
		any    bool
		state  State
		resets bool
		want   string // part of the finding, "" for none
	}{
		{"mx", false, Open, false, ""},
		{"mx", false, Reset, false, "nobody listens"},
		{"mx", false, Filtered, false, "does not get through"},
		{"mx", false, Talks, false, "no certificate"},
		{"mx", true, Reset, false, ""},
		{"mx", true, Filtered, false, "does not get through"},
		{"", false, Open, false, "is open"},
		{"", false, Open, true, "is open"},
		{"", false, Filtered, false, ""},
		{"", false, Reset, false, "gets through"},
		{"", false, Reset, true, ""},
		{"", false, Silent, false, ""},
		{"mx", false, Unclear, false, "could not"},
		{"", false, "", false, "could not"},
	} {
		p := Probe{From: "a", To: "b", Protocol: "tcp", Port: 25, Rule: tt.rule, any: tt.any, State: tt.state}
		r := new(Report)
		r.Add("a", []Probe{p}, tt.resets)
		if (tt.want == "") != (len(r.Findings) == 0) || tt.want != "" && !strings.Contains(r.Findings[0].String(), tt.want) {
			t.Errorf("%+v: %v, want %q", p, r.Findings, tt.want)
		}
		if r.Open+r.Closed+r.Silent+len(r.Findings) != 1 {
			t.Errorf("%+v is counted %+v", p, r)
		}
	}
}

func TestLines(t *testing.T) {
	r := &Report{Probes: []Probe{
		{From: "a", To: "b", Protocol: "tcp", Port: 993, State: Open},
		{From: "a", To: "b", Protocol: "tcp", Port: 25, State: Open},
		{From: "a", To: "b", Protocol: "tcp", Port: 26, State: Filtered},
		{From: "a", To: "c", Protocol: "udp", Port: 53, State: Open},
		{From: "a", To: "b", Protocol: "udp", Port: 53, State: Silent},
	}}
	if got := fmt.Sprint(r.Lines()); got != "[{a b 25 993 } {a c  53}]" {
		t.Error(got)
	}
}

// FuzzMatrix: no matrix makes planning fail otherwise than by an error, and every
// probe is of a port that there is, away from its own host.
func FuzzMatrix(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(`{"version":1,"nodes":[{"name":"n","tier":"relay","address":"::1","services":{"x":[1]}}],"rules":[{"from":"relay","to":"internet","protocols":["udp"],"ports":[1]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		for _, from := range m.Vantages()[:min(len(m.Vantages()), 8)] {
			probes, err := m.Plan(from, nil)
			if err != nil {
				continue
			}
			for _, p := range probes {
				if p.Port < 1 || p.Port > 65535 || !p.Address.IsValid() || p.From != from {
					t.Fatalf("%+v", p)
				}
				if n := m.index[from]; n != nil && n.Address == p.Address {
					t.Fatalf("%s is probed from itself", from)
				}
			}
		}
	})
}
