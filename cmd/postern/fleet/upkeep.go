package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// Holder returns the node of a data replica: the one named, or the one that
// serves the pair. With one pair in the cluster it need not be named.
func (f *Fleet) Holder(ctx context.Context, pair, node string) (*Node, error) {
	f.Identify(ctx)
	var serving, named []*Node
	seen := map[string]bool{}
	nodes := f.holders(ctx, Backend)
	for _, r := range All(ctx, f, nodes, func(ctx context.Context, n *Node) (admin.GroupStatus, error) {
		return Call(ctx, n, admin.PairStatus, admin.PairName{Pair: n.Pair})
	}) {
		if pair != "" && r.Node.Pair != pair {
			continue
		}
		seen[r.Node.Pair] = true
		if r.Node.Name == node {
			named = append(named, r.Node)
		}
		if r.Err == nil && r.Value.Serving {
			serving = append(serving, r.Node)
		}
	}
	switch {
	case len(seen) == 0:
		return nil, fmt.Errorf("no node of pair %q is known", pair)
	case node != "" && len(named) == 1:
		return named[0], nil
	case node != "" && len(named) == 0:
		return nil, fmt.Errorf("node %q holds no replica of the pair", node)
	case node == "" && len(serving) == 1:
		return serving[0], nil
	case len(seen) > 1:
		return nil, errors.New("which pair? name it by --pair")
	}
	return nil, fmt.Errorf("no replica of the pair serves: name a node by --on")
}

// pollEvery is the time between two questions how far a task is.
const pollEvery = 200 * time.Millisecond

// Do has a replica do a task and waits until it has ended. seen is told how far
// it is.
func Do(ctx context.Context, n *Node, task admin.UpkeepTask, seen func(admin.UpkeepJob)) (admin.UpkeepJob, error) {
	task.Pair = n.Pair
	job, err := Call(ctx, n, admin.UpkeepRun, task)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for err == nil && job.State == "running" {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return job, fmt.Errorf("%s: %s goes on, nobody waits for it: %w", n.Title(), task.Task, ctx.Err())
		}
		if job, err = Call(ctx, n, admin.UpkeepPoll, admin.UpkeepQuery{Pair: n.Pair, Task: task.Task}); err == nil && seen != nil {
			seen(job)
		}
	}
	if err == nil && job.State != "done" {
		err = fmt.Errorf("%s: %s", n.Title(), job.Error)
	}
	return job, err
}
