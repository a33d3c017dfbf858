package fsm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// nightly widens the crash tests. It is asked during a test, so that go test
// does not take the result without it for the one with it.
func nightly() bool { return os.Getenv("POSTERN_NIGHTLY") != "" }

// powerCuts runs a history and, before operations on the disk, takes states
// that a power cut could leave then.
type powerCuts struct {
	t       *testing.T
	seed    uint64
	entries []Entry
	digests map[uint64]store.Sum // by index, of a replica that never crashed
	every   int                  // operations between power cuts
	states  int                  // of each power cut

	disk     *storetest.Disk
	given    atomic.Uint64 // highest index that Apply was called with
	promised atomic.Uint64 // highest index that Flush returned

	mu       sync.Mutex // guards what follows
	rng      *rand.Rand
	visited  int
	distinct map[[2]uint64]bool // by content, and by what was promised then
	lost     int                // states without everything that was applied
	failed   bool
}

func newPowerCuts(t *testing.T, seed uint64, n int) *powerCuts {
	p := &powerCuts{
		t: t, seed: seed, entries: history(t, seed, n), digests: map[uint64]store.Sum{0: {}},
		rng: rand.New(rand.NewPCG(seed, 11)), distinct: map[[2]uint64]bool{},
	}
	whole := newReplica(t)
	for _, e := range p.entries {
		whole.Apply([]Entry{e})
		index, sum := whole.Digest()
		p.digests[index] = sum
	}
	return p
}

// run applies the history to a replica of a small memory, which writes often.
func (p *powerCuts) run() {
	p.disk = storetest.NewDisk()
	p.disk.Watch(p.cut)
	r := startSized(p.t, p.disk, Config{}, 16<<10)
	rng := rand.New(rand.NewPCG(p.seed, 12))
	for at := 0; at < len(p.entries) && !p.t.Failed(); {
		n := min(1+rng.IntN(32), len(p.entries)-at)
		p.given.Store(uint64(at + n))
		r.Apply(p.entries[at : at+n])
		at += n
		switch rng.IntN(40) {
		case 0, 1, 2, 3, 4:
			index, err := r.Flush()
			if err != nil || index != uint64(at) {
				p.t.Error(index, err)
			}
			p.promised.Store(index)
		case 5: // closing writes everything too
			r.stop()
			p.promised.Store(uint64(at))
			r = startSized(p.t, p.disk, Config{}, 16<<10)
		}
	}
	r.stop()
	p.disk.Watch(nil)
}

// cut is told of each operation before it happens.
func (p *powerCuts) cut(op int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed || op%p.every != 0 {
		return
	}
	for i := range p.states {
		percent, seed := p.rng.IntN(101), p.rng.Uint64()
		if i < 2 { // nothing that was not synced, and all of it
			percent = 100 * i
		}
		promised := p.promised.Load()
		after := p.disk.Crash(percent, seed)
		given := p.given.Load()
		p.visited++
		sum, err := after.Sum()
		state := [2]uint64{sum, promised}
		if err == nil && !p.distinct[state] {
			p.distinct[state] = true
			err = p.check(after, promised, given)
		}
		if err != nil {
			p.failed = true
			p.t.Errorf("history %d, power cut before operation %d, %d %% of the rest by seed %d: %v", p.seed, op+1, percent, seed, err)
			return
		}
	}
}

// check opens a state and compares it with the promises: it is the effect of
// the entries up to an index, at least the one promised, and goes on from there
// as if nothing had happened.
func (p *powerCuts) check(disk *storetest.Disk, promised, given uint64) (err error) {
	var fatal error
	note := func(err error) { fatal = errors.Join(fatal, err) }
	rows, err := store.Open("meta", nil, store.Options{FS: disk.FS(), MemTableSize: 256 << 10, CacheSize: 1 << 20, OnDiskFailure: note})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close(), fatal) }()
	f, err := New(Config{Store: rows, Fatal: note})
	if err != nil {
		return err
	}
	defer f.Close()
	index, digest := f.Digest()
	switch {
	case index < promised:
		return fmt.Errorf("entry %d was flushed, found %d", promised, index)
	case index > given:
		return fmt.Errorf("found entry %d, only %d were given", index, given)
	case digest != p.digests[index]:
		return fmt.Errorf("the digest at entry %d was never there", index)
	}
	sum, err := rows.Verify()
	if err != nil {
		return err
	}
	if sum != digest {
		return fmt.Errorf("digest %v, of the rows %v", digest, sum)
	}
	if index < given {
		p.lost++
	}
	rest := p.entries[index:]
	if p.rng.IntN(20) > 0 {
		rest = rest[:min(len(rest), 10)]
	}
	f.Apply(rest)
	if now, digest := f.Digest(); digest != p.digests[now] || now != index+uint64(len(rest)) {
		return fmt.Errorf("replayed from %d, the digest at entry %d differs", index, now)
	}
	return nil
}

// TestCrashStates holds metadata to its promises over power cuts before each
// operation on the disk, with different parts of what was not synced.
func TestCrashStates(t *testing.T) {
	histories, entries, every, states := 2, 400, 2, 3
	if nightly() {
		histories, entries, every, states = 6, 1200, 1, 6
	}
	var visited, distinct, lost atomic.Int64
	t.Run("history", func(t *testing.T) {
		for seed := range histories {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				p := newPowerCuts(t, 200+uint64(seed), entries)
				p.every, p.states = every, states
				p.run()
				visited.Add(int64(p.visited))
				distinct.Add(int64(len(p.distinct)))
				lost.Add(int64(p.lost))
			})
		}
	})
	t.Logf("%d crash states, %d of them distinct, %d without everything that was applied", visited.Load(), distinct.Load(), lost.Load())
	if distinct.Load() < 100 || lost.Load() == 0 {
		t.Error("the test tests nothing")
	}
}

// TestCrashStatesCanFail shows that the check sees metadata that lost what a
// flush had promised, and a state that was never there.
func TestCrashStatesCanFail(t *testing.T) {
	p := newPowerCuts(t, 300, 60)
	r := start(t, storetest.NewDisk(), Config{})
	defer r.stop()
	r.Apply(p.entries[:30])
	if _, err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := p.check(r.disk.Crash(0, 1), 30, 30); err != nil {
		t.Fatal(err)
	}
	if p.check(r.disk.Crash(0, 1), 31, 31) == nil {
		t.Error("a lost entry was not noticed")
	}
	p.digests[30] = p.digests[1]
	if p.check(r.disk.Crash(0, 1), 30, 30) == nil {
		t.Error("another state was not noticed")
	}
}
