package replica_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/witness"
	"github.com/postern-mail/postern/shared/fsx"
)

// ca signs certificates for one test.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *ca {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &ca{cert, key, pool}
}

// issue returns server and client configurations with a certificate for name.
func (c *ca) issue(t testing.TB, name string) (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, &key.PublicKey, c.key)
	must(t, err)
	pair := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	server = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: c.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	client = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: c.pool, MinVersion: tls.VersionTLS13}
	return server, client
}

// authorize lets certificates of the pair's members in.
func authorize(s tls.ConnectionState) error {
	if cn := s.PeerCertificates[0].Subject.CommonName; !strings.HasPrefix(cn, "pair1-") {
		return fmt.Errorf("%s is not of this pair", cn)
	}
	return nil
}

// list is a state machine that keeps the entries in order.
type list struct {
	path string

	mu      sync.Mutex
	keep    bool
	items   []string
	applied uint64
	flushed int
}

func newList(t testing.TB, path string, keep bool) *list {
	l := &list{path: path, keep: keep}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l
	}
	must(t, err)
	var s struct {
		Items   []string
		Applied uint64
	}
	must(t, json.Unmarshal(data, &s))
	l.items, l.applied = s.Items, s.Applied
	return l
}

func (l *list) Apply(batch []replica.Entry) []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	results := make([]any, len(batch))
	for i, e := range batch {
		if e.Index <= l.applied {
			continue
		}
		l.applied = e.Index
		if l.keep {
			n := binary.BigEndian.Uint16(e.Data)
			l.items = append(l.items, string(e.Data[2:][:n]))
		}
		results[i] = len(l.items)
	}
	return results
}

func (l *list) Applied() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.applied
}

func (l *list) Flush() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	data, err := json.Marshal(map[string]any{"Items": l.items, "Applied": l.applied})
	if err != nil {
		return 0, err
	}
	l.flushed++
	return l.applied, fsx.WriteFileAtomic(fsx.OS, l.path, data)
}

func (l *list) snapshot() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.items...)
}

// item makes an entry of a size from a text.
func item(text string, size int) []byte {
	b := make([]byte, max(size, 2+len(text)))
	binary.BigEndian.PutUint16(b, uint16(len(text)))
	copy(b[2:], text)
	return b
}

// wire is the network between the nodes of a cluster; links can be cut.
type wire struct {
	mu    sync.Mutex
	cut   map[[2]string]bool // from, to
	conns map[*wireConn]struct{}
}

func newWire() *wire {
	return &wire{cut: map[[2]string]bool{}, conns: map[*wireConn]struct{}{}}
}

// dialer dials for a node. names tells which node listens where.
func (w *wire) dialer(from string, names map[string]string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		to := names[addr]
		if w.isCut(from, to) || w.isCut(to, from) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		wc := &wireConn{Conn: c, w: w, from: from, to: to}
		w.mu.Lock()
		w.conns[wc] = struct{}{}
		w.mu.Unlock()
		return wc, nil
	}
}

func (w *wire) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[[2]string{from, to}]
}

// isolate cuts a node off from others, silently, or joins it again.
func (w *wire) isolate(node string, others []string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range others {
		w.cut[[2]string{node, o}], w.cut[[2]string{o, node}] = cut, cut
	}
	if cut {
		return
	}
	for c := range w.conns { // what was lost on them is lost
		if c.lost {
			c.Conn.Close()
			delete(w.conns, c)
		}
	}
}

// wireConn swallows what crosses a cut link.
type wireConn struct {
	net.Conn
	w        *wire
	from, to string
	lost     bool // guarded by w.mu
}

func (c *wireConn) Write(p []byte) (int, error) {
	if c.w.isCut(c.from, c.to) {
		c.lose()
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *wireConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.w.isCut(c.to, c.from) {
			return n, err
		}
		c.lose()
	}
}

func (c *wireConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

func (c *wireConn) lose() {
	c.w.mu.Lock()
	c.lost = true
	c.w.mu.Unlock()
}

// cluster is a pair and its witness in this process.
type cluster struct {
	t     testing.TB
	dir   string
	ca    *ca
	wire  *wire
	peers []replica.Peer
	names map[string]string // address to node name
	opt   options
	nodes map[string]*node
}

type options struct {
	keep    bool // state machines keep the items
	timings replica.Timings
	log     *slog.Logger
	segment int64
}

// node is a running member.
type node struct {
	name   string
	r      *replica.Replica
	w      *witness.Witness
	list   *list
	cancel context.CancelFunc
	done   chan error
}

func newCluster(t testing.TB, opt options) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), ca: newCA(t), wire: newWire(), names: map[string]string{}, opt: opt, nodes: map[string]*node{}}
	for _, name := range []string{"a", "b", "w"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		must(t, l.Close())
		c.names[l.Addr().String()] = name
		c.peers = append(c.peers, replica.Peer{ID: replica.NewID(), Name: name, Addr: l.Addr().String(), Witness: name == "w"})
	}
	for _, name := range []string{"a", "b", "w"} {
		c.start(name, true)
	}
	t.Cleanup(c.stopAll)
	return c
}

func (c *cluster) peer(name string) replica.Peer {
	for _, p := range c.peers {
		if p.Name == name {
			return p
		}
	}
	return replica.Peer{}
}

func (c *cluster) config(name string, bootstrap bool) replica.Config {
	p := c.peer(name)
	server, client := c.ca.issue(c.t, "pair1-"+name)
	var cfg replica.Config
	cfg.Dir, cfg.Pair, cfg.ID, cfg.Peers, cfg.Bootstrap = filepath.Join(c.dir, name), "pair1", p.ID, append([]replica.Peer(nil), c.peers...), bootstrap
	cfg.Bind, cfg.ServerTLS, cfg.ClientTLS, cfg.Authorize = p.Addr, server, client, authorize
	cfg.Timings, cfg.SegmentSize = c.opt.timings, c.opt.segment
	// Busy machines starve a test of CPU time for longer than a real node.
	cfg.Timings.Heartbeat, cfg.Timings.Election, cfg.Timings.Lease = slow*500*time.Millisecond, slow*500*time.Millisecond, slow*400*time.Millisecond
	cfg.Dial = c.wire.dialer(name, c.names)
	cfg.OnFatal = func(err error) { c.t.Errorf("%s: fatal: %v", name, err) }
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = 8 << 20
	}
	if c.opt.log != nil {
		cfg.Log = c.opt.log.With("node", name)
	}
	return cfg
}

func (c *cluster) start(name string, bootstrap bool) *node {
	c.t.Helper()
	cfg := c.config(name, bootstrap)
	n := &node{name: name, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	var err error
	if name == "w" {
		n.w, err = witness.New(cfg.Config)
		must(c.t, err)
		go func() { n.done <- n.w.Run(ctx) }()
	} else {
		must(c.t, os.MkdirAll(cfg.Dir, 0o700))
		n.list = newList(c.t, filepath.Join(cfg.Dir, "state"), c.opt.keep)
		cfg.FSM = n.list
		n.r, err = replica.New(cfg)
		must(c.t, err)
		go func() { n.done <- n.r.Run(ctx) }()
	}
	c.nodes[name] = n
	return n
}

// stop ends a node in order.
func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.nodes[name]
	if n == nil {
		return
	}
	delete(c.nodes, name)
	n.cancel()
	select {
	case err := <-n.done:
		must(c.t, err)
	case <-time.After(20 * time.Second):
		c.t.Fatalf("%s does not end", name)
	}
}

// kill cuts a node off and ends it, so that nothing it does on the way out is
// seen by the others.
func (c *cluster) kill(name string) {
	c.t.Helper()
	var others []string
	for _, p := range c.peers {
		if p.Name != name {
			others = append(others, p.Name)
		}
	}
	c.wire.isolate(name, others, true)
	c.stop(name)
	c.wire.isolate(name, others, false)
}

func (c *cluster) stopAll() {
	for _, name := range []string{"a", "b", "w"} {
		c.stop(name)
	}
}

// serving waits for the replica that serves.
func (c *cluster) serving() *node {
	c.t.Helper()
	var found *node
	c.eventually("a replica serves", func() bool {
		for _, n := range c.nodes {
			if n.r != nil && n.r.Serving() {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// other returns the data replica that is not n.
func (c *cluster) other(n *node) *node {
	if n.name == "a" {
		return c.nodes["b"]
	}
	return c.nodes["a"]
}

func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(slow * 15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatalf("not in time: %s", what)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(processEnv) != "" {
		runProcess()
		return
	}
	goleak.VerifyTestMain(m)
}
