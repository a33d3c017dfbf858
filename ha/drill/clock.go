package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// Skews of clockSkew. A replica and a relay an hour apart are a mistake of an
// operator; ten years are one of a machine whose battery is empty.
const (
	anHour   = time.Hour
	tenYears = 10 * 365 * 24 * time.Hour
)

// clockSkew has the nodes disagree about the time, then jump, then one of the
// relays live ten years ahead. That relay has mail in its queue all the time that
// must not be given up: it waits for DNS, which is away.
func clockSkew(ctx context.Context, f *field) error {
	serving, err := f.serving(ctx)
	if err != nil {
		return err
	}
	relay := byRole(f.t, "", RoleRelay)[0]
	out, broken := f.withoutDNS(ctx)
	if out == nil {
		return broken
	}
	from := time.Now()
	for _, by := range []time.Duration{anHour, -anHour} {
		for node, by := range map[string]time.Duration{serving: by, relay: -by} {
			if err := f.act(ctx, Action{Kind: SkewClock, Node: node, By: by}); err != nil {
				return err
			}
		}
		if err := f.wait(ctx, f.hold/3); err != nil {
			return err
		}
	}
	if err := f.handOver(ctx); err != nil {
		return err
	}
	n := f.flows(from, time.Now())
	broken = errors.Join(broken, f.expect(n > 0, "mail flows between nodes that disagree by two hours", "%d messages acknowledged", n))
	for _, node := range []string{serving, relay} {
		if err := f.back(ctx, Action{Kind: SkewClock, Node: node}); err != nil {
			return err
		}
	}
	far := Action{Kind: SkewClock, Node: relay, By: tenYears}
	if err := f.act(ctx, far); err != nil {
		return err
	}
	if err := f.wait(ctx, f.hold/3); err != nil {
		return err
	}
	if err := f.back(ctx, far); err != nil {
		return err
	}
	return errors.Join(broken, out.waits(), out.arrives(ctx), f.awaitWell(ctx, wellWithin), f.noBounce(),
		f.expect(true, "clocks have jumped", "%s and %s by an hour each way, %s by ten years", serving, relay, relay))
}

// clockSlack is what an answer takes, and more.
const clockSlack = 5 * time.Second

// seeClock asks the node for its time.
func (f *field) seeClock(ctx context.Context, a Action) (string, error) {
	n, err := f.node(a.Node)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	s, err := admin.Call(ctx, n.Admin, admin.GetStatus, admin.None{})
	if err != nil {
		return "", err
	}
	ahead := time.Until(s.Clock).Round(time.Second)
	if off := ahead - a.By; s.Clock.IsZero() || off < -clockSlack || off > clockSlack {
		return "", fmt.Errorf("%s is %v ahead, want %v", a.Node, ahead, a.By)
	}
	return fmt.Sprintf("%s is %v ahead", a.Node, ahead), nil
}
