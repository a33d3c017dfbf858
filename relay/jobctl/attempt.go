package jobctl

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
)

// trouble is how long to wait after a failure of ours: disk, memory.
const trouble = time.Minute

// work runs one job.
func (c *Controller) work(ctx context.Context, j *job) {
	next, busy, err := c.guarded(ctx, j)
	if err != nil && ctx.Err() == nil {
		c.cfg().Log.Error("job failed", "queue_id", j.m.id, "channel", j.dest.key.channel, "next_hop", j.dest.key.hop, "error", err)
	}
	c.ended(j, next, busy)
}

// errPanic is a bug that one message brought to light.
var errPanic = errors.New("panic")

// guarded runs the job's work. A message that makes it panic is counted as one
// that the process died on.
func (c *Controller) guarded(ctx context.Context, j *job) (next time.Time, busy bool, err error) {
	c.mu.Lock()
	suspect, failures := j.m.crash > 0, j.m.failures
	c.mu.Unlock()
	if suspect {
		select {
		case c.alone <- struct{}{}:
			defer func() { <-c.alone }()
		case <-ctx.Done():
			return c.now(), false, nil
		}
	}
	defer c.cfg().Queue.Mark(j.m.id)()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errPanic, p, debug.Stack())
			next = c.poisoned(j.m)
		}
	}()
	if j.dest.key.channel == chores {
		err = c.age(ctx, j.m, failures)
	} else {
		next, busy, err = c.attempt(ctx, j)
	}
	switch {
	case errors.Is(err, queue.ErrNotFound):
		return time.Time{}, false, nil
	case errors.Is(err, queue.ErrDamaged):
		return time.Time{}, false, c.cfg().Queue.SetAside(j.m.id, err)
	case err != nil:
		return c.now().Add(trouble), false, err
	}
	if suspect {
		c.survived(j.m)
	}
	return next, busy, nil
}

// poisoned counts a crash of m and returns when to try it again; zero when it
// is held now.
func (c *Controller) poisoned(m *message) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	it, err := c.cfg().Queue.Load(m.id)
	if err != nil {
		return c.now().Add(trouble)
	}
	it.Crashes++
	c.mu.Lock()
	m.crash = it.Crashes
	c.mu.Unlock()
	next := c.now().Add(trouble)
	if it.Crashes >= c.cfg().PoisonLimit {
		c.hold(it, fmt.Sprintf("it broke its delivery %d times", it.Crashes))
		next = time.Time{}
	}
	if err := c.cfg().Queue.Update(it, true); err != nil {
		c.cfg().Log.Error("crash not counted", "queue_id", m.id, "error", err)
	}
	return next
}

// survived forgets the crashes of a message that got through a whole attempt.
func (c *Controller) survived(m *message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it, err := c.cfg().Queue.Load(m.id)
	if err == nil && it.Crashes > 0 {
		it.Crashes = 0
		err = c.cfg().Queue.Update(it, false)
	}
	if err == nil || errors.Is(err, queue.ErrNotFound) {
		c.mu.Lock()
		m.crash = 0
		c.mu.Unlock()
	}
}

// hold marks it as held; the caller writes it.
func (c *Controller) hold(it *queue.Item, reason string) {
	it.Held, it.Reason, it.HeldAt = true, reason, c.now()
	c.cfg().Log.Warn("message held", "queue_id", it.ID(), "reason", reason)
	c.cfg().Mail.Held(c.event(it, reason))
}

func (c *Controller) event(it *queue.Item, reply string) maillog.Event {
	return maillog.Event{
		QueueID: it.ID(), TraceID: it.Envelope.RootID, ReversePath: it.Envelope.ReversePath, NullSender: true,
		Delay: c.now().Sub(it.Envelope.Arrival), Reply: reply,
	}
}

// bodyPool keeps buffers of ordinary messages.
var bodyPool = sync.Pool{New: func() any { b := make([]byte, 0, 64<<10); return &b }}

// maxPooled is the largest buffer kept.
const maxPooled = 1 << 20

// withBody reads the message of it and calls f with it. The octets are counted
// against MaxBody.
func (c *Controller) withBody(ctx context.Context, it *queue.Item, f func(msg []byte) error) error {
	n := min(max(it.Size, 1), c.cfg().MaxBody)
	if err := c.bodies.Acquire(ctx, n); err != nil {
		return err
	}
	defer c.bodies.Release(n)
	buf := bodyPool.Get().(*[]byte)
	b, err := c.cfg().Queue.Body(it, (*buf)[:0])
	if cap(b) <= maxPooled {
		*buf = b
		defer bodyPool.Put(buf)
	}
	if err != nil {
		return err
	}
	return f(b)
}

// attempt delivers one message to one destination and returns when to try
// again; zero when nothing is left for the job.
func (c *Controller) attempt(ctx context.Context, j *job) (next time.Time, busy bool, err error) {
	it, pick, err := c.pick(j)
	if err != nil || it == nil {
		return time.Time{}, false, err
	}
	if len(pick) == 0 {
		return c.nextTry(it, j.dest.key), false, nil
	}
	agent := c.cfg().Agents[j.dest.key.channel]
	if agent == nil {
		return c.now().Add(trouble), false, fmt.Errorf("no agent for channel %q", j.dest.key.channel)
	}
	d := deliver.Delivery{Envelope: &it.Envelope, Recipients: make([]mail.Recipient, len(pick)), Report: it.Report, Client: it.Client}
	first := it.Recipients[pick[0]].Attempts
	for n, i := range pick {
		d.Recipients[n] = it.Recipients[i].Recipient
		first = min(first, it.Recipients[i].Attempts)
	}
	d.Attempt = first
	it.Recipients = nil // apply reads them again
	var results []deliver.Result
	err = c.withBody(ctx, it, func(msg []byte) error {
		d.Body, d.EightBit = [][]byte{msg}, it.Envelope.Body == mail.Body8BitMIME
		limited, cancel := context.WithTimeout(ctx, j.dest.ch.limit.Timeout)
		defer cancel()
		results = agent.Deliver(limited, &d)
		return nil
	})
	if err != nil {
		return time.Time{}, false, err
	}
	if len(results) != len(pick) {
		return time.Time{}, false, fmt.Errorf("agent of %s gave %d results for %d recipients", j.dest.key.channel, len(results), len(pick))
	}
	if ctx.Err() != nil && !anyAnswer(results) {
		return c.now(), false, nil // stopping: nothing was learnt
	}
	c.judge(j.dest, results)
	return c.apply(ctx, j, d.Recipients, results)
}

// pick reads the envelope and chooses the recipients of this job whose time
// has come. it is nil when the message is held or has nothing for the job.
func (c *Controller) pick(j *job) (it *queue.Item, pick []int, err error) {
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	if it, err = c.cfg().Queue.Load(j.m.id); err != nil {
		return nil, nil, err
	}
	if it.Held {
		return nil, nil, nil
	}
	c.mu.Lock()
	forced := j.forced
	c.mu.Unlock()
	now := c.now().Add(time.Second) // those that are nearly due go along
	for i := range it.Recipients {
		r := &it.Recipients[i]
		if r.State == queue.Pending && (destKey{r.Channel, r.NextHop}) == j.dest.key &&
			(forced || !c.cfg().due(r, it.Envelope.Priority, now).After(now)) {
			pick = append(pick, i)
		}
	}
	return it, pick, nil
}

// nextTry is the earliest time of a pending recipient for key, zero for none.
func (c *Controller) nextTry(it *queue.Item, key destKey) time.Time {
	var next time.Time
	now := c.now()
	for i := range it.Recipients {
		r := &it.Recipients[i]
		if r.State != queue.Pending || (destKey{r.Channel, r.NextHop}) != key {
			continue
		}
		at := c.cfg().due(r, it.Envelope.Priority, now)
		if at.IsZero() {
			at = now
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// anyAnswer reports whether a peer said or did anything.
func anyAnswer(results []deliver.Result) bool {
	for i := range results {
		if results[i].Code != 0 || results[i].Outcome == deliver.Unknown || results[i].Outcome.Done() {
			return true
		}
	}
	return false
}

// judge notes whether the destination answers.
func (c *Controller) judge(d *destination, results []deliver.Result) {
	done, answered := false, false
	if !slices.ContainsFunc(results, func(r deliver.Result) bool { return !r.NotAsked }) {
		return
	}
	for i := range results {
		done = done || results[i].Outcome.Done()
		answered = answered || results[i].Code != 0 && !results[i].Busy || results[i].Outcome.Done()
	}
	c.mu.Lock()
	if answered {
		d.failures = 0
		c.rest(d, 0)
	} else if d.failures++; d.failures >= c.cfg().DeadAfter {
		pause := min(c.cfg().DeadPause<<min(d.failures-c.cfg().DeadAfter, 10), c.cfg().DeadPauseMax)
		if d.key.channel == mail.ChannelLMTP {
			pause = min(pause, time.Minute)
		}
		c.rest(d, c.nanos(c.now().Add(pause)))
		c.sweep(d)
	}
	c.mu.Unlock()
	if done && c.cfg().OnDelivered != nil {
		c.cfg().OnDelivered(d.key.channel, d.key.hop)
	}
}

// apply writes what became of the recipients and says when the job runs again.
func (c *Controller) apply(ctx context.Context, j *job, rcpts []mail.Recipient, results []deliver.Result) (time.Time, bool, error) {
	j.m.mu.Lock()
	defer j.m.mu.Unlock()
	it, err := c.cfg().Queue.Load(j.m.id)
	if err != nil {
		return time.Time{}, false, err
	}
	now := c.now()
	durable, made, deferred, busy := false, false, 0, false
	for n := range results {
		r := it.Find(rcpts[n].Key)
		if r == nil || r.State != queue.Pending {
			continue
		}
		final := c.settle(it, r, &results[n], now)
		durable = durable || final
		made = made || final && j.dest.key.channel == mail.ChannelReprocess
		if !final {
			deferred++
			busy = busy || !r.Busy.IsZero()
		}
	}
	if deferred > 0 && deferred < len(results) {
		c.again(it, rcpts, results, now)
	}
	if len(it.Recipients) == 0 && !made {
		durable = false // undone by a crash, it is repeated under the same keys
	}
	if err := c.store(it, durable); err != nil {
		return time.Time{}, false, err
	}
	if err := c.ageLocked(ctx, j.m, it, c.failuresOf(j.dest)); err != nil {
		return time.Time{}, false, err
	}
	return c.nextTry(it, j.dest.key), busy, nil
}

func (c *Controller) failuresOf(d *destination) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return d.failures
}

// store removes a message that has nothing left, or writes it. With durable it
// survives a crash, and lets go on what waits for it.
func (c *Controller) store(it *queue.Item, durable bool) error {
	if len(it.Recipients) > 0 {
		if err := c.cfg().Queue.Update(it, durable); err != nil {
			return err
		}
	} else {
		if err := c.cfg().Queue.Remove(it, durable); err != nil {
			return err
		}
		c.cfg().Mail.Removed(c.event(it, ""))
	}
	if durable {
		c.closed(it)
	}
	return nil
}

// settle puts one result into the envelope. It reports whether the delivery is
// finished; then the recipient has left, or waits for its report.
func (c *Controller) settle(it *queue.Item, r *queue.Recipient, res *deliver.Result, now time.Time) (final bool) {
	res = c.cfg().graced(it, r, res, now)
	r.Attempts++
	r.LastTry = now
	r.Answer = queue.Answer{Code: res.Code, Status: res.Status, Text: res.Text, Relay: res.Relay}
	e := c.event(it, res.Text)
	e.Recipient, e.Channel, e.Relay, e.Status, e.Code = r.Address, r.Channel, res.Relay, res.Status, res.Code
	state := queue.Pending
	switch res.Outcome {
	case deliver.Delivered:
		state = queue.Delivered
		c.cfg().Mail.Delivered(e)
	case deliver.Relayed:
		state = queue.Relayed
		c.cfg().Mail.Relayed(e)
	case deliver.Passed:
		state = queue.Expanded
		if r.Channel == mail.ChannelReprocess {
			c.cfg().Mail.Expanded(e)
		} else {
			c.cfg().Mail.Delivered(e)
		}
		if !res.Ended {
			it.Leave(r)
			return true
		}
	case deliver.Failed:
		state = queue.Failed
		c.cfg().Mail.Bounced(e)
	default:
		r.Unknown = r.Unknown || res.Outcome == deliver.Unknown
		c.cfg().deferred(r, it.Envelope.Priority, now, res.Busy)
		c.cfg().Mail.Deferred(e)
		return false
	}
	c.finish(it, r, state)
	return true
}

// again lets recipients that failed beside others that succeeded be tried at
// once, the first time (mta.md 7.4).
func (c *Controller) again(it *queue.Item, rcpts []mail.Recipient, results []deliver.Result, now time.Time) {
	for n := range results {
		res := &results[n]
		if res.Outcome != deliver.Deferred || res.Busy || res.Code == 0 || res.Status == mail.StatusOverQuota {
			continue
		}
		if r := it.Find(rcpts[n].Key); r != nil && r.State == queue.Pending && r.Attempts == 1 {
			r.Next, r.Step = now, 0
		}
	}
}
