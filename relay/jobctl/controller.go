package jobctl

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// Controller runs the queue. Any number of goroutines may call its methods.
type Controller struct {
	conf   atomic.Pointer[Config]
	start  time.Time // wall clock, with the monotonic reading all ages come from
	bodies *semaphore.Weighted
	alone  chan struct{} // has room for the one suspect that runs
	// stripes are the locks of messages, so that two views of one message
	// have the same.
	stripes [256]sync.Mutex
	seed    maphash.Seed
	wg      sync.WaitGroup
	wake    chan struct{}
	ruled   chan struct{} // SetRules has been called; room for one

	mu       sync.Mutex // guards everything below, and every job, destination and channel
	ctx      context.Context
	running  bool
	messages map[string]*message
	dests    map[destKey]*destination
	channels map[mail.Channel]*channel
	waiting  waitHeap
	silent   map[*destination]bool // those with a pause, until
	tracked  int
	crashes  map[string]int        // of suspects, until they are tracked
	overflow bool                  // the disk holds jobs that are not tracked
	over     map[*destination]bool // whose they are
	scanning bool
	lastScan time.Time
	kept     map[string]bool // messages with a recipient on the channel hold
	keptMore bool            // the disk holds more of them
	scanTook time.Duration
	children children
}

// New checks cfg and returns a Controller. Tell it about new messages by
// passing Submitted to Queue.OnSubmit before mail comes in.
func New(cfg Config) (*Controller, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	c := &Controller{
		start: time.Now(), bodies: semaphore.NewWeighted(cfg.MaxBody), wake: make(chan struct{}, 1), ruled: make(chan struct{}, 1), alone: make(chan struct{}, 1),
		messages: map[string]*message{}, dests: map[destKey]*destination{}, channels: map[mail.Channel]*channel{},
		silent: map[*destination]bool{}, over: map[*destination]bool{}, crashes: map[string]int{}, kept: map[string]bool{}, children: children{of: map[string]map[string]queue.Parent{}}, seed: maphash.MakeSeed(),
	}
	c.conf.Store(&cfg)
	return c, nil
}

func (c *Controller) cfg() *Config { return c.conf.Load() }

// Rules are what may change while a Controller runs.
type Rules struct {
	Backoff  map[mail.Priority][]time.Duration
	Notices  []time.Duration
	Lifetime time.Duration
	// QuotaGrace is Config.QuotaGrace.
	QuotaGrace time.Duration
	Limits     map[mail.Channel]Limit // but for their Timeout
	// HoldCheck is Config.HoldCheck.
	HoldCheck time.Duration
}

// SetRules makes r hold for attempts from now on. A job that waits keeps the time of
// its next attempt; one that is read from the disk again is due at once if that is
// further away than any interval.
func (c *Controller) SetRules(r Rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cfg := *c.cfg()
	cfg.Backoff, cfg.Notices, cfg.Lifetime, cfg.Limits, cfg.HoldCheck = r.Backoff, r.Notices, r.Lifetime, r.Limits, r.HoldCheck
	cfg.QuotaGrace = r.QuotaGrace
	_ = cfg.defaults() // it had a queue and a reporter before
	c.conf.Store(&cfg)
	for name, ch := range c.channels {
		l := cfg.limit(name)
		ch.limit.Channel, ch.limit.Destination = l.Channel, l.Destination
	}
	select {
	case c.ruled <- struct{}{}:
	default: // it looks anyway
	}
	if c.running {
		c.pump()
	}
}

// now is the wall clock of the start, moved on by the monotonic clock: it never
// jumps.
func (c *Controller) now() time.Time { return c.start.Add(time.Since(c.start)) }

// Run works on the queue until ctx ends, and returns when every attempt that
// was under way has ended. Attempts are cut short when ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.countSuspects(); err != nil {
		return err
	}
	c.mu.Lock()
	c.ctx, c.running = ctx, true
	c.scanning = true
	c.pump()
	c.mu.Unlock()
	c.wg.Go(func() { c.scan(ctx) })
	if c.cfg().OnHold != nil {
		c.wg.Go(func() { c.checkHold(ctx) })
	}
	c.wg.Go(func() { every(ctx, c.cfg().Rescan, c.lookAll) })
	c.loop(ctx)
	c.mu.Lock()
	c.running = false
	c.mu.Unlock()
	c.wg.Wait()
	return ctx.Err()
}

// every calls f again and again until ctx ends.
func every(ctx context.Context, pause time.Duration, f func(context.Context)) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f(ctx)
		}
	}
}

// loop moves jobs from waiting to ready when their time comes.
func (c *Controller) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.wake:
		}
		timer.Reset(c.tick(ctx))
	}
}

// silentRescan is the time between scans while only destinations that do not
// answer have jobs that are not tracked.
const silentRescan = time.Hour

// idle is the longest the loop sleeps.
const idle = 10 * time.Minute

// tick does what is due and returns when to come back.
func (c *Controller) tick(ctx context.Context) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.nanos(c.now())
	for len(c.waiting) > 0 && c.waiting[0].next <= now {
		c.put(c.waiting[0], now)
	}
	next := now + int64(idle)
	if len(c.waiting) > 0 {
		next = c.waiting[0].next
	}
	live := c.tracked // jobs that have a destination that answers
	for d := range c.silent {
		if d.until <= now {
			c.rest(d, 0)
			continue
		}
		next = min(next, d.until)
		live -= d.tracked
	}
	if c.overflow && !c.scanning && c.running {
		pause := max(c.cfg().Rescan, silentRescan) // it is for ages only
		for d := range c.over {
			if d.until == 0 {
				pause = c.cfg().Rescan
				break
			}
		}
		if pause == c.cfg().Rescan && live < c.cfg().MaxTracked/2 {
			pause = min(pause, max(c.cfg().Rescan/12, 4*c.scanTook))
		}
		if at := c.lastScan.Add(pause); !c.now().Before(at) {
			c.scanning = true
			c.wg.Go(func() { c.scan(ctx) })
		} else {
			next = min(next, c.nanos(at))
		}
	}
	c.pump()
	return max(time.Duration(next-now), time.Millisecond)
}

// poke lets the loop look again.
func (c *Controller) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// pump starts jobs while limits allow. The caller holds c.mu.
func (c *Controller) pump() {
	if !c.running || c.ctx.Err() != nil {
		return
	}
	now := c.nanos(c.now())
	for _, ch := range c.channels {
		for len(ch.turns) > 0 && ch.active < ch.limit.Channel && !ch.paused {
			d := ch.turns[0]
			ch.turns[0] = nil
			ch.turns = ch.turns[1:]
			d.inRing = false
			// A destination that may not run now comes back when one of its
			// jobs ends or its pause is over.
			if c.mayRun(d, now) && c.startOne(d) && c.mayRun(d, now) {
				c.ring(d)
			}
			c.forget(d)
		}
	}
}

// heavy is how many recipients the messages of the jobs of one destination have,
// together, when it gets no other job: each of some hundreds of octets, and the
// pieces of a list have thousands.
const heavy = 10_000

// mayRun reports whether d's own limits let it start a job now.
func (c *Controller) mayRun(d *destination, now int64) bool {
	if d.paused || d.active >= d.ch.limit.Destination || d.load >= heavy {
		return false
	}
	return d.failures < c.cfg().DeadAfter || d.active == 0 && d.until <= now
}

// startOne starts the first ready job of d.
func (c *Controller) startOne(d *destination) bool {
	if len(d.ready) == 0 {
		return false
	}
	j := d.ready[0]
	c.take(j)
	j.where = running
	d.active++
	d.load += j.m.rcpts
	d.ch.active++
	ctx := c.ctx
	c.wg.Go(func() { c.work(ctx, j) })
	return true
}

// ended frees the place of a job that ran and lets others start. next is when
// it runs again; zero drops it.
func (c *Controller) ended(j *job, next time.Time, busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := j.dest
	d.active--
	d.load -= j.m.rcpts
	d.ch.active--
	j.where, j.forced = nowhere, false
	if next.IsZero() {
		c.drop(j)
	} else {
		j.next, j.busy = c.nanos(next), busy
		c.put(j, c.nanos(c.now()))
	}
	c.ring(d)
	c.forget(d)
	c.pump()
	c.poke()
}

// Submitted tells of a message that has just become ours. It is made for
// Queue.OnSubmit.
func (c *Controller) Submitted(it *queue.Item) {
	c.mu.Lock()
	if !c.wait(it) {
		c.track(it)
		c.pump()
	}
	c.mu.Unlock()
	c.poke()
}

// track makes the jobs of a message. It reports whether all of them are in
// memory now. The caller holds c.mu.
func (c *Controller) track(it *queue.Item) bool {
	if it.Held {
		return true
	}
	now := c.now()
	m := c.messages[it.ID()]
	all := true
	for i := range it.Recipients {
		r := &it.Recipients[i]
		key, next := destKey{r.Channel, r.NextHop}, c.cfg().due(r, it.Envelope.Priority, now)
		switch {
		case r.State != queue.Pending:
			key, next = destKey{chores, ""}, now
		case r.Channel == mail.ChannelHold:
			c.keep(it.ID())
			continue
		}
		if m != nil {
			if j := m.job(key); j != nil {
				if at := c.nanos(next); j.where == waiting && at < j.next {
					j.next = at
					c.put(j, c.nanos(now))
				}
				continue
			}
		}
		d := c.destination(key)
		if !c.room(d) {
			c.over[d], c.overflow = true, true
			all = false
			continue
		}
		if m == nil {
			m = c.newMessage(it.ID())
			m.rcpts = len(it.Recipients)
			m.notices, m.crash = it.Notices, max(it.Crashes, c.crashes[it.ID()])
			delete(c.crashes, it.ID())
			c.messages[m.id] = m
		}
		j := &job{m: m, dest: d, next: c.nanos(next), arrival: c.nanos(it.Envelope.Arrival), priority: it.Envelope.Priority, busy: !r.Busy.IsZero()}
		m.jobs = append(m.jobs, j)
		c.tracked++
		d.tracked++
		c.put(j, c.nanos(now))
	}
	return all
}

func (m *message) job(key destKey) *job {
	for _, j := range m.jobs {
		if j.dest.key == key {
			return j
		}
	}
	return nil
}

// room reports whether another job of d may be tracked: all of the window while
// it is half empty, then a tenth of it for each destination.
func (c *Controller) room(d *destination) bool {
	switch {
	case d.key.channel == chores:
		return true // short-lived, and bounded by the messages that made them
	case c.tracked >= c.cfg().MaxTracked:
		return d.tracked == 0 // a destination that nobody knows yet is let in
	case c.tracked >= c.cfg().MaxTracked/2:
		return d.tracked < max(c.cfg().MaxTracked/10, 1)
	}
	return true
}

// scan reads the queue and tracks what there is room for.
func (c *Controller) scan(ctx context.Context) {
	c.mu.Lock()
	c.overflow = false
	over := c.over
	c.over = map[*destination]bool{}
	for d := range over {
		c.forget(d)
	}
	c.mu.Unlock()
	n, wait, begin := 0, 0, c.now()
	err := c.cfg().Queue.Scan(ctx, func(it *queue.Item) error {
		c.mu.Lock()
		if c.wait(it) {
			wait++
			c.mu.Unlock()
			if wait%1000 == 0 {
				c.lookAll(ctx)
			}
			return nil
		}
		all := c.track(it)
		if n++; n%64 == 0 {
			c.pump()
		}
		c.mu.Unlock()
		if !all {
			c.overdue(ctx, it)
		}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		c.cfg().Log.Error("queue not read to the end", "error", err)
	}
	c.lookAll(ctx)
	c.mu.Lock()
	c.scanning = false
	c.overflow = c.overflow || err != nil
	c.lastScan = c.now()
	c.scanTook = c.lastScan.Sub(begin)
	c.pump()
	c.mu.Unlock()
	c.poke()
}

// overdue warns about or returns a message that is not tracked.
func (c *Controller) overdue(ctx context.Context, it *queue.Item) {
	age := c.now().Sub(it.Envelope.Arrival)
	if it.Held || c.cfg().noticesDue(age) <= it.Notices && age < c.cfg().Lifetime {
		return
	}
	if err := c.age(ctx, c.message(it.ID()), c.cfg().MinAttempts); err != nil {
		c.cfg().Log.Warn("warning or return put off", "queue_id", it.ID(), "error", err)
	}
}

// countSuspects notes on disk which messages were being worked on when the
// process before this one died, and holds those for which that is once too
// often.
func (c *Controller) countSuspects() error {
	ids := slices.Sorted(slices.Values(c.cfg().Queue.Suspects())) // one several times, when it had several jobs
	for _, id := range slices.Compact(ids) {
		it, err := c.cfg().Queue.Load(id)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			c.cfg().Log.Error("suspect not read", "queue_id", id, "error", err)
			continue
		}
		it.Crashes++
		if it.Crashes >= c.cfg().PoisonLimit && !it.Held {
			c.hold(it, fmt.Sprintf("the relay died %d times while working on it", it.Crashes))
		}
		if err := c.cfg().Queue.Update(it, true); err != nil {
			return fmt.Errorf("jobctl: %w", err)
		}
		c.mu.Lock()
		c.crashes[id] = it.Crashes
		if m := c.messages[id]; m != nil {
			m.crash = it.Crashes
		}
		c.mu.Unlock()
	}
	return c.cfg().Queue.ClearSuspects()
}
