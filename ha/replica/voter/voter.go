package voter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/seglog"
)

// Errors of Open; they come wrapped.
var (
	// ErrIdentity: the directory belongs to another member or pair.
	ErrIdentity = errors.New("directory belongs to another member")
	// ErrNoDirectory: the directory is new and the group is not.
	ErrNoDirectory = errors.New("directory is new, and the group is not being created")
	// ErrNoLog: the directory has been used, and its log is not there.
	ErrNoLog = errors.New("directory has lost its log")
)

// Voter is one member. Start makes it take part.
type Voter struct {
	cfg   Config
	role  Role
	log   *seglog.Log
	port  *raftnet.Port // ours to close, or nil
	lock  io.Closer
	lost  []string // members that were given up
	store *store

	Stable    *seglog.Stable
	Manifests *manifest.Store
	Net       *raftnet.Transport
	ready     chan struct{} // closed when Net is set: the others may ask before
	raft      atomic.Pointer[raft.Raft]

	floor    floor
	learned  learned
	expelled atomic.Bool
	fatal    sync.Once
	moves    moves
	watched  atomic.Pointer[string] // id of the member to which a watch stands

	cancel context.CancelFunc // of the background work
	wg     sync.WaitGroup
}

// Open prepares a member: it takes the directory, opens log and stable store
// and begins to listen. It does not take part yet.
func Open(cfg Config, role Role) (v *Voter, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v = &Voter{cfg: cfg, role: role, ready: make(chan struct{})}
	defer func() {
		if err != nil {
			v.release()
			v = nil
		}
	}()
	if err := v.takeDir(); err != nil {
		return v, err
	}
	if err := v.openStores(); err != nil {
		return v, err
	}
	return v, v.listen()
}

func (v *Voter) listen() (err error) {
	c := &v.cfg
	port := c.Port
	if port == nil {
		l := c.Listener
		if l == nil {
			if l, err = net.Listen("tcp", c.Bind); err != nil {
				return fmt.Errorf("voter: %w", err)
			}
		}
		if v.port, err = raftnet.NewPort(l, c.ServerTLS, c.Authorize, c.Log); err != nil {
			l.Close()
			return err
		}
		port = v.port
	}
	v.Net, err = raftnet.New(raftnet.Config{
		Pair: c.Pair, ID: c.ID, Addr: v.peer(c.ID).Addr, Port: port, TLS: c.ClientTLS, Authorize: c.Authorize,
		Member: v.member, GivenUp: v.givenUp, Resolve: func(id string) string { return v.peer(id).Addr },
		Handler: v, Log: c.Log, Dial: c.Dial, Speaks: v.speaks, Stream: c.Stream, Follows: v.follows,
	})
	close(v.ready)
	return err
}

// follows reports whether this member follows a leader in that term.
func (v *Voter) follows(term uint64) bool {
	r := v.raft.Load()
	return r != nil && r.State() == raft.Follower && r.CurrentTerm() == term
}

// speaks reports whether a certificate is that of the member id.
func (v *Voter) speaks(id string, cs tls.ConnectionState) error {
	if v.cfg.NodeOf == nil {
		return nil
	}
	node, err := v.cfg.NodeOf(cs)
	if err != nil {
		return err
	}
	p, ok := v.Peer(id)
	if !ok {
		p, _ = v.toldOf(id)
	}
	if p.Name != node {
		return fmt.Errorf("certificate is for node %s, the member is on %s", node, p.Name)
	}
	return nil
}

// Start makes this member take part in the group.
func (v *Voter) Start() error {
	c, t := &v.cfg, v.cfg.Timings
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.ID)
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Election
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.Lease, t.Commit
	conf.MaxAppendEntries, conf.BatchApplyCh = maxAppend, true
	conf.SnapshotInterval, conf.SnapshotThreshold = t.Snapshot, v.role.Threshold
	conf.TrailingLogs = v.role.Trailing
	conf.ShutdownOnRemove = false
	conf.NoSnapshotRestoreOnStart = true
	conf.NoLegacyTelemetry = true
	conf.Logger = bridge{log: c.Log.With("part", "raft")}
	if c.Bootstrap {
		if err := v.bootstrap(conf, v.Net); err != nil {
			return err
		}
	}
	if last, err := v.log.LastIndex(); err != nil {
		return fmt.Errorf("voter: %w", err)
	} else if last > 1 {
		// Before this process began, its predecessor may have confirmed the
		// leader's read lease; no vote is given until that has passed.
		time.Sleep(t.Read)
	}
	v.store.starting.Store(true)
	r, err := raft.NewRaft(conf, v.role.FSM, v.store, v.Stable, v.Manifests, starter{v.Net, v.store})
	v.store.starting.Store(false)
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	v.raft.Store(r)
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	v.wg.Go(func() { v.askGivenUp(ctx) }) // before the first election, if a member answers at once
	v.wg.Go(func() { v.watch(ctx) })
	v.wg.Go(func() { v.runFloor(ctx) })
	return nil
}

// starter is the transport for a raft that starts. Taking the handler of
// heartbeats is what raft does last before its goroutines run: from then on they
// get entries whole, since they may apply some before NewRaft has returned.
type starter struct {
	*raftnet.Transport
	store *store
}

// SetHeartbeatHandler implements raft.Transport.
func (s starter) SetHeartbeatHandler(f func(raft.RPC)) {
	s.store.starting.Store(false)
	s.Transport.SetHeartbeatHandler(f)
}

// maxAppend is the number of entries in a request and in a batch. Parts of
// 256 KB then bound a request at 32 MB.
const maxAppend = 128

func (v *Voter) bootstrap(conf *raft.Config, trans raft.Transport) error {
	var group raft.Configuration
	for _, p := range v.cfg.Peers {
		group.Servers = append(group.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: p.spell()})
	}
	// Members that list the same peers in another order begin alike.
	slices.SortFunc(group.Servers, func(a, b raft.Server) int { return strings.Compare(string(a.ID), string(b.ID)) })
	err := raft.BootstrapCluster(conf, v.log, v.Stable, v.Manifests, trans, group)
	if errors.Is(err, raft.ErrCantBootstrap) {
		if blank, err := v.blank(); err != nil || !blank {
			return err // nil: made earlier
		}
		// A crash came between the term and the entry.
		err = v.log.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(group)})
	}
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return nil
}

// Stop ends taking part and closes everything. It says farewell first, so that
// nobody takes the end for a crash.
func (v *Voter) Stop() error {
	if v.cancel != nil {
		v.cancel()
	}
	v.wg.Wait() // while raft can still answer
	v.Net.Farewell()
	var err error
	if r := v.raft.Load(); r != nil {
		v.moves.close(2*v.cfg.Timings.Election + time.Second)
		f := r.Shutdown()
		_ = v.Net.Close() // so that raft does not wait for calls to members that are away
		err = f.Error()
	}
	return errors.Join(err, v.release())
}

// release closes what Open opened.
func (v *Voter) release() error {
	var errs []error
	if v.Net != nil {
		errs = append(errs, v.Net.Close())
	}
	if v.port != nil {
		errs = append(errs, v.port.Close())
	}
	if v.log != nil {
		errs = append(errs, v.log.Close())
	}
	if v.Stable != nil {
		errs = append(errs, v.Stable.Close())
	}
	if v.lock != nil {
		errs = append(errs, v.lock.Close())
	}
	return errors.Join(errs...)
}

// Fatal reports an error after which the process must end.
func (v *Voter) Fatal(err error) {
	v.fatal.Do(func() {
		v.cfg.OnFatal(fmt.Errorf("pair %s: %w", v.cfg.Pair, err))
	})
}

// Raft returns the running raft, nil before Start.
func (v *Voter) Raft() *raft.Raft { return v.raft.Load() }

// Log returns the log.
func (v *Voter) Log() *seglog.Log { return v.log }

// store is the log as raft sees it. While raft starts it looks through all
// entries after the snapshot for configurations; it gets the others without
// their data.
type store struct {
	*seglog.Log
	starting atomic.Bool
	took     atomic.Int64              // StoreLogs, in nanoseconds, averaged over some calls
	began    atomic.Pointer[time.Time] // the call under way
}

// StoreLogs implements raft.LogStore.
func (s *store) StoreLogs(logs []*raft.Log) error {
	start := time.Now()
	s.began.Store(&start)
	err := s.Log.StoreLogs(logs)
	s.began.Store(nil)
	old := s.took.Load() // raft stores from one goroutine
	s.took.Store(old + (int64(time.Since(start))-old)/8)
	return err
}

// StoreTime returns what storing a batch takes here, on average lately, and at
// least what the one under way has taken so far.
func (v *Voter) StoreTime() time.Duration {
	return max(time.Duration(v.store.took.Load()), v.Storing())
}

// Storing returns for how long a batch is being stored, 0 if none is.
func (v *Voter) Storing() time.Duration {
	if began := v.store.began.Load(); began != nil {
		return time.Since(*began)
	}
	return 0
}

func (s *store) GetLog(index uint64, e *raft.Log) error {
	if s.starting.Load() {
		if err := s.Meta(index, e); err != nil || e.Type != raft.LogConfiguration {
			return err
		}
	}
	return s.Log.GetLog(index, e)
}
