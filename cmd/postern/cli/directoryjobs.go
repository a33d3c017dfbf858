package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/cmd/postern/fleet"
	"github.com/postern-mail/postern/cmd/postern/table"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/housekeeping"
)

// jobFlags are those of a job that works on the directory and on the pairs. Of
// the cluster's flags --dir and --timeout are also the directory's.
type jobFlags struct {
	domain    string
	elsewhere []string
	metrics   string
}

func (a *app) jobFlags(c *cobra.Command) *jobFlags {
	j, f := &jobFlags{}, c.Flags()
	f.StringVar(&j.domain, "domain", "", "only this domain, by its canonical name")
	f.StringSliceVar(&j.elsewhere, "elsewhere", nil, "values of mailHost that are no pairs, but hosts of others")
	f.StringVar(&j.metrics, "metrics", "", "file for figures of the run, for a collector of text files")
	a.clusterFlags(c)
	return j
}

// clusterFlags are those that name the nodes, of a command that works on the
// directory too.
func (a *app) clusterFlags(c *cobra.Command) {
	t, f := &a.target, c.Flags()
	f.StringSliceVar(&t.nodes, "node", nil, "admin port of a node, host:port; more than one with commas")
	f.StringVar(&t.cert, "cert", "", "certificate of role admin, for --node")
	f.StringVar(&t.key, "key", "", "key of --cert")
	f.StringVar(&t.ca, "cluster-ca", "", "CA of the cluster, for --node")
	for _, name := range []string{"cert", "key", "cluster-ca"} {
		_ = c.MarkFlagFilename(name, "pem")
	}
}

// openFor opens the cluster of a command that works on the directory too.
func (a *app) openFor(ctx context.Context, d *directoryFlags) (*fleet.Fleet, error) {
	a.target.timeout = d.timeout
	if len(a.target.nodes) == 0 { // a development cluster
		a.target.dir = d.dir
	}
	return a.open(ctx)
}

// withJob runs f on the directory and the pairs. write says that something may
// be changed.
func (a *app) withJob(d *directoryFlags, j *jobFlags, write func() bool, f func(ctx context.Context, cfg housekeeping.Config) (job, error)) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		d.faulty = true
		fl, err := a.openFor(c.Context(), d)
		if err != nil {
			return err
		}
		defer fl.Close()
		return a.withEditor(d, write(), func(ctx context.Context, ed *edit.Editor, _ []string) error {
			stores, err := fl.Stores(ctx)
			if err != nil {
				return couldNotRun{err}
			}
			cfg := housekeeping.Config{
				Directory: ed.Directory(), Pairs: stores, Pair: expand.Pairs(stores.Names()...), Elsewhere: j.elsewhere,
				Domain: j.domain, Progress: a.jobProgress(),
			}
			if write() {
				cfg.Editor = ed
			}
			out, err := f(ctx, cfg)
			if out == nil {
				return err
			}
			return errors.Join(err, a.finishJob(ctx, fl, j, out, err))
		})(c, args)
	}
}

// job is what a job came to.
type job interface {
	print(w io.Writer) error
	warnings() []string
	failed() int
	figures() map[string]int
	// stale are the domains and addresses that relays remember otherwise.
	stale() (domains, addresses []string)
	name() string
}

// mostFlushed is of how many names relays are told one by one.
const mostFlushed = 1000

// finishJob has the relays forget what was changed, and tells what came of it;
// ended is the error that the job ended with.
func (a *app) finishJob(ctx context.Context, fl *fleet.Fleet, j *jobFlags, out job, ended error) error {
	in := admin.FlushRequest{}
	if in.Domains, in.Addresses = out.stale(); len(in.Domains)+len(in.Addresses) > mostFlushed {
		in = admin.FlushRequest{All: true}
	}
	if in.All || len(in.Domains)+len(in.Addresses) > 0 {
		if _, err := fl.Flush(ctx, "", in); err != nil {
			a.warn("relays that were not told go by what they remember until it is old: %v", err)
		}
	}
	for _, text := range out.warnings() {
		a.warn("%s", text)
	}
	err := a.emit(out, out.print)
	if j.metrics != "" {
		err = errors.Join(err, writeFigures(j.metrics, out, ended))
	}
	if n := out.failed(); n > 0 && err == nil {
		err = fmt.Errorf("%d entries are left as they were", n)
	}
	return err
}

// writeFigures writes the figures of a run in the text format of Prometheus. A
// run that ended with an error has failed, whatever it says of its entries.
func writeFigures(file string, out job, ended error) error {
	w, end, err := newFile(file)
	if err != nil {
		return err
	}
	figures := out.figures()
	figures["failed"] = out.failed()
	if ended != nil {
		figures["failed"] = max(figures["failed"], 1)
	}
	figures["last_run_timestamp_seconds"] = int(time.Now().Unix())
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		metric := "postern_directory_" + out.name() + "_" + name
		if err == nil {
			_, err = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", metric, figureHelp[name], metric, metric, figures[name])
		}
	}
	if f, ok := w.(*os.File); ok && err == nil {
		err = f.Chmod(0o644) // the collector is another user
	}
	return end(err)
}

// figureHelp is what the figures of jobs are.
var figureHelp = map[string]string{
	"failed":                     "Entries left as they were in the last run, at least 1 when it ended with an error.",
	"last_run_timestamp_seconds": "When the last run ended.",
	"silent_pairs":               "Pairs that could not be asked.",
	"domains":                    "Domains whose mailboxes were added up.",
	"over":                       "Domains that have reached their quota.",
	"changed":                    "Entries whose status was set or cleared.",
	"waiting":                    "Entries whose grace time is not over.",
	"done":                       "Entries that were purged.",
	"mailboxes":                  "Mailboxes that were removed.",
}

// jobProgress shows on a terminal what a job is doing.
func (a *app) jobProgress() func(what string, done, total int) {
	if !isTerminal(a.err) {
		return nil
	}
	return func(what string, done, total int) {
		of := ""
		if total > 0 {
			of = fmt.Sprintf(" of %d", total)
		}
		fmt.Fprintf(a.err, "\r\x1b[K%s: %d%s\r", what, done, of)
	}
}

func (a *app) directoryQuotaCmd(d *directoryFlags) *cobra.Command {
	var enforce, users bool
	c := &cobra.Command{
		Use:   "quota",
		Short: "Add up what domains hold, and set or clear their status overquota",
		Long: `quota adds up what the mailboxes of each domain hold, over all pairs, and compares
it with mailDomainDiskQuota and mailDomainMsgQuota. With --enforce the mail status
of a domain that has reached its quota becomes overquota, and active again when it
holds less: relays refuse mail for a domain that is overquota, and its users can
log in and delete. With --users it does the same for each user's own quota.

A status other than active and overquota is left alone. Nothing is set or cleared
for a domain that has users on a pair that could not be asked, or on a mailHost
that is no pair: it is named, and the exit status is 1. When the directory does
not answer whole, nothing is changed at all.

It is meant to run on a timer: see postern-quota.timer.`,
		Example: `  postern directory quota --dir ~/mail
  postern directory quota --dir ~/mail --enforce --dry-run --output json
  postern directory quota --enforce --config /etc/postern/relay.yaml --bind-dn cn=admin,o=isp --bind-password-file pw \
    --audit /var/log/postern/directory.log --node relay1:8405 --cert admin.pem --key admin-key.pem --cluster-ca ca.pem`,
		Args: cobra.NoArgs,
	}
	d.writeFlags(c)
	j := a.jobFlags(c)
	c.Flags().BoolVar(&enforce, "enforce", false, "set and clear statuses; otherwise only show the sums")
	c.Flags().BoolVar(&users, "users", false, "look at the quota of each user too")
	c.RunE = a.withJob(d, j, func() bool { return enforce }, func(ctx context.Context, cfg housekeeping.Config) (job, error) {
		rep, err := housekeeping.Quota(ctx, cfg, housekeeping.QuotaOptions{Users: users})
		if rep == nil {
			return nil, err
		}
		return &quotaJob{Report: rep, DryRun: d.dryRun}, err
	})
	return c
}

type quotaJob struct {
	*housekeeping.Report
	DryRun bool `json:"dry_run,omitempty"`
}

func (q *quotaJob) name() string { return "quota" }
func (q *quotaJob) failed() int  { return q.Failed() }

func (q *quotaJob) warnings() (out []string) {
	for _, s := range q.Silent {
		out = append(out, fmt.Sprintf("pair %s could not be asked: %s", s.Pair, s.Error))
	}
	for name, why := range q.Broken {
		out = append(out, fmt.Sprintf("domain %s: %s", name, why))
	}
	say := func(name string, o *housekeeping.Outcome) {
		if o.Skipped != "" {
			out = append(out, fmt.Sprintf("%s stays %s: %s", name, o.Status, o.Skipped))
		}
		if o.Error != "" {
			out = append(out, fmt.Sprintf("%s stays %s: %s", name, o.Status, o.Error))
		}
	}
	for _, d := range q.Domains {
		say(d.Domain, &d.Outcome)
	}
	for _, u := range q.Users {
		say(u.Address, &u.Outcome)
	}
	return out
}

func (q *quotaJob) figures() map[string]int {
	f := map[string]int{"domains": len(q.Domains), "silent_pairs": len(q.Silent), "over": 0, "changed": 0}
	count := func(over bool, o *housekeeping.Outcome) {
		if over {
			f["over"]++
		}
		if o.Done {
			f["changed"]++
		}
	}
	for _, d := range q.Domains {
		count(d.Over(), &d.Outcome)
	}
	for _, u := range q.Users {
		count(false, &u.Outcome)
	}
	return f
}

func (q *quotaJob) stale() (domains, addresses []string) {
	for _, d := range q.Domains {
		if d.Done {
			domains = append(domains, d.Domain)
		}
	}
	for _, u := range q.Users {
		if u.Done {
			addresses = append(addresses, u.Address)
		}
	}
	return domains, addresses
}

func (q *quotaJob) print(w io.Writer) error {
	t := table.New("domain", ">mailboxes", ">used", ">of", ">messages", ">of", "status", "becomes")
	for _, d := range q.Domains {
		t.Row(d.Domain, d.Mailboxes, table.Size(d.Bytes), limitOf(d.LimitBytes, table.Size), d.Messages, limitOf(d.LimitMessages, number), d.Status, becomes(&d.Outcome))
	}
	if err := t.Print(w); err != nil || len(q.Users) == 0 {
		return err
	}
	t = table.New("user", ">used", ">of", ">messages", ">of", "status", "becomes")
	for _, u := range q.Users {
		t.Row(u.Address, table.Size(u.Bytes), limitOf(u.LimitBytes, table.Size), u.Messages, limitOf(u.LimitMessages, number), u.Status, becomes(&u.Outcome))
	}
	fmt.Fprintln(w)
	return t.Print(w)
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func becomes(o *housekeeping.Outcome) string {
	to := map[string]string{housekeeping.SetOverQuota: "overquota", housekeeping.ClearOverQuota: "active"}[o.Action]
	switch {
	case o.Error != "":
		return "failed"
	case o.Skipped != "":
		return "not known"
	case to == "" || o.Done:
		return dash(to)
	}
	return to + " (not done)"
}

func (a *app) directoryPurgeCmd(d *directoryFlags) *cobra.Command {
	opt := housekeeping.PurgeOptions{}
	var days float64
	c := &cobra.Command{
		Use:   "purge",
		Short: "Remove the mailboxes of users and domains that are deleted",
		Long: `purge removes the mailboxes of users whose status, or whose domain's, has been
deleted for the grace time, from every pair that has them, and then gives the mail
status removed to those users and to domains of which no mailbox is left. With
--entries it deletes entries that have been removed for the grace time, and groups
that are deleted.

Mailboxes of a deleted domain that are nobody's, because their entries were deleted
before them, keep the domain deleted until --orphans removes them too: the domain's
status says that they may go, and no entry may have their uid.

The grace time counts from the last change of the entry. A mailbox is removed
because its user's entry, or the domain's, says so, asked again right before; never
because an entry is missing. It stays while anybody else has the uid in a domain of
that name, while the directory does not answer whole, and while the pair cannot be
asked. The audit log has a line for each mailbox before it is removed. What is
removed can only come back from a snapshot (postern backup).

The pairs have to be on format 2 (postern upgrade finalize).`,
		Example: `  postern directory purge --dir ~/mail --dry-run
  postern directory purge --grace-days 30 --config /etc/postern/relay.yaml --bind-dn cn=admin,o=isp --bind-password-file pw \
    --audit /var/log/postern/directory.log --node relay1:8405 --cert admin.pem --key admin-key.pem --cluster-ca ca.pem`,
		Args: cobra.NoArgs,
	}
	d.writeFlags(c)
	j := a.jobFlags(c)
	f := c.Flags()
	f.Float64Var(&days, "grace-days", 10, "days that an entry has to be deleted, and then removed")
	f.BoolVar(&opt.Entries, "entries", false, "delete entries that are removed")
	f.BoolVar(&opt.Orphans, "orphans", false, "remove mailboxes of deleted domains that have no entry any more")
	f.IntVar(&opt.Most, "most", 1000, "most users whose mailboxes one run removes; 0 is any number")
	c.RunE = func(c *cobra.Command, args []string) error {
		if days < 0 || days > 36_500 || opt.Most < 0 {
			return usagef("--grace-days and --most: want a number that is not negative")
		}
		opt.Grace = time.Duration(days * float64(24*time.Hour))
		return a.withJob(d, j, func() bool { return true }, func(ctx context.Context, cfg housekeeping.Config) (job, error) {
			opt.Now = time.Now()
			rep, err := housekeeping.Purge(ctx, cfg, opt)
			if rep == nil {
				return nil, err
			}
			return &purgeJob{PurgeReport: rep, DryRun: d.dryRun}, err
		})(c, args)
	}
	return c
}

type purgeJob struct {
	*housekeeping.PurgeReport
	DryRun bool `json:"dry_run,omitempty"`
}

func (p *purgeJob) name() string { return "purge" }
func (p *purgeJob) failed() int  { return p.Failed() }

func (p *purgeJob) warnings() (out []string) {
	for _, s := range p.Silent {
		out = append(out, fmt.Sprintf("pair %s could not be asked: %s", s.Pair, s.Error))
	}
	for _, e := range p.Entries {
		if why := strings.Join(nonEmpty([]string{e.Skipped, e.Error}), "; "); why != "" {
			out = append(out, fmt.Sprintf("%s %s is left: %s", e.Kind, e.Name, why))
		}
	}
	return out
}

func (p *purgeJob) figures() map[string]int {
	f := map[string]int{"silent_pairs": len(p.Silent), "waiting": 0, "done": 0, "mailboxes": 0}
	for _, e := range p.Entries {
		switch {
		case e.Waits != "":
			f["waiting"]++
		case e.Done:
			f["done"]++
		}
		for _, m := range e.Mailboxes {
			if m.Removed {
				f["mailboxes"]++
			}
		}
	}
	return f
}

func (p *purgeJob) stale() (domains, addresses []string) {
	for _, e := range p.Entries {
		switch {
		case !e.Done:
		case e.Kind == edit.Domain:
			domains = append(domains, e.Name)
		case e.Name != "":
			addresses = append(addresses, e.Name)
		}
	}
	return domains, addresses
}

func (p *purgeJob) print(w io.Writer) error {
	if len(p.Entries) == 0 {
		_, err := fmt.Fprintln(w, "nothing is deleted")
		return err
	}
	t := table.New("what", "name", "to do", "mailboxes", ">octets", ">messages", "state")
	for _, e := range p.Entries {
		var places []string
		var octets, messages int64
		for _, m := range e.Mailboxes {
			places = append(places, m.Pair+":"+m.Account)
			octets, messages = octets+m.Bytes, messages+m.Messages
		}
		state := "not done"
		switch {
		case e.Error != "":
			state = "failed"
		case e.Skipped != "":
			state = "left"
		case e.Waits != "":
			state = "waits until " + e.Waits
		case e.Done:
			state = "done"
		case p.DryRun:
			state = "would be done"
		}
		t.Row(e.Kind, e.Name, e.Action, dash(strings.Join(places, ", ")), table.Size(octets), messages, state)
	}
	return t.Print(w)
}
