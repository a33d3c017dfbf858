package queue

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// ledger is what the queue has promised in one run.
type ledger struct {
	body     map[string]string // every message that was tried
	accepted map[string]bool   // Submit returned nil
	removing map[string]bool   // Remove was called
	notices  map[string][2]int // smallest and largest state that may be found
}

func newID(rng *rand.Rand) string {
	b := make([]byte, 26)
	for i := range b {
		b[i] = alphabet[rng.IntN(len(alphabet))]
	}
	b[0] = alphabet[rng.IntN(2)] // few directories, so that their syncs are shared
	return string(b)
}

// work uses a queue until the disk dies, and writes down what it was told.
func work(fs *faultfs.FS, seed uint64) *ledger {
	rng := rand.New(rand.NewPCG(seed, 7))
	l := &ledger{map[string]string{}, map[string]bool{}, map[string]bool{}, map[string][2]int{}}
	q, err := Open(Config{Dir: "/q", FS: fs})
	if err != nil {
		return l
	}
	defer q.Close()
	var live []*Item
	for range 12 {
		switch n := rng.IntN(10); {
		case n < 5 || len(live) == 0:
			it := &Item{Envelope: mail.Envelope{QueueID: newID(rng)}, Recipients: []Recipient{{Recipient: mail.Recipient{Address: mail.Address{Local: "a", Domain: "b"}}}}}
			body := fmt.Sprintf("%s%0*d", it.ID(), rng.IntN(5000), 0)
			l.body[it.ID()] = body
			if q.Submit(context.Background(), nil, it, []byte(body[:10]), []byte(body[10:])) == nil {
				l.accepted[it.ID()] = true
				live = append(live, it)
			}
		case n < 8:
			it := live[rng.IntN(len(live))]
			it.Notices++
			durable := rng.IntN(2) == 0
			s := l.notices[it.ID()]
			s[1] = it.Notices
			if q.Update(it, durable) == nil && durable {
				s[0] = it.Notices
			}
			l.notices[it.ID()] = s
		default:
			i := rng.IntN(len(live))
			l.removing[live[i].ID()] = true
			_ = q.Remove(live[i])
			live = append(live[:i], live[i+1:]...)
		}
	}
	return l
}

// check opens what a crash left and compares it with the ledger.
func (l *ledger) check(disk *faultfs.FS) error {
	q, err := Open(Config{Dir: "/q", FS: disk})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer q.Close()
	found := map[string]bool{}
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
		found[it.ID()] = true
		return nil
	})
	if err != nil {
		return err
	}
	for id := range l.accepted {
		if !found[id] && !l.removing[id] {
			return fmt.Errorf("accepted message %s is lost", id)
		}
	}
	if s := q.Stats(); s.Damaged != 0 || s.Messages != int64(len(found)) {
		return fmt.Errorf("stats %+v, found %d", s, len(found))
	}
	// It goes on working.
	it := &Item{Envelope: mail.Envelope{QueueID: mail.NewQueueID()}}
	return q.Submit(context.Background(), nil, it, []byte("after"))
}

// TestCrash cuts the power after every operation, in several runs, and opens
// many states that the disk may then be in.
func TestCrash(t *testing.T) {
	runs, states := uint64(6), uint64(12)
	if testing.Short() {
		runs = 2
	}
	tested := 0
	for seed := range runs {
		whole := faultfs.New(seed)
		work(whole, seed)
		for at := 1; at <= whole.Ops()+1; at++ {
			fs := faultfs.New(seed)
			fs.CrashAfter(at)
			l := work(fs, seed)
			for s := range states {
				tested++
				if err := l.check(fs.Crash(s)); err != nil {
					t.Fatalf("run %d, crash after operation %d, state %d: %v", seed, at, s, err)
				}
			}
		}
	}
	t.Logf("%d crash states", tested)
}

// TestCrashCanFail shows that the check sees a queue that breaks its promise.
func TestCrashCanFail(t *testing.T) {
	fs := faultfs.New(1)
	l := work(fs, 1)
	l.accepted["0never"] = true
	if l.check(fs.Crash(1)) == nil {
		t.Error("a lost message was not noticed")
	}
}
