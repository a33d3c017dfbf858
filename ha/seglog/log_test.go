package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry makes an entry whose data depends on index and term alone.
func entry(index, term uint64, size int) *raft.Log {
	rng := rand.New(rand.NewPCG(index, term))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	e := &raft.Log{Index: index, Term: term, Data: data, AppendedAt: time.Unix(0, int64(1e18+index))}
	if index%7 == 0 {
		e.Type = raft.LogNoop
	}
	if index%5 == 0 {
		e.Extensions = []byte("ext")
	}
	return e
}

func batch(first, term uint64, n, size int) []*raft.Log {
	logs := make([]*raft.Log, n)
	for i := range logs {
		logs[i] = entry(first+uint64(i), term, size)
	}
	return logs
}

func same(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStoreAndRead(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), SegmentSize: 64 << 10, CacheBytes: 20 << 10, OpenFiles: 2}
	l := open(t, cfg)
	var want []*raft.Log
	next := uint64(1)
	for i := range 60 {
		b := batch(next, 3, 1+i%5, 1+i*113%5000)
		must(t, l.StoreLogs(b))
		want = append(want, b...)
		next += uint64(len(b))
	}
	big := entry(next, 3, 200<<10) // larger than a segment
	must(t, l.StoreLog(big))
	want = append(want, big)
	check := func() {
		t.Helper()
		var buf []byte
		for _, w := range want {
			var e raft.Log
			must(t, l.GetLog(w.Index, &e))
			if !same(w, &e) {
				t.Fatalf("entry %d differs", w.Index)
			}
			data, err := l.ReadEntry(w.Index, buf)
			if err != nil || !bytes.Equal(data, w.Data) {
				t.Fatalf("ReadEntry(%d): %d bytes, %v", w.Index, len(data), err)
			}
			buf = data
			must(t, l.Meta(w.Index, &e))
			if e.Term != w.Term || e.Type != w.Type || e.Index != w.Index {
				t.Fatalf("Meta(%d) = %v", w.Index, e)
			}
		}
		first, _ := l.FirstIndex()
		last, _ := l.LastIndex()
		if first != 1 || last != big.Index {
			t.Errorf("range %d to %d, want 1 to %d", first, last, big.Index)
		}
	}
	check()
	if s := l.Stats(); s.Syncs != s.Batches || s.Batches != 61 {
		t.Errorf("%d batches took %d flushes", s.Batches, s.Syncs)
	}
	if len(l.open) > 2 {
		t.Errorf("%d sealed segments open", len(l.open))
	}
	must(t, l.Close())
	if err := l.StoreLog(entry(next+1, 3, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("StoreLog after Close: %v", err)
	}
	l = open(t, cfg)
	check()
	must(t, l.StoreLog(entry(next+1, 4, 9)))
	must(t, l.Close())
}

func TestOrder(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), SegmentSize: 1 << 16})
	defer l.Close()
	must(t, l.StoreLogs(batch(1, 1, 3, 10)))
	for name, b := range map[string][]*raft.Log{
		"again": batch(3, 1, 1, 1), "gap": batch(5, 1, 1, 1), "inner gap": {entry(4, 1, 1), entry(6, 1, 1)},
		"zero": batch(0, 1, 1, 1),
	} {
		if err := l.StoreLogs(b); !errors.Is(err, ErrGap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.StoreLog(&raft.Log{Index: 4, Extensions: make([]byte, 1<<16)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("extensions too large: %v", err)
	}
	if err := l.GetLog(4, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("GetLog past the end: %v", err)
	}
	must(t, l.StoreLogs(batch(4, 1, 1, 1)))
}

func TestFloor(t *testing.T) {
	for _, trim := range []TrimMode{Keep, Recycle} {
		l := open(t, Config{Dir: t.TempDir(), SegmentSize: 16 << 10, CacheBytes: -1, Trim: trim})
		for i := range uint64(100) {
			must(t, l.StoreLog(entry(1+i, 1, 1000)))
		}
		must(t, l.DeleteRange(1, 50))
		if first, _ := l.FirstIndex(); first != 1 {
			t.Errorf("trimmed to %d without a floor", first)
		}
		l.SetFloor(40)
		must(t, l.DeleteRange(1, 50))
		if first, _ := l.FirstIndex(); first != 40 {
			t.Errorf("first index %d, want the floor 40", first)
		}
		var e raft.Log
		if err := l.GetLog(39, &e); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("GetLog below the first index: %v", err)
		}
		must(t, l.GetLog(40, &e))
		_, err := l.ReadEntry(1, nil)
		if kept := err == nil; kept != (trim == Keep) {
			t.Errorf("trim %v: ReadEntry(1): %v", trim, err)
		}
		must(t, l.Close())
		l = open(t, l.cfg)
		if first, _ := l.FirstIndex(); first != 40 {
			t.Errorf("first index %d after Open", first)
		}
		must(t, l.Close())
	}
}

func TestRecycle(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: 16 << 10, Trim: Recycle})
	for i := range uint64(2000) {
		must(t, l.StoreLog(entry(1+i, 1, 1000)))
		if i > 10 {
			l.SetFloor(i - 5)
			must(t, l.DeleteRange(1, i-3))
		}
	}
	must(t, l.Close())
	names, err := os.ReadDir(dir)
	must(t, err)
	if len(names) > 7 {
		t.Errorf("%d files are left: %v", len(names), names)
	}
	l = open(t, l.cfg)
	for i := uint64(1994); i <= 2000; i++ {
		var e raft.Log
		must(t, l.GetLog(i, &e))
		if !same(&e, entry(i, 1, 1000)) {
			t.Errorf("entry %d differs", i)
		}
	}
	must(t, l.Close())
}

// model is what a log should be: a map.
type model struct {
	first, last uint64
	logs        map[uint64]*raft.Log // durable frames, logical or not
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fsys := faultfs.New(1)
		cfg := Config{
			Dir: "/log", FS: fsys, SegmentSize: 8 << 10, CacheBytes: rapid.SampledFrom([]int64{-1, 3000, 1 << 20}).Draw(t, "cache"),
			OpenFiles: 1, Trim: rapid.SampledFrom([]TrimMode{Keep, Recycle}).Draw(t, "trim"),
			inline: rapid.Bool().Draw(t, "inline"),
		}
		l, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { l.Close() }()
		m := model{logs: map[uint64]*raft.Log{}}
		term, floor := uint64(1), uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"cache": func(t *rapid.T) {
				n := rapid.SampledFrom([]int64{-1, 0, 3000, 1 << 20}).Draw(t, "octets")
				l.SetCache(n)
				if l.cache.size > max(n, 0) {
					t.Fatalf("%d octets in a memory of %d", l.cache.size, n)
				}
			},
			"store": func(t *rapid.T) {
				next := m.last + 1
				if m.last == 0 && rapid.Bool().Draw(t, "jump") {
					next = uint64(rapid.IntRange(1, 500).Draw(t, "to"))
				}
				b := batch(next, term, rapid.IntRange(1, 6).Draw(t, "n"), rapid.IntRange(0, 3000).Draw(t, "size"))
				if err := l.StoreLogs(b); err != nil {
					t.Fatal(err)
				}
				if m.first == 0 {
					m.first = next
				}
				for i := range m.logs {
					if i >= next { // below the first index, before the log was emptied
						delete(m.logs, i)
					}
				}
				for _, e := range b {
					m.logs[e.Index], m.last = e, e.Index
				}
			},
			"prefix": func(t *rapid.T) {
				if m.last < 2 || m.first == m.last {
					return
				}
				floor = max(floor, uint64(rapid.IntRange(int(m.first), int(m.last)).Draw(t, "floor")))
				l.SetFloor(floor)
				to := uint64(rapid.IntRange(int(m.first), int(m.last-1)).Draw(t, "to"))
				if err := l.DeleteRange(m.first, to); err != nil {
					t.Fatal(err)
				}
				m.first = max(m.first, min(to+1, floor))
			},
			"suffix": func(t *rapid.T) {
				if m.last == 0 {
					return
				}
				from := uint64(rapid.IntRange(int(m.first), int(m.last)).Draw(t, "from"))
				if err := l.DeleteRange(from, m.last); err != nil {
					t.Fatal(err)
				}
				for i := from; i <= m.last; i++ {
					delete(m.logs, i)
				}
				m.last = from - 1
				if m.last < m.first {
					m.first, m.last = 0, 0
				}
				term++
			},
			"reopen": func(t *rapid.T) {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				if rapid.Bool().Draw(t, "crash") {
					fsys = fsys.Crash(rapid.Uint64().Draw(t, "seed"))
					cfg.FS = fsys
				}
				if l, err = Open(cfg); err != nil {
					t.Fatal(err)
				}
				l.SetFloor(floor)
			},
			"": func(t *rapid.T) {
				first, _ := l.FirstIndex()
				last, _ := l.LastIndex()
				if first != m.first || last != m.last {
					t.Fatalf("range %d to %d, want %d to %d", first, last, m.first, m.last)
				}
				for i := first; i <= last && i > 0; i++ {
					var e raft.Log
					if err := l.GetLog(i, &e); err != nil || !same(&e, m.logs[i]) {
						t.Fatalf("entry %d: %v", i, err)
					}
				}
				if cfg.Trim == Keep && last > 0 {
					for i, e := range m.logs {
						if data, err := l.ReadEntry(i, nil); err != nil && i <= last || err == nil && i <= last && !bytes.Equal(data, e.Data) {
							t.Fatalf("frame %d: %v", i, err)
						}
					}
				}
			},
		})
	})
}

func TestConcurrentReads(t *testing.T) {
	l := open(t, Config{Dir: t.TempDir(), SegmentSize: 64 << 10, CacheBytes: 8 << 10, OpenFiles: 1})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for r := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(r), 0))
			var buf []byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				last, err := l.LastIndex()
				if err != nil || last == 0 {
					continue
				}
				i := 1 + rng.Uint64N(last)
				data, err := l.ReadEntry(i, buf)
				if err != nil || !bytes.Equal(data, entry(i, 1, 1500).Data) {
					t.Errorf("ReadEntry(%d): %v", i, err)
					return
				}
				buf = data
			}
		})
	}
	for i := uint64(1); i < 1000; i += 4 {
		must(t, l.StoreLogs(batch(i, 1, 4, 1500)))
	}
	close(stop)
	wg.Wait()
	must(t, l.Close())
}

func TestNoSpace(t *testing.T) {
	fsys := faultfs.New(1)
	fsys.SetCapacity(100 << 10)
	l := open(t, Config{Dir: "/log", FS: fsys, SegmentSize: 30 << 10, inline: true})
	defer l.Close()
	var err error
	next := uint64(1)
	for ; err == nil; next++ {
		err = l.StoreLog(entry(next, 1, 5000))
	}
	next--
	if !errors.Is(err, ErrNoSpace) || !l.Low() {
		t.Fatalf("full disk: %v, low %v", err, l.Low())
	}
	must(t, l.StoreLog(entry(next, 1, 10))) // what is left of the segment
	if last, err := l.LastIndex(); last != next || err != nil {
		t.Errorf("LastIndex = %d, %v", last, err)
	}
	fsys.SetCapacity(0)
	must(t, l.StoreLog(entry(next+1, 1, 5000)))
	if l.Low() {
		t.Error("still low after space was made")
	}
}

func TestFailureIsFinal(t *testing.T) {
	for _, kind := range []faultfs.Kind{faultfs.Write, faultfs.Sync} {
		fsys := faultfs.New(1)
		calls := 0
		l := open(t, Config{Dir: "/log", FS: fsys, SegmentSize: 64 << 10, OnFailure: func(error) { calls++ }, inline: true})
		must(t, l.StoreLogs(batch(1, 1, 2, 100)))
		fsys.FailNext(kind, 1, syscall.EIO)
		if err := l.StoreLogs(batch(3, 1, 2, 100)); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Errorf("%v fails: %v", kind, err)
		}
		if err := l.StoreLogs(batch(3, 1, 2, 100)); !errors.Is(err, ErrFailed) {
			t.Errorf("after a failed %v: %v", kind, err)
		}
		if _, err := l.LastIndex(); !errors.Is(err, ErrFailed) {
			t.Errorf("LastIndex after a failed %v: %v", kind, err)
		}
		if err := l.GetLog(1, new(raft.Log)); !errors.Is(err, ErrFailed) {
			t.Errorf("GetLog after a failed %v: %v", kind, err)
		}
		if calls != 1 {
			t.Errorf("OnFailure called %d times", calls)
		}
		must(t, l.Close())
	}
}

// TestCorruption damages one flushed byte after another.
func TestCorruption(t *testing.T) {
	fsys := faultfs.New(1)
	l := open(t, Config{Dir: "/log", FS: fsys, SegmentSize: 4 << 10, CacheBytes: -1, inline: true})
	for i := uint64(1); i <= 20; i += 2 {
		must(t, l.StoreLogs(batch(i, 1, 2, 300)))
	}
	must(t, l.Close())
	names, err := fsys.ReadDir("/log")
	must(t, err)
	refused := 0
	for _, name := range names {
		if !strings.HasSuffix(name, segSuffix) {
			continue
		}
		path := filepath.Join("/log", name)
		clean, err := fsx.ReadFile(fsys, path)
		must(t, err)
		for off := 0; off < len(clean); off += 61 {
			disk := fsys.Crash(1)
			f, err := disk.OpenFile(path, os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte{clean[off] ^ 0x10}, int64(off))
			must(t, err)
			must(t, f.Close())
			l, err := Open(Config{Dir: "/log", FS: disk, SegmentSize: 4 << 10, CacheBytes: -1, inline: true})
			if errors.Is(err, ErrCorrupt) {
				refused++
				continue
			}
			must(t, err)
			last, _ := l.LastIndex()
			for i := uint64(1); i <= 20; i++ {
				data, err := l.ReadEntry(i, nil)
				if err == nil && !bytes.Equal(data, entry(i, 1, 300).Data) {
					t.Fatalf("%s damaged at %d: entry %d is read back wrong", name, off, i)
				}
				if err != nil && (!errors.Is(err, ErrCorrupt) || last != 20) {
					t.Fatalf("%s damaged at %d: entry %d was cut: %v, last %d", name, off, i, err, last)
				}
			}
			must(t, l.Close())
		}
	}
	if refused == 0 {
		t.Error("no damage was refused")
	}
}

func ExampleOpen() {
	l, err := Open(Config{Dir: "/log", FS: faultfs.New(1)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer l.Close()
	_ = l.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: []byte("a message")}})
	data, err := l.ReadEntry(1, nil)
	fmt.Println(string(data), err)
	// Output: a message <nil>
}
