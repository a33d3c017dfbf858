package voter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// ErrBehind: no member that could take over is alive and has caught up.
var ErrBehind = errors.New("no target is alive and has caught up")

// maxAsleep is a little more than the longest time that raft leaves a member
// alone after failures: 10 ms doubled ten times.
const maxAsleep = 12 * time.Second

// ErrDraining: those that could take over would rather not serve.
var ErrDraining = errors.New("the only target drains")

// CaughtUp asks members and returns the first that is alive, follows this one,
// lacks at most lag entries of its log and does not drain. If there are only
// members that drain it returns one of them, and ErrDraining.
func (v *Voter) CaughtUp(ctx context.Context, peers []Peer, lag uint64) (Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timings.Election)
	defer cancel()
	r := v.Raft()
	term, last := r.CurrentTerm(), r.LastIndex()
	var found, drains Peer
	v.Ask(ctx, peers, func(s raftnet.Status) bool {
		if s.Term == term && s.LeaderID == v.cfg.ID && s.Last+lag >= last {
			p, _ := v.Peer(s.ID)
			if s.Draining {
				drains = p
			} else {
				found = p
			}
		}
		return found.ID != ""
	})
	switch {
	case found.ID != "":
		return found, nil
	case drains.ID != "":
		return drains, ErrDraining
	}
	return Peer{}, ErrBehind
}

// Awake makes an entry and waits until the log of a member has it. raft leaves a
// member alone for up to ten seconds after it was away, while that member already
// answers; a transfer begun meanwhile would hold up proposals and fail.
func (v *Voter) Awake(ctx context.Context, to Peer) error {
	ctx, cancel := context.WithTimeout(ctx, maxAsleep)
	defer cancel()
	r := v.Raft()
	f := r.Barrier(0)
	made := make(chan error, 1)
	go func() { made <- f.Error() }()
	select {
	case err := <-made:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ErrBehind
	}
	index := r.LastIndex()
	tick := time.NewTicker(v.cfg.Timings.Election / 20)
	defer tick.Stop()
	for {
		there := false
		v.Ask(ctx, []Peer{to}, func(s raftnet.Status) bool {
			there = s.Last >= index
			return there
		})
		if there {
			return nil
		}
		if r.State() != raft.Leader {
			return raft.ErrNotLeader
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ErrBehind
		}
	}
}

// Transfer lets raft hand leadership to a member that was just found alive.
// After nil this member does not lead any more.
func (v *Voter) Transfer(ctx context.Context, to Peer) error {
	done := make(chan error, 1)
	if !v.moves.begin() {
		return raft.ErrRaftShutdown
	}
	r := v.Raft()
	f := r.LeadershipTransferToServer(raft.ServerID(to.ID), raft.ServerAddress(to.Addr))
	go func() {
		defer v.moves.wg.Done()
		done <- f.Error()
	}()
	// raft gives up by itself after an election time-out. When it does not,
	// it may not take proposals either.
	limit := time.NewTimer(2*v.cfg.Timings.Election + time.Second)
	defer limit.Stop()
	select {
	case err := <-done:
		if err == nil && r.State() == raft.Leader {
			err = errors.New("voter: leads still")
		}
		return err
	case <-limit.C:
		err := fmt.Errorf("voter: a leadership transfer to %s does not end", to.Name)
		v.Fatal(err)
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// moves are the transfers that raft has not answered. It answers none after its
// end, so that the end waits for them and lets none begin.
type moves struct {
	mu     sync.Mutex // guards closed, and adding to wg
	closed bool
	wg     sync.WaitGroup
}

// begin counts a transfer, which ends with wg.Done, unless it is too late.
func (m *moves) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.wg.Add(1)
	}
	return !m.closed
}

// close waits for the transfers under way, for limit at most.
func (m *moves) close(limit time.Duration) {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.wg.Wait()
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}
