package queue

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// runFlag repeats what a failure names.
var runFlag = flag.Int("queue.run", -1, "only this run of the crash test, with the states of a nightly one")

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// ledger is what the queue has promised in one run.
type ledger struct {
	rng      *rand.Rand
	body     map[string]string // every message that was tried
	accepted map[string]bool   // Submit returned nil
	removing map[string]bool   // Remove or SetAside was called
	notices  map[string][2]int // smallest and largest state that may be found
	bad      [2]int            // fewest and most messages set aside
	live     []*Item
}

func newLedger(rng *rand.Rand) *ledger {
	return &ledger{
		rng: rng, body: map[string]string{}, accepted: map[string]bool{}, removing: map[string]bool{},
		notices: map[string][2]int{},
	}
}

func newID(rng *rand.Rand) string {
	b := make([]byte, 26)
	for i := range b {
		b[i] = alphabet[rng.IntN(len(alphabet))]
	}
	b[0] = alphabet[rng.IntN(2)] // few directories, so that their syncs are shared
	return string(b)
}

// use opens the queue and uses it for some steps, or until the disk dies.
func (l *ledger) use(fs *faultfs.FS, steps int) {
	q, err := Open(Config{Dir: "/q", FS: fs})
	if err != nil {
		return
	}
	defer func() {
		if q != nil {
			_ = q.Close() // fails when the disk is dead
		}
	}()
	for range steps {
		switch n := l.rng.IntN(20); {
		case n < 9 || len(l.live) == 0:
			l.submit(q)
		case n < 14:
			l.update(q, l.live[l.rng.IntN(len(l.live))])
		case n < 17:
			_ = q.Remove(l.take(), l.rng.IntN(2) == 0)
		case n < 18:
			it := l.take()
			l.bad[1]++
			if q.SetAside(it.ID(), errors.New("looks odd")) == nil {
				l.bad[0]++
			}
		case n < 19:
			q.Mark(l.live[0].ID())()
		default:
			_ = q.Close()
			if q, err = Open(Config{Dir: "/q", FS: fs}); err != nil {
				return
			}
		}
	}
}

func (l *ledger) submit(q *Queue) {
	it := &Item{Envelope: mail.Envelope{QueueID: newID(l.rng)}, Recipients: []Recipient{{Recipient: mail.Recipient{Address: mail.Address{Local: "a", Domain: "b"}}}}}
	body := fmt.Sprintf("%s%0*d", it.ID(), l.rng.IntN(5000), 0)
	l.body[it.ID()] = body
	if q.Submit(context.Background(), nil, it, []byte(body[:10]), []byte(body[10:])) == nil {
		l.accepted[it.ID()] = true
		l.live = append(l.live, it)
	}
}

func (l *ledger) update(q *Queue, it *Item) {
	it.Notices++
	durable := l.rng.IntN(2) == 0
	s := l.notices[it.ID()]
	s[1] = it.Notices
	if q.Update(it, durable) == nil && durable {
		s[0] = it.Notices
	}
	l.notices[it.ID()] = s
}

// take takes out a message that is about to leave the queue.
func (l *ledger) take() *Item {
	i := l.rng.IntN(len(l.live))
	it := l.live[i]
	l.removing[it.ID()] = true
	l.live = append(l.live[:i:i], l.live[i+1:]...)
	return it
}

// join adds the messages that are only in another ledger of the same queue.
func (l *ledger) join(other *ledger) {
	for id, body := range other.body {
		if _, mine := l.body[id]; !mine {
			l.body[id], l.accepted[id], l.removing[id], l.notices[id] = body, other.accepted[id], other.removing[id], other.notices[id]
		}
	}
	l.bad[0] += other.bad[0]
	l.bad[1] += other.bad[1]
}

// check opens what a crash left and compares it with the ledger, and returns
// a ledger in which what was found is the truth.
func (l *ledger) check(disk *faultfs.FS, rng *rand.Rand) (*ledger, error) {
	q, err := Open(Config{Dir: "/q", FS: disk})
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer q.Close()
	now := newLedger(rng)
	err = q.Scan(context.Background(), func(it *Item) error {
		body, err := q.Body(it, nil)
		if err != nil {
			return err
		}
		want, tried := l.body[it.ID()]
		if !tried || string(body) != want {
			return fmt.Errorf("message %s is not what was submitted", it.ID())
		}
		if s := l.notices[it.ID()]; it.Notices < s[0] || it.Notices > s[1] {
			return fmt.Errorf("message %s has state %d, promised %d to %d", it.ID(), it.Notices, s[0], s[1])
		}
		now.body[it.ID()], now.accepted[it.ID()] = want, true
		now.notices[it.ID()] = [2]int{it.Notices, it.Notices}
		now.live = append(now.live, it)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for id, yes := range l.accepted {
		if yes && !now.accepted[id] && !l.removing[id] {
			return nil, fmt.Errorf("accepted message %s is lost", id)
		}
	}
	s := q.Stats()
	if s.Damaged < int64(l.bad[0]) || s.Damaged > int64(l.bad[1]) || s.Messages != int64(len(now.live)) {
		return nil, fmt.Errorf("stats %+v, found %d, set aside %v", s, len(now.live), l.bad)
	}
	now.bad = [2]int{int(s.Damaged), int(s.Damaged)}
	return now, nil
}

// crashes runs a script, cuts the power after each operation, opens states
// that the disk may then be in, and goes on with each until the power is cut
// again. It returns the number of states, and adds their hashes to seen.
func crashes(t *testing.T, run uint64, steps, states int, seen map[uint64]bool) (visited int) {
	script := func() *ledger { return newLedger(rand.New(rand.NewPCG(run, 7))) }
	whole := faultfs.New(run)
	script().use(whole, steps)
	for at := 1; at <= whole.Ops()+1; at++ {
		fs := faultfs.New(run)
		fs.CrashAfter(at)
		first := script()
		first.use(fs, steps)
		for s := range uint64(states) {
			disk, l := fs, first
			for depth := range uint64(2) {
				disk = disk.Crash(s + 1000*depth)
				visited++
				seen[disk.Sum()] = true
				rng := rand.New(rand.NewPCG(s+1000*uint64(at), depth))
				after, err := l.check(disk, rng)
				if err != nil {
					t.Fatalf("run %d, power cut after operation %d, state %d, cut %d: %v", run, at, s, depth+1, err)
				}
				l = after
				disk.CrashAfter(disk.Ops() + 1 + rng.IntN(40))
				l.use(disk, 5)
			}
		}
	}
	return visited
}

// TestCrash holds the queue to its promises over every power cut in random
// scripts of everything that can be done to it. What its background work does
// in between is not the same each time.
func TestCrash(t *testing.T) {
	runs, steps, states := []uint64{0, 1}, 12, 3
	switch {
	case *runFlag >= 0:
		runs, states = []uint64{uint64(*runFlag)}, 12
	case os.Getenv("POSTERN_NIGHTLY") != "":
		states = 12
		for run := uint64(2); run < 12; run++ {
			runs = append(runs, run)
		}
	}
	visited, seen := 0, map[uint64]bool{}
	for _, run := range runs {
		visited += crashes(t, run, steps, states, seen)
	}
	t.Logf("%d crash states, %d of them distinct", visited, len(seen))
	if len(seen) < 100 {
		t.Error("the test tests nothing")
	}
}

// TestCrashCanFail shows that the check sees a queue that breaks its promises.
func TestCrashCanFail(t *testing.T) {
	for name, lie := range map[string]func(*ledger){
		"a lost message":            func(l *ledger) { l.accepted["0never"] = true },
		"a lost change":             func(l *ledger) { l.notices[l.live[0].ID()] = [2]int{99, 99} },
		"a change that never was":   func(l *ledger) { l.live[0].Notices++; l.notices[l.live[0].ID()] = [2]int{-2, -1} },
		"a damaged message":         func(l *ledger) { l.bad = [2]int{9, 9} },
		"a message of another body": func(l *ledger) { l.body[l.live[0].ID()] = "" },
	} {
		fs := faultfs.New(1)
		l := newLedger(rand.New(rand.NewPCG(1, 7)))
		for len(l.live) == 0 {
			l.use(fs, 5)
		}
		if _, err := l.check(fs.Crash(1), l.rng); err != nil {
			t.Fatal(err)
		}
		lie(l)
		if _, err := l.check(fs.Crash(1), l.rng); err == nil {
			t.Errorf("%s was not noticed", name)
		}
	}
}

// TestKilled ends the process after each operation, opens the queue again, and
// cuts the power then. What was promised before the first end still holds.
func TestKilled(t *testing.T) {
	runs, states := uint64(4), 0
	if os.Getenv("POSTERN_NIGHTLY") != "" {
		runs = 20
	}
	for run := range runs {
		script := func() *ledger { return newLedger(rand.New(rand.NewPCG(run, 7))) }
		whole := faultfs.New(run)
		script().use(whole, 12)
		for at := 1; at <= whole.Ops()+1; at++ {
			fs := faultfs.New(run)
			fs.CrashAfter(at)
			l := script()
			l.use(fs, 12)
			fs.CrashAfter(1 << 40)
			after, err := l.check(fs, l.rng)
			if err != nil {
				t.Fatalf("run %d, killed after operation %d: %v", run, at, err)
			}
			// What is accepted from now on is promised too.
			after.accepted, after.live, after.bad = map[string]bool{}, nil, [2]int{}
			after.use(fs, 2)
			l.join(after)
			for seed := range uint64(6) {
				states++
				if _, err := l.check(fs.Crash(seed), l.rng); err != nil {
					t.Fatalf("run %d, killed after operation %d, power cut, state %d: %v", run, at, seed, err)
				}
			}
		}
	}
	t.Logf("%d crash states", states)
}
