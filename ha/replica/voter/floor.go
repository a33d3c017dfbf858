package voter

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// A floor entry is a command without data whose extensions are this byte and
// the index.
const floorMark = 'F'

// FloorEntry encodes a floor entry.
func FloorEntry(index uint64) raft.Log {
	return raft.Log{Extensions: binary.LittleEndian.AppendUint64([]byte{floorMark}, index)}
}

// ParseFloor returns the floor of a floor entry, false for any other entry.
func ParseFloor(e *raft.Log) (uint64, bool) {
	if e.Type != raft.LogCommand || len(e.Extensions) != 9 || e.Extensions[0] != floorMark {
		return 0, false
	}
	return binary.LittleEndian.Uint64(e.Extensions[1:]), true
}

// floor is what this member knows about F.
type floor struct {
	mu      sync.Mutex // guards what follows
	index   uint64     // F as committed
	entry   uint64     // index of the newest floor entry
	applied map[string]uint64
}

// ApplyFloor takes a committed floor entry into account. The state machine
// calls it.
func (v *Voter) ApplyFloor(entry, index uint64) {
	v.floor.mu.Lock()
	v.floor.index = max(v.floor.index, index)
	v.floor.entry = max(v.floor.entry, entry)
	index = v.floor.index
	v.floor.mu.Unlock()
	v.log.SetFloor(index)
}

// Floor returns the committed floor.
func (v *Voter) Floor() uint64 {
	v.floor.mu.Lock()
	defer v.floor.mu.Unlock()
	return v.floor.index
}

// runFloor commits the floor while this member leads.
func (v *Voter) runFloor(ctx context.Context) {
	for sleep(ctx, v.cfg.Timings.Floor) {
		if v.Raft().State() == raft.Leader {
			v.commitFloor(ctx)
		}
		v.expelled.Store(v.isExpelled(ctx))
		v.askGivenUp(ctx)
	}
}

func (v *Voter) commitFloor(ctx context.Context) {
	r := v.Raft()
	v.floor.mu.Lock()
	idle := r.AppliedIndex() <= v.floor.entry // nothing but the floor since the last time
	v.floor.mu.Unlock()
	if idle {
		return
	}
	index, ok := v.lowestApplied(ctx)
	if !ok || index <= v.Floor() {
		return
	}
	f := r.ApplyLog(FloorEntry(index), time.Second)
	if err := f.Error(); err != nil {
		v.cfg.Log.Debug("floor not committed", "floor", index, "err", err)
	}
}

// lowestApplied returns the smallest applied index of the data replicas in
// the group. A replica that does not answer counts with what it said last; it
// is false while there is one that never answered this leader.
func (v *Voter) lowestApplied(ctx context.Context) (uint64, bool) {
	var ask []Peer
	lowest, known := uint64(1<<63), true
	for _, p := range v.Others() {
		if !p.Witness {
			ask = append(ask, p)
		}
	}
	if !v.witness() {
		lowest = v.Raft().AppliedIndex()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answers := v.Ask(ctx, ask, nil)
	v.floor.mu.Lock()
	defer v.floor.mu.Unlock()
	if v.floor.applied == nil {
		v.floor.applied = map[string]uint64{}
	}
	for _, p := range ask {
		if s, ok := answers[p.ID]; ok {
			v.floor.applied[p.ID] = max(v.floor.applied[p.ID], s.Applied)
		}
		a, ok := v.floor.of(p.ID, answers)
		lowest, known = min(lowest, a), known && ok
	}
	return lowest, known
}

func (v *Voter) witness() bool { return v.peer(v.cfg.ID).Witness }
