package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
)

func (a *app) pairCmd() *cobra.Command {
	return a.onCluster(group("pair", "Look at pairs, hand them over, change their members",
		"pair shows the replicas of pairs, has them hand over, and changes who is in them.",
		a.pairStatusCmd(), a.pairTransferCmd(), a.pairDrainCmd(), a.pairMembersCmd(), a.pairEvictCmd(), a.pairReplaceCmd(),
		a.pairAddCmd(), a.pairRemoveCmd(), a.pairRecoverCmd()))
}

func (a *app) pairStatusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status [PAIR]",
		Short: "Show the replicas of a pair, or of every pair",
		Long: `status shows what each node of a pair says of itself: its part, the entries of
its log, the last one applied, and a digest of the state at that entry. Replicas
that have applied the same entry have the same digest. A node that does not
answer is down.`,
		Example: `  postern pair status --dir ~/mail pair1`,
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
			for _, p := range pairs {
				for _, n := range p.Nodes {
					for _, alarm := range n.Alarms {
						a.warn("%s, %s: %s", p.Name, n.Name, alarm)
					}
				}
			}
			return a.emit(pairs, func(w io.Writer) error { return printPairs(w, pairs) })
		}),
	}
}

func printPairs(w io.Writer, pairs []fleet.PairDetail) error {
	t := table.New("pair", "node", "role", "state", ">term", ">log from", ">to", ">committed", ">applied", "digest", ">log size")
	for _, p := range pairs {
		for _, n := range p.Nodes {
			state := n.State
			if n.Serving {
				state += ", serving"
			}
			if s := n.Seeding; s != nil && s.Total > 0 {
				state += fmt.Sprintf(", %d %%", 100*s.Bytes/s.Total)
			}
			if n.State == fleet.StateDown {
				t.Row(p.Name, n.Name, n.Role, state, "-", "-", "-", "-", "-", "-", "-")
				continue
			}
			digest := n.Digest
			if len(digest) > 12 {
				digest = digest[:12]
			}
			t.Row(p.Name, n.Name, n.Role, state, n.Term, n.First, n.Last, n.Commit, n.Applied, dash(digest), table.Size(n.LogBytes))
		}
	}
	if err := t.Print(w); err != nil {
		return err
	}
	return printRepairs(w, pairs)
}

// printRepairs says which replicas' logs were found damaged by the last scrub.
func printRepairs(w io.Writer, pairs []fleet.PairDetail) error {
	for _, p := range pairs {
		for _, n := range p.Nodes {
			if n.Upkeep == nil || n.Upkeep.Scrub.Damaged == 0 {
				continue
			}
			s := &n.Upkeep.Scrub
			if _, err := fmt.Fprintf(w, "%s: %s: the last scrub found %d damaged entries, %d repaired from the other replica, %d lost\n",
				table.Clean(p.Name), table.Clean(n.Name), s.Damaged, s.Repaired, s.Lost); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) pairTransferCmd() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "transfer PAIR",
		Short: "Have the serving replica hand over to the other one",
		Long: `transfer asks the replica that serves a pair to bring the other one up to date
and hand over to it. It returns when the other one serves. Clients stay
connected to their relay and notice a pause of well under a second.`,
		Example: `  postern pair transfer --dir ~/mail pair1
  postern pair transfer --dir ~/mail pair1 --to pair1-b`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			ctx, cancel := context.WithTimeout(ctx, changeWithin)
			defer cancel()
			p, err := f.Transfer(ctx, args[0], to)
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s serves %s\n", table.Clean(p.Serving), table.Clean(p.Name))
				return err
			})
		}),
	}
	c.Flags().StringVar(&to, "to", "", "name of the node that is to serve (default: the other replica)")
	return c
}

func (a *app) pairDrainCmd() *cobra.Command {
	var off bool
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a replica hand over and serve no more, or serve again",
		Long: `drain makes a node of a pair hand over what it serves and keeps it from serving
again until --off, for work on its machine. It goes on storing, so the pair
keeps its copies.`,
		Example: `  postern pair drain --dir ~/mail pair1-a
  postern pair drain --dir ~/mail pair1-a --off`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.drain(ctx, f, args[0], !off, fleet.Backend, fleet.Witness)
		}),
	}
	c.Flags().BoolVar(&off, "off", false, "end it")
	return c
}
