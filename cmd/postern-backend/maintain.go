package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/compact"
	"github.com/postern-mail/postern/backend/store/scrub"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/metrics"
)

// peer is the other data replica, as upkeep asks it.
type peer interface {
	scrub.Peer
	// Mark returns the entry of the last Digest command that the other replica
	// has applied and its digest there.
	Mark(ctx context.Context) (index uint64, digest store.Sum, err error)
}

// upkeepConfig is what upkeep works on.
type upkeepConfig struct {
	Pair, Node string
	Dir        string // of the group
	Settings   config.Upkeep
	Snapshots  config.Snapshots
	Log        *seglog.Log
	Rows       *store.Store
	Machine    *fsm.FSM
	Boxes      *mailbox.Service
	Logger     *slog.Logger

	Propose func(ctx context.Context, data []byte) error
	Serving func() bool
	Low     func() bool                                      // the disk has no room for mail; nil: not known
	Trim    func() error                                     // lets raft forget what is in every state
	Base    func() (json.RawMessage, error)                  // for snapshots
	Yield   func(ctx context.Context) error                  // hands over to the other replica
	Bar     func(bool)                                       // keeps this replica from serving
	Peer    peer                                             // nil: there is nobody to ask
	Now     func() time.Time                                 // time.Now
	After   func(d time.Duration) (<-chan time.Time, func()) // a timer and its stop
}

// upkeep looks after the store of one replica: it makes snapshots, compacts,
// scrubs, compares digests, and does what an operator asks of these.
type upkeep struct {
	cfg       upkeepConfig
	keeper    *snapshot.Keeper
	compactor *compact.Compactor
	scrubber  *scrub.Scrubber
	differ    chan fsm.Comparison // room for one
	agreed    atomic.Uint64       // last entry at which the replicas were equal
	busy      business

	compacting, scrubbing, checking sync.Mutex // one at a time of each

	mu         sync.Mutex // guards what follows
	rules      upkeepRules
	changed    chan struct{} // closed when the rules change
	quarantine string
	state      admin.Upkeep
	differed   uint64 // last entry at which the replicas were not equal
	lost       string // alarm of the scrub
	unsure     string // alarm of a comparison
	failed     map[string]string
	last       map[string]*job // by their kind
	newest     string          // kind of the one begun last
	jobs       sync.WaitGroup
	run        context.Context // of jobs and schedules
	cancel     context.CancelFunc
}

// Upkeep is slower by one for each busyRate commands a second, counted over busyOver,
// and at most mostSlower times as slow.
const (
	busyRate   = 50
	busyOver   = 200 * time.Millisecond
	mostSlower = 16
	// shortOf is the part of a disk below which its free room is short.
	shortOf = 10
)

// business tells how much else a replica has to do, by what it applies: the one that
// follows has as much of it as the one that serves. Where room is short, nothing is
// more urgent than to gain some.
type business struct {
	applied func() uint64
	short   func() bool
	now     func() time.Time

	mu     sync.Mutex // guards what follows
	at     time.Time  // of the last count
	count  uint64
	slower int // since then; 0 before the first
}

// look returns how much slower upkeep is to be, by the commands since the last count.
func (b *business) look() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, count := b.now(), b.applied()
	if took := now.Sub(b.at); b.slower == 0 || took >= busyOver {
		switch {
		case b.slower == 0 || b.short():
			b.slower = 1
		default:
			b.slower = 1 + int(min(float64(count-b.count)/(busyRate*took.Seconds()), mostSlower-1))
		}
		b.at, b.count = now, count
	}
	return b.slower
}

// short reports whether less than a tenth of a file system is left.
func short(dir string) bool {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && st.Bavail < st.Blocks/shortOf
}

// upkeepRules are the options that may change meanwhile.
type upkeepRules struct {
	config.Upkeep
	Snapshots config.Snapshots
}

// compactRules is what the options say of compaction.
func compactRules(s *config.Upkeep) compact.Rules {
	return compact.Rules{Share: float64(s.CompactShare) / 100, Age: s.CompactAge, Undelete: s.Undelete, Rate: int64(s.Rate)}
}

// set makes other rules hold from now on: what is under way goes on with the new
// rate, and what is planned is planned anew.
func (u *upkeep) set(rules upkeepRules) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if rules == u.rules {
		return
	}
	u.compactor.SetRules(compactRules(&rules.Upkeep))
	u.scrubber.SetRate(int64(rules.Rate))
	u.rules = rules
	close(u.changed)
	u.changed = make(chan struct{})
}

// now is what holds, and what is closed when it does not hold any more.
func (u *upkeep) now() (rules upkeepRules, changed <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rules, u.changed
}

// quarantineName is the file that keeps a replica from serving; it says why.
const quarantineName = "quarantine"

// settle is how long a replica runs before it looks after anything.
const settle = time.Minute

func newUpkeep(cfg upkeepConfig) (*upkeep, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.After == nil {
		cfg.After = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTimer(d)
			return t.C, func() { t.Stop() }
		}
	}
	cfg.Logger = cfg.Logger.With("pair", cfg.Pair)
	u := &upkeep{
		cfg: cfg, differ: make(chan fsm.Comparison, 1), failed: map[string]string{}, last: map[string]*job{},
		rules: upkeepRules{cfg.Settings, cfg.Snapshots}, changed: make(chan struct{}),
	}
	u.busy = business{applied: cfg.Machine.Applied, short: func() bool { return short(cfg.Dir) }, now: time.Now}
	u.run, u.cancel = context.WithCancel(context.Background())
	dir := filepath.Join(cfg.Dir, "snapshots")
	if cfg.Snapshots.Dir != "" {
		dir = filepath.Join(cfg.Snapshots.Dir, cfg.Pair)
	}
	log := upkeepLog{cfg.Log}
	u.keeper = &snapshot.Keeper{Dir: dir, Pair: cfg.Pair, Node: cfg.Node, Log: log, Rows: cfg.Rows, Raft: cfg.Base, Now: cfg.Now}
	var err error
	u.compactor, err = compact.New(compact.Config{
		Log: compactLog{log}, Rows: cfg.Rows, Notes: filepath.Join(cfg.Dir, "compact.json"), Oldest: u.keeper.Oldest,
		Rules: compactRules(&cfg.Settings), Slower: u.busy.look, Logger: cfg.Logger, Now: cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	sc := scrub.Config{
		Log: scrubLog{log}, Rows: cfg.Rows, Notes: filepath.Join(cfg.Dir, "scrub.json"), Rate: int64(cfg.Settings.Rate), Logger: cfg.Logger, Now: cfg.Now,
		Slower: u.busy.look,
	}
	if cfg.Peer != nil {
		sc.Peer = cfg.Peer
	}
	u.scrubber = scrub.New(sc)
	u.noteScrub(u.scrubber.Last())
	why, err := os.ReadFile(filepath.Join(cfg.Dir, quarantineName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("quarantine: %w", err)
	}
	if err == nil {
		u.bar(string(why))
	}
	cfg.Machine.OnCompared(func(d fsm.Comparison) {
		if cfg.Serving() {
			return // both are this one's
		}
		if d.Ours == d.Theirs {
			u.agreed.Store(d.Index)
			return
		}
		select {
		case u.differ <- d:
		default: // one is being looked into
		}
	})
	return u, nil
}

// stop ends schedules and jobs.
func (u *upkeep) stop() {
	u.cancel()
	u.jobs.Wait()
}

// serve runs the schedules until stop.
func (u *upkeep) serve() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	u.showSnapshots()
	for _, p := range []plan{
		{
			admin.TaskSnapshot, func(r *upkeepRules) time.Duration { return r.Snapshots.Every },
			u.lastSnapshot, func(context.Context) error { _, err := u.snapshot("", false); return err },
		},
		{
			admin.TaskCompact, func(r *upkeepRules) time.Duration { return r.CompactEvery },
			nil, func(ctx context.Context) error { _, err := u.compact(ctx); return err },
		},
		{
			admin.TaskScrub, func(r *upkeepRules) time.Duration { return r.ScrubEvery },
			func() time.Time { return u.scrubber.Last().Finished }, func(ctx context.Context) error { _, err := u.scrub(ctx); return err },
		},
		{"digest", func(r *upkeepRules) time.Duration { return r.DigestEvery }, nil, u.compare},
	} {
		wg.Go(func() { u.schedule(p) })
	}
	wg.Go(func() {
		for {
			select {
			case d := <-u.differ:
				u.investigate(u.run, d)
			case <-u.run.Done():
				return
			}
		}
	})
	wg.Go(u.guard)
	<-u.run.Done()
	return nil
}

// plan is a task that is done at intervals.
type plan struct {
	task  string
	every func(*upkeepRules) time.Duration // 0: not while these rules hold
	// last says when it was done, zero for never; nil: once before it was planned.
	last func() time.Time
	do   func(context.Context) error
}

// schedule does what is planned, again and again.
func (u *upkeep) schedule(p plan) {
	done := u.cfg.Now()
	for {
		rules, changed := u.now()
		var due <-chan time.Time
		stop := func() {}
		if every := p.every(&rules); every > 0 {
			last := done
			if p.last != nil {
				last = p.last()
			}
			wait := settle
			if !last.IsZero() {
				wait = max(last.Add(every).Sub(u.cfg.Now()), settle)
			}
			due, stop = u.cfg.After(wait)
		}
		select {
		case <-due:
		case <-changed:
			stop()
			continue
		case <-u.run.Done():
			stop()
			return
		}
		err := p.do(u.run)
		if u.run.Err() != nil {
			return
		}
		u.outcome(p.task, err)
		done = u.cfg.Now()
	}
}

// outcome remembers the error of a task until it succeeds.
func (u *upkeep) outcome(task string, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err == nil {
		delete(u.failed, task)
		return
	}
	metrics.UpkeepFailures.With(u.cfg.Pair, task).Inc()
	u.failed[task] = err.Error()
	u.cfg.Logger.Error("upkeep failed", "task", task, "err", err)
}

// guard hands over when a quarantined replica has come to serve, and shows whether
// there is room for mail.
func (u *upkeep) guard() {
	for {
		c, stop := u.cfg.After(time.Second)
		select {
		case <-c:
		case <-u.run.Done():
			stop()
			return
		}
		if u.cfg.Low != nil {
			low := 0.0
			if u.cfg.Low() {
				low = 1
			}
			metrics.StoreLow.With(u.cfg.Pair).Set(low)
		}
		if u.quarantined() == "" || !u.cfg.Serving() {
			continue
		}
		ctx, cancel := context.WithTimeout(u.run, 10*time.Second)
		if err := u.cfg.Yield(ctx); err != nil {
			u.cfg.Logger.Warn("a quarantined replica leads and cannot hand over", "err", err)
		}
		cancel()
	}
}

// lastSnapshot is when the newest snapshot was made, zero without one.
func (u *upkeep) lastSnapshot() time.Time {
	list, err := u.keeper.List()
	if err != nil || len(list) == 0 {
		return time.Time{}
	}
	return list[len(list)-1].Created
}

// snapshot makes a snapshot and removes those that are too many.
func (u *upkeep) snapshot(name string, kept bool) (*snapshot.Info, error) {
	info, err := u.keeper.Create(name, kept)
	if err == nil {
		u.cfg.Logger.Info("snapshot made", "name", info.Name, "applied", info.Applied, "messages", info.Messages)
	}
	rules, _ := u.now()
	err = errors.Join(err, u.keeper.Prune(rules.Snapshots.Keep))
	u.showSnapshots()
	return info, err
}

func (u *upkeep) showSnapshots() {
	list, err := u.keeper.List()
	if err != nil {
		u.cfg.Logger.Warn("snapshots cannot be listed", "err", err)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state.Snapshots, u.state.Snapshot, u.state.Oldest = len(list), time.Time{}, 0
	metrics.SnapshotCount.With(u.cfg.Pair).Set(float64(len(list)))
	if len(list) > 0 {
		u.state.Snapshot, u.state.Oldest = list[len(list)-1].Created, list[0].Applied
		metrics.SnapshotTime.With(u.cfg.Pair).Set(float64(u.state.Snapshot.Unix()))
	}
}

// compact lets raft forget what it can and gives space back.
func (u *upkeep) compact(ctx context.Context) (compact.Result, error) {
	u.compacting.Lock()
	defer u.compacting.Unlock()
	if err := u.cfg.Trim(); err != nil {
		return compact.Result{}, err
	}
	r, err := u.compactor.Pass(ctx)
	metrics.CompactFreed.With(u.cfg.Pair).Add(float64(r.Freed))
	metrics.CompactSegment.With(u.cfg.Pair).Add(float64(r.Rewrote))
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state.Freed += r.Freed
	if err == nil {
		metrics.CompactDead.With(u.cfg.Pair).Set(float64(r.Dead))
		u.state.Compacted, u.state.Dead = r.Finished, r.Dead
	}
	return r, err
}

// scrub reads the whole store.
func (u *upkeep) scrub(ctx context.Context) (scrub.Report, error) {
	u.scrubbing.Lock()
	defer u.scrubbing.Unlock()
	before := u.scrubber.Last()
	if !before.Finished.IsZero() {
		before = scrub.Report{}
	}
	r, err := u.scrubber.Pass(ctx)
	metrics.ScrubOctets.With(u.cfg.Pair).Add(float64(r.Octets - before.Octets))
	metrics.ScrubDamaged.With(u.cfg.Pair).Add(float64(r.Damaged - before.Damaged))
	metrics.ScrubRepaired.With(u.cfg.Pair).Add(float64(r.Repaired - before.Repaired))
	u.noteScrub(r)
	return r, err
}

func (u *upkeep) noteScrub(r scrub.Report) {
	u.mu.Lock()
	defer u.mu.Unlock()
	metrics.ScrubLost.With(u.cfg.Pair).Set(float64(r.Lost()))
	if !r.Finished.IsZero() {
		metrics.ScrubFinished.With(u.cfg.Pair).Set(float64(r.Finished.Unix()))
	}
	u.lost = ""
	if r.Lost() > 0 {
		u.lost = fmt.Sprintf("%d damaged places of the store could not be repaired", r.Lost())
	}
}

// status is what operators are shown.
func (u *upkeep) status(out *admin.GroupStatus) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.state
	s.Quarantine = u.quarantine
	r := u.scrubber.Last()
	s.Scrub = admin.ScrubStatus{
		Begun: r.Begun, Finished: r.Finished, Octets: r.Octets, Messages: r.Messages,
		Damaged: r.Damaged, Repaired: r.Repaired, Lost: r.Lost(),
	}
	out.Upkeep = &s
	if u.quarantine != "" {
		out.Alarms = append(out.Alarms, "quarantined: "+u.quarantine)
		out.Serving = false
	}
	for _, alarm := range []string{u.lost, u.unsure} {
		if alarm != "" {
			out.Alarms = append(out.Alarms, alarm)
		}
	}
	for task, err := range u.failed {
		out.Alarms = append(out.Alarms, task+" failed: "+err)
	}
}

func (u *upkeep) quarantined() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.quarantine
}

// bar keeps the replica from serving.
func (u *upkeep) bar(why string) {
	u.mu.Lock()
	u.quarantine = why
	u.mu.Unlock()
	metrics.Quarantined.With(u.cfg.Pair).Set(1)
	u.cfg.Bar(true)
	u.cfg.Logger.Error("replica is quarantined: it does not serve until an operator releases it", "why", why)
}

// isolate quarantines the replica, also over restarts.
func (u *upkeep) isolate(why string) {
	u.bar(why)
	if err := fsx.WriteFileAtomic(fsx.OS, filepath.Join(u.cfg.Dir, quarantineName), []byte(why)); err != nil {
		u.cfg.Logger.Error("quarantine is not noted on the disk", "err", err)
	}
}

// release ends the quarantine.
func (u *upkeep) release() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.quarantine == "" {
		return fmt.Errorf("%w: this replica is not quarantined", admin.ErrConflict)
	}
	if err := os.Remove(filepath.Join(u.cfg.Dir, quarantineName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := fsx.OS.SyncDir(u.cfg.Dir); err != nil {
		return err
	}
	u.quarantine, u.unsure = "", ""
	metrics.Quarantined.With(u.cfg.Pair).Set(0)
	u.cfg.Bar(false)
	return nil
}
