/*
Package housekeeping keeps the statuses of a directory and the mailboxes of the
pairs in step:

	Quota   what the mailboxes of a domain hold, over all pairs -> overquota, or not any more
	Purge   deleted for the grace time -> mailbox removed -> removed -> entry deleted

What both rest on: nothing follows from silence. The directory is read whole, or
nothing is changed. A domain with users on a pair that did not answer keeps its
status. A mailbox is removed because an entry says deleted, its user's or its
domain's, and has said so, as it is, for the grace time; never because an entry is
missing. A mailbox without a user in a deleted domain goes by the domain's word,
when that is asked for. What is certain is asked again, of the directory, right
before a mailbox is removed.

Changes of the directory go through package edit, with its audit log; the removal
of a mailbox is a line of that log before it is tried. A run that ends early is
repeated: what is done already is found done.

Package housekeeping decides when it is called, and nothing about when.
*/
package housekeeping

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// Used is what a mailbox, called uid@domain, holds and may hold; -1 is no limit.
type Used struct {
	Account         string
	Bytes, Messages int64
	LimitBytes      int64
	LimitMessages   int64
}

// Pairs are the pairs of the cluster. Its methods are called one at a time.
type Pairs interface {
	// Names are the pairs that there are.
	Names() []string
	// Usage calls each with all mailboxes of a pair. An error says that there
	// may be others.
	Usage(ctx context.Context, pair string, each func(u Used)) error
	// Remove removes a mailbox for good.
	Remove(ctx context.Context, pair, account string) error
}

// Config is what Quota and Purge need.
type Config struct {
	Directory *ldap.Directory
	// Editor changes the directory; nil: nothing is changed. When it is one of
	// a dry run, nothing is removed either.
	Editor *edit.Editor
	Pairs  Pairs
	// Pair finds the pair that a mailHost names.
	Pair func(mailHost string) (string, bool)
	// Elsewhere are values of mailHost that are no pairs and known to be none.
	Elsewhere []string
	// Domain is the only domain that is looked at; "" is all.
	Domain string
	// Progress, when not nil, is told what is being done and how far it is;
	// total is 0 when nobody knows.
	Progress func(what string, done, total int)
}

// Silent is a pair that could not be asked.
type Silent struct {
	Pair  string `json:"pair"`
	Error string `json:"error"`
}

// ended is why nothing was done to what a run that ended early did not come to.
const ended = "the run ended before"

func (c *Config) progress(what string, done, total int) {
	if c.Progress != nil {
		c.Progress(what, done, total)
	}
}

// elsewhere reports whether a mailHost is known to be no pair.
func (c *Config) elsewhere(mailHost string) bool {
	return slices.ContainsFunc(c.Elsewhere, func(v string) bool { return strings.EqualFold(v, mailHost) })
}

// record is a domain as relays see it under one of its names.
type record struct {
	*directory.Domain
	name string // that it was asked for by
}

// domains are all domains of the directory, by their bases.
type domains struct {
	all    []*record
	byBase map[string][]*record // by the folded name of the base
	byName map[string]*record   // by every name
	broken map[string]error     // by canonical name, as far as it is known: relays cannot read them
}

// readDomains reads all domains, each as relays do: in the DC tree, what the
// organization says counts as well. only has to be among them, unless it is "".
func readDomains(ctx context.Context, d *ldap.Directory, only string) (*domains, error) {
	out := &domains{byBase: map[string][]*record{}, byName: map[string]*record{}, broken: map[string]error{}}
	type found struct{ name, canonical string }
	var list []found
	err := d.Hosted(ctx, func(dom *directory.Domain, ok bool) error {
		f := found{dom.Name, dom.Name}
		if d.InTree(dom.DN) {
			f.name = d.Spelled(dom.DN)
		}
		if f.name != "" && !slices.Contains(list, f) {
			list = append(list, f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("domains: %w", err)
	}
	for _, f := range list {
		dom, err := d.Domain(ctx, f.name)
		switch {
		case errors.Is(err, directory.ErrMisconfigured), errors.Is(err, directory.ErrAmbiguous), errors.Is(err, directory.ErrNotFound):
			out.broken[f.canonical] = err
			continue
		case err != nil:
			return nil, fmt.Errorf("domain %s: %w", f.name, err)
		}
		if err := out.add(&record{dom, f.name}); err != nil {
			return nil, err
		}
	}
	return out, out.has(only)
}

// has returns an error unless there is a domain of a canonical name, or none is
// asked for.
func (l *domains) has(only string) error {
	if only == "" || l.broken[only] != nil || len(l.named(only)) > 0 {
		return nil
	}
	return fmt.Errorf("no domain is called %s: %w", only, directory.ErrNotFound)
}

func (l *domains) add(r *record) error {
	if slices.ContainsFunc(l.all, func(o *record) bool { return o.DN == r.DN }) {
		return nil
	}
	base, err := ldap.FoldName(r.BaseDN)
	if err != nil {
		return fmt.Errorf("domain %s: base %q: %w", r.name, r.BaseDN, err)
	}
	l.all = append(l.all, r)
	l.byBase[base] = append(l.byBase[base], r)
	for _, name := range append([]string{r.Name, r.name}, r.Aliases...) {
		if l.byName[name] == nil || name == r.name {
			l.byName[name] = r
		}
	}
	return nil
}

// of are the domains whose users are looked for where an entry is.
func (l *domains) of(dn string) ([]*record, error) {
	fold, err := ldap.FoldName(dn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dn, err)
	}
	var out []*record
	for {
		out = append(out, l.byBase[fold]...)
		parent := ldap.Parent(fold)
		if parent == "" {
			return out, nil
		}
		fold = parent
	}
}

// named are the domains whose mailboxes are called by a canonical name.
func (l *domains) named(canonical string) (out []*record) {
	for _, r := range l.all {
		if r.Name == canonical {
			out = append(out, r)
		}
	}
	return out
}

// scanUsers reads every user below every base.
func scanUsers(ctx context.Context, cfg *Config, each func(e *directory.Entry) error) error {
	d, n := cfg.Directory, 0
	for _, base := range d.Bases() {
		err := d.Scan(ctx, base, ldap.MailEntries, d.Schema().EntryAttributes(), func(dn string, raw directory.Attributes) error {
			if n++; n%500 == 0 {
				cfg.progress("entries", n, 0)
			}
			if e := d.Schema().ReadEntry(dn, raw); e.Kind != directory.Other {
				return each(e)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("entries: %w", err)
		}
	}
	return nil
}

// usage asks every pair, and lists those that could not be asked.
func usage(ctx context.Context, cfg *Config, each func(pair string, u Used)) (silent []Silent, err error) {
	names := cfg.Pairs.Names()
	for i, pair := range names {
		cfg.progress("pairs", i, len(names))
		if err := cfg.Pairs.Usage(ctx, pair, func(u Used) { each(pair, u) }); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			silent = append(silent, Silent{pair, err.Error()})
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no pair is known")
	}
	return silent, nil
}

// unasked says why what an entry's mailbox holds is not known, "" when it is.
func unasked(cfg *Config, silent []Silent, e *directory.Entry) string {
	if e.MailHost == "" || cfg.elsewhere(e.MailHost) {
		return ""
	}
	pair, ok := cfg.Pair(e.MailHost)
	if !ok {
		return fmt.Sprintf("%s is on %s, which is no pair that is known", e.DN, e.MailHost)
	}
	for _, s := range silent {
		if s.Pair == pair {
			return fmt.Sprintf("%s is on %s, which could not be asked", e.DN, pair)
		}
	}
	return ""
}

// changed is when an entry was last changed.
func changed(ctx context.Context, d *ldap.Directory, dn string) (time.Time, error) {
	const attr = "modifyTimestamp" // RFC 4512 3.4.2
	_, raw, err := d.Raw(ctx, dn, attr)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", dn, err)
	}
	text := raw.First(attr)
	for _, layout := range []string{"20060102150405Z0700", "20060102150405.999999Z0700"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%s: when it was last changed cannot be read: %s %q", dn, attr, text)
}
