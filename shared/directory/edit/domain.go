package edit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// step is one change of several that are judged before the first is made.
type step struct {
	res      *Result
	old, raw directory.Attributes // raw nil: deleted
}

// all judges all steps, each as though those before it had been made, and then
// makes them, but for those that have been made already. The one that main says
// is the result, the others are in Also.
func (ed *Editor) all(ctx context.Context, steps []step, main int) (*Result, error) {
	res := steps[main].res
	done, err := ed.made(ctx, steps)
	if err != nil {
		return nil, err
	}
	var judged error
	for _, s := range steps {
		if s.raw == nil || done[s.res] {
			continue
		}
		if judged = ed.judge(ctx, s.res, s.old, s.raw); judged != nil {
			break
		}
		if s.res.Op == Add {
			ed.check.Expect(s.res.DN)
		}
	}
	if judged != nil {
		for _, s := range steps {
			if s.res.Op == Add {
				ed.check.Ask(s.res.DN)
			}
		}
		return refusal(res, judged)
	}
	for i, s := range steps {
		var err error
		switch {
		case done[s.res]:
		case s.raw == nil:
			_, err = ed.do(ctx, s.res, nil, func() error { return ed.d.Delete(ctx, s.res.DN) })
		case s.res.Op != Set || len(s.res.Changes) > 0:
			_, err = ed.write(ctx, s.res, s.raw)
		}
		if i != main && len(s.res.Changes) > 0 {
			res.Also = append(res.Also, s.res)
		}
		if err != nil {
			return res, err
		}
	}
	return res, nil
}

// vacant returns an error unless there is no entry of that name.
func (ed *Editor) vacant(ctx context.Context, dn string) error {
	_, _, err := ed.raw(ctx, dn)
	switch {
	case err == nil:
		return fmt.Errorf("%s: %w", dn, ldap.ErrExists)
	case errors.Is(err, directory.ErrNotFound):
		return nil
	}
	return err
}

// domainName is the name of the domain whose entry dn is.
func (ed *Editor) domainName(dn string, raw directory.Attributes) string {
	if ed.d.InTree(dn) {
		return ed.d.Spelled(dn)
	}
	return strings.TrimSpace(raw.First(ed.s.PreferredDomain))
}

// properName sees to it that a domain that is to go, or to be called
// otherwise, was not named by an alias, of which only the alias may be meant.
func (ed *Editor) properName(ctx context.Context, given, dn string, raw directory.Attributes) error {
	n, err := directory.NormalizeDomain(given)
	if err != nil || strings.Contains(given, "=") {
		return nil
	}
	own := ed.domainName(dn, raw)
	if base, ok := ed.d.Configured(n); ok && sameName(base, dn) {
		if d, err := ed.check.Domain(ctx, n); err == nil {
			own = d.Name
		}
	}
	if own == "" || strings.EqualFold(n, own) {
		return nil
	}
	return badf("%s is another name of the domain %s: to take that name away, remove it from the aliases", given, own)
}

// addDomain makes the entry of a domain and the containers below it.
func (ed *Editor) addDomain(ctx context.Context, req Request) (*Result, error) {
	steps, main, err := ed.newDomain(ctx, req)
	if err != nil {
		return nil, err
	}
	return ed.all(ctx, steps, main)
}

// putDomain sets what is given of the domain whose entry is dn, or goes on with
// adding it when that was begun by such a request and not finished.
func (ed *Editor) putDomain(ctx context.Context, req Request, dn string) (*Result, error) {
	steps, main, err := ed.newDomain(ctx, req)
	switch {
	case errors.Is(err, ldap.ErrExists), errors.Is(err, ErrBadRequest):
	case err != nil:
		return nil, err
	case slices.ContainsFunc(steps, func(s step) bool { return sameName(s.res.DN, dn) }): // the node, or its organization
		if res, err := ed.all(ctx, steps, main); !errors.Is(err, ldap.ErrExists) {
			return res, err
		}
	}
	return ed.set(ctx, req)
}

// newDomain are the steps that make a domain; that of the entry which is the
// domain's is main. ErrExists when it is more than begun.
func (ed *Editor) newDomain(ctx context.Context, req Request) (steps []step, main int, err error) {
	name, err := directory.NormalizeDomain(strings.TrimSpace(req.Name))
	if err != nil || name == "" || strings.ContainsAny(name, " @,=") {
		return nil, 0, badf("domain %q: want a name such as example.org", req.Name)
	}
	if base, ok := ed.d.Configured(name); ok {
		steps, err = ed.newConfigured(ctx, req, base)
		return steps, 0, err
	}
	switch {
	case ed.s.Layout != directory.LayoutOrganization:
		return ed.newNode(ctx, req, name)
	case ed.s.DomainClass == "":
		return nil, 0, badf("domains of the schema %s are those of the configuration: name %s and its base there first, and then add makes the base", ed.s.Name, name)
	}
	parent := req.Below
	if parent == "" {
		parent = ed.d.Base()
	}
	dn, err := ldap.Child("o", name, parent)
	if err != nil {
		return nil, 0, err
	}
	raw := ed.organization(name, true)
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, 0, err
	}
	if err := ed.begun(ctx, dn, raw); err != nil {
		return nil, 0, err
	}
	steps = []step{{&Result{Op: Add, Kind: Domain, DN: dn}, nil, raw}}
	if ed.s.DomainBaseDN == "" || raw.First(ed.s.DomainBaseDN) == "" {
		steps, err = boxes(steps, dn)
	}
	return steps, 0, err
}

// organization is the entry of a domain of Schema 2.
func (ed *Editor) organization(name string, status bool) directory.Attributes {
	raw := directory.Attributes{{Name: "objectClass", Values: classes(ed.s, Domain)}}
	put(&raw, "o", name)
	put(&raw, ed.s.PreferredDomain, name)
	for _, attr := range []string{ed.s.DomainStatus, ed.s.MailDomainStatus} {
		if attr != "" && status {
			put(&raw, attr, "active")
		}
	}
	return raw
}

// boxes adds the containers for users and groups below dn.
func boxes(steps []step, dn string) ([]step, error) {
	for _, ou := range []string{"people", "groups"} {
		child, err := ldap.Child("ou", ou, dn)
		if err != nil {
			return nil, err
		}
		box := directory.Attributes{{Name: "objectClass", Values: []string{"organizationalUnit"}}, {Name: "ou", Values: []string{ou}}}
		steps = append(steps, step{&Result{Op: Add, Kind: Other, DN: child}, nil, box})
	}
	return steps, nil
}

// baseClasses are the object classes of a base by the attribute that names it.
var baseClasses = map[string][]string{"o": {"organization"}, "ou": {"organizationalUnit"}, "dc": {"domain"}}

// newConfigured is newDomain for one that the configuration gives: its base is made.
func (ed *Editor) newConfigured(ctx context.Context, req Request, base string) ([]step, error) {
	attr, value, ok := ldap.First(base)
	classes := baseClasses[strings.ToLower(attr)]
	if !ok || classes == nil {
		return nil, badf("base %s of %s: only entries that o, ou or dc name are made here", base, req.Name)
	}
	raw := directory.Attributes{{Name: "objectClass", Values: classes}, {Name: attr, Values: []string{value}}}
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, err
	}
	if err := ed.begun(ctx, base, raw); err != nil {
		return nil, err
	}
	return boxes([]step{{&Result{Op: Add, Kind: Domain, DN: base}, nil, raw}}, base)
}

// isBase reports whether dn is the base of a domain that the configuration
// gives.
func (ed *Editor) isBase(dn string) bool {
	return slices.ContainsFunc(ed.d.ConfiguredBases(), func(base string) bool { return sameName(base, dn) })
}

func sameName(a, b string) bool {
	fa, errA := ldap.FoldName(a)
	fb, errB := ldap.FoldName(b)
	return errA == nil && errB == nil && fa == fb
}
