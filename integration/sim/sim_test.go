//go:debug randseednop=0

package sim

import (
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/integration/history"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed only")
	seeds   = flag.Int("seeds", 0, "run so many seeds; 0: as CI or the nightly run does")
	verbose = flag.Bool("log", false, "with what the product logs")
)

const (
	seedsCI      = 50
	seedsNightly = 1000

	// timeCI is the time after which CI begins no further seed: a minute more than
	// all take on two cores that do nothing else.
	timeCI = 2 * time.Minute
)

// checkTime bounds the search for an order of one mailbox's history.
func checkTime() time.Duration {
	if nightly() {
		return 2 * time.Minute
	}
	return 15 * time.Second
}

func nightly() bool { return os.Getenv("POSTERN_NIGHTLY") != "" }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSeeds runs the seeds from 1 on.
func TestSeeds(t *testing.T) {
	n := seedsCI
	if nightly() {
		n = seedsNightly
	}
	if *seeds > 0 {
		n = *seeds
	}
	ca := newAuthority(t, append(members, relayNames...)...)
	if *oneSeed > 0 {
		runtime.GOMAXPROCS(1) // fewer orders in which goroutines can run
		//lint:ignore SA1019 raft draws from this generator; see randseednop above
		rand.Seed(int64(*oneSeed))
		runSeed(t, ca, *oneSeed, usual)
		return
	}
	began := time.Now()
	for seed := uint64(1); seed <= uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if n == seedsCI && time.Since(began) > timeCI {
				t.Skipf("SKIP: %v are over", timeCI)
			}
			runSeed(t, ca, seed, usual)
		})
	}
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
	switch err := w.history.Check(checkTime()); {
	case errors.Is(err, history.ErrUndecided) && !nightly():
		t.Logf("seed %d: %v", seed, err) // a busy machine; the nightly run takes the time
	case err != nil:
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
