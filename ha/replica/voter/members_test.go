package voter

import "testing"

func TestSpell(t *testing.T) {
	for _, p := range []Peer{
		{ID: "1", Name: "pair1-a", Addr: "10.0.0.1:7300"},
		{ID: "2", Name: "w", Addr: "[::1]:7300", Witness: true},
	} {
		if got := parsePeer(p.ID, string(p.spell())); got != p {
			t.Errorf("%+v became %+v", p, got)
		}
		if err := checkPeer(p); err != nil {
			t.Error(err)
		}
	}
	if got := parsePeer("1", "10.0.0.1:7300"); got != (Peer{ID: "1", Name: "1", Addr: "10.0.0.1:7300"}) {
		t.Errorf("an address without a name is %+v", got)
	}
	for _, p := range []Peer{{}, {ID: "1", Name: "a|w", Addr: "x:1"}, {ID: "1", Addr: "x:1"}, {ID: "1", Name: "a b", Addr: "x:1"}} {
		if checkPeer(p) == nil {
			t.Errorf("%+v is taken", p)
		}
	}
}

func TestDecodeConfiguration(t *testing.T) {
	if _, err := decodeConfiguration([]byte("no configuration")); err == nil {
		t.Error("taken")
	}
}
