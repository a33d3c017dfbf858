package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/migrate"
)

func (a *app) directoryMigrateCmd(d *directoryFlags) *cobra.Command {
	var to, keep string
	var asAlias []string
	var apply bool
	var steps []string
	for _, s := range migrate.Steps {
		steps = append(steps, string(s))
	}
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Take domains from the DC tree of Schema 1 to Schema 2",
		Long: `migrate writes the changes that take the domains of a DC tree to the organization
tree, as LDIF on standard output, and with --apply makes them. Mail and logins go on
all the time:

1. migrate --to compat gives the organizations their names and settings; the tree
   stays. Then change directory.schema of the relays from sun-schema1 to sun-compat,
   one after the other. Both read the same.
2. migrate --to native brings the organizations up to date with the tree, with
   inetDomainStatus. Then change the relays to sun-schema2. Change no domain between
   this step and the next, or repeat it.
3. migrate --to remove-tree deletes the DC tree, once no relay reads it. --keep names
   a file for what is deleted.

The way back is the preset before, until the tree is removed, and then "postern
directory import" of the file that was kept.

What a relay would make of each domain afterwards is compared with what it makes of
it now, by the same reader, before anything is written and again when it was. A
domain that Schema 2 cannot express keeps the step from being made: an alias with
settings of its own (--as-alias gives them up), one name in two places. Domains
that relays cannot read now either are named and left alone.`,
		Example: `  postern directory migrate --config /etc/postern/relay.yaml --to compat > compat.ldif
  postern directory migrate --config /etc/postern/relay.yaml --bind-dn cn=admin,o=isp --bind-password-file pw \
    --audit /var/log/postern/directory.log --to native --apply`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&to, "to", "", "the step: "+strings.Join(steps, ", "))
	f.StringSliceVar(&asAlias, "as-alias", nil, "domain that becomes an alias, and loses its own settings; more than one with commas")
	f.BoolVar(&apply, "apply", false, "make the changes; otherwise they are only written as LDIF")
	f.StringVar(&keep, "keep", "", "file for the DC tree that is removed, as LDIF")
	f.StringVar(&d.audit, "audit", "", `audit log; "none" keeps none`)
	_ = c.MarkFlagRequired("to")
	_ = c.RegisterFlagCompletionFunc("to", cobra.FixedCompletions(steps, cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, args []string) error {
		step := migrate.Step(to)
		if !slices.Contains(migrate.Steps, step) {
			return usagef("--to %q: want %s", to, strings.Join(steps, ", "))
		}
		if apply && step == migrate.RemoveTree && keep == "" {
			return usagef("--keep FILE: where is what is removed to be kept?")
		}
		d.dryRun, d.hash = !apply, edit.Hashes[0]
		return a.withEditor(d, true, func(ctx context.Context, ed *edit.Editor, _ []string) error {
			return a.migrate(ctx, d, ed, step, asAlias, keep)
		})(c, args)
	}
	return c
}

// migrated is what came of a step.
type migrated struct {
	*migrate.Plan
	Step    migrate.Step `json:"step"`
	Applied bool         `json:"applied"`
}

func (a *app) migrate(ctx context.Context, d *directoryFlags, ed *edit.Editor, step migrate.Step, asAlias []string, keep string) error {
	before := ed.Directory()
	plan, err := migrate.Make(ctx, before, step, asAlias...)
	if err != nil {
		return err
	}
	for _, p := range plan.Problems {
		if p.Broken {
			a.warn("%s is left alone, relays cannot read it now either: %s", p.Domain, p.What)
		} else {
			a.warn("%s: %s", p.Domain, p.What)
		}
	}
	if plan.Blocked() {
		return fmt.Errorf("%s: not made: domains would not be what they are", step)
	}
	after, err := d.reader(step)
	if err != nil {
		return err
	}
	defer after.Close()
	if step == migrate.RemoveTree {
		if err := a.verified(ctx, before, after, plan.Names); err != nil {
			return err
		}
	}
	if keep != "" {
		if err := keepTree(keep, plan); err != nil {
			return err
		}
	}
	out := &migrated{Plan: plan, Step: step, Applied: !d.dryRun}
	if !d.dryRun {
		bar := a.progress("entries", len(plan.Changes))
		err := migrate.Write(ctx, ed, plan, func(int, int) { bar.step() })
		bar.end()
		if err == nil && step != migrate.RemoveTree {
			err = a.verified(ctx, before, after, plan.Names)
		}
		if err != nil {
			return err
		}
	}
	return a.emit(out, func(w io.Writer) error {
		if out.Applied {
			_, err := fmt.Fprintf(w, "%s: %d entries changed, %d domain names read the same\n", step, len(plan.Changes), len(plan.Names))
			return err
		}
		for _, change := range plan.Changes {
			if _, err := w.Write(change.AppendLDIF(nil)); err != nil {
				return err
			}
		}
		return nil
	})
}

// reader is the directory as relays read it after a step.
func (d *directoryFlags) reader(step migrate.Step) (*ldap.Directory, error) {
	cfg := d.opened
	cfg.Schema.Layout = directory.LayoutOrganization
	if step == migrate.Compatible {
		cfg.Schema.Layout = directory.LayoutCompatible
	}
	dir, err := ldap.New(cfg)
	if err != nil {
		return nil, couldNotRun{err}
	}
	return dir, nil
}

// verified compares what two readers make of each name.
func (a *app) verified(ctx context.Context, before, after *ldap.Directory, names []string) error {
	differ, err := migrate.Verify(ctx, before, after, names)
	for _, p := range differ {
		a.warn("%s: %s", p.Domain, p.What)
	}
	if err == nil && len(differ) > 0 {
		err = fmt.Errorf("%d of %d domain names are not read the same", len(differ), len(names))
	}
	return err
}

func keepTree(file string, plan *migrate.Plan) error {
	w, end, err := newFile(file)
	if err != nil {
		return err
	}
	_, err = w.Write(plan.Kept())
	return end(err)
}
