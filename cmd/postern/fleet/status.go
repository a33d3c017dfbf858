package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// StateUnreachable is the state of a node that does not answer.
const StateUnreachable = "unreachable"

// Status is a whole cluster at one moment.
type Status struct {
	Nodes  []NodeState  `json:"nodes"`
	Pairs  []PairState  `json:"pairs"`
	Queues []QueueState `json:"queues"`
}

// NodeState is one node. Error says why it is unreachable.
type NodeState struct {
	Name     string             `json:"name"`
	Role     string             `json:"role"`
	Pair     string             `json:"pair"`
	State    string             `json:"state"`
	Version  string             `json:"version"`
	PID      int                `json:"pid,omitempty"`
	Started  time.Time          `json:"started,omitzero"`
	Sessions int                `json:"sessions"`
	SMTP     int                `json:"connections,omitempty"` // of SMTP
	CertEnds time.Time          `json:"certificate_ends,omitzero"`
	Error    string             `json:"error,omitempty"`
	Formats  admin.FormatLevels `json:"formats,omitzero"` // nothing from releases before 0.2
	Gossip   bool               `json:"gossip,omitempty"` // not asked itself: what another node has heard of it
}

// PairState is who serves a pair, and how far its replicas are.
type PairState struct {
	Name    string         `json:"name"`
	Serving string         `json:"serving"` // "" when no replica does
	Term    uint64         `json:"term"`
	Applied uint64         `json:"applied"`
	Nodes   []ReplicaState `json:"nodes"`
}

// ReplicaState is a replica as Status shows it. Lag is how many entries it is
// behind the furthest one, in applying them or, for the witness, in receiving
// them; -1 when that is not known.
type ReplicaState struct {
	Name    string `json:"name"`
	Witness bool   `json:"witness,omitempty"`
	State   string `json:"state"`
	Applied uint64 `json:"applied"`
	Lag     int64  `json:"lag"`
}

// QueueState is the queue of a relay.
type QueueState struct {
	Relay  string    `json:"relay"`
	Queued int       `json:"queued"`
	Held   int       `json:"held"`
	Bytes  int64     `json:"bytes"`
	Oldest time.Time `json:"oldest,omitzero"`
}

// Healthy reports whether every node is ready, or alive as far as is known, and
// every pair served.
func (s *Status) Healthy() bool {
	well := func(n NodeState) bool { return n.State == "ready" || n.Gossip && n.State == "alive" }
	return !slices.ContainsFunc(s.Nodes, func(n NodeState) bool { return !well(n) }) &&
		!slices.ContainsFunc(s.Pairs, func(p PairState) bool { return p.Serving == "" })
}

// ErrNobody says that not one node answered.
var ErrNobody = errors.New("no node answers")

// Status asks every node. It fails only when none answers.
func (f *Fleet) Status(ctx context.Context) (*Status, error) {
	results := All(ctx, f, f.Nodes, func(ctx context.Context, n *Node) (admin.NodeStatus, error) {
		return Call(ctx, n, admin.GetStatus, admin.None{})
	})
	s := &Status{Nodes: []NodeState{}, Pairs: []PairState{}, Queues: []QueueState{}}
	if silent := Unreachable(results); len(silent) == len(results) {
		return s, errors.Join(append([]error{ErrNobody}, silent...)...)
	}
	var groups []admin.GroupStatus
	for _, r := range results {
		if r.Err != nil {
			s.Nodes = append(s.Nodes, NodeState{Name: r.Node.Title(), Role: r.Node.Role, Pair: r.Node.Pair, State: StateUnreachable, Error: r.Err.Error()})
			if r.Node.Pair != "" {
				groups = append(groups, admin.GroupStatus{Pair: r.Node.Pair, Node: r.Node.Name, Witness: r.Node.Role == Witness, State: StateUnreachable})
			}
			continue
		}
		v := &r.Value
		if r.Node.Name == "" {
			r.Node.learn(v)
		}
		s.Nodes = append(s.Nodes, NodeState{
			Name: v.Name, Role: v.Role, Pair: pairsOn(r.Node, v), State: v.State, Version: v.Version, PID: v.PID,
			Started: v.Started, Sessions: v.Sessions, SMTP: v.Connections, CertEnds: v.CertEnds, Formats: v.Formats,
		})
		groups = append(groups, v.Groups...)
		if v.Queue != nil {
			s.Queues = append(s.Queues, QueueState{v.Name, v.Queue.Queued, v.Queue.Held, v.Queue.Bytes, v.Queue.Oldest})
		}
	}
	s.Pairs = pairsOf(groups)
	if f.Dev == nil {
		f.hearsay(ctx, s)
	}
	return s, nil
}

// pairsOn lists the pairs of which a node holds members.
func pairsOn(n *Node, s *admin.NodeStatus) string {
	if len(s.Groups) < 2 {
		return n.Pair
	}
	var pairs []string
	for _, g := range s.Groups {
		pairs = append(pairs, g.Pair)
	}
	return strings.Join(pairs, ",")
}

// hearsay adds what the nodes that answered know by gossip of others.
func (f *Fleet) hearsay(ctx context.Context, s *Status) {
	for _, r := range All(ctx, f, f.Nodes, func(ctx context.Context, n *Node) (admin.Cluster, error) {
		return Call(ctx, n, admin.GetCluster, admin.None{})
	}) {
		for _, m := range r.Value.Nodes {
			if !slices.ContainsFunc(s.Nodes, func(n NodeState) bool { return n.Name == m.Name }) {
				s.Nodes = append(s.Nodes, NodeState{Name: m.Name, Role: m.Role, Pair: m.Pair, State: m.State, Version: m.Version, Formats: m.Formats, Gossip: true})
			}
		}
		for _, p := range r.Value.Pairs {
			i := slices.IndexFunc(s.Pairs, func(o PairState) bool { return o.Name == p.Name })
			if i < 0 {
				i = len(s.Pairs)
				s.Pairs = append(s.Pairs, PairState{Name: p.Name, Nodes: []ReplicaState{}})
			}
			if o := &s.Pairs[i]; o.Serving == "" {
				o.Serving, o.Term, o.Applied = p.Serving, max(o.Term, p.Term), max(o.Applied, p.Applied)
			}
		}
	}
}

// pairsOf puts the replicas' views of their groups together. A replica that
// says it serves in an older term than another has not heard of its end yet.
func pairsOf(groups []admin.GroupStatus) []PairState {
	pairs := []PairState{}
	for _, g := range groups {
		if !slices.ContainsFunc(pairs, func(p PairState) bool { return p.Name == g.Pair }) {
			pairs = append(pairs, PairState{Name: g.Pair})
		}
	}
	slices.SortFunc(pairs, func(a, b PairState) int { return strings.Compare(a.Name, b.Name) })
	for i := range pairs {
		p := &pairs[i]
		last := uint64(0)
		for _, g := range groups {
			if g.Pair != p.Name {
				continue
			}
			last = max(last, g.Last)
			p.Term = max(p.Term, g.Term)
			if !g.Witness {
				p.Applied = max(p.Applied, g.Applied)
			}
		}
		var term uint64
		for _, g := range groups {
			if g.Pair != p.Name {
				continue
			}
			if g.Serving && g.Term >= term {
				p.Serving, term = g.Node, g.Term
			}
			r := ReplicaState{Name: g.Node, Witness: g.Witness, State: strings.ToLower(g.State), Applied: g.Applied}
			switch {
			case g.State == StateUnreachable:
				r.Lag = -1
			case g.Witness:
				r.Lag = int64(last - g.Last)
			default:
				r.Lag = int64(p.Applied - g.Applied)
			}
			p.Nodes = append(p.Nodes, r)
		}
	}
	return pairs
}
