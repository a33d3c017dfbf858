package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// listener is a node that listens and does not run.
func listener(t *testing.T, c *cluster, name string, roles ...tlsconf.Role) *Gossip {
	t.Helper()
	g, err := New(c.config(name, roles...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.list.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// mustSeal signs st with the certificate of id.
func mustSeal(t *testing.T, id Identity, st statement) []byte {
	t.Helper()
	raw, err := seal(id, &st)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// backendSays is a whole statement of the backend be1.
func backendSays(seq uint64, groups ...Group) statement {
	return statement{
		name: "be1", role: "backend", version: "1", addr: "10.0.0.9:7946", seq: seq,
		allServices: true, allGroups: true, services: map[string]string{"lmtp": "10.0.0.9:24"}, groups: groups,
	}
}

func TestForged(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	be1 := c.issue("be1", tlsconf.Backend)
	relay2 := c.issue("relay2", tlsconf.RelayMX, tlsconf.RelayProxy)
	wit := c.issue("wit", tlsconf.Witness)
	other, err := tlsconf.InitCA(filepath.Join(c.dir, "other"), "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	alien := foreignStore(t, other, filepath.Join(c.dir, "other", tlsconf.CACertName), t.TempDir())

	serves := Group{Pair: "p1", Serving: true, Term: 7}
	base := backendSays(10, serves)
	of := func(name, role string, groups ...Group) statement {
		st := backendSays(10, groups...)
		st.name, st.role = name, role
		return st
	}
	damaged := mustSeal(t, be1, base)
	damaged[len(damaged)-1] ^= 1
	for name, tt := range map[string]struct {
		raw   []byte
		chain [][]byte
		want  error
	}{
		"another node's certificate":      {mustSeal(t, relay2, base), relay2.Chain(), errName},
		"another CA":                      {mustSeal(t, alien, base), alien.Chain(), errCertificate},
		"chain of another certificate":    {mustSeal(t, be1, base), relay2.Chain(), errCertificate},
		"chain that is no certificate":    {mustSeal(t, be1, base), [][]byte{{1, 2, 3}}, errCertificate},
		"chain not known":                 {mustSeal(t, be1, base), nil, errUnknown},
		"damaged":                         {damaged, be1.Chain(), errSignature},
		"relay claims backend":            {mustSeal(t, relay2, of("relay2", "backend")), relay2.Chain(), errRole},
		"relay serves":                    {mustSeal(t, relay2, of("relay2", "relay", serves)), relay2.Chain(), errRole},
		"relay claims a group":            {mustSeal(t, relay2, of("relay2", "relay", Group{Pair: "p1"})), relay2.Chain(), errRole},
		"witness serves":                  {mustSeal(t, wit, of("wit", "witness", serves)), wit.Chain(), errRole},
		"signed for something else":       {relabel(t, be1, base, "queue copy"), be1.Chain(), errSignature},
		"version of the format":           {append([]byte{2}, mustSeal(t, be1, base)[1:]...), be1.Chain(), errVersion},
		"empty":                           {nil, nil, errFormat},
		"no sequence number":              {mustSeal(t, be1, backendSays(0)), be1.Chain(), errFormat},
		"sequence number beyond all time": {mustSeal(t, be1, backendSays(1<<63)), be1.Chain(), errFormat},
		"too many groups":                 {mustSeal(t, be1, backendSays(1, groupsOf(maxGroups+1)...)), be1.Chain(), errLimit},
		"too long":                        {mustSeal(t, be1, statement{name: strings.Repeat("n", maxStatement)}), be1.Chain(), errSize},
	} {
		g := listener(t, c, "relay1", tlsconf.RelayMX)
		_, err := g.believe(tt.raw, tt.chain)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if m := g.Members(); len(m) != 1 {
			t.Errorf("%s: members %v", name, m)
		}
		if c := g.cfg.Table.Candidates("p1"); len(c) != 0 {
			t.Errorf("%s: table holds %+v", name, c)
		}
	}
	// The same, honest.
	if _, err := g.believe(mustSeal(t, be1, base), be1.Chain()); err != nil {
		t.Error(err)
	}
	if _, err := g.believe(mustSeal(t, wit, of("wit", "witness", Group{Pair: "p1"})), wit.Chain()); err != nil {
		t.Error(err)
	}
	if _, err := g.believe(mustSeal(t, relay2, of("relay2", "relay-mx,relay-proxy")), relay2.Chain()); err != nil {
		t.Error(err)
	}
	if m := g.Members(); len(m) != 4 {
		t.Errorf("members %v", m)
	}
	if c := g.cfg.Table.Candidates("p1"); len(c) != 1 || c[0].Name != "be1" {
		t.Errorf("table holds %+v", c)
	}
}

func foreignStore(t *testing.T, ca *tlsconf.CA, caFile, dir string) *tlsconf.Store {
	t.Helper()
	prefix := filepath.Join(dir, "be1")
	if _, err := ca.Issue(prefix, tlsconf.Request{Node: "be1", Roles: []tlsconf.Role{tlsconf.Backend}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s, err := tlsconf.Load(tlsconf.Files{CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem", CAFile: caFile})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func groupsOf(n int) []Group {
	groups := make([]Group, n)
	for i := range groups {
		groups[i].Pair = fmt.Sprintf("p%d", i)
	}
	return groups
}

// relabel seals st with a signature made for another purpose.
func relabel(t *testing.T, id Identity, st statement, label string) []byte {
	t.Helper()
	s, err := open(mustSeal(t, id, st))
	if err != nil {
		t.Fatal(err)
	}
	fp, sig, err := id.Sign(label, s.signed)
	if err != nil {
		t.Fatal(err)
	}
	raw := append([]byte{formatVersion}, fp[:]...)
	raw = append(append(raw, byte(len(sig))), sig...)
	return append(raw, s.signed[1:]...)
}

func TestReplay(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	be1 := c.issue("be1", tlsconf.Backend)
	first := mustSeal(t, be1, backendSays(10, Group{Pair: "p1", Serving: true, Term: 7}))
	if s, err := g.believe(first, be1.Chain()); s == nil || err != nil {
		t.Fatal(s, err)
	}
	if s, err := g.believe(first, nil); s != nil || err != nil {
		t.Errorf("the same again: %v, %v; want neither news nor an error", s, err)
	}
	if _, err := g.believe(mustSeal(t, be1, backendSays(11, Group{Pair: "p1", Term: 8})), nil); err != nil {
		t.Fatal(err)
	}
	before := refused(errOld)
	delegate{g}.NotifyMsg(append([]byte{kindStatement}, first...))
	g.hear()
	if refused(errOld) != before+1 {
		t.Error("the old statement was not counted")
	}
	if n := g.cfg.Table.Candidates("p1"); len(n) != 1 || n[0].Serving || n[0].Term != 8 {
		t.Errorf("after the replay the table holds %+v", n)
	}
	// By push/pull it is ordinary, and just as powerless.
	delegate{g}.MergeRemoteState(encodeState([]entry{{be1.Chain(), first}}), false)
	g.hear()
	if n := g.cfg.Table.Candidates("p1"); n[0].Serving {
		t.Error("a push/pull brought the old statement back")
	}
}

func TestPartsInAnyOrder(t *testing.T) {
	c := newCluster(t, new(fabric))
	be1 := c.issue("be1", tlsconf.Backend)
	part := func(seq uint64, groups ...Group) []byte {
		st := backendSays(seq, groups...)
		st.allGroups, st.allServices, st.services = false, false, nil
		return mustSeal(t, be1, st)
	}
	a, b := Group{Pair: "a", Term: 1}, Group{Pair: "b", Term: 1}
	a2, b2 := Group{Pair: "a", Term: 2, Serving: true}, Group{Pair: "b", Term: 2}
	raws := [][]byte{
		mustSeal(t, be1, backendSays(10, a, b, Group{Pair: "gone"})),
		part(11, a2),
		part(11, b2),
		mustSeal(t, be1, backendSays(12, a2, b2)),
	}
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}} {
		g := listener(t, c, "relay1", tlsconf.RelayMX)
		for _, i := range order {
			if _, err := g.believe(raws[i], be1.Chain()); err != nil && !errors.Is(err, errOld) {
				t.Fatal(err)
			}
		}
		n := g.nodes["be1"]
		if got := n.member().Groups; len(got) != 2 || got[0] != a2 || got[1] != b2 {
			t.Errorf("order %v: groups %v", order, got)
		}
		if n.fullSeq != 12 || len(n.services) != 1 {
			t.Errorf("order %v: whole statement %d, services %v", order, n.fullSeq, n.services)
		}
	}
}

func TestRedirectSurvivesADeath(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	be1 := c.issue("be1", tlsconf.Backend)
	if _, err := g.believe(mustSeal(t, be1, backendSays(10, Group{Pair: "p1", Serving: true, Term: 7})), be1.Chain()); err != nil {
		t.Fatal(err)
	}
	g.member("be1", event{up: true, addr: "10.0.0.9:7946", meta: mustSeal(t, be1, backendSays(10))})
	g.cfg.Table.Update(route.Node{Name: "be2", Pair: "p1", Term: 7})
	g.cfg.Table.Redirect("p1", "be2")
	g.member("be1", event{up: false, addr: "10.0.0.9:7946"})
	if n := g.cfg.Table.Candidates("p1"); n[0].Name != "be2" || !n[0].Serving || n[1].Serving || n[1].Alive {
		t.Errorf("table holds %+v", n)
	}
}

func TestNotifyAlive(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	be1, relay2 := c.issue("be1", tlsconf.Backend), c.issue("relay2", tlsconf.RelayMX)
	for _, id := range []*tlsconf.Store{be1, relay2} {
		if _, err := g.ownSigner(id); err != nil {
			t.Fatal(err)
		}
	}
	stranger := foreignStore(t, c.ca, filepath.Join(c.dir, "ca", tlsconf.CACertName), t.TempDir())
	card := func(id Identity) []byte {
		st := backendSays(10)
		st.allGroups = false
		return mustSeal(t, id, st)
	}
	good := &memberlist.Node{Name: "be1", Addr: net.IPv4(10, 0, 0, 9), Port: 7946, Meta: card(be1)}
	with := func(change func(*memberlist.Node)) *memberlist.Node {
		n := *good
		change(&n)
		return &n
	}
	for name, tt := range map[string]struct {
		node *memberlist.Node
		want error
	}{
		"good":                  {good, nil},
		"certificate not known": {with(func(n *memberlist.Node) { n.Meta = card(stranger) }), nil},
		"ourselves":             {&memberlist.Node{Name: "relay1"}, nil},
		"no metadata":           {with(func(n *memberlist.Node) { n.Meta = nil }), errFormat},
		"too much metadata":     {with(func(n *memberlist.Node) { n.Meta = make([]byte, maxMeta+1) }), errSize},
		"another name":          {with(func(n *memberlist.Node) { n.Name = "be2" }), errName},
		"another address":       {with(func(n *memberlist.Node) { n.Addr = net.IPv4(10, 0, 0, 8) }), errAddress},
		"another port":          {with(func(n *memberlist.Node) { n.Port++ }), errAddress},
		"signed by another":     {with(func(n *memberlist.Node) { n.Meta = card(relay2) }), errName},
	} {
		before := 0.0
		if tt.want != nil {
			before = refused(tt.want)
		}
		if err := (delegate{g}).NotifyAlive(tt.node); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if tt.want != nil && refused(tt.want) != before+1 {
			t.Errorf("%s: not counted", name)
		}
	}
}

// ownSigner makes the certificate of id known to g.
func (g *Gossip) ownSigner(id *tlsconf.Store) (*signer, error) {
	return g.signerOf(tlsconf.FingerprintOf(id.Chain()[0]), id.Chain())
}

func TestMetadataLimit(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	st := statement{
		name: "relay1", role: "relay-mx", version: "1.0", addr: g.addr, seq: 1,
		allServices: true, groups: []Group{{Pair: "p"}},
	}
	largest := 0
	with, without := 0, 0
	for n := 1; n <= maxAddr; n++ {
		for _, second := range []string{"", strings.Repeat("y", 100)} {
			st.services = map[string]string{"lmtp": strings.Repeat("x", n)}
			if second != "" {
				st.services["imap"] = second
			}
			raw, err := g.makeCard(st)
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) > maxMeta {
				t.Fatalf("card of %d octets", len(raw))
			}
			s, err := open(raw)
			if err != nil || s.allGroups || len(s.groups) > 0 {
				t.Fatalf("card holds %+v, %v", s, err)
			}
			bare := st
			bare.groups = nil
			switch fits := len(mustSeal(t, g.cfg.Identity, bare)) <= maxMeta; {
			case fits != s.allServices:
				t.Fatalf("services of %d octets: fit %v, there %v", n, fits, s.allServices)
			case fits:
				with, largest = with+1, max(largest, len(raw))
			default:
				without++
			}
		}
	}
	if with == 0 || without == 0 || largest < maxMeta-3 {
		t.Errorf("%d cards with services, %d without, the largest %d octets: the limit was not met", with, without, largest)
	}
	st.version = strings.Repeat("v", 500)
	if _, err := g.makeCard(st); !errors.Is(err, errSize) {
		t.Errorf("a card over the limit: %v", err)
	}

	// The longest names that New accepts fit.
	if n := len(mustSeal(t, g.cfg.Identity, statement{
		name: strings.Repeat("n", maxName), role: strings.Repeat("r", maxName),
		version: strings.Repeat("v", maxName), addr: "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", seq: 1<<63 - 1,
	})); n > maxMeta {
		t.Errorf("the longest card has %d octets", n)
	}
	card := *g.card.Load()
	if got := (delegate{g}).NodeMeta(len(card)); !bytes.Equal(got, card) {
		t.Errorf("NodeMeta at its limit returns %d octets, want %d", len(got), len(card))
	}
	if got := (delegate{g}).NodeMeta(len(card) - 1); got != nil {
		t.Errorf("NodeMeta over its limit returns %d octets", len(got))
	}
}

func TestAnnounceTrims(t *testing.T) {
	c := newCluster(t, new(fabric))
	services := map[string]string{"bad": "with blank: 1", strings.Repeat("n", maxName+1): "10.0.0.1:1"}
	for i := range maxServices + 5 {
		services[fmt.Sprintf("s%02d", i)] = "10.0.0.1:1"
	}
	self := Self{Services: services, Groups: append(groupsOf(maxGroups+5), Group{Pair: "p0", Serving: true}, Group{Pair: ""})}
	self.Groups[0].Serving = true
	for name, tt := range map[string]struct {
		role            tlsconf.Role
		groups, serving int
	}{
		"be1":    {tlsconf.Backend, maxGroups, 1},
		"wit":    {tlsconf.Witness, maxGroups, 0},
		"relay1": {tlsconf.RelayMX, 0, 0},
	} {
		g := listener(t, c, name, tt.role)
		g.Announce(self)
		m := g.Members()[0]
		serving := 0
		for _, gr := range m.Groups {
			if gr.Serving {
				serving++
			}
		}
		if len(m.Services) != maxServices || len(m.Groups) != tt.groups || serving != tt.serving {
			t.Errorf("%s: %d services, %d groups, %d serving", name, len(m.Services), len(m.Groups), serving)
		}
		// What is left is what others accept.
		g.mu.Lock()
		_, err := g.sealLocked(g.self, g.self.Groups)
		raw, fp := g.nodes[name].full, g.nodes[name].fullFP
		g.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		s, err := open(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.verify(g.signers[fp]); err != nil {
			t.Error(err)
		}
	}
}

func TestInboxIsBounded(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	before := refused(errLimit)
	d := delegate{g}
	for range maxMessages + 10 {
		d.NotifyMsg([]byte{kindStatement, 1, 2, 3})
	}
	for range maxStates + 2 {
		d.MergeRemoteState([]byte{formatVersion}, false)
	}
	if got := refused(errLimit) - before; got != 12 {
		t.Errorf("%v dropped, want 12", got)
	}
	large := refused(errSize)
	d.NotifyMsg(append([]byte{kindStatement}, make([]byte, maxMessage)...))
	d.MergeRemoteState(make([]byte, maxState+1), false)
	if got := refused(errSize) - large; got != 2 {
		t.Errorf("%v too large, want 2", got)
	}
	d.NotifyMsg([]byte("a message of a later version"))
	d.NotifyMsg(nil)
	broken := refused(errFormat)
	g.hear()
	if got := refused(errFormat) - broken; got != maxMessages {
		t.Errorf("%v broken, want %d", got, maxMessages)
	}
	_, msgs, states := g.inbox.take()
	if len(msgs)+len(states) != 0 {
		t.Errorf("%d messages and %d states left", len(msgs), len(states))
	}
}

func TestNodesAreBounded(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	for i := range maxNodes + 5 {
		g.member(fmt.Sprintf("n%d", i), event{up: true, addr: "10.0.0.1:1", meta: nil})
	}
	if len(g.nodes) != maxNodes {
		t.Errorf("%d nodes kept", len(g.nodes))
	}
	be1 := c.issue("be1", tlsconf.Backend)
	if _, err := g.believe(mustSeal(t, be1, backendSays(1)), be1.Chain()); !errors.Is(err, errLimit) {
		t.Errorf("one more: %v", err)
	}
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, new(fabric))
		g := listener(t, c, "relay1", tlsconf.RelayMX)
		be1 := c.issue("be1", tlsconf.Backend)
		if _, err := g.believe(mustSeal(t, be1, backendSays(1, Group{Pair: "p1"})), be1.Chain()); err != nil {
			t.Fatal(err)
		}
		g.member("stranger", event{up: false, addr: "10.0.0.1:1"})
		told := func() int {
			entries, err := decodeState(delegate{g}.LocalState(false))
			if err != nil {
				t.Fatal(err)
			}
			return len(entries)
		}
		if told() != 2 {
			t.Errorf("push/pull tells of %d nodes", told())
		}
		time.Sleep(relay + time.Second)
		g.housekeep()
		if told() != 1 || len(g.nodes) != 2 {
			t.Errorf("a minute later push/pull tells of %d nodes, %d are known", told(), len(g.nodes))
		}
		time.Sleep(forget)
		g.housekeep()
		if len(g.nodes) != 1 || len(g.Members()) != 1 {
			t.Errorf("a day later %d nodes are known", len(g.nodes))
		}
		if len(g.cfg.Table.Candidates("p1")) != 1 {
			t.Error("the table has forgotten the replica")
		}
	})
}
