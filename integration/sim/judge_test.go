package sim

import (
	"time"

	"github.com/postern-mail/postern/backend/store"
)

// judge looks at what the run has left, with everything running again.
func (w *world) judge() {
	if w.sameState() {
		w.verify()
	}
}

// sameState waits until both replicas have applied the same, and compares.
func (w *world) sameState() bool {
	type at struct {
		index uint64
		sum   store.Sum
	}
	var seen [2]at
	alike := func() bool {
		for i, name := range []string{"a", "b"} {
			if !w.nodes[name].use(func(p *proc) { seen[i].index, seen[i].sum = p.machine.Digest() }) {
				return false
			}
		}
		return w.serving() != "" && seen[0].index == seen[1].index
	}
	if !w.eventually("a replica serves and both have applied the same", time.Minute, alike) {
		return false
	}
	if seen[0].sum != seen[1].sum {
		w.problem("at entry %d the replicas have the digests %v and %v", seen[0].index, seen[0].sum, seen[1].sum)
		return false
	}
	return true
}

// verify reads the rows of both replicas.
func (w *world) verify() {
	time.Sleep(time.Second) // nothing is on its way any more
	for _, name := range []string{"a", "b"} {
		w.nodes[name].use(func(p *proc) {
			_, want := p.machine.Digest()
			sum, err := p.rows.Verify()
			if err != nil || sum != want {
				w.problem("%s: rows have the digest %v, the state says %v: %v", name, sum, want, err)
			}
		})
	}
}
