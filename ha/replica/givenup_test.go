package replica_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/witness"
)

// TestGivenUp lets a pair go on with one replica, and then the two members come
// back that were believed lost. They are a majority of the group that they know,
// and elect one another while they cannot reach the one that went on; as soon as
// they can they end, for good. What they said meanwhile is of a lower term.
func TestGivenUp(t *testing.T) {
	var mu sync.Mutex
	ended := map[string]error{}
	why := func(name string) error {
		mu.Lock()
		defer mu.Unlock()
		return ended[name]
	}
	c := newCluster(t, options{Keep: true, Create: true, OnFatal: func(node string, err error) {
		mu.Lock()
		defer mu.Unlock()
		ended[node] = err
	}})
	must(t, c.Serving().Fill(50, 100))
	c.StopAll()
	if _, err := voter.RecoverAlone(c.Config("b", false).Config, manifest.Data, 0); err != nil {
		t.Fatal(err)
	}
	b := c.Start("b", false)
	c.Eventually("b serves alone", func() bool { return b.R.Serving() })
	must(t, b.Fill(10, 100))

	c.Wire.Isolate("b", []string{"a", "w"}, true)
	a := c.Start("a", false)
	c.Start("w", false)
	c.Eventually("a serves those that do not hear of b", func() bool { return a.R.Serving() })
	if old, now := a.R.Local().Term, b.R.Local().Term; old >= now {
		t.Errorf("the old group is in term %d, the one that went on in %d", old, now)
	}
	c.Wire.Isolate("b", []string{"a", "w"}, false)
	for _, name := range []string{"a", "w"} {
		c.Eventually(name+" ends", func() bool { return errors.Is(why(name), voter.ErrGivenUp) })
	}
	must(t, b.Fill(10, 100))
	if err := why("b"); err != nil || !b.R.Serving() {
		t.Errorf("b does not serve any more: %v", err)
	}
	c.Stop("a")
	c.Stop("w")
	cfg := c.Config("a", false)
	cfg.FSM = replicatest.EmptyList(filepath.Join(c.Dir("a"), "state"))
	for range 2 {
		if _, err := replica.New(cfg); !errors.Is(err, voter.ErrGivenUp) {
			t.Errorf("a is opened again: %v", err)
		}
		if _, err := witness.New(c.Config("w", false).Config); !errors.Is(err, voter.ErrGivenUp) {
			t.Errorf("w is opened again: %v", err)
		}
	}
	// b knows it also after a restart, from the first moment on.
	c.Stop("b")
	b = c.Start("b", false)
	c.Eventually("b serves again", func() bool { return b.R.Serving() })
	if err := b.R.Confirm(context.Background()); err != nil {
		t.Error(err)
	}
}
