package sim

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/integration/history"
)

// world is one run.
type world struct {
	seed    uint64
	ca      *authority
	net     *network
	peers   []replica.Peer
	nodes   map[string]*node
	relays  []*relay
	history *history.History
	slog    *slog.Logger
	began   time.Time
	wg      sync.WaitGroup // everything besides the clients
	over    atomic.Bool    // nothing is started any more

	mu       sync.Mutex // guards what follows
	lines    []string
	problems []string
	counts   map[string]int
	coins    *rand.Rand
	letters  map[string]*letter // by what their subject says
}

// Parts of a run draw from generators of their own, so that one that draws more
// or less leaves the others as they were.
const (
	drawNemesis = 100 + iota
	drawCoins
	drawSession
	drawMailer = drawSession + 100
	drawDisk   = drawMailer + 100
)

func (w *world) rng(of uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, of)) }

// coin is one thing or the other.
func (w *world) coin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.coins.IntN(2) == 0
}

// note writes into the record of the run.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf("%10.4f ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
}

// problem notes what must not be.
func (w *world) problem(format string, args ...any) {
	w.note("PROBLEM "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

func (w *world) fine() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.problems) == 0
}

func (w *world) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

func (w *world) counted() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(w.counts)) {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d", k, w.counts[k])
	}
	return b.String()
}

// firstFault is when clients and faults begin, if somebody serves by then.
const firstFault = 5 * time.Second

// tooLong is a virtual time in which every run has ended.
const tooLong = 20 * time.Minute

// members of the pair, in the order in which they are made and judged.
var members = []string{"a", "b", "w"}

// run is one run, in virtual time.
func (w *world) run(t *testing.T, plan plan) {
	synctest.Test(t, func(*testing.T) {
		w.began, w.coins = time.Now(), w.rng(drawCoins)
		watch := time.AfterFunc(tooLong, func() {
			panic(fmt.Sprintf("seed %d has not ended after %v of its own time; the goroutines below say why", w.seed, tooLong))
		})
		defer watch.Stop()
		w.net = newNetwork(w.seed, append(slices.Clone(members), relayNames...)...)
		w.slog = w.logger()
		w.nodes = map[string]*node{}
		for i, name := range members {
			p := replica.Peer{ID: fmt.Sprintf("%016x", 0xa0+i), Name: name, Addr: name + raftPort, Witness: name == "w"}
			w.peers = append(w.peers, p)
			w.nodes[name] = &node{w: w, peer: p, disk: newDisk(w.rng(drawDisk + uint64(i)).Uint64())}
		}
		for _, name := range members {
			if err := w.nodes[name].create(); err != nil {
				w.problem("%s is not made: %v", name, err)
				return
			}
		}
		for _, name := range members {
			w.nodes[name].start()
		}
		for i, name := range relayNames {
			w.relays = append(w.relays, w.newRelay(name, w.rng(drawDisk+10+uint64(i)).Uint64()))
			w.relays[i].start()
		}
		if w.eventually("a replica serves", time.Minute, func() bool { return w.serving() != "" }) {
			time.Sleep(time.Until(w.began.Add(firstFault))) // whenever that was: the plan begins at the same time
			w.clients(plan)
		}
		if w.fine() {
			w.judge()
		}
		w.over.Store(true)
		for range 2 { // what a fault's end was about to start may have begun
			for _, r := range w.relays {
				r.stop()
			}
			for _, name := range members {
				w.nodes[name].stop()
			}
			w.wg.Wait()
		}
	})
}

// clients lets the clients work while faults come and go, and heals everything.
func (w *world) clients(plan plan) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range plan.sessions {
		s := &session{
			w: w, id: i, account: fmt.Sprintf("s%d@example.org", i%plan.mailboxes),
			rng: w.rng(drawSession + uint64(i)), at: members[i%2], patient: i%3 == 0, asking: make(chan struct{}, mostAsking),
		}
		wg.Go(func() { s.run(stop) })
	}
	for i := range plan.mailers {
		m := &mailer{w: w, id: i, rng: w.rng(drawMailer + uint64(i))}
		wg.Go(func() { m.run(stop) })
	}
	n := &nemesis{w: w, rng: w.rng(drawNemesis)}
	n.run(plan)
	w.peace()
	time.Sleep(3 * time.Second)
	close(stop)
	wg.Wait()
}

// peace ends all faults and starts what does not run.
func (w *world) peace() {
	w.note("peace")
	w.net.change(func() {
		for _, l := range w.net.links {
			*l = link{delay: 100 * time.Microsecond, jitter: 100 * time.Microsecond}
		}
		for _, h := range w.net.hosts {
			h.frozen = false
		}
	})
	for _, name := range members {
		if p := w.nodes[name].running(); p != nil {
			p.resume()
			p.m.stall.Store(0)
			p.m.failing.Store(false)
			p.m.disk.files.SetCapacity(0)
		}
	}
	w.eventually("all run", time.Minute, func() bool {
		for _, r := range w.relays {
			r.start()
		}
		for _, name := range members {
			w.nodes[name].start()
		}
		return !slices.ContainsFunc(members, func(name string) bool { return w.nodes[name].running() == nil })
	})
}

// serving is the name of the replica that serves, "" if there is none.
func (w *world) serving() string {
	for _, name := range []string{"a", "b"} {
		ok := false
		w.nodes[name].use(func(p *proc) { ok = p.replica.Serving() })
		if ok {
			return name
		}
	}
	return ""
}

// eventually waits until ok, and makes it a problem if it takes too long.
func (w *world) eventually(what string, limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	w.problem("not within %v: %s", limit, what)
	return false
}
