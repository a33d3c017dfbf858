package raftnet

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// nothing is a state machine without a state.
type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, io.EOF }
func (nothing) Restore(r io.ReadCloser) error       { return r.Close() }

// loner starts raft on e, as the only voter of its group.
func loner(t *testing.T, e *end, log raft.LogStore) *raft.Raft {
	t.Helper()
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = "b", hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond, 5*time.Millisecond
	stable, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "b", Address: raft.ServerAddress(e.addr)}}}
	if err := raft.BootstrapCluster(c, log, stable, snaps, e.t, conf); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(c, nothing{}, log, stable, snaps, e.t)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestLateLeader sends heartbeats of a newer term to a member that leads and is
// given entries. It must not write one of them with the term of its successor: the
// successor's entries at the same index would be taken for equal.
func TestLateLeader(t *testing.T) {
	cert, pool := selfSigned(t)
	var b atomic.Pointer[raft.Raft]
	led := map[uint64]bool{}
	follows := func(term uint64) bool {
		r := b.Load()
		return r != nil && r.State() == raft.Follower && r.CurrentTerm() == term
	}
	eb := newEnd(t, "b", cert, pool, func(c *Config) { c.Follows = follows })
	ea := newEnd(t, "a", cert, pool, nil)
	log := raft.NewInmemStore()
	r := loner(t, eb, log)
	b.Store(r)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = r.Apply([]byte("entry"), time.Second).Error()
				}
			}
		})
	}
	for range 150 {
		limit := time.Now().Add(10 * time.Second)
		for r.State() != raft.Leader {
			if time.Now().After(limit) {
				t.Fatal("nobody leads")
			}
			time.Sleep(time.Millisecond)
		}
		term := r.CurrentTerm()
		led[term] = true
		h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("a"), Addr: []byte(ea.addr)}
		q := &raft.AppendEntriesRequest{RPCHeader: h, Term: term + 1}
		if err := ea.t.AppendEntries("b", raft.ServerAddress(eb.addr), q, new(raft.AppendEntriesResponse)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	last, err := log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	bad := 0
	for i := uint64(2); i <= last; i++ {
		var e raft.Log
		if err := log.GetLog(i, &e); err != nil {
			t.Fatal(err)
		}
		if e.Type == raft.LogCommand && !led[e.Term] {
			bad++
		}
	}
	t.Logf("%d entries, %d terms", last, len(led))
	if bad > 0 {
		t.Errorf("%d entries have the term of another leader", bad)
	}
}
