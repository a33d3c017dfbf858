package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

func (a *app) statusCmd() *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show nodes, who serves each pair, lag and queues",
		Long: `status asks every node at the same time and shows the nodes, who serves each
pair and how far its replicas are, and the relays' queues. A node that does not
answer within --timeout is shown as unreachable.

With --check the exit status is 1 unless every node is ready and every pair has
a serving replica.`,
		Example: `  postern status --dir ~/mail
  postern status --node 10.0.0.5:7400 --cert admin.pem --key admin-key.pem --ca ca.pem
  postern status --dir ~/mail --output json | jq '.pairs[].serving'`,
		Args: cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			s, err := f.Status(ctx)
			if err != nil {
				return err
			}
			if err := a.emit(s, func(w io.Writer) error { return printStatus(w, s, time.Now()) }); err != nil {
				return err
			}
			if check && !s.Healthy() {
				return fmt.Errorf("not everything is well")
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&check, "check", false, "exit with 1 unless everything is well")
	return a.onCluster(c)
}

func printStatus(w io.Writer, s *fleet.Status, now time.Time) error {
	nodes := table.New("node", "role", "pair", "state", ">pid", "up", ">sessions", "certificate", "version", "format")
	for _, n := range s.Nodes {
		pid, sessions, ends := "-", "-", "-"
		if n.State != fleet.StateUnreachable && !n.Gossip {
			pid, sessions = strconv.Itoa(n.PID), strconv.Itoa(n.Sessions)
			if !n.CertEnds.IsZero() {
				ends = days(n.CertEnds.Sub(now))
			}
		}
		state := n.State
		if n.Gossip {
			state += " (by gossip)"
		}
		nodes.Row(n.Name, dash(n.Role), dash(n.Pair), state, pid, since(n.Started, now), sessions, ends, dash(n.Version), format(n.Formats))
	}
	pairs := table.New("pair", "serving", ">term", ">applied", "replica", "state", ">lag")
	for _, p := range s.Pairs {
		if len(p.Nodes) == 0 {
			pairs.Row(p.Name, dash(p.Serving), p.Term, p.Applied, "-", "-", "-")
		}
		for i, r := range p.Nodes {
			name, serving, term, applied := "", "", "", ""
			if i == 0 {
				name, serving, term, applied = p.Name, dash(p.Serving), strconv.FormatUint(p.Term, 10), strconv.FormatUint(p.Applied, 10)
			}
			lag := "-"
			if r.Lag >= 0 {
				lag = strconv.FormatInt(r.Lag, 10)
			}
			title := r.Name
			if r.Witness {
				title += " (witness)"
			}
			pairs.Row(name, serving, term, applied, title, r.State, lag)
		}
	}
	queues := table.New("queue of", ">messages", ">held", ">size", "oldest")
	for _, q := range s.Queues {
		queues.Row(q.Relay, q.Queued, q.Held, table.Size(q.Bytes), since(q.Oldest, now))
	}
	return printAll(w, nodes, pairs, queues)
}

// printAll prints tables with an empty line between them.
func printAll(w io.Writer, tables ...*table.Table) error {
	first := true
	for _, t := range tables {
		if t.Len() == 0 {
			continue
		}
		if !first {
			fmt.Fprintln(w)
		}
		first = false
		if err := t.Print(w); err != nil {
			return err
		}
	}
	return nil
}

func days(d time.Duration) string { return strconv.Itoa(int(d/(24*time.Hour))) + "d" }

// format is the level of formats that a node writes, with the one that it could.
func format(l admin.FormatLevels) string {
	switch {
	case l.Known == 0:
		return "1" // it is of a release that says nothing
	case l.Used < l.Known:
		return fmt.Sprintf("%d of %d", l.Used, l.Known)
	}
	return strconv.FormatUint(uint64(l.Used), 10)
}
