package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/netns"
	"github.com/postern-mail/postern/ha/drill/report"
)

// drillFlags are the options of `drill run`.
type drillFlags struct {
	dir, cluster string
	other, logs  string
	namespaces   bool
	o            drill.Options
	out          drillOutputs
}

// drillOutputs are the files that a report is written to.
type drillOutputs struct{ html, junit, save string }

func (a *app) drillCmd() *cobra.Command {
	return group("drill", "Break a cluster under load and count what was lost",
		`drill breaks a running cluster on purpose while senders keep a record outside it
of what they were told, and then reads every mailbox: each acknowledged message
has to be there exactly once, one without a final answer at most once, a refused
one not at all. It measures the longest time without an answer on each tier, and
compares the replicas.`,
		a.drillListCmd(), a.drillRunCmd(), a.drillSoakCmd(), a.drillCleanCmd(), a.drillReportCmd())
}

func (a *app) drillListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the scenarios",
		Long: `list shows every scenario with what is expected of the cluster, and the limits:
the longest time without an acknowledged delivery, and without an answer to a
user at work by IMAP. Where an outage is expected, they count from its end.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type row struct {
				Name    string       `json:"name"`
				Summary string       `json:"summary"`
				Expect  string       `json:"expected"`
				Needs   []drill.Kind `json:"needs"`
				Relays  int          `json:"relays"`
				SMTP    int64        `json:"smtp_limit_ms"`
				IMAP    int64        `json:"imap_limit_ms"`
				Outage  bool         `json:"outage"`
			}
			var rows []row
			for _, s := range drill.Scenarios() {
				rows = append(rows, row{s.Name, s.Summary, s.Expect, s.Needs, s.Relays, s.SMTP.Milliseconds(), s.IMAP.Milliseconds(), s.Outage})
			}
			return a.emit(rows, func(w io.Writer) error {
				t := table.New("scenario", ">smtp", ">imap", "fault")
				for _, s := range drill.Scenarios() {
					t.Row(s.Name, s.SMTP.String(), s.IMAP.String(), s.Summary)
				}
				return t.Print(w)
			})
		},
	}
}

const drillRunLong = `run goes through the scenarios named, or all that the target can do with the
name all: it waits until the cluster is well, sends mail at a steady rate to the
users of one pair while one user works by IMAP, injects the fault, makes sure
that the fault is real, takes it back, waits until queues are empty, and checks.

The target is one of

  --dir DIR      a development cluster on this machine. Nodes are killed, stopped
                 and frozen; directory-outage freezes the process of postern dev
                 for some seconds.
  --namespaces   a cluster of the drill's own, made new for each scenario: each
                 node in its own network namespace behind a firewall (dmz, data,
                 management), so that links can be cut. Needs root, ip and nft.
                 Everything it makes has the prefix pst- and is removed at the end;
                 after a SIGKILL of the drill, drill clean removes what is left.
  --cluster FILE a cluster described by a file (YAML): addresses of its relays and
                 admin ports, users, and commands for the faults that it allows.

--negative-control takes one acknowledged message out of a mailbox behind the
record's back. The run must then fail and name that message.

Whatever was done to the cluster is undone at the end, also after ^C. The mail
stays: name users who are there for it. The user at work, the first one of the
pair, gets a folder Drill.

Exit status: 0 every scenario passed; 1 the cluster broke a promise or a limit;
2 a scenario could not be run or judged, which never counts as passed.`

const drillFileHelp = `

The file of --cluster:

  title: mail.example.com
  ca: ca.pem                     # of the relays' IMAP certificates; "" is the system's
  server_name: imap.example.com  # that the certificates are for; "" is each host
  admin: {cert: admin.pem, key: admin-key.pem, ca: ca.pem}
  nodes:
    - {name: relay1, role: relay, smtp: "192.0.2.1:25", imaps: "192.0.2.1:993", admin: "192.0.2.1:7443"}
    - {name: pair1-a, role: data, pair: pair1, admin: "192.0.2.11:7443"}
    - {name: pair1-b, role: data, pair: pair1, admin: "192.0.2.12:7443"}
    - {name: pair1-w, role: witness, pair: pair1, admin: "192.0.2.13:7443"}
  users:
    - {login: drill1, password_file: drill1.pw, address: drill1@example.com, pair: pair1}
  allow: [transfer, stop, start]  # nothing else is ever done; see drill list --output json
  hooks:                          # run by sh with DRILL_NODE, DRILL_PEERS, DRILL_PORTS, DRILL_ACTION
    stop: ssh "$DRILL_NODE" systemctl stop postern-backend
    start: ssh "$DRILL_NODE" systemctl start postern-backend
    # see-ACTION succeeds when the fault is there, and prints what it saw; an action
    # that does not silence a node, as cuts and fill-disk, needs one. move-users gets
    # addresses on standard input and prints JSON; DRILL_UNTOLD is a relay that is to
    # learn nothing of it
    move-users: postern directory user move --list - --to "$DRILL_PAIR" --output json --config relay.yaml ...`

func (a *app) drillRunCmd() *cobra.Command {
	var fl drillFlags
	c := &cobra.Command{
		Use:   "run NAME...",
		Short: "Run scenarios",
		Long:  drillRunLong + drillFileHelp,
		Example: `  postern drill run kill-serving --dir ~/mail --for 20s --output json
  postern drill run all --namespaces --html drill.html
  postern drill run random --dir ~/mail --for 10m --seed 7
  postern drill run kill-serving --dir ~/mail --negative-control`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE:              func(c *cobra.Command, args []string) error { return a.untilHangup(c, &fl, args) },
	}
	fl.flags(c, 20*time.Second, 8, 100, 1)
	return c
}

func (a *app) untilHangup(c *cobra.Command, fl *drillFlags, names []string) error {
	ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP)
	defer stop()
	return a.runDrills(ctx, fl, names)
}

func (a *app) drillSoakCmd() *cobra.Command {
	var fl drillFlags
	c := &cobra.Command{
		Use:   "soak",
		Short: "Make random faults for a long time, by a seed",
		Long: `soak is drill run random for an hour, with 50 messages a second and 200 sessions by
IMAP: one fault after the other of those that the target can do, on a node that the
seed chooses, each taken back and the cluster well before the next one comes. There
are faults for all of --for; the load begins two minutes before at most and ends two
after. The report names the seed; the same seed gives the same faults in the same
order.`,
		Example: `  postern drill soak --namespaces --save soak.json
  postern drill soak --namespaces --seed 7 --for 10m`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.untilHangup(c, &fl, []string{"random"}) },
	}
	fl.flags(c, time.Hour, 16, 50, 200)
	return c
}

func (a *app) drillCleanCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "clean",
		Short: "Remove what killed drills have left in namespaces",
		Long: `clean removes the network namespaces and folders of drills --namespaces whose program
was killed, and thaws the disks that they had slowed down. Drills that run are left
alone. drill run --namespaces does the same when it begins.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			removed, err := netns.Clean(c.Context())
			if err != nil {
				return couldNotRun{err}
			}
			return a.emit(removed, func(w io.Writer) error {
				for _, name := range removed {
					if _, err := fmt.Fprintf(w, "removed %s\n", name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// flags are those of run and soak.
func (fl *drillFlags) flags(c *cobra.Command, long time.Duration, senders, rate, sessions int) {
	f := c.Flags()
	f.StringVar(&fl.dir, "dir", "", "folder of a development cluster")
	f.StringVar(&fl.other, "other", "", "folder with the programs of another release, for rolling-upgrade on a development cluster or in namespaces")
	f.StringVar(&fl.logs, "logs", "", "folder for the logs of the nodes in namespaces, which are gone otherwise")
	f.BoolVar(&fl.namespaces, "namespaces", false, "make a cluster in network namespaces")
	f.StringVar(&fl.cluster, "cluster", "", "file that describes a cluster and what may be done to it")
	f.DurationVar(&fl.o.For, "for", long, "time of the load; of random, of its faults")
	f.DurationVar(&fl.o.Hold, "hold", 0, "time of a fault that lasts (default: two fifths of --for)")
	f.StringVar(&fl.o.Pair, "pair", "", "pair that is hurt (default: the first)")
	f.IntVar(&fl.o.Senders, "senders", senders, "senders at the same time")
	f.IntVar(&fl.o.Sessions, "sessions", sessions, "sessions of users by IMAP at the same time")
	f.IntVar(&fl.o.Users, "users", 0, "users who get mail (default: 40, of user-move 100, or all when there are fewer)")
	f.IntVar(&fl.o.Rate, "rate", rate, "messages per second")
	f.IntVar(&fl.o.Size, "size", 4096, "octets of a message")
	f.Uint64Var(&fl.o.Seed, "seed", 0, "of random faults; the same gives the same faults (default: a new one)")
	f.Float64Var(&fl.o.Slack, "slack", 1, "multiply the limits of gaps, for a slow or busy machine")
	f.BoolVar(&fl.o.NegativeControl, "negative-control", false, "remove an acknowledged message: the run must fail")
	f.StringVar(&fl.out.save, "save", "", "file to write the report to, as JSON, for drill report")
	fl.out.flags(c)
	c.MarkFlagsMutuallyExclusive("dir", "namespaces", "cluster")
	_ = c.MarkFlagDirname("dir")
	_ = c.MarkFlagDirname("other")
	_ = c.MarkFlagDirname("logs")
	_ = c.MarkFlagFilename("cluster", "yaml", "yml")
}

func (o *drillOutputs) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.html, "html", "", "file to write one self-contained page to")
	c.Flags().StringVar(&o.junit, "junit", "", "file to write JUnit XML to")
}

func completeScenarios(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := []string{"all"}
	for _, s := range drill.Scenarios() {
		if !slices.Contains(args, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// chosen are the scenarios that were named; byName reports whether each was.
func chosen(names []string) (list []*drill.Scenario, byName bool, err error) {
	if slices.Contains(names, "all") {
		if len(names) > 1 {
			return nil, false, errors.New("all is every scenario: name no others with it")
		}
		return drill.Scenarios(), false, nil
	}
	for _, n := range names {
		s, err := drill.Find(n)
		if err != nil {
			return nil, false, fmt.Errorf("%w; `postern drill list` shows them", err)
		}
		list = append(list, s)
	}
	return list, true, nil
}

func (a *app) runDrills(ctx context.Context, fl *drillFlags, names []string) error {
	list, byName, err := chosen(names)
	if err != nil {
		return couldNotRun{err}
	}
	if err := fl.o.Fill(); err != nil {
		return couldNotRun{err}
	}
	open, err := fl.target()
	if err != nil {
		return couldNotRun{err}
	}
	rep := &drill.Report{Version: drill.ReportVersion, Program: "postern " + version.String(), Started: time.Now()}
	live := newLiveLine(a.err, isTerminal(a.err))
	for _, s := range list {
		if ctx.Err() != nil {
			break
		}
		res := one(ctx, open, s, fl.o, rep, live, byName)
		rep.Results = append(rep.Results, res)
		live.end(res)
	}
	rep.Ended = time.Now()
	return a.deliver(rep, &fl.out)
}

// one runs a scenario on a target that it opens and closes.
func one(ctx context.Context, open opener, s *drill.Scenario, o drill.Options, rep *drill.Report, live *liveLine, byName bool) *drill.Result {
	live.begin(s.Name)
	res := &drill.Result{Scenario: s.Name, Summary: s.Summary, Expect: s.Expect, Verdict: drill.Errored, Started: time.Now(), Checks: []drill.Check{}}
	if !byName {
		if err := open.can(s); err != nil {
			res.Verdict, res.Reason, res.Ended = drill.Skipped, err.Error(), time.Now()
			return res
		}
	}
	t, end, err := open.open(ctx, s)
	if err != nil {
		res.Reason, res.Ended = err.Error(), time.Now()
		return res
	}
	rep.Target = t.Title()
	if err := s.Possible(t); err != nil && !byName {
		res.Verdict, res.Reason, res.Ended = drill.Skipped, err.Error(), time.Now()
	} else {
		o.Progress = live.show
		res = drill.Run(ctx, t, s, o)
	}
	if err := end(); err != nil {
		res.Events = append(res.Events, drill.Event{At: time.Now(), Text: "cleaning up: " + err.Error()})
	}
	return res
}

// deliver writes a report everywhere it is wanted, and returns the error that
// its verdict asks for.
func (a *app) deliver(rep *drill.Report, out *drillOutputs) error {
	for _, f := range []struct {
		name  string
		write func(io.Writer, *drill.Report) error
	}{{out.save, report.JSON}, {out.junit, report.JUnit}, {out.html, report.HTML}} {
		if f.name == "" {
			continue
		}
		if err := writeFile(f.name, func(w io.Writer) error { return f.write(w, rep) }); err != nil {
			return couldNotRun{err}
		}
	}
	if err := a.emit(rep, func(w io.Writer) error { return report.Text(w, rep) }); err != nil {
		return couldNotRun{err}
	}
	switch rep.Verdict() {
	case drill.Failed:
		return fmt.Errorf("%d of %d scenarios failed", rep.Count(drill.Failed), len(rep.Results))
	case drill.Errored:
		return couldNotRun{fmt.Errorf("%d of %d scenarios could not be run or judged", rep.Count(drill.Errored)+rep.Count(drill.Skipped), len(rep.Results))}
	}
	return nil
}

func writeFile(name string, write func(io.Writer) error) error {
	var b strings.Builder
	if err := write(&b); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(b.String()), 0o644)
}

func (a *app) drillReportCmd() *cobra.Command {
	var out drillOutputs
	c := &cobra.Command{
		Use:   "report FILE",
		Short: "Show a report that was saved",
		Long: `report shows a report that drill run has written with --save, as text, JSON, JUnit
or as a page. The exit status is that of the run.`,
		Example: `  postern drill report drill.json --html drill.html`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			rep, err := report.Read(args[0])
			if err != nil {
				return couldNotRun{err}
			}
			return a.deliver(rep, &out)
		},
	}
	out.flags(c)
	return c
}
