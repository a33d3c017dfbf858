package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// twoLogs makes the logs of two replicas: the same entries in other batches.
func twoLogs(t testing.TB, n uint64) (a, b *Log) {
	a = open(t, Config{Dir: "/log", FS: faultfs.New(1), SegmentSize: 32 << 10, CacheBytes: -1, inline: true})
	b = open(t, Config{Dir: "/log", FS: faultfs.New(2), SegmentSize: 24 << 10, CacheBytes: -1, inline: true})
	for i := uint64(1); i <= n; i += 6 {
		must(t, a.StoreLogs(batch(i, 3, 6, 500)))
		must(t, b.StoreLogs(batch(i, 3, 2, 500)))
		must(t, b.StoreLogs(batch(i+2, 3, 4, 500)))
	}
	return a, b
}

// frameAt returns the file of an entry and where its frame is.
func frameAt(t testing.TB, l *Log, index uint64) (name string, off, size int64) {
	t.Helper()
	p, err := l.locate(index)
	must(t, err)
	defer p.h.release()
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.path(l.find(index).name), p.off, p.size
}

func damage(t testing.TB, l *Log, index uint64, at int64) {
	t.Helper()
	name, off, _ := frameAt(t, l, index)
	f, err := l.fs.OpenFile(name, 2, 0)
	must(t, err)
	defer f.Close()
	flip(t, f, off+at)
}

// TestRepair flips a bit at every place of a frame and has it repaired from
// the other replica.
func TestRepair(t *testing.T) {
	a, b := twoLogs(t, 120)
	defer a.Close()
	defer b.Close()
	for _, index := range []uint64{2, 35, 36, 37, 61, 119} {
		for _, at := range []int64{0, 5, 8, 17, 25, 33, 37, 40, 42, 45, 49, frameSize, frameSize + 100} {
			damage(t, a, index, at)
			if _, err := a.ReadFile(index, nil); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("entry %d, octet %d: %v", index, at, err)
			}
			other, err := b.ExportEntry(index+1, nil)
			must(t, err)
			if err := a.Repair(index, other); !errors.Is(err, ErrMend) {
				t.Errorf("repaired with another entry: %v", err)
			}
			forged, err := b.ExportEntry(index, nil)
			must(t, err)
			e, err := ParseEntry(forged)
			must(t, err)
			e.Data[3] ^= 1
			if err := a.Repair(index, forged); !errors.Is(err, ErrMend) {
				t.Errorf("repaired with damaged octets: %v", err)
			}
			exported, err := b.ExportEntry(index, nil)
			must(t, err)
			if err := a.Repair(index, exported); err != nil {
				t.Fatalf("entry %d, octet %d: %v", index, at, err)
			}
			var got raft.Log
			must(t, a.GetLog(index, &got))
			if !same(&got, entry(index, 3, 500)) {
				t.Fatalf("entry %d differs after repair", index)
			}
		}
	}
	must(t, a.Close())
	a = open(t, a.cfg)
	for i := uint64(1); i <= 120; i++ {
		var got raft.Log
		must(t, a.GetLog(i, &got))
	}
}

// TestRepairCompacted repairs frames whose neighbours are gone.
func TestRepairCompacted(t *testing.T) {
	a, b := twoLogs(t, 120)
	defer a.Close()
	defer b.Close()
	a.SetFloor(110)
	must(t, a.DeleteRange(1, 109))
	_, err := a.Compact(1, third, nil)
	must(t, err)
	for _, at := range []int64{8, 44, frameSize + 9} {
		damage(t, a, 9, at)
		exported, err := b.ExportEntry(9, nil)
		must(t, err)
		must(t, a.Repair(9, exported))
		data, err := a.ReadFile(9, nil)
		if err != nil || !bytes.Equal(data, entry(9, 3, 500).Data) {
			t.Fatal(err)
		}
	}
}

// TestOpenMends opens a log whose tail segment has damage before its end. Alone
// it refuses; with a peer it has the frames back, and nothing else.
func TestOpenMends(t *testing.T) {
	for name, bad := range map[string][]uint64{"one": {115}, "two apart": {111, 117}, "a run": {112, 113, 114}, "first of a batch": {109}, "last of a batch": {114}, "the very last": {120}} {
		t.Run(name, func(t *testing.T) {
			a, b := twoLogs(t, 120)
			defer b.Close()
			for i, index := range bad {
				damage(t, a, index, int64(8+37*i)) // header or data
			}
			must(t, a.Close())
			cfg := a.cfg
			if _, err := Open(cfg); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("opened with damage in the middle: %v", err)
			}
			cfg.Fetch = func(index uint64) ([]byte, error) { return b.ExportEntry(index-6, nil) }
			if _, err := Open(cfg); !errors.Is(err, ErrCorrupt) || !errors.Is(err, ErrMend) {
				t.Fatalf("mended with other entries: %v", err)
			}
			fetched := 0
			cfg.Fetch = func(index uint64) ([]byte, error) { fetched++; return b.ExportEntry(index, nil) }
			a = open(t, cfg)
			for i := uint64(1); i <= 120; i++ {
				var got raft.Log
				if err := a.GetLog(i, &got); err != nil || !same(&got, entry(i, 3, 500)) {
					t.Fatalf("entry %d: %v", i, err)
				}
			}
			if fetched < len(bad) {
				t.Errorf("%d entries fetched", fetched)
			}
			if n := a.Stats().Mended; n < 1 || n > int64(len(bad)) {
				t.Errorf("mended %d times", n)
			}
			must(t, a.Close())
			cfg.Fetch = nil
			must(t, open(t, cfg).Close())
		})
	}
}

// TestOpenWithoutPeer says why nothing was mended.
func TestOpenWithoutPeer(t *testing.T) {
	a, _ := twoLogs(t, 120)
	damage(t, a, 115, 60)
	must(t, a.Close())
	cfg := a.cfg
	away := errors.New("away")
	cfg.Fetch = func(uint64) ([]byte, error) { return nil, away }
	if _, err := Open(cfg); !errors.Is(err, away) || !errors.Is(err, ErrCorrupt) {
		t.Errorf("opened: %v", err)
	}
}

// FuzzParseEntry gives Repair's parser anything.
func FuzzParseEntry(f *testing.F) {
	l, _ := twoLogs(f, 12)
	for i := uint64(1); i < 12; i += 4 {
		b, err := l.ExportEntry(i, nil)
		must(f, err)
		f.Add(b)
	}
	f.Add([]byte("PSLX"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			if !errors.Is(err, ErrMend) {
				t.Fatal(err)
			}
			return
		}
		if len(e.Data)+len(e.Extensions)+exportSize != len(b) {
			t.Fatal(fmt.Sprint(len(b), " octets give ", len(e.Data)))
		}
	})
}
