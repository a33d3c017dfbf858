package replica_test

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
)

// TestTrimAndCompact lets raft forget what both data replicas have, compacts
// the segments below, and has members away and back: nobody needs what is gone.
func TestTrimAndCompact(t *testing.T) {
	c := newCluster(t, options{Keep: true, Segment: 256 << 10, Timings: replica.Timings{Snapshot: 100 * time.Millisecond, Floor: 100 * time.Millisecond}})
	n := c.Serving()
	must(t, n.Fill(17_000, 40)) // enough for a note
	trimmed := func(n *node) bool {
		must(t, n.R.Trim())
		first, err := n.R.Log().FirstIndex()
		must(t, err)
		return first > 1
	}
	// Nothing more is committed, so that the floor may stay below the notes.
	c.Eventually("the first index moves", func() bool { return trimmed(n) && trimmed(c.Other(n)) })
	dropped := 0
	for _, n := range []*node{n, c.Other(n)} {
		for _, s := range n.R.Log().Segments() {
			if s.Trimmed {
				done, err := n.R.Log().Compact(s.Base, func(uint64) bool { return false }, nil)
				must(t, err)
				dropped += done.Dropped
			}
		}
	}
	if dropped < 10_000 {
		t.Fatalf("%d entries dropped", dropped)
	}
	other := c.Other(n)
	for _, name := range []string{other.Name, "w", n.Name} {
		c.Kill(name)
		must(t, c.Serving().Propose("while "+name+" is away", 100))
		c.Start(name, false)
	}
	s := c.Serving()
	must(t, s.Propose("at the end", 100))
	c.Eventually("both have everything", func() bool {
		a, b := s.List.Items(), c.Other(s).List.Items()
		return len(a) == len(b) && a[len(a)-1] == b[len(b)-1]
	})
}
