package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/config"
)

// paceEvery is how often the growth of the heap is fitted to what is live.
const paceEvery = 250 * time.Millisecond

// leastGrowth is the percentage that the heap may grow however large it is: with
// less the collector would hardly stop.
const leastGrowth = 100

// collector sets the collector of the Go runtime. A small heap may grow by
// gc_percent, which saves processor time and costs little. The same percentage of
// a large one is mostly room for garbage: where it is more than most octets it is
// less, down to leastGrowth.
type collector struct {
	mu      sync.Mutex  // guards what follows
	most    config.Size // 0 is no limit
	usual   int         // gc_percent
	percent int         // that is set
}

// set makes r and most hold from now on.
func (c *collector) set(r config.Runtime, most config.Size) {
	c.mu.Lock()
	c.most, c.usual, c.percent = most, r.GCPercent, 0
	c.mu.Unlock()
	if r.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(r.MemoryLimit))
	}
	c.pace()
}

// run fits the growth again and again until ctx ends.
func (c *collector) run(ctx context.Context) error {
	tick := time.NewTicker(paceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.pace()
		}
	}
}

// pace sets the percentage when it differs by more than a tenth, because that
// stops everything for a moment.
func (c *collector) pace() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	c.mu.Lock()
	defer c.mu.Unlock()
	percent := growth(c.usual, c.most, live[0].Value.Uint64())
	if diff := percent - c.percent; c.percent == 0 || diff > c.percent/10 || -diff > c.percent/10 || diff != 0 && percent == c.usual {
		debug.SetGCPercent(percent)
		c.percent = percent
	}
}

// growth is the percentage that a heap of live octets may grow by.
func growth(usual int, most config.Size, live uint64) int {
	if most <= 0 || live == 0 {
		return usual
	}
	return int(min(max(uint64(most)*100/live, leastGrowth), uint64(usual)))
}

func (p *Program[T]) heapGrowth(c *T) config.Size {
	if p.HeapGrowth == nil {
		return 0
	}
	return p.HeapGrowth(c)
}
