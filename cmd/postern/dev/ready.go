package dev

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

const (
	// readyWithin is the time of the whole cluster to become ready.
	readyWithin = 60 * time.Second
	// askEvery is how often nodes are asked whether they are.
	askEvery = 50 * time.Millisecond
	// askWithin bounds one question.
	askWithin = 2 * time.Second
)

// awaitReady waits until every node is ready, each pair has a serving replica,
// and every relay knows which. It returns who serves each pair.
func (c *cluster) awaitReady(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		serving, waiting := c.ask(ctx)
		if len(waiting) == 0 {
			return serving, nil
		}
		select {
		case <-tick.C:
		case end := <-c.died:
			_, p := c.find(end.name)
			return nil, fmt.Errorf("%s has ended (%s); the end of its log:\n%s", end.name, end.how, lastLines(p.dir, 20))
		case <-ctx.Done():
			if cause := context.Cause(ctx); cause != context.DeadlineExceeded {
				return nil, cause
			}
			return nil, fmt.Errorf("not ready after %v: %s", readyWithin, strings.Join(waiting, "; "))
		}
	}
}

// ask asks every node once. waiting names what is missing, nothing when the
// cluster is ready.
func (c *cluster) ask(ctx context.Context) (serving map[string]string, waiting []string) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	statuses := make([]admin.NodeStatus, len(c.layout.Nodes))
	views := make([]admin.Cluster, len(c.layout.Nodes))
	faults := make([]string, len(c.layout.Nodes))
	var wg sync.WaitGroup
	for i, n := range c.layout.Nodes {
		wg.Go(func() {
			cl := c.clients[n.Name]
			var err error
			if statuses[i], err = admin.Call(ctx, cl, admin.GetStatus, admin.None{}); err == nil && n.Tier == relayTier {
				views[i], err = admin.Call(ctx, cl, admin.GetCluster, admin.None{})
			}
			switch {
			case err != nil:
				faults[i] = n.Name + " does not answer: " + err.Error()
			case statuses[i].State != "ready":
				faults[i] = n.Name + ": " + statuses[i].State
			}
		})
	}
	wg.Wait()
	serving = map[string]string{}
	for i, n := range c.layout.Nodes {
		if faults[i] != "" {
			waiting = append(waiting, faults[i])
		}
		for _, g := range statuses[i].Groups {
			if g.Serving {
				serving[g.Pair] = n.Name
			}
		}
	}
	for _, pair := range c.layout.pairNames() {
		if serving[pair] == "" {
			waiting = append(waiting, pair+": no replica serves")
			continue
		}
		for i, n := range c.layout.Nodes {
			if n.Tier == relayTier && faults[i] == "" && !knows(views[i], pair) {
				waiting = append(waiting, n.Name+" does not know who serves "+pair)
			}
		}
	}
	return serving, waiting
}

func knows(view admin.Cluster, pair string) bool {
	for _, p := range view.Pairs {
		if p.Name == pair && p.Serving != "" {
			return true
		}
	}
	return false
}
