package replica_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/fsx"
)

func propose(n *node, text string, size int) error { return n.Propose(text, size) }

func TestBasics(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	for i := range 20 {
		res, index, err := n.R.Propose(context.Background(), item(fmt.Sprint(i), 1000))
		must(t, err)
		if res != i+1 {
			t.Errorf("result %v of proposal %d", res, i)
		}
		data, err := n.R.Log().ReadEntry(index, nil)
		if err != nil || len(data) != 1000 {
			t.Errorf("body of %d: %d bytes, %v", index, len(data), err)
		}
	}
	must(t, n.R.Confirm(context.Background()))
	o := c.Other(n)
	c.Eventually("the other replica has all", func() bool { return len(o.List.Items()) == 20 })
	if _, _, err := o.R.Propose(context.Background(), item("x", 0)); !errors.As(err, &replica.ErrNotServing{}) {
		t.Errorf("proposal to a follower: %v", err)
	}
	var e replica.ErrNotServing
	if err := o.R.Confirm(context.Background()); !errors.As(err, &e) || e.Name != n.Name {
		t.Errorf("Confirm at a follower: %v", err)
	}
	if _, _, err := n.R.Propose(context.Background(), make([]byte, replica.MaxEntry+1)); !errors.Is(err, replica.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	s := n.R.Status()
	if s.State != "Leader" || !s.Serving || s.Leader != n.Name || len(s.Peers) != 2 || !s.Peers[0].Alive || !s.Peers[1].Alive {
		t.Errorf("status %+v", s)
	}
}

func TestTransfer(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	o := c.Other(n)
	var mu sync.Mutex
	var changes []bool
	n.R.Observe(func(s bool) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, s)
	})
	must(t, propose(n, "one", 100))
	c.Eventually("the other has caught up", func() bool { return len(o.List.Items()) == 1 })
	start := time.Now()
	must(t, n.R.Transfer(context.Background(), ""))
	c.Eventually("the other serves", o.R.Serving)
	took := time.Since(start)
	must(t, propose(o, "two", 100))
	t.Logf("transfer to serving: %v", took)
	if took > time.Second {
		t.Errorf("a planned transfer took %v", took)
	}
	if n.R.Serving() {
		t.Error("both serve")
	}
	mu.Lock()
	if !slices.Equal(changes, []bool{false}) {
		t.Errorf("observed %v", changes)
	}
	mu.Unlock()
	// A target that is away is refused before anything is stopped.
	c.Kill(n.Name)
	if err := o.R.Transfer(context.Background(), ""); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("transfer to a dead replica: %v", err)
	}
	must(t, propose(o, "three", 100))
}

// TestTransferToNew hands over to a replica that was away long enough for raft to
// leave it alone for a while, as soon as it answers. Writes go on meanwhile.
func TestTransferToNew(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	o := c.Other(n)
	c.Kill(o.Name)
	// Few enough entries that it is a good target when it is back.
	few := time.NewTicker(50 * time.Millisecond)
	defer few.Stop()
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); <-few.C {
		must(t, propose(n, "away", 100))
	}
	o = c.Start(o.Name, false)
	var longest time.Duration
	moved := make(chan error, 1)
	go func() {
		var err error
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
			if err = n.R.Transfer(context.Background(), ""); !errors.Is(err, replica.ErrBehind) {
				break
			}
		}
		moved <- err
	}()
	for {
		start := time.Now()
		err := propose(n, "meanwhile", 100)
		longest = max(longest, time.Since(start))
		if err != nil {
			break // it has handed over
		}
		<-few.C
	}
	must(t, <-moved)
	c.Eventually("the other serves", o.R.Serving)
	must(t, propose(o, "after", 100))
	t.Logf("longest write before the hand-over: %v", longest)
}

// TestTransferBackAndForth hands over as soon as a replica serves, from both
// sides: at the end one of them serves.
func TestTransferBackAndForth(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	o := c.Other(n)
	var done atomic.Bool
	var moved atomic.Int64
	var wg sync.WaitGroup
	for _, n := range []*node{n, o} {
		wg.Go(func() {
			for !done.Load() {
				if n.R.Serving() && n.R.Transfer(context.Background(), "") == nil {
					moved.Add(1)
				}
				runtime.Gosched()
			}
		})
	}
	time.Sleep(3 * time.Second)
	c.Eventually("they have handed over ten times", func() bool { return moved.Load() >= 10 })
	done.Store(true)
	wg.Wait()
	must(t, c.Serving().Propose("one", 100))
	t.Logf("handed over %d times", moved.Load())
}

// load keeps proposing with several clients until stop, to whoever serves, and
// returns what was acknowledged, by client. Unknown outcomes are not repeated.
func load(c *cluster, clients int, stop <-chan struct{}) func() [][]string {
	acked := make([][]string, clients)
	var wg sync.WaitGroup
	nodes := []*node{c.Nodes["a"], c.Nodes["b"]}
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
				if !n.R.Serving() {
					n = nodes[(i+1)%2]
				}
				if !n.R.Serving() {
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

func sameLists(t *testing.T, c *cluster, a, b *node) {
	t.Helper()
	c.Eventually("both replicas have the same", func() bool { return slices.Equal(a.List.Items(), b.List.Items()) })
}

func TestKillUnderLoad(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	stop := make(chan struct{})
	wait := load(c, 16, stop)
	time.Sleep(300 * time.Millisecond)
	o := c.Other(n)
	c.Kill(n.Name)
	c.Eventually("the other serves", o.R.Serving)
	time.Sleep(300 * time.Millisecond)
	close(stop)
	acked := wait()
	checkHistory(t, o.List.Items(), acked)
	back := c.Start(n.Name, false)
	must(t, propose(o, "after", 10))
	sameLists(t, c, o, back)
	checkHistory(t, back.List.Items(), acked)
}

// TestLease cuts the serving replica off without a sign: it must not confirm
// reads once the other one serves.
func TestLease(t *testing.T) {
	for round := range 2 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			c := newCluster(t, options{Keep: true})
			n := c.Serving()
			o := c.Other(n)
			must(t, propose(n, "one", 100))
			c.Eventually("reads are confirmed", func() bool { return n.R.Confirm(context.Background()) == nil })
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { // a reader that never lets the lease go
				for {
					select {
					case <-stop:
						return
					default:
					}
					served := o.R.Serving()
					ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
					err := n.R.Confirm(ctx)
					cancel()
					if served && err == nil {
						t.Error("the old replica confirms a read while the new one serves")
						return
					}
					time.Sleep(100 * time.Microsecond)
				}
			})
			c.Wire.Isolate(n.Name, []string{o.Name, "w"}, true)
			c.Eventually("the other serves", o.R.Serving)
			must(t, propose(o, "two", 100))
			time.Sleep(200 * time.Millisecond)
			close(stop)
			wg.Wait()
			c.Eventually("the replica that is cut off knows that it does not serve", func() bool { return !n.R.Serving() })
			c.Wire.Isolate(n.Name, []string{o.Name, "w"}, false)
			sameLists(t, c, o, n)
		})
	}
}

// TestIdle checks that a pair without work writes nothing.
func TestIdle(t *testing.T) {
	c := newCluster(t, options{Keep: true, Timings: replica.Timings{Floor: 50 * time.Millisecond}})
	n := c.Serving()
	must(t, propose(n, "one", 100))
	c.Eventually("the floor is committed everywhere, behind all else", func() bool {
		var last raft.Log
		index, err := n.R.Log().LastIndex()
		if err == nil {
			err = n.R.Log().GetLog(index, &last)
		}
		_, behind := voter.ParseFloor(&last)
		return err == nil && behind && n.R.Status().Floor > 0 && c.Other(n).R.Status().Floor > 0 && c.Nodes["w"].W.Status().Floor > 0
	})
	before := n.R.Log().Stats().Syncs
	time.Sleep(500 * time.Millisecond) // ten floor intervals
	if after := n.R.Log().Stats().Syncs; after != before {
		t.Errorf("an idle pair flushed %d times", after-before)
	}
	floor := n.R.Status().Floor
	must(t, propose(n, "two", 100))
	c.Eventually("the floor moves", func() bool { return n.R.Status().Floor > floor })
}

// TestRestart checks that a stopped group comes back with everything, replay
// beginning at the snapshot.
func TestRestart(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	for i := range 50 {
		must(t, propose(n, fmt.Sprint(i), 500))
	}
	all := n.List.Items()
	c.StopAll()
	for _, name := range []string{"a", "b", "w"} {
		c.Start(name, false)
	}
	n = c.Serving()
	if got := n.List.Items(); !slices.Equal(got, all) {
		t.Errorf("%d of %d items after a restart", len(got), len(all))
	}
	must(t, propose(n, "more", 10))
	sameLists(t, c, n, c.Other(n))
}

func TestShutdownHandsOver(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	o := c.Other(n)
	must(t, propose(n, "one", 100))
	start := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		must(t, n.R.Shutdown(context.Background()))
	}()
	c.Eventually("the other serves", o.R.Serving)
	t.Logf("the other serves %v after Shutdown was called", time.Since(start))
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("that took %v", took)
	}
	<-done
	must(t, propose(o, "two", 100))
}

// TestShutdownStalled ends a replica whose state machine stands still for
// longer than the end waits for it: every proposal is answered all the same.
func TestShutdownStalled(t *testing.T) {
	if slow > 1 {
		t.Skip("waits for ten elections")
	}
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	must(t, propose(n, "one", 100))
	resume := n.List.Stall()
	const proposals = 100
	answers := make(chan error, proposals)
	for i := range proposals {
		go func() {
			_, _, err := n.R.Propose(context.Background(), item(fmt.Sprint(i), 100))
			answers <- err
		}()
	}
	before := n.R.Local().Last
	c.Eventually("all are in the log", func() bool { return n.R.Local().Last >= before+proposals })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		c.Stop(n.Name)
	}()
	time.Sleep(6 * time.Second)
	resume()
	<-stopped
	for i := range proposals {
		select {
		case err := <-answers:
			if err != nil && !errors.Is(err, replica.ErrUnknown) {
				t.Errorf("proposal: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%d of %d proposals have no answer", proposals-i, proposals)
		}
	}
}

func TestDirectory(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	n := c.Serving()
	must(t, propose(n, "one", 100))
	name := c.Other(n).Name
	cfg := c.Config(name, false)
	c.Stop(name)
	cfg.FSM = replicatest.NewList(t, filepath.Join(cfg.Dir, "state"), true)
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
	n := c.Serving()
	addr := c.Peer(n.Name).Addr
	_, client := c.CA.Issue(t, "pair2-x")
	client.ServerName = "127.0.0.1"
	for name, conf := range map[string]*tls.Config{
		"another pair's": client, "none": {RootCAs: c.CA.Pool, ServerName: "127.0.0.1"},
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

// TestShutdownBeforeRun: who ends a replica may come before the goroutine that
// runs it.
func TestShutdownBeforeRun(t *testing.T) {
	c := newCluster(t, options{Keep: true})
	c.StopAll()
	cfg := c.Config("a", false)
	cfg.FSM = replicatest.EmptyList(filepath.Join(c.Dir("a"), "state"))
	r, err := replica.New(cfg)
	must(t, err)
	must(t, r.Shutdown(t.Context()))
	must(t, r.Run(t.Context()))
	must(t, r.Shutdown(t.Context()))
}
