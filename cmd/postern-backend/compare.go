package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/shared/metrics"
)

// scratchName is where rows are rebuilt to be compared.
const scratchName = "rebuilt"

// compare compares the digests that the replicas noted last, and has them note
// the next ones, if this replica serves.
func (u *upkeep) compare(ctx context.Context) error {
	u.compareNoted(ctx)
	if !u.cfg.Serving() || u.quarantined() != "" {
		return nil
	}
	err := u.cfg.Propose(ctx, u.cfg.Machine.DigestCommand(u.cfg.Now().UnixNano()))
	if err != nil && u.cfg.Serving() { // else the next one does it
		return fmt.Errorf("digest: %w", err)
	}
	return nil
}

// compareNoted shows what was noted last. The replicas that follow have compared
// it when it was in the log; the one that serves asks the other one.
func (u *upkeep) compareNoted(ctx context.Context) {
	index, ours := u.cfg.Machine.Mark()
	if index == 0 {
		return
	}
	if u.cfg.Peer != nil {
		at, theirs, err := u.cfg.Peer.Mark(ctx)
		switch {
		case err != nil || at != index: // it is away or behind
		case ours == theirs:
			u.agreed.Store(index)
		default:
			u.investigate(ctx, fsm.Comparison{Index: index, Ours: ours, Theirs: theirs})
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.agreed.Load() > u.differed {
		u.state.Differs, u.unsure = false, ""
		metrics.DigestDiffers.With(u.cfg.Pair).Set(0)
	}
	if index != u.state.Compared {
		u.state.Compared, u.state.ComparedAt, u.state.Digest = index, u.cfg.Now().UTC(), ours.String()
	}
}

// investigate finds out whether this replica is the one that is wrong when two
// differ: its rows have to agree with each other, and with what its own log
// makes of the last snapshot. If they do not it is quarantined; if they do it
// goes on, with an alarm, since the other one has to look too.
func (u *upkeep) investigate(ctx context.Context, d fsm.Comparison) {
	u.cfg.Logger.Error("the replicas differ", "entry", d.Index, "ours", d.Ours, "theirs", d.Theirs)
	u.mu.Lock()
	u.state.Differs, u.differed = true, max(u.differed, d.Index)
	u.unsure = fmt.Sprintf("the other replica has another digest at entry %d; this one is being checked", d.Index)
	u.mu.Unlock()
	metrics.DigestDiffers.With(u.cfg.Pair).Set(1)
	verdict, err := u.check(ctx, d.Index, d.Ours)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.unsure = fmt.Sprintf("the other replica has another digest at entry %d, and this one could not be checked: %v", d.Index, err)
		return
	}
	u.unsure = fmt.Sprintf("the other replica has another digest at entry %d; this one %s", d.Index, verdict)
}

// errNoProof: nothing says whether the rows are right.
var errNoProof = errors.New("no snapshot is old enough to replay the log from")

// check verifies the rows and compares the digest that they had at the Digest
// command at an entry with what the log makes of a snapshot. It quarantines the
// replica if they differ, and says in words what it found.
func (u *upkeep) check(ctx context.Context, index uint64, digest store.Sum) (verdict string, err error) {
	u.checking.Lock()
	defer u.checking.Unlock()
	if _, err := u.cfg.Rows.Verify(); errors.Is(err, store.ErrInconsistent) {
		u.isolate(fmt.Sprintf("its rows contradict each other: %v", err))
		return "is wrong: its rows contradict each other", nil
	} else if err != nil {
		return "", err
	}
	if index == 0 {
		return "has rows that agree with each other", nil
	}
	scratch := filepath.Join(u.cfg.Dir, scratchName)
	if err := os.RemoveAll(scratch); err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch) // what is left is removed the next time
	// Snapshots made after the replicas were last equal prove nothing. They were
	// before the entry that compared them.
	equal := max(u.agreed.Load(), 1) - 1
	r, err := snapshot.Newest(ctx, u.keeper.Dir, scratch, upkeepLog{u.cfg.Log}, min(equal, index-1), index-1)
	if errors.Is(err, snapshot.ErrNotFound) {
		err = errNoProof
	}
	if err != nil {
		return "", err
	}
	if r.State.Digest != digest {
		u.isolate(fmt.Sprintf("its digest at entry %d is %v, replaying its log from snapshot %s gives %v", index, digest, r.From, r.State.Digest))
		return fmt.Sprintf("is wrong: its log says something else since snapshot %s", r.From), nil
	}
	return fmt.Sprintf("agrees with its own log since snapshot %s", r.From), nil
}
