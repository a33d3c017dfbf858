package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/admin"
)

// TestEqualReplicasAgree compares two replicas and finds nothing.
func TestEqualReplicasAgree(t *testing.T) {
	a := filled(t, 10)
	b := newNode(t, t.TempDir())
	b.follows = true
	for range 3 {
		a.check(a.upkeep.compare(t.Context()))
		b.mirror(a)
	}
	b.peer, b.upkeep.cfg.Peer = a, a
	b.check(b.upkeep.compare(t.Context()))
	var st admin.GroupStatus
	b.upkeep.status(&st)
	if u := st.Upkeep; u.Differs || u.Compared == 0 || u.Digest == "" || len(st.Alarms) != 0 || b.upkeep.agreed.Load() != u.Compared {
		t.Errorf("%+v, alarms %v", u, st.Alarms)
	}
}

// diverged is two replicas that were equal, of which the second one's rows have
// something that its log does not say. snap names when its snapshot was made.
func diverged(t *testing.T, snapshotAfter bool) (a, b *node) {
	a = filled(t, 10)
	_, err := a.upkeep.snapshot("", false)
	a.check(err)
	b = newNode(t, t.TempDir())
	b.follows = true
	b.mirror(a)
	if !snapshotAfter {
		_, err := b.upkeep.snapshot("", false)
		b.check(err)
	}
	a.check(a.upkeep.compare(t.Context()))
	b.mirror(a)
	a.upkeep.cfg.Peer = b
	a.check(a.upkeep.compare(t.Context()))
	b.mirror(a)
	// An account that no entry made.
	st := b.machine.State()
	batch := b.rows.NewBatch(&st)
	st.NextID++
	batch.PutAccount(&store.Account{ID: st.NextID + 1000, Name: "ghost@example.org"})
	b.check(batch.Commit())
	batch.Close()
	b.stop()
	b.start()
	if snapshotAfter {
		_, err := b.upkeep.snapshot("", false)
		b.check(err)
	}
	a.check(a.upkeep.compare(t.Context()))
	b.mirror(a)
	a.check(a.upkeep.compare(t.Context()))
	b.mirror(a)
	return a, b
}

// TestWrongReplicaIsQuarantined lets the replica whose rows are not what its log
// says find that out. It stays quarantined until it is released.
func TestWrongReplicaIsQuarantined(t *testing.T) {
	_, b := diverged(t, false)
	var d fsm.Comparison
	select {
	case d = <-b.upkeep.differ:
	default:
		t.Fatal("the replica that differs was not told")
	}
	b.upkeep.investigate(t.Context(), d)
	why := b.upkeep.quarantined()
	if !b.barred || !strings.Contains(why, "replaying its log") {
		t.Fatalf("quarantine %q", why)
	}
	b.stop()
	b.barred = false
	b.start()
	var st admin.GroupStatus
	st.Serving = true
	b.upkeep.status(&st)
	if !b.barred || st.Upkeep.Quarantine != why || st.Serving || len(st.Alarms) == 0 {
		t.Errorf("after a restart: %+v", st)
	}
	b.check(b.upkeep.release())
	if b.barred || b.upkeep.quarantined() != "" {
		t.Error("not released")
	}
	if err := b.upkeep.release(); err == nil {
		t.Error("released twice")
	}
	if _, err := os.Stat(filepath.Join(b.dir, quarantineName)); err == nil {
		t.Error("the quarantine is still noted")
	}
}

// TestRightReplicaGoesOn has the other one look too: it is right, and is not
// quarantined.
func TestRightReplicaGoesOn(t *testing.T) {
	a, b := diverged(t, false)
	a.peer, a.upkeep.cfg.Peer = b, b
	a.check(a.upkeep.compare(t.Context()))
	b.mirror(a)
	a.follows = true // it proposes no more, so that both are at one entry
	a.check(a.upkeep.compare(t.Context()))
	var st admin.GroupStatus
	a.upkeep.status(&st)
	if st.Upkeep.Quarantine != "" || !st.Upkeep.Differs || !strings.Contains(fmt.Sprint(st.Alarms), "agrees with its own log") {
		t.Errorf("%+v, alarms %v", st.Upkeep, st.Alarms)
	}
}

// TestLateSnapshotProvesNothing: a snapshot made after the replicas were last
// equal may hold the fault itself.
func TestLateSnapshotProvesNothing(t *testing.T) {
	_, b := diverged(t, true)
	b.upkeep.investigate(t.Context(), <-b.upkeep.differ)
	var st admin.GroupStatus
	b.upkeep.status(&st)
	if st.Upkeep.Quarantine != "" || !strings.Contains(fmt.Sprint(st.Alarms), errNoProof.Error()) {
		t.Errorf("%+v, alarms %v", st.Upkeep, st.Alarms)
	}
}

// TestContradictingRows quarantines a replica whose rows do not agree with each
// other, whatever its log says.
func TestContradictingRows(t *testing.T) {
	n := filled(t, 5)
	st := n.machine.State()
	st.Digest.Add(store.Sum{7, 7})
	batch := n.rows.NewBatch(&st)
	n.check(batch.Commit())
	batch.Close()
	if job := n.do(admin.UpkeepTask{Task: admin.TaskCheck}); job.State != jobFailed || !strings.Contains(n.upkeep.quarantined(), "contradict") {
		t.Errorf("%+v, quarantine %q", job, n.upkeep.quarantined())
	}
}
