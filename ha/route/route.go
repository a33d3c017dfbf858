/*
Package route turns the name of a pair into the addresses to use now.

A Table holds what gossip, a static list and the pairs themselves have said:
which nodes belong to a pair, where their services listen and which one serves.
All of it is a hint. A wrong one costs a caller one redirect, which it reports
back with Redirect; the pair itself is the truth.

A Table never forgets a node because gossip fell silent: relays go on with their
last view. It opens no connection.
*/
package route

import (
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
	changed chan struct{}
}

// Update replaces what is known of n. News of an older term never unseats a
// serving node of a newer one.
func (t *Table) Update(n Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
	t.wakeLocked()
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
