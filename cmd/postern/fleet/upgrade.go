package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/admin"
)

// Orders of the tiers, and what may be chosen of them.
const (
	BackendsFirst = "backends-first" // receivers before senders
	RelaysFirst   = "relays-first"
	AllTiers      = "all"
)

// levelBefore is the level of a node whose release says nothing of levels.
const levelBefore = 1

// UpgradePlan is what an upgrade would do: one node after the other.
type UpgradePlan struct {
	Tier   string        `json:"tier"`
	Order  string        `json:"order"`
	Steps  []UpgradeStep `json:"steps"`
	Blocks []string      `json:"blocks,omitempty"` // why it cannot be run
	Mixed  bool          `json:"mixed"`            // there is more than one version
	Level  uint32        `json:"level"`            // lowest that a node writes
}

// UpgradeStep is one node.
type UpgradeStep struct {
	Node    string             `json:"node"`
	Role    string             `json:"role"`
	Pair    string             `json:"pair,omitempty"`
	State   string             `json:"state"`
	Serving bool               `json:"serving,omitempty"` // it hands over first
	From    string             `json:"from"`
	To      string             `json:"to,omitempty"`
	Formats admin.FormatLevels `json:"formats"`
	Done    bool               `json:"done,omitempty"` // it runs the version already
}

// Again has the plan go over nodes although they are done.
func (p *UpgradePlan) Again(nodes []string) error {
	for _, name := range nodes {
		i := slices.IndexFunc(p.Steps, func(t UpgradeStep) bool { return t.Node == name })
		if i < 0 {
			return fmt.Errorf("the plan has no node %q", name)
		}
		p.Steps[i].Done = false
	}
	return nil
}

// Versions names for each role the version that its nodes are to run; a role
// without one is only looked at.
type Versions map[string]string

// levels fills in what a release before there were levels does not say.
func levels(l admin.FormatLevels) admin.FormatLevels {
	return admin.FormatLevels{Known: max(l.Known, levelBefore), Used: max(l.Used, levelBefore)}
}

// rolesOf are the roles of a tier in the order in which they are replaced.
func rolesOf(tier, order string) ([]string, error) {
	switch tier {
	case Relay, Backend, Witness:
		return []string{tier}, nil
	case AllTiers:
		if order == RelaysFirst {
			return []string{Relay, Witness, Backend}, nil
		}
		return []string{Witness, Backend, Relay}, nil
	}
	return nil, fmt.Errorf("tier %q: want %s, %s, %s or %s", tier, Relay, Backend, Witness, AllTiers)
}

// PlanUpgrade asks every node and says what an upgrade of a tier would do. back
// is for the way back to the release before, which ends with finalize.
func (f *Fleet) PlanUpgrade(ctx context.Context, tier, order string, to Versions, back bool) (*UpgradePlan, error) {
	roles, err := rolesOf(tier, order)
	if err != nil {
		return nil, err
	}
	s, err := f.Status(ctx)
	if err != nil {
		return nil, err
	}
	return planOf(s, tier, order, roles, to, back), nil
}

func planOf(s *Status, tier, order string, roles []string, to Versions, back bool) *UpgradePlan {
	p := &UpgradePlan{Tier: tier, Order: order, Steps: []UpgradeStep{}}
	versions := map[string]bool{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Version != "" {
			versions[n.Version] = true
		}
		l := levels(n.Formats)
		if n.State != StateUnreachable && (p.Level == 0 || l.Used < p.Level) {
			p.Level = l.Used
		}
		if back && l.Used > levelBefore {
			p.Blocks = append(p.Blocks, fmt.Sprintf("%s writes format %d: after finalize the release before cannot read it, and there is no way back", n.Name, l.Used))
		}
	}
	p.Mixed = len(versions) > 1
	for _, role := range roles {
		p.Steps = append(p.Steps, stepsOf(s, role, to[role])...)
	}
	p.Blocks = append(p.Blocks, blocks(s, p.Steps)...)
	return p
}

// stepsOf lists the nodes of a role: those that do not answer first, since
// nothing is lost by replacing them, and those that serve last.
func stepsOf(s *Status, role, to string) (steps []UpgradeStep) {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Role != role {
			continue
		}
		steps = append(steps, UpgradeStep{
			Node: n.Name, Role: n.Role, Pair: n.Pair, State: n.State, Serving: s.serves(n.Name), From: n.Version, To: to,
			Formats: levels(n.Formats), Done: to != "" && n.Version == to && n.State == "ready",
		})
	}
	rank := func(t UpgradeStep) int {
		switch {
		case t.State == StateUnreachable:
			return 0
		case t.Serving:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(steps, func(a, b UpgradeStep) int { return rank(a) - rank(b) })
	return steps
}

func (s *Status) serves(node string) bool {
	return slices.ContainsFunc(s.Pairs, func(p PairState) bool { return p.Serving == node })
}

// blocks says what must be put right first: with a member of a pair away no
// other one can be taken out, and the last relay should not be.
func blocks(s *Status, steps []UpgradeStep) (why []string) {
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Gossip {
			why = append(why, fmt.Sprintf("%s cannot be asked: it is known by gossip only, as %s", n.Name, n.State))
		}
	}
	for _, p := range s.Pairs {
		var away []string
		for _, n := range p.Nodes {
			if n.State == StateUnreachable || n.State == "absent" || n.State == "lost" || n.State == "seeding" {
				away = append(away, n.Name)
			}
		}
		if len(away) > 1 || p.Serving == "" {
			why = append(why, fmt.Sprintf("pair %s is not served, or more than one member is away: %s", p.Name, strings.Join(away, ", ")))
		}
		// One that is away can be replaced, as the rest of an upgrade that ended.
		for _, name := range away {
			if !slices.ContainsFunc(steps, func(t UpgradeStep) bool { return t.Node == name }) &&
				slices.ContainsFunc(steps, func(t UpgradeStep) bool { return !t.Done && slices.Contains(strings.Split(t.Pair, ","), p.Name) }) {
				why = append(why, fmt.Sprintf("pair %s: %s is away, so that no other member can be taken out", p.Name, name))
			}
		}
	}
	return why
}

// FinalizeResult is what finalize has done.
type FinalizeResult struct {
	Level uint32        `json:"level"`
	Check bool          `json:"check,omitempty"` // nothing was changed
	Nodes []UpgradeStep `json:"nodes"`
}

// Finalize has the whole cluster write formats of a level: the pairs, by their
// serving replicas and then on the witnesses, and after them the relays. With
// check it only says what would be refused. It can be repeated.
func (f *Fleet) Finalize(ctx context.Context, level uint32, check bool) (*FinalizeResult, error) {
	s, err := f.Status(ctx)
	if err != nil {
		return nil, err
	}
	if err := ripe(s, level); err != nil {
		return nil, err
	}
	// Everybody is asked before anything changes.
	if err := f.finalizePairs(ctx, s, admin.FinalizeRequest{Level: level, Check: true}); err != nil {
		return nil, err
	}
	if err := f.finalizeRelays(ctx, admin.FinalizeRequest{Level: level, Check: true}); err != nil {
		return nil, err
	}
	if !check {
		if err := f.finalizePairs(ctx, s, admin.FinalizeRequest{Level: level}); err != nil {
			return nil, err
		}
		if err := f.finalizeRelays(ctx, admin.FinalizeRequest{Level: level}); err != nil {
			return nil, err
		}
	}
	out := &FinalizeResult{Level: level, Check: check}
	if s, err = f.Status(ctx); err == nil {
		for _, role := range []string{Relay, Backend, Witness} {
			out.Nodes = append(out.Nodes, stepsOf(s, role, "")...)
		}
	}
	return out, err
}

// ripe refuses while a node of a pair is away or a node's release is too old.
func ripe(s *Status, level uint32) error {
	var errs []error
	for i := range s.Nodes {
		switch n := &s.Nodes[i]; {
		case n.State == StateUnreachable && n.Role != Relay:
			errs = append(errs, fmt.Errorf("%s is unreachable: all members of a pair have to be there", n.Name))
		case n.State != StateUnreachable && levels(n.Formats).Known < level:
			errs = append(errs, fmt.Errorf("%s runs %s, which does not know format %d", n.Name, n.Version, level))
		}
	}
	for _, p := range s.Pairs {
		if p.Serving == "" {
			errs = append(errs, fmt.Errorf("pair %s: no replica serves", p.Name))
		}
	}
	return errors.Join(errs...)
}

func (f *Fleet) finalizePairs(ctx context.Context, s *Status, in admin.FinalizeRequest) error {
	for _, p := range s.Pairs {
		in.Pair = p.Name
		var names []string
		for _, n := range p.Nodes {
			if n.Witness {
				names = append(names, n.Name)
			}
		}
		for _, name := range append([]string{p.Serving}, names...) {
			n, err := f.Find(name)
			if err != nil {
				return err
			}
			if _, err := Call(ctx, n, admin.Finalize, in); err != nil {
				return fmt.Errorf("pair %s: %w", p.Name, err)
			}
		}
		if in.Check {
			continue
		}
		if err := f.awaitLevel(ctx, p.Name, in.Level); err != nil {
			return err
		}
	}
	return nil
}

// awaitLevel waits until every member of a pair is on the level.
func (f *Fleet) awaitLevel(ctx context.Context, pair string, level uint32) error {
	for {
		behind := ""
		for _, n := range f.holders(ctx, Backend, Witness) {
			if n.Pair != pair {
				continue
			}
			g, err := Call(ctx, n, admin.PairStatus, admin.PairName{Pair: pair})
			if err != nil || g.Format < level {
				behind = n.Title()
			}
		}
		if behind == "" {
			return nil
		}
		if !pause(ctx, askAgain) {
			return fmt.Errorf("pair %s: %s is not on format %d yet; it goes there when it has applied the entry", pair, behind, level)
		}
	}
}

func (f *Fleet) finalizeRelays(ctx context.Context, in admin.FinalizeRequest) error {
	for _, r := range All(ctx, f, f.Role(Relay), func(ctx context.Context, n *Node) (admin.FormatLevels, error) {
		return Call(ctx, n, admin.Finalize, in)
	}) {
		// One that is away hears it by gossip when it is back.
		if r.Err != nil && Refused(r.Err) {
			return r.Err
		}
	}
	return nil
}
