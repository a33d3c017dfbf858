package witness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/ha/witness"
)

type (
	cluster = replicatest.Cluster
	node    = replicatest.Node
	options = replicatest.Options
)

var must = replicatest.Must

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick makes floors and snapshots follow the load closely.
var quick = replica.Timings{Floor: 20 * time.Millisecond, Snapshot: 30 * time.Millisecond}

// openLog opens the log of a member that is stopped.
func openLog(t *testing.T, c *cluster, name string) *seglog.Log {
	t.Helper()
	cfg := seglog.Config{Dir: filepath.Join(c.Config(name, false).Dir, "log"), SegmentSize: 256 << 10}
	if name == "w" {
		cfg.Trim = seglog.Recycle
	}
	l, err := seglog.Open(cfg)
	must(t, err)
	return l
}

// cutLog makes the log of a stopped member end at an entry.
func cutLog(t *testing.T, c *cluster, name string, end uint64) {
	t.Helper()
	l := openLog(t, c, name)
	last, err := l.LastIndex()
	must(t, err)
	if last <= end {
		t.Fatalf("the log of %s ends at %d already", name, last)
	}
	must(t, l.DeleteRange(end+1, last))
	must(t, l.Close())
}

func sameLists(t *testing.T, c *cluster, a, b *node) {
	t.Helper()
	c.Eventually("both replicas have the same", func() bool { return slices.Equal(a.List.Items(), b.List.Items()) })
}

// TestEntriesWhole checks W1.
func TestEntriesWhole(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true})
	n := c.Serving()
	want := map[uint64][]byte{}
	for i, size := range []int{2, 100, 1024, 4096, 70_000, 256 << 10, replica.MaxEntry} {
		data := replicatest.Item(fmt.Sprint(i), size)
		for k := len(fmt.Sprint(i)) + 2; k < len(data); k++ {
			data[k] = byte(k * (i + 3))
		}
		_, index, err := n.R.Propose(context.Background(), data)
		must(t, err)
		want[index] = data
	}
	w := c.Nodes["w"].W
	c.Eventually("the witness has all", func() bool { return w.Status().Last >= n.R.Local().Last })
	c.Stop("w")
	l := openLog(t, c, "w")
	defer l.Close()
	for index, data := range want {
		got, err := l.ReadEntry(index, nil)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("entry %d of %d bytes: %d bytes, %v", index, len(data), len(got), err)
		}
	}
}

// TestTrims checks W2 and the beginning of W5: the witness's log follows the
// floor, and stands still while a data replica is away.
func TestTrims(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Timings: quick, Segment: 256 << 10})
	n := c.Serving()
	w := c.Nodes["w"].W
	must(t, n.Fill(3200, 4000))
	c.Eventually("the witness trims", func() bool { return w.Status().First > 2000 })
	if s := w.Status(); s.First > s.Floor {
		t.Errorf("trimmed to %d, the floor is %d", s.First, s.Floor)
	}
	b := c.Other(n).Name
	c.Kill(b)
	limit := n.R.Local().Last // the one that is away has no more
	must(t, n.Fill(3200, 4000))
	time.Sleep(200 * time.Millisecond) // ten floors
	s := w.Status()
	if s.Floor > limit || s.First > s.Floor {
		t.Errorf("with a replica away that has %d entries the floor went to %d, the first index to %d", limit, s.Floor, s.First)
	}
	if s.Last-s.First < 3000 {
		t.Errorf("the witness holds only %d to %d", s.First, s.Last)
	}
	segments := s.Segments
	back := c.Start(b, false)
	c.Eventually("it catches up", func() bool { return back.List.Applied() >= s.Last-10 })
	must(t, n.Fill(1280, 4000))
	c.Eventually("the witness trims again", func() bool { return w.Status().First > s.Last && w.Status().Segments < segments/2 })
}

// trimmed runs a group until the log of the witness begins at the floor, and
// leaves the witness running alone. It returns the floor, what was committed,
// and the names of the replica that has all of it and of the one that was away
// first.
func trimmed(t *testing.T, c *cluster) (floor uint64, items []string, all, away string) {
	t.Helper()
	n := c.Serving()
	w := c.Nodes["w"].W
	must(t, n.Fill(1500, 1000))
	away = c.Other(n).Name
	c.Eventually("the floor moves", func() bool { return w.Status().Floor > 500 })
	c.Kill(away)
	must(t, n.Fill(1500, 1000))
	c.Eventually("the log of the witness begins at the floor", func() bool {
		s := w.Status()
		return s.First == s.Floor && s.Last > s.Floor+1000 && s.Last == n.R.Local().Last
	})
	items = n.List.Items()
	c.Kill(n.Name)
	return w.Status().Floor, items, n.Name, away
}

// TestEndsAtFloor checks W2: a data replica whose log ends exactly at the
// floor catches up from the witness's log.
func TestEndsAtFloor(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Timings: quick, Segment: 256 << 10})
	floor, items, _, away := trimmed(t, c)
	cutLog(t, c, away, floor)
	back := c.Start(away, false)
	c.Eventually("it serves", back.R.Serving)
	if got := back.List.Items(); !slices.Equal(got, items) {
		t.Errorf("%d of %d items", len(got), len(items))
	}
	if names := snapshots(t, c, away); len(names) > 0 {
		t.Errorf("snapshots %v", names)
	}
	must(t, back.Propose("after", 10))
}

func snapshots(t *testing.T, c *cluster, name string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.Config(name, false).Dir, "raft", "snapshots"))
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestCannotHelp checks W3 and W4: a data replica that lacks more than the
// witness has gets nothing from it, not its snapshot either. The witness leads
// meanwhile and takes no clients, until the other data replica is back.
func TestCannotHelp(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Timings: quick, Segment: 256 << 10})
	floor, items, all, away := trimmed(t, c)
	cutLog(t, c, away, floor-1)
	w := c.Nodes["w"].W
	handed := w.Status().Handed
	back := c.Start(away, false)
	c.Eventually("the witness leads", func() bool { return w.Status().State == "Leader" })
	c.Eventually("the replica knows", func() bool { return back.R.Local().Leader == "w" })
	for range 20 { // many attempts to replicate
		time.Sleep(50 * time.Millisecond)
		if back.R.Serving() {
			t.Fatal("a replica serves that lacks entries")
		}
	}
	var e replica.ErrNotServing
	if err := back.Propose("lost", 10); !errors.As(err, &e) || e.Name != "w" && e.Name != "" {
		t.Errorf("a proposal while the witness leads: %v", err)
	}
	if err := back.R.Confirm(context.Background()); !errors.As(err, &e) {
		t.Errorf("a read while the witness leads: %v", err)
	}
	if last := back.R.Local().Last; last != floor-1 {
		t.Errorf("the log went from %d to %d", floor-1, last)
	}
	if names := snapshots(t, c, away); len(names) > 0 {
		t.Errorf("snapshots %v", names)
	}
	if names := snapshots(t, c, "w"); len(names) == 0 {
		t.Error("the witness has no snapshot that it could send: the test tests nothing")
	}
	if h := w.Status().Handed; h != handed {
		t.Errorf("handed over %d times", h-handed)
	}
	n := c.Start(all, false)
	c.Eventually("the other serves", n.R.Serving)
	must(t, n.Propose("after", 10))
	sameLists(t, c, n, back)
	if got := back.List.Items(); !slices.Equal(got, append(items, "after")) {
		t.Errorf("%d items, want %d", len(got), len(items)+1)
	}
}

// TestGap is the drill of W4: one replica is away while the other and the
// witness commit, and is back when the other is lost. Only the witness has what
// it lacks.
func TestGap(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Segment: 1 << 20})
	n := c.Serving()
	must(t, n.Propose("before", 100))
	away := c.Other(n).Name
	c.Kill(away)
	must(t, n.Fill(2000, 3000))
	all := n.List.Items()
	if len(all) != 2001 {
		t.Fatalf("%d items committed", len(all))
	}
	c.Kill(n.Name)
	handed := c.Nodes["w"].W.Status().Handed
	back := c.Start(away, false)
	start := time.Now()
	c.Eventually("it serves", back.R.Serving)
	if got := back.List.Items(); !slices.Equal(got, all) {
		t.Errorf("%d of %d items after the witness led", len(got), len(all))
	}
	if h := c.Nodes["w"].W.Status().Handed; h == handed {
		t.Error("the witness did not hand over")
	}
	t.Logf("serving %v after the start", time.Since(start))
	must(t, back.Propose("after", 10))
	first := c.Start(n.Name, false)
	sameLists(t, c, back, first)
	if got := first.List.Items(); len(got) != len(all)+1 {
		t.Errorf("%d items at the end, want %d", len(got), len(all)+1)
	}
}

// TestWitnessRestarts does the same drill with a witness that was stopped in
// between: what it said that it has is there.
func TestWitnessRestarts(t *testing.T) {
	t.Parallel()
	c := replicatest.New(t, options{Keep: true, Timings: quick, Segment: 256 << 10})
	_, items, _, away := trimmed(t, c)
	before := c.Nodes["w"].W.Status()
	c.Stop("w")
	w := c.Start("w", false).W
	c.Eventually("it runs", func() bool { return w.Status().State != "" })
	if s := w.Status(); s.Last != before.Last || s.First != before.First {
		t.Errorf("log %d to %d, before the restart %d to %d", s.First, s.Last, before.First, before.Last)
	}
	back := c.Start(away, false)
	c.Eventually("it serves", back.R.Serving)
	if got := back.List.Items(); !slices.Equal(got, items) {
		t.Errorf("%d of %d items", len(got), len(items))
	}
}

// TestIdle checks that the witness of a group without work writes nothing.
func TestIdle(t *testing.T) {
	c := replicatest.New(t, options{Timings: replica.Timings{Floor: 20 * time.Millisecond, Snapshot: 20 * time.Millisecond}})
	n := c.Serving()
	must(t, n.Propose("one", 100))
	w := c.Nodes["w"].W
	c.Eventually("the floor is there", func() bool { return w.Status().Floor > 0 })
	dir := c.Config("w", false).Dir
	files := func() string {
		var b bytes.Buffer
		must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			fmt.Fprintln(&b, path, info.Size(), info.ModTime())
			return err
		}))
		return b.String()
	}
	before, last := files(), w.Status().Last
	time.Sleep(500 * time.Millisecond) // 25 floors
	if after := files(); after != before || w.Status().Last != last {
		t.Errorf("an idle witness wrote, entries %d to %d:\n%s\nbefore:\n%s", last, w.Status().Last, after, before)
	}
	must(t, n.Propose("two", 100))
	// The two others are a majority: the witness may write a little later.
	c.Eventually("the files show that something is written", func() bool { return files() != before })
}

// TestTimings checks W7: a witness goes by the times that a data replica with
// the same settings goes by.
func TestTimings(t *testing.T) {
	c := replicatest.New(t, options{Idle: true})
	for name, times := range map[string]replica.Timings{
		"defaults": {},
		"some set": {Heartbeat: 700 * time.Millisecond, Floor: time.Minute},
	} {
		cfg := c.Config("w", true).Config
		cfg.Timings = times
		w, err := witness.New(cfg)
		must(t, err)
		data := c.Config("a", true).Config
		data.Timings = times
		v, err := voter.Open(data, voter.Role{Kind: manifest.Data})
		must(t, err)
		if got, want := w.Timings(), v.Config().Timings; got != want || got.Heartbeat == 0 {
			t.Errorf("%s: %+v, a data replica has %+v", name, got, want)
		}
		must(t, w.Close())
		must(t, v.Stop())
	}
}

// TestCut checks W7 at work: the serving replica is cut off without a sign, and
// the other one and the witness need no longer than their time-outs.
func TestCut(t *testing.T) {
	c := replicatest.New(t, options{Keep: true})
	n := c.Serving()
	must(t, n.Propose("one", 100))
	o := c.Other(n)
	heartbeat := c.Config("w", false).Timings.Heartbeat
	start := time.Now()
	c.Wire.Isolate(n.Name, []string{o.Name, "w"}, true)
	c.Eventually("the other serves", o.R.Serving)
	// Raft waits one to two heartbeat time-outs, and as long for the election;
	// a second attempt may be needed.
	if took := time.Since(start); took > 8*heartbeat {
		t.Errorf("that took %v, the heartbeat time-out is %v", took, heartbeat)
	}
	must(t, o.Propose("two", 100))
	c.Wire.Isolate(n.Name, []string{o.Name, "w"}, false)
	sameLists(t, c, o, n)
}
