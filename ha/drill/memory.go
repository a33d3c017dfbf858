package drill

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// killedWithin is the time of a node under load to want more memory than it has.
const killedWithin = 60 * time.Second

// oomKill leaves the serving replica no memory to grow.
func oomKill(ctx context.Context, f *field) error {
	was, err := f.serving(ctx)
	if err != nil {
		return err
	}
	a := Action{Kind: LimitMemory, Node: was}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	_, broken := f.moved(ctx, was, 15*time.Second)
	from := time.Now()
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	broken = errors.Join(broken, f.expect(n > 0, "service goes on", "%d messages acknowledged meanwhile", n))
	return errors.Join(broken, f.back(ctx, a), f.awaitWell(ctx, wellWithin), f.noBounce())
}

// oomKillRelay leaves a relay no memory to grow. The messages that it had in hand
// each time must not be held for it.
func oomKillRelay(ctx context.Context, f *field) error {
	relay := byRole(f.t, "", RoleRelay)[0]
	a := Action{Kind: LimitMemory, Node: relay}
	if err := f.act(ctx, a); err != nil {
		return err
	}
	if err := f.wait(ctx, f.hold); err != nil {
		return err
	}
	broken := errors.Join(f.back(ctx, a), f.awaitWell(ctx, wellWithin), f.noBounce())
	if broken != nil && !errors.Is(broken, errBroken) {
		return broken
	}
	n, err := f.node(relay)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	if err != nil || s.Queue == nil {
		return errors.Join(broken, err)
	}
	return errors.Join(broken, f.expect(s.Queue.Held == 0, "no message is held for it", "%d are", s.Queue.Held))
}
