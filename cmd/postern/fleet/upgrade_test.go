package fleet

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// upgradable is a cluster of two relays and a pair that pair1-b serves.
func upgradable(change func(*Status)) *Status {
	s := &Status{Pairs: []PairState{{Name: "pair1", Serving: "pair1-b", Nodes: []ReplicaState{
		{Name: "pair1-a", State: "follower"}, {Name: "pair1-b", State: "leader"}, {Name: "pair1-w", Witness: true, State: "follower"},
	}}}}
	for _, n := range [][3]string{{"relay1", Relay, ""}, {"relay2", Relay, ""}, {"pair1-b", Backend, "pair1"}, {"pair1-a", Backend, "pair1"}, {"pair1-w", Witness, "pair1"}} {
		s.Nodes = append(s.Nodes, NodeState{Name: n[0], Role: n[1], Pair: n[2], State: "ready", Version: "1", Formats: admin.FormatLevels{Known: 2, Used: 1}})
	}
	if change != nil {
		change(s)
	}
	return s
}

func away(name string) func(*Status) {
	return func(s *Status) {
		for i := range s.Nodes {
			if s.Nodes[i].Name == name {
				s.Nodes[i] = NodeState{Name: name, Role: s.Nodes[i].Role, Pair: s.Nodes[i].Pair, State: StateUnreachable, Error: "no answer"}
			}
		}
		for i := range s.Pairs[0].Nodes {
			if r := &s.Pairs[0].Nodes[i]; r.Name == name {
				r.State, r.Lag = StateUnreachable, -1
			}
		}
	}
}

func TestPlanOf(t *testing.T) {
	for name, tt := range map[string]struct {
		change      func(*Status)
		tier, order string
		back        bool
		nodes       string // in their order
		block       string // part of what is in the way, "" for nothing
	}{
		"backends first":     {nil, AllTiers, BackendsFirst, false, "pair1-w pair1-a pair1-b relay1 relay2", ""},
		"relays first":       {nil, AllTiers, RelaysFirst, false, "relay1 relay2 pair1-w pair1-a pair1-b", ""},
		"one tier":           {nil, Backend, BackendsFirst, false, "pair1-a pair1-b", ""},
		"a member is away":   {away("pair1-b"), AllTiers, BackendsFirst, false, "pair1-w pair1-b pair1-a relay1 relay2", ""},
		"of another tier":    {away("pair1-w"), Backend, BackendsFirst, false, "pair1-a pair1-b", "pair1-w is away"},
		"not in the way":     {away("pair1-w"), Relay, BackendsFirst, false, "relay1 relay2", ""},
		"nobody serves":      {func(s *Status) { s.Pairs[0].Serving = "" }, Relay, RelaysFirst, false, "relay1 relay2", "not served"},
		"by gossip only":     {func(s *Status) { s.Nodes[0].Gossip = true }, Backend, BackendsFirst, false, "pair1-a pair1-b", "gossip only"},
		"back":               {nil, AllTiers, RelaysFirst, true, "relay1 relay2 pair1-w pair1-a pair1-b", ""},
		"back, but too late": {func(s *Status) { s.Nodes[4].Formats.Used = 2 }, Relay, RelaysFirst, true, "relay1 relay2", "no way back"},
	} {
		roles, err := rolesOf(tt.tier, tt.order)
		if err != nil {
			t.Fatal(err)
		}
		p := planOf(upgradable(tt.change), tt.tier, tt.order, roles, Versions{Relay: "2", Backend: "2", Witness: "2"}, tt.back)
		var nodes []string
		for _, s := range p.Steps {
			nodes = append(nodes, s.Node)
		}
		if got := strings.Join(nodes, " "); got != tt.nodes {
			t.Errorf("%s: order %s, want %s", name, got, tt.nodes)
		}
		if (tt.block == "") != (len(p.Blocks) == 0) || !strings.Contains(strings.Join(p.Blocks, "; "), tt.block) {
			t.Errorf("%s: in the way: %q, want %q", name, p.Blocks, tt.block)
		}
	}
	if _, err := rolesOf("mail", BackendsFirst); err == nil {
		t.Error("an unknown tier")
	}
}

// TestPlanDone: a node that runs the version already is left alone, so that an
// upgrade goes on where it ended.
func TestPlanDone(t *testing.T) {
	s := upgradable(func(s *Status) { s.Nodes[0].Version = "2" })
	p := planOf(s, Relay, BackendsFirst, []string{Relay}, Versions{Relay: "2"}, false)
	if !p.Mixed || !p.Steps[0].Done || p.Steps[1].Done || p.Level != 1 {
		t.Errorf("%+v", p)
	}
	if err := p.Again([]string{"relay1"}); err != nil || p.Steps[0].Done {
		t.Errorf("again: %v, %+v", err, p)
	}
	if err := p.Again([]string{"pair1-a"}); err == nil {
		t.Error("a node of another tier goes through")
	}
}

func TestOthersWell(t *testing.T) {
	relay, member := UpgradeStep{Node: "relay1", Role: Relay}, UpgradeStep{Node: "pair1-a", Role: Backend, Pair: "pair1"}
	for name, tt := range map[string]struct {
		change func(*Status)
		step   UpgradeStep
		well   bool
	}{
		"relay":                     {nil, relay, true},
		"the other relay is away":   {away("relay2"), relay, false},
		"a relay, a member away":    {away("pair1-a"), relay, true},
		"member":                    {nil, member, true},
		"the other member is away":  {away("pair1-b"), member, false},
		"the witness is away":       {away("pair1-w"), member, false},
		"it is away itself":         {away("pair1-a"), member, true},
		"the other one is behind":   {func(s *Status) { s.Pairs[0].Nodes[1].Lag = 11 }, member, false},
		"the other one drains":      {func(s *Status) { s.Nodes[2].State = "draining" }, member, false},
		"a member, the relays away": {func(s *Status) { away("relay1")(s); away("relay2")(s) }, member, true},
	} {
		if err := othersWell(upgradable(tt.change), tt.step, 10); (err == nil) != tt.well {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRipe(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Status)
		ripe   bool
	}{
		"all know it":         {nil, true},
		"a relay is away":     {away("relay1"), true},
		"the witness is away": {away("pair1-w"), false},
		"a replica is away":   {away("pair1-a"), false},
		"an old relay":        {func(s *Status) { s.Nodes[0].Formats = admin.FormatLevels{} }, false},
		"an old witness":      {func(s *Status) { s.Nodes[4].Formats.Known = 1 }, false},
	} {
		if err := ripe(upgradable(tt.change), 2); (err == nil) != tt.ripe {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeliveriesOf(t *testing.T) {
	page := `# TYPE postern_deliveries_total counter
postern_deliveries_total{channel="lmtp",node="r",result="delivered"} 40
postern_deliveries_total{channel="lmtp",node="r",result="deferred"} 2
postern_deliveries_total_other{channel="lmtp",result="deferred"} 9
postern_deliveries_total{channel="smtp",result="deferred"} 1
postern_deliveries_total{channel="smtp",result="x"} NaN
`
	if got := deliveriesOf([]byte(page)); got != [2]float64{43, 3} {
		t.Errorf("%v", got)
	}
}

func TestJudge(t *testing.T) {
	o := UpgradeOptions{MaxElections: 2, MaxQueueAge: time.Minute, MaxErrors: 0.5}
	before := &watch{terms: map[string]uint64{"pair1": 5}, deliveries: map[string][2]float64{"relay1": {100, 90}}}
	now := func(term uint64, waits time.Duration, all, errs float64) *watch {
		w := &watch{terms: map[string]uint64{"pair1": term, "pair2": 9}, deliveries: map[string][2]float64{"relay1": {all, errs}}}
		if waits > 0 {
			w.oldest = time.Now().Add(-waits)
		}
		return w
	}
	for name, tt := range map[string]struct {
		w    *watch
		want string
	}{
		"well":                 {now(7, time.Second, 200, 120), ""},
		"elections":            {now(8, 0, 200, 90), "elections"},
		"a term that is older": {now(4, 0, 200, 90), ""},
		"a message waits":      {now(5, time.Hour, 200, 90), "waits"},
		"put off":              {now(5, 0, 200, 160), "put off"},
		"few":                  {now(5, 0, 110, 100), ""},
		"counted anew":         {now(5, 0, 60, 40), "put off"},
	} {
		err := before.judge(tt.w, o)
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestShut: a port behind a firewall is told from one at which nobody listens.
func TestShut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	if err := greet(t.Context(), nil, addr, ""); err == nil || shut(err) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := greet(ctx, nil, addr, ""); !shut(err) {
		t.Errorf("no answer in time: %v", err)
	}
	for err, want := range map[error]bool{
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}: true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNRESET)}:   false,
		nil: false,
	} {
		if got := shut(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

// TestLimitDuringStep: a limit that is passed while a relay's sessions end stops
// the step there: the program is not replaced, and the relay takes work again.
func TestLimitDuringStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var asked, drains atomic.Int32
	var draining atomic.Bool
	srv := admin.NewServer(slog.New(slog.DiscardHandler))
	admin.Handle(srv, admin.GetStatus, func(context.Context, admin.None) (admin.NodeStatus, error) {
		s := admin.NodeStatus{Name: "relay1", Role: Relay, State: "ready", Sessions: 1, Queue: &admin.QueueStatus{}}
		if asked.Add(1) > 4 {
			s.Queue.Oldest = time.Now().Add(-time.Hour)
		}
		return s, nil
	})
	admin.Handle(srv, admin.GetCluster, func(context.Context, admin.None) (admin.Cluster, error) { return admin.Cluster{}, nil })
	admin.Handle(srv, admin.Drain, func(_ context.Context, in admin.DrainRequest) (admin.None, error) {
		draining.Store(in.On)
		drains.Add(1)
		return admin.None{}, nil
	})
	srv.HandleHTTP("/metrics", http.NotFoundHandler())
	l, err := admin.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	f := &Fleet{Nodes: []*Node{{Name: "relay1", Role: Relay, client: admin.NewUnixClient(path)}}, timeout: 10 * time.Second}
	defer func() { f.Close(); cancel(); <-done }()
	o := UpgradeOptions{
		Replace:  func(context.Context, UpgradeStep) error { t.Error("the program was replaced"); return nil },
		Say:      func(string, ...any) {},
		DrainFor: 5 * time.Minute, ProbeFor: 5 * time.Minute, SettleFor: 5 * time.Minute, MaxQueueAge: time.Minute, MaxErrors: 1,
	}
	err = f.upgradeNode(ctx, UpgradeStep{Node: "relay1", Role: Relay, State: "ready"}, o)
	if err == nil || !strings.Contains(err.Error(), "a message waits") {
		t.Errorf("the step: %v", err)
	}
	if draining.Load() || drains.Load() < 2 {
		t.Errorf("draining %v after %d requests", draining.Load(), drains.Load())
	}
}
