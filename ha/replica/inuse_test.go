package replica_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// TestInUse: a directory is made for a member that its group has never had, also
// when the others are at work already, and not in the place of one that is lost
// or was taken out.
func TestInUse(t *testing.T) {
	c := newCluster(t, options{Create: true, Idle: true, Timings: replica.Timings{Floor: 200 * time.Millisecond}})
	ask := func(name string) error {
		return voter.InUse(context.Background(), c.Config(name, false).Config)
	}
	must(t, ask("b")) // its directory is there
	must(t, os.RemoveAll(c.Dir("b")))
	must(t, ask("b")) // nobody answers
	c.Start("a", false)
	c.Start("w", false)
	for range 20 {
		must(t, c.Serving().Propose("one", 100))
	}
	must(t, ask("b"))
	must(t, replica.Create(c.Config("b", false).Config))
	c.Start("b", false)
	must(t, c.Serving().Propose("two", 100))
	c.Eventually("all have applied it", func() bool {
		_ = c.Serving().Propose("more", 100) // the floor follows what is committed
		return c.Serving().R.Local().Floor > 1
	})

	c.Kill("b")
	must(t, os.RemoveAll(c.Dir("b")))
	if err := ask("b"); !errors.Is(err, voter.ErrInUse) {
		t.Errorf("in the place of one that is lost: %v", err)
	}
	b := c.Peer("b")
	must(t, c.Serving().R.RemoveMember(context.Background(), replica.Removal{ID: b.ID, Dead: true, OneCopy: true}))
	if err := ask("b"); !errors.Is(err, voter.ErrInUse) {
		t.Errorf("in the place of one that was taken out: %v", err)
	}
	must(t, ask("w")) // its directory is there
}
