package drill

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// move is one fault of a soak.
type move struct {
	action Action
	hold   time.Duration
	pause  time.Duration // before it
}

// soakKinds are the faults of a soak, as far as the target can. ofPair are those
// that only a member of the pair is hit by, ofAll those that are of no one node.
var (
	soakKinds = []Kind{Kill, Stop, Pause, Cut, CutOneWay, PowerCut, SlowDisk, ReadOnlyDisk, FailDisk, DirectoryOff, GossipOff, Transfer}
	ofPair    = []Kind{CutOneWay, SlowDisk, ReadOnlyDisk, FailDisk}
	ofAll     = []Kind{DirectoryOff, GossipOff, Transfer}
)

// plan makes the faults of a soak from a seed: the same seed, nodes and kinds
// give the same plan, of at least the given length.
func plan(seed uint64, nodes []Node, kinds []Kind, length time.Duration) (moves []move) {
	rnd := rand.New(rand.NewPCG(seed, 0x706f737465726e))
	between := func(lo, hi time.Duration) time.Duration {
		return lo + time.Duration(rnd.Int64N(int64(hi-lo))).Truncate(time.Millisecond)
	}
	for at := time.Duration(0); at < length; {
		m := move{pause: between(500*time.Millisecond, 2*time.Second), hold: between(300*time.Millisecond, 4*time.Second)}
		k, n := kinds[rnd.IntN(len(kinds))], nodes[rnd.IntN(len(nodes))]
		m.action = Action{Kind: k, Node: n.Name}
		switch {
		case slices.Contains(ofAll, k):
			m.action.Node = ""
		case slices.Contains(ofPair, k) && n.Pair == "":
			continue
		}
		for _, peer := range nodes {
			if peer.Name != n.Name && (k == Cut || k == CutOneWay && peer.Pair != "") {
				m.action.Peers = append(m.action.Peers, peer.Name)
			}
		}
		at += m.pause + m.hold
		moves = append(moves, m)
	}
	return moves
}

// soak does one fault after the other and waits between them until everything
// is well: two nodes of a pair away at once is another scenario.
func soak(ctx context.Context, f *field) error {
	var kinds []Kind
	for _, k := range soakKinds {
		if f.t.Can(k) == nil && (inverse[k] == "" || f.t.Can(inverse[k]) == nil) {
			kinds = append(kinds, k)
		}
	}
	var nodes []Node
	for _, n := range f.t.Nodes() {
		if n.Pair == "" || n.Pair == f.pair {
			nodes = append(nodes, n)
		}
	}
	f.event("seed %d", f.res.Seed)
	end := time.Now().Add(f.o.For)
	done := 0
	for _, m := range plan(f.res.Seed, nodes, kinds, f.o.For) {
		if done > 0 && time.Now().After(end) {
			break
		}
		if err := f.wait(ctx, m.pause); err != nil {
			return err
		}
		var err error
		if m.action.Kind == Transfer {
			err = f.handOver(ctx)
		} else if err = f.act(ctx, m.action); err == nil {
			if err = f.wait(ctx, m.hold); err == nil {
				err = f.back(ctx, m.action)
			}
		}
		if err == nil {
			err = f.awaitWell(ctx, wellWithin)
		}
		if err != nil {
			return err
		}
		done++
	}
	return f.expect(done > 0, "faults were made", "%d, by seed %d", done, f.res.Seed)
}
