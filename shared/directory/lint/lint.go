/*
Package lint finds what is wrong in a directory before mail does: entries that
cannot receive mail, addresses that two people own, lists that lead in circles
or nowhere, values that nobody can read.

	domains -> every entry -> users and groups again -> circles, owners of
	names      its own values   members and forwards     the same address

It reads by the reader that mail is delivered by (directory.Schema) and asks the
same questions, so that what it calls ambiguous is what a relay refuses.

The tree is read in pages, twice. What is kept of an entry is some dozens of
octets, its addresses and uid as hashes; only groups and people who forward are
kept by name, and only when they lead to others of that kind. A finding is told
as soon as it is certain.

Package lint changes nothing. What it cannot see with the rights it has logged
in with, it takes for absent.
*/
package lint

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// Bounds of one run.
const (
	// DefaultLimit is how many findings are told when Config says nothing.
	DefaultLimit = 10_000
	maxDoubles   = 10_000 // addresses and uids with two owners that are looked into
	maxListed    = 10     // entries named in one finding
	maxFollowed  = 1000   // results of a member URL that are followed
)

// ErrLimit says that there are more findings than were wanted.
var ErrLimit = errors.New("lint: more findings than wanted")

// Config says what to look at and what to expect.
type Config struct {
	Directory *ldap.Directory
	// Pair finds the pair that a mailHost names; nil: pairs are not checked.
	Pair func(mailHost string) (string, bool)
	// Options are the delivery options that relays know, as they write them:
	// "#*mailbox=TEMPLATE".
	Options []string
	// Access reads an access filter (mailAllowedServiceAccess) as relays do, and
	// says what is wrong with it; nil: filters are not checked.
	Access func(filter string) error
	// Limit is how many findings are told, DefaultLimit.
	Limit int
	// Least is the least severity that is told; all when empty. The others are
	// counted.
	Least Severity
	// Progress, when not nil, is told the number of entries read so far.
	Progress func(entries int)
}

// Summary is what a run has read and found.
type Summary struct {
	Domains  int `json:"domains"`
	Entries  int `json:"entries"`
	Users    int `json:"users"`
	Groups   int `json:"groups"`
	Errors   int `json:"errors"`
	Warnings int `json:"warnings"`
	Notes    int `json:"notes"`
}

// Run reads the directory and tells of each finding. It ends with the error of
// tell, with ErrLimit, or with that of the directory, which says nothing about
// what was not read.
func Run(ctx context.Context, cfg Config, tell func(Finding) error) (Summary, error) {
	if cfg.Limit == 0 {
		cfg.Limit = DefaultLimit
	}
	options, err := parseOptions(cfg.Options)
	if err != nil {
		return Summary{}, err
	}
	r := &run{
		cfg: cfg, ctx: ctx, d: cfg.Directory, s: cfg.Directory.Schema(), tell: tell, options: options, seed: maphash.MakeSeed(),
		names: map[string]*domain{}, nodes: map[uint64]node{}, addresses: map[uint64]uint64{}, uids: map[uint64]uint64{},
		byBase: map[string]*domain{}, doubles: map[string]bool{}, doubleUIDs: map[string]*domain{}, edges: map[uint64]*edge{}, strange: map[string]bool{},
	}
	for _, pass := range []func() error{r.domains, r.domainTree, r.entries, r.relations, r.ambiguous, r.sameUID, r.loops, r.catchAlls} {
		if err := pass(); err != nil {
			return r.sum, err
		}
	}
	return r.sum, nil
}

// domain is what is kept of a hosted domain.
type domain struct {
	*directory.Domain
	base string // BaseDN, folded
	all  bool   // somebody owns "@domain", or a smart host takes the rest

	assumed bool // it is not in the directory
}

// node is what is kept of an entry.
type node uint8

const (
	isUser node = 1 << iota
	isGroup
	hasMail  // a primary address, by which a list reaches it
	forwards // the option forward is active
	stores   // the option mailbox is active
	dead     // deleted or removed
)

// run is one run.
type run struct {
	cfg     Config
	ctx     context.Context
	d       *ldap.Directory
	s       *directory.Schema
	tell    func(Finding) error
	options []option
	seed    maphash.Seed
	sum     Summary
	told    int

	hosted     []*domain
	names      map[string]*domain // by every name
	nodes      map[uint64]node    // by the hash of the name
	addresses  map[uint64]uint64  // hash of the address to that of its owner's name
	uids       map[uint64]uint64  // the same for uids within a domain
	byBase     map[string]*domain // by the folded name of the base, the first of several
	doubles    map[string]bool    // addresses with more than one owner
	doubleUIDs map[string]*domain // uids the same, with the domain's name after them
	edges      map[uint64]*edge
	strange    map[string]bool // names of no domain that were asked for: is it one all the same?

	// What is only supposed to exist, when single entries are checked.
	assumedNodes     map[uint64]node
	assumedAddresses map[uint64]uint64
	assumedNames     map[string]bool
}

// node is what is known of an entry.
func (r *run) node(h uint64) (node, bool) {
	n, ok := r.nodes[h]
	if !ok {
		n, ok = r.assumedNodes[h]
	}
	return n, ok
}

// address is the hash of the name of whoever has the address of a hash.
func (r *run) address(k uint64) (uint64, bool) {
	h, ok := r.addresses[k]
	if !ok {
		h, ok = r.assumedAddresses[k]
	}
	return h, ok
}

func (r *run) hash(s string) uint64 { return maphash.String(r.seed, s) }

// say tells one finding.
func (r *run) say(rule, dn, attribute, value string, others ...string) error {
	k, ok := rules[rule]
	if !ok {
		return fmt.Errorf("lint: no rule %q", rule)
	}
	return r.sayAs(k.severity, rule, dn, attribute, value, others...)
}

func (r *run) sayAs(severity Severity, rule, dn, attribute, value string, others ...string) error {
	k := rules[rule]
	untold := severity == Note && r.cfg.Least != Note && r.cfg.Least != "" || severity == Warning && r.cfg.Least == Error
	if !untold {
		if r.told++; r.told > r.cfg.Limit {
			return ErrLimit
		}
	}
	switch severity {
	case Error:
		r.sum.Errors++
	case Warning:
		r.sum.Warnings++
	default:
		r.sum.Notes++
	}
	if untold {
		return nil
	}
	if len(value) > 200 {
		value = value[:200] + "..."
	}
	return r.tell(Finding{
		Severity: severity, Rule: rule, DN: dn, Attribute: attribute, Value: value, Others: others[:min(len(others), maxListed)],
		Meaning: k.meaning, Mend: k.mend,
	})
}

// entries is the pass over every entry by itself.
func (r *run) entries() error {
	attrs := append(slices.Clone(r.s.EntryAttributes()), directory.RenameNote)
	return r.scan(ldap.Everything, attrs, func(dn string, raw directory.Attributes) error {
		if r.sum.Entries++; r.cfg.Progress != nil && r.sum.Entries%500 == 0 {
			r.cfg.Progress(r.sum.Entries)
		}
		if err := r.renames(dn, raw); err != nil {
			return err
		}
		e := r.s.ReadEntry(dn, raw)
		fold, err := ldap.FoldName(dn)
		if err != nil {
			return r.say("bad-name", dn, "", "")
		}
		h := r.hash(fold)
		switch e.Kind {
		case directory.User:
			r.sum.Users++
		case directory.Group:
			r.sum.Groups++
		default:
			r.nodes[h] = nodeOf(e, nil)
			return r.other(e, fold)
		}
		set := r.active(e)
		r.nodes[h] = nodeOf(e, set)
		return r.entry(e, fold, h, set)
	})
}

// renames tells of a change of the name of an entry that was not finished.
func (r *run) renames(dn string, raw directory.Attributes) error {
	for _, v := range raw.Get(directory.RenameNote) {
		if directory.IsRenameNote(v) { // the first one names the command
			return r.say("rename-unfinished", dn, directory.RenameNote, v)
		}
	}
	return nil
}

// domainTree looks at a tree of domains that lies apart from the users.
func (r *run) domainTree() error {
	root := r.d.DCRoot()
	if root == "" {
		return nil
	}
	fold, err := ldap.FoldName(root)
	if err != nil {
		return err
	}
	if top, err := ldap.FoldName(r.d.Base()); err != nil || below(fold, top) {
		return err
	}
	return r.d.Scan(r.ctx, root, ldap.Everything, []string{directory.RenameNote}, r.renames)
}

// scan reads all bases: that of the tree and those of the domains outside of
// it.
func (r *run) scan(what ldap.Selection, attrs []string, each func(string, directory.Attributes) error) error {
	var done []string
	for _, base := range r.bases() {
		fold, err := ldap.FoldName(base)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(done, func(top string) bool { return below(fold, top) }) {
			continue
		}
		done = append(done, fold)
		if err := r.d.Scan(r.ctx, base, what, attrs, each); err != nil {
			return err
		}
	}
	return nil
}

// bases are the tops of what has users, the shortest names first.
func (r *run) bases() []string {
	out := []string{r.d.Base()}
	for _, d := range r.hosted {
		if r.d.Inside(d.BaseDN) == nil {
			out = append(out, d.BaseDN)
		}
	}
	slices.SortStableFunc(out[1:], func(a, b string) int { return len(a) - len(b) })
	return out
}

// below reports whether the folded name dn is top or below it.
func below(dn, top string) bool {
	return dn == top || len(dn) > len(top) && strings.HasSuffix(dn, top) && dn[len(dn)-len(top)-1] == ','
}

// home is the domain that the entry of a folded name belongs to, nil if none.
func (r *run) home(fold string) *domain {
	for {
		if d := r.byBase[fold]; d != nil {
			return d
		}
		_, rest, ok := strings.Cut(fold, ",")
		if !ok {
			return nil
		}
		fold = rest
	}
}

// domainOf is the hosted domain of an address, nil if it is elsewhere.
func (r *run) domainOf(a mail.Address) *domain {
	name, err := directory.NormalizeDomain(a.Domain)
	if err != nil {
		return nil
	}
	return r.names[name]
}

// key is how an address is remembered: every name of its domain is one.
func (r *run) key(local string, d *domain) uint64 {
	return r.hash(strings.ToLower(local) + "@" + d.Name)
}

// owner is the hash of the name of whoever has an address of a hosted domain.
func (r *run) owner(a mail.Address, d *domain) (uint64, bool) {
	h, ok := r.address(r.key(a.Local, d))
	if ok {
		return h, true
	}
	wild, base, _ := r.s.Parts(a.Local)
	for _, local := range [...]string{wild, base} {
		if local != "" && !ok {
			h, ok = r.address(r.key(local, d))
		}
	}
	return h, ok
}

// nowhere reports whether an address is of a hosted domain and nobody's there.
func (r *run) nowhere(a mail.Address) bool {
	d := r.domainOf(a)
	if d == nil || d.all || len(d.RoutingHosts) > 0 || strings.EqualFold(a.Local, "postmaster") {
		return false
	}
	_, ok := r.owner(a, d)
	return !ok
}
