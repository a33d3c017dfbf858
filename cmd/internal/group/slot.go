package group

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/pair"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// ErrAbsent: the node has no member of the pair.
var ErrAbsent = errors.New("no member of the pair is here; make one by postern pair add or replace")

// Running is a member that takes part.
type Running interface {
	// Stop ends it in order. It is called once.
	Stop(ctx context.Context) error
	// Ended yields the error with which it ended by itself.
	Ended() <-chan error
}

// SlotConfig describes the place of one member on a node.
type SlotConfig struct {
	Node    string
	Group   *config.Group
	Raft    *config.Raft
	Witness bool
	Port    *raftnet.Port
	TLS     *tlsconf.Store
	Log     *slog.Logger
	// Open makes a member run whose directory is complete.
	Open func(m voter.Config) (Running, error)
	// Check compares a state that was fetched with its digest; nil for a witness.
	Check func(dir string) error
	// Applied is the last entry in the state of a replica that does not run; for
	// Recover.
	Applied func(dir string) (uint64, error)
	// Renew reports whether a replica that must be seeded again asks for that itself;
	// nil: no.
	Renew func() bool
	// Changed is told when a member has begun or ceased to run.
	Changed func()
}

// Slot is the place of one member of a pair on a node. There may be none, one
// that is being seeded, or one that runs, and it changes from one to the other
// while the process goes on.
type Slot struct {
	cfg   SlotConfig
	plain *slog.Logger // without the pair

	client *tls.Config // instead of TLS's, in tests

	mu      sync.Mutex // guards what follows; held during changes
	running Running
	puller  *pair.Puller
	cancel  context.CancelFunc // of the puller
	id      string
	why     error // why nothing runs
	closed  bool

	wg    sync.WaitGroup
	ended chan error // of a member that ended by itself
}

// NewSlot makes a slot; Start looks at its directory.
func NewSlot(cfg SlotConfig) *Slot {
	plain := cfg.Log
	cfg.Log = cfg.Log.With("pair", cfg.Group.Pair)
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Slot{cfg: cfg, plain: plain, ended: make(chan error, 1)}
}

// Start makes the member run that the directory holds, or goes on seeding it,
// or finds that there is none.
func (s *Slot) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settle()
}

// Run waits for the end: of ctx, or of a member by itself, which is an error.
func (s *Slot) Run(ctx context.Context) error {
	select {
	case err := <-s.ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Stop ends what runs.
func (s *Slot) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	cancel := s.cancel
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halt(ctx)
}

// settle does what the directory says. The caller holds mu.
func (s *Slot) settle() error {
	dir := s.cfg.Group.Dir
	defer s.cfg.Changed()
	m, err := pair.ReadMarker(fsx.OS, dir)
	if err == nil {
		s.id, s.why = m.Self.ID, nil
		return s.seed()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, id, err := voter.ReadID(fsx.OS, dir)
	if errors.Is(err, fs.ErrNotExist) {
		if aside := s.leftAside(); aside != "" && s.renews(aside) {
			return s.renew(strings.TrimPrefix(aside, dir+oldSuffix), aside) // interrupted between the two steps
		}
		s.id, s.why = "", ErrAbsent
		s.cfg.Log.Warn("this node has no member of the pair", "dir", dir)
		return nil
	}
	if err != nil {
		return err
	}
	s.id = id
	c, err := s.member(id)
	if err != nil {
		return err
	}
	s.running, err = s.cfg.Open(c)
	if errors.Is(err, manifest.ErrReseed) && s.renews(dir) {
		s.cfg.Log.Error("the member of the pair cannot take part, and is made anew", "err", err)
		aside, err := pair.PutAside(fsx.OS, dir, id)
		if err != nil {
			return err
		}
		return s.renew(id, aside)
	}
	if errors.Is(err, manifest.ErrReseed) || errors.Is(err, voter.ErrNoLog) || errors.Is(err, voter.ErrGivenUp) {
		s.why = err
		s.cfg.Log.Error("the member of the pair cannot take part: have it replaced", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("pair %s: %w", s.cfg.Group.Pair, err)
	}
	s.why = nil
	s.watch(s.running)
	return nil
}

// renewAtMost is how often a member is made anew without an operator.
const renewAtMost = 10 * time.Minute

// renews reports whether the member in dir may be made anew without an operator:
// not if it was made only just.
func (s *Slot) renews(dir string) bool {
	if s.cfg.Witness || s.cfg.Renew == nil || !s.cfg.Renew() {
		return false
	}
	made, err := pair.Made(dir)
	return err == nil && time.Since(made) >= renewAtMost
}

// renew makes the directory anew that was put aside, and has it filled. The
// caller holds mu.
func (s *Slot) renew(old, aside string) error {
	c, err := s.member(old)
	if err != nil {
		return err
	}
	if told, err := pair.ReadPeers(fsx.OS, aside); err != nil {
		return err
	} else if len(told) > 0 {
		c.Peers = told
	}
	m, err := pair.Renew(fsx.OS, s.cfg.Group.Dir, s.cfg.Group.Pair, s.self(""), c.Peers, aside, old)
	if err != nil {
		return err
	}
	s.id, s.why = m.Self.ID, nil
	return s.seed()
}

// watch passes on how a member ended by itself.
func (s *Slot) watch(r Running) {
	ended := r.Ended()
	go func() {
		err, ok := <-ended
		if !ok {
			return // stopped
		}
		select {
		case s.ended <- err:
		default:
		}
	}()
}

// seed fills the directory in the background and then makes its member run. The
// caller holds mu.
func (s *Slot) seed() error {
	c, err := s.member(s.id)
	if err != nil {
		return err
	}
	p, err := pair.NewPuller(pair.PullerConfig{
		Dir: c.Dir, Port: c.Port, ClientTLS: c.ClientTLS, Authorize: c.Authorize, NodeOf: c.NodeOf, Check: s.cfg.Check, Log: s.cfg.Log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.puller, s.cancel = p, cancel
	s.wg.Go(func() {
		err := p.Run(ctx)
		cancelled := ctx.Err() != nil
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.puller, s.cancel = nil, nil
		if s.closed || cancelled && err != nil {
			return
		}
		if err == nil {
			err = s.settle()
		}
		if err != nil {
			select {
			case s.ended <- err:
			default:
			}
		}
	})
	return nil
}

// halt ends the member that runs. The caller holds mu.
func (s *Slot) halt(ctx context.Context) error {
	r := s.running
	s.running = nil
	if r == nil {
		return nil
	}
	return r.Stop(ctx)
}

// self is the member that this node is or would be.
func (s *Slot) self(id string) voter.Peer {
	p := voter.Peer{ID: id, Name: s.cfg.Node, Addr: s.cfg.Raft.Listen, Witness: s.cfg.Witness}
	for _, m := range s.cfg.Group.Members {
		if m.Node == s.cfg.Node {
			p.Addr = m.Addr
		}
	}
	return p
}

// member describes the member with an id, which need not be one that the
// configuration knows: the configuration has those that the group began with.
func (s *Slot) member(id string) (voter.Config, error) {
	c := describe(s.cfg.Group, s.cfg.Raft, s.plain)
	c.ID = id
	c.Port, c.Authorize, c.NodeOf = s.cfg.Port, Authorize, NodeOf
	if c.ClientTLS = s.client; c.ClientTLS == nil {
		c.ClientTLS = Client(s.cfg.TLS)
	}
	told, err := pair.ReadPeers(fsx.OS, c.Dir)
	if err != nil {
		return c, err
	}
	named := map[string]bool{s.cfg.Node: true}
	for _, p := range told {
		if !named[p.Name] {
			c.Peers = append(c.Peers, p)
			named[p.Name] = true
		}
	}
	for _, m := range s.cfg.Group.Members {
		if !named[m.Node] {
			c.Peers = append(c.Peers, voter.Peer{ID: m.ID, Name: m.Node, Addr: m.Addr, Witness: m.Witness})
		}
	}
	me := s.self(id)
	for _, m := range s.cfg.Group.Members {
		if m.ID == id && m.Witness != s.cfg.Witness {
			return c, fmt.Errorf("pair %s: the configuration says that member %s is a witness: %t", s.cfg.Group.Pair, id, m.Witness)
		}
	}
	c.Peers = append(c.Peers, me)
	return c, nil
}

// Join makes the directory anew under another id, unless its member is in use,
// and begins to fill it. Asked again it returns the same member.
func (s *Slot) Join(ctx context.Context, in admin.JoinRequest) (admin.GroupMember, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var peers []pair.Peer
	used := false
	for _, m := range in.Members {
		peers = append(peers, pair.Peer{ID: m.ID, Name: m.Node, Addr: m.Addr, Witness: m.Witness})
		used = used || m.ID == s.id
	}
	answer := func() (admin.GroupMember, error) {
		me := s.self(s.id)
		return admin.GroupMember{ID: me.ID, Node: me.Name, Addr: me.Addr, Witness: me.Witness}, nil
	}
	if s.puller != nil {
		if err := s.puller.SetPeers(peers); err != nil {
			return admin.GroupMember{}, err
		}
		return answer()
	}
	if used {
		return admin.GroupMember{}, fmt.Errorf("%w: member %s of pair %s on %s is in use: evict or remove it first", admin.ErrConflict, s.id, in.Pair, s.cfg.Node)
	}
	if len(peers) == 0 {
		return admin.GroupMember{}, fmt.Errorf("%w: no members are named", admin.ErrBadRequest)
	}
	if err := s.halt(ctx); err != nil {
		s.cfg.Log.Warn("the member that was removed did not end in order", "err", err)
	}
	aside := s.leftAside()
	if s.id != "" {
		var err error
		if aside, err = pair.PutAside(fsx.OS, s.cfg.Group.Dir, s.id); err != nil {
			return admin.GroupMember{}, err
		}
	}
	if err := MakeDir(s.cfg.Group); err != nil {
		return admin.GroupMember{}, err
	}
	if _, err := pair.Join(fsx.OS, s.cfg.Group.Dir, in.Pair, s.self(""), peers, aside); err != nil {
		return admin.GroupMember{}, err
	}
	if err := s.settle(); err != nil {
		return admin.GroupMember{}, err
	}
	s.cfg.Log.Warn("member made anew", "id", s.id, "aside", aside)
	return answer()
}

// oldSuffix is what pair.PutAside adds to a directory's name, before the id.
const oldSuffix = ".old-"

// leftAside finds the directory that was put aside by an earlier Join which did
// not get further.
func (s *Slot) leftAside() string {
	if found, err := filepath.Glob(s.cfg.Group.Dir + oldSuffix + "*"); err == nil && len(found) == 1 {
		return found[0]
	}
	return ""
}

// Recover makes the group one of this member alone; without accept it says what
// that would mean. The member is stopped meanwhile.
func (s *Slot) Recover(ctx context.Context, accept bool) (voter.Recovery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id == "" || s.puller != nil || s.why != nil {
		return voter.Recovery{}, fmt.Errorf("%w: there is no complete replica here", admin.ErrConflict)
	}
	c, err := s.member(s.id)
	if err != nil {
		return voter.Recovery{}, err
	}
	c.OnFatal = func(error) {} // it comes back as an error
	if err := s.halt(ctx); err != nil {
		return voter.Recovery{}, err
	}
	applied := uint64(0)
	if s.cfg.Applied != nil {
		if applied, err = s.cfg.Applied(filepath.Join(c.Dir, "meta")); err != nil {
			return voter.Recovery{}, errors.Join(err, s.settle())
		}
	}
	survey := voter.Survey
	if accept {
		survey = voter.RecoverAlone
	}
	rec, err := survey(c, manifest.Data, applied)
	return rec, errors.Join(err, s.settle())
}

// ID is that of the member that is here, "" if there is none.
func (s *Slot) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Why is nil while a member runs, else what keeps it from that.
func (s *Slot) Why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.running != nil:
		return nil
	case s.puller != nil:
		g := s.puller.Progress()
		if g.Total > 0 {
			return fmt.Errorf("being seeded: %s, %d %%", g.Stage, 100*g.Bytes/g.Total)
		}
		return fmt.Errorf("being seeded: %s", g.Stage)
	case s.why != nil:
		return s.why
	}
	return errors.New("stopped")
}

// Describe fills in what the slot knows of its member.
func (s *Slot) Describe(out *admin.GroupStatus) {
	s.mu.Lock()
	p, why := s.puller, s.why
	out.ID = s.id
	s.mu.Unlock()
	out.Pair, out.Node, out.Witness = s.cfg.Group.Pair, s.cfg.Node, s.cfg.Witness
	switch {
	case p != nil:
		g := p.Progress()
		out.State = "Seeding"
		out.Applied = g.Applied
		out.Seeding = &admin.Seeding{
			Stage: g.Stage, From: g.From, Bytes: g.Bytes, Total: g.Total, Files: g.Files, Applied: g.Applied, Error: g.Err, Began: g.Began,
		}
	case errors.Is(why, ErrAbsent):
		out.State = "Absent"
	case why != nil:
		out.State = "Lost"
		out.Alarms = append(out.Alarms, why.Error())
	}
}

// Members converts a group for the admin API.
func Members(list []voter.Member) (out []admin.GroupMember) {
	for _, m := range list {
		out = append(out, admin.GroupMember{ID: m.ID, Node: m.Name, Addr: m.Addr, Witness: m.Witness, Voter: m.Voter})
	}
	return out
}
