package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/dev"
	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
)

func (a *app) nodeCmd() *cobra.Command {
	return a.onCluster(group("node", "Look at and steer single nodes",
		`node shows what single nodes say and steers them. start, stop and restart are for
the nodes of a development cluster; elsewhere the service manager does that.`,
		a.nodeListCmd(), a.nodeConfigCmd(), a.nodeDrainCmd(), a.nodeUndrainCmd(),
		a.nodeProcessCmd(dev.StartNode, "start", "runs", "Start a node of a development cluster"),
		a.nodeProcessCmd(dev.StopNode, "stop", "has stopped", "Stop a node of a development cluster, which then stays down"),
		a.nodeProcessCmd(dev.RestartNode, "restart", "runs", "Stop and start a node of a development cluster")))
}

func (a *app) nodeListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the nodes as one node sees them by gossip",
		Long: `list shows the members of the cluster as the first node that answers sees them,
dead ones among them.`,
		Example: `  postern node list --dir ~/mail`,
		Args:    cobra.NoArgs,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, _ []string) error {
			results := fleet.All(ctx, f, f.Nodes, func(ctx context.Context, n *fleet.Node) (admin.Cluster, error) {
				return fleet.Call(ctx, n, admin.GetCluster, admin.None{})
			})
			i := slices.IndexFunc(results, func(r fleet.Result[admin.Cluster]) bool { return r.Err == nil })
			if i < 0 {
				a.silent(fleet.Unreachable(results))
				return fleet.ErrNobody
			}
			c := &results[i].Value
			return a.emit(c, func(w io.Writer) error { return printMembers(w, c) })
		}),
	}
}

func printMembers(w io.Writer, c *admin.Cluster) error {
	t := table.New("node", "role", "pair", "state", ">load", "version", "services")
	for _, m := range c.Nodes {
		var services []string
		for _, k := range slices.Sorted(maps.Keys(m.Services)) {
			services = append(services, k+"="+m.Services[k])
		}
		t.Row(m.Name, m.Role, dash(m.Pair), m.State, fmt.Sprintf("%.2f", m.Load), m.Version, dash(strings.Join(services, " ")))
	}
	p := table.New("pair", "serving", ">term", ">applied")
	for _, x := range c.Pairs {
		p.Row(x.Name, dash(x.Serving), x.Term, x.Applied)
	}
	return printAll(w, t, p)
}

func (a *app) nodeConfigCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "config NODE",
		Short:   "Show the options that a node uses now, without secrets",
		Example: `  postern node config --dir ~/mail relay1`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			n, err := a.named(ctx, f, args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, a.target.timeout)
			defer cancel()
			c, err := fleet.Call(ctx, n, admin.GetConfig, admin.None{})
			if err != nil {
				return err
			}
			return a.emit(c, func(w io.Writer) error {
				t := table.New("option", "value")
				for _, k := range slices.Sorted(maps.Keys(c.Values)) {
					t.Row(k, fmt.Sprint(c.Values[k]))
				}
				return t.Print(w)
			})
		}),
	}
}

// named finds a node, asking those given by address for their names first.
func (a *app) named(ctx context.Context, f *fleet.Fleet, name string) (*fleet.Node, error) {
	f.Identify(ctx)
	return f.Find(name)
}

func (a *app) nodeDrainCmd() *cobra.Command {
	var off, flush bool
	var wait time.Duration
	c := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a node take no new work",
		Long: `drain makes a node refuse new work until undrain (or drain --off): the others
stop choosing a relay, and a replica hands over what it serves.

A relay answers 421 to new SMTP connections and between two messages, so that
senders go to another relay; a message under way goes on to its reply. IMAP and
POP3 sessions go on, and new ones are taken from clients that still come. Its
/readyz says 503, and it is named by DNS no more.

Its queue goes on too: what is due is delivered, what is deferred waits for its
time. With --wait, drain returns when no mail is under way any more, and fails
when that time is over, saying what is left; the relay stays drained either way.
With --flush the deferred messages are tried at once first. What cannot be
delivered stays in the relay's queue, on its disk, until it runs again.`,
		Example: `  postern node drain --dir ~/mail relay1
  postern node drain --dir ~/mail relay1 --wait 5m --flush`,
		Args: cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			switch {
			case off && (wait > 0 || flush):
				return usagef("--wait and --flush are for the beginning, not with --off")
			case wait < 0:
				return usagef("--wait %v: want more than 0", wait)
			case wait == 0 && !flush:
				return a.drain(ctx, f, args[0], !off, fleet.Relay, fleet.Backend, fleet.Witness)
			}
			return a.drainMail(ctx, f, args[0], wait, flush)
		}),
	}
	c.Flags().BoolVar(&off, "off", false, "end it, as undrain does")
	c.Flags().DurationVar(&wait, "wait", 0, "time that the mail of a relay has to get through (default: not waited for)")
	c.Flags().BoolVar(&flush, "flush", false, "try the deferred messages of a relay at once")
	return c
}

// drainMail drains a relay and waits for its mail.
func (a *app) drainMail(ctx context.Context, f *fleet.Fleet, node string, wait time.Duration, flush bool) error {
	n, err := a.named(ctx, f, node)
	if err != nil {
		return err
	}
	if n.Role != fleet.Relay {
		return usagef("--wait and --flush are for a relay, %s is a %s", node, n.Role)
	}
	begin, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	if err := f.Drain(begin, node, true); err != nil {
		return err
	}
	e, err := f.AwaitEmpty(ctx, node, wait, flush)
	if err != nil {
		return err
	}
	if err := a.emit(e, func(w io.Writer) error {
		t := table.New("node", ">connections", ">queued", ">held", ">sessions", ">flushed")
		t.Row(e.Node, e.Connections, e.Queued, e.Held, e.Sessions, e.Flushed)
		return t.Print(w)
	}); err != nil {
		return err
	}
	if wait > 0 && !e.Done() {
		return fmt.Errorf("%s drains, and after %v mail is still under way: %d connections, %d messages queued", node, wait, e.Connections, e.Queued)
	}
	return nil
}

func (a *app) nodeUndrainCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "undrain NODE",
		Short: "Have a node that drains take work again",
		Long: `undrain ends what drain began: a relay takes new connections again, and the others
no longer pass a replica over. A node that does not drain stays as it is.`,
		Example: `  postern node undrain --dir ~/mail relay1`,
		Args:    cobra.ExactArgs(1),
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			return a.drain(ctx, f, args[0], false, fleet.Relay, fleet.Backend, fleet.Witness)
		}),
	}
}

// drained is the answer of the drain commands.
type drained struct {
	Node     string `json:"node"`
	Draining bool   `json:"draining"`
}

func (a *app) drain(ctx context.Context, f *fleet.Fleet, node string, on bool, roles ...string) error {
	n, err := a.named(ctx, f, node)
	if err != nil {
		return err
	}
	if !slices.Contains(roles, n.Role) {
		return fmt.Errorf("%s is a %s", node, n.Role)
	}
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	if err := f.Drain(ctx, node, on); err != nil {
		return err
	}
	return a.emit(drained{node, on}, func(w io.Writer) error {
		text := "drains"
		if !on {
			text = "takes work again"
		}
		_, err := fmt.Fprintln(w, table.Clean(node), text)
		return err
	})
}

// nodeProcessCmd is a command for the supervisor of a development cluster.
func (a *app) nodeProcessCmd(m admin.Method[dev.NodeRequest, dev.NodeProcess], verb, done, short string) *cobra.Command {
	var kill bool
	c := &cobra.Command{
		Use:     verb + " NODE",
		Short:   short,
		Example: `  postern node ` + verb + ` --dir ~/mail pair1-a`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if a.target.dir == "" {
				return usagef("node %s is for a development cluster: give its --dir", verb)
			}
			path := dev.ControlSocket(a.target.dir)
			if _, err := os.Stat(path); err != nil {
				return couldNotRun{fmt.Errorf("no development cluster runs in %s", a.target.dir)}
			}
			cl := admin.NewUnixClient(path)
			defer cl.Close()
			ctx, cancel := context.WithTimeout(c.Context(), changeWithin)
			defer cancel()
			p, err := admin.Call(ctx, cl, m, dev.NodeRequest{Node: args[0], Kill: kill})
			if err != nil {
				return err
			}
			return a.emit(p, func(w io.Writer) error {
				text := done
				if p.PID > 0 {
					text = fmt.Sprintf("%s, pid %d", done, p.PID)
				}
				_, err := fmt.Fprintln(w, table.Clean(p.Node), text)
				return err
			})
		},
	}
	if verb != "start" {
		c.Flags().BoolVar(&kill, "kill", false, "end it at once, by SIGKILL")
	}
	return c
}

// reloaded is what a node says of a reload.
type reloaded struct {
	Node string `json:"node"`
	admin.ReloadResult
	Error string `json:"error,omitempty"`
}

func (a *app) reloadCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "reload [NODE...]",
		Short: "Have nodes read their configuration again",
		Long: `reload makes nodes, by default every one, read their configuration again, like
SIGHUP. A node takes the new one whole or keeps the old one and says why.
Options that need a restart are named.`,
		Example: `  postern reload --dir ~/mail relay1`,
		RunE: a.withFleet(func(ctx context.Context, f *fleet.Fleet, args []string) error {
			nodes := f.Nodes
			if len(args) > 0 {
				nodes = nil
				for _, name := range args {
					n, err := a.named(ctx, f, name)
					if err != nil {
						return err
					}
					nodes = append(nodes, n)
				}
			}
			results := fleet.All(ctx, f, nodes, func(ctx context.Context, n *fleet.Node) (admin.ReloadResult, error) {
				return fleet.Call(ctx, n, admin.Reload, admin.None{})
			})
			out := make([]reloaded, len(results))
			failed := 0
			for i, r := range results {
				out[i] = reloaded{Node: r.Node.Title(), ReloadResult: r.Value}
				if r.Err != nil {
					failed++
					out[i].Error = r.Err.Error()
				}
			}
			if err := a.emit(out, func(w io.Writer) error { return printReloads(w, out) }); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d nodes have not reloaded", failed, len(results))
			}
			return nil
		}),
	}
	return a.onCluster(c)
}

func printReloads(w io.Writer, list []reloaded) error {
	t := table.New("node", "result", "changed", "needs a restart")
	for _, r := range list {
		result := "ok"
		if r.Error != "" {
			result = r.Error
		}
		t.Row(r.Node, result, dash(strings.Join(r.Changed, " ")), dash(strings.Join(r.NeedsRestart, " ")))
	}
	return t.Print(w)
}
