package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// Config describes a witness. SegmentSize is DefaultSegmentSize if zero.
type Config = voter.Config

// DefaultSegmentSize is smaller than a data replica's: a witness of many pairs
// reserves three segments for each.
const DefaultSegmentSize = 16 << 20

// Entries between snapshots, which let the log be trimmed, and entries that
// raft keeps anyway.
const (
	snapshotThreshold = 1024
	trailing          = 128
)

// Witness is the witness of one pair.
type Witness struct {
	cfg     *Config
	log     *slog.Logger
	v       *voter.Voter
	stood   atomic.Bool
	ran     atomic.Bool
	handed  atomic.Int64 // leaderships handed over
	stopped chan struct{}
}

// New opens a witness. It listens, but takes part only with Run.
func New(cfg Config) (*Witness, error) {
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = DefaultSegmentSize
	}
	w := &Witness{stopped: make(chan struct{})}
	m := &machine{id: cfg.ID}
	v, err := voter.Open(cfg, voter.Role{
		Kind: manifest.Witness, FSM: m, OnDead: w.leaderDied,
		Threshold: snapshotThreshold, Trailing: trailing,
	})
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	w.v, m.v, w.cfg, w.log = v, v, v.Config(), v.Config().Log
	return w, nil
}

// SetCache makes n the memory for recent entries.
func (w *Witness) SetCache(n int64) { w.v.Log().SetCache(n) }

// Create makes the directory of a witness of a group that is being created; see
// voter.Create.
func Create(cfg Config) error {
	if cfg.SegmentSize == 0 {
		cfg.SegmentSize = DefaultSegmentSize
	}
	return voter.Create(cfg, manifest.Witness)
}

// Run takes part in the group until ctx ends, and closes the witness.
func (w *Witness) Run(ctx context.Context) error {
	if !w.ran.CompareAndSwap(false, true) {
		return errors.New("witness: Run was called before")
	}
	defer close(w.stopped)
	if err := w.v.Start(); err != nil {
		return errors.Join(err, w.v.Stop())
	}
	w.lead(ctx)
	return w.v.Stop()
}

// Close closes a witness that does not run, or waits for the end of Run.
func (w *Witness) Close() error {
	if w.ran.CompareAndSwap(false, true) {
		close(w.stopped)
		return w.v.Stop()
	}
	<-w.stopped
	return nil
}

// Status is a witness's view of itself.
type Status struct {
	ID, Name  string
	State     string // raft's, "" before Run
	Term      uint64
	Leader    string // name
	First     uint64 // of the log
	Last      uint64
	Committed uint64
	Floor     uint64
	Segments  int   // files of the log
	Handed    int64 // leaderships handed over since the start
	Members   []voter.Member
}

// Status returns the witness's view of itself.
func (w *Witness) Status() Status {
	s := w.v.Status()
	me, _ := w.v.Peer(w.cfg.ID)
	out := Status{
		ID: me.ID, Name: me.Name, Term: s.Term, First: s.First, Last: s.Last, Committed: s.Commit,
		Floor: w.v.Floor(), Segments: w.v.Log().Stats().Segments, Handed: w.handed.Load(), Members: w.v.Members(),
	}
	if w.v.Raft() != nil {
		out.State = raft.RaftState(s.State).String()
	}
	if p, ok := w.v.Leader(); ok {
		out.Leader = p.Name
	}
	return out
}

// lead waits for leaderships and gives each away.
func (w *Witness) lead(ctx context.Context) {
	leads := false
	for {
		var retry <-chan time.Time
		if leads {
			if w.giveAway(ctx) {
				leads = false
				continue
			}
			retry = time.After(20 * time.Millisecond)
		}
		select {
		case leads = <-w.v.Raft().LeaderCh():
			if leads {
				w.log.Info("the witness leads until a data replica can")
				w.settle(ctx)
			}
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// settle waits for the old leader's read lease to pass if this witness stood
// without waiting for a time-out: the next leader will not know.
func (w *Witness) settle(ctx context.Context) {
	if !w.stood.Swap(false) {
		return
	}
	select {
	case <-time.After(w.cfg.Timings.Read):
	case <-ctx.Done():
	}
}

// giveAway hands leadership to a data replica that is alive and has the whole
// log, and reports whether this witness does not lead any more.
func (w *Witness) giveAway(ctx context.Context) bool {
	if w.v.Raft().State() != raft.Leader {
		return true
	}
	p, err := w.v.CaughtUp(ctx, w.data(""), 0)
	if err != nil && !errors.Is(err, voter.ErrDraining) {
		return false // raft goes on sending it the log
	}
	if err := w.v.Transfer(ctx, p); err != nil {
		w.log.Info("leadership was not handed over; trying again", "to", p.Name, "err", err)
		return w.v.Raft().State() != raft.Leader
	}
	w.handed.Add(1)
	w.log.Info("leadership handed over", "to", p.Name)
	return true
}

// data returns the data replicas that vote, besides one.
func (w *Witness) data(besides string) []voter.Peer {
	var list []voter.Peer
	for _, p := range w.v.OtherVoters() {
		if !p.Witness && p.ID != besides {
			list = append(list, p)
		}
	}
	return list
}

// leaderDied stands for election only if this witness has entries that the
// data replica that is left lacks: that one could not win.
func (w *Witness) leaderDied(ctx context.Context, leader string) {
	me := w.v.Status()
	answers := w.v.Ask(ctx, w.data(leader), nil)
	if len(answers) == 0 {
		return // there is no majority
	}
	for _, s := range answers {
		if s.Last >= me.Last {
			return
		}
	}
	w.stood.Store(true)
	if err := w.v.Stand(ctx, leader); err != nil {
		w.stood.Store(false)
		w.log.Info("not standing for election", "err", err)
	}
}

// machine applies nothing but the floor.
type machine struct {
	v  *voter.Voter
	id string
}

var (
	_ raft.BatchingFSM = (*machine)(nil)
	_ raft.FSMSnapshot = mark{}
)

// Apply implements raft.FSM.
func (m *machine) Apply(e *raft.Log) any {
	if f, ok := voter.ParseFloor(e); ok {
		m.v.ApplyFloor(e.Index, f)
	}
	return nil
}

// ApplyBatch implements raft.BatchingFSM.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	for _, e := range logs {
		m.Apply(e)
	}
	return make([]any, len(logs))
}

// Snapshot implements raft.FSM.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) { return mark{m.id}, nil }

// Restore implements raft.FSM: there is no state to replace.
func (m *machine) Restore(r io.ReadCloser) error { return r.Close() }

// mark is a witness's snapshot.
type mark struct{ id string }

// Persist implements raft.FSMSnapshot.
func (k mark) Persist(sink raft.SnapshotSink) error {
	n := manifest.Note{Kind: manifest.Witness, Origin: k.id}
	if _, err := sink.Write(n.Encode()); err != nil {
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (mark) Release() {}
