package fleet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// UpgradeOptions say how an upgrade is run.
type UpgradeOptions struct {
	// Replace stops the program of a node, puts the other one in its place and
	// starts it.
	Replace func(ctx context.Context, step UpgradeStep) error
	Say     func(format string, args ...any)

	DrainFor  time.Duration // that sessions of a relay may take to end
	ProbeFor  time.Duration // until a replaced node is ready, caught up and answers
	SettleFor time.Duration // until the others are well before a node is taken out
	MaxLag    int64         // entries that a replica may be behind

	// One of them that is passed ends the upgrade at once, before its node is
	// replaced if that has not begun.
	MaxElections uint64        // of a pair
	MaxQueueAge  time.Duration // of the oldest message of a relay
	MaxErrors    float64       // part of the deliveries of relays, 0 to 1
}

// minDeliveries is how many deliveries a step must have seen before their
// errors say something.
const minDeliveries = 50

// deliveriesName is the relays' counter of deliveries by result.
const deliveriesName = "postern_deliveries_total"

// RunUpgrade does the steps of a plan one after the other. It ends with the first
// that fails; run again, it goes on there.
func (f *Fleet) RunUpgrade(ctx context.Context, p *UpgradePlan, o UpgradeOptions) error {
	if len(p.Blocks) > 0 {
		return errors.New(strings.Join(p.Blocks, "; "))
	}
	for len(p.Steps) > 0 {
		// Who serves has changed by the steps before.
		step := p.Steps[0]
		if s, err := f.Status(ctx); err == nil {
			at := slices.IndexFunc(p.Steps, func(t UpgradeStep) bool { return t.Role == step.Role && !s.serves(t.Node) })
			if at > 0 && step.State != StateUnreachable {
				step = p.Steps[at]
			}
			step.Serving = s.serves(step.Node)
		}
		p.Steps = slices.DeleteFunc(p.Steps, func(t UpgradeStep) bool { return t.Node == step.Node })
		if step.Done {
			o.Say("%s runs %s already", step.Node, step.To)
			continue
		}
		if err := f.upgradeNode(ctx, step, o); err != nil {
			return fmt.Errorf("%s: %w; the upgrade has ended here and goes on when it is run again", step.Node, err)
		}
	}
	return nil
}

// upgradeNode is one step.
func (f *Fleet) upgradeNode(ctx context.Context, step UpgradeStep, o UpgradeOptions) error {
	n, err := f.Find(step.Node)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := f.await(ctx, o.SettleFor, func(s *Status) error { return othersWell(s, step, o.MaxLag) }); err != nil {
		return fmt.Errorf("the others are not well: %w", err)
	}
	before, err := f.watched(ctx)
	if err != nil {
		return err
	}
	if err := f.swap(ctx, n, step, o, f.guard(before, o)); err != nil {
		f.undrain(ctx, n)
		return err
	}
	after, err := f.watched(ctx)
	if err != nil {
		return err
	}
	if err := before.judge(after, o); err != nil {
		return err
	}
	o.Say("%s: runs %s, %v", step.Node, step.To, time.Since(began).Round(100*time.Millisecond))
	return nil
}

// watchEvery is how often the limits are looked at during a step.
const watchEvery = time.Second

// passed is the error of a limit that is passed: waiting longer does not help.
type passed struct{ error }

func (p passed) Unwrap() error { return p.error }

// guard returns what each wait of a step asks besides: whether a limit has been
// passed since before. A look that fails says nothing, since a node may be away.
func (f *Fleet) guard(before *watch, o UpgradeOptions) func(ctx context.Context) error {
	last := time.Now()
	return func(ctx context.Context) error {
		if time.Since(last) < watchEvery {
			return nil
		}
		now, err := f.watched(ctx)
		last = time.Now()
		if err != nil {
			return nil
		}
		if err := before.judge(now, o); err != nil {
			return passed{err}
		}
		return nil
	}
}

// swap takes the node out, has its program replaced and waits until it is back.
// What replaces the program is not interrupted: half a program is worse than any
// limit.
func (f *Fleet) swap(ctx context.Context, n *Node, step UpgradeStep, o UpgradeOptions, guard func(context.Context) error) error {
	if step.State != StateUnreachable {
		if err := f.emptyNode(ctx, n, o, guard); err != nil {
			return err
		}
	}
	o.Say("%s: %s is replaced by %s", step.Node, dashed(step.From), step.To)
	if err := o.Replace(ctx, step); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	err := f.await(ctx, o.ProbeFor, func(s *Status) error {
		if err := guard(ctx); err != nil {
			return err
		}
		if err := nodeWell(s, step, o.MaxLag); err != nil {
			if strings.HasPrefix(err.Error(), "draining") {
				f.undrain(ctx, n) // it has come back as it went
			}
			return err
		}
		return f.probe(ctx, n)
	})
	if err != nil {
		return fmt.Errorf("after the replacement: %w", err)
	}
	return nil
}

// undrain lets a node take work again, if it is there to hear it: one whose turn
// has failed may run as before, and nobody else would end its draining.
func (f *Fleet) undrain(ctx context.Context, n *Node) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.timeout)
	defer cancel()
	_, _ = Call(ctx, n, admin.Drain, admin.DrainRequest{})
}

// emptyNode drains a node: a backend hands over, a relay finishes its sessions.
func (f *Fleet) emptyNode(ctx context.Context, n *Node, o UpgradeOptions, guard func(context.Context) error) error {
	o.Say("%s: drains", n.Name)
	hand, cancel := context.WithTimeout(ctx, o.SettleFor)
	defer cancel()
	if err := f.drainAll(hand, n, guard); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if n.Role != Relay {
		return nil
	}
	wait, done := context.WithTimeout(ctx, o.DrainFor)
	defer done()
	for {
		s, err := Call(wait, n, admin.GetStatus, admin.None{})
		if err == nil && s.Sessions == 0 {
			return nil
		}
		if err := guard(ctx); err != nil {
			return err
		}
		if !pause(wait, 10*askAgain) {
			if err == nil {
				o.Say("%s: %d sessions are left, which end now", n.Name, s.Sessions)
			}
			return ctx.Err()
		}
	}
}

// drainAll drains a node and waits until it serves no pair. A hand-over that is
// not possible now is asked for again: the other replica may just be back. The
// draining is ended in between, since release 0.1.0 hands over only at its begin.
func (f *Fleet) drainAll(ctx context.Context, n *Node, guard func(context.Context) error) error {
	for {
		_, err := Call(ctx, n, admin.Drain, admin.DrainRequest{On: true})
		if err == nil {
			break
		}
		if n.Role != Backend || !errors.Is(err, admin.ErrConflict) {
			return err
		}
		f.undrain(ctx, n)
		if err := guard(ctx); err != nil {
			return err
		}
		if !pause(ctx, 10*askAgain) {
			return err
		}
	}
	for n.Role == Backend {
		s, err := f.Status(ctx)
		if err == nil && !s.serves(n.Name) && !slices.ContainsFunc(s.Pairs, func(p PairState) bool { return p.Serving == "" }) {
			return nil
		}
		if err := guard(ctx); err != nil {
			return err
		}
		if !pause(ctx, askAgain) {
			return errors.New("the hand-over is not done in time")
		}
	}
	return nil
}

// othersWell says why a node cannot be taken out now.
func othersWell(s *Status, step UpgradeStep, maxLag int64) error {
	pairs := strings.Split(step.Pair, ",")
	for _, p := range s.Pairs {
		if step.Role == Relay || !slices.Contains(pairs, p.Name) {
			continue
		}
		if p.Serving == "" {
			return fmt.Errorf("pair %s is not served", p.Name)
		}
		for _, r := range p.Nodes {
			if r.Name != step.Node && (r.Lag < 0 || r.Lag > maxLag) {
				return fmt.Errorf("pair %s: %s is %s, %d entries behind", p.Name, r.Name, r.State, r.Lag)
			}
		}
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		mine := n.Role == step.Role && n.Role == Relay || n.Pair != "" && slices.ContainsFunc(strings.Split(n.Pair, ","), func(p string) bool { return slices.Contains(pairs, p) })
		if n.Name != step.Node && mine && n.State != "ready" {
			return fmt.Errorf("%s is %s", n.Name, n.State)
		}
	}
	return nil
}

// nodeWell says why a replaced node cannot be counted on yet.
func nodeWell(s *Status, step UpgradeStep, maxLag int64) error {
	i := slices.IndexFunc(s.Nodes, func(n NodeState) bool { return n.Name == step.Node })
	if i < 0 {
		return errors.New("it is not seen")
	}
	switch n := &s.Nodes[i]; {
	case n.State == StateUnreachable:
		return errors.New(n.Error)
	case n.Version != step.To:
		return fmt.Errorf("it runs %s, not %s", n.Version, step.To)
	case n.State != "ready":
		return errors.New(n.State)
	}
	for _, p := range s.Pairs {
		for _, r := range p.Nodes {
			if r.Name == step.Node && (p.Serving == "" || r.Lag < 0 || r.Lag > maxLag) {
				return fmt.Errorf("pair %s: %d entries behind", p.Name, r.Lag)
			}
		}
	}
	return nil
}

// await asks for the status until it is as well says, the time is over or a limit
// is passed.
func (f *Fleet) await(ctx context.Context, within time.Duration, well func(*Status) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		s, err := f.Status(ctx)
		if err == nil {
			if err = well(s); err == nil || errors.As(err, new(passed)) {
				return err
			}
		}
		if !pause(ctx, 2*askAgain) {
			return err
		}
	}
}

// greetings are how the services of a node begin; one that speaks TLS first is
// only connected to.
var greetings = map[string]string{"smtp": "220", "imap": "* OK", "pop3": "+OK"}

// probe speaks to the services of a node, at the addresses that it says by
// gossip; a node without gossip has answered the admin API only. Replicas are for
// relays: where the firewalls let operators reach relays only, as the ports matrix
// has it, what a replica says of itself has to do.
func (f *Fleet) probe(ctx context.Context, n *Node) error {
	c, err := Call(ctx, n, admin.GetCluster, admin.None{})
	if err != nil {
		return err
	}
	for _, m := range c.Nodes {
		if m.Name != n.Name {
			continue
		}
		for service, addr := range m.Services {
			service, _, _ = strings.Cut(service, "/")
			if want, ok := greetings[service]; ok || service == "lmtp" {
				if m.Role != Relay {
					want = "" // these ask for a relay's certificate
				}
				err := greet(ctx, f.dial, addr, want)
				if m.Role != Relay && shut(err) {
					return nil
				}
				if err != nil {
					return fmt.Errorf("%s: %w", service, err)
				}
			}
		}
	}
	return nil
}

// shut reports whether a firewall keeps us from a port. A reset is another thing:
// there is nobody.
func shut(err error) bool {
	for _, e := range []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM, os.ErrDeadlineExceeded, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// greet speaks to a service; dial is nil from here.
func greet(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), addr, want string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if want == "" {
		return nil
	}
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	r := bufio.NewReaderSize(c, 4096)
	line, err := r.ReadSlice('\n')
	if err == nil && !strings.HasPrefix(string(line), want) {
		err = fmt.Errorf("%s answers %.80q", addr, line)
	}
	if err != nil || want != "220" {
		return err
	}
	if _, err := c.Write([]byte("EHLO upgrade.invalid\r\n")); err != nil {
		return err
	}
	if line, err = r.ReadSlice('\n'); err == nil && !strings.HasPrefix(string(line), "250") {
		err = fmt.Errorf("%s answers EHLO with %.80q", addr, line)
	}
	_, _ = c.Write([]byte("QUIT\r\n"))
	return err
}

// watch is what the limits of an upgrade are about.
type watch struct {
	terms      map[string]uint64 // by pair
	oldest     time.Time         // message in a queue
	deliveries map[string][2]float64
}

// watched looks at all nodes.
func (f *Fleet) watched(ctx context.Context) (*watch, error) {
	s, err := f.Status(ctx)
	if err != nil {
		return nil, err
	}
	w := &watch{terms: map[string]uint64{}, deliveries: map[string][2]float64{}}
	for _, p := range s.Pairs {
		w.terms[p.Name] = p.Term
	}
	for _, q := range s.Queues {
		if !q.Oldest.IsZero() && (w.oldest.IsZero() || q.Oldest.Before(w.oldest)) {
			w.oldest = q.Oldest
		}
	}
	for _, r := range All(ctx, f, f.Role(Relay), func(ctx context.Context, n *Node) ([]byte, error) {
		return admin.Page(ctx, n.client, "/metrics")
	}) {
		if r.Err == nil {
			w.deliveries[r.Node.Name] = deliveriesOf(r.Value)
		}
	}
	return w, nil
}

// deliveriesOf counts all deliveries on a relay's page of metrics, and those of
// them that were put off.
func deliveriesOf(page []byte) (n [2]float64) {
	for line := range bytes.Lines(page) {
		name, value, ok := strings.Cut(strings.TrimSpace(string(line)), "} ")
		v, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || !strings.HasPrefix(name, deliveriesName+"{") || math.IsNaN(v) {
			continue
		}
		n[0] += v
		if strings.Contains(name, `="deferred"`) {
			n[1] += v
		}
	}
	return n
}

// judge says which limit was passed between two looks.
func (w *watch) judge(now *watch, o UpgradeOptions) error {
	for pair, term := range now.terms {
		if before, ok := w.terms[pair]; ok && term-before > o.MaxElections && term > before {
			return fmt.Errorf("pair %s has had %d elections, over %d", pair, term-before, o.MaxElections)
		}
	}
	if !now.oldest.IsZero() && time.Since(now.oldest) > o.MaxQueueAge {
		return fmt.Errorf("a message waits since %v, over %v", time.Since(now.oldest).Round(time.Second), o.MaxQueueAge)
	}
	var all, errs float64
	for relay, n := range now.deliveries {
		before := w.deliveries[relay]
		if before[0] > n[0] { // it was replaced meanwhile
			before = [2]float64{}
		}
		all, errs = all+n[0]-before[0], errs+n[1]-before[1]
	}
	if all >= minDeliveries && errs/all > o.MaxErrors {
		return fmt.Errorf("%.0f of %.0f deliveries were put off, over %.0f %%", errs, all, 100*o.MaxErrors)
	}
	return nil
}

// pause waits and reports whether there is time left.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func dashed(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
