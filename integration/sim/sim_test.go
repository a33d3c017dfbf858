//go:debug randseednop=0

package sim

import (
	"flag"
	"fmt"
	"math/rand"
	"runtime"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/integration/history"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed only")
	seeds   = flag.Int("seeds", 50, "run the seeds from 1 to this one; the nightly run has 1,000")
	verbose = flag.Bool("log", false, "with what the product logs")
)

const (
	// checkTime bounds the search for an order of one mailbox's history, which takes
	// milliseconds.
	checkTime = time.Minute

	// seedTime is the processor time that a seed may take on the average, with the
	// race detector and beside other work. Without them it takes 0.6 s.
	seedTime = 12 * time.Second
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // less processor time, for memory that a run has
	goleak.VerifyTestMain(m)
}

// found are seeds that have found something, in the product or in the judge, and
// are run whatever the number of seeds.
var found = []uint64{
	810, // a member whose end left a goroutine
	889, // a process that was stopped before it ran, taken for one that failed
	990, // two dozen changes without an answer as all power went: no order was found in time
}

// TestSeeds runs the seeds from 1 on.
func TestSeeds(t *testing.T) {
	ca := newAuthority(t, append(members, relayNames...)...)
	if *oneSeed > 0 {
		runtime.GOMAXPROCS(1) // fewer orders in which goroutines can run
		//lint:ignore SA1019 raft draws from this generator; see randseednop above
		rand.Seed(int64(*oneSeed))
		runSeed(t, ca, *oneSeed, usual)
		return
	}
	var list []uint64
	for seed := uint64(1); seed <= uint64(*seeds); seed++ {
		list = append(list, seed)
	}
	for _, seed := range found {
		if seed > uint64(*seeds) {
			list = append(list, seed)
		}
	}
	began := processorTime(t)
	t.Run("all", func(t *testing.T) {
		for _, seed := range list {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				runSeed(t, ca, seed, usual)
			})
		}
	})
	took := (processorTime(t) - began) / time.Duration(len(list))
	t.Logf("%d seeds, each %v of processor time", len(list), took.Round(time.Millisecond))
	if took > seedTime {
		t.Errorf("a seed takes %v of processor time, over %v: a run of CI would be too long", took, seedTime)
	}
}

// processorTime is what this process has used.
func processorTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestPauses runs seeds in which processes are frozen, and nothing else happens: a
// replica that goes on has no lease any more, whatever it believed before.
func TestPauses(t *testing.T) {
	ca := newAuthority(t, append(members, relayNames...)...)
	for seed := uint64(1); seed <= 10; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runSeed(t, ca, seed, plan{sessions: 9, mailboxes: 3, faults: 10 * time.Second, only: "freeze"})
		})
	}
}

// usual is what a seed of TestSeeds is made of.
var usual = plan{sessions: 9, mailboxes: 3, mailers: 3, faults: 20 * time.Second}

func runSeed(t *testing.T, ca *authority, seed uint64, p plan) {
	w := &world{seed: seed, ca: ca, history: history.New(), counts: map[string]int{}, letters: map[string]*letter{}}
	start := time.Now()
	w.run(t, p)
	if err := w.history.Check(checkTime); err != nil {
		w.problems = append(w.problems, err.Error())
	}
	t.Logf("seed %d: %v; %s", seed, time.Since(start).Round(time.Millisecond), w.counted())
	if len(w.problems) == 0 && *oneSeed == 0 {
		return
	}
	for _, line := range w.lines {
		t.Log(line)
	}
	for _, p := range w.problems {
		t.Error(p)
	}
	if t.Failed() {
		again := fmt.Sprintf("-run TestSeeds -seed %d", seed)
		if p.only != "" {
			again = fmt.Sprintf("-run %q", "^"+t.Name()+"$")
		}
		t.Errorf("seed %d failed; again: go test ./integration/sim %s -v", seed, again)
	}
}
