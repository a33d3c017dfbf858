package pair

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/fsx"
)

// renew puts a member's directory aside and has one made in its place that asks
// the group itself.
func (g *group) renew(name string) (old replica.Peer, aside string) {
	g.t.Helper()
	old = g.Peer(name)
	peers := slices.DeleteFunc(g.peers(), func(p Peer) bool { return p.ID == old.ID })
	g.Kill(name)
	aside, err := PutAside(fsx.OS, g.Dir(name), old.ID)
	must(g.t, err)
	self := old
	self.ID = ""
	m, err := Renew(fsx.OS, g.Dir(name), "pair1", self, peers, aside, old.ID)
	must(g.t, err)
	g.Rename(name, m.Self.ID)
	return old, aside
}

func (g *group) has(id string) bool {
	return slices.ContainsFunc(g.peers(), func(p Peer) bool { return p.ID == id })
}

// TestRenew has a data replica made anew without an operator, once as it should
// be, and once after the answer of the group was not heard.
func TestRenew(t *testing.T) {
	g := newGroup(t, 0)
	items := 0
	for _, heard := range []bool{true, false} {
		g.fill(items, 100, 4<<10)
		items += 100
		old, aside := g.renew("a")
		g.Eventually("the other replica serves", g.Nodes["b"].R.Serving)
		if !heard {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			must(t, g.Serving().R.ReplaceMember(ctx, old.ID, g.Peer("a")))
			must(t, g.Serving().R.ReplaceMember(ctx, old.ID, g.Peer("a")))
			cancel()
		}
		must(t, g.pull(context.Background(), "a", nil))
		if m, err := ReadMarker(fsx.OS, g.Dir("a")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("marker %+v, %v", m, err)
		}
		g.Start("a", false)
		g.voting("a")
		g.same(items)
		if g.has(old.ID) {
			t.Error("the old member is there still")
		}
		if _, err := os.Stat(aside); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was put aside is there still: %v", err)
		}
	}
}

// TestRenewRefused: nobody is taken out for a stranger, for a member of another
// node, or for a witness.
func TestRenewRefused(t *testing.T) {
	g := newGroup(t, 0)
	g.fill(0, 10, 100)
	s := g.Serving()
	o := g.Peer(g.Other(s).Name)
	g.Kill(o.Name)
	next := func(edit func(*replica.Peer)) replica.Peer {
		p := o
		p.ID = replica.NewID()
		edit(&p)
		return p
	}
	for name, tt := range map[string]struct {
		old string
		p   replica.Peer
	}{
		"a stranger":      {"0123456789abcdef", next(func(*replica.Peer) {})},
		"another node":    {o.ID, next(func(p *replica.Peer) { p.Name = "c" })},
		"as a witness":    {o.ID, next(func(p *replica.Peer) { p.Witness = true })},
		"for the witness": {g.Peer("w").ID, next(func(p *replica.Peer) { p.Name = "w" })},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if err := s.R.ReplaceMember(ctx, tt.old, tt.p); err == nil {
			t.Errorf("%s: done", name)
		}
		cancel()
	}
	if !g.has(o.ID) || !g.has(g.Peer("w").ID) {
		t.Error("a member is gone")
	}
}

func FuzzRenewed(f *testing.F) {
	f.Add([]byte(`{"version":1,"members":[{"ID":"b","Addr":"127.0.0.1:2"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseRenewed(b)
		if err == nil && (len(list) == 0 || len(list) > maxMembers) {
			t.Errorf("%d members", len(list))
		}
	})
}

// TestSetRate: what is given from now on has another rate, or none.
func TestSetRate(t *testing.T) {
	s := NewSource(SourceConfig{Rate: 1000})
	defer s.Close()
	for _, n := range []int64{1000, 5000, 0} {
		s.SetRate(n)
		if got := s.limit.Limit(); got != limitOf(n) || (n == 0) != (got == rate.Inf) {
			t.Errorf("%d: %v octets a second", n, got)
		}
	}
}
