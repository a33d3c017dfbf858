/*
Package migrate takes the domains of a directory from the DC tree of Schema 1 to
the organization tree of Schema 2:

	Schema 1 --Compatible--> both trees --Native--> both trees --RemoveTree--> Schema 2
	sun-schema1              sun-compat             sun-schema2                sun-schema2

Each step only adds to what the relays of the step before read, until the tree is
removed. So relays change their preset one after the other between the steps, and
the way back is the preset before; after the last step it is the tree, which is
kept as LDIF.

A plan is checked before it is written, by the reader that relays use: what it
makes of the entries as they would be has to be what it makes of the tree. Where
that cannot be, because Schema 2 cannot say it, there is a Problem, and the plan
is not to be written. Verify asks the directory the same afterwards.
*/
package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// Step is what is done.
type Step string

// The steps. Compatible leaves inetDomainStatus to the tree, because an
// organization's wins over it; Native brings organizations up to date with the
// tree and gives them that too.
const (
	Compatible Step = "compat"
	Native     Step = "native"
	RemoveTree Step = "remove-tree"
)

// Steps are all of them, in order.
var Steps = []Step{Compatible, Native, RemoveTree}

// Change is one entry that is added, changed or deleted.
type Change struct {
	Op      edit.Op     `json:"op"`
	DN      string      `json:"dn"`
	Changes []edit.Edit `json:"changes"`
}

// AppendLDIF appends c as a change record (RFC 2849).
func (c *Change) AppendLDIF(b []byte) []byte {
	var attrs directory.Attributes
	for _, e := range c.Changes {
		attrs = append(attrs, directory.Attribute{Name: e.Attribute, Values: e.New})
	}
	op := map[edit.Op]string{edit.Add: "add", edit.Set: "modify", edit.Delete: "delete"}[c.Op]
	return embedded.AppendChange(b, c.DN, op, attrs)
}

// Problem is a domain that would not be what it is.
type Problem struct {
	Domain string `json:"domain"`
	What   string `json:"what"`
	// Broken: relays cannot read it now either. It is left where it is.
	Broken bool `json:"broken,omitempty"`
}

// Plan is what a step does.
type Plan struct {
	Changes  []*Change `json:"changes"`
	Problems []Problem `json:"problems,omitempty"`
	Names    []string  `json:"names"` // of all domains that relays can read, and that stay as they are
}

// Blocked reports whether the plan must not be written.
func (p *Plan) Blocked() bool {
	return slices.ContainsFunc(p.Problems, func(q Problem) bool { return !q.Broken })
}

// Kept is what a plan deletes, as LDIF that adds it again.
func (p *Plan) Kept() []byte {
	var b []byte
	for _, c := range slices.Backward(p.Changes) { // parents first
		if c.Op != edit.Delete {
			continue
		}
		var attrs directory.Attributes
		for _, e := range c.Changes {
			attrs = append(attrs, directory.Attribute{Name: e.Attribute, Values: e.Old})
		}
		b = embedded.AppendRecord(b, c.DN, attrs)
	}
	return b
}

// domain is a node of the DC tree, as relays see it.
type domain struct {
	*directory.Domain
	spelled string
	names   []string // that lead to it, spelled among them
}

// Make plans a step for the directory d, which is read as Schema 1 or in the
// compatibility mode. It changes nothing. asAlias are domains that are to become
// aliases though they have settings of their own, which are lost.
func Make(ctx context.Context, d *ldap.Directory, step Step, asAlias ...string) (*Plan, error) {
	if d.DCRoot() == "" || d.Schema().Layout == directory.LayoutOrganization {
		return nil, fmt.Errorf("%w: the directory is not read by a DC tree", directory.ErrMisconfigured)
	}
	m := &maker{d: d, s: d.Schema(), step: step, asAlias: asAlias, plan: &Plan{Changes: []*Change{}, Names: []string{}}}
	if err := m.read(ctx); err != nil {
		return nil, err
	}
	if step == RemoveTree {
		return m.plan, m.removal(ctx)
	}
	return m.plan, m.organizations(ctx)
}

// maker makes a plan.
type maker struct {
	d       *ldap.Directory
	s       *directory.Schema
	step    Step
	asAlias []string
	plan    *Plan
	domains []*domain
}

func (m *maker) problem(name, format string, args ...any) {
	m.plan.Problems = append(m.plan.Problems, Problem{Domain: name, What: fmt.Sprintf(format, args...)})
}

// read finds every domain of the tree and the names that lead to it.
func (m *maker) read(ctx context.Context) error {
	names := map[string]bool{}
	err := m.d.Scan(ctx, m.d.DCRoot(), ldap.Everything, []string{"objectClass"}, func(dn string, raw directory.Attributes) error {
		if classes := raw.Get("objectClass"); holds(classes, "inetDomain") || m.s.DomainAliasMark != "" && holds(classes, m.s.DomainAliasMark) {
			names[m.d.Spelled(dn)] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("DC tree: %w", err)
	}
	byDN := map[string]*domain{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		dom, err := m.d.Domain(ctx, name)
		switch {
		case errors.Is(err, directory.ErrMisconfigured), errors.Is(err, directory.ErrAmbiguous), errors.Is(err, directory.ErrNotFound):
			m.plan.Problems = append(m.plan.Problems, Problem{name, err.Error(), true})
			continue
		case err != nil:
			return fmt.Errorf("domain %s: %w", name, err)
		}
		if !holds(m.asAlias, name) {
			m.plan.Names = append(m.plan.Names, name)
		}
		if !m.d.InTree(dom.DN) {
			continue // of an organization already
		}
		fold, err := ldap.FoldName(dom.DN)
		if err != nil {
			return err
		}
		if byDN[fold] == nil {
			byDN[fold] = &domain{Domain: dom, spelled: m.d.Spelled(dom.DN)}
			m.domains = append(m.domains, byDN[fold])
		}
		byDN[fold].names = append(byDN[fold].names, name)
	}
	return nil
}

// organizations plans the entries of the organization tree.
func (m *maker) organizations(ctx context.Context) error {
	byName := map[string][]*domain{}
	for _, d := range m.domains {
		byName[d.Name] = append(byName[d.Name], d)
	}
	owner := map[string]string{} // canonical name by folded base
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		group := byName[name]
		// The node of the canonical name itself has the settings.
		slices.SortStableFunc(group, func(a, b *domain) int { return rank(a) - rank(b) })
		main := group[0]
		var names []string
		for _, d := range group {
			names = append(names, d.names...)
			if !strings.EqualFold(d.BaseDN, main.BaseDN) {
				m.problem(d.spelled, "%s and %s are called %s and have their users in different places", main.DN, d.DN, name)
			} else if what := m.differences(d.Domain, main.Domain); len(what) > 0 && !holds(m.asAlias, d.spelled) {
				m.problem(d.spelled, "it has settings of its own, which an alias cannot have: %s", strings.Join(what, ", "))
			}
		}
		base, err := ldap.FoldName(main.BaseDN)
		if err != nil {
			return err
		}
		if _, ok := ldap.Moved(base, m.d.Base(), m.d.Base()); !ok {
			m.problem(name, "its users are in %s, which is not below %s", main.BaseDN, m.d.Base())
			continue
		}
		at, users := main.BaseDN, ""
		if owner[base] != "" { // two domains have the same users
			if at, err = ldap.Child("o", name, m.d.Base()); err != nil {
				return err
			}
			users = main.BaseDN
		} else {
			owner[base] = name
		}
		if err := m.organization(ctx, main, at, users, names); err != nil {
			return err
		}
	}
	return nil
}

func rank(d *domain) int {
	if d.spelled == d.Name {
		return 0
	}
	return 1
}

// organization plans the entry of one domain, whose users are elsewhere when
// users is not empty.
func (m *maker) organization(ctx context.Context, d *domain, at, users string, names []string) error {
	dn, old, err := m.d.Raw(ctx, at)
	if errors.Is(err, directory.ErrNotFound) && users != "" {
		dn, old, err = at, nil, nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	now := old.Clone()
	if old == nil {
		now.Put("objectClass", "organization")
		now.Put("o", d.Name)
	}
	now.Put("objectClass", more(now.Get("objectClass"), m.s.DomainClass, "inetDomainAuthInfo", "mailDomain")...)
	if have := now.First(m.s.PreferredDomain); have != "" && !strings.EqualFold(have, d.Name) {
		m.problem(d.Name, "%s is the domain %s already", dn, have)
		return nil
	}
	now.Put(m.s.PreferredDomain, d.Name)
	now.Put(m.s.DomainBaseDN, nonEmpty(users)...)
	now.Put(m.s.AssociatedDomain, slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == d.Name })...)
	for _, attr := range m.settings() {
		now.Put(attr, d.Raw.Get(attr)...)
	}
	if err := m.status(ctx, d, &now, users); err != nil {
		return err
	}
	if err := m.limits(ctx, d, &now); err != nil {
		return err
	}
	if got, ok := m.s.ReadDomain(dn, now); !ok || got.Name != d.Name || !strings.EqualFold(got.BaseDN, d.BaseDN) || len(m.differences(d.Domain, got)) > 0 {
		if m.step == Native || !slices.Equal(m.differences(d.Domain, got), []string{m.s.DomainStatus}) {
			m.problem(d.Name, "as an organization it would differ: %s", strings.Join(m.differences(d.Domain, got), ", "))
		}
	}
	c := &Change{Op: edit.Set, DN: dn, Changes: edit.Diff(old, now)}
	if old == nil {
		c.Op = edit.Add
	}
	if len(c.Changes) > 0 {
		m.plan.Changes = append(m.plan.Changes, c)
	}
	return nil
}

// status gives the organization the status that is in force, unless the tree is
// still to be asked for it.
func (m *maker) status(ctx context.Context, d *domain, now *directory.Attributes, users string) error {
	if m.step != Native || m.s.DomainStatus == "" || now.First(m.s.DomainStatus) != "" {
		return nil
	}
	have := d.Raw.Get(m.s.DomainStatus)
	if users != "" {
		_, base, err := m.d.Raw(ctx, users, m.s.DomainStatus)
		if err != nil {
			return fmt.Errorf("%s: %w", users, err)
		}
		if v := base.Get(m.s.DomainStatus); len(v) > 0 {
			have = v
		}
	}
	now.Put(m.s.DomainStatus, have...)
	return nil
}

// limits takes over what delegated administrators may make, which relays do not
// read.
func (m *maker) limits(ctx context.Context, d *domain, now *directory.Attributes) error {
	const class = "sunDelegatedOrganization"
	_, node, err := m.d.Raw(ctx, d.DN)
	if err != nil {
		return fmt.Errorf("%s: %w", d.DN, err)
	}
	if !holds(node.Get("objectClass"), class) {
		return nil
	}
	now.Put("objectClass", more(now.Get("objectClass"), class)...)
	for _, a := range node {
		switch strings.ToLower(a.Name) {
		case "sunmaxusers", "sunmaxgroups", "sunnumusers", "sunnumgroups", "sunorgtype", "sunavailabledomainnames", "sunavailableservices":
			now.Put(a.Name, a.Values...)
		}
	}
	return nil
}

// settings are the attributes that say how a domain is handled.
func (m *maker) settings() []string {
	how := append([]string{
		"objectClass", m.s.PreferredDomain, m.s.AssociatedDomain, m.s.DomainBaseDN, m.s.DomainStatus, m.s.CanonicalDomain, m.s.DomainAlias,
	}, m.s.Stamp...)
	return slices.DeleteFunc(m.s.DomainAttributes(), func(a string) bool { return holds(how, a) })
}

// differences are the attributes by which two readings of a domain differ to
// relays.
func (m *maker) differences(a, b *directory.Domain) []string {
	var out []string
	for _, attr := range m.settings() {
		x, y := slices.Sorted(slices.Values(a.Raw.Get(attr))), slices.Sorted(slices.Values(b.Raw.Get(attr)))
		if !slices.Equal(x, y) {
			out = append(out, attr)
		}
	}
	if a.Status != b.Status {
		out = append(out, m.s.DomainStatus)
	}
	return out
}

// removal plans the end of the DC tree: every node, the deepest first.
func (m *maker) removal(ctx context.Context) error {
	root, err := ldap.FoldName(m.d.DCRoot())
	if err != nil {
		return err
	}
	err = m.d.Scan(ctx, m.d.DCRoot(), ldap.Everything, nil, func(dn string, raw directory.Attributes) error {
		fold, err := ldap.FoldName(dn)
		if err != nil || fold == root {
			return err
		}
		m.plan.Changes = append(m.plan.Changes, &Change{Op: edit.Delete, DN: dn, Changes: edit.Diff(raw, nil)})
		return nil
	})
	if err != nil {
		return fmt.Errorf("DC tree: %w", err)
	}
	slices.SortStableFunc(m.plan.Changes, func(a, b *Change) int {
		return strings.Count(m.d.Spelled(b.DN), ".") - strings.Count(m.d.Spelled(a.DN), ".")
	})
	return nil
}

// Verify asks for every name by both readers, and returns where they differ.
func Verify(ctx context.Context, before, after *ldap.Directory, names []string) ([]Problem, error) {
	var out []Problem
	for _, name := range names {
		a, err := before.Domain(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("domain %s: %w", name, err)
		}
		b, err := after.Domain(ctx, name)
		switch {
		case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrMisconfigured), errors.Is(err, directory.ErrAmbiguous):
			out = append(out, Problem{Domain: name, What: err.Error()})
			continue
		case err != nil:
			return nil, fmt.Errorf("domain %s: %w", name, err)
		}
		if what := compare(a, b); what != "" {
			out = append(out, Problem{Domain: name, What: "it would differ in " + what})
		}
	}
	return out, nil
}

// compare names the first field by which relays would treat two readings of a
// domain differently.
func compare(a, b *directory.Domain) string {
	if !strings.EqualFold(a.BaseDN, b.BaseDN) {
		return "BaseDN"
	}
	va, vb := reflect.ValueOf(*a), reflect.ValueOf(*b)
	for i := range va.NumField() {
		switch name := va.Type().Field(i).Name; name {
		case "DN", "BaseDN", "Aliases", "Stamp", "Raw", "Faults", "Fetched", "CatchAllOwners":
		default:
			if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
				return name
			}
		}
	}
	if !slices.EqualFunc(a.CatchAllOwners, b.CatchAllOwners, func(x, y *directory.Entry) bool { return x.DN == y.DN }) {
		return "CatchAllOwners"
	}
	return ""
}

// Write makes the changes of a plan, each a line of the audit log, and stops at
// the first that fails. What a plan does twice is the same as once.
func Write(ctx context.Context, ed *edit.Editor, p *Plan, progress func(done, total int)) error {
	for i, c := range p.Changes {
		if progress != nil {
			progress(i, len(p.Changes))
		}
		if err := ed.Write(ctx, &edit.Result{Op: c.Op, Kind: edit.Domain, DN: c.DN, Changes: c.Changes}); err != nil {
			return fmt.Errorf("%s: %w", c.DN, err)
		}
	}
	return nil
}

func holds(list []string, v string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, v) })
}

func more(list []string, values ...string) []string {
	list = slices.Clone(list)
	for _, v := range values {
		if v != "" && !holds(list, v) {
			list = append(list, v)
		}
	}
	return list
}

func nonEmpty(v string) []string {
	if v == "" {
		return nil
	}
	return []string{v}
}
