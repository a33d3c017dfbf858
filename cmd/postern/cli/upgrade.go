package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/cmd/postern/dev"
	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// upgrade is the flags of the commands that go over nodes one by one.
type upgrade struct {
	tier, order          string
	replace, binaries    string
	to                   string
	dryRun               bool
	restart              []string
	o                    fleet.UpgradeOptions
	maxErrors, elections int
}

func (a *app) upgradeCmd() *cobra.Command {
	return a.onCluster(group("upgrade", "Go to another release, node by node, and back",
		`upgrade replaces the programs of a running cluster by those of another release, one
node after the other, while mail goes on:

  postern upgrade plan      what would be done, and what is in the way
  postern upgrade run       do it
  postern upgrade rollback  go back to the release before
  postern upgrade finalize  begin to use what the new release brings; no way back

Until finalize every node writes what the release before can read, so that both
may run side by side, in either order of the tiers, and back.`,
		a.upgradePlanCmd(), a.upgradeRunCmd(), a.rollbackCmd(), a.finalizeCmd()))
}

func (u *upgrade) flags(c *cobra.Command, order string) {
	f := c.Flags()
	f.StringVar(&u.tier, "tier", fleet.AllTiers, "nodes to go over: relay, backend, witness or all")
	f.StringVar(&u.order, "order", order, "backends-first or relays-first, with --tier all")
	f.StringVar(&u.to, "to", "", "version that the nodes run afterwards (default: that of --binaries, or of this program)")
	f.StringVar(&u.binaries, "binaries", "", "folder with the programs, for a development cluster")
	_ = c.MarkFlagDirname("binaries")
}

func (u *upgrade) runFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&u.replace, "replace", "", `command that stops the old program of a node, puts the new one in place and
starts it; sh -c runs it with POSTERN_NODE, POSTERN_TIER, POSTERN_FROM and POSTERN_TO`)
	f.BoolVar(&u.dryRun, "dry-run", false, "only show the plan")
	f.StringSliceVar(&u.restart, "restart", nil, "nodes to go over although they run the version already, so that they start with another configuration")
	f.DurationVar(&u.o.DrainFor, "drain-timeout", 30*time.Second, "time for the sessions of a relay to end")
	f.DurationVar(&u.o.ProbeFor, "probe-timeout", time.Minute, "time for a replaced node to be ready, caught up and to answer")
	f.DurationVar(&u.o.SettleFor, "settle-timeout", time.Minute, "time for the other nodes to be well before one is taken out")
	f.Int64Var(&u.o.MaxLag, "max-lag", 1000, "entries that a replica may be behind before the next one is taken out")
	f.IntVar(&u.elections, "max-elections", 5, "elections of a pair during one step that end the upgrade when passed")
	f.DurationVar(&u.o.MaxQueueAge, "max-queue-age", 10*time.Minute, "age of a queued message that ends the upgrade when passed")
	f.IntVar(&u.maxErrors, "max-errors", 50, "part of the deliveries put off during a step, in percent, that ends the upgrade when passed")
	c.MarkFlagsMutuallyExclusive("replace", "binaries")
}

func (a *app) upgradePlanCmd() *cobra.Command {
	u := new(upgrade)
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show the versions, the order of the nodes and what is in the way",
		Long: `plan shows every node with its version and its level of formats, in the order in
which run would replace them, and what has to be put right before.`,
		Example: `  postern upgrade plan --dir ~/mail --binaries ./new`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			p, err := a.plan(ctx, f, u, false)
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) error { return printPlan(w, p) })
		}),
	}
	u.flags(c, fleet.BackendsFirst)
	return c
}

func (a *app) upgradeRunCmd() *cobra.Command {
	u := new(upgrade)
	c := &cobra.Command{
		Use:   "run",
		Short: "Replace the programs node by node",
		Long: `run goes over the nodes one by one: it waits until the others are well, drains the
node (a relay finishes its sessions, a replica hands over), has the command of
--replace change its program, and waits until the node is ready, answers by
protocol and has caught up. Never are two members of a pair away at once.

It ends when a step fails, or as soon as a limit is passed, whose node is replaced
no more if that has not begun; it goes on there when it is run again: nodes that run the version already are left alone, but for those of
--restart.`,
		Example: `  postern upgrade run --dir ~/mail --binaries ./new
  postern upgrade run --node 10.0.0.5:7400 --cert admin.pem --key admin-key.pem --ca ca.pem \
      --tier backend --to 0.2.0 --replace 'ssh "$POSTERN_NODE" "apt-get install -y postern-$POSTERN_TIER && systemctl restart postern-$POSTERN_TIER"'`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error { return a.goOver(ctx, f, u, false) }),
	}
	u.flags(c, fleet.BackendsFirst)
	u.runFlags(c)
	return c
}

func (a *app) rollbackCmd() *cobra.Command {
	u := new(upgrade)
	c := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to the release before, node by node",
		Long: `rollback is run with the programs of the release before: --binaries names their
folder, or --to their version with a --replace that puts them back. It is refused
after finalize.`,
		Example: `  postern upgrade rollback --dir ~/mail --binaries ./old`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			if u.to == "" && u.binaries == "" {
				return usagef("give --binaries, or --to with the version to go back to")
			}
			return a.goOver(ctx, f, u, true)
		}),
	}
	u.flags(c, fleet.RelaysFirst)
	u.runFlags(c)
	return c
}

func (a *app) finalizeCmd() *cobra.Command {
	var check bool
	var level uint32
	c := &cobra.Command{
		Use:   "finalize",
		Short: "Have the cluster write the new formats; there is no way back",
		Long: `finalize has every pair and every relay write the formats of the new release. For a
pair that is an entry of its log, so that all replicas change at the same place;
it is refused unless every member, the witness among them, is there and runs a
release that knows the formats. A relay that is away hears of it by gossip when it
is back. Afterwards the programs of the release before refuse to start.`,
		Example: `  postern upgrade finalize --dir ~/mail --check
  postern upgrade finalize --dir ~/mail`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			f.Identify(ctx)
			ctx, cancel := context.WithTimeout(ctx, changeWithin)
			defer cancel()
			r, err := f.Finalize(ctx, level, check)
			if err != nil {
				return err
			}
			return a.emit(r, func(w io.Writer) error {
				if check {
					_, err := fmt.Fprintf(w, "format %d would be accepted by every node\n", r.Level)
					return err
				}
				fmt.Fprintf(w, "the cluster writes format %d\n\n", r.Level)
				return printSteps(w, r.Nodes)
			})
		}),
	}
	c.Flags().BoolVar(&check, "check", false, "only say what would be refused")
	c.Flags().Uint32Var(&level, "format", version.Format, "level of formats to go to")
	return c
}

// plan makes the plan that the flags ask for.
func (a *app) plan(ctx context.Context, f *fleet.Fleet, u *upgrade, back bool) (*fleet.UpgradePlan, error) {
	if u.order != fleet.BackendsFirst && u.order != fleet.RelaysFirst {
		return nil, usagef("--order %s: want %s or %s", u.order, fleet.BackendsFirst, fleet.RelaysFirst)
	}
	to := fleet.Versions{}
	for _, role := range []string{fleet.Relay, fleet.Backend, fleet.Witness} {
		to[role] = u.to
		switch {
		case u.to != "":
		case u.binaries != "":
			v, err := versionOf(ctx, filepath.Join(u.binaries, "postern-"+role))
			if err != nil {
				return nil, err
			}
			to[role] = v
		default:
			to[role] = version.String()
		}
	}
	f.Identify(ctx)
	return f.PlanUpgrade(ctx, u.tier, u.order, to, back)
}

// versionOf asks a program for its version.
func versionOf(ctx context.Context, program string) (string, error) {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	_, v, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
	if !ok {
		return "", fmt.Errorf("%s --version says %q", program, out)
	}
	return v, nil
}

// goOver runs the plan.
func (a *app) goOver(ctx context.Context, f *fleet.Fleet, u *upgrade, back bool) error {
	p, err := a.plan(ctx, f, u, back)
	if err != nil {
		return err
	}
	if err := p.Again(u.restart); err != nil {
		return couldNotRun{err}
	}
	if u.dryRun {
		return a.emit(p, func(w io.Writer) error { return printPlan(w, p) })
	}
	o := u.o
	if u.elections < 0 || u.maxErrors < 0 || u.maxErrors > 100 {
		return usagef("--max-elections and --max-errors: want 0 or more, and a percentage")
	}
	o.MaxElections, o.MaxErrors = uint64(u.elections), float64(u.maxErrors)/100
	if o.Replace, err = a.replacer(u); err != nil {
		return err
	}
	o.Say = func(format string, args ...any) {
		fmt.Fprintf(a.err, "%s\n", cleanLines(fmt.Sprintf(format, args...)))
	}
	if err := f.RunUpgrade(ctx, p, o); err != nil {
		return err
	}
	if p, err = a.plan(ctx, f, u, false); err != nil {
		return err
	}
	return a.emit(p, func(w io.Writer) error { return printPlan(w, p) })
}

// replacer changes the program of a node: by the operator's command, or by the
// supervisor of a development cluster.
func (a *app) replacer(u *upgrade) (func(context.Context, fleet.UpgradeStep) error, error) {
	switch {
	case u.replace != "":
		return func(ctx context.Context, s fleet.UpgradeStep) error {
			c := exec.CommandContext(ctx, "sh", "-c", u.replace)
			c.Env = append(os.Environ(), "POSTERN_NODE="+s.Node, "POSTERN_TIER="+s.Role, "POSTERN_FROM="+s.From, "POSTERN_TO="+s.To)
			c.Stdout, c.Stderr = a.err, a.err
			return c.Run()
		}, nil
	case u.binaries == "":
		return nil, usagef("give --replace COMMAND, or --binaries for a development cluster")
	case a.target.dir == "":
		return nil, usagef("--binaries is for a development cluster: give its --dir")
	}
	dir, err := filepath.Abs(u.binaries)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dev.ControlSocket(a.target.dir)); err != nil {
		return nil, couldNotRun{fmt.Errorf("no development cluster runs in %s", a.target.dir)}
	}
	return func(ctx context.Context, s fleet.UpgradeStep) error {
		return replaceDev(ctx, a.target.dir, s.Node, dir)
	}, nil
}

// replaceDev has the supervisor of a development cluster change a node's program.
func replaceDev(ctx context.Context, cluster, node, binaries string) error {
	cl := admin.NewUnixClient(dev.ControlSocket(cluster))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	_, err := admin.Call(ctx, cl, dev.ReplaceNode, dev.ReplaceRequest{Node: node, Binaries: binaries})
	var refused *admin.Error
	if errors.As(err, &refused) && refused.Status == 404 {
		return fmt.Errorf("the supervisor is of a release that replaces no programs: %w", err)
	}
	return err
}

func printPlan(w io.Writer, p *fleet.UpgradePlan) error {
	if err := printSteps(w, p.Steps); err != nil {
		return err
	}
	switch {
	case p.Mixed:
		fmt.Fprintf(w, "\nmixed versions; format %d is the lowest in use\n", p.Level)
	default:
		fmt.Fprintf(w, "\none version; format %d is the lowest in use\n", p.Level)
	}
	for _, b := range p.Blocks {
		fmt.Fprintf(w, "in the way: %s\n", table.Clean(b))
	}
	return nil
}

func printSteps(w io.Writer, steps []fleet.UpgradeStep) error {
	t := table.New(">step", "node", "role", "pair", "state", "version", "to", "format", "what")
	for i, s := range steps {
		what := "replace"
		switch {
		case s.To == "" || s.Done:
			what = "-"
		case s.Serving:
			what = "hand over, replace"
		case s.Role == fleet.Relay:
			what = "drain, replace"
		}
		t.Row(i+1, s.Node, s.Role, dash(s.Pair), s.State, dash(s.From), dash(s.To), format(s.Formats), what)
	}
	return t.Print(w)
}
