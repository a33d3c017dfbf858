package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// Selection says which entries Scan reads.
type Selection uint8

// The selections.
const (
	Everything Selection = iota
	MailEntries
	Groups
	DomainEntries
)

// Scan calls each with the entries at and below base, a page at a time, so that
// the memory it takes does not grow with the tree. attrs may be nil for all
// that people keep in entries. The error of each ends it; a server that fails
// after the first entry does too, because nobody can go on where it was.
func (d *Directory) Scan(ctx context.Context, base string, what Selection, attrs []string, each func(dn string, raw directory.Attributes) error) error {
	if err := d.insideAny(base); err != nil {
		return err
	}
	filter := anything
	switch what {
	case MailEntries:
		filter = d.classes
	case Groups:
		filter = ofClasses(d.cfg.Schema.GroupClasses...)
	case DomainEntries:
		filter = ofClasses([]string{d.cfg.Schema.DomainClass})
	}
	if attrs == nil {
		attrs = []string{"*"}
	}
	compiled, err := ldap.CompileFilter(filter)
	if err != nil {
		return fmt.Errorf("filter %q: %w", filter, err)
	}
	q := request{base: base, scope: ldap.ScopeWholeSubtree, filter: compiled.Bytes(), attrs: attrs, page: d.cfg.PageSize}
	_, err = d.stream(ctx, &q, func(r *result) error { return each(r.DN, r.Attributes) })
	return d.whole(err)
}

// insideAny is inside, for names in the DC tree as well.
func (d *Directory) insideAny(dn string) error {
	err := d.inside(dn)
	if err == nil || d.dcRoot == nil {
		return err
	}
	if parsed, perr := ldap.ParseDN(dn); perr == nil && (d.dcRoot.EqualFold(parsed) || d.dcRoot.AncestorOfFold(parsed)) {
		return nil
	}
	return err
}

// Raw reads all that people keep in one entry, or the attributes named.
func (d *Directory) Raw(ctx context.Context, dn string, attrs ...string) (string, directory.Attributes, error) {
	if err := d.insideAny(dn); err != nil {
		return "", nil, err
	}
	if len(attrs) == 0 {
		attrs = []string{"*"}
	}
	found, err := d.search(ctx, dn, ldap.ScopeBaseObject, anything, attrs, 1)
	switch {
	case err != nil:
		return "", nil, d.missing(ctx, err)
	case len(found) == 0:
		return "", nil, directory.ErrNotFound
	}
	return found[0].DN, found[0].Attributes, nil
}

// Find returns the entries at and below base that have one of values in one of
// attrs, of whatever classes; ErrTooMany when there are more than limit.
func (d *Directory) Find(ctx context.Context, base string, attrs, values []string, limit int) ([]*directory.Entry, error) {
	if err := d.insideAny(base); err != nil {
		return nil, err
	}
	var named []string
	for _, a := range attrs {
		if a != "" {
			named = append(named, a)
		}
	}
	found, err := d.search(ctx, base, ldap.ScopeWholeSubtree, anyEqual(named, values), d.entry, limit)
	if err != nil {
		if ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) {
			return nil, fmt.Errorf("%w (%d)", directory.ErrTooMany, limit)
		}
		return nil, d.missing(ctx, err)
	}
	out := make([]*directory.Entry, len(found))
	for i, e := range found {
		out[i] = d.cfg.Schema.ReadEntry(e.DN, e.Attributes)
	}
	return out, nil
}

// Hosted calls each with every domain that the configuration or the directory
// has, with some more than once: each time with further names. ok is false for
// an entry that has the class of a domain and can be none.
func (d *Directory) Hosted(ctx context.Context, each func(dom *directory.Domain, ok bool) error) error {
	s := &d.cfg.Schema
	for i := range d.cfg.Domains {
		dom, err := d.staticDomain(ctx, &d.cfg.Domains[i])
		if err == nil {
			err = each(dom, true)
		}
		if err != nil {
			return err
		}
	}
	if s.Layout != directory.LayoutOrganization {
		err := d.Scan(ctx, d.cfg.DCRoot, Everything, d.domain, func(dn string, raw directory.Attributes) error {
			return d.hostedNode(ctx, dn, raw, each)
		})
		if err != nil || s.Layout == directory.LayoutDC {
			return err
		}
	}
	if s.DomainClass == "" || d.cfg.Base == "" {
		return nil
	}
	return d.Scan(ctx, d.cfg.Base, DomainEntries, d.domain, func(dn string, raw directory.Attributes) error {
		dom, ok := s.ReadDomain(dn, raw)
		return each(dom, ok)
	})
}

// hostedNode is Hosted for a node of the DC tree. An alias is told as the domain
// that it leads to, with one more name.
func (d *Directory) hostedNode(ctx context.Context, dn string, raw directory.Attributes, each func(*directory.Domain, bool) error) error {
	s := &d.cfg.Schema
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return err
	}
	spelled := spelledBy(parsed, d.dcRoot)
	if s.DomainAliasMark != "" && hasClass(raw, s.DomainAliasMark) {
		dom, err := d.find(ctx, spelled, false)
		switch {
		case errors.Is(err, directory.ErrMisconfigured), errors.Is(err, directory.ErrNotFound):
			return each(&directory.Domain{DN: dn, Raw: raw, Faults: []string{s.DomainAlias + ": " + raw.First(s.DomainAlias)}}, false)
		case err != nil:
			return err
		}
		return each(dom, true)
	}
	if !hasClass(raw, "inetDomain") {
		return nil
	}
	dom, ok := s.ReadNode(dn, spelled, raw)
	return each(dom, ok && dom.Name != "")
}

func hasClass(raw directory.Attributes, class string) bool {
	for _, c := range raw.Get("objectClass") {
		if strings.EqualFold(c, class) {
			return true
		}
	}
	return false
}
