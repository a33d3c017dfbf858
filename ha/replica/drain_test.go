package replica_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/ha/replica"
)

// TestDrain: a replica that drains hands over again when it is elected, and
// serves while nobody else can.
func TestDrain(t *testing.T) {
	var drains [2]atomic.Bool
	flag := func(name string) *atomic.Bool { return &drains[name[0]-'a'] }
	c := newCluster(t, options{Keep: true, Edit: func(n *node, cfg *replica.Config) {
		if n.Name != "w" {
			cfg.Draining = flag(n.Name).Load
		}
	}})
	ctx := context.Background()
	n := c.Serving()
	o := c.Other(n)
	must(t, propose(n, "one", 100))

	flag(n.Name).Store(true)
	c.Eventually("it hands over", func() bool { return n.R.StepAside(ctx) == nil })
	c.Eventually("the other serves", o.R.Serving)
	must(t, propose(o, "two", 100))
	c.Eventually("the one that drains has caught up", func() bool { return len(n.List.Items()) == 2 })
	if err := o.R.Transfer(ctx, c.Peer(n.Name).ID); !errors.Is(err, replica.ErrDraining) {
		t.Errorf("transfer to a replica that drains: %v", err)
	}

	// Nobody else is there: it is elected, and serves.
	c.Kill(o.Name)
	c.Eventually("the one that drains serves", n.R.Serving)
	must(t, propose(n, "three", 100))
	if err := n.R.StepAside(ctx); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("nobody can take over: %v", err)
	}
	must(t, propose(n, "four", 100))

	// It votes, and hands over by itself when there is somebody again.
	o = c.Start(o.Name, false)
	c.Eventually("it has handed over", o.R.Serving)
	must(t, propose(o, "five", 100))

	// Elected while the other can serve, it hands over at once.
	flag(n.Name).Store(false)
	c.Eventually("the other one hands over", func() bool { return o.R.Transfer(ctx, "") == nil })
	flag(n.Name).Store(true)
	c.Eventually("it has handed over again", func() bool { return o.R.Serving() && !n.R.Serving() })

	// Both drain: the one that serves goes on, until it ends.
	flag(o.Name).Store(true)
	c.Eventually("both drain", func() bool { return errors.Is(o.R.StepAside(ctx), replica.ErrDraining) })
	must(t, propose(o, "six", 100))
	c.Eventually("the one that ends hands over", func() bool { return o.R.Leave(ctx) == nil })
	c.Eventually("the other one that drains serves", n.R.Serving)
	must(t, propose(n, "seven", 100))
	c.Stop(o.Name)
	must(t, propose(n, "eight", 100))
}
