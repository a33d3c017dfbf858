package group

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/pair"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/fsx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// idle is a member that does nothing.
type idle struct {
	ended chan error
	stops int
}

func (i *idle) Ended() <-chan error { return i.ended }

func (i *idle) Stop(context.Context) error {
	i.stops++
	close(i.ended)
	return nil
}

func testPort(t *testing.T) (*raftnet.Port, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAndVerifyClientCert}
	p, err := raftnet.NewPort(l, c, Authorize, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, c
}

// slotOf makes a slot whose member opens with err.
func slotOf(t *testing.T, dir string, open func(voter.Config) (Running, error)) *Slot {
	t.Helper()
	port, client := testPort(t)
	g := &config.Group{Pair: "p1", Dir: filepath.Join(dir, "p1"), Members: []config.GroupMember{
		{Node: "n1", ID: "000a", Addr: "127.0.0.1:1"}, {Node: "n2", ID: "000b", Addr: "127.0.0.1:2"},
	}}
	s := NewSlot(SlotConfig{
		Node: "n1", Group: g, Raft: &config.Raft{Listen: "127.0.0.1:1"}, Port: port, Log: slog.New(slog.DiscardHandler), Open: open,
	})
	s.client = client
	return s
}

func state(s *Slot) admin.GroupStatus {
	var out admin.GroupStatus
	s.Describe(&out)
	return out
}

// others are the members without that of n1, or with it.
func others(id string) []admin.GroupMember {
	list := []admin.GroupMember{{ID: "000b", Node: "n2", Addr: "127.0.0.1:2", Voter: true}}
	if id != "" {
		list = append(list, admin.GroupMember{ID: id, Node: "n1", Addr: "127.0.0.1:1", Voter: true})
	}
	return list
}

// TestSlotAbsent has a member made where there is none.
func TestSlotAbsent(t *testing.T) {
	s := slotOf(t, t.TempDir(), func(voter.Config) (Running, error) { return nil, errors.New("there is nothing to open") })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if g := state(s); g.State != "Absent" || g.ID != "" || !errors.Is(s.Why(), ErrAbsent) {
		t.Errorf("%+v, %v", g, s.Why())
	}
	ctx := context.Background()
	if _, err := s.Join(ctx, admin.JoinRequest{Pair: "p1"}); !errors.Is(err, admin.ErrBadRequest) {
		t.Errorf("joined a group of nobody: %v", err)
	}
	one, err := s.Join(ctx, admin.JoinRequest{Pair: "p1", Members: others("")})
	if err != nil {
		t.Fatal(err)
	}
	if g := state(s); g.State != "Seeding" || g.ID != one.ID || g.Seeding == nil || s.Why() == nil || one.ID == "000a" {
		t.Errorf("%+v of %+v", g, one)
	}
	two, err := s.Join(ctx, admin.JoinRequest{Pair: "p1", Members: others(one.ID)})
	if err != nil || two != one {
		t.Errorf("asked again: %+v, %v; first %+v", two, err, one)
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	// The process begins again: it goes on with the same member.
	again := slotOf(t, filepath.Dir(s.cfg.Group.Dir), nil)
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	if g := state(again); g.State != "Seeding" || g.ID != one.ID {
		t.Errorf("after a restart: %+v", g)
	}
	if err := again.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestSlotLost replaces a member that must be seeded again.
func TestSlotLost(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "p1")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := voter.WriteID(fsx.OS, home, "p1", "000a"); err != nil {
		t.Fatal(err)
	}
	s := slotOf(t, dir, func(c voter.Config) (Running, error) {
		if c.ID != "000a" {
			t.Errorf("member %s was opened", c.ID)
		}
		return nil, manifest.ErrReseed
	})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if g := state(s); g.State != "Lost" || len(g.Alarms) == 0 {
		t.Errorf("%+v", g)
	}
	ctx := context.Background()
	if _, err := s.Join(ctx, admin.JoinRequest{Pair: "p1", Members: others("000a")}); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("a member of the group was replaced: %v", err)
	}
	m, err := s.Join(ctx, admin.JoinRequest{Pair: "p1", Members: others("")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(home + ".old-000a"); err != nil || m.ID == "000a" {
		t.Errorf("%+v, %v", m, err)
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestSlotRenewed has a member made anew that must be seeded again, without an
// operator, and goes on with that after interruptions; not twice in a row.
func TestSlotRenewed(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "p1")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := voter.WriteID(fsx.OS, home, "p1", "000a"); err != nil {
		t.Fatal(err)
	}
	start := func() *Slot {
		s := slotOf(t, dir, func(voter.Config) (Running, error) { return nil, manifest.ErrReseed })
		s.cfg.Renew = func() bool { return true }
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start()
	first := state(s)
	if first.State != "Seeding" || first.ID == "000a" || first.ID == "" {
		t.Errorf("%+v", first)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := pair.ReadMarker(fsx.OS, home)
	if err != nil || m.Instead != "000a" || len(m.Peers) == 0 {
		t.Errorf("marker %+v, %v", m, err)
	}
	s = start()
	if g := state(s); g.State != "Seeding" || g.ID != first.ID {
		t.Errorf("after a restart: %+v", g)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	// The process ended after the old directory was put aside.
	if err := os.RemoveAll(home); err != nil {
		t.Fatal(err)
	}
	s = start()
	if g := state(s); g.State != "Seeding" || g.ID == first.ID {
		t.Errorf("after an end between the steps: %+v", g)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	// It is complete, and must be seeded again at once: an operator has to look.
	if err := os.Remove(filepath.Join(home, voter.SeedingName)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "peers"), []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = start()
	if g := state(s); g.State != "Lost" {
		t.Errorf("made anew twice: %+v", g)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSlotRunning stops a member that was removed from its group, and reports
// one that ends by itself.
func TestSlotRunning(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "p1")
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := voter.WriteID(fsx.OS, home, "p1", "000a"); err != nil {
		t.Fatal(err)
	}
	m := &idle{ended: make(chan error, 1)}
	s := slotOf(t, dir, func(c voter.Config) (Running, error) {
		if len(c.Peers) != 2 || c.Peers[1].ID != "000a" || c.Peers[1].Name != "n1" {
			t.Errorf("peers %+v", c.Peers)
		}
		return m, nil
	})
	if err := s.Start(); err != nil || s.Why() != nil {
		t.Fatal(err, s.Why())
	}
	if _, err := s.Join(context.Background(), admin.JoinRequest{Pair: "p1", Members: others("000a")}); !errors.Is(err, admin.ErrConflict) || m.stops != 0 {
		t.Errorf("a member that is in use: %v, stopped %d times", err, m.stops)
	}
	if _, err := s.Join(context.Background(), admin.JoinRequest{Pair: "p1", Members: others("")}); err != nil || m.stops != 1 {
		t.Errorf("a member that was removed: %v, stopped %d times", err, m.stops)
	}
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}

	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "p1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := voter.WriteID(fsx.OS, filepath.Join(dir, "p1"), "p1", "000a"); err != nil {
		t.Fatal(err)
	}
	m = &idle{ended: make(chan error, 1)}
	s = slotOf(t, dir, func(voter.Config) (Running, error) { return m, nil })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	died := errors.New("died")
	m.ended <- died
	if err := s.Run(context.Background()); !errors.Is(err, died) {
		t.Errorf("ended with %v", err)
	}
	if err := s.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}
