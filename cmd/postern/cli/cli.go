/*
Package cli is the command line of postern, one file for each command.

A command prints its answer on standard output, as a table for people or, with
--output json, as one JSON value for programs, whose fields are only added
within a version. Everything else, warnings and progress, goes to standard
error. The exit status is 0 when what was asked for is done, 1 when it failed,
2 when the command was given wrongly or could not run.

The commands hold no knowledge of a node's inside: they call package fleet,
which calls the admin API, and print.
*/
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/cmd/postern/table"
)

// Exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// app is one call of the program.
type app struct {
	in       io.Reader
	out, err io.Writer
	output   string // table or json
	started  bool   // the command line was understood
	target   target
}

// couldNotRun marks an error that means that nothing was tried.
type couldNotRun struct{ error }

func (e couldNotRun) Unwrap() error { return e.error }

// usagef is an error in how a command was given.
func usagef(format string, args ...any) error { return couldNotRun{fmt.Errorf(format, args...)} }

// Main runs the command of args and returns the exit status.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program as ever
	return run(ctx, args, in, out, errOut)
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(errOut, "postern: %s\n", cleanLines(err.Error()))
	var could couldNotRun
	if !a.started || errors.As(err, &could) {
		return ExitUsage
	}
	return ExitFailed
}

// cleanLines makes each line of an error, which may quote a node, safe for a
// terminal.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = table.Clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// root is the whole command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "postern",
		Short: "Run and look after Postern mail clusters",
		Long: `postern runs a development cluster on this machine and looks after clusters:
it asks nodes and steers them through their admin API.

Which cluster: --dir DIR for a development cluster in DIR, or the state
directory of a node on this machine; --node ADDRESS with --cert, --key and --ca
for the admin port of a node, which leads to the others.

Exit status: 0 done, 1 failed, 2 wrongly given or could not run.`,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(c.ValidateRequiredFlags(), c.ValidateFlagGroups()); err != nil {
				return err // cobra would look at them later only
			}
			if !slices.Contains([]string{outTable, outJSON}, a.output) {
				return usagef("--output %s: want %s or %s", a.output, outTable, outJSON)
			}
			a.started = true
			return nil
		},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("postern {{.Version}}\n")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", outTable, "form of the answer: table or json")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outTable, outJSON}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.devCmd(), a.statusCmd(), a.traceCmd(), a.queueCmd(), a.pairCmd(), a.mailboxCmd(), a.nodeCmd(), a.reloadCmd(),
		a.drillCmd(), a.pkiCmd(), a.gossipCmd(), a.configCmd(), a.versionCmd(), a.docsCmd(),
		a.testCmd(), a.directoryCmd(), a.backupCmd(), a.storeCmd(), a.upgradeCmd(), a.probeCmd(), a.benchCmd(),
	)
	return root
}

const (
	outTable = "table"
	outJSON  = "json"
)

// emit prints v as JSON, or calls show for people.
func (a *app) emit(v any, show func(w io.Writer) error) error {
	if a.output == outJSON {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	return show(a.out)
}

// warn tells the operator something beside the answer.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.err, "postern: %s\n", cleanLines(fmt.Sprintf(format, args...)))
}

// group is a command that only has commands below it.
func group(use, short, long string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_ = c.Usage()
			return usagef("%s: which command?", c.CommandPath())
		},
	}
	c.AddCommand(sub...)
	return c
}
