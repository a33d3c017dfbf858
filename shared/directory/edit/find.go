package edit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// Show finds the entry of a domain, an address or a distinguished name, and
// returns its name and all its attributes.
func (ed *Editor) Show(ctx context.Context, kind Kind, name string) (dn string, raw directory.Attributes, err error) {
	dn, err = ed.find(ctx, kind, name)
	if err != nil {
		return "", nil, err
	}
	if dn, raw, err = ed.raw(ctx, dn); err != nil {
		return "", nil, fmt.Errorf("%s: %w", name, err)
	}
	have := ed.kindOf(dn, raw)
	if have != kind && (have != Other || kind == Domain || len(raw.Get(ed.s.Mail))+len(raw.Get(ed.s.UID)) == 0) {
		return "", nil, badf("%s is no %s", dn, kind)
	}
	return dn, raw, nil
}

// raw reads an entry, or what a dry run has made of it.
func (ed *Editor) raw(ctx context.Context, dn string) (string, directory.Attributes, error) {
	if fold, err := ldap.FoldName(dn); err == nil {
		if raw, ok := ed.planned[fold]; ok {
			if raw == nil {
				return "", nil, directory.ErrNotFound
			}
			return dn, raw, nil
		}
	}
	dn, raw, err := ed.d.Raw(ctx, dn)
	ed.spell(raw)
	return dn, raw, err
}

// spell writes the names of attributes as their definitions do.
func (ed *Editor) spell(raw directory.Attributes) {
	for i := range raw {
		if name, ok := ed.spelled[raw[i].Name]; ok {
			raw[i].Name = name
		}
	}
}

// spellings are the names of attributes by themselves in lower case.
func spellings(s *directory.Schema) map[string]string {
	out := map[string]string{}
	add := func(names ...string) {
		for _, n := range names {
			out[strings.ToLower(n)] = n
		}
	}
	add("objectClass", "givenName", "displayName", "telephoneNumber", "dc", "o", "ou", "mailSieveRuleSource", "sunAvailableServices")
	add(s.EntryAttributes()...)
	add(s.DomainAttributes()...)
	for _, k := range []Kind{Domain, User, Group} {
		for _, f := range Fields(k) {
			add(f.attr(s))
		}
	}
	return out
}

func (ed *Editor) find(ctx context.Context, kind Kind, name string) (string, error) {
	if strings.Contains(name, "=") && !strings.Contains(name, "@") || strings.Contains(name, ",") {
		return name, nil
	}
	if kind == Domain {
		n, err := directory.NormalizeDomain(name)
		if err != nil || n == "" {
			return "", badf("domain %q: want a name such as example.org", name)
		}
		d, err := ed.check.Domain(ctx, n)
		if err != nil {
			return "", fmt.Errorf("domain %s: %w", n, err)
		}
		return d.DN, nil
	}
	a, err := mail.ParseAddress(name, true)
	if err != nil {
		return "", badf("address %q: %v", name, err)
	}
	d, err := ed.check.Domain(ctx, a.Domain)
	if err != nil {
		return "", fmt.Errorf("domain %s: %w", a.Domain, err)
	}
	if dn, ok := ed.owners[a.Key()]; ok {
		return ed.ofKind(kind, name, dn)
	}
	if ed.check.Assumed(a.Domain) {
		return "", fmt.Errorf("%s: %w", name, directory.ErrNotFound)
	}
	a.Domain, _ = directory.NormalizeDomain(a.Domain)
	ans, err := ed.d.Lookup(ctx, d, a)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if ans.CatchAll || ans.Detail != "" {
		return "", fmt.Errorf("%s: %w", name, directory.ErrNotFound)
	}
	e, err := directory.Sole(ans.Entries)
	if errors.Is(err, directory.ErrNotFound) && len(ans.Entries) == 1 {
		e, err = ans.Entries[0], nil // deleted ones are found as well
	}
	if err != nil {
		var dns []string
		for _, m := range ans.Entries {
			dns = append(dns, m.DN)
		}
		return "", fmt.Errorf("%s: %w: %s; name the entry by its distinguished name", name, err, strings.Join(dns, "; "))
	}
	if want := map[Kind]directory.Kind{User: directory.User, Group: directory.Group}[kind]; e.Kind != want {
		return "", fmt.Errorf("%s is a %s: %w", name, e.Kind, directory.ErrNotFound)
	}
	return e.DN, nil
}

// ofKind is dn, an entry of a dry run, when it is of the kind.
func (ed *Editor) ofKind(kind Kind, name, dn string) (string, error) {
	fold, err := ldap.FoldName(dn)
	if err != nil {
		return "", err
	}
	raw := ed.planned[fold]
	if want := map[Kind]directory.Kind{User: directory.User, Group: directory.Group}[kind]; ed.s.KindOf(raw.Get("objectClass")) != want {
		return "", fmt.Errorf("%s: %w", name, directory.ErrNotFound)
	}
	return dn, nil
}
