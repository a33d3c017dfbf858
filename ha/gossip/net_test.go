package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fabric is a network in memory that can be cut.
type fabric struct {
	mu    sync.Mutex // guards what follows
	ports map[string]*port
	last  int
	cut   func(from, to string) bool
}

// port is one node's transport.
type port struct {
	f       *fabric
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*port)(nil)

func (f *fabric) open() *port {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	p := &port{
		f: f, addr: fmt.Sprintf("10.0.0.1:%d", f.last), closed: make(chan struct{}),
		packets: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn),
	}
	if f.ports == nil {
		f.ports = make(map[string]*port)
	}
	f.ports[p.addr] = p
	return p
}

// split lets a packet through only between addresses for which side is equal.
func (f *fabric) split(side func(addr string) int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = func(from, to string) bool { return side(from) != side(to) }
}

func (p *port) peer(addr string) *port {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	if p.f.cut != nil && p.f.cut(p.addr, addr) {
		return nil
	}
	return p.f.ports[addr]
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a, err := net.ResolveTCPAddr("tcp", p.addr)
	if err != nil {
		return nil, 0, err
	}
	return a.IP.To4(), a.Port, nil
}

func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	if q := p.peer(addr); q != nil {
		from, _ := net.ResolveUDPAddr("udp", p.addr)
		select {
		case q.packets <- &memberlist.Packet{Buf: slices.Clone(b), From: from, Timestamp: time.Now()}:
		default: // lost
		}
	}
	return time.Now(), nil
}

func (p *port) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return p.WriteTo(b, a.Addr)
}

func (p *port) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	q := p.peer(addr)
	if q == nil {
		return nil, errors.New("no route")
	}
	here, there := net.Pipe()
	select {
	case q.streams <- there:
		return here, nil
	case <-q.closed:
		return nil, errors.New("closed")
	case <-time.After(timeout):
		return nil, errors.New("timed out")
	}
}

func (p *port) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return p.DialTimeout(a.Addr, timeout)
}

func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }
func (p *port) StreamCh() <-chan net.Conn           { return p.streams }

func (p *port) Shutdown() error {
	p.once.Do(func() {
		close(p.closed)
		p.f.mu.Lock()
		delete(p.f.ports, p.addr)
		p.f.mu.Unlock()
	})
	return nil
}

// cluster makes nodes of one cluster.
type cluster struct {
	t    *testing.T
	ca   *tlsconf.CA
	dir  string
	net  *fabric // nil: loopback
	keys [][]byte
	all  []*peer
}

// peer is a running node.
type peer struct {
	*Gossip
	table *route.Table
	store *tlsconf.Store
	stop  context.CancelFunc
	done  chan error
}

func newCluster(t *testing.T, f *fabric) *cluster {
	t.Helper()
	dir := t.TempDir()
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, ca: ca, dir: dir, net: f, keys: [][]byte{NewKey()}}
}

func (c *cluster) issue(name string, roles ...tlsconf.Role) *tlsconf.Store {
	c.t.Helper()
	prefix := filepath.Join(c.dir, name)
	if _, err := c.ca.Issue(prefix, tlsconf.Request{Node: name, Roles: roles}, time.Now()); err != nil {
		c.t.Fatal(err)
	}
	s, err := tlsconf.Load(tlsconf.Files{
		CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem",
		CAFile: filepath.Join(c.dir, "ca", tlsconf.CACertName),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) config(name string, roles ...tlsconf.Role) Config {
	cfg := Config{
		Cluster: "test", Name: name, Role: string(roles[0]), Version: "1.0", Keys: c.keys,
		Identity: c.issue(name, roles...), Table: new(route.Table),
	}
	if len(c.all) > 0 {
		cfg.Join = []string{c.all[0].Addr()}
	}
	if c.net != nil {
		p := c.net.open()
		cfg.tune = func(mc *memberlist.Config) { mc.Transport = p }
	} else {
		cfg.Listen, cfg.Interval = "127.0.0.1:0", 20*time.Millisecond
	}
	return cfg
}

// start runs a node of cfg until the test ends.
func (c *cluster) start(cfg Config) *peer {
	c.t.Helper()
	g, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &peer{Gossip: g, table: cfg.Table, stop: stop, done: make(chan error, 1)}
	p.store, _ = cfg.Identity.(*tlsconf.Store)
	go func() { p.done <- g.Run(ctx); close(p.done) }()
	c.all = append(c.all, p)
	return p
}

func (c *cluster) node(name string, roles ...tlsconf.Role) *peer {
	c.t.Helper()
	return c.start(c.config(name, roles...))
}

// leave ends a node and waits for it.
func (p *peer) leave(t *testing.T) {
	t.Helper()
	p.stop()
	if err := <-p.done; err != nil {
		t.Errorf("Run of %s: %v", p.cfg.Name, err)
	}
}

// kill silences a node without a goodbye.
func (c *cluster) kill(p *peer) {
	c.t.Helper()
	c.net.mu.Lock()
	old := c.net.cut
	c.net.cut = func(from, to string) bool {
		return from == p.addr || to == p.addr || old != nil && old(from, to)
	}
	c.net.mu.Unlock()
	p.leave(c.t)
}

// end stops every node, and in a bubble gives memberlist's last goroutines the
// time they need.
func (c *cluster) end() {
	for _, p := range c.all {
		p.leave(c.t)
	}
	if c.net != nil {
		time.Sleep(time.Minute)
	}
}

// within waits until ok, or fails after limit.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("after %v: %s has not happened", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func (p *peer) find(name string) Member {
	for _, m := range p.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

func (p *peer) state(name string) string { return p.find(name).State }

// agree waits until every node of ps sees name in state.
func agree(t *testing.T, limit time.Duration, name, state string, ps ...*peer) time.Duration {
	t.Helper()
	return within(t, limit, name+" "+state, func() bool {
		return !slices.ContainsFunc(ps, func(p *peer) bool { return p.state(name) != state })
	})
}

// serving waits until every node of ps sends clients of pair to name.
func serving(t *testing.T, limit time.Duration, pair, name string, ps ...*peer) time.Duration {
	t.Helper()
	return within(t, limit, name+" serves "+pair, func() bool {
		return !slices.ContainsFunc(ps, func(p *peer) bool {
			c := p.table.Candidates(pair)
			return len(c) == 0 || c[0].Name != name || !c[0].Serving
		})
	})
}

func refused(reason error) float64 {
	return testutil.ToFloat64(metrics.GossipRefused.With(reason.Error()))
}

func says(pair string, serving bool, term uint64) Self {
	return Self{
		Services: map[string]string{"lmtp": "10.1.1.1:24", "imap": "10.1.1.1:143"},
		Groups:   []Group{{Pair: pair, Serving: serving, Term: term, Applied: 100 * term}},
	}
}
