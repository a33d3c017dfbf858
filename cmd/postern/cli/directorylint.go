package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/lint"
)

var severities = []string{string(lint.Error), string(lint.Warning), string(lint.Note)}

func (a *app) directoryLintCmd(d *directoryFlags) *cobra.Command {
	var least string
	var limit int
	c := &cobra.Command{
		Use:   "lint",
		Short: "Find what is wrong in the directory",
		Long: `lint reads the whole directory, in pages, and tells of each fault the entry, the
attribute, what it means for mail and how to mend it: entries that cannot receive
mail, addresses and uids with several owners, lists that contain each other,
members and forwards that lead nowhere, mailHost that names no pair, unknown
delivery options, statuses that contradict each other, values that cannot be read,
domains with one name.

It reads the entries as relays do. --pairs names the pairs; without it, and
without --dir, mailHost is not compared with anything.

The exit status is 1 when there are faults of severity error.`,
		Example: `  postern directory lint --dir ~/mail
  postern directory lint --config /etc/postern/relay.yaml --pairs pair1,pair2 --severity error --output json`,
		Args: cobra.NoArgs,
		RunE: a.withDirectory(d, func(ctx context.Context, dir *ldap.Directory, _ []string) error {
			if !slices.Contains(severities, least) {
				return usagef("--severity %q: want %s", least, strings.Join(severities, ", "))
			}
			if limit < 1 {
				return usagef("--limit %d: want at least 1", limit)
			}
			pair := d.pair()
			if pair == nil {
				a.warn("the pairs are not known, so mailHost is not checked: see --pairs")
			}
			out := &lintOutput{a: a}
			sum, err := lint.Run(ctx, lint.Config{Directory: dir, Pair: pair, Options: expand.Options, Access: login.CheckFilter, Limit: limit, Least: lint.Severity(least), Progress: a.entriesRead()}, out.tell)
			if errors.Is(err, lint.ErrLimit) {
				a.warn("there are more findings than the first %d: see --limit", limit)
				err = nil
			}
			if eerr := out.end(sum, err); err == nil {
				err = eerr
			}
			if err == nil && sum.Errors > 0 {
				err = fmt.Errorf("%d errors in the directory", sum.Errors)
			}
			return err
		}),
	}
	c.Flags().StringVar(&least, "severity", string(lint.Note), "least severity that is printed: "+strings.Join(severities, ", "))
	c.Flags().IntVar(&limit, "limit", lint.DefaultLimit, "most findings")
	_ = c.RegisterFlagCompletionFunc("severity", cobra.FixedCompletions(severities, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// entriesRead shows on a terminal how far lint is; the end is not known.
func (a *app) entriesRead() func(int) {
	if !isTerminal(a.err) {
		return nil
	}
	return func(n int) {
		if n%5000 == 0 {
			fmt.Fprintf(a.err, "\r%d entries read ", n)
		}
	}
}

// lintOutput prints findings as they come, so that none is kept.
type lintOutput struct {
	a *app
	n int
}

func (o *lintOutput) tell(f lint.Finding) error {
	o.n++
	w := o.a.out
	if o.a.output != outJSON {
		return printFinding(w, f)
	}
	lead := ",\n    "
	if o.n == 1 {
		lead = "{\n  \"findings\": [\n    "
	}
	text, err := json.Marshal(f)
	if err == nil {
		_, err = fmt.Fprintf(w, "%s%s", lead, text)
	}
	return err
}

func printFinding(w io.Writer, f lint.Finding) error {
	attr := ""
	if f.Attribute != "" {
		attr = "  " + f.Attribute
		if f.Value != "" {
			attr += ": " + f.Value
		}
		attr += "\n"
	}
	others := ""
	for _, dn := range f.Others {
		others += "  and " + table.Clean(dn) + "\n"
	}
	_, err := fmt.Fprintf(w, "%s (%s): %s\n%s%s  %s\n  To mend: %s\n\n", f.Severity, f.Rule, table.Clean(f.DN), others, cleanLines(attr), f.Meaning, f.Mend)
	return err
}

// end completes the output; err says that it is not whole.
func (o *lintOutput) end(sum lint.Summary, failed error) error {
	w := o.a.out
	if o.a.output == outJSON {
		if o.n == 0 {
			fmt.Fprint(w, "{\n  \"findings\": [")
		}
		text, err := json.Marshal(sum)
		if err == nil {
			_, err = fmt.Fprintf(w, "\n  ],\n  \"complete\": %v,\n  \"summary\": %s\n}\n", failed == nil, text)
		}
		return err
	}
	_, err := fmt.Fprintf(w, "%d domains, %d entries (%d users, %d groups): %d errors, %d warnings, %d notes\n",
		sum.Domains, sum.Entries, sum.Users, sum.Groups, sum.Errors, sum.Warnings, sum.Notes)
	return err
}
