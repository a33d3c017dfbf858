package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Count is what became of one kind of request.
type Count struct {
	Asked  int64       `json:"asked"`
	Done   int64       `json:"done"`
	Failed int64       `json:"failed"`
	Rate   float64     `json:"per_second"` // of those done
	Times  Percentiles `json:"times"`      // of those done
}

// Result is what was measured.
type Result struct {
	Profile    Profile `json:"profile"`
	PollEvery  float64 `json:"poll_seconds"`
	Seconds    float64 `json:"seconds"`
	Deliveries Count   `json:"deliveries"`
	Logins     Count   `json:"logins"`
	Polls      Count   `json:"polls"`
	Fetches    Count   `json:"fetches"`
	Nodes      []Used  `json:"nodes,omitempty"`
	// Error is why the load ended before its time, or the first thing that failed.
	Error string `json:"error,omitempty"`
	Ended bool   `json:"ended_early"`
}

// counter is a Count while it grows.
type counter struct {
	asked, done, failed atomic.Int64
	times               Times
}

func (c *counter) count(took time.Duration, err error) {
	if err != nil {
		c.failed.Add(1)
		return
	}
	c.done.Add(1)
	c.times.Add(took)
}

func (c *counter) result(seconds float64) Count {
	n := Count{Asked: c.asked.Load(), Done: c.done.Load(), Failed: c.failed.Load(), Times: c.times.Percentiles()}
	n.Rate = float64(int(float64(n.Done)/seconds*10+0.5)) / 10
	return n
}

// run is a load under way.
type run struct {
	p   *Profile
	t   *Target
	id  string
	end context.CancelCauseFunc

	deliveries, logins, polls, fetches counter

	sent atomic.Int64 // octets
	mu   sync.Mutex   // guards first
	why  error        // the first thing that failed
}

// errTooMany ends a load on a cluster that fails.
var errTooMany = errors.New("too much of what was asked for failed")

// errBytes ends a load that has sent what it may.
var errBytes = errors.New("all octets that --max-bytes allows are sent")

// leastAsked is how much must have been asked for before a share of it counts.
const leastAsked = 50

// Run puts the load on t and returns what came of it. The error is one of the
// load itself: what it was told, or no session that could be opened.
func Run(ctx context.Context, p Profile, t Target, usage func() []Used) (*Result, error) {
	if err := errors.Join(p.Check(), t.check(&p)); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	r := &run{p: &p, t: &t, id: fmt.Sprintf("bench%d", time.Now().UnixNano()), end: end}
	sessions, err := r.open(ctx)
	defer func() {
		for _, s := range sessions {
			s.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	var before []Used
	if usage != nil {
		before = usage()
	}
	began := time.Now()
	timed, cancel := context.WithDeadline(ctx, began.Add(p.For))
	defer cancel()
	var wg sync.WaitGroup
	if p.Deliveries >= 0 {
		wg.Go(func() { r.send(timed, began) })
	}
	if p.Poll > 0 {
		for i, s := range sessions {
			wg.Go(func() { r.poll(timed, s, began.Add(p.Poll*time.Duration(i)/time.Duration(len(sessions)))) })
		}
	}
	<-timed.Done()
	wg.Wait()
	took := time.Since(began).Seconds()
	res := &Result{Profile: p, PollEvery: p.Poll.Seconds(), Seconds: float64(int(took*100)) / 100}
	for _, c := range []struct {
		from *counter
		to   *Count
	}{{&r.deliveries, &res.Deliveries}, {&r.logins, &res.Logins}, {&r.polls, &res.Polls}, {&r.fetches, &res.Fetches}} {
		*c.to = c.from.result(took)
	}
	if usage != nil {
		res.Nodes = since(before, usage(), took)
	}
	if why := r.first(); why != nil {
		res.Error = why.Error()
	}
	if cause := context.Cause(ctx); ctx.Err() != nil {
		res.Ended = true
		if !errors.Is(cause, errTooMany) || res.Error == "" {
			res.Error = cause.Error()
		}
	}
	return res, nil
}

// failed notes an error and ends the load when there are too many.
func (r *run) failed(err error) {
	r.mu.Lock()
	if r.why == nil {
		r.why = err
	}
	r.mu.Unlock()
	failed, asked := int64(0), int64(0)
	for _, c := range []*counter{&r.deliveries, &r.logins, &r.polls, &r.fetches} {
		failed, asked = failed+c.failed.Load(), asked+c.asked.Load()
	}
	if asked >= leastAsked && float64(failed) > r.p.MaxErrors*float64(asked) {
		r.end(errTooMany)
	}
}

func (r *run) first() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// sleepUntil reports whether ctx does not end before, or at that moment.
func sleepUntil(ctx context.Context, at time.Time) bool {
	if end, ok := ctx.Deadline(); ok && !at.Before(end) {
		<-ctx.Done()
		return false
	}
	wait := time.Until(at)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
