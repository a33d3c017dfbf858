package voter

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
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

// Peer is a member of the group, this one included.
type Peer struct {
	ID      string // random, see NewID
	Name    string // for people and for redirects; ID if empty
	Addr    string // host:port of its raft port, as the others dial it
	Witness bool   // votes and keeps the log, has no data
}

// Timings are the group's times. Zero means the default. Every member of a
// group has the same (rule W7).
type Timings struct {
	Heartbeat time.Duration // without the leader before standing; 500 ms
	Election  time.Duration // for the votes to come in; 500 ms
	Lease     time.Duration // without a majority before a leader steps down; 250 ms
	Commit    time.Duration // longest wait before followers learn of a commit; 50 ms
	Read      time.Duration // a read lease; 100 ms, well below Heartbeat
	Floor     time.Duration // between floor entries; 5 s
	Snapshot  time.Duration // between snapshots, with enough new entries; 20 s
}

func (t *Timings) setDefaults() {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&t.Heartbeat, 500 * time.Millisecond},
		{&t.Election, 500 * time.Millisecond},
		{&t.Lease, 250 * time.Millisecond},
		{&t.Commit, 50 * time.Millisecond},
		{&t.Read, 100 * time.Millisecond},
		{&t.Floor, 5 * time.Second},
		{&t.Snapshot, 20 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
}

// Config describes one member.
type Config struct {
	Dir       string
	Pair      string
	ID        string
	Peers     []Peer
	Bootstrap bool // the group is being created: a new directory may be made
	// Format is the level of a directory that is made, see Raise; 0 is 1. The
	// group begins on it as soon as all of its members know it.
	Format int

	Port      *raftnet.Port     // shared; if nil, one is made of Listener
	Listener  net.Listener      // if nil, one is made of Bind
	Bind      string            // host:port
	ServerTLS *tls.Config       // demands and verifies client certificates
	ClientTLS *tls.Config       // with our certificate
	Authorize raftnet.Authorize // may this certificate speak for a member of the pair?
	// NodeOf is the node that a certificate is for; it must be the Name of the
	// member that the connection claims to be. Nil: not checked.
	NodeOf func(tls.ConnectionState) (string, error)

	FS          fsx.FS // nil: fsx.OS
	SegmentSize int64  // of the log; 0: its default
	CacheBytes  int64
	Timings     Timings
	OnFatal     func(error) // ends the process; nil is not allowed
	// Stream answers other members' streams; nil: they are refused.
	Stream func(ctx context.Context, from string, s *raftnet.Stream) error
	// Mark returns the digest of the state that was noted last, and the entry
	// where it was; for the other data replica. It is quick. Nil: there is none.
	Mark func() (index uint64, digest [16]byte)
	// Room returns what the log takes of the disk and the most that it may, 0 for
	// no limit. It is quick. Nil: not known.
	Room func() (used, limit int64)
	Log  *slog.Logger
	// Dial replaces net.Dialer in tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Role is what makes the difference between a replica and a witness.
type Role struct {
	Kind     manifest.Kind
	FSM      raft.FSM
	Serving  func() bool
	Draining func() bool // rather not serving; nil: never
	// SlowLeft is the time since a replica last handed over because of its disk;
	// nil: never.
	SlowLeft  func() time.Duration
	Threshold uint64 // entries between snapshots
	Trailing  uint64 // entries that raft keeps after a snapshot
	// OnDead is told that the leader's process has ended, as far as this
	// member and another one can see. It runs on the watch's goroutine.
	OnDead func(ctx context.Context, leader string)
}

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

// NewID returns a random member id.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
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

func (c *Config) check() error {
	c.Timings.setDefaults()
	if c.FS == nil {
		c.FS = fsx.OS
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Log = c.Log.With("pair", c.Pair)
	switch {
	case c.Dir == "" || c.Pair == "" || c.ID == "":
		return errors.New("voter: directory, pair and id are needed")
	case c.OnFatal == nil:
		return errors.New("voter: OnFatal is needed")
	case c.Timings.Read*2 > c.Timings.Heartbeat:
		return fmt.Errorf("voter: read lease %v is over half the heartbeat time-out %v", c.Timings.Read, c.Timings.Heartbeat)
	}
	seen := map[string]bool{}
	for i, p := range c.Peers {
		if p.ID == "" || p.Addr == "" || seen[p.ID] {
			return fmt.Errorf("voter: peer %q is incomplete or listed twice", p.ID)
		}
		if p.Name == "" {
			c.Peers[i].Name = p.ID
		}
		seen[p.ID] = true
	}
	if !seen[c.ID] {
		return fmt.Errorf("voter: %s is not among the peers", c.ID)
	}
	return nil
}

// takeDir locks the directory and checks whose it is.
func (v *Voter) takeDir() error {
	c := &v.cfg
	if _, err := fsx.ReadFile(c.FS, filepath.Join(c.Dir, SeedingName)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("voter: %s: %w", c.Dir, ErrSeeding), err)
	}
	have, err := readID(c.FS, c.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !c.Bootstrap {
			return fmt.Errorf("voter: %s: %w", c.Dir, ErrNoDirectory)
		}
		if err := v.checkEmpty(); err != nil {
			return err
		}
	case err != nil:
		return err
	case have.Pair != c.Pair || have.ID != c.ID:
		return fmt.Errorf("voter: %s is of %q, not %q: %w", c.Dir, have.Pair+" "+have.ID, c.Pair+" "+c.ID, ErrIdentity)
	}
	if v.lost, err = readGivenUp(c.FS, c.Dir); err != nil {
		return err
	}
	if v.givenUp(c.ID) {
		return fmt.Errorf("voter: %s: %w", c.Dir, ErrGivenUp)
	}
	if err := fsx.MkdirAllSync(c.FS, filepath.Join(c.Dir, "raft"), 0o700); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	if v.lock, err = c.FS.Lock(filepath.Join(c.Dir, "lock")); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	if have.ID == "" {
		if err := writeID(c.FS, c.Dir, identity{Format: max(c.Format, 1), Pair: c.Pair, ID: c.ID}); err != nil {
			return err
		}
	}
	return nil
}

// checkEmpty refuses a directory that has a log but no id.
func (v *Voter) checkEmpty() error {
	names, err := v.cfg.FS.ReadDir(filepath.Join(v.cfg.Dir, "log"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return fmt.Errorf("voter: %s has a log and no id: %w", v.cfg.Dir, ErrIdentity)
}

func (v *Voter) openStores() (err error) {
	c := &v.cfg
	if v.Stable, err = seglog.OpenStable(c.FS, filepath.Join(c.Dir, "raft", "stable"), v.Fatal); err != nil {
		return err
	}
	trim := seglog.Keep
	if v.role.Kind == manifest.Witness {
		trim = seglog.Recycle
	}
	var fetch func(uint64) ([]byte, error)
	if v.role.Kind == manifest.Data && c.ClientTLS != nil {
		fetch = v.fetchAtOpen
	}
	v.log, err = seglog.Open(seglog.Config{
		Dir: filepath.Join(c.Dir, "log"), FS: c.FS, SegmentSize: c.SegmentSize, CacheBytes: c.CacheBytes,
		Trim: trim, OnFailure: v.Fatal, Logger: c.Log, Fetch: fetch,
	})
	if err != nil {
		return err
	}
	v.store = &store{Log: v.log}
	v.Manifests, err = manifest.Open(c.FS, filepath.Join(c.Dir, "raft", "snapshots"), v.role.Kind, c.ID, v.Fatal)
	if err != nil {
		return err
	}
	if err := v.checkLog(); err != nil {
		return err
	}
	return v.finishNote()
}

// finishNote empties a witness's log that ends before its newest note: the leader
// gave it that note in the place of entries which it does not have any more, and
// the process ended before raft had made room for what comes after it. raft would
// have to leave a gap. On a data replica the own state is the newest note.
func (v *Voter) finishNote() error {
	if v.role.Kind != manifest.Witness {
		return nil
	}
	_, meta, has, err := v.Manifests.Newest()
	if err != nil || !has {
		return err
	}
	last, err := v.log.LastIndex()
	if err != nil || last == 0 || last >= meta.Index {
		return err
	}
	first, err := v.log.FirstIndex()
	if err != nil {
		return err
	}
	v.cfg.Log.Warn("the log ends before the newest note, and begins again after it", "last", last, "note", meta.Index)
	return v.log.DeleteRange(first, last)
}

// checkLog refuses a directory without a log, unless it is being made: a
// member that does not remember what it acknowledged must not vote.
func (v *Voter) checkLog() error {
	blank, err := v.blank()
	if err != nil || !blank {
		return err
	}
	lost := fmt.Errorf("voter: %s: %w", v.cfg.Dir, ErrNoLog)
	if !v.cfg.Bootstrap {
		return lost
	}
	// Making it sets the first term before the first entry.
	term, err := v.Stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, seglog.ErrNoKey) {
		return fmt.Errorf("voter: %w", err)
	}
	if _, err := v.Stable.Get([]byte("LastVoteTerm")); err == nil || term > 1 {
		return lost
	}
	if _, _, has, err := v.Manifests.Newest(); err != nil || has {
		return errors.Join(lost, err)
	}
	return nil
}

// blank reports whether nothing was ever stored in the log. One that is empty
// because a snapshot took its place has a segment that says so.
func (v *Voter) blank() (bool, error) {
	last, err := v.log.LastIndex()
	if err != nil || last > 0 {
		return false, err
	}
	_, _, has, err := v.Manifests.Newest()
	return !has || v.log.Stats().Segments == 0, err
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

// Create makes the directory of a member of a group that is being created, and
// writes the group's first configuration to its log. Doing it again changes
// nothing. Members whose directories were made so run without
// Config.Bootstrap, so that one which has lost its directory does not start.
func Create(cfg Config, kind manifest.Kind) error {
	cfg.Bootstrap = true
	if err := cfg.check(); err != nil {
		return err
	}
	v := &Voter{cfg: cfg, role: Role{Kind: kind}}
	err := v.takeDir()
	if err == nil {
		err = v.openStores()
	}
	if err == nil {
		conf := raft.DefaultConfig()
		conf.LocalID = raft.ServerID(cfg.ID)
		conf.Logger = bridge{log: cfg.Log.With("part", "raft")}
		_, trans := raft.NewInmemTransport("") // raft wants one to spell addresses with
		err = v.bootstrap(conf, trans)
	}
	return errors.Join(err, v.release())
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
		v.cfg.Log.Error("this process must end", "err", err)
		v.cfg.OnFatal(err)
	})
}

// Raft returns the running raft, nil before Start.
func (v *Voter) Raft() *raft.Raft { return v.raft.Load() }

// Log returns the log.
func (v *Voter) Log() *seglog.Log { return v.log }

// Config returns the configuration with its defaults filled in.
func (v *Voter) Config() *Config { return &v.cfg }

// store is the log as raft sees it. While raft starts it looks through all
// entries after the snapshot for configurations; it gets the others without
// their data.
type store struct {
	*seglog.Log
	starting atomic.Bool
	took     atomic.Int64 // StoreLogs, in nanoseconds, averaged over some calls
}

// StoreLogs implements raft.LogStore.
func (s *store) StoreLogs(logs []*raft.Log) error {
	start := time.Now()
	err := s.Log.StoreLogs(logs)
	old := s.took.Load() // raft stores from one goroutine
	s.took.Store(old + (int64(time.Since(start))-old)/8)
	return err
}

// StoreTime returns what storing a batch takes here, on average lately.
func (v *Voter) StoreTime() time.Duration { return time.Duration(v.store.took.Load()) }

func (s *store) GetLog(index uint64, e *raft.Log) error {
	if s.starting.Load() {
		if err := s.Meta(index, e); err != nil || e.Type != raft.LogConfiguration {
			return err
		}
	}
	return s.Log.GetLog(index, e)
}
