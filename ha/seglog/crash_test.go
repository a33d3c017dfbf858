package seglog

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// nightly widens the crash tests. It is asked during a test, so that go test
// does not take the result without it for the one with it.
func nightly() bool { return os.Getenv("POSTERN_NIGHTLY") != "" }

var scriptFlag = flag.Uint64("seglog.script", 0, "run only this script of the crash test")

// crashRun drives a log and knows what it may hold after a crash.
type crashRun struct {
	log   *Log
	cfg   Config
	rng   *rand.Rand
	term  uint64 // a new one for each batch, so that every attempt is distinct
	floor uint64

	first uint64
	next  uint64      // index of the next entry, above 1 after the log was emptied
	acked []*raft.Log // StoreLogs returned nil and DeleteRange has not touched them
	tail  []*raft.Log // may be there or not, a prefix of it: being written or being discarded
	whole bool        // tail is all or nothing
}

func (r *crashRun) last() uint64 {
	if len(r.acked) == 0 {
		return 0
	}
	return r.acked[len(r.acked)-1].Index
}

// empty discards the whole log, as raft does after it has taken a snapshot,
// and goes on some entries later.
func (r *crashRun) empty() error {
	first, err := r.log.FirstIndex()
	if err != nil {
		return err
	}
	last := r.last()
	r.acked, r.tail, r.whole = nil, r.acked, true
	if err := r.log.DeleteRange(first, last); err != nil {
		return err
	}
	r.tail, r.whole = nil, false
	r.next = last + 1 + r.rng.Uint64N(100)
	r.first = r.next
	return nil
}

// step does one random thing and returns its error.
func (r *crashRun) step() error {
	switch k := r.rng.IntN(41); {
	case k == 40 && len(r.acked) > 2:
		return r.empty()
	case k < 28 || len(r.acked) < 3:
		return r.store()
	case k < 32:
		from := r.acked[len(r.acked)-1-r.rng.IntN(min(len(r.acked)-1, 12))].Index
		if from <= r.first {
			return nil // applied entries are never discarded
		}
		i := len(r.acked) - int(r.last()-from) - 1
		old := r.acked[i:]
		last := r.last()
		r.acked, r.tail = r.acked[:i:i], old
		if err := r.log.DeleteRange(from, last); err != nil {
			return err
		}
		r.tail, r.next = nil, from
		return nil
	case k < 36:
		first, err := r.log.FirstIndex()
		if err != nil || first+2 > r.last() {
			return err
		}
		to := first + r.rng.Uint64N(r.last()-first)
		r.floor = max(r.floor, to)
		r.log.SetFloor(to)
		r.first = max(r.first, to)
		return r.log.DeleteRange(first, to)
	default:
		if err := r.log.Close(); err != nil {
			return err
		}
		l, err := Open(r.cfg)
		if err != nil {
			return err
		}
		r.log = l
		return nil
	}
}

func (r *crashRun) store() error {
	r.term++
	b := batch(r.next, r.term, 1+r.rng.IntN(4), r.rng.IntN(1800))
	r.tail = b
	if err := r.log.StoreLogs(b); err != nil {
		return err
	}
	r.acked, r.tail = append(r.acked, b...), nil
	r.next = r.last() + 1
	return nil
}

// check compares a reopened log with what may be there, and takes what is
// there for the truth.
func (r *crashRun) check(l *Log) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if last < r.last() {
		return fmt.Errorf("acknowledged up to %d, there up to %d", r.last(), last)
	}
	if last > 0 && first > max(r.first, 1) {
		return fmt.Errorf("first index %d, at most %d was asked for", first, r.first)
	}
	all := append(r.acked[:len(r.acked):len(r.acked)], r.tail...)
	if last == 0 {
		if err := l.GetLog(r.next, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("entry %d of an empty log: %w", r.next, err)
		}
		if r.whole {
			r.next, r.first = all[len(all)-1].Index+1, all[len(all)-1].Index+1
		}
		r.acked, r.tail, r.whole = nil, nil, false
		return nil
	}
	if len(all) == 0 || last < all[0].Index || last > all[len(all)-1].Index || r.whole && last != all[len(all)-1].Index {
		return fmt.Errorf("entries up to %d; %d acknowledged, %d more possible", last, len(r.acked), len(r.tail))
	}
	all = all[:last-all[0].Index+1]
	for _, want := range all {
		i := want.Index
		if i >= first {
			var e raft.Log
			if err := l.GetLog(i, &e); err != nil {
				return fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
			}
			if !same(&e, want) {
				return fmt.Errorf("entry %d of term %d resurfaced, want term %d", i, e.Term, want.Term)
			}
		} else if r.cfg.Trim == Keep {
			if data, err := l.ReadEntry(i, nil); err != nil || !bytes.Equal(data, want.Data) {
				return fmt.Errorf("body %d: %w", i, err)
			}
		}
	}
	if err := l.GetLog(last+1, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		return fmt.Errorf("entry %d past the end: %w", last+1, err)
	}
	if first < all[0].Index {
		if err := l.GetLog(first, new(raft.Log)); err == nil {
			return fmt.Errorf("entry %d of an emptied log is back", first)
		}
	}
	r.acked, r.tail, r.whole, r.next = all, nil, false, last+1
	return nil
}

// kill ends a log without giving it time for anything.
func kill(l *Log, disk *faultfs.FS) {
	disk.CrashAfter(disk.Ops())
	_ = l.Close() // fails
}

// crashScript runs one random script, crashes it after each operation, and
// each result again some steps later. It returns the number of states checked,
// and adds their hashes to seen.
func crashScript(t *testing.T, script uint64, seeds int, seen map[uint64]bool) int {
	// Half of the scripts have background work done when it comes, the others on
	// the spot, which is the same each time.
	trim, inline := TrimMode(script%2), script%4 < 2
	states := 0
	for n := 1; ; n++ {
		fsys := faultfs.New(script)
		rng := rand.New(rand.NewPCG(script, 7))
		cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 8 << 10, CacheBytes: -1, OpenFiles: 3, Trim: trim, inline: inline, salt: locked(rand.New(rand.NewPCG(script, 8)))}
		r := &crashRun{cfg: cfg, rng: rng, next: 1}
		fsys.CrashAfter(n)
		err := r.run(25)
		if err != nil && !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatalf("script %d, crash after %d: %v", script, n, err)
		}
		if r.log != nil {
			kill(r.log, fsys)
		}
		for seed := range uint64(seeds) {
			disk, again := fsys, *r
			for depth := range 3 {
				disk = disk.Crash(seed + 1000*uint64(n))
				again.rng = rand.New(rand.NewPCG(seed+1000*uint64(n), uint64(depth)))
				again.cfg.FS, again.cfg.salt = disk, locked(rand.New(rand.NewPCG(seed, uint64(10*n+depth))))
				seen[disk.Sum()] = true
				l, oerr := Open(again.cfg)
				if oerr == nil {
					oerr = again.check(l)
				}
				if oerr != nil {
					t.Fatalf("script %d, crash after %d, seed %d, crash %d: %v", script, n, seed, depth+1, oerr)
				}
				states++
				again.log = l
				l.SetFloor(again.floor)
				disk.CrashAfter(disk.Ops() + 1 + again.rng.IntN(20))
				for range 6 {
					if err := again.step(); err != nil {
						break
					}
				}
				kill(again.log, disk)
			}
		}
		if err == nil {
			return states
		}
	}
}

// locked makes salts for a log with background work.
func locked(rng *rand.Rand) func() uint64 {
	var mu sync.Mutex
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Uint64()
	}
}

func (r *crashRun) run(steps int) error {
	var err error
	if r.log, err = Open(r.cfg); err != nil {
		return err
	}
	for range steps {
		if err := r.step(); err != nil {
			return err
		}
	}
	return r.log.Close()
}

// TestCrash holds the log to its promise over every crash point of random
// scripts of stores, discards, trims and restarts.
func TestCrash(t *testing.T) {
	scripts, seeds := 4, 2
	if nightly() {
		scripts, seeds = 20, 6
	}
	states, seen := 0, map[uint64]bool{}
	if *scriptFlag > 0 {
		crashScript(t, *scriptFlag, 8, seen)
		return
	}
	for script := range scripts {
		states += crashScript(t, uint64(script+1), seeds, seen)
	}
	t.Logf("%d crash states, %d of them distinct", states, len(seen))
	if len(seen) < 500 {
		t.Error("the test tests nothing")
	}
}

// TestCrashAfterGap tears the first batch after a gap, stores it again and
// opens the log once more: the new segment knows of the gap too.
func TestCrashAfterGap(t *testing.T) {
	torn := 0
	for seed := range uint64(60) {
		fsys := faultfs.New(seed)
		cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 16 << 10, inline: true}
		l := open(t, cfg)
		must(t, l.StoreLogs(batch(1, 1, 5, 100)))
		must(t, l.DeleteRange(1, 5))
		fsys.CrashAfter(fsys.Ops() + 1)
		if err := l.StoreLogs(batch(96, 2, 3, 3000)); err == nil {
			t.Fatal("stored on a dead disk")
		}
		cfg.FS = fsys.Crash(seed)
		l = open(t, cfg)
		if last, _ := l.LastIndex(); last == 0 {
			torn++
			must(t, l.StoreLogs(batch(96, 3, 3, 3000)))
		}
		must(t, l.Close())
		l, err := Open(cfg)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if first, _ := l.FirstIndex(); first != 96 {
			t.Errorf("seed %d: first index %d", seed, first)
		}
		must(t, l.Close())
	}
	if torn == 0 {
		t.Error("no batch was torn")
	}
}

// TestKilled ends the process after each operation, opens the log, and cuts
// the power then: all that Open showed is there, written by whomever.
func TestKilled(t *testing.T) {
	scripts, states := 4, 0
	if nightly() {
		scripts = 20
	}
	for script := range uint64(scripts) {
		for n, err := 1, error(faultfs.ErrCrashed); err != nil; n++ {
			fsys := faultfs.New(script)
			cfg := Config{
				Dir: "/log", FS: fsys, SegmentSize: 8 << 10, CacheBytes: -1, Trim: TrimMode(script % 2),
				inline: script%4 < 2, salt: locked(rand.New(rand.NewPCG(script, 8))),
			}
			r := &crashRun{cfg: cfg, rng: rand.New(rand.NewPCG(script, 7)), next: 1}
			fsys.CrashAfter(n)
			if err = r.run(25); r.log != nil {
				kill(r.log, fsys)
			}
			fsys.CrashAfter(1 << 40)
			l, oerr := Open(cfg)
			if oerr == nil {
				oerr = r.check(l)
			}
			if oerr != nil {
				t.Fatalf("script %d, killed after %d: %v", script, n, oerr)
			}
			kill(l, fsys)
			for seed := range uint64(4) {
				states++
				again := *r
				again.cfg.FS = fsys.Crash(seed)
				if l, oerr = Open(again.cfg); oerr == nil {
					oerr = again.check(l)
				}
				if oerr != nil {
					t.Fatalf("script %d, killed after %d, power cut, seed %d: %v", script, n, seed, oerr)
				}
				must(t, l.Close())
			}
		}
	}
	t.Logf("%d crash states", states)
}
