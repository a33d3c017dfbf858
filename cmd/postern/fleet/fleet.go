/*
Package fleet is a cluster seen through the admin API of its nodes.

Open finds the nodes; All asks any number of them at the same time, each within
the time limit, so that a node that is dead or frozen costs one limit and hides
nothing of the others. The functions on top put the answers together: who serves
a pair, every step of one message over both tiers, the relay that holds a queued
message.

A node that does not answer is an answer too: it is shown as unreachable, never
left out. Package fleet changes nothing unless the function says so.
*/
package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Roles of nodes.
const (
	Relay   = "relay"
	Backend = "backend"
	Witness = "witness"
)

// maxNodes bounds the nodes that one node may name to us.
const maxNodes = 1000

// Target says which cluster.
type Target struct {
	Dir           string   // of a development cluster, or of a node on this machine
	Nodes         []string // admin ports
	Cert, Key, CA string   // for the admin ports
	Timeout       time.Duration
}

// Node is one node and the way to it.
type Node struct {
	Name   string // "" until it has answered, for a node given by address
	Role   string // the same
	Pair   string // the same; of a node with several pairs, the first
	Addr   string // admin port, or path of the socket
	client *admin.Client

	pairs []string // of which it holds members, nil while it has not been asked
}

// Fleet is the nodes of a cluster.
type Fleet struct {
	Nodes   []*Node
	Dev     *clusterfile.File // of a development cluster, nil for others
	own     *tlsconf.Store    // the operator's certificate, for admin ports
	ca      string            // file of the CAs that it trusts
	timeout time.Duration
	dial    func(ctx context.Context, network, addr string) (net.Conn, error) // of probes; nil: from here
}

// ErrTarget marks a Target by which no cluster can be found.
var ErrTarget = errors.New("no cluster")

// Member is a node of a Fleet that is not found but given.
type Member struct {
	Name, Role, Pair string
	Client           *admin.Client
}

// Of is the cluster of members, whose services are reached by dial.
func Of(members []Member, dial func(ctx context.Context, network, addr string) (net.Conn, error), timeout time.Duration) *Fleet {
	f := &Fleet{timeout: timeout, dial: dial}
	for _, m := range members {
		f.Nodes = append(f.Nodes, &Node{Name: m.Name, Role: m.Role, Pair: m.Pair, Addr: m.Name, client: m.Client})
	}
	return f
}

// Open finds the nodes of t.
func Open(ctx context.Context, t Target) (*Fleet, error) {
	f := &Fleet{timeout: t.Timeout}
	switch {
	case t.Dir != "" && len(t.Nodes) > 0:
		return nil, fmt.Errorf("%w: give --dir or --node, not both", ErrTarget)
	case t.Dir != "":
		return f, f.openDir(t.Dir)
	case len(t.Nodes) > 0:
		return f, f.openPorts(ctx, t)
	}
	return nil, fmt.Errorf("%w: name it by --dir DIR, or --node ADDRESS with --cert, --key and --ca", ErrTarget)
}

func (f *Fleet) openDir(dir string) error {
	file, err := clusterfile.Read(dir)
	if errors.Is(err, os.ErrNotExist) {
		path := filepath.Join(dir, "admin.sock")
		if _, serr := os.Stat(path); serr == nil {
			f.Nodes = []*Node{{Addr: path, client: admin.NewUnixClient(path)}}
			return nil
		}
		return fmt.Errorf("%w: %s holds neither %s of a running development cluster nor a node's admin.sock", ErrTarget, dir, clusterfile.Name)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	f.Dev = file
	add := func(name, role, pair, path string) {
		f.Nodes = append(f.Nodes, &Node{Name: name, Role: role, Pair: pair, Addr: path, client: admin.NewUnixClient(path)})
	}
	for _, r := range file.Relays {
		add(r.Name, Relay, "", r.Admin)
	}
	for _, p := range file.Pairs {
		for _, n := range p.Nodes {
			role := Backend
			if n.Role == clusterfile.RoleWitness {
				role = Witness
			}
			add(n.Name, role, p.Name, n.Admin)
		}
	}
	return nil
}

// openPorts begins with the admin ports that were given and adds those that
// these nodes know of by gossip.
func (f *Fleet) openPorts(ctx context.Context, t Target) error {
	if t.Cert == "" || t.Key == "" || t.CA == "" {
		return fmt.Errorf("%w: --node needs --cert, --key and --ca", ErrTarget)
	}
	store, err := tlsconf.Load(tlsconf.Files{CertFile: t.Cert, KeyFile: t.Key, CAFile: t.CA})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTarget, err)
	}
	if !store.Identity().Has(tlsconf.Admin) {
		return fmt.Errorf("%w: %s holds the roles %v, not %s", ErrTarget, t.Cert, store.Identity().Roles, tlsconf.Admin)
	}
	f.own, f.ca = store, t.CA
	for _, addr := range t.Nodes {
		f.Nodes = append(f.Nodes, &Node{Addr: addr, client: admin.NewTLSClient(addr, "", store)})
	}
	given := f.Nodes
	f.Identify(ctx)
	for _, r := range All(ctx, f, given, func(ctx context.Context, n *Node) (admin.Cluster, error) {
		return Call(ctx, n, admin.GetCluster, admin.None{})
	}) {
		for _, m := range r.Value.Nodes {
			addr := m.Services["admin"]
			known := slices.ContainsFunc(f.Nodes, func(n *Node) bool { return n.Name == m.Name || addr != "" && n.Addr == addr })
			if known || addr == "" || len(f.Nodes) >= maxNodes {
				continue
			}
			f.Nodes = append(f.Nodes, &Node{Name: m.Name, Role: m.Role, Pair: m.Pair, Addr: addr, client: admin.NewTLSClient(addr, m.Name, store)})
		}
	}
	return nil
}

// Identify asks the nodes that were given by address who they are.
func (f *Fleet) Identify(ctx context.Context) {
	for _, r := range All(ctx, f, f.Nodes, func(ctx context.Context, n *Node) (admin.NodeStatus, error) {
		if n.Name != "" {
			return admin.NodeStatus{}, nil
		}
		return Call(ctx, n, admin.GetStatus, admin.None{})
	}) {
		if r.Err == nil && r.Node.Name == "" {
			r.Node.learn(&r.Value)
		}
	}
}

func (n *Node) learn(s *admin.NodeStatus) {
	n.Name, n.Role, n.Pair = s.Name, s.Role, s.Pair
	n.hold(s)
}

// hold notes the pairs of which a node holds members.
func (n *Node) hold(s *admin.NodeStatus) {
	n.pairs = nil
	for _, g := range s.Groups {
		n.pairs = append(n.pairs, g.Pair)
	}
	if n.Pair == "" && len(n.pairs) > 0 {
		n.Pair = n.pairs[0]
	}
}

// holders lists the nodes of roles once for each pair of which they hold a
// member, with that pair as theirs. Nodes that do not answer keep the pair they
// are known for.
func (f *Fleet) holders(ctx context.Context, roles ...string) (out []*Node) {
	nodes := f.Role(roles...)
	for _, r := range All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.NodeStatus, error) {
		if n.pairs != nil || f.Dev != nil {
			return admin.NodeStatus{}, nil
		}
		return Call(ctx, n, admin.GetStatus, admin.None{})
	}) {
		if r.Err == nil && len(r.Value.Groups) > 0 {
			r.Node.hold(&r.Value)
		}
	}
	for _, n := range nodes {
		pairs := n.pairs
		if pairs == nil {
			pairs = []string{n.Pair}
		}
		for _, pair := range pairs {
			one := *n
			one.Pair = pair
			out = append(out, &one)
		}
	}
	return out
}

// Title is the name of a node, or its address while the name is not known.
func (n *Node) Title() string {
	if n.Name != "" {
		return n.Name
	}
	return n.Addr
}

// Close gives up connections.
func (f *Fleet) Close() {
	for _, n := range f.Nodes {
		n.client.Close()
	}
}

// Result is the answer of one node.
type Result[T any] struct {
	Node  *Node
	Value T
	Err   error
}

// All asks nodes at the same time and returns their answers in the same order.
func All[T any](ctx context.Context, f *Fleet, nodes []*Node, ask func(ctx context.Context, n *Node) (T, error)) []Result[T] {
	out := make([]Result[T], len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, f.timeout)
			defer cancel()
			v, err := ask(ctx, n)
			out[i] = Result[T]{n, v, err}
		})
	}
	wg.Wait()
	return out
}

// Call calls a method of one node. An answer that did not come in time is said
// in plain words.
func Call[In, Out any](ctx context.Context, n *Node, m admin.Method[In, Out], in In) (Out, error) {
	out, err := admin.Call(ctx, n.client, m, in)
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return out, fmt.Errorf("%s: no answer in time", n.Title())
	}
	return out, fmt.Errorf("%s: %w", n.Title(), err)
}

// Refused reports whether err is an answer of the node, rather than silence.
func Refused(err error) bool {
	var e *admin.Error
	return errors.As(err, &e)
}

// Role lists the nodes of a role. A node that was never reached has none and is
// not among them.
func (f *Fleet) Role(roles ...string) (nodes []*Node) {
	for _, n := range f.Nodes {
		if slices.Contains(roles, n.Role) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Find returns the node called name.
func (f *Fleet) Find(name string) (*Node, error) {
	var names []string
	for _, n := range f.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Title())
	}
	return nil, fmt.Errorf("no node %q; there are %s", name, strings.Join(names, ", "))
}

// Unreachable are the errors of the nodes that did not answer.
func Unreachable[T any](results []Result[T]) (errs []error) {
	for _, r := range results {
		if r.Err != nil && !Refused(r.Err) {
			errs = append(errs, r.Err)
		}
	}
	return errs
}
