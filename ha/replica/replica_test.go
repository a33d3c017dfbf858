package replica_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/fsx"
)

func propose(n *node, text string, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _, err := n.r.Propose(ctx, item(text, size))
	return err
}

func TestBasics(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	for i := range 20 {
		res, index, err := n.r.Propose(context.Background(), item(fmt.Sprint(i), 1000))
		must(t, err)
		if res != i+1 {
			t.Errorf("result %v of proposal %d", res, i)
		}
		data, err := n.r.Log().ReadEntry(index, nil)
		if err != nil || len(data) != 1000 {
			t.Errorf("body of %d: %d bytes, %v", index, len(data), err)
		}
	}
	must(t, n.r.Confirm(context.Background()))
	o := c.other(n)
	c.eventually("the other replica has all", func() bool { return len(o.list.snapshot()) == 20 })
	if _, _, err := o.r.Propose(context.Background(), item("x", 0)); !errors.As(err, &replica.ErrNotServing{}) {
		t.Errorf("proposal to a follower: %v", err)
	}
	var e replica.ErrNotServing
	if err := o.r.Confirm(context.Background()); !errors.As(err, &e) || e.Name != n.name {
		t.Errorf("Confirm at a follower: %v", err)
	}
	if _, _, err := n.r.Propose(context.Background(), make([]byte, replica.MaxEntry+1)); !errors.Is(err, replica.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	s := n.r.Status()
	if s.State != "Leader" || !s.Serving || s.Leader != n.name || len(s.Peers) != 2 || !s.Peers[0].Alive || !s.Peers[1].Alive {
		t.Errorf("status %+v", s)
	}
}

func TestTransfer(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	o := c.other(n)
	var mu sync.Mutex
	var changes []bool
	n.r.Observe(func(s bool) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, s)
	})
	must(t, propose(n, "one", 100))
	start := time.Now()
	must(t, n.r.Transfer(context.Background(), ""))
	c.eventually("the other serves", o.r.Serving)
	took := time.Since(start)
	must(t, propose(o, "two", 100))
	t.Logf("transfer to serving: %v", took)
	if took > time.Second {
		t.Errorf("a planned transfer took %v", took)
	}
	if n.r.Serving() {
		t.Error("both serve")
	}
	mu.Lock()
	if !slices.Equal(changes, []bool{false}) {
		t.Errorf("observed %v", changes)
	}
	mu.Unlock()
	// A target that is away is refused before anything is stopped.
	c.kill(n.name)
	if err := o.r.Transfer(context.Background(), ""); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("transfer to a dead replica: %v", err)
	}
	must(t, propose(o, "three", 100))
}

// load keeps proposing with several clients until stop, to whoever serves, and
// returns what was acknowledged, by client. Unknown outcomes are not repeated.
func (c *cluster) load(clients int, stop <-chan struct{}) func() [][]string {
	acked := make([][]string, clients)
	var wg sync.WaitGroup
	nodes := []*node{c.nodes["a"], c.nodes["b"]}
	for k := range clients {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				text := fmt.Sprintf("%d-%d", k, i)
				n := nodes[i%2]
				if !n.r.Serving() {
					n = nodes[(i+1)%2]
				}
				if !n.r.Serving() {
					time.Sleep(time.Millisecond)
					continue
				}
				if propose(n, text, 2000) == nil {
					acked[k] = append(acked[k], text)
				}
			}
		})
	}
	return func() [][]string {
		wg.Wait()
		return acked
	}
}

// checkHistory checks that every acknowledged item is there exactly once, each
// client's in its order, and that nothing is there twice.
func checkHistory(t *testing.T, items []string, acked [][]string) {
	t.Helper()
	at := map[string]int{}
	for i, s := range items {
		if _, twice := at[s]; twice {
			t.Errorf("%s is there twice", s)
		}
		at[s] = i
	}
	total := 0
	for _, client := range acked {
		last := -1
		for _, s := range client {
			i, ok := at[s]
			if !ok {
				t.Fatalf("%s was acknowledged and is lost", s)
			}
			if i < last {
				t.Errorf("%s is out of order", s)
			}
			last = i
			total++
		}
	}
	t.Logf("%d acknowledged, %d there", total, len(items))
}

func (c *cluster) sameLists(a, b *node) {
	c.t.Helper()
	c.eventually("both replicas have the same", func() bool { return slices.Equal(a.list.snapshot(), b.list.snapshot()) })
}

func TestKillUnderLoad(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	stop := make(chan struct{})
	wait := c.load(16, stop)
	time.Sleep(300 * time.Millisecond)
	o := c.other(n)
	c.kill(n.name)
	c.eventually("the other serves", o.r.Serving)
	time.Sleep(300 * time.Millisecond)
	close(stop)
	acked := wait()
	checkHistory(t, o.list.snapshot(), acked)
	back := c.start(n.name, false)
	must(t, propose(o, "after", 10))
	c.sameLists(o, back)
	checkHistory(t, back.list.snapshot(), acked)
}

// TestWitnessLeads is the drill of a lost gap: A and W commit while B is away,
// A is lost, B comes back. Only W has what B lacks.
func TestWitnessLeads(t *testing.T) {
	c := newCluster(t, options{keep: true, segment: 1 << 20})
	n := c.serving()
	must(t, propose(n, "before", 100))
	b := c.other(n).name
	c.kill(b)
	var want []string
	for i := range 2000 {
		text := fmt.Sprint(i)
		want = append(want, text)
		if i%100 == 0 {
			must(t, propose(n, text, 3000))
		} else {
			go propose(n, text, 3000)
		}
	}
	c.eventually("all committed", func() bool { return len(n.list.snapshot()) == 2001 })
	all := n.list.snapshot()
	c.kill(n.name)
	back := c.start(b, false)
	start := time.Now()
	c.eventually("it serves", back.r.Serving)
	if got := back.list.snapshot(); !slices.Equal(got, all) {
		t.Errorf("%d of %d items after the witness led", len(got), len(all))
	}
	if h := c.nodes["w"].w.Status().Handed; h == 0 {
		t.Error("the witness did not hand over")
	}
	t.Logf("serving %v after the start", time.Since(start))
	must(t, propose(back, "after", 10))
	first := c.start(n.name, false)
	c.sameLists(back, first)
	if len(want)+2 != len(first.list.snapshot()) {
		t.Errorf("%d items at the end", len(first.list.snapshot()))
	}
}

// TestLease cuts the serving replica off without a sign: it must not confirm
// reads once the other one serves.
func TestLease(t *testing.T) {
	for round := range 2 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			c := newCluster(t, options{keep: true})
			n := c.serving()
			o := c.other(n)
			must(t, propose(n, "one", 100))
			must(t, n.r.Confirm(context.Background()))
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // a reader that never lets the lease go
				for {
					select {
					case <-stop:
						return
					default:
					}
					served := o.r.Serving()
					ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
					err := n.r.Confirm(ctx)
					cancel()
					if served && err == nil {
						t.Error("the old replica confirms a read while the new one serves")
						return
					}
					time.Sleep(100 * time.Microsecond)
				}
			})
			c.wire.isolate(n.name, []string{o.name, "w"}, true)
			c.eventually("the other serves", o.r.Serving)
			must(t, propose(o, "two", 100))
			time.Sleep(200 * time.Millisecond)
			close(stop)
			wg.Wait()
			if n.r.Serving() {
				t.Error("the replica that is cut off still thinks that it serves")
			}
			c.wire.isolate(n.name, []string{o.name, "w"}, false)
			c.sameLists(o, n)
		})
	}
}

// TestIdle checks that a pair without work writes nothing.
func TestIdle(t *testing.T) {
	c := newCluster(t, options{keep: true, timings: replica.Timings{Floor: 50 * time.Millisecond}})
	n := c.serving()
	must(t, propose(n, "one", 100))
	c.eventually("the floor is committed everywhere", func() bool {
		return n.r.Status().Floor > 0 && c.other(n).r.Status().Floor > 0 && c.nodes["w"].w.Status().Floor > 0
	})
	before := n.r.Log().Stats().Syncs
	time.Sleep(500 * time.Millisecond) // ten floor intervals
	if after := n.r.Log().Stats().Syncs; after != before {
		t.Errorf("an idle pair flushed %d times", after-before)
	}
	floor := n.r.Status().Floor
	must(t, propose(n, "two", 100))
	c.eventually("the floor moves", func() bool { return n.r.Status().Floor > floor })
}

// TestWitnessTrims checks W2: the witness's log follows the floor, and stands
// still while a data replica is away.
func TestWitnessTrims(t *testing.T) {
	c := newCluster(t, options{timings: replica.Timings{Floor: 20 * time.Millisecond, Snapshot: 30 * time.Millisecond}, segment: 256 << 10})
	n := c.serving()
	w := c.nodes["w"].w
	fill := func(entries int) {
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for range entries / 32 {
					if err := propose(n, "x", 4000); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	fill(3200)
	c.eventually("the witness trims", func() bool { return w.Status().First > 2000 })
	if s := w.Status(); s.First > s.Floor {
		t.Errorf("trimmed to %d, the floor is %d", s.First, s.Floor)
	}
	b := c.other(n).name
	c.kill(b)
	floor := w.Status().Floor
	fill(3200)
	time.Sleep(200 * time.Millisecond)
	s := w.Status()
	if s.Floor > floor+200 || s.First > s.Floor {
		t.Errorf("with a replica away the floor went from %d to %d, the first index to %d", floor, s.Floor, s.First)
	}
	if s.Last-s.First < 3000 {
		t.Errorf("the witness holds only %d to %d", s.First, s.Last)
	}
	segments := s.Segments
	back := c.start(b, false)
	c.eventually("it catches up", func() bool { return back.list.Applied() >= s.Last-10 })
	fill(1280)
	c.eventually("the witness trims again", func() bool { return w.Status().First > s.Last && w.Status().Segments < segments/2 })
}

// TestRestart checks that a stopped group comes back with everything, replay
// beginning at the snapshot.
func TestRestart(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	for i := range 50 {
		must(t, propose(n, fmt.Sprint(i), 500))
	}
	all := n.list.snapshot()
	c.stopAll()
	for _, name := range []string{"a", "b", "w"} {
		c.start(name, false)
	}
	n = c.serving()
	if got := n.list.snapshot(); !slices.Equal(got, all) {
		t.Errorf("%d of %d items after a restart", len(got), len(all))
	}
	must(t, propose(n, "more", 10))
	c.sameLists(n, c.other(n))
}

func TestShutdownHandsOver(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	o := c.other(n)
	must(t, propose(n, "one", 100))
	start := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		must(t, n.r.Shutdown(context.Background()))
	}()
	c.eventually("the other serves", o.r.Serving)
	t.Logf("the other serves %v after Shutdown was called", time.Since(start))
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("that took %v", took)
	}
	<-done
	must(t, propose(o, "two", 100))
}

func TestDirectory(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	must(t, propose(n, "one", 100))
	name := c.other(n).name
	cfg := c.config(name, false)
	c.stop(name)
	cfg.FSM = newList(t, filepath.Join(cfg.Dir, "state"), true)
	for what, tt := range map[string]struct {
		change func(*replica.Config)
		want   error
	}{
		"another id":                 {func(cfg *replica.Config) { cfg.ID, cfg.Peers[0].ID, cfg.Peers[1].ID = "x", "x", "y" }, voter.ErrIdentity},
		"another pair":               {func(cfg *replica.Config) { cfg.Pair = "pair2" }, voter.ErrIdentity},
		"a new directory, old group": {func(cfg *replica.Config) { cfg.Dir += "-new" }, voter.ErrNoDirectory},
	} {
		changed := cfg
		changed.Peers = slices.Clone(cfg.Peers)
		tt.change(&changed)
		if _, err := replica.New(changed); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A state that is older than the snapshot says: never skip entries.
	m, err := manifest.Open(fsx.OS, filepath.Join(cfg.Dir, "raft", "snapshots"), manifest.Data, cfg.ID, nil)
	must(t, err)
	k, err := m.Create(1, 2, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	_, err = k.Write(manifest.Note{Kind: manifest.Data, Origin: cfg.ID, Applied: 1 << 40}.Encode())
	must(t, err)
	must(t, k.Close())
	if _, err := replica.New(cfg); !errors.Is(err, replica.ErrReseed) {
		t.Errorf("state behind the snapshot: %v", err)
	}
}

// TestStrangers checks that a certificate of the same CA that is not of the
// pair, and none at all, reach nothing.
func TestStrangers(t *testing.T) {
	c := newCluster(t, options{})
	n := c.serving()
	addr := c.peer(n.name).Addr
	_, client := c.ca.issue(t, "pair2-x")
	client.ServerName = "127.0.0.1"
	for name, conf := range map[string]*tls.Config{
		"another pair's": client, "none": {RootCAs: c.ca.pool, ServerName: "127.0.0.1"},
	} {
		conn, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if k, err := conn.Read(make([]byte, 1)); k != 0 || err == nil {
			t.Errorf("%s certificate: an answer", name)
		}
		conn.Close()
	}
	must(t, propose(n, "x", 1))
}
