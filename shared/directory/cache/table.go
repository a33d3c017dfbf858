package cache

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/directory"
)

// slot is one remembered answer. Its key, and the answer when it is packed, are
// in the block of its shard. Only used and retry change while it is in a table,
// and its place in the block.
type slot[V any] struct {
	hash   uint64            // of its key
	value  V                 // unless it is packed
	domain *directory.Domain // of the entries that are packed
	err    error             // ErrNotFound, or nil
	at     int64             // when it was asked, on the cache's clock
	fresh  int64             // until when it is used without asking

	place, key, text uint32 // in the block: where, and the lengths of the two
	size             uint32
	used             atomic.Bool  // since the hand passed
	retry            atomic.Int64 // while the directory fails: when to ask again

	prev, next *slot[V] // ring of the shard
}

// flight is a question under way. Its results are set before done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// shard is a part of a table. Its lock guards all fields and the rings.
type shard[V any] struct {
	mu      sync.RWMutex
	m       map[uint64]*slot[V] // by the hash of the key: of two keys with the same one is remembered
	flights map[string]*flight[V]
	hand    *slot[V] // next to be looked at for eviction
	bytes   int
	flushes uint64 // flights that began before the last one leave nothing

	block *block // nil at first
	live  int    // octets of it that slots have
}

// table is a bounded map from keys to answers.
type table[V any] struct {
	seed     maphash.Seed
	shards   []shard[V] // a power of two
	maxSlots int        // in a shard
	maxBytes int        // in a shard
	size     func(V) int

	// pack and open are the two ways of packing; pack says when a value stays as
	// it is. Nil: all do.
	pack func(V) (packed, bool)
	open func(packed) V
}

// found is what a table has under a key; slot is nil when it has nothing.
type found[V any] struct {
	*slot[V]
	t      *table[V]
	packed string
}

// answer is what was remembered.
func (f found[V]) answer() (V, error) {
	if f.packed != "" {
		return f.t.open(packed{f.packed, f.domain}), nil
	}
	return f.value, f.err
}

// slotSize is what a slot takes beside its key and its value, about.
const slotSize = 160

// maxText bounds the key and the packed answer of a slot: what is longer is not
// remembered.
const maxText = 1 << 28

// minShard is the number of slots below which splitting a table gains nothing.
const minShard = 256

func newTable[V any](slots, bytes int, size func(V) int) *table[V] {
	n := 1
	for n < 64 && slots/(2*n) >= minShard {
		n *= 2
	}
	t := &table[V]{seed: maphash.MakeSeed(), shards: make([]shard[V], n), maxSlots: max(slots/n, 1), maxBytes: min(bytes/n, maxText), size: size}
	for i := range t.shards {
		t.shards[i].m = map[uint64]*slot[V]{}
		t.shards[i].flights = map[string]*flight[V]{}
	}
	return t
}

func (t *table[V]) hash(key []byte) uint64 { return maphash.Bytes(t.seed, key) }

func (t *table[V]) shard(hash uint64) *shard[V] { return &t.shards[hash&uint64(len(t.shards)-1)] }

// get returns what is remembered under key. What is packed is copied, because
// its place is another's as soon as the lock is free.
func (t *table[V]) get(key []byte) found[V] {
	hash := t.hash(key)
	s := t.shard(hash)
	s.mu.RLock()
	f := found[V]{t: t, slot: s.m[hash]}
	if f.slot != nil {
		if string(s.keyOf(f.slot)) != string(key) {
			f.slot = nil
		} else {
			f.packed = string(s.textOf(f.slot))
		}
	}
	s.mu.RUnlock()
	if f.slot != nil && !f.used.Load() {
		f.used.Store(true)
	}
	return f
}

// keyOf and textOf are octets of the block. The caller holds s.mu.
func (s *shard[V]) keyOf(e *slot[V]) []byte { return s.block.b[e.place:][:e.key] }

func (s *shard[V]) textOf(e *slot[V]) []byte { return s.block.b[e.place+e.key:][:e.text] }

// ask joins the flight for key or begins one, which runs question on its own
// time: a caller who gives up does not take the answer from the others. keep
// makes the slot for the outcome, nil to remember nothing; what was remembered
// goes if drop is set.
func (t *table[V]) ask(ctx context.Context, key []byte, limit time.Duration, question func(context.Context) (V, error), keep func(V, error) (e *slot[V], drop bool)) (V, error) {
	s := t.shard(t.hash(key))
	s.mu.Lock()
	f := s.flights[string(key)]
	if f == nil {
		f = &flight[V]{done: make(chan struct{})}
		name, flushes := string(key), s.flushes
		s.flights[name] = f
		detached := context.WithoutCancel(ctx)
		go func() {
			ctx, cancel := context.WithTimeout(detached, limit)
			defer cancel()
			f.value, f.err = question(ctx)
			e, drop := keep(f.value, f.err)
			text := ""
			if e != nil && e.err == nil {
				text = t.set(e, f.value)
			}
			s.mu.Lock()
			if s.flights[name] == f {
				delete(s.flights, name)
			}
			switch {
			case s.flushes != flushes:
			case e != nil:
				t.put(s, e, name, text)
			case drop:
				s.remove(s.m[maphash.String(t.seed, name)])
			}
			s.mu.Unlock()
			close(f.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.value, f.err
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}

// set has e remember v, and returns the text when that is packed.
func (t *table[V]) set(e *slot[V], v V) (text string) {
	if t.pack != nil {
		if k, ok := t.pack(v); ok {
			e.domain = k.domain
			return k.text
		}
	}
	e.value = v
	return ""
}

// put adds or replaces a slot, that of key with this text, and evicts what is
// too much. Something larger than a shard may hold is not remembered. The caller
// holds s.mu.
func (t *table[V]) put(s *shard[V], e *slot[V], key, text string) {
	e.hash = maphash.String(t.seed, key)
	s.remove(s.m[e.hash])
	size := slotSize + len(key) + len(text)
	if text == "" && e.err == nil {
		size += t.size(e.value)
	}
	if size > t.maxBytes {
		return
	}
	e.size = uint32(size)
	for len(s.m) >= t.maxSlots || s.bytes+size > t.maxBytes {
		victim := s.hand
		for victim.used.Swap(false) {
			victim = victim.next
		}
		s.hand = victim
		s.remove(victim)
	}
	s.m[e.hash] = e
	s.bytes += size
	s.store(e, key, text)
	if s.hand == nil {
		e.prev, e.next = e, e
		s.hand = e
		return
	}
	e.prev, e.next = s.hand.prev, s.hand // last to be looked at
	e.prev.next, e.next.prev = e, e
}

// store puts key and text into the block. When that is full the ones that are
// still there move to another one, a quarter larger than they need: each octet
// is copied a few times, whatever comes and goes.
func (s *shard[V]) store(e *slot[V], key, text string) {
	n := len(key) + len(text)
	if s.block == nil || s.block.room() < n {
		old := s.block
		s.block = newBlock((s.live + n) * 5 / 4)
		s.each(func(o *slot[V]) {
			place := len(s.block.b)
			s.block.b = append(s.block.b, old.b[o.place:][:o.key+o.text]...)
			o.place = uint32(place)
		})
		old.free()
	}
	e.place, e.key, e.text = uint32(len(s.block.b)), uint32(len(key)), uint32(len(text))
	s.block.b = append(append(s.block.b, key...), text...)
	s.live += n
}

// each calls f with each slot of the ring.
func (s *shard[V]) each(f func(*slot[V])) {
	for e := s.hand; e != nil; {
		next := e.next
		if f(e); next == s.hand {
			return
		}
		e = next
	}
}

func (s *shard[V]) remove(e *slot[V]) {
	if e == nil {
		return
	}
	delete(s.m, e.hash)
	s.bytes -= int(e.size)
	s.live -= int(e.key + e.text)
	if e.next == e {
		s.hand = nil
		return
	}
	e.prev.next, e.next.prev = e.next, e.prev
	if s.hand == e {
		s.hand = e.next
	}
}

// dropIf forgets every answer that matches, counts them, and makes the flights under way
// leave nothing.
func (t *table[V]) dropIf(match func(key string, v V) bool) (dropped int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		s.flushes++
		clear(s.flights) // a question asked from now on is a new one
		for _, e := range s.m {
			v, _ := found[V]{t: t, slot: e, packed: string(s.textOf(e))}.answer()
			if match(string(s.keyOf(e)), v) {
				s.remove(e)
				dropped++
			}
		}
		if s.hand == nil {
			s.block.free()
			s.block = nil
		}
		s.mu.Unlock()
	}
	return dropped
}

func (t *table[V]) len() (n int) {
	for i := range t.shards {
		t.shards[i].mu.RLock()
		n += len(t.shards[i].m)
		t.shards[i].mu.RUnlock()
	}
	return n
}
