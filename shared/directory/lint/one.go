package lint

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// maxRelations is how many members and forwards of one entry are looked up.
const maxRelations = 1000

// Checker looks at single entries before they are written. It remembers the
// domains that it has asked for until Forget. It is for one goroutine.
type Checker struct {
	cfg     Config
	options []option
	domains map[string]*domain // by name; nil: not hosted
	seed    maphash.Seed

	// What Assume was told, as in a run; uids are with their domain, and lead to
	// the names of entries.
	nodes     map[uint64]node
	addresses map[uint64]uint64
	uids      map[string]string
	names     map[string]bool // folded names that Expect and Leave were told: there, or gone
}

// NewChecker checks cfg. Limit and Progress do not matter.
func NewChecker(cfg Config) (*Checker, error) {
	options, err := parseOptions(cfg.Options)
	if err != nil {
		return nil, err
	}
	cfg.Limit = DefaultLimit
	return &Checker{
		cfg: cfg, options: options, domains: map[string]*domain{}, seed: maphash.MakeSeed(),
		nodes: map[uint64]node{}, addresses: map[uint64]uint64{}, uids: map[string]string{}, names: map[string]bool{},
	}, nil
}

// Expect makes the checker believe that there is an entry of that name, Leave
// that there is none, whatever it was.
func (c *Checker) Expect(dn string) { c.believe(dn, true) }

// Leave: see Expect.
func (c *Checker) Leave(dn string) { c.believe(dn, false) }

func (c *Checker) believe(dn string, there bool) {
	if fold, err := ldap.FoldName(dn); err == nil {
		c.names[fold] = there
	}
}

// Ask ends what Expect and Leave said of an entry: the directory knows.
func (c *Checker) Ask(dn string) {
	if fold, err := ldap.FoldName(dn); err == nil {
		delete(c.names, fold)
	}
}

// Forget forgets the domains.
func (c *Checker) Forget() { clear(c.domains) }

// Domain finds a hosted domain, remembering it.
func (c *Checker) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	d, err := c.domain(ctx, name)
	if err == nil && d == nil {
		return nil, directory.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return d.Domain, nil
}

// Assumed reports whether a domain is there only because Assume was told so:
// nobody can be asked about its addresses.
func (c *Checker) Assumed(name string) bool {
	name, err := directory.NormalizeDomain(name)
	return err == nil && c.domains[name] != nil && c.domains[name].assumed
}

// domain returns nil for a name that is not hosted.
func (c *Checker) domain(ctx context.Context, name string) (*domain, error) {
	name, err := directory.NormalizeDomain(name)
	if err != nil || name == "" {
		return nil, nil
	}
	if d, ok := c.domains[name]; ok {
		return d, nil
	}
	found, err := c.cfg.Directory.Domain(ctx, name)
	if errors.Is(err, directory.ErrNotFound) {
		return nil, nil // not remembered: it may be the next thing that is added
	}
	if err != nil {
		return nil, err
	}
	base, err := ldap.FoldName(found.BaseDN)
	if err != nil {
		return nil, err
	}
	d := &domain{Domain: found, base: base, all: found.SmartHost != "" || len(found.CatchAllOwners) > 0 || found.CatchAll != ""}
	c.domains[name] = d
	return d, nil
}

// one is a run over one entry.
func (c *Checker) one(ctx context.Context, out *[]Finding) *run {
	r := &run{
		cfg: c.cfg, ctx: ctx, d: c.cfg.Directory, s: c.cfg.Directory.Schema(), options: c.options, seed: c.seed,
		names: map[string]*domain{}, byBase: map[string]*domain{}, nodes: map[uint64]node{}, addresses: map[uint64]uint64{},
		assumedNodes: c.nodes, assumedAddresses: c.addresses, assumedNames: c.names,
		uids: map[uint64]uint64{}, doubles: map[string]bool{}, doubleUIDs: map[string]*domain{}, edges: map[uint64]*edge{}, strange: map[string]bool{},
	}
	r.tell = func(f Finding) error { *out = append(*out, f); return nil }
	return r
}

// Entry says what is wrong with the user or group that dn would be with these
// attributes: by itself, in what it leads to, and with who has its addresses
// and its uid already. A list within itself is told as a warning, for the others
// are reached; longer circles are found in the whole directory only.
func (c *Checker) Entry(ctx context.Context, dn string, raw directory.Attributes) ([]Finding, error) {
	var out []Finding
	r := c.one(ctx, &out)
	e := r.s.ReadEntry(dn, raw)
	fold, err := ldap.FoldName(dn)
	if err != nil {
		err = r.say("bad-name", dn, "", "")
		return out, err
	}
	h := r.hash(fold)
	if e.Kind == directory.Other {
		if len(r.owned(e)) > 0 {
			err = r.say("no-classes", dn, "objectClass", strings.Join(e.Classes, ", "))
		}
		return out, err
	}
	if err := c.surroundings(r, e); err != nil {
		return nil, err
	}
	set := r.active(e)
	r.nodes[h] = nodeOf(e, set)
	if err := r.entry(e, fold, h, set); err != nil {
		return nil, err
	}
	for spelled := range r.doubles {
		if err := r.say("ambiguous-address", dn, r.s.Mail, spelled); err != nil {
			return nil, err
		}
	}
	if err := c.taken(r, e, fold); err != nil {
		return nil, err
	}
	if e.Kind == directory.Group {
		err = r.members(e, h)
		if err == nil && r.edges[h] != nil && slices.Contains(r.edges[h].to, h) {
			err = r.sayAs(Warning, "list-loop", dn, first(r.s.MemberDN), "")
		}
	} else {
		err = r.forwardsTo(e, h)
	}
	return out, err
}

// nodeOf is what is kept of an entry.
func nodeOf(e *directory.Entry, set []option) (n node) {
	switch e.Kind {
	case directory.User:
		n = isUser
	case directory.Group:
		n = isGroup
	}
	if e.Mail != "" {
		n |= hasMail
	}
	if st, _ := directory.Effective(nil, e); st == directory.Deleted || st == directory.Removed {
		n |= dead
	}
	if e.Kind != directory.Other && has(set, "forward") {
		n |= forwards
	}
	if e.Kind == directory.User && has(set, "mailbox") {
		n |= stores
	}
	return n
}

// surroundings asks for what the entry has to do with: the domains of its
// addresses, and the entries that it leads to.
func (c *Checker) surroundings(r *run, e *directory.Entry) error {
	var texts []string
	for _, own := range r.owned(e) {
		texts = append(texts, own.value)
	}
	for _, v := range slices.Concat(texts, e.Forwarding, e.MemberAddresses) {
		i := strings.LastIndexByte(v, '@')
		if i < 0 {
			continue
		}
		d, err := c.domain(r.ctx, strings.TrimRight(v[i+1:], "> "))
		if err != nil {
			return err
		}
		if d == nil {
			continue
		}
		for _, name := range append([]string{d.Name}, d.Aliases...) {
			r.names[name] = d
		}
		r.byBase[d.base] = d
		if i == 0 || slices.Contains(texts, v) {
			continue
		}
		if err := r.lookUp(v); err != nil {
			return err
		}
	}
	for _, dn := range e.MemberDNs[:min(len(e.MemberDNs), maxRelations)] {
		fold, err := ldap.FoldName(dn)
		if err != nil || r.d.Inside(dn) != nil {
			continue
		}
		m, err := r.d.Entry(r.ctx, dn)
		switch {
		case err == nil:
			r.nodes[r.hash(fold)] = nodeOf(m, r.active(m))
		case !errors.Is(err, directory.ErrNotFound):
			return err
		}
	}
	for _, dn := range e.MemberDNs[min(len(e.MemberDNs), maxRelations):] {
		if fold, err := ldap.FoldName(dn); err == nil {
			r.nodes[r.hash(fold)] = isUser | hasMail // taken on trust
		}
	}
	return nil
}

// lookUp notes whose an address is that an entry leads to.
func (r *run) lookUp(v string) error {
	a, err := memberAddress(v)
	d := r.domainOf(a)
	if err != nil || d == nil || d.assumed {
		return nil
	}
	if name, err := directory.NormalizeDomain(a.Domain); err == nil {
		a.Domain = name
	}
	ans, err := r.d.Lookup(r.ctx, d.Domain, a)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return nil
	case err != nil:
		return err
	case ans.CatchAll || len(ans.Entries) == 0:
		return nil
	}
	m := ans.Entries[0]
	fold, err := ldap.FoldName(m.DN)
	if err != nil {
		return nil
	}
	r.addresses[r.key(a.Local, d)] = r.hash(fold)
	r.nodes[r.hash(fold)] = nodeOf(m, r.active(m))
	return nil
}

// taken tells of other entries that have the addresses or the uid of e.
func (c *Checker) taken(r *run, e *directory.Entry, fold string) error {
	if !counts(e) {
		return nil
	}
	var values []string
	for _, own := range r.owned(e) {
		i := strings.LastIndexByte(own.value, '@')
		if i < 0 {
			continue
		}
		d := r.domainOf(mail.Address{Domain: own.value[i+1:]})
		if d == nil {
			continue
		}
		for _, name := range append([]string{d.Name}, d.Aliases...) {
			values = append(values, own.value[:i]+"@"+name)
		}
	}
	if len(values) > 0 {
		found, err := r.others(r.d.Base(), r.s.AddressAttributes(), values, fold)
		if err != nil {
			return err
		}
		if err := r.shared(e, found); err != nil {
			return err
		}
	}
	d := r.home(fold)
	if d == nil || e.Kind != directory.User {
		return nil
	}
	if dn, ok := c.uids[e.UID+"\x00"+d.Name]; ok && !strings.EqualFold(dn, e.DN) {
		return r.say("duplicate-uid", e.DN, r.s.UID, e.UID, dn)
	}
	found, err := r.others(d.BaseDN, []string{r.s.UID}, []string{e.UID}, fold)
	if err == nil && len(found) > 0 {
		err = r.say("duplicate-uid", e.DN, r.s.UID, e.UID, names(found)...)
	}
	return err
}

// shared tells of each address of e that some of others have as well.
func (r *run) shared(e *directory.Entry, others []*directory.Entry) error {
	own := r.owned(e)
	for i, a := range own {
		same := func(b address) bool { return r.sameAddress(a.value, b.value) }
		domain := a.value[strings.LastIndexByte(a.value, '@')+1:]
		if r.domainOf(mail.Address{Domain: domain}) == nil || slices.ContainsFunc(own[:i], same) {
			continue // not ours, or told before
		}
		has := slices.DeleteFunc(slices.Clone(others), func(o *directory.Entry) bool { return !slices.ContainsFunc(r.owned(o), same) })
		if len(has) == 0 {
			continue
		}
		if err := r.say("ambiguous-address", e.DN, a.attribute, a.value, names(has)...); err != nil {
			return err
		}
	}
	return nil
}

// others are the entries but fold that have one of values and count.
func (r *run) others(base string, attrs, values []string, fold string) (out []*directory.Entry, err error) {
	found, err := r.d.Find(r.ctx, base, attrs, values, 64)
	if err != nil && !errors.Is(err, directory.ErrNotFound) {
		return nil, err
	}
	for _, e := range found {
		f, err := ldap.FoldName(e.DN)
		if there, told := r.assumedNames[f]; told && !there {
			continue
		}
		if err == nil && f != fold && e.Kind != directory.Other && counts(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// names are those of the entries.
func names(entries []*directory.Entry) (dns []string) {
	for _, e := range entries {
		dns = append(dns, e.DN)
	}
	return dns
}

// Assume makes the checker believe that an entry is there, for trying a series
// of changes that are not made.
func (c *Checker) Assume(ctx context.Context, dn string, raw directory.Attributes) error {
	r := c.one(ctx, new([]Finding))
	c.Expect(dn)
	if r.d.InTree(dn) {
		return c.assumeNode(r, dn, raw)
	}
	if dom, ok := r.s.ReadDomain(dn, raw); ok && slices.ContainsFunc(raw.Get("objectClass"), func(v string) bool { return strings.EqualFold(v, r.s.DomainClass) }) {
		base, err := ldap.FoldName(dom.BaseDN)
		if err != nil {
			return err
		}
		for _, name := range append([]string{dom.Name}, dom.Aliases...) {
			c.domains[name] = &domain{Domain: dom, base: base, all: dom.SmartHost != "" || dom.CatchAll != "", assumed: true}
		}
		return nil
	}
	e := r.s.ReadEntry(dn, raw)
	fold, err := ldap.FoldName(dn)
	if err != nil || e.Kind == directory.Other {
		return err
	}
	if err := c.surroundings(r, &directory.Entry{Raw: raw}); err != nil {
		return err
	}
	h := r.hash(fold)
	c.nodes[h] = nodeOf(e, r.active(e))
	for _, own := range r.owned(e) {
		if a, err := mail.ParseAddress(own.value, true); err == nil && counts(e) {
			if d := r.domainOf(a); d != nil {
				c.addresses[r.key(a.Local, d)] = h
			}
		}
	}
	if d := r.home(fold); d != nil && e.UID != "" {
		c.uids[e.UID+"\x00"+d.Name] = dn
	}
	return nil
}

// Organization says what is wrong with the domain that dn would be with these
// attributes, and with who has its names already.
func (c *Checker) Organization(ctx context.Context, dn string, raw directory.Attributes) ([]Finding, error) {
	var out []Finding
	r := c.one(ctx, &out)
	if r.d.InTree(dn) {
		err := c.treeNode(r, dn, raw)
		return out, err
	}
	dom, ok := r.s.ReadDomain(dn, raw)
	if err := r.faults(dn, dom.Faults); err != nil {
		return nil, err
	}
	if !ok {
		if len(dom.Faults) == 0 {
			return out, r.say("domain-name", dn, r.s.PreferredDomain, "")
		}
		return out, nil
	}
	if _, err := ldap.FoldName(dn); err != nil {
		return out, r.say("bad-name", dn, "", "")
	}
	if err := c.claimed(r, dn, dom); err != nil {
		return nil, err
	}
	if !strings.EqualFold(dom.BaseDN, dn) {
		if _, err := r.checkBase(dom); err != nil {
			return nil, err
		}
	}
	return out, c.settings(r, dn, dom)
}
