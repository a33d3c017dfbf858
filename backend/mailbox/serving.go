package mailbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// servingCheck is how often Serving asks by itself.
const servingCheck = time.Second

// Serving tells a server of a protocol when this replica serves no more, so that
// its sessions end which wait for their clients.
type Serving struct {
	s       *Service
	lost    atomic.Bool // as of the last look
	recheck chan struct{}
}

// NewServing returns one for a server. Somebody must call Watch.
func NewServing(s *Service) *Serving { return &Serving{s: s, recheck: make(chan struct{}, 1)} }

// Recheck has Watch look at once. It does not block.
func (w *Serving) Recheck() {
	select {
	case w.recheck <- struct{}{}:
	default:
	}
}

// Watch looks each second, and when Recheck is called, until ctx is done. It calls
// wake when the replica has stopped serving since the last look.
func (w *Serving) Watch(ctx context.Context, wake func()) {
	tick := time.NewTicker(servingCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.recheck:
		}
		if w.ask(ctx) == nil {
			w.lost.Store(false)
		} else if !w.lost.Swap(true) {
			wake()
		}
	}
}

// Lost says that the replica does not serve, and which one does; nil when it
// serves, or when that cannot be told. It costs nothing while the last look found
// that it serves.
func (w *Serving) Lost(ctx context.Context) *ErrNotServing {
	if !w.lost.Load() {
		return nil
	}
	not := w.ask(ctx)
	if not == nil {
		w.lost.Store(false) // who was woken for nothing is woken again
	}
	return not
}

func (w *Serving) ask(ctx context.Context) *ErrNotServing {
	var not *ErrNotServing
	if errors.As(w.s.Ready(ctx), &not) {
		return not
	}
	return nil
}
