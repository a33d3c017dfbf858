package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/reconstruct"
	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

func (a *app) storeCmd() *cobra.Command {
	return a.onCluster(group("store", "Look after the stores of data replicas",
		`store shows how the stores of data replicas are and has them compacted, read
whole and checked at once. Each of these is also done by a schedule.`,
		a.storeStatusCmd(),
		a.storeTaskCmd(admin.TaskCompact, "Give the space of deleted mail back",
			`compact rewrites the segments of the log that hold enough deleted mail, as the
options upkeep.* say, at their rate.`),
		a.storeTaskCmd(admin.TaskScrub, "Read the whole store and repair damage",
			`scrub reads every entry of the log and every message, at the rate of upkeep.rate.
What is damaged is fetched from the other replica. It fails when something could
not be repaired.`),
		a.storeTaskCmd(admin.TaskCheck, "Compare the metadata with a replay of the log",
			`check reads all metadata and compares it with what the log makes of a snapshot from
before the replicas were last equal. A replica that is wrong is quarantined: it
does not serve until it is released.`),
		a.storeReleaseCmd(), a.reconstructCmd()))
}

func (a *app) storeTaskCmd(task, short, long string) *cobra.Command {
	var on onReplica
	c := &cobra.Command{
		Use:     task,
		Short:   short,
		Long:    long,
		Example: fmt.Sprintf("  postern store %s --dir ~/mail --on pair1-b", task),
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			return a.task(ctx, f, &on, admin.UpkeepTask{Task: task})
		}),
	}
	on.flags(c)
	return c
}

// storeStatus is what a replica says of its store.
type storeStatus struct {
	Pair   string        `json:"pair"`
	Node   string        `json:"node"`
	Upkeep *admin.Upkeep `json:"upkeep,omitempty"`
	Alarms []string      `json:"alarms,omitempty"`
	Error  string        `json:"error,omitempty"`
}

func (a *app) storeStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "status [PAIR]",
		Short:   "Show how the stores of the replicas are",
		Example: `  postern store status --dir ~/mail`,
		Args:    cobra.MaximumNArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			pairs, err := f.Pairs(ctx, name)
			if err != nil {
				return err
			}
			out := []storeStatus{}
			for _, p := range pairs {
				for _, n := range p.Nodes {
					if n.Role == "data" {
						out = append(out, storeStatus{Pair: p.Name, Node: n.Name, Upkeep: n.Upkeep, Alarms: n.Alarms, Error: n.Error})
					}
				}
			}
			return a.emit(out, func(w io.Writer) error { return printStores(w, out, time.Now()) })
		}),
	}
}

func printStores(w io.Writer, list []storeStatus, now time.Time) error {
	t := table.New("pair", "node", ">snapshots", ">newest", ">compacted", ">dead", ">scrubbed", ">damaged", ">repaired", ">lost", ">compared at", "replicas")
	for _, s := range list {
		u := s.Upkeep
		if u == nil {
			t.Row(s.Pair, s.Node, "-", "-", "-", "-", "-", "-", "-", "-", "-", dash(s.Error))
			continue
		}
		equal := "equal"
		switch {
		case u.Quarantine != "":
			equal = "quarantined"
		case u.Differs:
			equal = "differ"
		case u.Compared == 0:
			equal = "-"
		}
		t.Row(s.Pair, s.Node, u.Snapshots, since(u.Snapshot, now), since(u.Compacted, now), table.Size(u.Dead), since(u.Scrub.Finished, now),
			u.Scrub.Damaged, u.Scrub.Repaired, u.Scrub.Lost, u.Compared, equal)
	}
	if err := t.Print(w); err != nil {
		return err
	}
	for _, s := range list {
		for _, alarm := range s.Alarms {
			if _, err := fmt.Fprintf(w, "%s: %s\n", table.Clean(s.Node), table.Clean(alarm)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) storeReleaseCmd() *cobra.Command {
	var on onReplica
	c := &cobra.Command{
		Use:   "release",
		Short: "Let a quarantined replica serve again",
		Long: `release ends the quarantine of a replica, after its metadata has been reconstructed
or the reason has been found not to matter.`,
		Example: `  postern store release --dir ~/mail --on pair1-b`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			if on.node == "" {
				return usagef("which replica? Name its node by --on")
			}
			n, err := f.Holder(ctx, on.pair, on.node)
			if err != nil {
				return err
			}
			s, err := fleet.Call(ctx, n, admin.PairRelease, admin.PairName{Pair: n.Pair})
			if err != nil {
				return err
			}
			return a.emit(s, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is released\n", table.Clean(n.Title()))
				return err
			})
		}),
	}
	on.flags(c)
	return c
}

func (a *app) reconstructCmd() *cobra.Command {
	var file, pair, path, snapshots string
	var check, repair bool
	c := &cobra.Command{
		Use:   "reconstruct",
		Short: "Check the metadata of a replica that does not run, and make it anew",
		Long: `reconstruct makes the metadata of a data replica anew, from the newest good
snapshot and the log after it, and compares it with what is there. With --check it
says what would change; with --repair it puts the new metadata in its place and
keeps the old beside it. The node must not run. When a node finds its metadata
damaged at its start it does the same by itself.

The status is 1 when --check has found a fault.`,
		Example: `  postern store reconstruct --config /etc/postern/backend.yaml --check
  postern store reconstruct --path /var/lib/postern/pair1 --repair`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o := reconstruct.Options{Dir: path, Snapshots: snapshots, Repair: repair}
			if file != "" {
				conf, err := config.Load[config.Backend](file, nil)
				if err != nil {
					return couldNotRun{err}
				}
				g, err := groupOf(conf, pair)
				if err != nil {
					return err
				}
				o.Dir = g.Dir
				if o.Snapshots == "" {
					o.Snapshots = snapshotsOf(conf, g)
				}
			}
			if o.Dir == "" {
				return usagef("which directory? Name it by --path, or the node's configuration by --config")
			}
			r, err := reconstruct.Run(c.Context(), o)
			if err != nil {
				return err
			}
			if err := a.emit(r, func(w io.Writer) error { return printReport(w, &r) }); err != nil {
				return err
			}
			if r.Fault != "" && !r.Repaired {
				return fmt.Errorf("%s: %s", r.Dir, r.Fault)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&check, "check", false, "say what would change")
	f.BoolVar(&repair, "repair", false, "change it")
	f.StringVar(&file, "config", "", "configuration file of the backend")
	f.StringVar(&pair, "pair", "", "name of the pair, when the node has more than one")
	f.StringVar(&path, "path", "", "directory of the replica")
	f.StringVar(&snapshots, "snapshots", "", "directory of its snapshots (default: as configured)")
	c.MarkFlagsMutuallyExclusive("check", "repair")
	c.MarkFlagsOneRequired("check", "repair")
	c.MarkFlagsMutuallyExclusive("config", "path")
	return c
}

func printReport(w io.Writer, r *reconstruct.Report) error {
	from := "the beginning of the log"
	if r.Snapshot != "" {
		from = "snapshot " + r.Snapshot
	}
	if r.Fault == "" {
		_, err := fmt.Fprintf(w, "%s: the metadata is as it should be at entry %d, by %s and %d entries after it\n", r.Dir, r.Target, from, r.Entries)
		return err
	}
	fmt.Fprintf(w, "%s: %s\n", r.Dir, table.Clean(r.Fault))
	fmt.Fprintf(w, "made anew from %s and %d entries, up to entry %d\n\n", from, r.Entries, r.Target)
	t := table.New("account", "mailbox", "is", "becomes")
	for _, c := range r.Changes {
		t.Row(c.Account, c.Mailbox, dash(c.Is), dash(c.Becomes))
	}
	if err := t.Print(w); err != nil {
		return err
	}
	if r.More {
		fmt.Fprintln(w, "and more")
	}
	if r.Repaired {
		_, err := fmt.Fprintf(w, "\nrepaired; the old metadata is in %s\n", dash(r.Aside))
		return err
	}
	return nil
}
