package replicatest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/witness"
)

// Cluster is a pair and its witness in this process.
type Cluster struct {
	CA    *CA
	Wire  *Wire
	Peers []replica.Peer
	Nodes map[string]*Node // that run, by name: a, b and w

	t     testing.TB
	dir   string
	names map[string]string // address to node name
	opt   Options
}

// Options of New. The zero value is a pair of defaults.
type Options struct {
	Keep    bool // state machines keep the items
	Timings replica.Timings
	Log     *slog.Logger
	Segment int64  // size of the log's segments, 8 MB
	Pair    string // name, pair1
	CA      *CA    // shared with another cluster; nil: a new one

	// Create has the directories made by Create, so that no member is ever run
	// with Bootstrap.
	Create bool
	// WitnessPort is where the witness listens, beside those of other pairs. The
	// names in certificates then only have to begin with "pair".
	WitnessPort *raftnet.Port
	// OnFatal is told instead of the test.
	OnFatal func(node string, err error)
	// Idle leaves the members stopped.
	Idle bool
	// State is the file of a state machine below a member's directory: "state".
	State string
	// Edit changes the configuration of a member that is started. n is the member,
	// whose R and W are set only after Edit has returned.
	Edit func(n *Node, cfg *replica.Config)
}

// Node is a running member.
type Node struct {
	Name string
	R    *replica.Replica // nil for the witness
	W    *witness.Witness
	List *List

	cancel context.CancelFunc
	done   chan error
}

var names = []string{"a", "b", "w"}

// New makes the directories of a pair and its witness and starts all three.
func New(t testing.TB, opt Options) *Cluster {
	c := &Cluster{t: t, dir: t.TempDir(), CA: opt.CA, Wire: newWire(), names: map[string]string{}, opt: opt, Nodes: map[string]*Node{}}
	if c.CA == nil {
		c.CA = NewCA(t)
	}
	if c.opt.Pair == "" {
		c.opt.Pair = "pair1"
	}
	if c.opt.State == "" {
		c.opt.State = "state"
	}
	if c.opt.Segment == 0 {
		c.opt.Segment = 8 << 20
	}
	for _, name := range names {
		addr := ""
		if name == "w" && opt.WitnessPort != nil {
			addr = opt.WitnessPort.Addr().String()
		} else {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			Must(t, err)
			Must(t, l.Close())
			addr = l.Addr().String()
		}
		c.names[addr] = name
		c.Peers = append(c.Peers, replica.Peer{ID: replica.NewID(), Name: name, Addr: addr, Witness: name == "w"})
	}
	if opt.Create {
		for _, name := range names {
			c.Create(name)
		}
	}
	t.Cleanup(c.StopAll)
	if opt.Idle {
		return c
	}
	for _, name := range names {
		c.Start(name, !opt.Create)
	}
	return c
}

// Create makes a member's directory.
func (c *Cluster) Create(name string) {
	c.t.Helper()
	cfg := c.Config(name, false).Config
	if name == "w" {
		Must(c.t, witness.Create(cfg))
	} else {
		Must(c.t, replica.Create(cfg))
	}
}

// Peer returns a member's entry in the list of peers.
func (c *Cluster) Peer(name string) replica.Peer {
	for _, p := range c.Peers {
		if p.Name == name {
			return p
		}
	}
	return replica.Peer{}
}

// Config returns a member's configuration, a copy; its directory is Dir of it.
func (c *Cluster) Config(name string, bootstrap bool) replica.Config {
	p := c.Peer(name)
	server, client := c.CA.Issue(c.t, c.opt.Pair+"-"+name)
	var cfg replica.Config
	cfg.Dir, cfg.Pair, cfg.ID, cfg.Peers, cfg.Bootstrap = filepath.Join(c.dir, name), c.opt.Pair, p.ID, append([]replica.Peer(nil), c.Peers...), bootstrap
	cfg.Bind, cfg.ServerTLS, cfg.ClientTLS, cfg.Authorize = p.Addr, server, client, Authorize(c.opt.Pair+"-")
	if c.opt.WitnessPort != nil {
		cfg.Authorize = Authorize("pair")
	}
	cfg.Timings, cfg.SegmentSize = c.opt.Timings, c.opt.Segment
	// Busy machines starve a test of CPU time for longer than a real node.
	cfg.Timings.Heartbeat, cfg.Timings.Election, cfg.Timings.Lease = Slow*500*time.Millisecond, Slow*500*time.Millisecond, Slow*400*time.Millisecond
	cfg.Dial = c.Wire.dialer(name, c.names)
	cfg.OnFatal = func(err error) { c.t.Errorf("%s: fatal: %v", name, err) }
	if c.opt.OnFatal != nil {
		cfg.OnFatal = func(err error) { c.opt.OnFatal(name, err) }
	}
	if name == "w" {
		cfg.Port = c.opt.WitnessPort
	}
	if c.opt.Log != nil {
		cfg.Log = c.opt.Log.With("node", name)
	}
	return cfg
}

// Dir returns a member's directory.
func (c *Cluster) Dir(name string) string { return filepath.Join(c.dir, name) }

// Rename gives the member called name another id: it is made anew. Members that
// run keep what they know.
func (c *Cluster) Rename(name, id string) {
	peers := append([]replica.Peer(nil), c.Peers...)
	for i := range peers {
		if peers[i].Name == name {
			peers[i].ID = id
		}
	}
	c.Peers = peers
}

// Start runs a member.
func (c *Cluster) Start(name string, bootstrap bool) *Node {
	c.t.Helper()
	cfg := c.Config(name, bootstrap)
	n := &Node{Name: name, done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	if c.opt.Edit != nil {
		c.opt.Edit(n, &cfg)
	}
	var err error
	if name == "w" {
		n.W, err = witness.New(cfg.Config)
		Must(c.t, err)
		go func() { n.done <- n.W.Run(ctx) }()
	} else {
		state := filepath.Join(cfg.Dir, c.opt.State)
		Must(c.t, os.MkdirAll(filepath.Dir(state), 0o700))
		n.List = NewList(c.t, state, c.opt.Keep)
		cfg.FSM = n.List
		n.R, err = replica.New(cfg)
		Must(c.t, err)
		go func() { n.done <- n.R.Run(ctx) }()
	}
	c.Nodes[name] = n
	return n
}

// Stop ends a node in order.
func (c *Cluster) Stop(name string) {
	c.t.Helper()
	n := c.Nodes[name]
	if n == nil {
		return
	}
	delete(c.Nodes, name)
	n.cancel()
	select {
	case err := <-n.done:
		Must(c.t, err)
	case <-time.After(20 * time.Second):
		c.t.Fatalf("%s does not end", name)
	}
}

// Kill cuts a node off and ends it, so that nothing it does on the way out is
// seen by the others.
func (c *Cluster) Kill(name string) {
	c.t.Helper()
	var others []string
	for _, p := range c.Peers {
		if p.Name != name {
			others = append(others, p.Name)
		}
	}
	c.Wire.Isolate(name, others, true)
	c.Stop(name)
	c.Wire.Isolate(name, others, false)
}

// StopAll stops what runs.
func (c *Cluster) StopAll() {
	for _, name := range names {
		c.Stop(name)
	}
}

// Serving waits for the replica that serves.
func (c *Cluster) Serving() *Node {
	c.t.Helper()
	var found *Node
	c.Eventually("a replica serves", func() bool {
		for _, n := range c.Nodes {
			if n.R != nil && n.R.Serving() {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// Other returns the data replica that is not n.
func (c *Cluster) Other(n *Node) *Node {
	if n.Name == "a" {
		return c.Nodes["b"]
	}
	return c.Nodes["a"]
}

// Eventually waits until ok, which is asked often, or ends the test.
func (c *Cluster) Eventually(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(Slow * 15 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatalf("not in time: %s", what)
}

// Propose proposes an item and waits for its outcome, for 5 s at most.
func (n *Node) Propose(text string, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _, err := n.R.Propose(ctx, Item(text, size))
	return err
}

// Fill proposes entries of a size from several goroutines.
func (n *Node) Fill(entries, size int) error {
	const clients = 32
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			for i := k; i < entries && errs[k] == nil; i += clients {
				errs[k] = n.Propose("x", size)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
