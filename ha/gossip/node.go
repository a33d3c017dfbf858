package gossip

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

const (
	signerTTL  = 10 * time.Minute // then the chain is checked again, against the CA of that time
	maxSigners = 2 * maxNodes
	forget     = 24 * time.Hour // then a node that is away leaves the list
	relay      = time.Minute    // as long the others are told of a node that is away
)

// node is what is known of one node. st is nil until a statement of it has been
// verified.
type node struct {
	up    bool      // memberlist reaches it
	addr  string    // where memberlist reaches it
	since time.Time // of up, when it last changed

	st          *statement // newest, its groups and services apart
	services    map[string]string
	servicesSeq uint64
	groups      map[string]groupNews
	groupsSeq   uint64 // of the newest complete list
	backend     bool   // its certificate is a backend's

	full    []byte // newest whole statement, sealed, for push/pull
	fullSeq uint64
	fullFP  tlsconf.Fingerprint

	sent map[string]route.Node // last told to the table, by pair
}

type groupNews struct {
	Group
	seq uint64
}

func (n *node) state() string {
	switch {
	case n.st.leaving:
		return Left
	case !n.up || !sameAddr(n.addr, n.st.addr):
		return Dead
	case n.st.draining:
		return Draining
	}
	return Alive
}

func (n *node) member() Member {
	m := Member{
		Name: n.st.name, Role: n.st.role, Version: n.st.version, State: n.state(),
		Unready: n.st.unready, Load: n.st.load, Services: cloneMap(n.services),
		Known: max(n.st.known, 1), Format: max(n.st.format, 1),
	}
	for _, g := range n.groups {
		m.Groups = append(m.Groups, g.Group)
	}
	slices.SortFunc(m.Groups, func(a, b Group) int { return strings.Compare(a.Pair, b.Pair) })
	return m
}

// isNews reports whether st tells more than n knows.
func (n *node) isNews(st *statement) bool {
	if n == nil || n.st == nil || st.seq > n.st.seq {
		return true
	}
	if st.whole() && st.seq > n.fullSeq {
		return true
	}
	return slices.ContainsFunc(st.groups, func(g Group) bool { return n.newGroup(g, st.seq) })
}

func (n *node) newGroup(g Group, seq uint64) bool {
	old, ok := n.groups[g.Pair]
	return ok && seq > old.seq || !ok && seq > n.groupsSeq && len(n.groups) < maxGroups
}

// apply merges a verified statement. Its parts are judged one by one, so that
// they may come in any order.
func (n *node) apply(s *sealed) {
	if n.st == nil || s.seq > n.st.seq {
		n.st = s.statement
	}
	if s.allServices && s.seq > n.servicesSeq {
		n.services, n.servicesSeq = s.services, s.seq
	}
	if s.allGroups && s.seq > n.groupsSeq {
		maps.DeleteFunc(n.groups, func(_ string, g groupNews) bool { return g.seq <= s.seq })
	}
	for _, g := range s.groups {
		if n.newGroup(g, s.seq) {
			n.groups[g.Pair] = groupNews{g, s.seq}
		}
	}
	if s.allGroups && s.seq > n.groupsSeq {
		n.groupsSeq = s.seq
	}
	if s.whole() && s.seq > n.fullSeq {
		n.full, n.fullSeq, n.fullFP = s.raw, s.seq, s.fp
	}
}

// signer is a certificate that VerifySigner has accepted.
type signer struct {
	*tlsconf.Signer
	chain   [][]byte
	checked time.Time
}

// signerOf returns the signer of a statement. chain may be nil; then only
// certificates seen before are known.
func (g *Gossip) signerOf(fp tlsconf.Fingerprint, chain [][]byte) (*signer, error) {
	g.mu.Lock()
	known := g.signers[fp]
	g.mu.Unlock()
	now := time.Now()
	if known != nil {
		if now.Sub(known.checked) < signerTTL && now.Before(known.NotAfter) {
			return known, nil
		}
		chain = known.chain
	}
	if len(chain) == 0 {
		return nil, errUnknown
	}
	if tlsconf.FingerprintOf(chain[0]) != fp {
		return nil, fmt.Errorf("%w: the chain is of another one", errCertificate)
	}
	accepted, err := g.cfg.Identity.VerifySigner(chain)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		delete(g.signers, fp)
		return nil, fmt.Errorf("%w: %v", errCertificate, err)
	}
	if len(g.signers) >= maxSigners {
		// Certificates replaced long ago; those in use come back by push/pull.
		maps.DeleteFunc(g.signers, func(f tlsconf.Fingerprint, s *signer) bool {
			n := g.nodes[s.Node]
			return n == nil || n.fullFP != f
		})
	}
	own := make([][]byte, len(chain))
	for i, der := range chain {
		own[i] = slices.Clone(der)
	}
	s := &signer{Signer: accepted, chain: own, checked: now}
	g.signers[fp] = s
	return s, nil
}

// verify checks that signer may say s.
func (s *sealed) verify(by *signer) error {
	if !by.Verify(signLabel, s.signed, s.sig) {
		return fmt.Errorf("%w: not of the certificate of %s", errSignature, by.Node)
	}
	if by.Node != s.name {
		return fmt.Errorf("%w: %s speaks for %s", errName, by.Node, s.name)
	}
	return covers(by.Identity, s.statement)
}

// covers reports whether the certificate of id allows the role and the groups
// of st.
func covers(id tlsconf.Identity, st *statement) error {
	for role := range strings.SplitSeq(st.role, ",") {
		if !slices.ContainsFunc(id.Roles, func(r tlsconf.Role) bool {
			return string(r) == role || strings.HasPrefix(string(r), role+"-")
		}) {
			return fmt.Errorf("%w: %s claims %q and holds %v", errRole, id.Node, role, id.Roles)
		}
	}
	for _, g := range st.groups {
		if g.Serving && !id.Has(tlsconf.Backend) {
			return fmt.Errorf("%w: %s claims to serve %s and holds %v", errRole, id.Node, g.Pair, id.Roles)
		}
	}
	if len(st.groups) > 0 && !id.Has(tlsconf.Backend, tlsconf.Witness) {
		return fmt.Errorf("%w: %s claims a group and holds %v", errRole, id.Node, id.Roles)
	}
	return nil
}

// publishLocked tells the table what has changed at n.
func (g *Gossip) publishLocked(n *node) {
	if g.cfg.Table == nil || n.st == nil || !n.backend {
		return
	}
	state := n.state()
	alive := state == Alive || state == Draining
	addr := func(pair string) map[route.Service]string {
		out := make(map[route.Service]string, len(n.services))
		for name, a := range n.services {
			if service, of, ok := strings.Cut(name, "/"); ok && of == pair {
				out[route.Service(service)] = a
			} else if _, twice := out[route.Service(name)]; !ok && !twice {
				out[route.Service(name)] = a
			}
		}
		return out
	}
	tell := func(r route.Node) {
		if old, ok := n.sent[r.Pair]; ok && sameNode(old, r) {
			return
		}
		if n.sent == nil {
			n.sent = make(map[string]route.Node)
		}
		n.sent[r.Pair] = r
		g.cfg.Table.Update(r)
	}
	for pair, gr := range n.groups {
		r := route.Node{
			Name: n.st.name, Pair: pair, Addr: addr(pair), Serving: gr.Serving, Term: gr.Term,
			Applied: gr.Applied, Draining: n.st.draining, Alive: alive, Version: n.st.version,
		}
		if !alive && r.Serving {
			// Silence does not unseat it, unless another one is known to serve.
			r.Serving = state == Dead && !g.servedElsewhere(pair, r.Name)
		}
		tell(r)
	}
	for pair, old := range n.sent {
		if _, ok := n.groups[pair]; !ok {
			old.Serving, old.Alive, old.Draining = false, false, n.st.draining
			tell(old)
		}
	}
}

func (g *Gossip) servedElsewhere(pair, name string) bool {
	return slices.ContainsFunc(g.cfg.Table.Candidates(pair), func(n route.Node) bool {
		return n.Serving && n.Name != name
	})
}

func sameNode(a, b route.Node) bool {
	return maps.Equal(a.Addr, b.Addr) && a.Serving == b.Serving && a.Term == b.Term && a.Applied == b.Applied &&
		a.Draining == b.Draining && a.Alive == b.Alive && a.Version == b.Version
}

// gaugeLocked counts the members by state.
func (g *Gossip) gaugeLocked() {
	states := map[string]int{Alive: 0, Draining: 0, Left: 0, Dead: 0}
	up := 0
	for _, n := range g.nodes {
		if n.up {
			up++
		}
		if n.st != nil {
			states[n.state()]++
		}
	}
	g.count.Store(int32(max(up, 1))) //nolint:gosec // bounded by memberlist's own count
	for state, n := range states {
		metrics.GossipMembers.With(state).Set(float64(n))
	}
}

// forgetLocked drops nodes that have been away for long.
func (g *Gossip) forgetLocked(now time.Time) {
	for name, n := range g.nodes {
		away := now.Sub(n.since)
		if name != g.cfg.Name && !n.up && (away > forget || n.st == nil && away > relay) {
			delete(g.nodes, name)
			delete(g.cards, name)
		}
	}
}
