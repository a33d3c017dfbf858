package drill

import (
	"context"
	"errors"
	"slices"
	"time"
)

const (
	// herdWithin is the time of users to be back, 99 of 100 of them.
	herdWithin = 15 * time.Second
	// herdAfter is how long mail is counted after the other replica serves.
	herdAfter = 5 * time.Second
)

// herd kills the serving replica under many sessions. What their logins cost
// must not push the other replica over, nor keep mail waiting.
func herd(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	const before = 2 * time.Second
	now := time.Now()
	normal := f.flows(now.Add(-before), now)
	a := Action{Kind: Kill, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	next, broken := f.moved(ctx, was, 15*time.Second)
	served := time.Now()
	if err := f.wait(ctx, herdAfter); err != nil {
		return err
	}
	mail := f.flows(served, time.Now())
	want := normal * int(herdAfter) / int(before) / 2
	broken = errors.Join(broken, f.expect(mail >= want, "mail goes on meanwhile", "%d messages in the %v after, %d in the %v before", mail, herdAfter, normal, before))
	within := time.Duration(float64(herdWithin) * f.o.Slack)
	var back []time.Duration
	f.until(ctx, within-time.Since(now), func() bool {
		back = f.answeredSince(served)
		return len(back) == len(f.crowd)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	least := len(f.crowd) * 99 / 100
	slices.Sort(back)
	p99 := time.Duration(0)
	if len(back) >= least && least > 0 {
		p99 = back[least-1]
	}
	serves := ask(ctx, f.t, f.pair).serving()
	return errors.Join(broken,
		f.expect(least > 0 && len(back) >= least, "everybody is back", "%d of %d sessions, 99 of 100 within %v", len(back), len(f.crowd), p99.Round(time.Millisecond)),
		f.expect(serves == next, "no second failover", "%s, then %s", next, serves),
		f.back(ctx, a), f.awaitWell(ctx, wellWithin))
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
