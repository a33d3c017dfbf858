package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/lint"
)

// sample is what the examples of a kind are about.
var sample = map[edit.Kind]struct{ name, arg, add, set string }{
	edit.Domain: {"example.org", "DOMAIN", "--mail-host pair1 --alias example.net", "--status inactive"},
	edit.User:   {"ana@example.org", "ADDRESS", `--name "Ana Silva" --quota 50M --mail-host pair1 --password-stdin`, "--quota 1G --add alternate=a.silva@example.org"},
	edit.Group:  {"staff@example.org", "ADDRESS", "--member ana@example.org --member bob@example.org", "--add member=eva@example.org --remove member=bob@example.org"},
}

func (a *app) directoryKindCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	verbs := []*cobra.Command{
		a.directoryAddCmd(d, kind), a.directorySetCmd(d, kind), a.directoryShowCmd(d, kind),
		a.directoryListCmd(d, kind), a.directoryRenameCmd(d, kind), a.directoryDeleteCmd(d, kind),
	}
	if kind == edit.User {
		verbs = append(verbs, a.directoryMoveCmd(d))
	}
	return group(string(kind), "Add, change, show, list and delete "+string(kind)+"s", "", verbs...)
}

// fieldFlags are the flags for the fields of a kind.
type fieldFlags struct {
	kind            edit.Kind
	one             map[string]*string
	many            map[string]*[]string
	attrs           []string
	add, less, drop []string
	fromIn, ask     bool
	below           string
}

func newFieldFlags(c *cobra.Command, kind edit.Kind, adding bool) *fieldFlags {
	ff := &fieldFlags{kind: kind, one: map[string]*string{}, many: map[string]*[]string{}}
	f := c.Flags()
	for _, field := range edit.Fields(kind) {
		switch {
		case field.Name == "password" || field.Name == "address" && adding:
		case field.Multi:
			ff.many[field.Name] = f.StringArray(field.Name, nil, field.Help+"; may be given several times")
		default:
			ff.one[field.Name] = f.String(field.Name, "", field.Help)
		}
	}
	f.StringArrayVar(&ff.attrs, "attr", nil, "value of another attribute, NAME=VALUE; may be given several times")
	if kind == edit.User {
		f.BoolVar(&ff.fromIn, "password-stdin", false, "set the password to the first line of standard input")
		f.BoolVar(&ff.ask, "password-prompt", false, "ask for the password on the terminal")
		c.MarkFlagsMutuallyExclusive("password-stdin", "password-prompt")
	}
	if adding {
		f.StringVar(&ff.below, "below", "", "name of the entry to add it below (default: ou=people or ou=groups of the domain)")
		return ff
	}
	f.StringArrayVar(&ff.add, "add", nil, "add a value, FIELD=VALUE; may be given several times")
	f.StringArrayVar(&ff.less, "remove", nil, "take a value away, FIELD=VALUE; may be given several times")
	f.StringArrayVar(&ff.drop, "clear", nil, "remove all values of a field; may be given several times")
	return ff
}

// request is what the flags ask for.
func (ff *fieldFlags) request(c *cobra.Command, a *app, op edit.Op, name string) (edit.Request, error) {
	req := edit.Request{Op: op, Kind: ff.kind, Name: name, Below: ff.below, Values: edit.Values{}, More: edit.Values{}, Less: edit.Values{}}
	for field, v := range ff.one {
		if c.Flags().Changed(field) {
			req.Values[field] = nonEmpty([]string{*v})
		}
	}
	for field, v := range ff.many {
		if c.Flags().Changed(field) {
			req.Values[field] = nonEmpty(*v)
		}
	}
	for _, field := range ff.drop {
		req.Values[field] = nil
	}
	for _, p := range []struct {
		flag   string
		given  []string
		into   edit.Values
		prefix string
	}{{"attr", ff.attrs, req.Values, "attr:"}, {"add", ff.add, req.More, ""}, {"remove", ff.less, req.Less, ""}} {
		for _, text := range p.given {
			field, value, ok := strings.Cut(text, "=")
			if !ok || field == "" {
				return req, usagef("--%s %q: want NAME=VALUE", p.flag, text)
			}
			p.into[p.prefix+field] = append(p.into[p.prefix+field], nonEmpty([]string{value})...)
		}
	}
	var password string
	var err error
	switch {
	case ff.fromIn:
		password, err = readPassword(a.in)
	case ff.ask:
		password, err = prompt(a.in, a.err)
	default:
		return req, nil
	}
	req.Values["password"] = []string{password}
	return req, err
}

// nonEmpty leaves the empty values out: an empty value of a flag removes.
func nonEmpty(values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
}

func (a *app) directoryAddCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	s := sample[kind]
	c := &cobra.Command{
		Use:   "add " + s.arg,
		Short: "Add a " + string(kind),
		Long: map[edit.Kind]string{
			edit.Domain: `add makes the entry of a domain and, below it, ou=people and ou=groups. With a DC
tree (sun-schema1, sun-compat) it makes the domain's node, those on the way to
it, a node for each alias, and the organization, unless --users-base names one.
Of a domain that is in the configuration it makes the base.`,
			edit.User: `add makes a user who can receive mail. The uid is the local part of the address,
the pair is the one that the domain prefers, unless they are given. With --forward
and without --option a copy is kept. The password never stands on the command
line: it is read from standard input or asked for, and stored as a hash.`,
			edit.Group: `add makes a mailing list. A member that is an address of this directory is kept
as the name of its entry, so that it may change its address.`,
		}[kind],
		Example: "  postern directory " + string(kind) + " add --dir ~/mail " + s.name + " " + s.add,
		Args:    cobra.ExactArgs(1),
	}
	d.writeFlags(c)
	ff := newFieldFlags(c, kind, true)
	c.RunE = func(c *cobra.Command, args []string) error {
		req, err := ff.request(c, a, edit.Add, args[0])
		if err != nil {
			return err
		}
		return a.withEditor(d, true, a.change(d, req))(c, args)
	}
	return c
}

func (a *app) directorySetCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	s := sample[kind]
	c := &cobra.Command{
		Use:   "set " + s.arg + "|DN",
		Short: "Change a " + string(kind),
		Long: `set changes what is given and leaves the rest. A field that is given gets these
values and no others; --add and --remove change some of several values, --clear
or an empty value removes them all.`,
		Example: "  postern directory " + string(kind) + " set --dir ~/mail " + s.name + " " + s.set + "\n  postern directory " +
			string(kind) + " set --dir ~/mail " + s.name + " --status disabled --dry-run",
		Args: cobra.ExactArgs(1),
	}
	d.writeFlags(c)
	ff := newFieldFlags(c, kind, false)
	c.RunE = func(c *cobra.Command, args []string) error {
		req, err := ff.request(c, a, edit.Set, args[0])
		if err != nil {
			return err
		}
		if len(req.Values)+len(req.More)+len(req.Less) == 0 {
			return usagef("%s: nothing to change", c.CommandPath())
		}
		return a.withEditor(d, true, a.change(d, req))(c, args)
	}
	return c
}

func (a *app) directoryDeleteCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	s := sample[kind]
	long := "delete removes the entry for good."
	switch kind {
	case edit.Domain:
		long = `delete removes the entry of a domain that has no users and groups any more. With a
DC tree it removes the node, its aliases and the organization, which stays when
another node leads to it.`
	case edit.User:
		long = `delete removes the entry for good, and mail for it is refused as for nobody. The
mailbox stays on its pair: to have it purged first, set --status deleted.`
	}
	c := &cobra.Command{
		Use:     "delete " + s.arg + "|DN",
		Short:   "Delete a " + string(kind),
		Long:    long,
		Example: "  postern directory " + string(kind) + " delete --dir ~/mail " + s.name,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withEditor(d, true, a.change(d, edit.Request{Op: edit.Delete, Kind: kind, Name: args[0]}))(c, args)
		},
	}
	d.writeFlags(c)
	return c
}

func (a *app) directoryRenameCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	s := sample[kind]
	req := edit.Request{Op: edit.Rename, Kind: kind}
	var uid string
	to := map[edit.Kind]string{edit.Domain: "example.net", edit.User: "anna@example.org", edit.Group: "team@example.org"}[kind]
	c := &cobra.Command{
		Use:   "rename " + s.arg + "|DN NEW",
		Short: "Give a " + string(kind) + " another name",
		Long: map[edit.Kind]string{
			edit.Domain: `rename gives a domain another name, and its users and groups addresses in it. The
old name stays as an alias, so that old addresses go on to work.

Mailboxes are called after the domain: where it has users, --new-mailbox says
that they are to have new, empty ones, for nothing moves what is in the old ones.
To add a name and keep the mailboxes, add an alias instead.`,
			edit.User: `rename gives a user another address; the old one stays as an alternate address
and the mailbox is the same. With --uid the entry is named by another uid, and
with an address of another domain it moves there: the mailbox is then called
otherwise and so a new, empty one, which --new-mailbox says is meant.`,
			edit.Group: `rename gives a list another address; the old one stays as an alternate address.
An entry that is named by the old address is named by the new one.`,
		}[kind] + `

Lists, rules and domains that name the entry, or what is below it, are changed
with it. A run that ends in between leaves a note in the entry's description
("postern rename: ..."): make the same request again, and it goes on where it was.`,
		Example: "  postern directory " + string(kind) + " rename --dir ~/mail " + s.name + " " + to + "\n  postern directory " +
			string(kind) + " rename --dir ~/mail " + s.name + " " + to + " --dry-run",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			req.Name, req.To = args[0], args[1]
			if uid != "" {
				req.Values = edit.Values{"uid": {uid}}
			}
			return a.withEditor(d, true, a.change(d, req))(c, args)
		},
	}
	d.writeFlags(c)
	if kind != edit.Group {
		c.Flags().BoolVar(&req.NewMailbox, "new-mailbox", false, "mailboxes that are called otherwise then are to be new ones")
	}
	if kind == edit.User {
		c.Flags().StringVar(&uid, "uid", "", "another uid")
	}
	return c
}

// change carries out one request and prints what came of it.
func (a *app) change(d *directoryFlags, req edit.Request) func(context.Context, *edit.Editor, []string) error {
	return func(ctx context.Context, ed *edit.Editor, _ []string) error {
		res, err := ed.Do(ctx, req)
		var no *edit.Refused
		if errors.As(err, &no) {
			for _, f := range no.Findings {
				a.finding(f)
			}
			return fmt.Errorf("%s %s: not done: it could not receive mail as it should", req.Kind, req.Name)
		}
		if err != nil {
			return err
		}
		for _, f := range res.Warnings {
			a.finding(f)
		}
		return a.emit(res, func(w io.Writer) error { return printChange(w, res, d.dryRun) })
	}
}

// finding warns of what is wrong with an entry that is being changed.
func (a *app) finding(f lint.Finding) {
	text := string(f.Severity) + ": " + f.Meaning
	if f.Value != "" {
		text += " (" + f.Attribute + ": " + f.Value + ")"
	}
	if len(f.Others) > 0 {
		text += ": " + strings.Join(f.Others, ", ")
	}
	a.warn("%s; %s", text, f.Mend)
}

var done = map[edit.Op]string{edit.Add: "added", edit.Set: "changed", edit.Delete: "deleted", edit.Rename: "renamed"}

// mostAlso is how many further entries are printed.
const mostAlso = 20

func printChange(w io.Writer, res *edit.Result, dry bool) error {
	if len(res.Changes)+len(res.Also) == 0 {
		_, err := fmt.Fprintln(w, "nothing to change:", table.Clean(res.DN))
		return err
	}
	verb := done[res.Op]
	if dry {
		verb = "would be " + verb
	}
	name := table.Clean(res.DN)
	if res.NewDN != "" {
		name += " to " + table.Clean(res.NewDN)
	}
	fmt.Fprintf(w, "%s %s: %s\n", res.Kind, verb, name)
	for i, one := range res.Also {
		if i == mostAlso {
			fmt.Fprintf(w, "and %d entries more\n", len(res.Also)-i)
			break
		}
		fmt.Fprintf(w, "also %s: %s\n", done[one.Op], table.Clean(one.DN))
	}
	if len(res.Changes) == 0 {
		return nil
	}
	t := table.New("attribute", "old", "new")
	for _, c := range res.Changes {
		t.Row(c.Attribute, dash(strings.Join(c.Old, ", ")), dash(strings.Join(c.New, ", ")))
	}
	return t.Print(w)
}

// shown is an entry for programs.
type shown struct {
	DN         string              `json:"dn"`
	Kind       edit.Kind           `json:"kind"`
	Attributes map[string][]string `json:"attributes"`
}

func (a *app) directoryShowCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	s := sample[kind]
	return &cobra.Command{
		Use:     "show " + s.arg + "|DN",
		Short:   "Show a " + string(kind) + " as the directory has it",
		Long:    "show prints the attributes of the entry, without passwords. What a relay makes of it is shown by postern test address.",
		Example: "  postern directory " + string(kind) + " show --dir ~/mail " + s.name,
		Args:    cobra.ExactArgs(1),
		RunE: a.withEditor(d, false, func(ctx context.Context, ed *edit.Editor, args []string) error {
			dn, raw, err := ed.Show(ctx, kind, args[0])
			if err != nil {
				return err
			}
			return a.emit(shown{dn, kind, attributeMap(ed.Schema(), raw)}, func(w io.Writer) error {
				fmt.Fprintln(w, table.Clean(dn))
				slices.SortStableFunc(raw, func(a, b directory.Attribute) int { return strings.Compare(a.Name, b.Name) })
				t := table.New("attribute", "value")
				for _, at := range raw {
					for _, v := range visible(ed.Schema(), at) {
						t.Row(at.Name, v)
					}
				}
				return t.Print(w)
			})
		}),
	}
}

var errEnough = errors.New("enough")

func (a *app) directoryListCmd(d *directoryFlags, kind edit.Kind) *cobra.Command {
	var domain string
	var limit int
	c := &cobra.Command{
		Use:     "list",
		Short:   "List " + string(kind) + "s",
		Example: "  postern directory " + string(kind) + " list --dir ~/mail",
		Args: func(c *cobra.Command, args []string) error {
			if kind != edit.Domain && len(args) > 0 {
				return usagef("%q: %s list has no arguments; --domain %[1]s lists those of a domain", args[0], kind)
			}
			return cobra.NoArgs(c, args)
		},
		RunE: a.withDirectoryEditor(d, func(ctx context.Context, ed *edit.Editor, schema *directory.Schema) error {
			if limit < 1 {
				return usagef("--limit %d: want at least 1", limit)
			}
			list, rows := []shown{}, []directory.Attributes{}
			err := ed.List(ctx, edit.Export{Kind: kind, Domain: domain}, func(_ edit.Kind, dn string, raw directory.Attributes) error {
				if len(list) == limit {
					return errEnough
				}
				list, rows = append(list, shown{dn, kind, attributeMap(schema, raw)}), append(rows, raw)
				return nil
			})
			if errors.Is(err, errEnough) {
				a.warn("there are more %ss than shown: see --limit", kind)
			} else if err != nil {
				return err
			}
			return a.emit(list, func(w io.Writer) error { return printEntries(w, kind, schema, list, rows) })
		}),
	}
	c.Flags().IntVar(&limit, "limit", most, "most entries")
	if kind != edit.Domain {
		c.Flags().StringVar(&domain, "domain", "", "only this domain")
	}
	if kind == edit.User {
		c.Example += "\n  postern directory user list --dir ~/mail --domain example.org --output json"
	}
	return c
}

// columns are the fields that a list shows.
var columns = map[edit.Kind][]string{
	edit.Domain: {"alias", "status", "account-status", "mail-host", "quota"},
	edit.User:   {"address", "uid", "mail-host", "quota", "option", "status", "account-status"},
	edit.Group:  {"address", "option", "status", "owner"},
}

func printEntries(w io.Writer, kind edit.Kind, schema *directory.Schema, list []shown, rows []directory.Attributes) error {
	var head []string
	var attrs []string
	if kind == edit.Domain {
		head, attrs = []string{"domain"}, []string{schema.PreferredDomain}
		if schema.Layout == directory.LayoutDC {
			head, attrs = nil, nil // the entry is called by it
		}
	}
	for _, name := range columns[kind] {
		for _, f := range edit.Fields(kind) {
			if attr := f.Attribute(schema); f.Name == name && attr != "" {
				head, attrs = append(head, name), append(attrs, attr)
			}
		}
	}
	t := table.New(append(head, "entry")...)
	for i, raw := range rows {
		var cells []any
		for _, attr := range attrs {
			cells = append(cells, dash(strings.Join(raw.Get(attr), ", ")))
		}
		t.Row(append(cells, list[i].DN)...)
	}
	return t.Print(w)
}
