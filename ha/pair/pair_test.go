package pair

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var must = replicatest.Must

// group is a cluster whose data replicas give.
type group struct {
	*replicatest.Cluster
	t    *testing.T
	rate int64
	all  int64 // octets of the copy that is given
	mu   sync.Mutex
	srcs []*Source
}

func newGroup(t *testing.T, rate int64) *group {
	g := &group{t: t, rate: rate}
	g.Cluster = replicatest.New(t, replicatest.Options{
		Keep: true, Create: true, Segment: 256 << 10, State: "meta/state", Edit: g.edit,
		Timings: replica.Timings{Floor: 200 * time.Millisecond},
	})
	t.Cleanup(func() {
		g.StopAll()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, s := range g.srcs {
			s.Close()
		}
	})
	return g
}

func nodeOf(cs tls.ConnectionState) (string, error) {
	return strings.TrimPrefix(cs.PeerCertificates[0].Subject.CommonName, "pair1-"), nil
}

// edit lets a data replica give.
func (g *group) edit(n *replicatest.Node, cfg *replica.Config) {
	cfg.NodeOf = nodeOf
	if n.Name == "w" {
		return
	}
	var src atomic.Pointer[Source]
	dir := cfg.Dir
	cfg.Stream = func(ctx context.Context, from string, s *raftnet.Stream) error {
		if src.Load() == nil {
			made := NewSource(SourceConfig{
				Dir: dir, Rate: g.rate,
				Checkpoint: func(dir string) error { return n.List.Checkpoint(dir, "state") },
				Applied:    n.List.Applied,
				CopyLog:    func(dir string) (uint64, error) { return n.R.Log().CopyTo(dir) },
				Base:       func(witness bool) (voter.Base, error) { return n.R.Base(witness) },
				Renew: func(ctx context.Context, from string, self Peer) (list []Peer, err error) {
					if err := n.R.ReplaceMember(ctx, from, self); err != nil {
						return nil, err
					}
					for _, m := range n.R.Configured() {
						if m.ID != self.ID {
							list = append(list, m.Peer)
						}
					}
					return list, nil
				},
			})
			g.mu.Lock()
			g.srcs = append(g.srcs, made)
			g.mu.Unlock()
			src.Store(made)
		}
		return src.Load().Serve(ctx, from, s)
	}
}

// lose kills a member and removes its directory.
func (g *group) lose(name string) replica.Peer {
	g.t.Helper()
	old := g.Peer(name)
	g.Kill(name)
	must(g.t, os.RemoveAll(g.Dir(name)))
	return old
}

// peers lists the members as the serving replica has them.
func (g *group) peers() (list []Peer) {
	for _, m := range g.Serving().R.Members(context.Background()) {
		list = append(list, m.Peer)
	}
	return list
}

// join makes the directory of a new member in the place of one that was lost,
// and adds it to the group.
func (g *group) join(name string, old replica.Peer) {
	g.t.Helper()
	self := old
	self.ID = ""
	m, err := Join(fsx.OS, g.Dir(name), "pair1", self, g.peers(), "")
	must(g.t, err)
	g.Rename(name, m.Self.ID)
	if _, err := voter.Open(g.config(name), voter.Role{}); !errors.Is(err, voter.ErrSeeding) {
		g.t.Fatalf("a directory that is being seeded was opened: %v", err)
	}
	must(g.t, g.Serving().R.AddMember(context.Background(), g.Peer(name)))
}

func (g *group) config(name string) voter.Config {
	cfg := g.Config(name, false).Config
	cfg.NodeOf = nodeOf
	return cfg
}

// puller makes one for a member, on its port.
func (g *group) puller(name string, edit func(*PullerConfig)) (p *Puller, closePort func()) {
	g.t.Helper()
	c := g.config(name)
	l, err := net.Listen("tcp", c.Bind)
	must(g.t, err)
	port, err := raftnet.NewPort(l, c.ServerTLS, c.Authorize, slog.New(slog.DiscardHandler))
	must(g.t, err)
	pc := PullerConfig{
		Dir: c.Dir, Port: port, ClientTLS: c.ClientTLS, Authorize: c.Authorize, NodeOf: nodeOf, Dial: c.Dial,
		note: 64 << 10, pause: 10 * time.Millisecond,
	}
	if edit != nil {
		edit(&pc)
	}
	p, err = NewPuller(pc)
	must(g.t, err)
	return p, func() { must(g.t, port.Close()) }
}

// pull runs a puller for a member until ctx ends or it is complete.
func (g *group) pull(ctx context.Context, name string, edit func(*PullerConfig)) error {
	g.t.Helper()
	p, done := g.puller(name, edit)
	defer done()
	return p.Run(ctx)
}

// evict takes a member that is lost out of the group.
func (g *group) evict(old replica.Peer) {
	g.t.Helper()
	must(g.t, g.Serving().R.RemoveMember(context.Background(), replica.Removal{ID: old.ID, Dead: true, OneCopy: true}))
}

// voting waits until a member has its vote.
func (g *group) voting(name string) {
	g.t.Helper()
	g.Eventually(name+" votes", func() bool {
		for _, m := range g.Serving().R.Members(context.Background()) {
			if m.ID == g.Peer(name).ID && m.Voter {
				return true
			}
		}
		return false
	})
}

// same waits until both data replicas hold the same items.
func (g *group) same(want int) {
	g.t.Helper()
	g.Eventually("both replicas hold the same", func() bool {
		a, b := g.Nodes["a"].List.Items(), g.Nodes["b"].List.Items()
		return len(a) >= want && slices.Equal(a, b)
	})
}

func (g *group) fill(from, n, size int) {
	g.t.Helper()
	for i := range n {
		text := fmt.Sprint("item ", from+i)
		for tries := 0; ; tries++ { // a busy machine is taken for a dead one now and then
			err := g.Serving().Propose(text, size)
			if err == nil {
				break
			}
			if tries == 5 {
				g.t.Fatal(err)
			}
		}
	}
}

// TestReplaceData loses a data replica and makes another in its place while
// entries come in.
func TestReplaceData(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 200, 8<<10)
	old := g.lose("a")
	g.fill(200, 50, 8<<10)
	g.evict(old)
	g.join("a", old)
	stop, done, b := make(chan struct{}), make(chan int), g.Nodes["b"]
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			if b.Propose(fmt.Sprint("during ", n), 1000) == nil {
				n++
			}
		}
	}()
	must(t, g.pull(context.Background(), "a", nil))
	g.Start("a", false)
	g.voting("a")
	close(stop)
	during := <-done
	g.same(250 + during)
	if during == 0 {
		t.Error("nothing came in while it was seeded")
	}
	// The body of every entry is here, also of those before the checkpoint.
	log := g.Nodes["a"].R.Log()
	last, err := log.LastIndex()
	must(t, err)
	for i := uint64(1); i <= last; i++ {
		if _, err := log.ReadEntry(i, nil); err != nil {
			t.Fatalf("entry %d of the new member: %v", i, err)
		}
	}
	// It can serve.
	must(t, g.Nodes["b"].R.Transfer(context.Background(), g.Peer("a").ID))
	g.Eventually("the new member serves", func() bool { return g.Nodes["a"].R.Serving() })
	g.fill(1000, 20, 100)
	// And carry the pair with the witness.
	g.Kill("b")
	g.Eventually("it serves alone", func() bool { return g.Nodes["a"].R.Serving() })
	g.fill(1020, 20, 100)
	g.Start("b", false)
	g.same(290 + during)
	if _, err := os.Stat(filepath.Join(g.Dir("b"), seedDir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestReplaceWitness loses the witness and makes another in its place; a data
// replica that was away all the time is brought up to date by it.
func TestReplaceWitness(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 100, 4<<10)
	old := g.lose("w")
	g.evict(old)
	g.fill(100, 20, 100)
	g.join("w", old)
	must(t, g.pull(context.Background(), "w", nil))
	g.Start("w", false)
	g.voting("w")
	g.fill(120, 20, 100)
	s := g.Serving()
	other := g.Other(s).Name
	g.Kill(other)
	g.fill(140, 50, 4<<10) // by s and the new witness
	g.Kill(s.Name)
	g.Start(other, false)
	g.Eventually("the one that was away serves", func() bool { return g.Nodes[other].R.Serving() })
	if n := len(g.Nodes[other].List.Items()); n < 190 {
		t.Errorf("%d of 190 items", n)
	}
	g.Start(s.Name, false)
	g.same(190)
}

// TestInterrupted ends the receiver and the giver again and again; what was
// fetched is not fetched again.
func TestInterrupted(t *testing.T) {
	const rate = 2 << 20
	g := newGroup(t, rate)
	g.fill(0, 300, 8<<10)
	old := g.lose("a")
	g.evict(old)
	g.join("a", old)
	// Entries that are no commands may lie between what the state machine has
	// applied, which is where a checkpoint ends, and an older floor.
	joined := g.Serving().R.Local().Floor
	bytes := int64(0)
	for i := range 4 {
		p, done := g.puller("a", nil)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		g.Eventually("it gets on", func() bool { return p.Progress().Bytes >= bytes+200<<10 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("ended early: %v", err)
		}
		done()
		m, err := ReadMarker(fsx.OS, g.Dir("a"))
		must(t, err)
		had := bytes
		bytes = g.durable(m)
		if bytes <= had {
			t.Errorf("round %d: %d octets are durable, %d were", i, bytes, had)
		}
		if i == 0 { // the floor waits for it at its checkpoint
			g.fill(300, 20, 100)
			p, done := g.puller("a", nil)
			must(t, p.listen(*m))
			time.Sleep(replicatest.Slow * 600 * time.Millisecond)
			g.fill(320, 1, 100)
			time.Sleep(replicatest.Slow * 600 * time.Millisecond)
			if floor := g.Serving().R.Local().Floor; floor > max(m.Applied, joined) || m.Applied == 0 {
				t.Errorf("the floor is %d, the checkpoint ends at %d", floor, m.Applied)
			}
			must(t, p.net.Close())
			done()
		}
		if i == 1 { // the giver restarts, and goes on giving the same copy
			g.Stop("b")
			g.Start("b", false)
			g.Serving()
		}
	}
	began := time.Now()
	must(t, g.pull(context.Background(), "a", nil))
	left := g.total() - bytes
	if least := time.Duration(float64(left-1<<20) / rate * float64(time.Second)); time.Since(began) < least {
		t.Errorf("%d octets in %v: the rate is not bounded", left, time.Since(began))
	}
	g.Start("a", false)
	g.voting("a")
	g.same(321)
	names, err := os.ReadDir(filepath.Join(g.Dir("b"), seedDir))
	if err == nil && len(names) > 0 {
		t.Errorf("the giver keeps %d frozen copies", len(names))
	}
}

// offered reads the offer of the one frozen copy at b.
func (g *group) offered() *offer {
	names, err := filepath.Glob(filepath.Join(g.Dir("b"), seedDir, "*", offerName))
	must(g.t, err)
	if len(names) != 1 {
		g.t.Fatalf("%d frozen copies", len(names))
	}
	data, err := os.ReadFile(names[0])
	must(g.t, err)
	var s stored
	must(g.t, json.Unmarshal(data, &s))
	return &s.Offer
}

func (g *group) total() int64 {
	if g.all == 0 {
		g.all = g.offered().total()
	}
	return g.all
}

// durable is how many octets a marker vouches for.
func (g *group) durable(m *Marker) int64 {
	o := g.offered()
	g.all = o.total()
	n := m.Offset
	for _, f := range o.Files[:m.Done] {
		n += f.Size
	}
	return n
}

// TestPowerCut cuts the power of the receiver at many moments. What is left is
// either a directory that is not opened and is filled further, or a whole one.
func TestPowerCut(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 60, 8<<10)
	old := g.lose("a")
	g.evict(old)
	g.join("a", old)
	first, err := ReadMarker(fsx.OS, g.Dir("a"))
	must(t, err)
	begin := func() *faultfs.FS {
		fsys := faultfs.New(1)
		must(t, fsx.MkdirAllSync(fsys, g.Dir("a"), 0o700))
		m := *first
		must(t, m.write(fsys, g.Dir("a")))
		must(t, voter.WriteID(fsys, g.Dir("a"), m.Pair, m.Self.ID))
		return fsys
	}
	pull := func(fsys *faultfs.FS) error {
		p, done := g.puller("a", func(c *PullerConfig) { c.FS = fsys; c.pause = time.Millisecond })
		defer done()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended := make(chan struct{})
		go func() {
			for ; ; time.Sleep(time.Millisecond) {
				select {
				case <-ended:
					return
				default:
				}
				if strings.Contains(p.Progress().Err, faultfs.ErrCrashed.Error()) {
					cancel()
				}
			}
		}()
		defer close(ended)
		return p.Run(ctx)
	}
	whole := begin()
	from := whole.Ops()
	must(t, pull(whole))
	ops, cuts, opened := whole.Ops(), 12, 0
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		cuts = 200
	}
	for i := range cuts {
		fsys := begin()
		n := from + 1 + i*(ops-from)/cuts
		if i >= cuts-4 {
			n = ops - (cuts - 1 - i) // around the end
		}
		fsys.CrashAfter(n)
		err := pull(fsys)
		if err == nil && n < ops-1 {
			t.Fatalf("cut after %d of %d operations: complete all the same", n, ops)
		}
		disk := fsys.Crash(uint64(i))
		if g.complete(disk) {
			opened++
			continue
		}
		must(t, pull(disk))
		if !g.complete(disk) {
			t.Fatalf("cut after %d of %d operations: not complete in the end", n, ops)
		}
	}
	t.Logf("%d of %d power cuts left a complete directory, of %d operations", opened, cuts, ops-from)
	if opened == cuts {
		t.Error("every cut came too late")
	}
}

// complete reports whether a directory can be opened. One that can is whole.
func (g *group) complete(disk *faultfs.FS) bool {
	g.t.Helper()
	c := g.config("a")
	c.FS, c.OnFatal, c.Bootstrap, c.Log = disk, func(error) {}, false, nil
	v, err := voter.Open(c, voter.Role{Kind: manifest.Data})
	if errors.Is(err, voter.ErrSeeding) {
		return false
	}
	if err != nil {
		g.t.Fatalf("neither being seeded nor whole: %v", err)
	}
	defer func() { must(g.t, v.Stop()) }()
	last, err := v.Log().LastIndex()
	must(g.t, err)
	for i := uint64(1); i <= last; i++ {
		if _, err := v.Log().ReadEntry(i, nil); err != nil {
			g.t.Fatalf("entry %d: %v", i, err)
		}
	}
	state, err := fsx.ReadFile(disk, filepath.Join(c.Dir, metaDir, "state"))
	must(g.t, err)
	var s struct {
		Items   []string
		Applied uint64
	}
	must(g.t, json.Unmarshal(state, &s))
	if len(s.Items) < 60 || s.Applied > last || s.Applied == 0 {
		g.t.Fatalf("%d items up to entry %d, the log ends at %d", len(s.Items), s.Applied, last)
	}
	return true
}

// TestStrangerGetsNothing asks for a copy without being a member.
func TestStrangerGetsNothing(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 10, 100)
	old := g.lose("a")
	g.evict(old)
	self := old
	self.ID = ""
	m, err := Join(fsx.OS, g.Dir("a"), "pair1", self, g.peers(), "")
	must(t, err)
	g.Rename("a", m.Self.ID)
	p, done := g.puller("a", nil)
	defer done()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	g.Eventually("it is refused", func() bool { return p.Progress().Err != "" })
	time.Sleep(300 * time.Millisecond)
	cancel()
	<-ended
	if g := p.Progress(); g.Bytes != 0 || g.Total != 0 {
		t.Errorf("it was given %d of %d octets", g.Bytes, g.Total)
	}
	if _, err := os.Stat(filepath.Join(g.Dir("b"), seedDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a copy was made for a stranger: %v", err)
	}
}

// TestDamaged has the giver's copy damaged on the way: it is not taken.
func TestDamaged(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 100, 8<<10)
	old := g.lose("a")
	g.evict(old)
	g.join("a", old)
	damage := 0
	must(t, g.pull(context.Background(), "a", func(c *PullerConfig) {
		c.Check = func(dir string) error {
			if damage++; damage == 1 {
				return errors.New("not what its digest says")
			}
			return nil
		}
	}))
	if damage != 2 {
		t.Errorf("checked %d times", damage)
	}
	g.Start("a", false)
	g.voting("a")
	g.same(100)
}
