package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// herdWithin is the time of users to be back, 99 of 100 of them.
	herdWithin = 15 * time.Second
	// herdAfter is how long mail is counted before the fault, and at least after
	// the other replica serves.
	herdAfter = 5 * time.Second
	// gatherEach is the time of one user to come in before the fault.
	gatherEach = 20 * time.Millisecond
)

// herd kills the serving replica under many sessions that wait. Whether they go on or
// log in again, what that costs must not push the other replica over, nor keep mail
// waiting. A session counts when it has had an answer since: those that live ask for one
// in turn, within herdAfter.
func herd(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	here := 0
	together := time.Duration(float64(herdWithin+time.Duration(len(f.crowd))*gatherEach) * f.o.Slack)
	f.until(ctx, together, func() bool { here = len(f.answeredSince(time.Time{})); return here == len(f.crowd) })
	if here < len(f.crowd) {
		return errors.Join(context.Cause(ctx), fmt.Errorf("%d of %d users had come in %v after they began to", here, len(f.crowd), together))
	}
	f.event("%d users wait for news", here)
	if err := f.wait(ctx, herdAfter); err != nil {
		return err
	}
	now := time.Now()
	normal := f.flows(now.Add(-herdAfter), now)
	a := Action{Kind: Kill, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	next, broken := f.moved(ctx, was, 15*time.Second)
	served := time.Now()
	term := ask(ctx, f.t, f.pair).status[next].Term
	least := len(f.crowd) * 99 / 100
	within := time.Duration(float64(herdWithin) * f.o.Slack)
	var back []time.Duration
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		f.renew(ctx, now)
	}()
	defer func() { <-asked }()
	f.until(ctx, within-time.Since(now), func() bool { back = f.answeredSince(now); return len(back) >= least })
	if err := f.wait(ctx, herdAfter-time.Since(served)); err != nil {
		return err
	}
	slices.Sort(back)
	p99 := time.Duration(0)
	if len(back) >= least && least > 0 {
		p99 = back[least-1]
	}
	took := time.Since(served)
	mail, want := f.flows(served, time.Now()), int(int64(normal)*int64(took)/int64(herdAfter)/2)
	g := ask(ctx, f.t, f.pair)
	return errors.Join(broken,
		f.expect(least > 0 && len(back) >= least, "everybody is back", "%d of %d sessions, 99 of 100 within %v of the fault", len(back), len(f.crowd), p99.Round(time.Millisecond)),
		f.expect(f.unbroken(now) >= least, "sessions go on", "%d of %d without a new login", f.unbroken(now), len(f.crowd)),
		f.expect(mail >= want, "mail goes on meanwhile", "%d messages in the %v in which they come back, %d in the %v before", mail, took.Round(time.Millisecond), normal, herdAfter),
		f.expect(g.serving() == next && g.status[next].Term == term, "no second failover", "%s in term %d, then %s in term %d", next, term, g.serving(), g.status[next].Term),
		f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

// renew asks each session that was not answered since at, one after the other.
func (f *field) renew(ctx context.Context, at time.Time) {
	for _, p := range f.crowd {
		if f.wait(ctx, herdAfter/time.Duration(len(f.crowd))) != nil {
			return
		}
		if answers, _, _, _ := p.Answers(); len(answers) == 0 || answers[len(answers)-1].Before(at) {
			p.Renew()
		}
	}
}

// unbroken is how many sessions live on since at.
func (f *field) unbroken(at time.Time) (n int) {
	for _, p := range f.crowd {
		if _, errors, _, _ := p.Answers(); len(errors) == 0 || errors[len(errors)-1].Before(at) {
			n++
		}
	}
	return n
}

// answeredSince is how long after at each session had its first answer, of
// those that had one.
func (f *field) answeredSince(at time.Time) (list []time.Duration) {
	for _, p := range f.crowd {
		answers, _, _, _ := p.Answers()
		if i, _ := slices.BinarySearchFunc(answers, at, time.Time.Compare); i < len(answers) {
			list = append(list, answers[i].Sub(at))
		}
	}
	return list
}
