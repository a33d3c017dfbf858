package edit

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/lint"
	"github.com/postern-mail/postern/shared/mail"
)

// refusal is what comes of a change that is not made: a Refused has its result.
func refusal(res *Result, err error) (*Result, error) {
	var no *Refused
	if err != nil && !errors.As(err, &no) {
		return nil, err
	}
	return res, err
}

// judge notes what would change, and refuses it when mail would be lost.
func (ed *Editor) judge(ctx context.Context, res *Result, old, raw directory.Attributes) error {
	ed.hashPasswords(old, raw)
	if res.Op == Set {
		if err := keepName(res.DN, &raw); err != nil {
			return err
		}
	}
	res.Changes = diff(old, raw)
	if len(res.Changes) == 0 && res.Op == Set {
		return nil
	}
	findings, err := ed.findings(ctx, res, raw)
	if err != nil {
		return err
	}
	var fatal []lint.Finding
	for _, f := range findings {
		if f.Severity == lint.Error && f.Rule != "no-members" && (!ed.cfg.Faulty || touches(res.Changes, f.Attribute)) {
			fatal = append(fatal, f)
		} else {
			res.Warnings = append(res.Warnings, f)
		}
	}
	if len(fatal) > 0 {
		return &Refused{fatal}
	}
	return nil
}

// touches reports whether an attribute is among those that change.
func touches(changes []Edit, attribute string) bool {
	return slices.ContainsFunc(changes, func(e Edit) bool { return strings.EqualFold(e.Attribute, attribute) })
}

func (ed *Editor) findings(ctx context.Context, res *Result, raw directory.Attributes) ([]lint.Finding, error) {
	dn := res.DN
	if res.NewDN != "" {
		ed.check.Leave(res.DN)
		defer ed.check.Ask(res.DN)
		dn = res.NewDN
	}
	if res.Kind == Domain && ed.isBase(dn) && (ed.s.DomainClass == "" || !hasClass(raw, ed.s.DomainClass)) {
		return nil, nil // its names are in the configuration
	}
	switch res.Kind {
	case Domain:
		return ed.check.Organization(ctx, dn, raw)
	case User, Group:
		e := ed.s.ReadEntry(dn, raw)
		if want := map[Kind]directory.Kind{User: directory.User, Group: directory.Group}[res.Kind]; e.Kind != want {
			return nil, badf("%s has not the object classes of a %s: %s", dn, res.Kind, strings.Join(e.Classes, ", "))
		}
		return ed.check.Entry(ctx, dn, raw)
	}
	return ed.check.Entry(ctx, dn, raw)
}

// plan remembers what a dry run would have done.
func (ed *Editor) plan(ctx context.Context, dn string, raw directory.Attributes) error {
	fold, err := ldap.FoldName(dn)
	if err != nil {
		return err
	}
	ed.planned[fold] = raw
	if raw == nil {
		ed.check.Leave(dn)
		return nil
	}
	e := ed.s.ReadEntry(dn, raw)
	for _, v := range slices.Concat([]string{e.Mail}, e.Alternate, e.Equivalent) {
		if a, err := mail.ParseAddress(v, true); err == nil && e.Kind != directory.Other {
			ed.owners[a.Key()] = dn
		}
	}
	return ed.check.Assume(ctx, dn, raw)
}
