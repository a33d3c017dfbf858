package seglog

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// nightly widens the crash tests. Set POSTERN_NIGHTLY=1.
var nightly = os.Getenv("POSTERN_NIGHTLY") != ""

var scriptFlag = flag.Uint64("seglog.script", 0, "run only this script of the crash test")

// crashRun drives a log and knows what it may hold after a crash.
type crashRun struct {
	log   *Log
	cfg   Config
	rng   *rand.Rand
	term  uint64 // a new one for each batch, so that every attempt is distinct
	floor uint64

	first uint64
	acked []*raft.Log // StoreLogs returned nil and DeleteRange has not touched them
	tail  []*raft.Log // may be there or not, a prefix of it: being written or being discarded
}

func (r *crashRun) last() uint64 {
	if len(r.acked) == 0 {
		return 0
	}
	return r.acked[len(r.acked)-1].Index
}

// step does one random thing and returns its error.
func (r *crashRun) step() error {
	switch k := r.rng.IntN(20); {
	case k < 14 || len(r.acked) < 3:
		return r.store()
	case k < 16:
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
		r.tail = nil
		return nil
	case k < 18:
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
	b := batch(r.last()+1, r.term, 1+r.rng.IntN(4), r.rng.IntN(1800))
	r.tail = b
	if err := r.log.StoreLogs(b); err != nil {
		return err
	}
	r.acked, r.tail = append(r.acked, b...), nil
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
	if last > uint64(len(all)) {
		return fmt.Errorf("entry %d was never stored; %d acknowledged, %d more possible", last, r.last(), len(r.tail))
	}
	for i := uint64(1); i <= last; i++ {
		want := all[i-1]
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
	r.acked, r.tail = all[:last:last], nil
	return nil
}

// crashScript runs one random script, crashes it after each operation, and
// each result again some steps later. It returns the number of states checked.
func crashScript(t *testing.T, script uint64, seeds int) int {
	trim := TrimMode(script % 2)
	states := 0
	for n := 1; ; n++ {
		fsys := faultfs.New(script)
		rng := rand.New(rand.NewPCG(script, 7))
		cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 8 << 10, CacheBytes: -1, OpenFiles: 3, Trim: trim, inline: true, salt: rng.Uint64}
		r := &crashRun{cfg: cfg, rng: rng}
		fsys.CrashAfter(n)
		err := r.run(25)
		if err != nil && !errors.Is(err, faultfs.ErrCrashed) {
			t.Fatalf("script %d, crash after %d: %v", script, n, err)
		}
		for seed := range uint64(seeds) {
			disk, again := fsys, *r
			for depth := range 3 {
				disk = disk.Crash(seed + 1000*uint64(n))
				again.rng = rand.New(rand.NewPCG(seed+1000*uint64(n), uint64(depth)))
				again.cfg.FS, again.cfg.salt = disk, again.rng.Uint64
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
			}
		}
		if err == nil {
			return states
		}
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
	scripts, seeds := 4, 3
	if nightly {
		scripts, seeds = 120, 8
	}
	if *scriptFlag > 0 {
		crashScript(t, *scriptFlag, 8)
		return
	}
	states := 0
	for script := range scripts {
		states += crashScript(t, uint64(script+1), seeds)
	}
	t.Logf("%d crash states checked", states)
	if states < 1000 {
		t.Errorf("only %d crash states", states)
	}
}
