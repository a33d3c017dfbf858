package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

const (
	// maxAliases is how many aliases of the DC tree may point to each other.
	maxAliases = 4
	// maxLabels is how many labels a name in the DC tree may have.
	maxLabels = 32
	// maxParents is how many parents of a name are tried.
	maxParents = 8
)

// Domain implements directory.Directory. ErrAmbiguous names both entries.
func (d *Directory) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	dom, err := d.find(ctx, name, true)
	if err != nil {
		err = d.note("domain "+name, err)
	}
	return dom, err
}

// find is Domain; owners says whether the catch-all owners are wanted.
func (d *Directory) find(ctx context.Context, name string, owners bool) (*directory.Domain, error) {
	if name == "" || len(name) > mail.MaxDomain {
		return nil, directory.ErrNotFound
	}
	dom, err := d.named(ctx, name)
	if !errors.Is(err, directory.ErrNotFound) {
		return d.finish(ctx, dom, name, owners, err)
	}
	if d.cfg.Uplevel&UplevelParents != 0 {
		up := name
		for range maxParents {
			var ok bool
			if _, up, ok = strings.Cut(up, "."); !ok || up == "" {
				break
			}
			dom, err := d.named(ctx, up)
			if err == nil {
				dom.Parent = up
			}
			if !errors.Is(err, directory.ErrNotFound) {
				return d.finish(ctx, dom, name, owners, err)
			}
		}
	}
	if d.cfg.Vanity {
		return d.vanity(ctx, name)
	}
	return nil, directory.ErrNotFound
}

// named finds a domain by one of its own names.
func (d *Directory) named(ctx context.Context, name string) (*directory.Domain, error) {
	if sd := d.static[name]; sd != nil {
		return d.staticDomain(ctx, sd)
	}
	layout := d.cfg.Schema.Layout
	if layout == directory.LayoutDC || layout == directory.LayoutCompatible {
		dom, err := d.node(ctx, name)
		if layout == directory.LayoutDC || !errors.Is(err, directory.ErrNotFound) {
			return dom, err
		}
	}
	return d.organization(ctx, name)
}

// finish completes what was found for name.
func (d *Directory) finish(ctx context.Context, dom *directory.Domain, name string, owners bool, err error) (*directory.Domain, error) {
	if err != nil {
		return nil, err
	}
	if dom.Parent == "" && !dom.HasName(name) {
		dom.Aliases = append(slices.Clip(dom.Aliases), name)
	}
	current := dom.Name
	if d.cfg.Uplevel&UplevelCurrent != 0 {
		current = name
	}
	dom.Hosted = d.deflt != "" && current != d.deflt
	dom.Fetched = time.Now()
	d.broken(dom.DN, dom.Faults)
	if !owners || len(d.catchAll) == 0 {
		return dom, nil
	}
	names := []string{dom.Name}
	if dom.Parent == "" && name != dom.Name {
		names = append(names, name)
	}
	for i := range names {
		names[i] = "@" + names[i]
	}
	found, err := d.search(ctx, dom.BaseDN, ldap.ScopeWholeSubtree, anyEqual(d.catchAll, names), d.entry, maxMatches)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil, fmt.Errorf("%w: base %q of %q does not exist: %w", directory.ErrMisconfigured, dom.BaseDN, dom.DN, err)
	case err != nil:
		return nil, fmt.Errorf("catch-all: %w", err)
	}
	for i := range found {
		if e := d.read(&found[i]); e.Kind != directory.Other {
			dom.CatchAllOwners = append(dom.CatchAllOwners, e)
		}
	}
	return dom, nil
}

// organization searches the organization tree (Schema 2 native).
func (d *Directory) organization(ctx context.Context, name string) (*directory.Domain, error) {
	s := &d.cfg.Schema
	if d.orgFilter == nil || d.cfg.Base == "" {
		return nil, directory.ErrNotFound
	}
	found, err := d.search(ctx, d.cfg.Base, ldap.ScopeWholeSubtree, d.orgFilter.domainFilter(name), d.domain, maxMatches)
	switch {
	case err != nil:
		return nil, d.whole(err)
	case len(found) == 0:
		return nil, directory.ErrNotFound
	case len(found) > 1:
		return nil, fmt.Errorf("%w: %q and %q", directory.ErrAmbiguous, found[0].DN, found[1].DN)
	}
	dom, ok := s.ReadDomain(found[0].DN, found[0].Attributes)
	if !ok {
		return nil, fmt.Errorf("%w: entry %q has no usable %s", directory.ErrMisconfigured, dom.DN, s.PreferredDomain)
	}
	if err := d.inside(dom.BaseDN); err != nil {
		return nil, fmt.Errorf("%w: base %q of %q: %w", directory.ErrMisconfigured, dom.BaseDN, dom.DN, err)
	}
	return dom, nil
}

// node reads the node of the DC tree that name spells, through its aliases.
func (d *Directory) node(ctx context.Context, name string) (*directory.Domain, error) {
	s := &d.cfg.Schema
	if d.dcRoot == nil || strings.Count(name, ".") >= maxLabels || strings.Contains(name, "..") || name[0] == '.' || name[len(name)-1] == '.' {
		return nil, directory.ErrNotFound
	}
	dn := dcName(name, d.cfg.DCRoot)
	for hop := range maxAliases + 1 {
		found, err := d.search(ctx, dn, ldap.ScopeBaseObject, d.dcFilter, d.domain, 1)
		if ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			err, found = d.absent(ctx, d.dcRoot, err), nil
		}
		switch {
		case err != nil:
			return nil, err
		case len(found) == 0 && hop == 0:
			return nil, directory.ErrNotFound
		case len(found) == 0:
			return nil, fmt.Errorf("%w: alias of %s leads to %q, which is no domain", directory.ErrMisconfigured, name, dn)
		}
		le := found[0]
		parsed, err := ldap.ParseDN(le.DN)
		if err != nil {
			return nil, fmt.Errorf("%w: name of %q: %w", directory.ErrMisconfigured, le.DN, err)
		}
		raw := le.Attributes
		target := raw.First(s.DomainAlias)
		if target == "" || s.DomainAliasMark == "" || !slices.ContainsFunc(raw.Get("objectClass"), func(c string) bool {
			return strings.EqualFold(c, s.DomainAliasMark)
		}) {
			return d.ofNode(ctx, le.DN, spelledBy(parsed, d.dcRoot), raw)
		}
		if to, err := ldap.ParseDN(target); err != nil || !d.dcRoot.AncestorOfFold(to) {
			return nil, fmt.Errorf("%w: alias %q leads to %q, outside of the DC tree", directory.ErrMisconfigured, le.DN, target)
		}
		dn = target
	}
	return nil, fmt.Errorf("%w: %s has more than %d aliases in a row", directory.ErrMisconfigured, name, maxAliases)
}

// ofNode makes the domain of a node. The organization's own entry is read for
// its status, which wins.
func (d *Directory) ofNode(ctx context.Context, dn, spelled string, raw directory.Attributes) (*directory.Domain, error) {
	s := &d.cfg.Schema
	dom, ok := s.ReadNode(dn, spelled, raw)
	if !ok {
		return nil, fmt.Errorf("%w: %q has no %s", directory.ErrMisconfigured, dn, s.DomainBaseDN)
	}
	if dom.Name == "" {
		return nil, fmt.Errorf("%w: %q spells no domain", directory.ErrMisconfigured, dn)
	}
	if err := d.inside(dom.BaseDN); err != nil {
		return nil, fmt.Errorf("%w: base %q of %q: %w", directory.ErrMisconfigured, dom.BaseDN, dn, err)
	}
	found, err := d.search(ctx, dom.BaseDN, ldap.ScopeBaseObject, anything, d.status, 1)
	if err == nil && len(found) != 1 {
		err = errors.New("not visible")
	}
	if err != nil {
		return nil, fmt.Errorf("base %q of %q: %w", dom.BaseDN, dn, d.whole(err))
	}
	s.OverrideStatus(dom, found[0].Attributes)
	return dom, nil
}

// staticDomain reads the entry at the base of a configured domain, for its
// status. That the base is missing is a fault, not an answer.
func (d *Directory) staticDomain(ctx context.Context, sd *Domain) (*directory.Domain, error) {
	found, err := d.search(ctx, sd.Base, ldap.ScopeBaseObject, anything, d.domain, 1)
	if err == nil && len(found) != 1 {
		err = errors.New("base entry is not visible")
	}
	if err != nil {
		return nil, fmt.Errorf("base %q: %w", sd.Base, d.whole(err))
	}
	dom, _ := d.cfg.Schema.ReadDomain(found[0].DN, found[0].Attributes)
	name, _ := directory.NormalizeDomain(sd.Name) // New has checked it
	dom.Name, dom.BaseDN = name, sd.Base
	for _, alias := range sd.Aliases {
		if a, _ := directory.NormalizeDomain(alias); !dom.HasName(a) {
			dom.Aliases = append(dom.Aliases, a)
		}
	}
	return dom, nil
}

// vanity finds the user that a name belongs to (directory.md 4.5). The domain
// is the user's, whose settings and status count.
func (d *Directory) vanity(ctx context.Context, name string) (*directory.Domain, error) {
	attr := d.cfg.Schema.VanityDomain
	if attr == "" || d.cfg.Base == "" {
		return nil, directory.ErrNotFound
	}
	found, err := d.search(ctx, d.cfg.Base, ldap.ScopeWholeSubtree, oneEqual(attr, name), d.entry, maxMatches)
	if err != nil {
		return nil, d.whole(err)
	}
	var owners []*directory.Entry
	for i := range found {
		owners = append(owners, d.read(&found[i]))
	}
	owner, err := directory.Sole(owners)
	if err != nil {
		return nil, err
	}
	for _, spelled := range slices.Concat([]string{owner.Mail}, owner.Alternate, owner.Equivalent) {
		a, err := mail.ParseAddress(spelled, true)
		if err != nil {
			continue
		}
		home, err := directory.NormalizeDomain(a.Domain)
		if err != nil || home == name {
			continue
		}
		dom, err := d.named(ctx, home)
		if errors.Is(err, directory.ErrNotFound) {
			continue
		}
		if err == nil {
			dom.Vanity = name
			dom.Fetched = time.Now()
			dom.Hosted = d.deflt != "" && dom.Name != d.deflt
		}
		return dom, err
	}
	return nil, fmt.Errorf("%w: vanity domain %s: %q has no address in a hosted domain", directory.ErrMisconfigured, name, owner.DN)
}
