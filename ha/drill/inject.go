package drill

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// wellWithin is the time of nodes that come back to be ready and caught up.
const wellWithin = 45 * time.Second

// settle is the time after a fault in which an answer that was under way still
// arrives.
const settle = time.Second

// killServing ends the serving replica by k.
func killServing(k Kind) func(context.Context, *field) error {
	return func(ctx context.Context, f *field) error {
		was, err := f.serving(ctx)
		if err != nil {
			return err
		}
		if err := f.act(ctx, Action{Kind: k, Node: was}); err != nil {
			return err
		}
		_, broken := f.moved(ctx, was, 15*time.Second)
		if err := f.wait(ctx, f.hold); err != nil {
			return err
		}
		return errors.Join(broken, f.back(ctx, Action{Kind: k, Node: was}), f.awaitWell(ctx, wellWithin))
	}
}

// loseOther takes a node away that does not serve; who serves stays.
func loseOther(k Kind, role string) func(context.Context, *field) error {
	return func(ctx context.Context, f *field) error {
		was, node, err := f.follower(ctx)
		if err != nil {
			return err
		}
		if role == RoleWitness {
			node = byRole(f.t, f.pair, RoleWitness)[0]
		}
		a := Action{Kind: k, Node: node}
		if k == Cut {
			a.Peers = f.others(node)
		}
		if err := f.act(ctx, a); err != nil {
			return err
		}
		if err := f.wait(ctx, f.hold); err != nil {
			return err
		}
		now, err := f.serving(ctx)
		if err == nil {
			err = f.expect(now == was, "the same replica serves", "%s before, %s after", was, now)
		}
		return errors.Join(err, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
	}
}

// others are all nodes but one.
func (f *field) others(name string) (names []string) {
	for _, n := range f.t.Nodes() {
		if n.Name != name {
			names = append(names, n.Name)
		}
	}
	return names
}

// loseRelay takes a relay away.
func loseRelay(k Kind) func(context.Context, *field) error {
	return func(ctx context.Context, f *field) error {
		a := Action{Kind: k, Node: byRole(f.t, "", RoleRelay)[0]}
		if err := f.act(ctx, a); err != nil {
			return err
		}
		if err := f.wait(ctx, f.hold); err != nil {
			return err
		}
		return errors.Join(f.back(ctx, a), f.awaitWell(ctx, wellWithin))
	}
}

// all does the same to several nodes at once.
func (f *field) all(nodes []string, do func(node string) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// loseAll takes every node of the pair away at once.
func loseAll(k Kind) func(context.Context, *field) error {
	return func(ctx context.Context, f *field) error {
		nodes := byRole(f.t, f.pair, RoleData, RoleWitness)
		if err := f.all(nodes, func(n string) error { return f.act(ctx, Action{Kind: k, Node: n}) }); err != nil {
			return err
		}
		from := time.Now()
		if err := f.wait(ctx, f.hold); err != nil {
			return err
		}
		broken := f.quiet(ctx, from, time.Now())
		err := f.all(nodes, func(n string) error { return f.back(ctx, Action{Kind: k, Node: n}) })
		return errors.Join(broken, err, f.awaitWell(ctx, wellWithin))
	}
}

func killMajority(ctx context.Context, f *field) error {
	_, follower, err := f.follower(ctx)
	if err != nil {
		return err
	}
	nodes := []string{byRole(f.t, f.pair, RoleWitness)[0], follower}
	for _, n := range nodes {
		if err := f.act(ctx, Action{Kind: Kill, Node: n}); err != nil {
			return err
		}
	}
	if err := f.wait(ctx, settle); err != nil {
		return err
	}
	from := time.Now()
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	broken := f.quiet(ctx, from, time.Now())
	err = f.all(nodes, func(n string) error { return f.back(ctx, Action{Kind: Kill, Node: n}) })
	return errors.Join(broken, err, f.awaitWell(ctx, wellWithin))
}

// transfer hands over and back. The hand-over itself is its proof.
func transfer(ctx context.Context, f *field) error {
	for range 2 {
		if err := f.handOver(ctx); err != nil {
			return err
		}
		if err := f.wait(ctx, f.hold/2); err != nil {
			return err
		}
	}
	return f.awaitWell(ctx, wellWithin)
}

func (f *field) handOver(ctx context.Context) error { return f.handOverOf(ctx, f.pair) }

func (f *field) handOverOf(ctx context.Context, pair string) error {
	was, err := f.servingOf(ctx, pair)
	if err != nil {
		return err
	}
	from := time.Now()
	const attempts = 5
	for n := 1; ; n++ {
		f.event("%s is asked to hand over", was)
		err := f.askTransfer(ctx, pair, was)
		if err == nil {
			break
		}
		f.event("it does not: %v", err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if now := ask(ctx, f.t, pair).serving(); now != "" && now != was {
			break // it did, and answered before it knew
		}
		// A pair may refuse for the moment, and serve on.
		if !errors.Is(err, admin.ErrConflict) || n == attempts {
			return f.expect(false, "the pair hands over", "asked %d times: %v", n, err)
		}
		if err := f.wait(ctx, settle); err != nil {
			return err
		}
	}
	_, err = f.movedOf(ctx, pair, was, 10*time.Second)
	f.mu.Lock()
	f.res.Faults = append(f.res.Faults, Window{"transfer from " + was, from, time.Now()})
	f.mu.Unlock()
	return err
}

func (f *field) askTransfer(ctx context.Context, pair, serving string) error {
	n, err := f.node(serving)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = admin.Call(ctx, n.Admin, admin.PairTransfer, admin.TransferRequest{Pair: pair})
	return err
}

func pauseServing(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: Pause, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	_, broken := f.moved(ctx, was, 15*time.Second)
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	term := f.term(ctx, was)
	if err := f.back(ctx, a); err != nil {
		return err
	}
	return errors.Join(broken, f.stepsDown(ctx, was, term), f.awaitWell(ctx, wellWithin))
}

// The serving replica of slow-serving is frozen and let go in turn.
const (
	frozen = 180 * time.Millisecond
	awake  = 60 * time.Millisecond
)

// slowServing gives the serving replica a quarter of its time, as a machine or
// a disk does that is about to fail: alive, and far too slow.
func slowServing(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: Pause, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	from := time.Now()
	for time.Since(from) < f.hold {
		if err := f.t.Do(ctx, Action{Kind: Resume, Node: was}); err != nil {
			return err
		}
		if err := f.wait(ctx, awake); err != nil {
			return err
		}
		if err := f.t.Do(ctx, a); err != nil {
			return err
		}
		if err := f.wait(ctx, frozen); err != nil {
			return err
		}
	}
	n := f.flows(from, time.Now())
	broken := f.expect(n > 0, "service goes on", "%d messages acknowledged meanwhile; %q serves", n, ask(ctx, f.t, f.pair).serving())
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

// term is the newest term of the pair that a node other than name knows.
func (f *field) term(ctx context.Context, name string) (term uint64) {
	for n, s := range ask(ctx, f.t, f.pair).status {
		if n != name {
			term = max(term, s.Term)
		}
	}
	return term
}

// stepsDown asserts that a node soon does not claim any more to serve in a term
// before the given one.
func (f *field) stepsDown(ctx context.Context, node string, term uint64) error {
	const within = 5 * time.Second
	began := time.Now()
	var claims bool
	ok := f.until(ctx, within, func() bool {
		s, answers := ask(ctx, f.t, f.pair).status[node]
		claims = s.Serving && s.Term < term
		return answers && !claims
	})
	if !ok && !claims {
		return f.expect(false, node+" steps down", "it gives no answer within %v", within)
	}
	return f.expect(ok, node+" steps down", "it stopped claiming to serve within %v", time.Since(began).Round(time.Millisecond))
}

// partitionServing cuts the serving replica off. It cannot hear that the other
// one serves, and has to stop by itself.
func partitionServing(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: Cut, Node: was, Peers: f.others(was)}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	_, broken := f.moved(ctx, was, 15*time.Second)
	if broken == nil {
		broken = f.stepsDown(ctx, was, f.term(ctx, was))
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

func oneWay(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	peers := slices.DeleteFunc(byRole(f.t, f.pair, RoleData, RoleWitness), func(n string) bool { return n == was })
	a := Action{Kind: CutOneWay, Node: was, Peers: peers}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	end := time.Now()
	n := f.flows(end.Add(-f.hold/2), end)
	broken := f.expect(n > 0, "service goes on", "%d acknowledgements in the second half of the cut", n)
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin))
}

func dmzCut(ctx context.Context, f *field) error {
	replicas := byRole(f.t, f.pair, RoleData)
	relays := byRole(f.t, "", RoleRelay)
	for _, r := range relays {
		if err := f.act(ctx, Action{Kind: Cut, Node: r, Peers: replicas}); err != nil {
			return err
		}
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	return errors.Join(f.back(ctx, Action{Kind: Cut, Node: relays[0], Peers: replicas}), f.awaitWell(ctx, wellWithin), f.noBounce())
}

func awayAndBack(ctx context.Context, f *field) error {
	a, err := f.serving(ctx)
	if err != nil {
		return err
	}
	if err := f.act(ctx, Action{Kind: Kill, Node: a}); err != nil {
		return err
	}
	b, err := f.moved(ctx, a, 15*time.Second)
	if err != nil {
		return err
	}
	from := time.Now()
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	if err := f.expect(n > 0, "B and the witness go on", "%d messages acknowledged while %s is away", n, a); err != nil {
		return err
	}
	if err := f.act(ctx, Action{Kind: Kill, Node: b}); err != nil {
		return err
	}
	if err := f.back(ctx, Action{Kind: Kill, Node: a}); err != nil {
		return err
	}
	now, broken := f.moved(ctx, b, 20*time.Second)
	if broken == nil {
		broken = f.expect(now == a, "A serves again", "%s serves", now)
	}
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	return errors.Join(broken, f.back(ctx, Action{Kind: Kill, Node: b}), f.awaitWell(ctx, wellWithin))
}

func rollingRestart(ctx context.Context, f *field) error {
	serving, follower, err := f.follower(ctx)
	if err != nil {
		return err
	}
	order := append(byRole(f.t, f.pair, RoleWitness), follower, serving)
	order = append(order, byRole(f.t, "", RoleRelay)...)
	for _, n := range order {
		if n == serving {
			if err := f.handOver(ctx); err != nil {
				return err
			}
		}
		a := Action{Kind: Stop, Node: n}
		if err := f.act(ctx, a); err != nil {
			return err
		}
		if err := errors.Join(f.back(ctx, a), f.awaitWell(ctx, wellWithin)); err != nil {
			return err
		}
	}
	return nil
}

func relayDrain(ctx context.Context, f *field) error {
	relay := byRole(f.t, "", RoleRelay)[0]
	drain, stop := Action{Kind: Drain, Node: relay}, Action{Kind: Stop, Node: relay}
	if err := f.act(ctx, drain); err != nil {
		return err
	}
	if err := f.wait(ctx, max(f.hold/2, settle)); err != nil {
		return err
	}
	from := time.Now()
	if err := f.wait(ctx, f.hold/2); err != nil {
		return err
	}
	taken := 0
	for _, e := range f.led.Entries() {
		if e.Via == relay && e.Sent.After(from) && e.Reply != "" && e.Reply[0] == '2' {
			taken++
		}
	}
	broken := f.expect(taken == 0, "a draining relay takes no new mail", "%s took %d messages", relay, taken)
	var left int
	ok := f.until(ctx, 30*time.Second, func() bool { n, err := ours(ctx, f.t, relay); left = n; return err == nil && n == 0 })
	broken = errors.Join(broken, f.expect(ok, "its queue empties", "%d messages are left", left))
	if err := f.act(ctx, stop); err != nil {
		return err
	}
	return errors.Join(broken, f.back(ctx, stop), f.forget(drain), f.awaitWell(ctx, wellWithin))
}

// forget notes that a restart has ended a fault.
func (f *field) forget(a Action) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.undo = slices.DeleteFunc(f.undo, func(o Action) bool { return o.Kind == a.Kind && o.Node == a.Node })
	for i := range f.res.Faults {
		if w := &f.res.Faults[i]; w.What == a.String() && w.To.IsZero() {
			w.To = time.Now()
		}
	}
	return nil
}
