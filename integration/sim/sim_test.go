package sim

import (
	"flag"
	"fmt"
	"os"
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
)

// checkTime bounds the search for an order of one mailbox's history.
const checkTime = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSeeds runs the seeds from 1 on.
func TestSeeds(t *testing.T) {
	n := seedsCI
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		n = seedsNightly
	}
	if *seeds > 0 {
		n = *seeds
	}
	ca := newAuthority(t, members...)
	if *oneSeed > 0 {
		runSeed(t, ca, *oneSeed)
		return
	}
	for seed := uint64(1); seed <= uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runSeed(t, ca, seed)
		})
	}
}

func runSeed(t *testing.T, ca *authority, seed uint64) {
	w := &world{seed: seed, ca: ca, history: history.New(), counts: map[string]int{}, letters: map[string]*letter{}}
	start := time.Now()
	w.run(t, plan{sessions: 9, mailboxes: 3, mailers: 3, faults: 20 * time.Second})
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
		t.Errorf("seed %d failed; again: go test ./integration/sim -run TestSeeds -seed %d -v", seed, seed)
	}
}
