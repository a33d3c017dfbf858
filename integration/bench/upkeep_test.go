package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/admin"
)

var (
	rounds  = flag.Int("rounds", 0, "pairs of windows, without and with upkeep; 0: nightly only")
	windows = flag.Duration("window", 2*time.Second, "length of a window")
)

// judgedRounds is how many pairs of windows there have to be for their ratio to
// be judged.
const judgedRounds = 6

// Upkeep beside deliveries.
const (
	upkeepUsers   = 20
	deletedUsers  = 11 // of them; their mail is all deleted before each pair of windows
	upkeepMessage = 10 << 10
	enoughForNote = 17_000          // entries after which a replica notes that its rows are on the disk
	noteWithin    = 3 * time.Minute // several times the longest time between two notes
)

// TestUpkeep delivers to a whole pair in windows, by turns without upkeep and
// while both replicas compact and scrub all the time, at the rate of an
// installation. Before each pair of windows the mail of half of the users is
// deleted and all clocks go on by two hours, so that segments are due.
func TestUpkeep(t *testing.T) {
	n := *rounds
	if n == 0 && os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	} else if n == 0 {
		n = judgedRounds
	}
	b := newUpkeepBench(t)
	var ratios []float64
	tab := newTable()
	tab.row("round", "alone, msg/s", "with upkeep, msg/s", "ratio", "segments rewritten", "MB freed", "MB scrubbed")
	t.Cleanup(func() { t.Log(tab) })
	for i := 0; len(ratios) < n; i++ {
		if i == 2*n {
			t.Fatalf("%d of %d rounds without a hand-over", len(ratios), i)
		}
		b.age()
		// Every second pair the other way round: what grows slower with the store
		// is not counted as upkeep's.
		var alone, beside float64
		var did upkeepWork
		b.refused = 0
		if i%2 == 0 {
			alone, beside = b.window(nil), b.window(&did)
		} else {
			beside, alone = b.window(&did), b.window(nil)
		}
		if b.refused > 0 {
			t.Logf("round %d is not counted: %d messages refused, as when the other replica takes over", i, b.refused)
			continue
		}
		if did.rewritten < 2 || did.freed == 0 || did.scrubbed == 0 {
			t.Errorf("round %d: upkeep had nothing to do: %+v", i, did)
		}
		ratios = append(ratios, beside/alone)
		tab.row(i, alone, beside, beside/alone, did.rewritten, did.freed/1e6, did.scrubbed/1e6)
		t.Logf("round %d: %.0f and %.0f msg/s, ratio %.3f", i, alone, beside, beside/alone)
	}
	slices.Sort(ratios)
	median := ratios[len(ratios)/2]
	if len(ratios)%2 == 0 {
		median = (median + ratios[len(ratios)/2-1]) / 2
	}
	t.Logf("with upkeep %.3f of the rate alone (median of %d), %.3f to %.3f", median, len(ratios), ratios[0], ratios[len(ratios)-1])
	if len(ratios) >= judgedRounds && median < 0.9 {
		t.Errorf("upkeep costs %.1f %% of the rate, 10 %% is allowed", 100*(1-median))
	}
}

// upkeepBench is a pair whose clocks can be set on.
type upkeepBench struct {
	t       *testing.T
	c       *cluster.Cluster
	clock   string // file with the seconds that the clocks are ahead
	ahead   int
	serving cluster.Node
	data    []cluster.Node
	users   []string
	refused int // messages of the round

	mu sync.Mutex // guards what upkeepWork counts
}

func newUpkeepBench(t *testing.T) *upkeepBench {
	t.Helper()
	b := &upkeepBench{t: t, clock: filepath.Join(t.TempDir(), "clock")}
	bin := t.TempDir()
	if out, err := exec.Command("../tools/skewclock", bin).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.setClock()
	t.Setenv("POSTERN_DRILL_CLOCK", b.clock)
	b.c = cluster.StartFrom(t, bin, "--relays", "1", "--users", fmt.Sprint(upkeepUsers), "--bench-ports")
	for _, n := range b.c.Info().Pairs[0].Nodes {
		if n.Role == "data" {
			b.data = append(b.data, n)
			configure(t, b.c, n, "\nupkeep:\n    undelete: 1h\n    compact_every: \"0\"\n    scrub_every: \"0\"\nsnapshots:\n    every: \"0\"\n")
		}
	}
	b.serving = nodeOf(t, b.c)
	for _, u := range b.c.Info().Users {
		b.users = append(b.users, u.Address)
	}
	return b
}

// configure adds sections to the configuration of a node and restarts it.
func configure(t *testing.T, c *cluster.Cluster, n cluster.Node, sections string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(n.Dir, "*.yaml"))
	if err != nil || len(files) != 1 {
		t.Fatalf("configuration of %s: %v, %v", n.Name, files, err)
	}
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(sections); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"stop", "start"} {
		if out, err := c.Postern("node", step, n.Name); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c.AwaitServing(pairOf(c, n), 20*time.Second)
}

// setClock is read by the programs every tenth of a second.
func (b *upkeepBench) setClock() {
	b.t.Helper()
	tmp := b.clock + ".new"
	err := os.WriteFile(tmp, []byte(fmt.Sprint(b.ahead)), 0o600)
	if err == nil {
		err = os.Rename(tmp, b.clock)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *upkeepBench) load() cluster.Load {
	return cluster.Load{
		Senders: *sessions, Addrs: func() []string { return []string{b.serving.LMTP} }, LMTP: true,
		Recipients: b.users, Size: upkeepMessage, Timeout: time.Minute,
	}
}

// fill delivers n messages, on a busy machine with a hand-over in between.
func (b *upkeepBench) fill(n int) {
	b.t.Helper()
	for try := 0; n > 0; try++ {
		if try == 5 {
			b.t.Fatalf("%d messages are still refused", n)
		}
		b.serving = nodeOf(b.t, b.c)
		load, led := b.load(), cluster.NewLedger()
		load.Messages = n
		load.Run(led, nil)
		ok, _, _ := led.Counts()
		n -= ok
	}
}

// age delivers so much that raft makes a note, deletes mail, lets time go by and waits until there are segments that may
// be compacted on both replicas.
func (b *upkeepBench) age() {
	b.t.Helper()
	b.fill(enoughForNote)
	var wg sync.WaitGroup
	for _, u := range b.users[:deletedUsers] {
		wg.Go(func() { b.empty(u) })
	}
	wg.Wait()
	b.ahead += 2 * 3600
	b.setClock()
	for _, n := range b.data {
		wg.Go(func() {
			b.trim(n)
			client := admin.NewUnixClient(n.Admin)
			b.job(client, admin.UpkeepTask{Task: admin.TaskSnapshot, Name: fmt.Sprintf("at%d", b.ahead)})
			if b.ahead > 2*3600 {
				b.job(client, admin.UpkeepTask{Task: admin.TaskRemove, Name: fmt.Sprintf("at%d", b.ahead-2*3600)})
			}
		})
	}
	wg.Wait()
}

// trim waits until raft forgets more of a replica's log. What a pass may compact
// meanwhile ends at the snapshot before.
func (b *upkeepBench) trim(n cluster.Node) {
	client := admin.NewUnixClient(n.Admin)
	before := b.status(client).First
	for deadline := time.Now().Add(noteWithin); ; time.Sleep(200 * time.Millisecond) {
		b.job(client, admin.UpkeepTask{Task: admin.TaskCompact})
		if b.status(client).First > before {
			return
		}
		if time.Now().After(deadline) {
			b.t.Errorf("%s: the first index stays at %d", n.Name, before)
			return
		}
	}
}

func (b *upkeepBench) status(client *admin.Client) admin.GroupStatus {
	s, err := admin.Call(b.t.Context(), client, admin.GetStatus, admin.None{})
	if err != nil || len(s.Groups) != 1 || s.Groups[0].Upkeep == nil {
		b.t.Errorf("status: %+v, %v", s, err)
		return admin.GroupStatus{Upkeep: &admin.Upkeep{}}
	}
	return s.Groups[0]
}

// empty removes all messages of a user.
func (b *upkeepBench) empty(user string) {
	c, err := imapclient.DialInsecure(b.serving.IMAP, nil)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer c.Close()
	err = c.Login(user, "secret").Wait()
	if err == nil {
		_, err = c.Select("INBOX", nil).Wait()
	}
	if err == nil {
		err = c.Store(imap.SeqSet{{Start: 1}}, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Silent: true, Flags: []imap.Flag{imap.FlagDeleted}}, nil).Close()
	}
	if err == nil {
		err = c.Expunge().Close()
	}
	if err != nil {
		b.t.Errorf("%s: %v", user, err)
	}
}

// upkeepWork is what both replicas did in a window.
type upkeepWork struct{ rewritten, freed, scrubbed int64 }

// window returns the rate of deliveries, beside upkeep if did is there. What
// upkeep has begun in the window it ends after it.
func (b *upkeepBench) window(did *upkeepWork) float64 {
	b.t.Helper()
	b.serving = nodeOf(b.t, b.c)
	ctx, cancel := context.WithCancel(b.t.Context())
	var wg sync.WaitGroup
	if did != nil {
		for _, n := range b.data {
			wg.Go(func() { b.compactAll(ctx, n, did) })
			wg.Go(func() { b.scrubAll(ctx, n, did) })
		}
	}
	led, stop := cluster.NewLedger(), make(chan struct{})
	begun := time.Now()
	timer := time.AfterFunc(*windows, func() { close(stop) })
	defer timer.Stop()
	b.load().Run(led, stop)
	took := time.Since(begun)
	cancel()
	wg.Wait()
	ok, refused, unknown := led.Counts()
	if ok == 0 {
		b.t.Fatalf("%d acknowledged, %d refused, %d unknown", ok, refused, unknown)
	}
	b.refused += refused + unknown
	return float64(ok) / took.Seconds()
}

// compactAll has a replica compact again and again until ctx ends.
func (b *upkeepBench) compactAll(ctx context.Context, n cluster.Node, did *upkeepWork) {
	client := admin.NewUnixClient(n.Admin)
	for ctx.Err() == nil {
		out := b.job(client, admin.UpkeepTask{Task: admin.TaskCompact})
		var rewrote, looked, freed int64
		if _, err := fmt.Sscanf(out, "%d of %d segments rewritten, %d octets freed", &rewrote, &looked, &freed); err != nil {
			b.t.Errorf("%q: %v", out, err)
		}
		b.mu.Lock()
		did.rewritten, did.freed = did.rewritten+rewrote, did.freed+freed
		b.mu.Unlock()
	}
}

// scrubAll has a replica read its store again and again until ctx ends.
func (b *upkeepBench) scrubAll(ctx context.Context, n cluster.Node, did *upkeepWork) {
	client := admin.NewUnixClient(n.Admin)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			b.job(client, admin.UpkeepTask{Task: admin.TaskScrub})
		}
	})
	read := int64(0)
	for last := b.status(client).Upkeep.Scrub.Octets; ctx.Err() == nil; {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		now := b.status(client).Upkeep.Scrub.Octets
		if now < last { // another pass
			last = 0
		}
		read, last = read+now-last, now
	}
	b.mu.Lock()
	did.scrubbed += read
	b.mu.Unlock()
	wg.Wait()
}

// job has a replica do a task, waits for its end and returns its result.
func (b *upkeepBench) job(client *admin.Client, task admin.UpkeepTask) string {
	task.Pair = "pair1"
	job, err := admin.Call(b.t.Context(), client, admin.UpkeepRun, task)
	for err == nil && job.State == "running" {
		time.Sleep(50 * time.Millisecond)
		job, err = admin.Call(b.t.Context(), client, admin.UpkeepPoll, admin.UpkeepQuery{Pair: task.Pair, Task: task.Task})
	}
	if err != nil || job.State != "done" {
		b.t.Errorf("%+v: %+v, %v", task, job, err)
	}
	return job.Result
}
