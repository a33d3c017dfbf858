package scrub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

var (
	errDamaged = errors.New("damaged")
	errMissing = errors.New("missing")
)

// fakeLog is a log in memory, and at the same time a peer. What Fetch gives is
// the data itself.
type fakeLog struct {
	entries map[uint64][]byte
	bad     map[uint64]bool
	last    uint64
	needed  bool
	fetched int
	reads   func(index uint64)
}

func (l *fakeLog) Segments() []Segment { return []Segment{{Base: 1, Last: l.last, Needed: l.needed}} }

func (l *fakeLog) ReadFile(index uint64, buf []byte) ([]byte, error) {
	if l.reads != nil {
		l.reads(index)
	}
	switch data, ok := l.entries[index]; {
	case !ok:
		return nil, errMissing
	case l.bad[index]:
		return nil, errDamaged
	default:
		return append(buf[:0], data...), nil
	}
}
func (l *fakeLog) Missing(err error) bool               { return errors.Is(err, errMissing) }
func (l *fakeLog) Parse(fetched []byte) ([]byte, error) { return fetched, nil }

func (l *fakeLog) Repair(index uint64, fetched []byte) error {
	l.entries[index] = fetched
	delete(l.bad, index)
	return nil
}

func (l *fakeLog) Fetch(_ context.Context, index uint64) ([]byte, error) {
	l.fetched++
	data, ok := l.entries[index]
	if !ok {
		return nil, errMissing
	}
	return bytes.Clone(data), nil
}

// made is two replicas with a message in entry 2, one in the entries 3, 4 and 5,
// one that only the log knows in 6, and nothing in 7.
func made(t *testing.T) (a, b *fakeLog, rows *store.Store) {
	rows, err := store.Open("meta", nil, store.Options{FS: storetest.NewDisk().FS(), MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	entries := func() map[uint64][]byte {
		m := map[uint64][]byte{}
		for _, i := range []uint64{1, 2, 3, 4, 5, 6} {
			m[i] = fmt.Appendf(nil, "octets of entry %d", i)
		}
		return m
	}
	a = &fakeLog{entries: entries(), bad: map[uint64]bool{}, last: 7}
	b = &fakeLog{entries: entries(), bad: map[uint64]bool{}, last: 7}
	batch := rows.NewBatch(new(store.State))
	defer batch.Close()
	for id, indexes := range map[uint64][]uint64{2: {2}, 5: {3, 4, 5}} {
		m := store.Message{ID: id << store.MessageBits, Refs: 1}
		h := sha256.New()
		for _, i := range indexes {
			h.Write(a.entries[i])
			m.Size += int64(len(a.entries[i]))
			m.Body = append(m.Body, store.Extent{Index: i, Len: uint32(len(a.entries[i]))})
		}
		copy(m.Hash[:], h.Sum(nil))
		batch.PutMessage(&m)
	}
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
	return a, b, rows
}

func notes(t *testing.T) fsx.FS {
	fsys := faultfs.New(1)
	if err := fsys.MkdirAll("/", 0o700); err != nil {
		t.Fatal(err)
	}
	return fsys
}

func TestPass(t *testing.T) {
	for name, tt := range map[string]struct {
		harm                               func(a, b *fakeLog)
		damaged, repaired, unneeded, wrong int64
	}{
		"nothing":                 {func(_, _ *fakeLog) {}, 0, 0, 0, 0},
		"a message":               {func(a, _ *fakeLog) { a.bad[2] = true }, 1, 1, 0, 0},
		"a part":                  {func(a, _ *fakeLog) { a.bad[3] = true }, 1, 1, 0, 0},
		"all parts":               {func(a, _ *fakeLog) { a.bad[3], a.bad[4], a.bad[5] = true, true, true }, 3, 3, 0, 0},
		"no mail":                 {func(a, _ *fakeLog) { a.bad[6] = true }, 1, 0, 1, 0},
		"no mail, but needed":     {func(a, _ *fakeLog) { a.bad[6], a.needed = true, true }, 1, 1, 0, 0},
		"the peer lacks it":       {func(a, b *fakeLog) { a.bad[2] = true; delete(b.entries, 2) }, 1, 0, 0, 0},
		"the peer has another":    {func(a, b *fakeLog) { a.bad[2] = true; b.entries[2][0] ^= 1 }, 1, 0, 0, 0},
		"another part there":      {func(a, b *fakeLog) { a.bad[4] = true; b.entries[4][0] ^= 1 }, 1, 0, 0, 0},
		"other octets, read well": {func(a, _ *fakeLog) { a.entries[2][0] ^= 1 }, 0, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, rows := made(t)
			tt.harm(a, b)
			s := New(Config{Log: a, Rows: rows, Peer: b, Notes: "/notes", FS: notes(t), Rate: 1 << 30})
			r, err := s.Pass(t.Context())
			if err != nil || r.Damaged != tt.damaged || r.Repaired != tt.repaired || r.Unneeded != tt.unneeded || r.Wrong != tt.wrong ||
				r.Frames != 6 || r.Finished.IsZero() || r.Lost() != tt.damaged-tt.repaired-tt.unneeded+tt.wrong {
				t.Errorf("%+v, %v", r, err)
			}
			if again, err := s.Pass(t.Context()); err != nil || again.Repaired != 0 {
				t.Errorf("a second time: %+v, %v", again, err)
			}
		})
	}
}

// TestPassGoesOn after a restart where it was.
func TestPassGoesOn(t *testing.T) {
	a, _, rows := made(t)
	ctx, cancel := context.WithCancel(t.Context())
	fsys := notes(t)
	a.reads = func(index uint64) {
		if index == 4 {
			cancel()
		}
	}
	cfg := Config{Log: a, Rows: rows, Notes: "/notes", FS: fsys, Rate: 1 << 30}
	if _, err := New(cfg).Pass(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var read []uint64
	a.reads = func(index uint64) { read = append(read, index) }
	s := New(cfg)
	if last := s.Last(); last.Next != 4 || !last.Finished.IsZero() {
		t.Fatalf("%+v", last)
	}
	if r, err := s.Pass(t.Context()); err != nil || read[0] != 4 || r.Messages != 2 {
		t.Errorf("%+v, read %v, %v", r, read, err)
	}
	if err := fsx.WriteFileAtomic(fsys, "/notes", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if last := New(cfg).Last(); !last.Begun.IsZero() {
		t.Errorf("damaged notes say %+v", last)
	}
}

// TestSetRate: what is read from now on is read at another rate.
func TestSetRate(t *testing.T) {
	s := New(Config{Notes: "/notes", FS: notes(t), Rate: 1})
	s.SetRate(1 << 30)
	if got := s.pace.Rate(); got != 1<<30 {
		t.Errorf("%v octets a second", got)
	}
}
