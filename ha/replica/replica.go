package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/seglog"
)

// MaxInFlight is the most bytes that proposals may hold at one time.
const MaxInFlight = 64 << 20

// MaxEntry is the largest proposal, in bytes. Larger things are cut into parts
// by the caller; 256 KB is a good size.
const MaxEntry = 1 << 20

// lowEntry is the largest proposal while the disk is nearly full: deletes and
// flags.
const lowEntry = 4 << 10

// snapshotThreshold is the number of new entries that make a snapshot worth
// the state machine's flush.
const snapshotThreshold = 16384

// Errors that callers test for. They come wrapped.
var (
	ErrBusy     = errors.New("too many bytes in flight")
	ErrTooLarge = errors.New("proposal too large")
	ErrNoQuorum = errors.New("no majority answers")
	ErrUnknown  = errors.New("outcome unknown")
	ErrNoSpace  = seglog.ErrNoSpace
	ErrReseed   = manifest.ErrReseed
	ErrCorrupt  = seglog.ErrCorrupt
	ErrBehind   = voter.ErrBehind
)

// ErrNotServing is returned, wrapped, by a replica that clients cannot use.
type ErrNotServing struct {
	ID, Name string // of the member that leads, "" if not known
}

func (e ErrNotServing) Error() string {
	if e.Name == "" {
		return "not serving"
	}
	return "not serving, ask " + e.Name
}

// Entry is a committed proposal. Data is shared with the log and only read.
type Entry struct {
	Index, Term uint64
	Data        []byte
}

// StateMachine is what the entries are applied to.
type StateMachine interface {
	// Apply applies entries in order and returns a result for each; the
	// results go to the proposers. Entries at or below Applied are ignored.
	// The batch is not kept. One call at a time.
	Apply(batch []Entry) []any
	// Applied returns the index of the last entry applied. At start it is
	// what the durable state holds.
	Applied() uint64
	// Flush makes the state durable and returns the index up to which it is:
	// at least Applied at the time of the call. It runs beside Apply. ErrNoSpace:
	// not now; any other error is the end of the replica.
	Flush() (applied uint64, err error)
}

// Peer is a member of the group.
type Peer = voter.Peer

// Timings are the group's times.
type Timings = voter.Timings

// Config describes a replica. See voter.Config for directory, peers, network
// and times.
type Config struct {
	voter.Config
	FSM StateMachine
	// OnMembers, if not nil, is told every second how the members are while this
	// replica serves, and nil when it does not.
	OnMembers func([]Member)
	// Draining says whether this replica should not serve while another one can.
	// It is quick. Nil: never.
	Draining func() bool
	// Low says that the disk of the state has too little room for mail. The
	// replica hands over as for a full log, and takes no large proposals. It is
	// quick. Nil: never.
	Low func() bool
}

// NewID returns a random id for a new replica or witness.
func NewID() string { return voter.NewID() }

// Replica is one data replica of one pair. All methods may be called from
// several goroutines.
type Replica struct {
	cfg   Config
	log   *slog.Logger
	v     *voter.Voter
	fsm   *machine
	queue chan *proposal // from Propose to feed
	taken chan *proposal // from feed to complete

	inFlight     atomic.Int64   // bytes
	waiting      atomic.Int64   // proposals without an answer
	outstanding  sync.WaitGroup // proposals raft has not answered
	admission    sync.RWMutex   // read: proposing; write: stopping
	stopping     bool           // guarded by admission
	transferring atomic.Bool
	moving       sync.Mutex   // held during a transfer
	refusedSince atomic.Int64 // Unix nanoseconds of the first refusal in a row, 0: none
	stood        atomic.Bool  // this replica stood because the leader's process ended

	serve   serveState
	lease   lease
	room    room
	alarms  alarms
	commits commitTimes
	slow    slowness // of tend
	aside   aside
	stopped chan struct{}
	stop    chan struct{}
	once    sync.Once
	ran     atomic.Bool
}

// room says whether writes are held back for want of room.
type room struct{ held atomic.Bool }

// Create makes the directory of a data replica of a group that is being
// created; see voter.Create.
func Create(cfg voter.Config) error { return voter.Create(cfg, manifest.Data) }

// New opens a replica. It listens, but takes part only with Run.
func New(cfg Config) (*Replica, error) {
	if cfg.FSM == nil {
		return nil, errors.New("replica: no state machine")
	}
	r := &Replica{
		cfg: cfg, queue: make(chan *proposal, 1024), taken: make(chan *proposal, 1024),
		stop: make(chan struct{}), stopped: make(chan struct{}), aside: newAside(cfg.Draining),
	}
	r.fsm = &machine{sm: cfg.FSM}
	v, err := voter.Open(cfg.Config, voter.Role{
		Kind: manifest.Data, FSM: r.fsm, Serving: r.Serving, Draining: r.aside.any, Low: cfg.Low, OnDead: r.leaderDied,
		SlowLeft: func() time.Duration { return r.slow.since(time.Now()) },
		// The frames of the log are mail and stay.
		Threshold: snapshotThreshold, Trailing: math.MaxInt64,
	})
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	r.v, r.log = v, v.Config().Log
	r.fsm.v, r.fsm.id = v, cfg.ID
	r.alarms.log = func(on bool, alarm string) { r.log.Warn("alarm", "on", on, "alarm", alarm) }
	r.cfg.Config = *v.Config()
	if err := r.checkState(); err != nil {
		return nil, errors.Join(err, v.Stop())
	}
	return r, nil
}

// Low reports that the disk has no room for the log's next segment, or for the
// state. What is left is for small entries, such as deletes.
func (r *Replica) Low() bool { return r.v.Low() }

// checkState compares state machine, snapshot and log at start. Nothing is
// skipped and nothing forgotten: an answer that does not fit is refused.
func (r *Replica) checkState() error {
	note, meta, ok, err := r.v.Manifests.Newest()
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	applied := r.cfg.FSM.Applied()
	last, err := r.v.Log().LastIndex()
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	switch {
	case ok && applied < note.Applied:
		return fmt.Errorf("replica: state ends at entry %d, the snapshot says %d: %w", applied, note.Applied, ErrReseed)
	case ok && last < meta.Index:
		return fmt.Errorf("replica: log ends at entry %d, the snapshot at %d: %w", last, meta.Index, ErrCorrupt)
	case applied > last:
		return fmt.Errorf("replica: log ends at entry %d, the state at %d: %w", last, applied, ErrCorrupt)
	}
	return nil
}

// Run takes part in the group until ctx ends or Shutdown is called. It hands
// over first if this replica serves. After Shutdown it returns at once.
func (r *Replica) Run(ctx context.Context) error {
	if !r.ran.CompareAndSwap(false, true) {
		select {
		case <-r.stop:
			return nil
		default:
			return errors.New("replica: Run was called before")
		}
	}
	defer close(r.stopped)
	if err := r.v.Start(); err != nil {
		return errors.Join(err, r.v.Stop())
	}
	var wg sync.WaitGroup
	inner, cancel := context.WithCancel(context.Background())
	wg.Go(func() { r.feed(inner.Done()) })
	wg.Go(func() { r.complete(inner.Done()) })
	wg.Go(func() { r.lead(inner) })
	wg.Go(func() { r.tend(inner) })
	wg.Go(func() { r.keepAside(inner) })
	wg.Go(func() { r.watchDisk(inner) })
	select {
	case <-ctx.Done():
	case <-r.stop:
	}
	r.handOver()
	r.quiesce()
	cancel()
	wg.Wait()
	r.lease.close()
	return r.v.Stop()
}

// Shutdown ends Run and waits for that. A replica that serves hands over to
// the other data replica if it can.
func (r *Replica) Shutdown(ctx context.Context) error {
	r.once.Do(func() { close(r.stop) })
	if r.ran.CompareAndSwap(false, true) {
		close(r.stopped)
		return r.v.Stop()
	}
	select {
	case <-r.stopped:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver transfers leadership before the end, for a short time at most.
func (r *Replica) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*r.cfg.Timings.Election)
	defer cancel()
	if err := r.Leave(ctx); err != nil {
		r.log.Warn("leadership was not handed over", "err", err)
	}
}

// quiesce refuses new proposals and waits until raft has answered those under
// way. A leader without a majority answers when its lease ends. Those that
// wait for the state machine wait as long as it does: raft would not answer
// them any more if it were stopped.
func (r *Replica) quiesce() {
	r.admission.Lock()
	r.stopping = true
	r.admission.Unlock()
	slow := time.AfterFunc(10*r.cfg.Timings.Election, func() {
		r.log.Warn("waiting for proposals under way", "proposals", r.waiting.Load())
	})
	defer slow.Stop()
	r.outstanding.Wait()
}

// Log returns the log, to read entries' data from.
func (r *Replica) Log() *seglog.Log { return r.v.Log() }

// Leader returns the member that leads, as far as this one knows.
func (r *Replica) Leader() (id, name string, ok bool) {
	p, ok := r.v.Leader()
	return p.ID, p.Name, ok
}

// Status is a replica's view of itself and, while it leads, of the others.
type Status struct {
	ID, Name  string
	State     string // Follower, Candidate, Leader or Shutdown; "" before Run
	Term      uint64
	Serving   bool
	Leader    string // name
	First     uint64 // of the log
	Last      uint64
	Committed uint64
	Applied   uint64
	Floor     uint64
	Members   []voter.Member // as configured
	Alarms    []string       // while it serves, or if it was expelled
	Expelled  bool           // the others have taken it out of the group
	StoreTime time.Duration  // of a batch, on average lately
	Peers     []PeerStatus
}

// PeerStatus is what is known of another member.
type PeerStatus struct {
	ID, Name string
	Witness  bool
	Alive    bool // it answered
	Applied  uint64
	Lag      uint64 // entries of ours that it does not have; 0 if not alive
}

// Local is this replica's view of itself, without Peers. It asks nobody.
func (r *Replica) Local() Status {
	s := r.v.Status()
	me, _ := r.v.Peer(r.cfg.ID)
	out := Status{
		ID: me.ID, Name: me.Name, Term: s.Term, Serving: s.Serving, First: s.First, Last: s.Last,
		Committed: s.Commit, Applied: s.Applied, Floor: r.v.Floor(), Members: r.v.Members(), Alarms: r.alarms.get(),
		StoreTime: s.StoreTime, Expelled: r.v.Expelled(),
	}
	if r.Low() {
		out.Alarms = append(out.Alarms, "the disk is full: no mail is taken here")
	}
	if out.Expelled {
		out.Alarms = append(out.Alarms, "this member was taken out of the group: have it replaced")
	}
	if r.v.Raft() == nil {
		return out
	}
	if took := r.v.Storing(); took > r.cfg.Timings.Hung {
		out.Alarms = append(out.Alarms, hungAlarm)
	}
	out.State = raft.RaftState(s.State).String()
	if p, ok := r.v.Leader(); ok {
		out.Leader = p.Name
	}
	return out
}

// Status is Local, and asks the other members, for at most a second.
func (r *Replica) Status() Status {
	out := r.Local()
	if out.State == "" {
		return out
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	others := r.v.Others()
	answers := r.v.Ask(ctx, others, nil)
	for _, p := range others {
		a, alive := answers[p.ID]
		ps := PeerStatus{ID: p.ID, Name: p.Name, Witness: p.Witness, Alive: alive, Applied: a.Applied}
		if alive && a.Last < out.Last {
			ps.Lag = out.Last - a.Last
		}
		out.Peers = append(out.Peers, ps)
	}
	slices.SortFunc(out.Peers, func(a, b PeerStatus) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// notServing returns the error that says whom to ask.
func (r *Replica) notServing() error {
	p, ok := r.v.Leader()
	if !ok || p.ID == r.cfg.ID {
		return ErrNotServing{}
	}
	return ErrNotServing{ID: p.ID, Name: p.Name}
}
