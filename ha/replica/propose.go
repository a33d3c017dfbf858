package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// maxGather is the largest batch that feed waits for, and maxPatience the
// longest that it does.
const (
	maxGather   = 128
	maxPatience = 2 * time.Millisecond
)

// proposal is one call of Propose.
type proposal struct {
	data   []byte
	began  time.Time
	future raft.ApplyFuture // set by feed
	answer chan answer      // buffered
}

type answer struct {
	result any
	index  uint64
	err    error
}

// Propose replicates data and returns what the state machine made of it, and
// the entry's index. data belongs to the replica from the call on: it is kept
// in memory for followers and never to be changed. ctx bounds the wait, not
// the proposal: when it ends first the outcome is ErrUnknown.
func (r *Replica) Propose(ctx context.Context, data []byte) (result any, index uint64, err error) {
	size := int64(len(data))
	if err := r.admit(data); err != nil {
		return nil, 0, fmt.Errorf("propose: %w", err)
	}
	if r.inFlight.Add(size) > MaxInFlight {
		r.inFlight.Add(-size)
		return nil, 0, fmt.Errorf("propose: %w", ErrBusy)
	}
	r.admission.RLock()
	if r.stopping {
		r.admission.RUnlock()
		r.inFlight.Add(-size)
		return nil, 0, fmt.Errorf("propose: %w", r.notServing())
	}
	r.outstanding.Add(1)
	r.admission.RUnlock()
	r.waiting.Add(1)
	p := &proposal{data: data, began: time.Now(), answer: make(chan answer, 1)}
	r.queue <- p
	select {
	case a := <-p.answer:
		if a.err != nil {
			return nil, 0, fmt.Errorf("propose: %w", a.err)
		}
		return a.result, a.index, nil
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("propose: %w: %w", ErrUnknown, ctx.Err())
	}
}

// admit refuses what cannot be proposed now.
func (r *Replica) admit(data []byte) error {
	switch {
	case len(data) > MaxEntry:
		return fmt.Errorf("%d bytes: %w", len(data), ErrTooLarge)
	case !r.Serving():
		return r.notServing()
	case len(data) > lowEntry && r.Low():
		return ErrNoSpace
	case r.room.held.Load():
		return fmt.Errorf("a member's log has no room: %w", ErrNoSpace)
	}
	return nil
}

// feed gives proposals to raft in bursts. raft writes what is there when its
// disk is free. Proposals come back in the rhythm of the commits; given one by
// one they split into ever smaller batches, each with its own flush. So while
// others are under way, feed waits for half of all, though never longer than
// a part of what a flush takes.
func (r *Replica) feed(done <-chan struct{}) {
	burst := make([]*proposal, 0, maxGather)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case p := <-r.queue:
			burst = append(burst, p)
		case <-done:
			return
		}
		timer.Reset(min(r.v.StoreTime()/2, maxPatience))
	gather:
		for len(burst) < maxGather {
			if len(burst) < min(int(r.waiting.Load()+1)/2, maxGather) {
				select {
				case p := <-r.queue:
					burst = append(burst, p)
					continue
				case <-timer.C:
				}
			}
			for len(burst) < maxGather {
				select {
				case p := <-r.queue:
					burst = append(burst, p)
				default:
					break gather
				}
			}
		}
		rf := r.v.Raft()
		for _, p := range burst {
			p.future = rf.ApplyLog(raft.Log{Data: p.data}, 0)
			r.taken <- p
		}
		clear(burst)
		burst = burst[:0]
	}
}

// complete hands raft's answers to the proposers. raft answers in order, so
// that one goroutine waits for all.
func (r *Replica) complete(done <-chan struct{}) {
	for {
		select {
		case p := <-r.taken:
			err := p.future.Error()
			a := answer{err: r.outcome(err)}
			if err == nil {
				a.result, a.index = p.future.Response(), p.future.Index()
				r.commits.add(time.Since(p.began))
			}
			r.inFlight.Add(-int64(len(p.data)))
			r.waiting.Add(-1)
			p.answer <- a
			r.outstanding.Done()
		case <-done:
			return
		}
	}
}

// outcome says what raft's error means for the entry.
func (r *Replica) outcome(err error) error {
	if err == nil {
		if r.refusedSince.Load() != 0 {
			r.refusedSince.Store(0)
		}
		return nil
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return r.notServing()
	case errors.Is(err, raft.ErrLeadershipTransferInProgress):
		r.checkStuck()
		return r.notServing()
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrBusy
	case errors.Is(err, ErrNoSpace):
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// checkStuck ends the process when a transfer that came to nothing keeps
// raft from taking proposals.
func (r *Replica) checkStuck() {
	now := time.Now().UnixNano()
	if r.refusedSince.CompareAndSwap(0, now) {
		return
	}
	if since := time.Duration(now - r.refusedSince.Load()); since > 2*r.cfg.Timings.Election && r.v.Raft().State() == raft.Leader {
		r.v.Fatal(fmt.Errorf("replica: a leadership transfer has blocked proposals for %v", since))
	}
}
