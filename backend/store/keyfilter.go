package store

import (
	"encoding/binary"
	"sync/atomic"
)

// keyFilter answers for nearly every new delivery key, without a look at the
// rows, that it was never seen: a lookup of a key that is not there costs more
// than the rest of a delivery. It never says so of a key that is there.
//
// It is a list of generations in the order of expiry, each a Bloom filter whose
// bits for one key lie in one line of the processor's cache. Old generations
// go when all their keys have been forgotten. One goroutine uses it, the one
// that owns the batch; what was on disk at the start is read by another, which
// hands it over when it is complete.
type keyFilter struct {
	generations []*keyGeneration // oldest first
	// unsure is set while keys may exist that are in no generation: until the
	// keys found on disk are read, or because there are more than fit.
	unsure  int64 // until this expiry time was passed; forever at first
	loading bool
	loaded  atomic.Pointer[[]*keyGeneration]
}

const (
	firstKeys     = 1 << 16 // keys of the first generation, each next has twice as many
	maxKeys       = 1 << 22 // up to this
	bitsPerKey    = 16      // one key in about 500 is looked up in vain
	maxFilterSize = 64 << 20
)

type keyGeneration struct {
	blocks [][8]uint64
	room   int   // keys that may still be added
	until  int64 // when the last of its keys is forgotten
}

func newKeyGeneration(keys int) *keyGeneration {
	return &keyGeneration{blocks: make([][8]uint64, keys*bitsPerKey/512), room: keys}
}

// place spreads the octets of a key, which need not be random.
func place(k *[16]byte) (block, bits uint64) {
	a, b := binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:])
	h := rowHash(a, b)
	return h[0], h[1]
}

func (g *keyGeneration) add(k *[16]byte) {
	block, bits := place(k)
	line := &g.blocks[block%uint64(len(g.blocks))]
	for range 7 {
		line[bits>>6&7] |= 1 << (bits & 63)
		bits >>= 9
	}
}

func (g *keyGeneration) has(k *[16]byte) bool {
	block, bits := place(k)
	line := &g.blocks[block%uint64(len(g.blocks))]
	for range 7 {
		if line[bits>>6&7]&(1<<(bits&63)) == 0 {
			return false
		}
		bits >>= 9
	}
	return true
}

// addKeys adds keys, 16 octets each, that are forgotten at the time given to
// the last generation, or to a new one.
func addKeys(list []*keyGeneration, keys []byte, at int64) []*keyGeneration {
	for ; len(keys) >= 16; keys = keys[16:] {
		if len(list) == 0 {
			list = append(list, newKeyGeneration(firstKeys))
		}
		g := list[len(list)-1]
		if g.room == 0 {
			g = newKeyGeneration(min(len(g.blocks)*512/bitsPerKey*2, maxKeys))
			list = append(list, g)
		}
		g.add((*[16]byte)(keys))
		g.room--
		g.until = max(g.until, at)
	}
	return list
}

// absent reports that k was never seen. False says nothing.
func (f *keyFilter) absent(k *[16]byte) bool {
	if f.loading {
		if list := f.loaded.Load(); list != nil {
			f.generations = append(*list, f.generations...)
			f.loading, f.unsure = false, 0
			f.trim()
		}
	}
	if f.unsure > 0 {
		return false
	}
	for i := len(f.generations) - 1; i >= 0; i-- {
		if f.generations[i].has(k) {
			return false
		}
	}
	return true
}

func (f *keyFilter) add(keys []byte, at int64) {
	n := len(f.generations)
	f.generations = addKeys(f.generations, keys, at)
	if len(f.generations) > n {
		f.trim()
	}
}

// trim drops the oldest generations beyond the bound.
func (f *keyFilter) trim() {
	size := 0
	for _, g := range f.generations {
		size += len(g.blocks) * 64
	}
	for size > maxFilterSize && len(f.generations) > 1 {
		size -= len(f.generations[0].blocks) * 64
		f.unsure = max(f.unsure, f.generations[0].until)
		f.generations = f.generations[1:]
	}
}

// forget drops what was forgotten up to the time given.
func (f *keyFilter) forget(upTo int64) {
	for len(f.generations) > 1 && f.generations[0].until <= upTo {
		f.generations = f.generations[1:]
	}
	if f.unsure <= upTo {
		f.unsure = 0
	}
}

// load reads the keys on disk, until stop is closed.
func (f *keyFilter) load(s *Store, stop <-chan struct{}) {
	it, err := s.iterator([]byte{kindExpiry}, []byte{kindExpiry + 1})
	if err != nil {
		return // lookups go on without the filter
	}
	defer it.Close()
	var list []*keyGeneration
	for n, ok := 0, it.First(); ok; n, ok = n+1, it.Next() {
		list = addKeys(list, it.Value(), expiryTime(it.Key()))
		if n%1024 == 0 {
			select {
			case <-stop:
				return
			default:
			}
		}
	}
	if it.Error() == nil {
		f.loaded.Store(&list)
	}
}
