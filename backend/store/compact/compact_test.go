package compact

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// fakeLog is a log of entries of 100 octets, ten in each segment, the first of
// which is entry 10.
type fakeLog struct {
	segments map[uint64]*fakeSegment // by base
	err      error                   // of Compact
}

type fakeSegment struct {
	newest    time.Time
	entries   map[uint64]bool
	compacted bool
}

func newFakeLog(n int, newest time.Time) *fakeLog {
	l := &fakeLog{segments: map[uint64]*fakeSegment{}}
	for i := range uint64(n) {
		s := &fakeSegment{newest: newest, entries: map[uint64]bool{}}
		for e := range uint64(10) {
			s.entries[10*(i+1)+e] = true
		}
		l.segments[10*(i+1)] = s
	}
	return l
}

func (l *fakeLog) Segments() (out []Segment) {
	for i := range uint64(len(l.segments)) {
		base := 10 * (i + 1)
		s := l.segments[base]
		out = append(out, Segment{Base: base, Last: base + 9, Bytes: 1000, Compacted: s.compacted, Newest: s.newest})
	}
	return out
}

func (l *fakeLog) Sizes(base uint64, f func(uint64, int64)) error {
	for index := range l.segments[base].entries {
		f(index, 100)
	}
	return nil
}

func (l *fakeLog) Compact(base uint64, keep func(uint64) bool, pace func(int) error) (freed int64, err error) {
	if l.err != nil {
		return 0, l.err
	}
	s := l.segments[base]
	if err := pace(200 * len(s.entries)); err != nil {
		return 0, err
	}
	for index := range s.entries {
		if !keep(index) {
			delete(s.entries, index)
			freed += 100
		}
	}
	s.compacted = true
	return freed, nil
}

// rows is a store with a message in each of these entries.
func rows(t *testing.T, entries ...uint64) (*store.Store, *store.State) {
	s, err := store.Open("meta", nil, store.Options{FS: storetest.NewDisk().FS(), MemTableSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	st := new(store.State)
	b := s.NewBatch(st)
	defer b.Close()
	for _, index := range entries {
		b.PutMessage(&store.Message{ID: index << store.MessageBits, Refs: 1, Size: 90, Body: []store.Extent{{Index: index, Len: 90}}})
	}
	st.Applied = 1000
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
	return s, st
}

func forget(t *testing.T, s *store.Store, st *store.State, entries ...uint64) {
	b := s.NewBatch(st)
	defer b.Close()
	for _, index := range entries {
		if err := b.AddRefs(index<<store.MessageBits, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(); err != nil {
		t.Fatal(err)
	}
}

// TestPolicy says which segments a pass rewrites.
func TestPolicy(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	full := []uint64{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	for name, tt := range map[string]struct {
		live   []uint64 // entries of the segment with a message
		newest time.Time
		oldest uint64 // snapshot
		err    error  // of the log
		want   Result
	}{
		"all live":             {full, now.Add(-60 * day), 100, nil, Result{Looked: 1}},
		"60 percent live":      {full[:6], now.Add(-8 * day), 100, nil, Result{Looked: 1, Dead: 400}},
		"50 percent live":      {full[:5], now.Add(-8 * day), 100, nil, Result{Looked: 1, Rewrote: 1, Freed: 500}},
		"all dead":             {nil, now.Add(-8 * day), 100, nil, Result{Looked: 1, Rewrote: 1, Freed: 1000}},
		"too young":            {nil, now.Add(-6 * day), 100, nil, Result{}},
		"of unknown age":       {nil, time.Time{}, 100, nil, Result{}},
		"newer than snapshots": {nil, now.Add(-60 * day), 18, nil, Result{}},
		"no snapshot":          {nil, now.Add(-60 * day), 0, nil, Result{}},
		"one dead and no note": {full[:9], now.Add(-60 * day), 100, nil, Result{Looked: 1, Rewrote: 1, Freed: 100}},
		"in use":               {nil, now.Add(-8 * day), 100, fmt.Errorf("x: %w", ErrInUse), Result{Looked: 1, InUse: 1, Dead: 1000}},
		"damaged":              {nil, now.Add(-8 * day), 100, fmt.Errorf("x: %w", ErrDamaged), Result{Looked: 1, Damaged: 1, Dead: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			log := newFakeLog(1, tt.newest)
			log.err = tt.err
			s, _ := rows(t, tt.live...)
			c, err := New(Config{
				Log: log, Rows: s, Notes: "/notes", FS: disk(t), Oldest: func() (uint64, error) { return tt.oldest, nil },
				Rules: Rules{Rate: 1 << 30}, Now: func() time.Time { return now },
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Pass(t.Context())
			got.Finished = time.Time{}
			if err != nil || got != tt.want {
				t.Errorf("%+v, want %+v; %v", got, tt.want, err)
			}
			for _, index := range tt.live {
				if !log.segments[10].entries[index] {
					t.Errorf("live entry %d is gone", index)
				}
			}
		})
	}
}

func disk(t *testing.T) fsx.FS {
	fsys := faultfs.New(1)
	if err := fsys.MkdirAll("/", 0o700); err != nil {
		t.Fatal(err)
	}
	return fsys
}

// TestAge keeps the time at which octets died over restarts.
func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	log := newFakeLog(1, now.Add(-100*24*time.Hour))
	s, st := rows(t, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
	cfg := Config{
		Log: log, Rows: s, Notes: "/notes", FS: disk(t), Oldest: func() (uint64, error) { return 100, nil },
		Rules: Rules{Rate: 1 << 30}, Now: func() time.Time { return now },
	}
	pass := func() Result {
		c, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	pass()
	forget(t, s, st, 17)
	for day := range 32 {
		r := pass()
		if (r.Rewrote == 1) != (day == 30) || day < 30 && r.Dead != 100 {
			t.Fatalf("day %d: %+v", day, r)
		}
		now = now.Add(24 * time.Hour)
	}
	if log.segments[10].entries[17] || len(log.segments[10].entries) != 9 {
		t.Errorf("entries %v", log.segments[10].entries)
	}
}

// TestSetRules: other rules hold for a Compactor that has looked already.
func TestSetRules(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	log := newFakeLog(1, now.Add(-3*time.Hour))
	s, st := rows(t, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
	forget(t, s, st, 17)
	c, err := New(Config{
		Log: log, Rows: s, Notes: "/notes", FS: disk(t), Oldest: func() (uint64, error) { return 100, nil }, Now: func() time.Time { return now },
		Rules: Rules{Undelete: 4 * time.Hour, Share: 0.5},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		rules           Rules
		looked, rewrote int
	}{
		{Rules{Undelete: 4 * time.Hour, Share: 0.5}, 0, 0},
		{Rules{Undelete: time.Hour, Share: 0.5}, 1, 0},
		{Rules{Undelete: time.Hour, Share: 0.05, Rate: 1 << 30}, 1, 1},
	} {
		c.SetRules(step.rules)
		r, err := c.Pass(t.Context())
		if err != nil || r.Looked != step.looked || r.Rewrote != step.rewrote {
			t.Errorf("%d: %+v, %v", i, r, err)
		}
	}
	if got := c.pace.Rate(); got != 1<<30 {
		t.Errorf("%d octets a second", got)
	}
}

// TestStops when it is told to, and when the log fails.
func TestStops(t *testing.T) {
	log := newFakeLog(3, time.Now().Add(-100*24*time.Hour))
	s, _ := rows(t)
	c, err := New(Config{Log: log, Rows: s, Notes: "/notes", FS: disk(t), Oldest: func() (uint64, error) { return 100, nil }, Rules: Rules{Rate: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Pass(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	log.err = errors.New("log failed")
	if _, err := c.Pass(t.Context()); !errors.Is(err, log.err) {
		t.Errorf("log failed: %v", err)
	}
}
