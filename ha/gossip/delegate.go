package gossip

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/shared/metrics"
)

// kindStatement begins a message that carries a sealed statement. Messages of
// other kinds are ignored.
const kindStatement = 'S'

const (
	maxMessages = 512
	maxStates   = 4
)

// inbox hands over from memberlist's goroutines to work. Nothing in it waits.
type inbox struct {
	wake chan struct{}

	mu     sync.Mutex       // guards what follows
	events map[string]event // newest, by node
	msgs   [][]byte         // sealed statements
	states [][]byte         // push/pull
}

// event is what memberlist says of a node.
type event struct {
	up   bool
	addr string
	meta []byte
}

func (b *inbox) init() {
	b.wake = make(chan struct{}, 1)
	b.events = make(map[string]event)
}

func (b *inbox) put(f func() bool) bool {
	b.mu.Lock()
	ok := f()
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return ok
}

func (b *inbox) take() (events map[string]event, msgs, states [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, msgs, states = b.events, b.msgs, b.states
	b.events, b.msgs, b.states = make(map[string]event), nil, nil
	return events, msgs, states
}

// delegate is what memberlist calls. Its methods are quick and never wait for
// the network or for memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate      = delegate{}
	_ memberlist.EventDelegate = delegate{}
	_ memberlist.AliveDelegate = delegate{}
)

// NodeMeta returns the card of this node. memberlist panics over limit.
func (d delegate) NodeMeta(limit int) []byte {
	card := d.g.card.Load()
	if card == nil || len(*card) > limit {
		d.g.log.Error("metadata left out", "limit", limit)
		return nil
	}
	return *card
}

func (d delegate) NotifyMsg(b []byte) {
	if len(b) == 0 || b[0] != kindStatement {
		return
	}
	if len(b) > maxMessage {
		d.g.refuse("", fmt.Errorf("%w: message of %d octets", errSize, len(b)))
		return
	}
	b = slices.Clone(b[1:])
	in := &d.g.inbox
	if !in.put(func() bool {
		if len(in.msgs) >= maxMessages {
			return false
		}
		in.msgs = append(in.msgs, b)
		return true
	}) {
		d.g.refuse("", fmt.Errorf("%w: too many messages", errLimit))
	}
}

func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.queue.GetBroadcasts(overhead, limit)
}

// LocalState returns chain and whole statement of the nodes that are up, or
// were lately.
func (d delegate) LocalState(bool) []byte {
	g := d.g
	g.mu.Lock()
	defer g.mu.Unlock()
	entries := make([]entry, 0, len(g.nodes))
	add := func(n *node) {
		if n == nil || n.full == nil || !n.up && time.Since(n.since) > relay {
			return
		}
		if s := g.signers[n.fullFP]; s != nil {
			entries = append(entries, entry{s.chain, n.full})
		}
	}
	add(g.nodes[g.cfg.Name]) // first, in case not all fit
	for name, n := range g.nodes {
		if name != g.cfg.Name {
			add(n)
		}
	}
	return encodeState(entries)
}

func (d delegate) MergeRemoteState(b []byte, _ bool) {
	if len(b) > maxState {
		d.g.refuse("", fmt.Errorf("%w: state of %d octets", errSize, len(b)))
		return
	}
	b = slices.Clone(b)
	in := &d.g.inbox
	if !in.put(func() bool {
		if len(in.states) >= maxStates {
			return false
		}
		in.states = append(in.states, b)
		return true
	}) {
		d.g.refuse("", fmt.Errorf("%w: too many push/pulls", errLimit))
	}
}

func (d delegate) NotifyJoin(n *memberlist.Node)   { d.notify(n, true) }
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.notify(n, true) }
func (d delegate) NotifyLeave(n *memberlist.Node)  { d.notify(n, false) }

func (d delegate) notify(n *memberlist.Node, up bool) {
	if n.Name == d.g.cfg.Name {
		return
	}
	ev := event{up: up, addr: n.Address(), meta: slices.Clone(n.Meta)}
	in := &d.g.inbox
	in.put(func() bool { in.events[n.Name] = ev; return true })
}

// NotifyAlive refuses a member whose metadata is not its own. A signature by a
// certificate not seen yet is let through: such a node stays out of every list
// until its statement has been verified.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	g := d.g
	if n.Name == g.cfg.Name {
		return nil // memberlist objects to what others say of us
	}
	g.mu.Lock()
	seen := g.cards[n.Name] == string(n.Meta) && len(n.Meta) > 0
	full := g.nodes[n.Name] == nil && len(g.nodes) >= maxNodes
	g.mu.Unlock()
	err := checkCard(n)
	switch {
	case err != nil:
	case full:
		err = fmt.Errorf("%w: over %d nodes", errLimit, maxNodes)
	case !seen:
		err = g.verifyCard(n)
	}
	if err != nil {
		g.refuse(n.Name, err)
	}
	return err
}

// checkCard checks what needs no certificate.
func checkCard(n *memberlist.Node) error {
	if len(n.Meta) > maxMeta {
		return fmt.Errorf("%w: metadata of %d octets", errSize, len(n.Meta))
	}
	s, err := open(n.Meta)
	if err != nil {
		return err
	}
	if s.name != n.Name {
		return fmt.Errorf("%w: the metadata is of %s", errName, s.name)
	}
	if !sameAddr(s.addr, n.Address()) {
		return fmt.Errorf("%w: %s, the metadata says %s", errAddress, n.Address(), s.addr)
	}
	return nil
}

func (g *Gossip) verifyCard(n *memberlist.Node) error {
	s, err := open(n.Meta)
	if err != nil {
		return err
	}
	g.mu.Lock()
	by := g.signers[s.fp]
	g.mu.Unlock()
	if by == nil {
		return nil
	}
	if err := s.verify(by); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.cards) >= 2*maxNodes {
		maps.DeleteFunc(g.cards, func(name string, _ string) bool { return g.nodes[name] == nil })
	}
	g.cards[n.Name] = string(n.Meta)
	return nil
}

// refuse counts and logs what was not believed.
func (g *Gossip) refuse(name string, err error) {
	metrics.GossipRefused.With(reasonOf(err)).Inc()
	g.log.Debug("refused", "node", name, "err", err)
}

// broadcast is a sealed statement on its way to everybody.
type broadcast struct {
	key string // a newer one with the same key replaces it
	msg []byte
}

var _ memberlist.NamedBroadcast = (*broadcast)(nil)

func (b *broadcast) Name() string    { return b.key }
func (b *broadcast) Message() []byte { return b.msg }
func (b *broadcast) Finished()       {}

func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.key == b.key
}

func broadcastOf(st *statement, raw []byte) *broadcast {
	b := &broadcast{key: st.name, msg: append([]byte{kindStatement}, raw...)}
	if !st.allGroups && len(st.groups) > 0 {
		b.key += "/" + st.groups[0].Pair
	}
	return b
}
