package voter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// ErrBehind: no member that could take over is alive and has caught up.
var ErrBehind = errors.New("no target is alive and has caught up")

// CaughtUp asks members and returns the first that is alive, follows this one
// and lacks at most lag entries of its log.
func (v *Voter) CaughtUp(ctx context.Context, peers []Peer, lag uint64) (Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, v.cfg.Timings.Election)
	defer cancel()
	r := v.Raft()
	term, last := r.CurrentTerm(), r.LastIndex()
	var found Peer
	v.Ask(ctx, peers, func(s raftnet.Status) bool {
		if s.Term == term && s.LeaderID == v.cfg.ID && s.Last+lag >= last {
			found, _ = v.Peer(s.ID)
		}
		return found.ID != ""
	})
	if found.ID == "" {
		return Peer{}, ErrBehind
	}
	return found, nil
}

// Transfer lets raft hand leadership to a member that was just found alive.
// After nil this member does not lead any more.
func (v *Voter) Transfer(ctx context.Context, to Peer) error {
	r := v.Raft()
	f := r.LeadershipTransferToServer(raft.ServerID(to.ID), raft.ServerAddress(to.Addr))
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
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
