package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/seglog/seglogtest"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

// member is a data replica of a pair with raft, over TLS on the loopback, and
// upkeep on it.
type member struct {
	dir     string
	r       *replica.Replica
	log     *pairLog
	rows    *store.Store
	machine *fsm.FSM
	boxes   *mailbox.Service
	upkeep  *upkeep
	ran     chan error
}

func startMember(t *testing.T, c *replicatest.Cluster, name string, bootstrap bool) *member {
	t.Helper()
	must := func(err error) {
		t.Helper()
		replicatest.Must(t, err)
	}
	cfg := c.Config(name, bootstrap)
	m := &member{dir: cfg.Dir, log: new(pairLog), ran: make(chan error, 1)}
	hub := new(notify.Hub)
	var err error
	m.rows, err = store.Open(filepath.Join(m.dir, "meta"), m.log, store.Options{MemTableSize: 256 << 10, OnDiskFailure: func(err error) { t.Error(err) }})
	must(err)
	m.machine, err = fsm.New(fsm.Config{Store: m.rows, Hub: hub, Fatal: func(err error) { t.Errorf("%s: %v", name, err) }})
	must(err)
	cfg.FSM, cfg.CacheBytes = &applier{FSM: m.machine}, -1
	cfg.Mark = func() (uint64, [16]byte) { return markOf(m.machine) }
	m.r, err = replica.New(cfg)
	must(err)
	m.log.open(m.r, m.rows)
	m.boxes, err = mailbox.New(mailbox.Config{Log: m.log, Store: m.rows, Hub: hub})
	must(err)
	m.upkeep, err = newUpkeep(upkeepConfig{
		Pair: "pair1", Node: name, Dir: m.dir, Log: m.r.Log(), Rows: m.rows, Machine: m.machine, Boxes: m.boxes,
		Logger: slog.New(slog.DiscardHandler), Settings: config.Upkeep{Rate: 1 << 30, CompactShare: 40, CompactAge: time.Hour, Undelete: time.Hour},
		Snapshots: config.Snapshots{Keep: 3},
		Propose:   func(ctx context.Context, data []byte) error { _, _, err := m.log.Propose(ctx, data); return err },
		Serving:   m.r.Serving, Trim: m.r.Trim, Bar: m.log.barred.Store,
		Yield: func(ctx context.Context) error { return m.r.Transfer(ctx, "") }, Peer: other{m.r},
	})
	must(err)
	go func() { m.ran <- m.r.Run(context.Background()) }()
	return m
}

func (m *member) stop(t *testing.T) {
	m.upkeep.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := errors.Join(m.r.Shutdown(ctx), <-m.ran)
	m.machine.Close()
	replicatest.Must(t, errors.Join(err, m.rows.Close()))
}

// pairOf starts a pair with its witness and delivers messages; lead serves.
func pairOf(t *testing.T, messages int) (c *replicatest.Cluster, lead, follow *member, name map[*member]string) {
	t.Helper()
	c = replicatest.New(t, replicatest.Options{Idle: true, Segment: 64 << 10})
	c.Start("w", true)
	a, b := startMember(t, c, "a", true), startMember(t, c, "b", true)
	name = map[*member]string{a: "a", b: "b"}
	c.Eventually("a replica serves", func() bool { return a.r.Serving() || b.r.Serving() })
	if lead, follow = a, b; b.r.Serving() {
		lead, follow = b, a
	}
	for i := range messages {
		res, err := lead.boxes.Deliver(t.Context(), &mailbox.Delivery{
			Message: text(i, 3000), Arrival: time.Now(), Recipients: []mailbox.DeliveryRecipient{{Account: eva}},
		})
		replicatest.Must(t, err)
		replicatest.Must(t, res[0].Err)
	}
	level(c, lead, follow)
	return c, lead, follow, name
}

func level(c *replicatest.Cluster, lead, follow *member) {
	c.Eventually("both have applied the same", func() bool { return lead.machine.Applied() == follow.machine.Applied() })
}

func octetsOf(i int) []byte { return fmt.Appendf(nil, "body of %d. body of %d. ", i, i) }

// TestRepairOverTheNetwork has the scrub of each replica find a flipped bit and
// take the entry from the other one.
func TestRepairOverTheNetwork(t *testing.T) {
	c, lead, follow, name := pairOf(t, 40)
	defer lead.stop(t)
	defer follow.stop(t)
	for i, m := range []*member{follow, lead} {
		replicatest.Must(t, seglogtest.Flip(filepath.Join(c.Dir(name[m]), "log"), octetsOf(7+i)))
		r, err := m.upkeep.scrub(t.Context())
		if err != nil || r.Damaged != 1 || r.Repaired != 1 || r.Lost() != 0 {
			t.Errorf("%s: %+v, %v", name[m], r, err)
		}
		var st admin.GroupStatus
		m.upkeep.status(&st)
		if st.Upkeep.Scrub.Repaired != 1 || len(st.Alarms) != 0 {
			t.Errorf("%s: status %+v, %v", name[m], st.Upkeep.Scrub, st.Alarms)
		}
		if r, err := m.upkeep.scrub(t.Context()); err != nil || r.Damaged != 0 {
			t.Errorf("%s: again %+v, %v", name[m], r, err)
		}
	}
	// The same entry damaged at both is lost, and said to be.
	for _, m := range []*member{follow, lead} {
		replicatest.Must(t, seglogtest.Flip(filepath.Join(c.Dir(name[m]), "log"), octetsOf(20)))
	}
	if r, err := follow.upkeep.scrub(t.Context()); err != nil || r.Repaired != 0 || r.Lost() != 1 {
		t.Errorf("damaged at both: %+v, %v", r, err)
	}
	if _, err := follow.r.FetchEntry(t.Context(), 1<<40); !errors.Is(err, raftnet.ErrGone) {
		t.Errorf("an entry that nobody has: %v", err)
	}
}

// TestMendAtOpen starts a replica whose log has a flipped bit.
func TestMendAtOpen(t *testing.T) {
	c, lead, follow, name := pairOf(t, 40)
	defer lead.stop(t)
	follow.stop(t)
	replicatest.Must(t, seglogtest.Flip(filepath.Join(c.Dir(name[follow]), "log"), octetsOf(39)))
	again := startMember(t, c, name[follow], false)
	defer again.stop(t)
	level(c, lead, again)
	if r, err := again.upkeep.scrub(t.Context()); err != nil || r.Damaged != 0 {
		t.Errorf("after the start: %+v, %v", r, err)
	}
}

// TestLeaderComparesDigests has the one that serves ask for the other's digest.
func TestLeaderComparesDigests(t *testing.T) {
	c, lead, follow, _ := pairOf(t, 5)
	defer lead.stop(t)
	defer follow.stop(t)
	replicatest.Must(t, lead.upkeep.compare(t.Context()))
	level(c, lead, follow)
	want, sum := follow.machine.Mark()
	if at, theirs, err := lead.upkeep.cfg.Peer.Mark(t.Context()); err != nil || at != want || theirs != sum || at == 0 {
		t.Fatalf("mark %d %v, %v; the other replica has %d %v", at, theirs, err, want, sum)
	}
	lead.upkeep.compareNoted(t.Context())
	if got := lead.upkeep.agreed.Load(); got != want {
		t.Errorf("the leader knows them equal at %d, want %d", got, want)
	}
}

// TestDivergedLeaderIsQuarantined makes the rows of a replica wrong that then
// serves: it asks the other one, and finds that its own log contradicts it.
func TestDivergedLeaderIsQuarantined(t *testing.T) {
	c, right, wrong, name := pairOf(t, 10)
	defer right.stop(t)
	_, err := wrong.upkeep.snapshot("", false)
	replicatest.Must(t, err)
	replicatest.Must(t, right.upkeep.compare(t.Context())) // equal after the snapshot
	level(c, right, wrong)
	wrong.stop(t)
	// An account that no entry made.
	rows, err := store.Open(filepath.Join(wrong.dir, "meta"), nil, store.Options{OnDiskFailure: func(err error) { t.Error(err) }})
	replicatest.Must(t, err)
	st, err := rows.State()
	replicatest.Must(t, err)
	batch := rows.NewBatch(&st)
	batch.PutAccount(&store.Account{ID: st.NextID + 1000, Name: "ghost@example.org"})
	replicatest.Must(t, batch.Commit())
	batch.Close()
	replicatest.Must(t, rows.Close())
	who := name[wrong]
	wrong = startMember(t, c, who, false)
	defer wrong.stop(t)
	level(c, right, wrong)
	c.Eventually("the other replica serves", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return wrong.r.Serving() || right.r.Transfer(ctx, c.Peer(who).ID) == nil && wrong.r.Serving()
	})
	replicatest.Must(t, wrong.upkeep.compare(t.Context()))
	if wrong.upkeep.agreed.Load() == 0 {
		t.Error("the two were not found equal where they were")
	}
	level(c, wrong, right)
	wrong.upkeep.compareNoted(t.Context())
	if why := wrong.upkeep.quarantined(); !strings.Contains(why, "replaying its log") || !wrong.log.barred.Load() {
		t.Errorf("quarantine of the one that is wrong: %q", why)
	}
	if why := right.upkeep.quarantined(); why != "" {
		t.Errorf("the one that is right is quarantined: %s", why)
	}
}
