package drill

import (
	"context"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScenarios holds the table to what a report and a person need of it.
func TestScenarios(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := map[string]bool{}
	for _, s := range Scenarios() {
		if !name.MatchString(s.Name) || seen[s.Name] || s.Name == "all" {
			t.Errorf("name %q", s.Name)
		}
		seen[s.Name] = true
		if s.Summary == "" || s.Expect == "" || strings.HasSuffix(s.Summary, ".") {
			t.Errorf("%s: summary %q, expected %q", s.Name, s.Summary, s.Expect)
		}
		if s.SMTP <= 0 || s.IMAP <= 0 {
			t.Errorf("%s: no limit", s.Name)
		}
		if s.run == nil {
			t.Errorf("%s: no code", s.Name)
		}
		for _, k := range s.Needs {
			if back, fault := inverse[k]; fault && !slices.Contains(s.Needs, back) {
				t.Errorf("%s needs %s and not %s", s.Name, k, back)
			}
			if !slices.Contains(Kinds(), k) {
				t.Errorf("%s needs %s, which is no kind", s.Name, k)
			}
		}
		if got, err := Find(s.Name); err != nil || got != s {
			t.Errorf("Find(%s): %v, %v", s.Name, got, err)
		}
	}
	for _, want := range []string{
		"kill-serving", "kill-follower", "kill-witness", "kill-relay", "kill-all", "kill-majority", "stop-serving", "transfer", "pause-serving",
		"pause-follower", "slow-serving", "partition-serving", "partition-follower", "one-way-cut", "dmz-cut", "away-and-back", "rolling-restart",
		"relay-drain", "directory-outage", "disk-full", "random", "slow-disk", "read-only-disk", "failed-fsync", "power-cut", "power-cut-relay",
		"power-cut-pair", "dns-outage", "gossip-dead", "clock-skew", "cert-rotation", "cert-expiry", "rolling-upgrade", "herd", "half-open",
		"hung-disk", "oom-kill", "oom-kill-relay", "user-move",
	} {
		if !seen[want] {
			t.Errorf("no scenario %s", want)
		}
	}
}

// TestPlan: the same seed gives the same soak, another one another.
func TestPlan(t *testing.T) {
	nodes := []Node{{Name: "relay1"}, {Name: "pair1-a", Pair: "pair1"}, {Name: "pair1-b", Pair: "pair1"}}
	kinds := []Kind{Kill, Stop, Pause, Cut, Transfer, SlowDisk, GossipOff}
	a, b, c := plan(7, nodes, kinds, time.Minute), plan(7, nodes, kinds, time.Minute), plan(8, nodes, kinds, time.Minute)
	if !reflect.DeepEqual(a, b) {
		t.Error("one seed, two plans")
	}
	if reflect.DeepEqual(a, c) {
		t.Error("two seeds, one plan")
	}
	long := time.Duration(0)
	seen := map[Kind]bool{}
	for _, m := range a {
		long += m.pause + m.hold
		seen[m.action.Kind] = true
		if k := m.action.Kind; k == SlowDisk && m.action.Node == "relay1" || k == GossipOff && m.action.Node != "" {
			t.Errorf("%s", m.action)
		}
		if m.action.Kind == Cut && (len(m.action.Peers) != 2 || slices.Contains(m.action.Peers, m.action.Node)) {
			t.Errorf("cut %+v", m.action)
		}
	}
	if long < time.Minute || len(seen) < 3 {
		t.Errorf("a plan of %v with %v", long, seen)
	}
}

func TestFill(t *testing.T) {
	var o Options
	if err := o.Fill(); err != nil || o.For != 20*time.Second || o.Senders != 8 || o.Rate != 100 || o.Size != 4096 || o.Hold != 8*time.Second {
		t.Errorf("%+v, %v", o, err)
	}
	for want, o := range map[string]Options{
		"a load of 1s: want 5s to 24h0m0s":                                              {For: time.Second},
		"a fault of 9s: want at most four fifths of the load, 8s":                       {For: 10 * time.Second, Hold: 9 * time.Second},
		"-1 senders: want 1 to 1000":                                                    {Senders: -1},
		"50000 sessions: want 1 to 20000":                                               {Sessions: 50000},
		"10001 users: want at most 10000":                                               {Users: 10001},
		"-5 messages per second: want 1 to 100000":                                      {Rate: -5},
		"limits times 0.5: want 1 to 100":                                               {Slack: 0.5},
		"100 messages per second for 10h0m0s are more than the record of 2000000 holds": {For: 10 * time.Hour},
		"messages of 99999999 octets: want 1 to 10485760":                               {Size: 99999999},
	} {
		if err := o.Fill(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// killOne is a scenario that is over quickly.
func killOne(limit time.Duration) *Scenario {
	return &Scenario{Name: "test", Summary: "s", Needs: []Kind{Kill, Start}, SMTP: limit, IMAP: 5 * time.Second, run: func(ctx context.Context, f *field) error {
		a := Action{Kind: Kill, Node: "pair1-a"}
		if err := f.act(ctx, a); err != nil {
			return err
		}
		if _, err := f.moved(ctx, "pair1-a", time.Second); err != nil {
			return err
		}
		return f.back(ctx, a)
	}}
}

// TestVerdicts runs a drill on clusters that are well or do wrong. Only what is
// whole, judged and real may pass.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(f *fakeTarget, o *Options, s *Scenario)
		want    Verdict
		reason  string // begins with
		finding string
	}{
		{"all is well", nil, Passed, "", ""},
		{"a message is lost", func(f *fakeTarget, _ *Options, _ *Scenario) { f.losing = true }, Failed, "every acknowledged message is there: 1 of ", "missing"},
		{"a message is doubled", func(f *fakeTarget, _ *Options, _ *Scenario) { f.doubles = true }, Failed, "no message is there twice: 1 are", "doubled"},
		{"a refused message is kept", func(f *fakeTarget, _ *Options, _ *Scenario) { f.keeping = true }, Failed, "no refused message is there: 1 are", "accepted"},
		{"an answer comes late", func(f *fakeTarget, _ *Options, s *Scenario) {
			f.sluggy = 700 * time.Millisecond
			s.SMTP = 300 * time.Millisecond
		}, Failed, "deliveries are answered in time: longest gap", ""},
		{"the queue does not empty", func(f *fakeTarget, o *Options, _ *Scenario) { f.stuck = true; o.patience = time.Second }, Failed, "queues are empty: not after 1s: 1 left on relay1", ""},
		{"replicas differ", func(f *fakeTarget, o *Options, _ *Scenario) { f.differ = true; o.patience = time.Second }, Failed, "replicas of pair1 are equal: at entry 5 pair1-a has pair1-a, pair1-b has pair1-b", ""},
		{"the fault is not there", func(f *fakeTarget, _ *Options, _ *Scenario) { f.unreal = true }, Errored, "kill pair1-a: the fault is not real: ", ""},
		{"no load", func(f *fakeTarget, _ *Options, _ *Scenario) { f.nothing = true }, Errored, "no steady load before the fault: 0 acknowledged", ""},
		{"negative control", func(_ *fakeTarget, o *Options, _ *Scenario) { o.NegativeControl = true }, Failed, "every acknowledged message is there: 1 of ", "missing"},
		{"not possible", func(_ *fakeTarget, _ *Options, s *Scenario) { s.Needs = []Kind{Cut} }, Errored, "no cuts here", ""},
		{"too few relays", func(_ *fakeTarget, _ *Options, s *Scenario) { s.Relays = 2 }, Errored, "1 relays are too few", ""},
		{"too few pairs", func(_ *fakeTarget, _ *Options, s *Scenario) { s.Pairs = 2 }, Errored, "1 pairs are too few: it needs 2", ""},
		{"too few users", func(_ *fakeTarget, o *Options, _ *Scenario) { o.Users = 4 }, Errored, "3 users of pair1 are known, 4 are wanted", ""},
		{"no such pair", func(_ *fakeTarget, o *Options, _ *Scenario) { o.Pair = "pair9" }, Errored, `no pair "pair9"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeTarget(t)
			o := Options{For: MinFor, Senders: 1, Rate: 50, Size: 600, Sessions: 3}
			s := killOne(5 * time.Second)
			if c.change != nil {
				c.change(f, &o, s)
			}
			t.Parallel()
			r := Run(t.Context(), f, s, o)
			if r.Verdict != c.want || !strings.HasPrefix(r.Reason, c.reason) {
				t.Fatalf("%s: %s, want %s: %s\nchecks %+v", r.Verdict, r.Reason, c.want, c.reason, r.Checks)
			}
			if (c.finding == "") != (len(r.Findings) == 0) || c.finding != "" && string(r.Findings[0].Kind) != c.finding {
				t.Errorf("findings %+v, want %q", r.Findings, c.finding)
			}
			if o.NegativeControl && (r.Control == nil || !r.Control.Noticed || r.Control.ID != r.Findings[0].ID) {
				t.Errorf("control %+v", r.Control)
			}
			kills, starts := 0, 0
			for _, k := range f.kinds() {
				switch k {
				case Kill:
					kills++
				case Start:
					starts++
				}
			}
			if kills != starts {
				t.Errorf("%d faults, %d taken back", kills, starts)
			}
			if c.want == Passed {
				checkWhole(t, r)
			}
		})
	}
}

// checkWhole looks for everything that a report shows.
func checkWhole(t *testing.T, r *Result) {
	t.Helper()
	sum := func(row []int) (n int) {
		for _, v := range row {
			n += v
		}
		return n
	}
	c := r.Counts
	if c.Sent == 0 || c.Sent != c.Acknowledged || c.Found != c.Sent || c.IMAP == 0 {
		t.Errorf("counts %+v", c)
	}
	if sum(r.Series.Sent) != c.Sent || sum(r.Series.Acked) < c.Acknowledged-1 || sum(r.Series.IMAP) < c.IMAP-1 {
		t.Errorf("series %d %d %d of %+v", sum(r.Series.Sent), sum(r.Series.Acked), sum(r.Series.IMAP), c)
	}
	if len(r.Faults) != 1 || !r.Faults[0].To.After(r.Faults[0].From) {
		t.Errorf("faults %+v", r.Faults)
	}
	if len(r.Serving) < 2 || r.Serving[0].Node != "pair1-a" || r.Serving[len(r.Serving)-1].Node != "pair1-b" {
		t.Errorf("serving %+v", r.Serving)
	}
	if r.SMTP.Limit != 5000 || r.SMTP.Millis <= 0 || r.IMAP.Millis <= 0 {
		t.Errorf("gaps %+v %+v", r.SMTP, r.IMAP)
	}
	if len(r.Events) == 0 || len(r.Queues) == 0 {
		t.Errorf("%d events, %d queue sizes", len(r.Events), len(r.Queues))
	}
}

// TestInterrupted: when the context ends in the middle, the fault is taken back
// and nothing passes.
func TestInterrupted(t *testing.T) {
	f := newFakeTarget(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := killOne(5 * time.Second)
	s.run = func(ctx context.Context, f *field) error {
		if err := f.act(ctx, Action{Kind: Kill, Node: "pair1-b"}); err != nil {
			return err
		}
		cancel()
		return f.wait(ctx, time.Minute)
	}
	r := Run(ctx, f, s, Options{For: MinFor, Senders: 1, Rate: 50, Size: 600})
	if r.Verdict != Errored {
		t.Errorf("%s: %s", r.Verdict, r.Reason)
	}
	if got := f.kinds(); !slices.Equal(got, []Kind{Kill, Start}) {
		t.Errorf("done %v", got)
	}
}

func TestReportVerdict(t *testing.T) {
	for _, c := range []struct {
		verdicts []Verdict
		want     Verdict
	}{
		{nil, Errored},
		{[]Verdict{Skipped}, Errored},
		{[]Verdict{Passed, Skipped}, Passed},
		{[]Verdict{Passed, Errored}, Errored},
		{[]Verdict{Errored, Failed, Passed}, Failed},
	} {
		var r Report
		for _, v := range c.verdicts {
			r.Results = append(r.Results, &Result{Verdict: v})
		}
		if got := r.Verdict(); got != c.want {
			t.Errorf("%v: %s, want %s", c.verdicts, got, c.want)
		}
	}
}
