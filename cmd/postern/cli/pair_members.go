package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

// seedWithin is the time for a member to be brought up to date that a command
// waits by default.
const seedWithin = 24 * time.Hour

// changeFlags are the flags of the commands that change a pair's members.
type changeFlags struct {
	pair string
	yes  bool
	wait time.Duration
}

func (c *changeFlags) add(cmd *cobra.Command, waits bool) {
	f := cmd.Flags()
	f.StringVar(&c.pair, "pair", "", "pair that is meant, for a node with members of several")
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	if waits {
		f.DurationVar(&c.wait, "wait", seedWithin, "time to wait until the new member votes; it goes on by itself afterwards")
	}
}

// confirm asks the operator.
func (a *app) confirm(yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	fmt.Fprintf(a.err, "postern: %s\nType yes to go on: ", cleanLines(fmt.Sprintf(format, args...)))
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(line) != "yes" {
		return usagef("not confirmed; nothing was changed")
	}
	return nil
}

// sayStep tells of a step beside the answer.
func (a *app) sayStep(format string, args ...any) { a.warn(format, args...) }

// showSeeding prints how far a member is, when it has got further.
func (a *app) showSeeding() fleet.Seeding {
	last, at := "", time.Time{}
	return func(node string, s *admin.Seeding, state string) {
		text := strings.ToLower(state)
		if s != nil {
			text = s.Stage
			if s.Total > 0 {
				text += fmt.Sprintf(" from %s, %s of %s", s.From, table.Size(s.Bytes), table.Size(s.Total))
			}
			if s.Error != "" {
				text += " (" + s.Error + ")"
			}
		}
		if text == last || time.Since(at) < time.Second {
			return
		}
		last, at = text, time.Now()
		a.warn("%s: %s", node, text)
	}
}

func printGroup(w io.Writer, list *admin.MemberList) error {
	t := table.New("pair", "node", "id", "role", "vote", "state", ">applied", ">lag", "address")
	for _, m := range list.Members {
		role, vote, state := "data", "yes", "away"
		if m.Witness {
			role = "witness"
		}
		if !m.Voter {
			vote = "not yet"
		}
		if m.Alive {
			state = "alive"
		}
		if m.Leads {
			state = "leads"
		}
		t.Row(list.Pair, m.Node, m.ID, role, vote, state, m.Applied, m.Lag, m.Addr)
	}
	return t.Print(w)
}

func (a *app) emitMembers(list *admin.MemberList) error {
	if copies := dataCopies(list); copies < 2 {
		a.warn("%s has %d data copy: make another by postern pair add or replace", list.Pair, copies)
	}
	return a.emit(list, func(w io.Writer) error { return printGroup(w, list) })
}

func dataCopies(list *admin.MemberList) (n int) {
	for _, m := range list.Members {
		if !m.Witness && m.Voter {
			n++
		}
	}
	return n
}

func (a *app) pairMembersCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "members PAIR",
		Short: "Show who is in a pair's group",
		Long: `members shows the group of a pair as its replicas have agreed on it, which is
the truth: the members in a node's configuration are those that the group began
with.`,
		Example: `  postern pair members --dir ~/mail pair1`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			ctx, cancel := context.WithTimeout(ctx, changeWithin)
			defer cancel()
			_, list, err := f.Members(ctx, args[0])
			if err != nil {
				return err
			}
			return a.emitMembers(list)
		}),
	}
}

// memberChange is a command that changes who is in a pair.
type memberChange struct {
	use, short, long, example string

	nodes int    // arguments
	waits bool   // until a new member votes
	warns string // what is lost for good, of the first node and the pair; "": it does not ask
	do    func(ctx context.Context, f *fleet.Fleet, pair string, nodes []string) (*admin.MemberList, error)
}

func (a *app) memberCmd(m *memberChange) *cobra.Command {
	var fl changeFlags
	c := &cobra.Command{
		Use: m.use, Short: m.short, Long: m.long, Example: m.example,
		Args: cobra.ExactArgs(m.nodes),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, nodes []string) error {
			pair, err := f.PairOf(ctx, nodes[0], fl.pair)
			if err != nil {
				return err
			}
			if m.warns != "" {
				if err := a.confirm(fl.yes, m.warns, nodes[0], pair); err != nil {
					return err
				}
			}
			within := changeWithin
			if m.waits {
				within = fl.wait
			}
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			list, err := m.do(ctx, f, pair, nodes)
			if err != nil {
				return err
			}
			return a.emitMembers(list)
		}),
	}
	fl.add(c, m.waits)
	return c
}

const memberLeaves = "the member on %s of %s leaves for good, and its copy with it."

func (a *app) pairEvictCmd() *cobra.Command {
	return a.memberCmd(&memberChange{
		use:   "evict NODE",
		short: "Take a dead member out of its pair",
		long: `evict takes the data replica or the witness on a node that is dead out of its
pair, by a change that the others commit. While a dead member is in the group the
others keep the log for it, without end. Its id never comes back: a node that
returns gets a new member by postern pair replace. Evicting a data replica leaves
one data copy, so it asks first. It refuses if the member answers, or if those
that are left and work are no majority with a complete copy.

Given again it changes nothing.`,
		example: `  postern pair evict --dir ~/mail pair1-a`,
		nodes:   1, warns: memberLeaves,
		do: func(ctx context.Context, f *fleet.Fleet, pair string, nodes []string) (*admin.MemberList, error) {
			return f.Evict(ctx, pair, nodes[0])
		},
	})
}

func (a *app) pairRemoveCmd() *cobra.Command {
	var oneCopy bool
	c := a.memberCmd(&memberChange{
		use:   "remove NODE",
		short: "Take a member out of its pair",
		long: `remove takes a member out of its pair that may be alive; one that serves hands
over first. It refuses if the last complete copy would go, if those that are left
are no majority that works, and, without --one-copy, if one data copy would be
left.

Given again it changes nothing.`,
		example: `  postern pair remove --dir ~/mail pair1-c`,
		nodes:   1, warns: memberLeaves,
		do: func(ctx context.Context, f *fleet.Fleet, pair string, nodes []string) (*admin.MemberList, error) {
			return f.Remove(ctx, pair, nodes[0], oneCopy)
		},
	})
	c.Flags().BoolVar(&oneCopy, "one-copy", false, "go on although one data copy is left")
	return c
}

func (a *app) pairAddCmd() *cobra.Command {
	return a.memberCmd(&memberChange{
		use:   "add NODE",
		short: "Make a new member of a pair on a node",
		long: `add makes a member of a pair on a node that runs, has the pair in its
configuration and has no member of it yet: a data replica on a backend, a witness
on a witness. The member gets a new id, fetches what it needs from a data replica
while mail flows, catches up, and gets its vote then. Interrupted at any place
it goes on by itself, and the same command shows how far it is.`,
		example: `  postern pair add --dir ~/mail --pair pair1 pair1-c`,
		nodes:   1, waits: true,
		do: func(ctx context.Context, f *fleet.Fleet, pair string, nodes []string) (*admin.MemberList, error) {
			return f.Add(ctx, pair, nodes[0], a.showSeeding())
		},
	})
}

func (a *app) pairReplaceCmd() *cobra.Command {
	return a.memberCmd(&memberChange{
		use:   "replace OLD NEW",
		short: "Put a new member of a pair in the place of another one",
		long: `replace puts a member on the node NEW in the place of the one on the node OLD.
Both may be the same node, after it has lost its directory or can no longer be
brought up to date from the others' logs: its member is made anew, under another
id. A data replica does the latter by itself, see raft.reseed. A member that is
dead is evicted first; one that is alive goes last, when the new one has its vote,
so that no copy is missing in between.

Interrupted at any place, the same command goes on.`,
		example: `  postern pair replace --dir ~/mail pair1-a pair1-a
  postern pair replace --dir ~/mail pair1-a pair1-c`,
		nodes: 2, waits: true, warns: memberLeaves,
		do: func(ctx context.Context, f *fleet.Fleet, pair string, nodes []string) (*admin.MemberList, error) {
			return f.Replace(ctx, pair, nodes[0], nodes[1], a.sayStep, a.showSeeding())
		},
	})
}

func (a *app) pairRecoverCmd() *cobra.Command {
	var accept bool
	var on string
	c := &cobra.Command{
		Use:   "recover PAIR",
		Short: "Go on with one data replica after the majority is lost for good",
		Long: `recover is for a pair that has lost two of its three members for good. It makes
the group one of the surviving data replica alone; the others are made anew
afterwards by postern pair add or replace. Without --accept-loss it only says
what is known and changes nothing.

What cannot be known: entries up to the last one known to be committed are
certain. Those after it, in the log of this replica, may or may not have been
acknowledged to a sender, and are kept. Entries that only the lost members had,
and which a sender may have been told are stored, are lost.

A lost member that comes back has another history. It ends for good as soon as it
reaches the replica that went on, and its node says that the member was given up.
Two of them that reach one another and not that replica do not know of it: keep
them off the network until their directories are gone.`,
		Example: `  postern pair recover --dir ~/mail pair1
  postern pair recover --dir ~/mail pair1 --accept-loss`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			ctx, cancel := context.WithTimeout(ctx, changeWithin)
			defer cancel()
			rec, err := f.Recover(ctx, args[0], on, accept)
			if err != nil {
				return err
			}
			if err := a.emit(rec, func(w io.Writer) error { return printRecovery(w, rec, accept) }); err != nil {
				return err
			}
			if !accept {
				return fmt.Errorf("nothing was changed: give --accept-loss to go on")
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&accept, "accept-loss", false, "do it")
	c.Flags().StringVar(&on, "on", "", "node with the data replica to go on with (default: the only one that answers)")
	return c
}

func printRecovery(w io.Writer, r *admin.Recovery, done bool) error {
	fmt.Fprintf(w, "replica on %s: entries up to %d are known to be committed, its log ends at %d\n", table.Clean(r.Node), r.Known, r.Last)
	if r.Last > r.Known {
		fmt.Fprintf(w, "the %d entries in between are kept; whether they were acknowledged is not known\n", r.Last-r.Known)
	}
	fmt.Fprintln(w, "entries after that which only the lost members had are lost; how many is not known")
	if done {
		_, err := fmt.Fprintf(w, "%s goes on with %s alone: one data copy; make the others by postern pair add or replace\n", table.Clean(r.Pair), table.Clean(r.Node))
		return err
	}
	return nil
}
