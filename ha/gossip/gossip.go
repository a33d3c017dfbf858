package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// DefaultInterval is the time between two rounds of gossip.
const DefaultInterval = 200 * time.Millisecond

// Identity signs what this node says and checks what others say.
// *tlsconf.Store is one. All methods may be called at any time.
type Identity interface {
	Identity() tlsconf.Identity
	Chain() [][]byte
	Sign(label string, msg []byte) (tlsconf.Fingerprint, []byte, error)
	VerifySigner(chain [][]byte) (*tlsconf.Signer, error)
}

var _ Identity = (*tlsconf.Store)(nil)

// Config says who this node is and whom it joins.
type Config struct {
	Cluster string // name of the cluster, as in the certificate; other clusters are ignored
	Name    string // name of this node, as in the certificate
	// Role is a role of the certificate, its first word ("relay" for relay-mx
	// and relay-proxy), or several of them with commas between.
	Role      string
	Version   string
	Known     uint32 // newest level of formats that this release knows; 0 is not said
	Listen    string // host:port, TCP and UDP
	Advertise string // host:port under which others reach Listen; by default the address listened on
	Join      []string
	Keys      [][]byte // of 32 octets; the first encrypts, all decrypt
	Interval  time.Duration
	Identity  Identity
	Table     *route.Table // told of every replica of a pair; may be nil
	Log       *slog.Logger // nil: none

	// tune changes memberlist's settings, and its transport.
	tune func(*memberlist.Config)
}

// Group is what a node says of its replica of a pair.
type Group struct {
	Pair    string
	Serving bool
	Term    uint64
	Applied uint64
}

// Self is what this node says of itself, besides its name, role and version.
type Self struct {
	Load     float64
	Draining bool
	// Unready says that this node cannot do its job now, as its /readyz says.
	Unready bool
	// Services maps "lmtp" to "host:port", for every group, or "lmtp/pair2" for
	// one of them; at most 100.
	Services map[string]string
	Groups   []Group // at most 128
	// Format is the level of what this node writes on its disk by the decision
	// of the cluster; 0 is not said.
	Format uint32
}

// States of a member.
const (
	Alive    = "alive"
	Draining = "draining"
	Left     = "left" // it said goodbye
	Dead     = "dead"
)

// Member is a node as this node sees it.
type Member struct {
	Name, Role, Version string
	State               string
	Unready             bool // it says that it cannot do its job now; releases before 0.2 never do
	Load                float64
	Services            map[string]string
	Groups              []Group // sorted by pair
	Known, Format       uint32  // newest level that its release knows, and the one in use; 1 when not said
}

// Gossip is this node's part in the gossip. Any number of goroutines may use
// it.
type Gossip struct {
	cfg     Config
	log     *slog.Logger
	addr    string // IP:port that others gossip to
	list    *memberlist.Memberlist
	ring    *memberlist.Keyring
	wire    memberlist.Transport
	queue   memberlist.TransmitLimitedQueue
	count   atomic.Int32 // members up, for queue
	card    atomic.Pointer[[]byte]
	inbox   inbox
	news    chan struct{} // Announce has been called
	asks    chan ask
	started atomic.Bool
	keysMu  sync.Mutex // one SetKeys at a time
	joins   atomic.Pointer[[]string]
	rejoin  chan struct{} // SetJoin has been called; room for one

	// mu guards what follows. It is taken by memberlist's callbacks, under its
	// own lock: memberlist is never called while holding it.
	mu      sync.Mutex
	self    Self
	said    *Self // last spoken
	again   bool  // speak although nothing has changed
	leaving bool
	seq     uint64 // last used
	nodes   map[string]*node
	signers map[tlsconf.Fingerprint]*signer
	cards   map[string]string // metadata found good, by node

	// Used by work only.
	lastAsk  map[string]time.Time
	held     map[string][]byte // statements whose chain is not known, by node
	patience *time.Timer       // until they are looked at again
}

// New checks cfg and listens. Others see this node from then on; Run joins
// them. Run has to be called to close the listeners, with a context that has
// ended if need be.
func New(cfg Config) (*Gossip, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g := &Gossip{
		cfg:     cfg,
		log:     cfg.Log.With("part", "gossip"),
		ring:    &memberlist.Keyring{},
		news:    make(chan struct{}, 1),
		asks:    make(chan ask, 64),
		rejoin:  make(chan struct{}, 1),
		nodes:   make(map[string]*node),
		signers: make(map[tlsconf.Fingerprint]*signer),
		cards:   make(map[string]string),
		lastAsk: make(map[string]time.Time),
		held:    make(map[string][]byte),
	}
	g.inbox.init()
	g.joins.Store(&cfg.Join)
	g.queue.RetransmitMult = retransmitMult
	g.queue.NumNodes = func() int { return int(g.count.Load()) }
	g.count.Store(1)
	if err := g.SetKeys(cfg.Keys); err != nil {
		return nil, err
	}
	if err := g.listen(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return g, nil
}

func (cfg *Config) check() error {
	if cfg.Identity == nil {
		return errors.New("no certificate")
	}
	id := cfg.Identity.Identity()
	switch {
	case cfg.Cluster == "" || cfg.Cluster != id.Cluster:
		return fmt.Errorf("cluster %q, the certificate is of %q", cfg.Cluster, id.Cluster)
	case cfg.Name == "" || cfg.Name != id.Node:
		return fmt.Errorf("node %q, the certificate is of %q", cfg.Name, id.Node)
	case !validText(cfg.Role, maxName):
		return fmt.Errorf("role %q", cfg.Role)
	case !validText(cfg.Version, maxName):
		return fmt.Errorf("version %q: want 1 to %d printable characters", cfg.Version, maxName)
	case cfg.Interval < time.Millisecond || cfg.Interval > time.Minute:
		return fmt.Errorf("interval %v", cfg.Interval)
	}
	return covers(id, &statement{role: cfg.Role})
}

// listen opens the listeners and starts memberlist.
func (g *Gossip) listen() error {
	mc := g.settings()
	if err := g.bind(mc); err != nil {
		return err
	}
	if err := g.introduce(); err != nil {
		return errors.Join(err, g.wire.Shutdown())
	}
	list, err := memberlist.Create(mc)
	if err != nil {
		return errors.Join(err, g.wire.Shutdown())
	}
	g.list = list
	return nil
}

// introduce makes the first statement of this node, which goes into the
// metadata.
func (g *Gossip) introduce() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[g.cfg.Name] = &node{up: true, addr: g.addr, groups: make(map[string]groupNews)}
	_, err := g.sealLocked(Self{}, nil)
	return err
}

// Addr returns the address that others gossip to.
func (g *Gossip) Addr() string { return g.addr }

// Announce replaces what this node says of itself and returns at once. A change
// of a group's serving replica, of draining, readiness or services is broadcast
// immediately, other changes every ten rounds. What is beyond the limits is
// left out, and logged.
func (g *Gossip) Announce(s Self) {
	s = g.trim(s)
	g.mu.Lock()
	g.self = s
	g.mu.Unlock()
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// trim copies s and leaves out what the others would refuse.
func (g *Gossip) trim(s Self) Self {
	out := Self{Load: s.Load, Draining: s.Draining, Unready: s.Unready, Format: s.Format, Services: make(map[string]string, len(s.Services))}
	if !finite(out.Load) {
		out.Load = 0
	}
	for _, name := range sortedKeys(s.Services) {
		addr := s.Services[name]
		if len(out.Services) == maxServices || !validText(name, maxName) || !validText(addr, maxAddr) {
			g.log.Error("service not announced", "service", name, "addr", addr)
			continue
		}
		out.Services[name] = addr
	}
	id := g.cfg.Identity.Identity()
	groups := slices.Clone(s.Groups)
	slices.SortStableFunc(groups, func(a, b Group) int { return strings.Compare(a.Pair, b.Pair) })
	for _, gr := range groups {
		n := len(out.Groups)
		twice := n > 0 && out.Groups[n-1].Pair == gr.Pair
		if n == maxGroups || twice || !validText(gr.Pair, maxPair) || !id.Has(tlsconf.Backend, tlsconf.Witness) {
			g.log.Error("group not announced", "pair", gr.Pair)
			continue
		}
		if gr.Serving && !id.Has(tlsconf.Backend) {
			g.log.Error("only a backend serves", "pair", gr.Pair)
			gr.Serving = false
		}
		out.Groups = append(out.Groups, gr)
	}
	return out
}

// Members returns the nodes that have proved who they are, sorted by name, this
// one included.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]Member, 0, len(g.nodes))
	for name, n := range g.nodes {
		if n.st == nil {
			continue
		}
		m := n.member()
		if name == g.cfg.Name {
			m.Unready = g.self.Unready
			m.Load, m.Groups = g.self.Load, slices.Clone(g.self.Groups)
			m.Services = cloneMap(g.self.Services)
			switch {
			case g.leaving:
				m.State = Left
			case g.self.Draining:
				m.State = Draining
			default:
				m.State = Alive
			}
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// SetKeys replaces the keys while gossip goes on. To change keys without a
// node falling silent, every node first learns the new key behind the old one,
// then uses it first, then forgets the old one.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	own := make([][]byte, len(keys))
	for i, key := range keys {
		own[i] = slices.Clone(key)
	}
	g.keysMu.Lock()
	defer g.keysMu.Unlock()
	return replaceKeys(g.ring, own)
}

// sameAddr compares addresses whatever form of IPv4 they are in.
func sameAddr(a, b string) bool {
	x, err1 := netip.ParseAddrPort(a)
	y, err2 := netip.ParseAddrPort(b)
	return err1 == nil && err2 == nil && x.Addr().Unmap() == y.Addr().Unmap() && x.Port() == y.Port()
}

func cloneMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
