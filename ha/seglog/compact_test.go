package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// trimmedLog makes a log of n entries in small segments, all but the last few
// of which may be compacted.
func trimmedLog(t testing.TB, cfg Config, n uint64) *Log {
	t.Helper()
	l := open(t, cfg)
	for i := uint64(1); i <= n; i += 4 {
		must(t, l.StoreLogs(batch(i, 1, 4, 700)))
	}
	l.SetFloor(n - 2)
	must(t, l.DeleteRange(1, n-3))
	return l
}

// readState compares a log of n entries with what compaction of the segment
// may leave: frames that were wanted, and the others all or none.
func readState(l *Log, n uint64, s Segment, keep func(uint64) bool) (compacted bool, err error) {
	there, gone := 0, 0
	for i := uint64(1); i <= n; i++ {
		data, err := l.ReadEntry(i, nil)
		switch inside := i >= s.Base && i <= s.Last; {
		case err == nil && !bytes.Equal(data, entry(i, 1, 700).Data):
			return false, fmt.Errorf("entry %d has other octets", i)
		case err == nil && inside && !keep(i):
			there++
		case inside && !keep(i) && errors.Is(err, raft.ErrLogNotFound):
			gone++
		case err != nil:
			return false, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	if there > 0 && gone > 0 {
		return false, fmt.Errorf("%d dropped entries are there and %d are not", there, gone)
	}
	return gone > 0, nil
}

func third(i uint64) bool { return i%3 == 0 }

func TestCompact(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentSize: 16 << 10, CacheBytes: -1, OpenFiles: 2}
	const n = 200
	l := trimmedLog(t, cfg, n)
	must(t, l.Close())
	l = open(t, cfg) // everything but the last segment is sealed now
	l.SetFloor(n - 2)
	segs := l.Segments()
	if len(segs) < 5 || !segs[1].Trimmed || segs[len(segs)-1].Trimmed {
		t.Fatalf("segments %+v", segs)
	}
	if _, err := l.Compact(segs[len(segs)-1].Base, third, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("compact of the last segment: %v", err)
	}
	if at := l.NewestTime(segs[1]); !at.Equal(entry(segs[1].Last, 1, 1).AppendedAt) {
		t.Errorf("newest time %v", at)
	}
	for gen, keep := range []func(uint64) bool{third, func(i uint64) bool { return i%6 == 0 }, func(uint64) bool { return false }} {
		paced := 0
		for _, s := range segs {
			if !s.Trimmed {
				continue
			}
			c, err := l.Compact(s.Base, keep, func(n int) error { paced += n; return nil })
			if err != nil || c.After >= c.Before && gen < 2 {
				t.Fatalf("compact %+v: %+v, %v", s, c, err)
			}
		}
		if paced == 0 {
			t.Error("the pace was not asked")
		}
		for range 2 {
			for _, s := range l.Segments() {
				for i := s.Base; i <= s.Last; i++ {
					data, err := l.ReadEntry(i, nil)
					if want := s.Generation == 0 || keep(i); want != (err == nil) || err != nil && !errors.Is(err, raft.ErrLogNotFound) {
						t.Fatalf("generation %d, entry %d: %v", gen+1, i, err)
					} else if want && !bytes.Equal(data, entry(i, 1, 700).Data) {
						t.Fatalf("entry %d differs", i)
					}
				}
				if s.Trimmed && s.Generation != uint64(gen+1) {
					t.Errorf("segment %+v after compaction %d", s, gen+1)
				}
			}
			must(t, l.Close())
			l = open(t, cfg)
			l.SetFloor(n - 2)
		}
	}
	if first, _ := l.FirstIndex(); first != n-2 {
		t.Errorf("first index %d", first)
	}
	must(t, l.StoreLogs(batch(n+1, 2, 3, 10)))
	must(t, l.Close())
}

// TestCompactWithoutTable reads a compacted segment whose table is damaged.
func TestCompactWithoutTable(t *testing.T) {
	fsys := faultfs.New(1)
	cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 16 << 10, CacheBytes: -1, inline: true}
	l := trimmedLog(t, cfg, 100)
	s := l.Segments()[0]
	_, err := l.Compact(s.Base, third, nil)
	must(t, err)
	name := "/log/" + (&header{base: s.Base, gen: 1}).name()
	must(t, l.Close())
	f, err := fsys.OpenFile(name, 2, 0)
	must(t, err)
	size, err := f.Size()
	must(t, err)
	flip(t, f, size-sealSize-3)
	l = open(t, cfg)
	if done, err := readState(l, 100, s, third); err != nil || !done {
		t.Error(done, err)
	}
	must(t, l.Close())
	flip(t, f, size-3) // now the seal too
	if _, err := Open(cfg); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a compacted segment without its seal: %v", err)
	}
}

func flip(t testing.TB, f fsx.File, off int64) {
	t.Helper()
	b := make([]byte, 1)
	_, err := f.ReadAt(b, off)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Sync())
}

// TestCompactCrash cuts the power after each step of a compaction, in many
// ways: no wanted frame is ever lost, and once Compact has returned nothing
// that it dropped comes back.
func TestCompactCrash(t *testing.T) {
	const n = 80
	seeds := uint64(40)
	if nightly() {
		seeds = 400
	}
	states, old, both := 0, 0, 0
	seen := map[uint64]bool{}
	for steps := 0; ; steps++ {
		fsys := faultfs.New(1)
		cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 16 << 10, CacheBytes: -1, inline: true, salt: locked(newRand(5))}
		l := trimmedLog(t, cfg, n)
		s := l.Segments()[1]
		fsys.CrashAfter(fsys.Ops() + steps)
		_, cerr := l.Compact(s.Base, third, nil)
		ended := cerr == nil && steps > 8
		kill(l, fsys)
		for seed := range seeds {
			disk := fsys.Crash(seed)
			seen[disk.Sum()] = true
			names, err := disk.ReadDir("/log")
			must(t, err)
			if countSegments(names, s.Base) > 1 {
				both++
			}
			for again := range 2 { // the second time nothing is left to tidy up
				cfg.FS = disk
				l, err := Open(cfg)
				if err != nil {
					t.Fatalf("power cut after step %d, seed %d: %v", steps, seed, err)
				}
				states++
				done, err := readState(l, n, s, third)
				if err != nil || cerr == nil && !done {
					t.Fatalf("power cut after step %d, seed %d: compacted %v, returned %v: %v", steps, seed, done, cerr, err)
				}
				if !done {
					old++
				}
				must(t, l.Close())
				names, err := disk.ReadDir("/log")
				must(t, err)
				if c := countSegments(names, s.Base); c != 1 {
					t.Fatalf("step %d, seed %d, open %d: %d files of one segment: %v", steps, seed, again, c, names)
				}
			}
		}
		if ended {
			break
		}
	}
	t.Logf("%d crash states, %d distinct; %d with the old segment, %d with both files", states, len(seen), old, both)
	if old == 0 || both == 0 || len(seen) < 10 {
		t.Error("the test tests nothing")
	}
}

func countSegments(names []string, base uint64) (n int) {
	for _, name := range names {
		if isSegment(name) && strings.Contains(name, fmt.Sprintf("%016x-", base)) {
			n++
		}
	}
	return n
}

// TestCompactHeld refuses to replace files while somebody reads them by name.
func TestCompactHeld(t *testing.T) {
	l := trimmedLog(t, Config{Dir: "/log", FS: faultfs.New(1), SegmentSize: 16 << 10, inline: true}, 80)
	defer l.Close()
	s := l.Segments()[1]
	release := l.Hold()
	if _, err := l.Compact(s.Base, third, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("compacted while held: %v", err)
	}
	release()
	release()
	stop := errors.New("stop")
	if _, err := l.Compact(s.Base, third, func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped by the pace: %v", err)
	}
	if c, err := l.Compact(s.Base, third, nil); err != nil || c.Kept == 0 {
		t.Error(c, err)
	}
}

// TestCompactWhileReading reads beside compaction; nobody sees an error.
func TestCompactWhileReading(t *testing.T) {
	const n = 400
	l := trimmedLog(t, Config{Dir: t.TempDir(), SegmentSize: 16 << 10, CacheBytes: -1, OpenFiles: 2}, n)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for r := range 3 {
		wg.Go(func() {
			for i := uint64(3 * (r + 1)); ; i = i%(n-9) + 3 {
				select {
				case <-stop:
					return
				default:
				}
				if data, err := l.ReadEntry(i-i%3, nil); i >= 3 && (err != nil || !bytes.Equal(data, entry(i-i%3, 1, 700).Data)) {
					t.Errorf("entry %d: %v", i-i%3, err)
					return
				}
			}
		})
	}
	for range 3 {
		for _, s := range l.Segments() {
			if s.Trimmed {
				_, err := l.Compact(s.Base, third, nil)
				must(t, err)
			}
		}
	}
	close(stop)
	wg.Wait()
	must(t, l.Close())
}

// hookFS calls before with the name of each file that is opened.
type hookFS struct {
	fsx.FS
	before func(name string)
}

func (h *hookFS) OpenFile(name string, flag int, perm fs.FileMode) (fsx.File, error) {
	h.before(name)
	return h.FS.OpenFile(name, flag, perm)
}

// TestCompactBeforeOpening has a segment replaced after a reader has found it and
// before it has opened the file.
func TestCompactBeforeOpening(t *testing.T) {
	hook := &hookFS{FS: fsx.OS, before: func(string) {}}
	l := trimmedLog(t, Config{Dir: t.TempDir(), FS: hook, SegmentSize: 16 << 10, CacheBytes: -1, OpenFiles: 2, inline: true}, 400)
	replaced := 0
	for _, s := range l.Segments() {
		index := (s.Base + 2) / 3 * 3
		if !s.Trimmed || index > s.Last {
			continue
		}
		// Others are opened, so that this one is not.
		for i := uint64(300); i < 400; i += 12 {
			_, err := l.ReadEntry(i, nil)
			must(t, err)
		}
		hook.before = func(name string) {
			hook.before = func(string) {}
			if !strings.HasSuffix(name, segSuffix) {
				t.Errorf("%s is opened", name)
			}
			_, err := l.Compact(s.Base, third, nil)
			must(t, err)
			replaced++
		}
		if data, err := l.ReadEntry(index, nil); err != nil || !bytes.Equal(data, entry(index, 1, 700).Data) {
			t.Errorf("entry %d: %v", index, err)
		}
		hook.before = func(string) {}
	}
	if replaced < 5 {
		t.Errorf("%d segments were replaced", replaced)
	}
	must(t, l.Close())
}

// TestCompactModel compares a log that is stored to, trimmed, compacted,
// reopened and crashed with a map.
func TestCompactModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fsys := faultfs.New(1)
		cfg := Config{Dir: "/log", FS: fsys, SegmentSize: 8 << 10, CacheBytes: -1, OpenFiles: 2, inline: true}
		l, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { l.Close() }()
		live, last, floor := map[uint64]bool{}, uint64(0), uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"store": func(t *rapid.T) {
				b := batch(last+1, 1, rapid.IntRange(1, 8).Draw(t, "n"), rapid.IntRange(0, 1500).Draw(t, "size"))
				if err := l.StoreLogs(b); err != nil {
					t.Fatal(err)
				}
				for _, e := range b {
					live[e.Index], last = true, e.Index
				}
			},
			"trim": func(t *rapid.T) {
				if last < 2 {
					return
				}
				floor = max(floor, uint64(rapid.IntRange(1, int(last)).Draw(t, "floor")))
				l.SetFloor(floor)
				first, _ := l.FirstIndex()
				if floor-1 >= first {
					if err := l.DeleteRange(first, floor-1); err != nil {
						t.Fatal(err)
					}
				}
			},
			"compact": func(t *rapid.T) {
				segs := l.Segments()
				if len(segs) == 0 {
					return
				}
				s := segs[rapid.IntRange(0, len(segs)-1).Draw(t, "segment")]
				if !s.Trimmed {
					return
				}
				mod := uint64(rapid.IntRange(1, 5).Draw(t, "mod"))
				if _, err := l.Compact(s.Base, func(i uint64) bool { return i%mod == 0 && live[i] }, nil); err != nil {
					t.Fatal(err)
				}
				for i := s.Base; i <= s.Last; i++ {
					live[i] = live[i] && i%mod == 0
				}
			},
			"reopen": func(t *rapid.T) {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				fsys = fsys.Crash(rapid.Uint64().Draw(t, "seed"))
				cfg.FS = fsys
				if l, err = Open(cfg); err != nil {
					t.Fatal(err)
				}
				l.SetFloor(floor)
			},
			"": func(t *rapid.T) {
				for i := uint64(1); i <= last; i++ {
					_, err := l.ReadEntry(i, nil)
					if live[i] != (err == nil) || err != nil && !errors.Is(err, raft.ErrLogNotFound) {
						t.Fatalf("entry %d, live %v: %v", i, live[i], err)
					}
				}
			},
		})
	})
}

// TestReadOnly opens a copy, changes nothing, and takes nothing.
func TestReadOnly(t *testing.T) {
	fsys := faultfs.New(1)
	l := trimmedLog(t, Config{Dir: "/log", FS: fsys, SegmentSize: 16 << 10, inline: true}, 100)
	_, err := l.Compact(1, third, nil)
	must(t, err)
	last, err := l.CopyTo("/copy")
	must(t, err)
	must(t, l.StoreLogs(batch(101, 1, 2, 10)))
	must(t, l.Close())
	ops := fsys.Ops()
	r := open(t, Config{Dir: "/copy", FS: fsys, ReadOnly: true, CacheBytes: -1})
	for i := uint64(1); i <= last; i++ {
		term, data, err := r.Command(i, nil)
		switch e := entry(i, 1, 700); {
		case errors.Is(err, raft.ErrLogNotFound) && i < 30 && i%3 != 0:
		case err != nil:
			t.Errorf("entry %d: %v", i, err)
		case term != 1 || e.Type == raft.LogCommand && !bytes.Equal(data, e.Data) || e.Type != raft.LogCommand && data != nil:
			t.Errorf("entry %d: term %d, %d octets", i, term, len(data))
		}
	}
	if r.StoreLog(entry(last+1, 1, 1)) == nil || r.DeleteRange(1, last) == nil || r.Repair(1, nil) == nil {
		t.Error("a copy was changed")
	}
	if last != 100 {
		t.Errorf("last entry %d", last)
	}
	must(t, r.Close())
	if fsys.Ops() != ops {
		t.Errorf("%d operations changed the disk", fsys.Ops()-ops)
	}
}
