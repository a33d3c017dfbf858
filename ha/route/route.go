/*
Package route turns the name of a pair into the addresses to use now.

A Table holds what gossip, a static list and the pairs themselves have said:
which nodes belong to a pair, where their services listen and which one serves.
All of it is a hint. A wrong one costs a caller one redirect, which it reports
back with Redirect; the pair itself is the truth.

A Table never forgets a node because gossip fell silent: relays go on with their
last view. It opens no connection.

Whoever waits for an answer of a node can do so only while no other node of the
pair has come to serve (While): a host that is frozen or cut off never answers,
and does not close its connections either.
*/
package route

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

// Service names one of a node's listeners.
type Service string

// The services of a backend node.
const (
	LMTP  Service = "lmtp"
	IMAP  Service = "imap"
	POP3  Service = "pop3"
	Admin Service = "admin"
)

// Node is what is known of one replica of a pair.
type Node struct {
	Name     string // node name, unique in the cluster
	Pair     string
	Addr     map[Service]string // host:port
	Serving  bool
	Term     uint64 // raft term in which it said so
	Applied  uint64
	Draining bool
	Alive    bool // as gossip sees it
	Version  string
}

// Table maps pairs to nodes. The zero Table is empty and ready. Any number of
// goroutines may use it.
type Table struct {
	mu      sync.RWMutex
	pairs   map[string][]Node // sorted by name; slices are replaced, never changed
	terms   map[string]uint64 // by pair: the newest in which a node said that it serves
	stays   map[string]map[string]*stay
	assumed map[nodeKey]bool // of whom only a list has told
	changed chan struct{}
}

// nodeKey is a node of a pair.
type nodeKey struct{ pair, name string }

// stay lasts until another node of its pair than its own comes to serve.
type stay struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// ErrMoved is the cause of the end of While.
var ErrMoved = errors.New("another node serves the pair now")

// Update replaces what is known of n. News of an older term never unseats a
// serving node of a newer one.
func (t *Table) Update(n Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.assumed, nodeKey{n.Pair, n.Name})
	t.updateLocked(n)
}

// Assume notes nodes of a list, which holds until Update says more of them. It takes
// the place of the list of before: a node that is on it no more, and of which nothing
// else is known, is forgotten.
func (t *Table) Assume(list []Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.assumed
	t.assumed = make(map[nodeKey]bool)
	for _, n := range list {
		i := slices.IndexFunc(t.pairs[n.Pair], func(o Node) bool { return o.Name == n.Name })
		key := nodeKey{n.Pair, n.Name}
		if i >= 0 && !before[key] {
			continue // more is known
		}
		if i >= 0 {
			n.Serving = t.pairs[n.Pair][i].Serving // it was asked, and named by another
		}
		t.assumed[key] = true
		t.updateLocked(n)
	}
	for key := range before {
		if t.assumed[key] {
			continue
		}
		nodes := slices.DeleteFunc(slices.Clone(t.pairs[key.pair]), func(o Node) bool { return o.Name == key.name })
		if t.pairs[key.pair] = nodes; len(nodes) == 0 {
			delete(t.pairs, key.pair)
		}
	}
	t.wakeLocked()
}

func (t *Table) updateLocked(n Node) {
	if t.pairs == nil {
		t.pairs = make(map[string][]Node)
	}
	nodes := slices.Clone(t.pairs[n.Pair])
	i := slices.IndexFunc(nodes, func(o Node) bool { return o.Name == n.Name })
	for j, o := range nodes {
		if j == i || !o.Serving || !n.Serving {
			continue
		}
		if o.Term > n.Term {
			n.Serving = false
		} else {
			nodes[j].Serving = false
		}
	}
	if i < 0 {
		nodes = append(nodes, n)
		slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	} else {
		nodes[i] = n
	}
	t.pairs[n.Pair] = nodes
	if n.Serving && n.Term > t.terms[n.Pair] {
		if t.terms == nil {
			t.terms = make(map[string]uint64)
		}
		t.terms[n.Pair] = n.Term
		for name, s := range t.stays[n.Pair] {
			if name != n.Name {
				s.end(ErrMoved)
				delete(t.stays[n.Pair], name)
			}
		}
	}
	t.wakeLocked()
}

// While returns a context that ends when another node of pair than this one says
// that it has come to serve, in a newer term than any before: what is not
// answered by then had better be asked there. A node of no name never serves. Of a
// pair that is not known there is no news.
func (t *Table) While(pair, node string) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.pairs[pair]) == 0 {
		return context.Background()
	}
	s := t.stays[pair][node]
	if s == nil {
		if t.stays == nil {
			t.stays = make(map[string]map[string]*stay)
		}
		if t.stays[pair] == nil {
			t.stays[pair] = make(map[string]*stay)
		}
		s = new(stay)
		s.ctx, s.end = context.WithCancelCause(context.Background())
		t.stays[pair][node] = s
	}
	return s.ctx
}

// Redirect notes that a replica of pair named the node that serves. It holds
// until newer news arrives.
func (t *Table) Redirect(pair, node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := slices.Clone(t.pairs[pair])
	i := slices.IndexFunc(nodes, func(o Node) bool { return o.Name == node })
	if i < 0 {
		return
	}
	for j := range nodes {
		nodes[j].Serving = j == i
	}
	t.pairs[pair] = nodes
	t.wakeLocked()
}

// Candidates returns the nodes of pair in the order to try them: the serving
// one, then those alive and not draining, then the rest. The slice is the
// caller's.
func (t *Table) Candidates(pair string) []Node {
	t.mu.RLock()
	nodes := slices.Clone(t.pairs[pair])
	t.mu.RUnlock()
	rank := func(n Node) int {
		switch {
		case n.Serving:
			return 0
		case n.Alive && !n.Draining:
			return 1
		case n.Alive:
			return 2
		}
		return 3
	}
	slices.SortStableFunc(nodes, func(a, b Node) int { return rank(a) - rank(b) })
	return nodes
}

// Pair finds the pair that a mailHost value names: by its whole name or by its
// first label. ok is false when no such pair is known.
func (t *Table) Pair(mailHost string) (name string, ok bool) {
	mailHost = strings.ToLower(mailHost)
	label, _, _ := strings.Cut(mailHost, ".")
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, ok := t.pairs[mailHost]; ok {
		return mailHost, true
	}
	_, ok = t.pairs[label]
	return label, ok
}

// Pairs lists the known pairs in name order.
func (t *Table) Pairs() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	names := make([]string, 0, len(t.pairs))
	for name := range t.pairs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Changed returns a channel that is closed at the next change.
func (t *Table) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

func (t *Table) wakeLocked() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}
