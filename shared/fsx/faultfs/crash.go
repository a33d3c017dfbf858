package faultfs

import (
	"encoding/binary"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
)

// fate says what becomes of unsynced changes.
type fate int

const (
	dropAll fate = iota
	keepAll
	keepFirst // those up to a random point, as a journal does
	keepSome  // each by itself
	fates
)

// Crash returns what a power cut at this moment could leave on the disk,
// chosen by seed. Seed 0 loses everything that was not synced, seed 1 loses
// nothing. The receiver is not changed and not to be written to any more.
func (f *FS) Crash(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 1))
	names, content := fate(rng.IntN(int(fates))), fate(rng.IntN(int(fates)))
	if seed < 2 {
		names, content = fate(seed), fate(seed)
	}
	after := New(seed)
	copies := map[*node]*node{}
	after.root = clone(f.root, copies)
	journal := make([]change, len(f.journal))
	for i, c := range f.journal {
		for _, e := range c {
			to := e.to
			if to != nil {
				to = clone(to, copies)
			}
			journal[i] = append(journal[i], entry{clone(e.dir, copies), e.name, to})
		}
	}
	settle(journal, names.choose(rng, len(journal)))
	// A fixed order of files makes the state depend on the seed alone.
	seen := map[*node]bool{}
	after.root.lose(rng, content, seen)
	return after
}

var hashSeed = maphash.MakeSeed()

// Sum is a hash of all names and contents as the program sees them, to tell
// states of one process apart.
func (f *FS) Sum() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(hashSeed)
	f.root.sum(&h)
	return h.Sum64()
}

func (n *node) sum(h *maphash.Hash) {
	size := len(n.data)
	if n.dir {
		size = -1 - len(n.entries)
	}
	_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(size))) // a hash takes all
	_, _ = h.Write(n.data)
	for _, name := range slices.Sorted(maps.Keys(n.entries)) {
		_, _ = h.WriteString(name + "\x00")
		n.entries[name].sum(h)
	}
}

// choose says which of n changes survive.
func (t fate) choose(rng *rand.Rand, n int) []bool {
	keep := make([]bool, n)
	first := rng.IntN(n + 1)
	for i := range keep {
		switch t {
		case keepAll:
			keep[i] = true
		case keepFirst:
			keep[i] = i < first
		case keepSome:
			keep[i] = rng.IntN(2) == 0
		}
	}
	return keep
}

// clone copies a node and all that it can reach.
func clone(n *node, copies map[*node]*node) *node {
	if c := copies[n]; c != nil {
		return c
	}
	c := &node{dir: n.dir, pending: n.pending, stable: slices.Clone(n.stable)}
	copies[n] = c
	if n.dir {
		c.entries, c.onDisk = map[string]*node{}, map[string]*node{}
		for name, e := range n.onDisk {
			c.onDisk[name] = clone(e, copies)
		}
	}
	return c
}

// lose makes the program's view of n what the disk kept.
func (n *node) lose(rng *rand.Rand, t fate, seen map[*node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	if n.dir {
		maps.Copy(n.entries, n.onDisk)
		for _, name := range slices.Sorted(maps.Keys(n.entries)) {
			n.entries[name].lose(rng, t, seen)
		}
		return
	}
	piece := int64(512)
	if rng.IntN(2) == 0 {
		piece = 4096
	}
	var pieces []update
	for _, u := range n.pending {
		pieces = u.tear(pieces, piece)
	}
	for i, keep := range t.choose(rng, len(pieces)) {
		if keep {
			n.stable = pieces[i].apply(n.stable)
		}
	}
	n.pending = nil
	n.data = slices.Clone(n.stable)
}

// tear appends u to list in pieces that a disk writes whole.
func (u update) tear(list []update, piece int64) []update {
	if len(u.data) == 0 {
		return append(list, u)
	}
	for off, data := u.off, u.data; len(data) > 0; {
		n := min(int64(len(data)), piece-off%piece)
		list = append(list, update{off: off, data: data[:n]})
		off, data = off+n, data[n:]
	}
	return list
}
