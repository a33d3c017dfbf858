package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/shared/admin"
)

// errBroken marks the error of a check that has failed: the drill goes on to
// its end, so that the report is whole.
var errBroken = errors.New("the cluster does not do what is expected")

// field is where a scenario acts: the target with the load on it.
type field struct {
	t    Target
	o    *Options
	pair string
	// other is the pair that users go to, "" where the scenario needs one pair only.
	other string
	hold  time.Duration
	load  *ledger.Load
	led   *ledger.Ledger
	user  *mailbox.Prober
	// crowd are sessions beside that of the user at work.
	crowd []*mailbox.Prober
	users []User // who get mail

	mu        sync.Mutex // guards the fields below
	res       *Result
	undo      []Action // faults that are there
	phase     string
	recovered time.Time // the last one taken back
	probes    int
	leaving   []User     // users who go to the other pair
	moves     []UserMove // what became of them
}

func (f *field) event(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.res.Events) < maxSamples {
		f.res.Events = append(f.res.Events, Event{time.Now(), fmt.Sprintf(format, args...)})
	}
}

// expect notes a check and returns errBroken when it fails.
func (f *field) expect(ok bool, name, format string, args ...any) error {
	detail := fmt.Sprintf(format, args...)
	f.mu.Lock()
	f.res.Checks = append(f.res.Checks, Check{name, ok, detail})
	f.mu.Unlock()
	if !ok {
		return fmt.Errorf("%w: %s: %s", errBroken, name, detail)
	}
	return nil
}

func (f *field) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// until asks cond again and again and reports whether it came true in time.
func (f *field) until(ctx context.Context, within time.Duration, cond func() bool) bool {
	for deadline := time.Now().Add(within); ; {
		if cond() {
			return true
		}
		if time.Now().After(deadline) || f.wait(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
}

// doWithin bounds one action, realWithin the time until a fault is seen.
const (
	doWithin   = 45 * time.Second
	realWithin = 5 * time.Second
)

// withinOf is the time of an action.
func withinOf(k Kind) time.Duration {
	if k == Upgrade || k == Rollback {
		return upgradeWithin
	}
	return doWithin
}

// act does one thing. A fault is undone at the end of the drill if the scenario
// does not do so, and is then seen to be there before act returns.
func (f *field) act(ctx context.Context, a Action) error {
	ctx, cancel := context.WithTimeout(ctx, withinOf(a.Kind))
	defer cancel()
	f.event("%s", a)
	now := time.Now()
	_, fault := inverse[a.Kind]
	if fault {
		f.mu.Lock()
		f.undo = append(f.undo, a)
		f.res.Faults = append(f.res.Faults, Window{a.String(), now, time.Time{}})
		f.mu.Unlock()
	}
	if err := f.do(ctx, a); err != nil {
		return fmt.Errorf("%s: %w", a, err)
	}
	if !fault {
		return nil
	}
	return f.real(ctx, a)
}

func (f *field) do(ctx context.Context, a Action) error {
	switch a.Kind {
	case Drain, Undrain:
		n, err := f.node(a.Node)
		if err != nil {
			return err
		}
		_, err = admin.Call(ctx, n.Admin, admin.Drain, admin.DrainRequest{On: a.Kind == Drain})
		return err
	}
	return f.t.Do(ctx, a)
}

func (f *field) node(name string) (*Node, error) {
	for _, n := range f.t.Nodes() {
		if n.Name == name {
			return &n, nil
		}
	}
	return nil, fmt.Errorf("no node %q", name)
}

// real asserts that a fault is there. One that cannot be seen makes the drill
// an error: it would have tested nothing.
func (f *field) real(ctx context.Context, a Action) error {
	var saw string
	var err error
	within := realWithin
	switch a.Kind {
	case ExpireCert:
		within = expireWithin
	case LimitMemory:
		within = killedWithin
	}
	f.until(ctx, within, func() bool {
		if saw, err = f.see(ctx, a); err != nil {
			return false
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("%s: the fault is not real: %w", a, err)
	}
	f.event("seen: %s", saw)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.res.Checks = append(f.res.Checks, Check{"fault is real: " + a.String(), true, saw})
	return nil
}

// see looks for a fault from the outside first, then by the target's means.
func (f *field) see(ctx context.Context, a Action) (string, error) {
	n, err := f.node(a.Node)
	var seen []string
	switch a.Kind {
	case ExpireCert:
		return f.seeExpired(ctx, a.Node)
	case SkewClock:
		return f.seeClock(ctx, a)
	case Kill, Stop, Pause, PowerCut, Drain:
		if err != nil {
			return "", err
		}
		c, cancel := context.WithTimeout(ctx, askWithin/2)
		defer cancel()
		s, err := admin.Call(c, n.Admin, admin.GetStatus, admin.None{})
		switch {
		case a.Kind == Drain && err != nil:
			return "", err
		case a.Kind == Drain && !strings.Contains(s.State, "draining"):
			return "", fmt.Errorf("%s says that it is %s", a.Node, s.State)
		case a.Kind == Drain:
			return a.Node + " says that it is draining", nil
		case err == nil:
			return "", fmt.Errorf("%s answers", a.Node)
		}
		seen = append(seen, a.Node+" does not answer")
	}
	saw, err := f.t.Real(ctx, a)
	if err != nil {
		return "", err
	}
	return strings.Join(append(seen, saw), "; "), nil
}

// back takes a fault back.
func (f *field) back(ctx context.Context, a Action) error {
	ctx, cancel := context.WithTimeout(ctx, withinOf(inverse[a.Kind]))
	defer cancel()
	u := Action{Kind: inverse[a.Kind], Node: a.Node}
	if u.Kind == Mend {
		u.Node = ""
	}
	f.event("%s", u)
	err := f.do(ctx, u)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.undo = slices.DeleteFunc(f.undo, func(o Action) bool {
		return inverse[o.Kind] == u.Kind && (u.Kind == Mend || o.Node == a.Node)
	})
	for i := range f.res.Faults {
		if w := &f.res.Faults[i]; w.To.IsZero() && (w.What == a.String() || a.Kind == SkewClock && strings.HasPrefix(w.What, a.String()) || u.Kind == Mend && strings.HasPrefix(w.What, string(Cut))) {
			w.To = now
		}
	}
	f.recovered = now
	if err != nil {
		return fmt.Errorf("%s: %w", u, err)
	}
	return nil
}

// backAll takes back what is left, the last fault first.
func (f *field) backAll(ctx context.Context) error {
	var errs []error
	for {
		f.mu.Lock()
		n := len(f.undo)
		var a Action
		if n > 0 {
			a = f.undo[n-1]
		}
		f.mu.Unlock()
		if n == 0 {
			return errors.Join(errs...)
		}
		if err := f.back(ctx, a); err != nil {
			errs = append(errs, err)
		}
	}
}

// serving is the node that serves now.
func (f *field) serving(ctx context.Context) (string, error) { return f.servingOf(ctx, f.pair) }

func (f *field) servingOf(ctx context.Context, pair string) (string, error) {
	var name string
	f.until(ctx, 5*time.Second, func() bool { name = ask(ctx, f.t, pair).serving(); return name != "" })
	if name == "" {
		return "", f.expect(false, "somebody serves", "no replica of %s serves", pair)
	}
	return name, nil
}

// follower is the data replica that does not serve.
func (f *field) follower(ctx context.Context) (serving, other string, err error) {
	if serving, err = f.serving(ctx); err != nil {
		return "", "", err
	}
	for _, n := range byRole(f.t, f.pair, RoleData) {
		if n != serving {
			return serving, n, nil
		}
	}
	return "", "", fmt.Errorf("%s has one data replica only", f.pair)
}

// moved waits until another node than was serves.
func (f *field) moved(ctx context.Context, was string, within time.Duration) (string, error) {
	return f.movedOf(ctx, f.pair, was, within)
}

func (f *field) movedOf(ctx context.Context, pair, was string, within time.Duration) (string, error) {
	var now string
	began := time.Now()
	ok := f.until(ctx, within, func() bool { now = ask(ctx, f.t, pair).serving(); return now != "" && now != was })
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if !ok {
		return "", f.expect(false, "the other replica serves", "%q serves after %v", now, within)
	}
	return now, f.expect(true, "the other replica serves", "%s, seen %v after", now, time.Since(began).Round(time.Millisecond))
}

// well reports whether every node of the pairs of the drill and every relay is
// ready and the data replicas stand close together.
func (f *field) well(ctx context.Context) (string, bool) {
	for _, n := range f.t.Nodes() {
		if n.Pair != "" && n.Pair != f.pair && n.Pair != f.other {
			continue
		}
		c, cancel := context.WithTimeout(ctx, askWithin)
		s, err := admin.Call(c, n.Admin, admin.GetStatus, admin.None{})
		cancel()
		if err != nil {
			return n.Name + " does not answer", false
		}
		if s.State != "ready" {
			return n.Name + ": " + s.State, false
		}
	}
	for _, pair := range []string{f.pair, f.other} {
		if pair == "" {
			continue
		}
		if why, ok := f.near(ctx, pair); !ok {
			return why, false
		}
	}
	return "", true
}

// near reports whether a pair is served and its replicas stand close together.
func (f *field) near(ctx context.Context, pair string) (string, bool) {
	g := ask(ctx, f.t, pair)
	if g.serving() == "" {
		return "no replica of " + pair + " serves", false
	}
	var applied []uint64
	for _, n := range byRole(f.t, pair, RoleData) {
		applied = append(applied, g.status[n].Applied)
	}
	const near = 1000
	if lo, hi := slices.Min(applied), slices.Max(applied); hi-lo > near {
		return fmt.Sprintf("a replica is %d entries behind", hi-lo), false
	}
	return "", true
}

// awaitWell waits until everything is well again.
func (f *field) awaitWell(ctx context.Context, within time.Duration) error {
	var why string
	began := time.Now()
	ok := f.until(ctx, within, func() (ok bool) { why, ok = f.well(ctx); return ok })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !ok {
		return f.expect(false, "everything is well again", "not within %v: %s", within, why)
	}
	f.event("everything is well, %v after it was asked for", time.Since(began).Round(time.Millisecond))
	return nil
}

// quiet asserts that the pair has acknowledged nothing between from and to: what
// was acknowledged waits in a relay's queue, which has it on its disk.
func (f *field) quiet(ctx context.Context, from, to time.Time) error {
	n := 0
	for _, e := range f.led.Entries() {
		if e.Outcome == ledger.Acknowledged && e.Sent.After(from) && e.Answered.Before(to) {
			n++
		}
	}
	waiting := 0
	for _, relay := range byRole(f.t, "", RoleRelay) {
		if k, err := queued(ctx, f.t, relay); err == nil {
			waiting += k
		}
	}
	return f.expect(n <= waiting, "nothing is acknowledged meanwhile but what relays keep", "%d messages acknowledged in %v, %d wait in queues", n, to.Sub(from).Round(time.Millisecond), waiting)
}

// flows counts the acknowledgements between from and to.
func (f *field) flows(from, to time.Time) (n int) {
	for _, at := range f.led.Acks() {
		if at.After(from) && at.Before(to) {
			n++
		}
	}
	return n
}
