package replica

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// machine is the state machine as raft sees it. It keeps floor entries and
// entries without content for us away from the real one.
type machine struct {
	sm StateMachine
	v  *voter.Voter
	id string

	last    atomic.Uint64 // the newest entry given to sm
	entries []Entry       // used again; raft calls from one goroutine
}

var (
	_ raft.BatchingFSM = (*machine)(nil)
	_ raft.FSMSnapshot = (*note)(nil)
)

// Apply implements raft.FSM.
func (m *machine) Apply(e *raft.Log) any { return m.ApplyBatch([]*raft.Log{e})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	results := make([]any, len(logs))
	batch, applied := m.entries[:0], m.sm.Applied()
	for _, e := range logs {
		if f, ok := voter.ParseFloor(e); ok {
			m.v.ApplyFloor(e.Index, f)
		} else if e.Type == raft.LogCommand && e.Index > applied {
			batch = append(batch, Entry{Index: e.Index, Term: e.Term, Data: e.Data})
		}
	}
	if len(batch) == 0 {
		return results
	}
	got := m.sm.Apply(batch)
	if len(got) != len(batch) {
		panic(fmt.Sprintf("replica: state machine gave %d results for %d entries", len(got), len(batch)))
	}
	i := 0
	for j, e := range logs {
		if i < len(batch) && e.Index == batch[i].Index {
			results[j] = got[i]
			i++
		}
	}
	m.last.Store(batch[len(batch)-1].Index)
	clear(batch)
	m.entries = batch
	return results
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	return &note{m: m, need: max(m.last.Load(), m.sm.Applied())}, nil
}

// Restore implements raft.FSM. The snapshot store lets no foreign snapshot
// through, and our own is not restored: the state is durable by itself.
func (m *machine) Restore(r io.ReadCloser) error {
	r.Close()
	return errors.New("replica: a state cannot be restored from a manifest")
}

// note is a snapshot: the promise that the state is durable up to need.
type note struct {
	m    *machine
	need uint64
}

// Persist implements raft.FSMSnapshot.
func (n *note) Persist(sink raft.SnapshotSink) error {
	applied, err := n.m.sm.Flush()
	if errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("replica: the state is flushed when there is room: %w", err)
	}
	if err != nil {
		err = fmt.Errorf("replica: flush of the state: %w", err)
		n.m.v.Fatal(err)
		return err
	}
	if applied < n.need {
		return fmt.Errorf("replica: state is durable up to entry %d only, %d was applied", applied, n.need)
	}
	m := manifest.Note{Kind: manifest.Data, Origin: n.m.id, Applied: n.need}
	if _, err := sink.Write(m.Encode()); err != nil {
		return err
	}
	// Closed again by raft, which changes nothing.
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (n *note) Release() {}
