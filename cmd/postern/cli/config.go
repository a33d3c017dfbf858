package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

func (a *app) configCmd() *cobra.Command {
	return group("config", "Options of the daemons", "", a.configReferenceCmd(), a.configCheckCmd(), a.configShowCmd(), a.configDiffCmd())
}

func (a *app) configReferenceCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "reference",
		Short:   "Print every option of the daemons, in Markdown",
		Example: `  postern config reference > options.md`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.output == outJSON {
				return a.emit(options(), nil)
			}
			return config.Reference(a.out)
		},
	}
}

// roleFlag adds --role, the daemon that a file is for.
func roleFlag(c *cobra.Command, role *string) {
	c.Flags().StringVar(role, "role", "", "daemon that the file is for: relay, backend or witness")
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"relay", "backend", "witness"}, cobra.ShellCompDirectiveNoFileComp))
}

// daemonConfig is what can be done with the files of one kind of daemon.
type daemonConfig struct {
	settings func(file string, env bool) ([]config.Setting, error)
	compare  func(old, next string) ([]config.Difference, error)
}

func configOf[T config.Node]() daemonConfig {
	load := func(file string, env bool) (*T, error) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, couldNotRun{err}
		}
		return config.Parse[T](file, text, env, nil)
	}
	return daemonConfig{
		settings: func(file string, env bool) ([]config.Setting, error) {
			c, err := load(file, env)
			if err != nil {
				return nil, err
			}
			return config.Settings(c), nil
		},
		compare: func(old, next string) ([]config.Difference, error) {
			was, err := load(old, config.NoEnv)
			is, nerr := load(next, config.NoEnv)
			if err = errors.Join(err, nerr); err != nil {
				return nil, err
			}
			return config.Compare(was, is), nil
		},
	}
}

func daemonOf(role string) (daemonConfig, error) {
	switch role {
	case fleet.Relay:
		return configOf[config.Relay](), nil
	case fleet.Backend:
		return configOf[config.Backend](), nil
	case fleet.Witness:
		return configOf[config.Witness](), nil
	case "":
		return daemonConfig{}, usagef("give --role of the file, or --dir or --node for a node that runs")
	}
	return daemonConfig{}, usagef("--role %q: want relay, backend or witness", role)
}

func (a *app) configCheckCmd() *cobra.Command {
	var role string
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check the configuration file of a node",
		Long: `check reads a configuration file as the daemon of --role would, with the
POSTERN_* variables of the environment, and names every fault with its line.`,
		Example: `  postern config check --role relay /etc/postern/relay.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			d, err := daemonOf(role)
			if err != nil {
				return err
			}
			if _, err := d.settings(args[0], config.Env); err != nil {
				return err
			}
			return a.emit(map[string]any{"file": args[0], "ok": true}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s is good for a %s\n", args[0], role)
				return err
			})
		},
	}
	roleFlag(c, &role)
	_ = c.MarkFlagRequired("role")
	return c
}

// overNode reports whether the flags name a node that runs.
func (a *app) overNode() bool { return a.target.dir != "" || len(a.target.nodes) > 0 }

func (a *app) configShowCmd() *cobra.Command {
	var role string
	var given bool
	c := &cobra.Command{
		Use:   "show FILE --role ROLE | [NODE] --dir DIR",
		Short: "Show every option with its value and where that comes from",
		Long: `show prints every option with the value that is used and its source: default, the
line of the file, the variable of the environment, or the flag of the daemon.
Secrets are shown as ***; of files with secrets only the name is.

With --role it reads FILE as that daemon would, with the POSTERN_* variables of
the environment. With --dir or --node it asks a node that runs; NODE may be left
out where the flags name only one.`,
		Example: `  postern config show --role relay /etc/postern/relay.yaml
  postern config show --dir ~/mail relay1 --given`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := a.settings(c.Context(), role, args)
			if err != nil {
				return err
			}
			out := []config.Setting{}
			for _, s := range settings {
				if !given || s.Source != config.SourceDefault {
					out = append(out, s)
				}
			}
			return a.emit(out, func(w io.Writer) error {
				t := table.New("option", "value", "source")
				for _, s := range out {
					t.Row(s.Name, dash(s.Value), s.Source)
				}
				return t.Print(w)
			})
		},
	}
	roleFlag(c, &role)
	c.Flags().BoolVar(&given, "given", false, "leave out what has its default")
	return a.onCluster(c)
}

func (a *app) settings(ctx context.Context, role string, args []string) (out []config.Setting, err error) {
	if !a.overNode() {
		d, err := daemonOf(role)
		if err != nil {
			return nil, err
		}
		if len(args) == 0 {
			return nil, usagef("which FILE?")
		}
		return d.settings(args[0], config.Env)
	}
	if role != "" {
		return nil, usagef("--role is for a file, --dir and --node are for a node that runs")
	}
	err = a.onNode(ctx, args, func(ctx context.Context, n *fleet.Node) error {
		c, err := fleet.Call(ctx, n, admin.GetConfig, admin.None{})
		if err != nil {
			return err
		}
		if c.Settings == nil {
			return fmt.Errorf("%s runs a release that does not say where its options come from: see postern node config", n.Title())
		}
		for _, s := range c.Settings {
			out = append(out, config.Setting(s))
		}
		return nil
	})
	return out, err
}

// onNode calls f for the node that args and the flags name.
func (a *app) onNode(ctx context.Context, args []string, f func(ctx context.Context, n *fleet.Node) error) error {
	fl, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer fl.Close()
	var n *fleet.Node
	switch {
	case len(args) == 1:
		if n, err = a.named(ctx, fl, args[0]); err != nil {
			return err
		}
	case len(fl.Nodes) == 1:
		n = fl.Nodes[0]
	default:
		return usagef("which NODE?")
	}
	ctx, cancel := context.WithTimeout(ctx, a.target.timeout)
	defer cancel()
	return f(ctx, n)
}

// difference is a row of config diff.
type difference struct {
	config.Difference
	Takes string `json:"takes"` // "reload" or "restart"
}

func (a *app) configDiffCmd() *cobra.Command {
	var role string
	var status bool
	c := &cobra.Command{
		Use:   "diff FILE NEWER --role ROLE | NEWER [NODE] --dir DIR",
		Short: "Show what another file would change, and what that takes",
		Long: `diff shows the options in which the file NEWER differs from FILE, or, with --dir or
--node, from what a node that runs uses now, and for each whether a reload is
enough or a restart is needed. Nothing is changed.

Two files are read without the environment. A node is given the text of NEWER and
compares it itself: its own environment and flags, which win over a file, stay
what they are, and a file that it would refuse is refused with the line. Secrets
are compared and shown as ***. Of files that options name, such as certificates,
the names are compared, not what is in them.`,
		Example: `  postern config diff --role backend old.yaml new.yaml
  postern config diff --dir ~/mail new.yaml relay1`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.differences(c.Context(), role, args)
			if err != nil {
				return err
			}
			out := make([]difference, len(list))
			for i, d := range list {
				out[i] = difference{d, "restart"}
				if d.Reload {
					out[i].Takes = "reload"
				}
			}
			if err := a.emit(out, func(w io.Writer) error { return printDifferences(w, out) }); err != nil {
				return err
			}
			if status && len(out) > 0 {
				return fmt.Errorf("%d options differ", len(out))
			}
			return nil
		},
	}
	roleFlag(c, &role)
	c.Flags().BoolVar(&status, "exit-code", false, "exit with 1 when there are differences")
	return a.onCluster(c)
}

func (a *app) differences(ctx context.Context, role string, args []string) (out []config.Difference, err error) {
	if !a.overNode() {
		d, err := daemonOf(role)
		if err != nil {
			return nil, err
		}
		if len(args) != 2 {
			return nil, usagef("give two files, or --dir or --node for a node that runs")
		}
		return d.compare(args[0], args[1])
	}
	if role != "" {
		return nil, usagef("--role is for two files, --dir and --node are for a node that runs")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return nil, couldNotRun{err}
	}
	err = a.onNode(ctx, args[1:], func(ctx context.Context, n *fleet.Node) error {
		c, err := fleet.Call(ctx, n, admin.CompareConfig, admin.ConfigText{Name: filepath.Base(args[0]), Text: string(text)})
		for _, d := range c.Differences {
			out = append(out, config.Difference(d))
		}
		return err
	})
	return out, err
}

func printDifferences(w io.Writer, list []difference) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no differences")
		return err
	}
	t := table.New("option", "old", "from", "new", "from", "takes")
	restart := 0
	for _, d := range list {
		if !d.Reload {
			restart++
		}
		t.Row(d.Name, dash(d.Old), dash(d.OldSource), dash(d.New), dash(d.NewSource), d.Takes)
	}
	if err := t.Print(w); err != nil {
		return err
	}
	if restart == 0 {
		_, err := fmt.Fprintln(w, "\na reload is enough")
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d of %d need a restart\n", restart, len(list))
	return err
}

// option is one row of the reference.
type option struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Unit    string   `json:"unit,omitempty"`
	Default string   `json:"default"`
	Tier    string   `json:"tier"`
	Reload  bool     `json:"reload"`
	Fixed   string   `json:"restart_because,omitempty"`
	Need    bool     `json:"must_be_given"`
	Values  []string `json:"values,omitempty"`
	Help    string   `json:"help"`
}

func options() []option {
	out := make([]option, 0, len(config.Table))
	for _, o := range config.Table {
		out = append(out, option{o.Name, string(o.Type), o.Unit, o.Default, o.Tier.String(), o.Reload, o.Fixed, o.Need, o.Values, o.Help})
	}
	return out
}
