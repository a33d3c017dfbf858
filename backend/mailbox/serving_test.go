package mailbox_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
)

// TestServing has a replica stop serving, once for less than a look takes to come:
// whoever was woken for nothing is woken again.
func TestServing(t *testing.T) {
	boxes, log := mailboxtest.NewWithLog(t)
	synctest.Test(t, func(t *testing.T) {
		w := mailbox.NewServing(boxes)
		ctx, cancel := context.WithCancel(t.Context())
		woken := 0
		var wg sync.WaitGroup
		wg.Go(func() { w.Watch(ctx, func() { woken++ }) })
		look := func(want int) {
			t.Helper()
			w.Recheck()
			synctest.Wait()
			if woken != want {
				t.Fatalf("woken %d times, want %d", woken, want)
			}
		}
		away := &mailbox.ErrNotServing{Leader: "b"}
		log.SetAway(away)
		if w.Lost(ctx) != nil {
			t.Error("nobody has looked")
		}
		look(1)
		look(1)
		log.SetAway(nil)
		if w.Lost(ctx) != nil {
			t.Error("it serves again")
		}
		log.SetAway(away)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if not := w.Lost(ctx); woken != 2 || not == nil || not.Leader != "b" {
			t.Errorf("woken %d times, lost: %v", woken, not)
		}
		log.SetAway(nil)
		look(2)
		cancel()
		wg.Wait()
	})
}
