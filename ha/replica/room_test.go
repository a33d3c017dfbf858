package replica_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/replicatest"
)

// TestRoom fills the witness's log while a data replica is away: an alarm at half
// of its room, no writes at nine tenths, and an end to both when the one that is
// away has been evicted.
func TestRoom(t *testing.T) {
	var used atomic.Int64
	c := newCluster(t, options{Create: true, Timings: replica.Timings{Floor: 300 * time.Millisecond}, Edit: func(n *replicatest.Node, cfg *replica.Config) {
		if n.Name == "w" {
			cfg.Room = func() (int64, int64) { return used.Load(), 100 }
		}
	}})
	s := c.Serving()
	must(t, s.Propose("before", 100))
	away := c.Other(s).Name
	old := c.Peer(away)
	c.Kill(away)
	alarm := func(text string) bool {
		return strings.Contains(strings.Join(s.R.Local().Alarms, "\n"), text)
	}
	c.Eventually("an alarm that a member is away", func() bool { return alarm("away: "+away) && alarm("one data copy") })
	used.Store(60)
	c.Eventually("an alarm at 60 %", func() bool { return alarm("60 %") })
	must(t, s.Propose("at 60 %", 100))
	used.Store(92)
	c.Eventually("writes are held back", func() bool { return errors.Is(s.Propose("at 92 %", 100), replica.ErrNoSpace) })
	if !s.R.Serving() {
		t.Error("reads end with the writes")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.R.RemoveMember(ctx, replica.Removal{ID: old.ID, Dead: true}); !errors.Is(err, replica.ErrOneCopy) {
		t.Errorf("evicted without agreement: %v", err)
	}
	must(t, s.R.RemoveMember(ctx, replica.Removal{ID: old.ID, Dead: true, OneCopy: true}))
	used.Store(5) // the witness trims now
	c.Eventually("writes are taken again", func() bool { return s.Propose("after", 100) == nil })
	if alarm("away") || !alarm("one data copy") || !alarm("2 members vote") {
		t.Errorf("alarms %q", s.R.Local().Alarms)
	}
	// The evicted one comes back with its directory: nobody listens to it.
	c.Start(away, false)
	c.Eventually("it learns that it was evicted", func() bool { return c.Nodes[away].R.Local().Expelled })
	if !s.R.Serving() {
		t.Error("a member that was evicted disturbs the others")
	}
	if n := c.Nodes[away].R; n.Serving() || n.Local().Leader != "" {
		t.Errorf("the evicted member follows %q", n.Local().Leader)
	}
}
