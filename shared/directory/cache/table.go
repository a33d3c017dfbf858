package cache

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// slot is one remembered answer. Only used and retry change.
type slot[V any] struct {
	key    string
	value  V      // or
	packed packed // an answer with entries
	err    error  // ErrNotFound, or nil
	at     int64  // when it was asked, on the cache's clock
	fresh  int64  // until when it is used without asking
	size   int

	used  atomic.Bool  // since the hand passed
	retry atomic.Int64 // while the directory fails: when to ask again

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
	m       map[string]*slot[V]
	flights map[string]*flight[V]
	hand    *slot[V] // next to be looked at for eviction
	bytes   int
	flushes uint64 // flights that began before the last one leave nothing
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

// set has e remember v.
func (t *table[V]) set(e *slot[V], v V) {
	if t.pack != nil {
		if k, ok := t.pack(v); ok {
			e.packed = k
			e.size = slotSize + len(e.key) + len(k.text)
			return
		}
	}
	e.value = v
	e.size = slotSize + len(e.key) + t.size(v)
}

// value is what e remembers.
func (t *table[V]) value(e *slot[V]) V {
	if e.packed.text != "" {
		return t.open(e.packed)
	}
	return e.value
}

// slotSize is what a slot takes beside its key and its value, about.
const slotSize = 240

// minShard is the number of slots below which splitting a table gains nothing.
const minShard = 256

func newTable[V any](slots, bytes int, size func(V) int) *table[V] {
	n := 1
	for n < 64 && slots/(2*n) >= minShard {
		n *= 2
	}
	t := &table[V]{seed: maphash.MakeSeed(), shards: make([]shard[V], n), maxSlots: max(slots/n, 1), maxBytes: bytes / n, size: size}
	for i := range t.shards {
		t.shards[i].m = map[string]*slot[V]{}
		t.shards[i].flights = map[string]*flight[V]{}
	}
	return t
}

func (t *table[V]) shard(key []byte) *shard[V] {
	return &t.shards[maphash.Bytes(t.seed, key)&uint64(len(t.shards)-1)]
}

// get returns what is remembered under key, nil if nothing is.
func (t *table[V]) get(key []byte) *slot[V] {
	s := t.shard(key)
	s.mu.RLock()
	e := s.m[string(key)]
	s.mu.RUnlock()
	if e != nil && !e.used.Load() {
		e.used.Store(true)
	}
	return e
}

// ask joins the flight for key or begins one, which runs question on its own
// time: a caller who gives up does not take the answer from the others. keep
// makes the slot for the outcome, nil to remember nothing; what was remembered
// goes if drop is set.
func (t *table[V]) ask(ctx context.Context, key []byte, limit time.Duration, question func(context.Context) (V, error), keep func(V, error) (e *slot[V], drop bool)) (V, error) {
	s := t.shard(key)
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
			if e != nil {
				if e.key = name; e.err == nil {
					t.set(e, f.value)
				} else {
					e.size = slotSize + len(name)
				}
			}
			s.mu.Lock()
			if s.flights[name] == f {
				delete(s.flights, name)
			}
			switch {
			case s.flushes != flushes:
			case e != nil:
				t.put(s, e)
			case drop:
				s.remove(s.m[name])
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

// put adds or replaces a slot and evicts what is too much. Something larger
// than a shard may hold is not remembered.
func (t *table[V]) put(s *shard[V], e *slot[V]) {
	s.remove(s.m[e.key])
	if e.size > t.maxBytes {
		return
	}
	for len(s.m) >= t.maxSlots || s.bytes+e.size > t.maxBytes {
		victim := s.hand
		for victim.used.Swap(false) {
			victim = victim.next
		}
		s.hand = victim
		s.remove(victim)
	}
	s.m[e.key] = e
	s.bytes += e.size
	if s.hand == nil {
		e.prev, e.next = e, e
		s.hand = e
		return
	}
	e.prev, e.next = s.hand.prev, s.hand // last to be looked at
	e.prev.next, e.next.prev = e, e
}

func (s *shard[V]) remove(e *slot[V]) {
	if e == nil {
		return
	}
	delete(s.m, e.key)
	s.bytes -= e.size
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
		for k, e := range s.m {
			if match(k, t.value(e)) {
				s.remove(e)
				dropped++
			}
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
