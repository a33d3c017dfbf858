package fleet

import (
	"reflect"
	"testing"

	"github.com/postern-mail/postern/shared/admin"
)

func TestPairsOf(t *testing.T) {
	got := pairsOf([]admin.GroupStatus{
		{Pair: "p2", Node: "c", Serving: true, State: "Leader", Term: 4, Last: 9, Applied: 9},
		{Pair: "p1", Node: "a", Serving: true, State: "Leader", Term: 3, Last: 50, Applied: 40}, // deposed and unaware
		{Pair: "p1", Node: "b", Serving: true, State: "Leader", Term: 5, Last: 70, Applied: 60},
		{Pair: "p1", Node: "w", Witness: true, State: "Follower", Term: 5, Last: 68, Applied: 68},
		{Pair: "p2", Node: "d", State: StateUnreachable},
	})
	want := []PairState{
		{Name: "p1", Serving: "b", Term: 5, Applied: 60, Nodes: []ReplicaState{
			{Name: "a", State: "leader", Applied: 40, Lag: 20},
			{Name: "b", State: "leader", Applied: 60, Lag: 0},
			{Name: "w", Witness: true, State: "follower", Applied: 68, Lag: 2},
		}},
		{Name: "p2", Serving: "c", Term: 4, Applied: 9, Nodes: []ReplicaState{
			{Name: "c", State: "leader", Applied: 9, Lag: 0},
			{Name: "d", State: StateUnreachable, Lag: -1},
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}
