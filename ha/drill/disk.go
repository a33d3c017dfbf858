package drill

import (
	"context"
	"errors"
	"time"
)

func diskFull(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: FillDisk, Node: was}
	from := time.Now()
	if err := f.act(ctx, a); err != nil {
		return err
	}
	// It is felt when the replica gives up, or its mail is refused or has to wait
	// in the relays' queues.
	const waiting = 20
	now, queue := was, 0
	felt := f.until(ctx, f.hold, func() bool {
		now, queue = ask(ctx, f.t, f.pair).serving(), 0
		for _, r := range byRole(f.t, "", RoleRelay) {
			if n, err := queued(ctx, f.t, r); err == nil {
				queue += n
			}
		}
		return now != was && now != "" || f.refusals(from) > 0 || queue >= waiting
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !felt {
		return errors.New("the disk was full and nothing has needed it: raise --rate")
	}
	broken := f.expect(true, "the full disk is felt", "%q serves, %d messages refused, %d queued", now, f.refusals(from), queue)
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin), f.noBounce())
}

// slowWithin is the time of a pair to leave a slow disk: what it takes to notice,
// however short it has served.
const slowWithin = 10 * time.Second

// slowDisk makes the disk of the serving replica slow and not dead. The pair
// notices by itself and moves.
func slowDisk(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: SlowDisk, Node: was}
	from := time.Now()
	if err := f.act(ctx, a); err != nil {
		return err
	}
	within := time.Duration(float64(slowWithin) * f.o.Slack)
	_, broken := f.moved(ctx, was, within-time.Since(from))
	n := f.flows(from, time.Now())
	broken = errors.Join(broken, f.expect(n > 0, "service goes on, slowly", "%d messages acknowledged before", n))
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	now := ask(ctx, f.t, f.pair).serving()
	broken = errors.Join(broken, f.expect(now != was, "the slow one does not serve again", "%q serves", now))
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

// loseDisk takes the disk of the serving replica away by k. What it can no
// longer write it must not promise: it ends at once and does not serve again
// before the disk is mended, however often it is started.
func loseDisk(k Kind) func(context.Context, *field) error {
	return func(ctx context.Context, f *field) error {
		was, err := f.serving(ctx)
		if err != nil {
			return err
		}
		a := Action{Kind: k, Node: was}
		if err := f.act(ctx, a); err != nil {
			return err
		}
		_, broken := f.moved(ctx, was, 15*time.Second)
		claims, err := f.claims(ctx, was)
		if err != nil {
			return err
		}
		broken = errors.Join(broken, f.expect(claims == 0, was+" does not serve on a disk that is lost", "it claimed to %d times", claims))
		return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin), f.noBounce())
	}
}

// hungDisk has the disk of the serving replica answer no more. Its process ends by
// itself, as far as the kernel lets it: a thread that waits for such a disk cannot.
func hungDisk(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: HangDisk, Node: was}
	from := time.Now()
	if err := f.act(ctx, a); err != nil {
		return err
	}
	within := time.Duration(float64(slowWithin) * f.o.Slack)
	_, broken := f.moved(ctx, was, within-time.Since(from))
	claims, err := f.claims(ctx, was)
	if err != nil {
		return err
	}
	_, answers := ask(ctx, f.t, f.pair).status[was]
	broken = errors.Join(broken,
		f.expect(claims == 0, was+" does not serve on a disk that hangs", "it claimed to %d times", claims),
		f.expect(!answers, was+" has ended", "it answers: %t", answers))
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin), f.noBounce())
}

// claims counts for as long as the fault lasts how often a node says that it serves.
func (f *field) claims(ctx context.Context, node string) (n int, err error) {
	for from := time.Now(); time.Since(from) < f.hold; {
		if s, answers := ask(ctx, f.t, f.pair).status[node]; answers && s.Serving {
			n++
		}
		if err := f.wait(ctx, watchEvery); err != nil {
			return n, err
		}
	}
	return n, nil
}
