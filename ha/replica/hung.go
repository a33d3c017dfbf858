package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// ErrHung: a write to the log has not returned.
var ErrHung = errors.New("the disk does not answer")

// hungAlarm is what an operator is told of it.
const hungAlarm = "a write to the log does not return: the disk does not answer"

// watchDisk ends the process of a leader whose disk does not answer any more. It
// asks no disk, nor raft's main goroutine, which waits for it.
func (r *Replica) watchDisk(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Timings.Hung / 5)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		took := r.v.Storing()
		if took < r.cfg.Timings.Hung || r.v.Raft().State() != raft.Leader {
			continue
		}
		if p, ok := faster(r.Members(ctx), took, r.cfg.ID); ok && r.v.Storing() >= took {
			r.v.Fatal(fmt.Errorf("replica: a write to the log has not returned for %v, and %s could serve: %w", took.Round(time.Millisecond), p.Name, ErrHung))
			return
		}
	}
}
