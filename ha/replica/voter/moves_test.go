package voter

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestMovesEnd: the end waits for transfers that raft has not answered, not for
// ever, and none begins after it.
func TestMovesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := new(Voter)
		if !v.moves.begin() {
			t.Fatal("no transfer can begin")
		}
		time.AfterFunc(time.Second, v.moves.wg.Done)
		start := time.Now()
		v.moves.close(time.Minute)
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited %v for a transfer of 1 s", d)
		}
		if err := v.Transfer(context.Background(), Peer{}); !errors.Is(err, raft.ErrRaftShutdown) {
			t.Errorf("Transfer after the end: %v", err)
		}
	})
}
