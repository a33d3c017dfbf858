package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// StateDown is the state of a replica that does not answer, in PairDetail.
const StateDown = "down"

// PairDetail is a pair with what each of its nodes says.
type PairDetail struct {
	Name    string    `json:"name"`
	Serving string    `json:"serving"`
	Nodes   []Replica `json:"nodes"`
}

// Replica is one node of a pair. Digest is of the state at the entry Applied;
// replicas that applied the same entry have the same one.
type Replica struct {
	Name     string `json:"name"`
	Role     string `json:"role"` // data or witness
	State    string `json:"state"`
	Serving  bool   `json:"serving"`
	Term     uint64 `json:"term"`
	Applied  uint64 `json:"applied"`
	Commit   uint64 `json:"commit"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	LogBytes int64  `json:"log_bytes"`
	Digest   string `json:"digest"`
	Error    string `json:"error,omitempty"`

	ID       string         `json:"id,omitempty"`
	Alarms   []string       `json:"alarms,omitempty"`
	Seeding  *admin.Seeding `json:"seeding,omitempty"`
	LogLimit int64          `json:"log_limit,omitempty"`
	Upkeep   *admin.Upkeep  `json:"upkeep,omitempty"`
}

type replicaAnswer struct {
	group  admin.GroupStatus
	digest admin.Digest
}

// Pairs asks the nodes of every pair, or of the one named.
func (f *Fleet) Pairs(ctx context.Context, name string) ([]PairDetail, error) {
	f.Identify(ctx)
	var nodes []*Node
	for _, n := range f.holders(ctx, Backend, Witness) {
		if name == "" || n.Pair == name {
			nodes = append(nodes, n)
		}
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("no node of pair %q is known", name)
	}
	results := All(ctx, f, nodes, func(ctx context.Context, n *Node) (a replicaAnswer, err error) {
		if a.group, err = Call(ctx, n, admin.PairStatus, admin.PairName{Pair: n.Pair}); err != nil || n.Role == Witness {
			return a, err
		}
		if a.group.Term == 0 {
			return a, nil // no replica runs there
		}
		a.digest, err = Call(ctx, n, admin.PairDigest, admin.PairName{Pair: n.Pair})
		return a, err
	})
	if silent := Unreachable(results); len(silent) == len(results) {
		return nil, errors.Join(append([]error{ErrNobody}, silent...)...)
	}
	pairs := []PairDetail{}
	for _, r := range results {
		i := slices.IndexFunc(pairs, func(p PairDetail) bool { return p.Name == r.Node.Pair })
		if i < 0 {
			i = len(pairs)
			pairs = append(pairs, PairDetail{Name: r.Node.Pair})
		}
		pairs[i].Nodes = append(pairs[i].Nodes, replicaOf(&r))
	}
	for i := range pairs {
		var term uint64
		for _, n := range pairs[i].Nodes {
			if n.Serving && n.Term >= term {
				pairs[i].Serving, term = n.Name, n.Term
			}
		}
	}
	return pairs, nil
}

func replicaOf(r *Result[replicaAnswer]) Replica {
	g := &r.Value.group
	out := Replica{
		Name: r.Node.Name, Role: "data", State: strings.ToLower(g.State), Serving: g.Serving, Term: g.Term,
		Applied: g.Applied, Commit: g.Commit, First: g.First, Last: g.Last, LogBytes: g.LogBytes,
		ID: g.ID, Alarms: g.Alarms, Seeding: g.Seeding, LogLimit: g.LogLimit, Upkeep: g.Upkeep,
	}
	if r.Node.Role == Witness {
		out.Role = "witness"
	}
	if d := &r.Value.digest; d.Digest != "" {
		out.Applied, out.Digest = d.Applied, d.Digest
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
		if g.State == "" {
			out.State = StateDown
		}
	}
	return out
}

// Transfer makes a pair hand over: the node to becomes the serving one, or any
// other than now when to is "". It returns when the pair is served again.
func (f *Fleet) Transfer(ctx context.Context, pair, to string) (*PairDetail, error) {
	before, err := f.pair(ctx, pair)
	if err != nil {
		return nil, err
	}
	if before.Serving == "" {
		return nil, fmt.Errorf("%s: no replica serves, so none can hand over", pair)
	}
	if before.Serving == to {
		return before, nil
	}
	n, err := f.Find(before.Serving)
	if err != nil {
		return nil, err
	}
	if _, err := Call(ctx, n, admin.PairTransfer, admin.TransferRequest{Pair: pair, To: to}); err != nil {
		return nil, err
	}
	return f.awaitServed(ctx, pair, func(p *PairDetail) bool { return p.Serving != "" && p.Serving != before.Serving })
}

// Drain sets or clears the draining flag of a node. For a backend that serves
// it returns when another replica does.
func (f *Fleet) Drain(ctx context.Context, node string, on bool) error {
	n, err := f.Find(node)
	if err != nil {
		return err
	}
	if _, err := Call(ctx, n, admin.Drain, admin.DrainRequest{On: on}); err != nil {
		return err
	}
	if !on || n.Role != Backend {
		return nil
	}
	_, err = f.awaitServed(ctx, n.Pair, func(p *PairDetail) bool { return p.Serving != "" && p.Serving != node })
	return err
}

func (f *Fleet) pair(ctx context.Context, name string) (*PairDetail, error) {
	pairs, err := f.Pairs(ctx, name)
	if err != nil {
		return nil, err
	}
	return &pairs[0], nil
}

// askAgain is the time between two looks at a pair that changes hands.
const askAgain = 50 * time.Millisecond

func (f *Fleet) awaitServed(ctx context.Context, pair string, done func(*PairDetail) bool) (*PairDetail, error) {
	for {
		p, err := f.pair(ctx, pair)
		if err == nil && done(p) {
			return p, nil
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%s: the hand-over is not done in time; %q serves", pair, p.Serving)
			}
			return nil, err
		}
	}
}
