package voter

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/shared/fsx"
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
	Hung      time.Duration // a write to the log takes before it is believed never to return; 5 s
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
		{&t.Hung, 5 * time.Second},
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
	Low      func() bool // the disk of the state has no room for mail; nil: never
	// SlowLeft is the time since a replica last handed over because of its disk;
	// nil: never.
	SlowLeft  func() time.Duration
	Threshold uint64 // entries between snapshots
	Trailing  uint64 // entries that raft keeps after a snapshot
	// OnDead is told that the leader's process has ended, as far as this
	// member and another one can see. It runs on the watch's goroutine.
	OnDead func(ctx context.Context, leader string)
}

// NewID returns a random member id.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
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

// Config returns the configuration with its defaults filled in.
func (v *Voter) Config() *Config { return &v.cfg }
