package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/shared/tlsconf"
)

const (
	softRounds = 10 // rounds between announcements of load and applied index
	maxDirect  = 64 // members told straight of an urgent change
	askRounds  = 10 // rounds between two requests for the same chain
	holdRounds = 2  // rounds that a statement waits for its chain before it is asked for
)

// work is the goroutine that everything memberlist hears is handed to, and that
// speaks for this node.
func (g *Gossip) work(ctx context.Context) {
	tick := time.NewTicker(softRounds * g.cfg.Interval)
	defer tick.Stop()
	g.patience = time.NewTimer(holdRounds * g.cfg.Interval)
	defer g.patience.Stop()
	g.speak(true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.inbox.wake:
			g.hear()
			g.speak(false)
		case <-g.news:
			g.speak(false)
		case <-g.patience.C:
			g.retry()
		case <-tick.C:
			g.housekeep()
			g.speak(true)
		}
	}
}

// hear works off the inbox. Push/pulls come first: they bring the certificates.
func (g *Gossip) hear() {
	events, msgs, states := g.inbox.take()
	for _, b := range states {
		entries, err := decodeState(b)
		if err != nil {
			g.refuse("", err)
			continue
		}
		for _, e := range entries {
			if _, err := g.believe(e.raw, e.chain); err != nil && !errors.Is(err, errOld) {
				g.refuse("", err)
			}
		}
	}
	for name, ev := range events {
		g.member(name, ev)
	}
	for _, raw := range msgs {
		g.receive(raw)
	}
	g.mu.Lock()
	g.gaugeLocked()
	g.mu.Unlock()
}

// receive takes a broadcast and passes it on if it was news.
func (g *Gossip) receive(raw []byte) {
	s, err := g.believe(raw, nil)
	switch {
	case errors.Is(err, errUnknown) && s != nil:
		g.hold(s.name, raw)
	case err != nil:
		name := ""
		if s != nil {
			name = s.name
		}
		g.refuse(name, err)
	case s != nil:
		g.queue.QueueBroadcast(broadcastOf(s.statement, raw))
	}
}

// hold keeps a statement whose chain is not known. It often comes at once, as a
// push/pull tells of members before it brings their chains.
func (g *Gossip) hold(name string, raw []byte) {
	if len(g.held) >= maxNodes {
		return
	}
	if len(g.held) == 0 {
		g.patience.Reset(holdRounds * g.cfg.Interval)
	}
	g.held[name] = raw
}

// retry looks at the held statements again and asks for the chains that are
// still missing.
func (g *Gossip) retry() {
	held := g.held
	g.held = make(map[string][]byte)
	for name, raw := range held {
		_, err := g.believe(raw, nil)
		switch {
		case errors.Is(err, errUnknown):
			g.ask(name)
		case err != nil && !errors.Is(err, errOld):
			g.refuse(name, err)
		}
	}
}

// member takes what memberlist says of a node.
func (g *Gossip) member(name string, ev event) {
	g.mu.Lock()
	n := g.nodes[name]
	if n == nil {
		if len(g.nodes) >= maxNodes {
			g.mu.Unlock()
			g.refuse(name, fmt.Errorf("%w: over %d nodes", errLimit, maxNodes))
			return
		}
		n = &node{groups: make(map[string]groupNews)}
		g.nodes[name] = n
	}
	if n.up != ev.up || n.since.IsZero() {
		n.since = time.Now()
	}
	n.up, n.addr = ev.up, ev.addr
	g.publishLocked(n)
	g.mu.Unlock()
	if !ev.up {
		return
	}
	_, err := g.believe(ev.meta, nil)
	switch {
	case errors.Is(err, errUnknown):
		g.hold(name, ev.meta)
	case err != nil && !errors.Is(err, errOld):
		g.refuse(name, err)
	}
}

// believe verifies a sealed statement and merges it. It returns nil and no
// error for one that is known already.
func (g *Gossip) believe(raw []byte, chain [][]byte) (*sealed, error) {
	s, err := open(raw)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	n := g.nodes[s.name]
	isNews, old := n.isNews(s.statement), n != nil && n.st != nil && s.seq < n.st.seq
	g.mu.Unlock()
	if !isNews {
		if old {
			return s, fmt.Errorf("%w: %s has said more since", errOld, s.name)
		}
		return nil, nil
	}
	by, err := g.signerOf(s.fp, chain)
	if err != nil {
		return s, err
	}
	if err := s.verify(by); err != nil {
		return s, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.name == g.cfg.Name {
		// Said by an earlier run of this node, with a clock ahead of ours.
		g.seq = max(g.seq, s.seq)
		g.again = true
		return nil, nil
	}
	n = g.nodes[s.name]
	if n == nil {
		if len(g.nodes) >= maxNodes {
			return s, fmt.Errorf("%w: over %d nodes", errLimit, maxNodes)
		}
		n = &node{groups: make(map[string]groupNews), since: time.Now()}
		g.nodes[s.name] = n
	}
	n.apply(s)
	n.backend = by.Has(tlsconf.Backend)
	g.publishLocked(n)
	return s, nil
}

// speak makes a statement when there is something new to say. soft allows it
// for load and applied index alone.
func (g *Gossip) speak(soft bool) {
	g.mu.Lock()
	self := g.self
	changed, urgent := differ(g.said, self)
	// again waits for its turn: a second node with our name would answer at once.
	urgent = urgent || soft && g.again
	if !urgent && (!soft || g.said.Load == self.Load && len(changed) == 0) {
		g.mu.Unlock()
		return
	}
	if g.again {
		changed = self.Groups
	}
	recard := g.said == nil || g.again || g.said.Draining != self.Draining || g.said.Unready != self.Unready || g.said.Format != self.Format || !maps.Equal(g.said.Services, self.Services)
	msgs, err := g.sealLocked(self, changed)
	if err == nil {
		g.said, g.again = &self, false
	}
	g.gaugeLocked()
	g.mu.Unlock()
	if err != nil {
		g.log.Error("cannot announce", "err", err)
		return
	}
	for _, b := range msgs {
		g.queue.QueueBroadcast(b)
	}
	if recard {
		g.chore(ask{})
	}
	if urgent {
		g.tell(msgs)
	}
}

// differ returns the groups of now that were not said in before, and whether
// the difference is one that has to be told at once.
func differ(before *Self, now Self) (changed []Group, urgent bool) {
	if before == nil {
		return now.Groups, true
	}
	said := make(map[string]Group, len(before.Groups))
	for _, g := range before.Groups {
		said[g.Pair] = g
	}
	urgent = before.Draining != now.Draining || before.Unready != now.Unready || !maps.Equal(before.Services, now.Services) ||
		len(before.Groups) != len(now.Groups) || before.Format != now.Format
	for _, g := range now.Groups {
		old, ok := said[g.Pair]
		if !ok || old.Serving != g.Serving || g.Serving && old.Term != g.Term {
			urgent = true
		}
		if !ok || old != g {
			changed = append(changed, g)
		}
	}
	return changed, urgent
}

// sealLocked makes the next statement of this node: the whole one for push/pull,
// the card for the metadata, and the messages to broadcast.
func (g *Gossip) sealLocked(self Self, changed []Group) ([]*broadcast, error) {
	st := statement{
		name: g.cfg.Name, role: g.cfg.Role, version: g.cfg.Version, addr: g.addr,
		load: self.Load, draining: self.Draining, unready: self.Unready, leaving: g.leaving,
		services: self.Services, groups: self.Groups, allServices: true, allGroups: true,
		known: g.cfg.Known, format: self.Format,
	}
	if g.seq == math.MaxInt64 {
		return nil, errors.New("no sequence number left")
	}
	g.seq = max(g.seq+1, uint64(max(time.Now().UnixNano(), 1))) //nolint:gosec // positive
	st.seq = g.seq
	raw, err := seal(g.cfg.Identity, &st)
	if err != nil {
		return nil, err
	}
	whole, err := open(raw)
	if err != nil {
		return nil, err
	}
	own, err := g.ownSignerLocked(whole.fp)
	if err != nil {
		return nil, err
	}
	if err := whole.verify(own); err != nil {
		return nil, err
	}
	card, err := g.makeCard(st)
	if err != nil {
		return nil, err
	}
	msgs, err := g.packets(st, raw, changed)
	if err != nil {
		return nil, err
	}
	g.card.Store(&card)
	n := g.nodes[g.cfg.Name]
	n.apply(whole)
	n.backend = own.Has(tlsconf.Backend)
	g.publishLocked(n)
	return msgs, nil
}

// ownSignerLocked returns the certificate that this node signs with.
func (g *Gossip) ownSignerLocked(fp tlsconf.Fingerprint) (*signer, error) {
	if s := g.signers[fp]; s != nil {
		return s, nil
	}
	chain := g.cfg.Identity.Chain()
	if len(chain) == 0 || tlsconf.FingerprintOf(chain[0]) != fp {
		return nil, errors.New("the certificate is being replaced")
	}
	accepted, err := g.cfg.Identity.VerifySigner(chain)
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	s := &signer{Signer: accepted, chain: chain, checked: time.Now()}
	g.signers[fp] = s
	return s, nil
}

// makeCard seals st for the metadata: without groups, and without services when
// they do not fit.
func (g *Gossip) makeCard(st statement) ([]byte, error) {
	st.groups, st.allGroups = nil, false
	raw, err := seal(g.cfg.Identity, &st)
	if err == nil && len(raw) > maxMeta {
		st.services, st.allServices = nil, false
		raw, err = seal(g.cfg.Identity, &st)
	}
	if err == nil && len(raw) > maxMeta {
		err = fmt.Errorf("%w: metadata of %d octets", errSize, len(raw))
	}
	return raw, err
}

// packets cuts st into messages that fit a packet. When the whole does not fit,
// the changed groups are sent and the rest is left to push/pull.
func (g *Gossip) packets(st statement, whole []byte, changed []Group) ([]*broadcast, error) {
	if len(whole) < maxPacket {
		return []*broadcast{broadcastOf(&st, whole)}, nil
	}
	st.groups, st.allGroups = nil, false
	room := maxPacket - sealedHead - maxSignature - 1
	if len(st.encode()) > room/2 {
		st.services, st.allServices = nil, false
	}
	var msgs []*broadcast
	for {
		st.groups = nil
		for len(changed) > 0 {
			st.groups = append(st.groups, changed[0])
			if len(st.encode()) > room {
				st.groups = st.groups[:len(st.groups)-1]
				break
			}
			changed = changed[1:]
		}
		raw, err := seal(g.cfg.Identity, &st)
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, broadcastOf(&st, raw))
		if len(changed) == 0 {
			return msgs, nil
		}
	}
}

// tell sends msgs straight to the other members.
func (g *Gossip) tell(msgs []*broadcast) {
	// Not from memberlist's own list: its nodes change while they are read.
	var to []memberlist.Address
	g.mu.Lock()
	for name, n := range g.nodes {
		if n.up && name != g.cfg.Name {
			to = append(to, memberlist.Address{Addr: n.addr, Name: name})
		}
	}
	g.mu.Unlock()
	rand.Shuffle(len(to), func(i, j int) { to[i], to[j] = to[j], to[i] })
	for _, a := range to[:min(len(to), maxDirect)] {
		for _, b := range msgs {
			if err := g.list.SendToAddress(a, b.msg); err != nil {
				g.log.Debug("not told directly", "node", a.Name, "err", err)
			}
		}
	}
}

// housekeep is done every ten rounds.
func (g *Gossip) housekeep() {
	chain := g.cfg.Identity.Chain()
	g.mu.Lock()
	defer g.mu.Unlock()
	if own := g.nodes[g.cfg.Name]; len(chain) > 0 && tlsconf.FingerprintOf(chain[0]) != own.fullFP {
		g.again = true // a new certificate
	}
	g.forgetLocked(time.Now())
	g.gaugeLocked()
	for name := range g.lastAsk {
		if g.nodes[name] == nil {
			delete(g.lastAsk, name)
		}
	}
}
