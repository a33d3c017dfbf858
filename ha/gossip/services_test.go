package gossip

import (
	"maps"
	"testing"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// TestServicesOfPair has a backend with two pairs say where each is served.
func TestServicesOfPair(t *testing.T) {
	c := newCluster(t, new(fabric))
	g := listener(t, c, "relay1", tlsconf.RelayMX)
	be1 := c.issue("be1", tlsconf.Backend)
	st := backendSays(10, Group{Pair: "p1", Serving: true, Term: 7}, Group{Pair: "p2", Term: 3})
	st.services = map[string]string{
		"lmtp": "10.0.0.9:24", "lmtp/p2": "10.0.0.9:25", "imap/p1": "10.0.0.9:143", "imap/p2": "10.0.0.9:144", "admin": "10.0.0.9:7400",
	}
	if _, err := g.believe(mustSeal(t, be1, st), be1.Chain()); err != nil {
		t.Fatal(err)
	}
	for pair, want := range map[string]map[route.Service]string{
		"p1": {route.LMTP: "10.0.0.9:24", route.IMAP: "10.0.0.9:143", route.Admin: "10.0.0.9:7400"},
		"p2": {route.LMTP: "10.0.0.9:25", route.IMAP: "10.0.0.9:144", route.Admin: "10.0.0.9:7400"},
	} {
		n := g.cfg.Table.Candidates(pair)
		if len(n) != 1 || !maps.Equal(n[0].Addr, want) || n[0].Serving != (pair == "p1") {
			t.Errorf("%s: %+v, want %v", pair, n, want)
		}
	}
}
