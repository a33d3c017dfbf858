package dns

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/miekg/dns"
)

type question struct {
	name  string
	qtype uint16
}

// cache keeps answers for their TTL, the least recently used ones going first,
// and lets one of several equal questions be asked.
type cache struct {
	mu      sync.Mutex // guards the fields below
	max     int
	entries map[question]*list.Element
	recent  list.List // of *entry, the most recently used first
	flights map[question]*flight
}

type entry struct {
	q     question
	rrs   []dns.RR
	err   error
	until time.Time
}

// flight is a question that is being asked.
type flight struct {
	done   chan struct{}
	rrs    []dns.RR
	err    error
	cancel context.CancelFunc
	wanted int // callers that wait; guarded by cache.mu
}

func (c *cache) init(entries int) {
	c.max, c.entries, c.flights = entries, map[question]*list.Element{}, map[question]*flight{}
}

// get answers q from memory or by ask. Errors other than ErrNotFound are not
// kept. A caller that gives up does not take the answer from the others.
func (c *cache) get(ctx context.Context, q question, now time.Time, ask func(context.Context) ([]dns.RR, time.Duration, error)) ([]dns.RR, error) {
	c.mu.Lock()
	if el := c.entries[q]; el != nil {
		e := el.Value.(*entry)
		if now.Before(e.until) {
			c.recent.MoveToFront(el)
			c.mu.Unlock()
			return e.rrs, e.err
		}
		c.recent.Remove(el)
		delete(c.entries, q)
	}
	f := c.flights[q]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		var own context.Context
		own, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
		c.flights[q] = f
		go c.fly(own, q, f, ask)
	}
	f.wanted++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.rrs, f.err
	case <-ctx.Done():
		c.mu.Lock()
		if f.wanted--; f.wanted == 0 {
			f.cancel()
			if c.flights[q] == f {
				delete(c.flights, q)
			}
		}
		c.mu.Unlock()
		return nil, ctx.Err()
	}
}

func (c *cache) fly(ctx context.Context, q question, f *flight, ask func(context.Context) ([]dns.RR, time.Duration, error)) {
	defer f.cancel()
	var ttl time.Duration
	f.rrs, ttl, f.err = ask(ctx)
	c.mu.Lock()
	if c.flights[q] == f {
		delete(c.flights, q)
	}
	if ttl > 0 && (f.err == nil || errors.Is(f.err, ErrNotFound)) {
		if el := c.entries[q]; el != nil {
			c.recent.Remove(el)
		}
		c.entries[q] = c.recent.PushFront(&entry{q, f.rrs, f.err, time.Now().Add(ttl)})
		for c.recent.Len() > c.max {
			last := c.recent.Back()
			c.recent.Remove(last)
			delete(c.entries, last.Value.(*entry).q)
		}
	}
	c.mu.Unlock()
	close(f.done)
}
