package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/metrics"
)

// TestMemberFigures: the figures are those of the members there are, and of none
// when the replica does not serve.
func TestMemberFigures(t *testing.T) {
	up := func(member, kind string) float64 {
		return testutil.ToFloat64(metrics.GroupMemberUp.With("figures", member, kind))
	}
	f := &memberFigures{pair: "figures"}
	before := testutil.CollectAndCount(metrics.GroupMemberUp)
	a := replica.Member{Peer: replica.Peer{Name: "a"}, Alive: true}
	b := replica.Member{Peer: replica.Peer{Name: "b"}, Alive: true, Lag: 7}
	w := replica.Member{Peer: replica.Peer{Name: "w", Witness: true}}
	f.set([]replica.Member{a, b, w})
	if up("a", "data") != 1 || up("b", "data") != 1 || up("w", "witness") != 0 {
		t.Error("who is up is not told")
	}
	if lag := testutil.ToFloat64(metrics.GroupLag.With("figures", "b")); lag != 7 {
		t.Errorf("lag %v", lag)
	}
	f.set([]replica.Member{a, w})
	if n := testutil.CollectAndCount(metrics.GroupMemberUp) - before; n != 2 {
		t.Errorf("%d figures of 2 members", n)
	}
	f.set(nil)
	if n := testutil.CollectAndCount(metrics.GroupMemberUp) - before; n != 0 {
		t.Errorf("%d figures of a replica that does not serve", n)
	}
}
