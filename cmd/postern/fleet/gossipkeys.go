package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/admin"
)

// NodeKeys names the keys of gossip of one node, the one that encrypts first.
type NodeKeys struct {
	Node string   `json:"node"`
	Keys []string `json:"keys"`
}

// everyMember fails unless every member of the cluster, but those of without,
// can be asked: what is to be done on all nodes is not begun on some.
func (f *Fleet) everyMember(ctx context.Context, without []string) ([]*Node, error) {
	f.Identify(ctx)
	nodes := slices.DeleteFunc(slices.Clone(f.Nodes), func(n *Node) bool { return slices.Contains(without, n.Name) })
	var faults []error
	unknown := map[string]string{}
	for _, r := range All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.Cluster, error) {
		return Call(ctx, n, admin.GetCluster, admin.None{})
	}) {
		if r.Err != nil {
			faults = append(faults, r.Err)
			continue
		}
		for _, m := range r.Value.Nodes {
			known := slices.ContainsFunc(f.Nodes, func(n *Node) bool { return n.Name == m.Name })
			if !known && m.State != "left" && !slices.Contains(without, m.Name) {
				unknown[m.Name] = m.State
			}
		}
	}
	for name, state := range unknown {
		faults = append(faults, fmt.Errorf("%s is a member (%s), and its admin port is not known: name it with --node, or leave it out with --without", name, state))
	}
	if len(faults) > 0 {
		slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("nothing is changed: %w", errors.Join(faults...))
	}
	return nodes, nil
}

// GossipKeys asks every member for its keys.
func (f *Fleet) GossipKeys(ctx context.Context, without []string) ([]NodeKeys, error) {
	_, out, err := f.gossipKeys(ctx, without)
	return out, err
}

func (f *Fleet) gossipKeys(ctx context.Context, without []string) (nodes []*Node, out []NodeKeys, err error) {
	if nodes, err = f.everyMember(ctx, without); err != nil {
		return nil, nil, err
	}
	var faults []error
	for _, r := range All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.KeyRing, error) {
		return Call(ctx, n, admin.GossipKeys, admin.None{})
	}) {
		if r.Err != nil {
			faults = append(faults, r.Err)
			continue
		}
		out = append(out, NodeKeys{r.Node.Title(), r.Value.Keys})
	}
	if len(faults) > 0 {
		return nil, nil, fmt.Errorf("nothing is changed: %w", errors.Join(faults...))
	}
	return nodes, out, nil
}

// ChangeGossipKeys makes a change on every member, one after the other, and ends
// at the first that does not take it; asked again, it goes on there. It does not
// begin where a member could be left behind: to use a key every one must have it,
// and to remove one no member may encrypt with it.
func (f *Fleet) ChangeGossipKeys(ctx context.Context, in admin.KeyChange, without []string) ([]NodeKeys, error) {
	nodes, have, err := f.gossipKeys(ctx, without)
	if err != nil {
		return nil, err
	}
	var bad []string
	for _, h := range have {
		if in.Op == "use" && !slices.Contains(h.Keys, in.ID) || in.Op == "remove" && len(h.Keys) > 0 && h.Keys[0] == in.ID {
			bad = append(bad, h.Node)
		}
	}
	switch {
	case len(bad) > 0 && in.Op == "use":
		return have, fmt.Errorf("nothing is changed: key %s is not on %s: add it first", in.ID, strings.Join(bad, ", "))
	case len(bad) > 0:
		return have, fmt.Errorf("nothing is changed: key %s encrypts on %s: use another one first", in.ID, strings.Join(bad, ", "))
	}
	for i, n := range nodes {
		ring, err := f.changeKeys(ctx, n, in)
		if err != nil {
			left := make([]string, 0, len(nodes))
			for _, n := range nodes[i:] {
				left = append(left, n.Title())
			}
			return have, fmt.Errorf("%w\n%s not taken by %s: go on by the same command when that is mended, before any other change", err, in.Op, strings.Join(left, ", "))
		}
		have[i].Keys = ring.Keys
	}
	return have, nil
}

func (f *Fleet) changeKeys(ctx context.Context, n *Node, in admin.KeyChange) (admin.KeyRing, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return Call(ctx, n, admin.ChangeGossipKeys, in)
}
