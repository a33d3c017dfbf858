package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// Say is told of the steps of a change that takes long.
type Say func(format string, args ...any)

// Seeding is told how far a member is that is brought up to date.
type Seeding func(node string, s *admin.Seeding, state string)

// PairOf is the pair of which a node holds a member; pair chooses if there is
// more than one.
func (f *Fleet) PairOf(ctx context.Context, node, pair string) (string, error) {
	var pairs []string
	for _, n := range f.holders(ctx, Backend, Witness) {
		if n.Name == node && n.Pair != "" {
			pairs = append(pairs, n.Pair)
		}
	}
	switch {
	case pair != "":
		return pair, nil
	case len(pairs) == 1:
		return pairs[0], nil
	case len(pairs) == 0:
		return "", fmt.Errorf("no pair of node %q is known: name it by --pair", node)
	}
	return "", fmt.Errorf("node %s has members of %d pairs: name one by --pair", node, len(pairs))
}

// Members returns the group of a pair as its serving replica has it, and that
// replica's node.
func (f *Fleet) Members(ctx context.Context, pair string) (*Node, *admin.MemberList, error) {
	for {
		p, err := f.pair(ctx, pair)
		if err == nil && p.Serving == "" {
			err = fmt.Errorf("%s: no replica serves, so the group cannot be changed", pair)
		}
		if err == nil {
			var n *Node
			if n, err = f.Find(p.Serving); err == nil {
				var list admin.MemberList
				if list, err = Call(ctx, n, admin.PairMembers, admin.PairName{Pair: pair}); err == nil {
					return n, &list, nil
				}
			}
		}
		if !f.again(ctx) {
			return nil, nil, err
		}
	}
}

// again waits a moment, unless ctx has ended.
func (f *Fleet) again(ctx context.Context) bool {
	select {
	case <-time.After(4 * askAgain):
		return true
	case <-ctx.Done():
		return false
	}
}

// member finds the member on a node.
func member(list *admin.MemberList, node string) (admin.GroupMember, bool) {
	i := slices.IndexFunc(list.Members, func(m admin.GroupMember) bool { return m.Node == node })
	if i < 0 {
		return admin.GroupMember{}, false
	}
	return list.Members[i], true
}

// Evict takes the member on a dead node out of its pair. It is no error if it is
// not in there any more.
func (f *Fleet) Evict(ctx context.Context, pair, node string) (*admin.MemberList, error) {
	return f.remove(ctx, pair, node, admin.RemoveRequest{Dead: true, OneCopy: true})
}

// Remove takes a member out of its pair that may be alive. A replica that serves
// hands over first.
func (f *Fleet) Remove(ctx context.Context, pair, node string, oneCopy bool) (*admin.MemberList, error) {
	return f.remove(ctx, pair, node, admin.RemoveRequest{OneCopy: oneCopy})
}

func (f *Fleet) remove(ctx context.Context, pair, node string, q admin.RemoveRequest) (*admin.MemberList, error) {
	leader, list, err := f.Members(ctx, pair)
	if err != nil {
		return nil, err
	}
	m, ok := member(list, node)
	if !ok {
		return list, nil
	}
	if m.Node == leader.Name {
		if q.Dead {
			return nil, fmt.Errorf("%s serves %s: it is not dead", node, pair)
		}
		if _, err := f.Transfer(ctx, pair, ""); err != nil {
			return nil, err
		}
		if leader, _, err = f.Members(ctx, pair); err != nil {
			return nil, err
		}
	}
	q.Pair, q.ID = pair, m.ID
	out, err := Call(ctx, leader, admin.PairRemove, q)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Add makes a member of a pair on a node that has none, and waits until it has a
// vote. Begun before, it is gone on with.
func (f *Fleet) Add(ctx context.Context, pair, node string, progress Seeding) (*admin.MemberList, error) {
	n, err := f.Find(node)
	if err != nil {
		return nil, err
	}
	leader, list, err := f.Members(ctx, pair)
	if err != nil {
		return nil, err
	}
	have, isMember := member(list, node)
	local, err := Call(ctx, n, admin.PairStatus, admin.PairName{Pair: pair})
	if err != nil {
		return nil, err
	}
	if !isMember || local.ID != have.ID || local.Seeding != nil {
		if isMember && local.ID != have.ID {
			return nil, fmt.Errorf("%s has lost member %s of %s: replace it", node, have.ID, pair)
		}
		made, err := Call(ctx, n, admin.PairJoin, admin.JoinRequest{Pair: pair, Members: without(list.Members, local.ID)})
		if err != nil {
			return nil, err
		}
		if _, err := Call(ctx, leader, admin.PairAdd, admin.AddRequest{Pair: pair, Member: made}); err != nil {
			return nil, err
		}
	}
	return f.awaitVote(ctx, pair, n, progress)
}

// without leaves the member with an id out.
func without(list []admin.GroupMember, id string) []admin.GroupMember {
	return slices.DeleteFunc(slices.Clone(list), func(m admin.GroupMember) bool { return m.ID == id })
}

// awaitVote waits until the member on a node has its vote.
func (f *Fleet) awaitVote(ctx context.Context, pair string, n *Node, progress Seeding) (*admin.MemberList, error) {
	var last error
	for {
		ask, cancel := context.WithTimeout(ctx, f.timeout)
		local, err := Call(ask, n, admin.PairStatus, admin.PairName{Pair: pair})
		cancel()
		if err == nil && progress != nil {
			progress(n.Name, local.Seeding, local.State)
		}
		if _, list, lerr := f.Members(ctx, pair); lerr == nil && err == nil {
			if m, ok := member(list, n.Name); ok && m.ID == local.ID && m.Voter {
				return list, nil
			} else if !ok {
				return nil, fmt.Errorf("%s is no member of %s any more", n.Name, pair)
			}
		}
		if err != nil {
			last = err
		}
		if !f.again(ctx) {
			if last == nil {
				last = fmt.Errorf("%s has no vote yet", n.Name)
			}
			return nil, fmt.Errorf("%w; the same command goes on with it", last)
		}
	}
}

// Replace puts the member on the node next in the place of the one on old, which
// may be the same node after it has lost its directory. Done in part before, it
// is gone on with.
func (f *Fleet) Replace(ctx context.Context, pair, old, next string, say Say, progress Seeding) (*admin.MemberList, error) {
	_, list, err := f.Members(ctx, pair)
	if err != nil {
		return nil, err
	}
	n, err := f.Find(next)
	if err != nil {
		return nil, err
	}
	was, there := member(list, old)
	if old == next && there {
		local, err := Call(ctx, n, admin.PairStatus, admin.PairName{Pair: pair})
		switch {
		case err != nil:
			return nil, err
		case local.ID == was.ID && local.Seeding == nil && local.State != "Lost":
			if was.Voter {
				return nil, fmt.Errorf("member %s on %s is sound: there is nothing to replace", was.ID, old)
			}
			there = false // it is catching up
		case local.ID == was.ID && local.Seeding != nil:
			there = false // begun before
		}
	}
	// A dead one goes first: while it is there the logs of the others grow. One
	// that is alive goes last, so that no copy is missing in between.
	alive := was.Alive && old != next
	if there && !alive {
		if _, err := f.Evict(ctx, pair, old); err != nil {
			return nil, err
		}
		say("%s (member %s) is out of %s: one data copy may be left", old, was.ID, pair)
	}
	list, err = f.Add(ctx, pair, next, progress)
	if err != nil {
		return nil, err
	}
	if there && alive {
		say("%s votes; taking out %s", next, old)
		return f.Remove(ctx, pair, old, false)
	}
	return list, nil
}

// Recover asks a node what it knows of a pair whose majority is lost for good,
// and with accept makes the pair one of its replica alone.
func (f *Fleet) Recover(ctx context.Context, pair, node string, accept bool) (*admin.Recovery, error) {
	p, err := f.pair(ctx, pair)
	if err != nil {
		return nil, err
	}
	if p.Serving != "" {
		return nil, fmt.Errorf("%s serves %s: nothing is lost that recover is for", p.Serving, pair)
	}
	if node == "" {
		for _, r := range p.Nodes {
			if r.Role == "data" && r.State != StateDown && r.State != "absent" && r.State != "seeding" && r.State != "lost" {
				if node != "" {
					return nil, errors.New("more than one data replica is left: name the one to go on with by --on")
				}
				node = r.Name
			}
		}
	}
	if node == "" {
		return nil, fmt.Errorf("%s: no data replica answers", pair)
	}
	n, err := f.Find(node)
	if err != nil {
		return nil, err
	}
	rec, err := Call(ctx, n, admin.PairRecover, admin.RecoverRequest{Pair: pair, Accept: accept})
	if err != nil {
		return nil, err
	}
	if accept {
		_, err = f.awaitServed(ctx, pair, func(p *PairDetail) bool { return p.Serving == node })
	}
	return &rec, err
}
