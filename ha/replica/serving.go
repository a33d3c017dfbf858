package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// serveState says whether clients may use this replica.
type serveState struct {
	on   atomic.Bool
	term atomic.Uint64 // in which it is on

	mu        sync.Mutex // guards observers and the order of their calls
	observers []func(bool)
}

// Serving reports whether clients may use this replica: it leads, has applied
// what was committed before its term, and has not begun to hand over.
func (r *Replica) Serving() bool { return r.serve.on.Load() && !r.transferring.Load() }

// Observe has f called with each change of Serving, in order, one call at a
// time. f is quick and does not call Observe.
func (r *Replica) Observe(f func(serving bool)) {
	r.serve.mu.Lock()
	defer r.serve.mu.Unlock()
	r.serve.observers = append(r.serve.observers, f)
}

// change runs a change of state and tells the observers if it made a
// difference.
func (r *Replica) change(do func()) {
	r.serve.mu.Lock()
	defer r.serve.mu.Unlock()
	before := r.Serving()
	do()
	if now := r.Serving(); now != before {
		r.log.Info("serving changed", "serving", now, "term", r.v.Raft().CurrentTerm())
		for _, f := range r.serve.observers {
			f(now)
		}
	}
}

// lead follows raft's changes of leadership.
func (r *Replica) lead(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	end := func() {}
	for {
		select {
		case leads := <-r.v.Raft().LeaderCh():
			end()
			r.change(func() { r.serve.on.Store(false) })
			if leads {
				var term context.Context
				term, end = context.WithCancel(ctx)
				wg.Go(func() { r.begin(term) })
			}
		case <-ctx.Done():
			end()
			r.change(func() { r.serve.on.Store(false) })
			return
		}
	}
}

// begin makes a new leader serve once it may.
func (r *Replica) begin(ctx context.Context) {
	if r.stood.Swap(false) {
		// The old leader may still be there and hold a read lease.
		select {
		case <-time.After(r.cfg.Timings.Read):
		case <-ctx.Done():
			return
		}
	}
	rf := r.v.Raft()
	term := rf.CurrentTerm()
	// raft answers at once when leadership is lost.
	if err := rf.Barrier(0).Error(); err != nil {
		r.log.Info("leads, but cannot serve", "err", err)
		return
	}
	r.change(func() {
		if ctx.Err() == nil && rf.State() == raft.Leader && rf.CurrentTerm() == term {
			r.serve.term.Store(term)
			r.serve.on.Store(true)
		}
	})
	r.aside.wake()
}

// leaderDied is told that the leader's process has ended. The member that has
// more of the log stands, so that the election succeeds at once. One that drains
// leaves it to a data replica that does not and has as much.
func (r *Replica) leaderDied(ctx context.Context, leader string) {
	me := r.v.Status()
	for id, s := range r.v.Ask(ctx, r.without(leader), nil) {
		p, ok := r.v.Peer(id)
		able := ok && !p.Witness && !s.Draining && s.Last == me.Last
		if s.Last > me.Last || me.Draining && able {
			return
		}
	}
	r.stood.Store(true)
	if err := r.v.Stand(ctx, leader); err != nil {
		r.stood.Store(false)
		r.log.Info("not standing for election", "err", err)
	}
}

func (r *Replica) without(id string) []Peer {
	var list []Peer
	for _, p := range r.v.Others() {
		if p.ID != id {
			list = append(list, p)
		}
	}
	return list
}

// lease is the permission to answer reads.
type lease struct {
	until atomic.Int64 // since epoch, on the monotonic clock
	term  atomic.Uint64

	mu     sync.Mutex // guards flight and closed
	flight *flight
	closed bool // no flight begins any more
	wg     sync.WaitGroup
}

// close waits for the flight that is under way and lets none begin after it.
func (l *lease) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
}

// epoch makes monotonic times of durations.
var epoch = time.Now()

// flight is one question to the other members that several callers wait for.
type flight struct {
	done chan struct{}
	err  error
}

// Confirm returns nil while no other replica can have answered newer writes:
// what was read before the call may be sent. Otherwise ErrNotServing or
// ErrNoQuorum. It costs nothing while the lease lasts.
func (r *Replica) Confirm(ctx context.Context) error {
	if !r.Serving() {
		return fmt.Errorf("confirm: %w", r.notServing())
	}
	if r.leased() {
		return nil
	}
	for range 2 {
		// The first flight may have begun before this call, but its lease
		// counts from its own start and is checked against now.
		if err := r.verify(ctx); err != nil {
			return fmt.Errorf("confirm: %w", err)
		}
		if r.leased() {
			return nil
		}
	}
	return fmt.Errorf("confirm: the answers came late: %w", ErrNoQuorum)
}

// verify asks the other members, or waits for a question under way.
func (r *Replica) verify(ctx context.Context) error {
	r.lease.mu.Lock()
	if r.lease.closed {
		r.lease.mu.Unlock()
		return ErrNotServing{}
	}
	f := r.lease.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		r.lease.flight = f
		r.lease.wg.Go(func() {
			f.err = r.renew()
			r.lease.mu.Lock()
			r.lease.flight = nil
			r.lease.mu.Unlock()
			close(f.done)
		})
	}
	r.lease.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// renew asks the other members whom they follow, and takes a lease if a
// majority, this replica included, follows this one.
func (r *Replica) renew() error {
	t := &r.cfg.Timings
	ctx, cancel := context.WithTimeout(context.Background(), t.Heartbeat)
	defer cancel()
	term, start := r.serve.term.Load(), time.Since(epoch)
	others := r.v.OtherVoters()
	need, votes, end := (len(others)+1)/2, 0, start+t.Read
	r.v.Ask(ctx, others, func(s raftnet.Status) bool {
		if s.Term != term || s.LeaderID != r.cfg.ID || raft.RaftState(s.State) != raft.Follower {
			return false
		}
		// The member is loyal from its last contact, not from its answer.
		until := start + t.Heartbeat*4/5 - s.Contact
		if until <= start {
			return false
		}
		end = min(end, until)
		votes++
		return votes >= need
	})
	if votes < need {
		return ErrNoQuorum
	}
	r.lease.term.Store(term)
	r.lease.until.Store(int64(end))
	return nil
}

// maxLag is how many entries the target of a transfer may lack.
const maxLag = 1024

// Transfer hands leadership to another data replica, the first that can take
// it if toID is empty. After nil this replica does not lead any more. After
// ErrBehind, ErrDraining and other errors it serves as before, if it did.
func (r *Replica) Transfer(ctx context.Context, toID string) error {
	return r.transfer(ctx, toID, false)
}

// transfer is Transfer, also to a replica that drains if draining says so.
func (r *Replica) transfer(ctx context.Context, toID string, draining bool) error {
	if !r.Serving() {
		return fmt.Errorf("transfer: %w", r.notServing())
	}
	p, err := r.target(ctx, toID)
	if err != nil && !(draining && errors.Is(err, ErrDraining)) {
		return fmt.Errorf("transfer: %w", err)
	}
	if !r.moving.TryLock() {
		return errors.New("transfer: one is under way")
	}
	defer r.moving.Unlock()
	if err := r.v.Awake(ctx, p); err != nil {
		return fmt.Errorf("transfer to %s: %w", p.Name, err)
	}
	term := r.serve.term.Load()
	r.change(func() { r.transferring.Store(true) })
	r.settle(ctx)
	err = r.v.Transfer(ctx, p)
	if err == nil {
		// Clients are not served until raft says that we lead again, which may have
		// been meanwhile.
		r.change(func() {
			if r.serve.term.Load() == term {
				r.serve.on.Store(false)
			}
		})
	}
	r.change(func() { r.transferring.Store(false) })
	if err != nil {
		return fmt.Errorf("transfer to %s: %w", p.Name, err)
	}
	return nil
}

// settle waits a little for the proposals under way, which no new ones follow:
// those that the old leader has not seen committed end without an answer.
func (r *Replica) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timings.Heartbeat)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.waiting.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// target returns the data replica to transfer to, after asking it.
func (r *Replica) target(ctx context.Context, id string) (voter.Peer, error) {
	var list []voter.Peer
	for _, p := range r.v.OtherVoters() {
		if !p.Witness && (id == "" || p.ID == id) {
			list = append(list, p)
		}
	}
	return r.v.CaughtUp(ctx, list, maxLag)
}
