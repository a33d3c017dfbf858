package replica

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/ha/replica/voter"
)

// ErrDraining: the replica that could take over drains.
var ErrDraining = voter.ErrDraining

// aside says why a replica would rather not serve, besides a full disk. The
// others are told, and hand nothing over to it that another one can take.
type aside struct {
	draining func() bool // an operator wants it so
	barred   atomic.Bool // its state is in doubt
	ending   atomic.Bool // the process ends

	turn chan struct{} // holds a token during a hand-over
	look chan struct{} // one token: it has come to serve, or a reason is new
}

func newAside(draining func() bool) aside {
	if draining == nil {
		draining = func() bool { return false }
	}
	return aside{draining: draining, turn: make(chan struct{}, 1), look: make(chan struct{}, 1)}
}

func (a *aside) any() bool { return a.draining() || a.barred.Load() || a.ending.Load() }

func (a *aside) wake() {
	select {
	case a.look <- struct{}{}:
	default:
	}
}

// Bar says that the state of this replica is in doubt, or is no longer: it hands
// over as one that drains, and also to one that drains.
func (r *Replica) Bar(on bool) {
	r.aside.barred.Store(on)
	r.aside.wake()
}

// Leave hands over before this process ends: to a replica that drains if there
// is no other. From then on this one takes part as one that drains.
func (r *Replica) Leave(ctx context.Context) error {
	r.aside.ending.Store(true)
	return r.StepAside(ctx)
}

// StepAside hands over now if this replica serves and has a reason not to. On an
// error it serves on, and tries again every second.
func (r *Replica) StepAside(ctx context.Context) error {
	select {
	case r.aside.turn <- struct{}{}:
		defer func() { <-r.aside.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if !r.v.Aside() || !r.Serving() {
		return nil
	}
	return r.transfer(ctx, "", r.aside.barred.Load() || r.aside.ending.Load())
}

// keepAside hands over at once when a replica that has a reason not to serves
// all the same, and tries again while nobody can take over.
func (r *Replica) keepAside(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	said := false
	for {
		select {
		case <-r.aside.look:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !r.v.Aside() || !r.Serving() {
			said = false
			continue
		}
		limited, cancel := context.WithTimeout(ctx, 4*r.cfg.Timings.Election)
		err := r.StepAside(limited)
		cancel()
		if err != nil && !said && !errors.Is(err, context.Canceled) {
			said = true
			r.log.Warn("this replica should not serve, and does until another one can", "err", err)
		}
	}
}
