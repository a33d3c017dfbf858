package drill

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/admin"
)

// upgradeWithin bounds the change of one tier.
const upgradeWithin = 5 * time.Minute

// versions are those that the nodes of the pair and the relays say they run.
func (f *field) versions(ctx context.Context) (list []string) {
	for _, n := range f.t.Nodes() {
		if n.Pair != "" && n.Pair != f.pair {
			continue
		}
		c, cancel := context.WithTimeout(ctx, askWithin)
		s, err := admin.Call(c, n.Admin, admin.GetStatus, admin.None{})
		cancel()
		if err == nil && !slices.Contains(list, s.Version) {
			list = append(list, s.Version)
		}
	}
	slices.Sort(list)
	return list
}

// rollingUpgrade takes one tier after the other to the other release, lets mail
// flow between two releases, and goes back in the other order.
func rollingUpgrade(ctx context.Context, f *field) error {
	tiers := []string{RoleWitness, RoleData, RoleRelay}
	var broken error
	for i, tier := range tiers {
		if err := f.act(ctx, Action{Kind: Upgrade, Node: tier}); err != nil {
			return errors.Join(broken, err)
		}
		if v := f.versions(ctx); i < len(tiers)-1 {
			broken = errors.Join(broken, f.expect(len(v) == 2, "two releases run side by side", "after the tier %s: %s", tier, strings.Join(v, ", ")))
		}
		if err := f.mixed(ctx, &broken); err != nil {
			return err
		}
	}
	for _, tier := range slices.Backward(tiers) {
		if err := f.back(ctx, Action{Kind: Upgrade, Node: tier}); err != nil {
			return errors.Join(broken, err)
		}
		if err := f.mixed(ctx, &broken); err != nil {
			return err
		}
	}
	v := f.versions(ctx)
	return errors.Join(broken, f.expect(len(v) == 1, "all are back", "%s", strings.Join(v, ", ")), f.awaitWell(ctx, wellWithin), f.noBounce())
}

// mixed lets mail flow for a while.
func (f *field) mixed(ctx context.Context, broken *error) error {
	from := time.Now()
	if err := f.wait(ctx, max(f.hold/4, settle)); err != nil {
		return err
	}
	if n := f.flows(from, time.Now()); n == 0 {
		*broken = errors.Join(*broken, f.expect(false, "mail flows between releases", "none in %v", time.Since(from).Round(time.Second)))
	}
	return nil
}
