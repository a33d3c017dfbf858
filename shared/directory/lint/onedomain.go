package lint

import (
	"errors"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// claimed tells of other domains that have the names of dom, which dn is. In a
// DC tree two nodes may describe one organization, and the organization itself.
func (c *Checker) claimed(r *run, dn string, dom *directory.Domain) error {
	own, err := ldap.FoldName(dn)
	if err != nil {
		return err
	}
	base, _ := ldap.FoldName(dom.BaseDN)
	for _, name := range append([]string{dom.Name}, dom.Aliases...) {
		if !addressable(name) {
			if err := r.say("bad-domain", dn, r.nameAttribute(dom, name), name); err != nil {
				return err
			}
		}
		other, otherBase := "", ""
		have, err := r.d.Domain(r.ctx, name)
		switch {
		case errors.Is(err, directory.ErrNotFound):
			if d := c.domains[name]; d != nil {
				other, otherBase = d.DN, d.BaseDN
			}
		case errors.Is(err, directory.ErrAmbiguous):
			other = "several entries"
		case errors.Is(err, directory.ErrMisconfigured):
			continue // told of the other entry
		case err != nil:
			return err
		default:
			other, otherBase = have.DN, have.BaseDN
		}
		f, err := ldap.FoldName(other)
		if there, told := c.names[f]; other == "" || err == nil && f == own || told && !there {
			continue
		}
		if f, err := ldap.FoldName(otherBase); err == nil && f == base && r.s.Layout != directory.LayoutOrganization {
			continue
		}
		if err := r.say("domain-overlap", dn, r.nameAttribute(dom, name), name, other); err != nil {
			return err
		}
	}
	return nil
}

// settings tells of values of a domain that cannot be used.
func (c *Checker) settings(r *run, dn string, dom *directory.Domain) error {
	if v := dom.CatchAll; v != "" {
		if _, err := mail.ParseAddress(v, true); err != nil {
			if err := r.say("catch-all", dn, r.s.CatchAll, v); err != nil {
				return err
			}
		}
	}
	return r.domainSettings(dom)
}

func hasClass(raw directory.Attributes, class string) bool {
	for _, v := range raw.Get("objectClass") {
		if class != "" && strings.EqualFold(v, class) {
			return true
		}
	}
	return false
}

// treeNode says what is wrong with the node of the DC tree that dn would be
// with these attributes: a domain, or an alias of another node.
func (c *Checker) treeNode(r *run, dn string, raw directory.Attributes) error {
	spelled := r.d.Spelled(dn)
	if hasClass(raw, r.s.DomainAliasMark) {
		to := strings.TrimSpace(raw.First(r.s.DomainAlias))
		there := r.d.InTree(to)
		if there && !r.assumed(to) {
			_, target, err := r.d.Raw(r.ctx, to, "objectClass")
			if err != nil && !errors.Is(err, directory.ErrNotFound) {
				return err
			}
			there = err == nil && (hasClass(target, "inetDomain") || hasClass(target, r.s.DomainAliasMark))
		}
		if !there {
			return r.say("domain-alias", dn, r.s.DomainAlias, to)
		}
		alias := &directory.Domain{DN: dn, Name: spelled}
		if d, err := c.domain(r.ctx, r.d.Spelled(to)); err == nil && d != nil {
			alias.BaseDN = d.BaseDN
		}
		return c.claimed(r, dn, alias)
	}
	dom, ok := r.s.ReadNode(dn, spelled, raw)
	if err := r.faults(dn, dom.Faults); err != nil {
		return err
	}
	switch {
	case !ok:
		return r.say("domain-base", dn, r.s.DomainBaseDN, "")
	case dom.Name == "":
		return r.say("domain-name", dn, "dc", "")
	}
	if err := c.claimed(r, dn, dom); err != nil {
		return err
	}
	if _, err := r.checkBase(dom); err != nil {
		return err
	}
	return c.settings(r, dn, dom)
}

// assumeNode is Assume for a node of the DC tree.
func (c *Checker) assumeNode(r *run, dn string, raw directory.Attributes) error {
	spelled := r.d.Spelled(dn)
	if hasClass(raw, r.s.DomainAliasMark) {
		if d := c.domains[r.d.Spelled(raw.First(r.s.DomainAlias))]; d != nil {
			c.domains[spelled] = d
		}
		return nil
	}
	dom, ok := r.s.ReadNode(dn, spelled, raw)
	if !ok || dom.Name == "" || !hasClass(raw, "inetDomain") {
		return nil
	}
	base, err := ldap.FoldName(dom.BaseDN)
	if err != nil {
		return err
	}
	d := &domain{Domain: dom, base: base, all: dom.SmartHost != "" || dom.CatchAll != "", assumed: true}
	for _, name := range append([]string{dom.Name}, dom.Aliases...) {
		if c.domains[name] == nil {
			c.domains[name] = d
		}
	}
	return nil
}

// assumed reports whether an entry is only supposed to be there.
func (r *run) assumed(dn string) bool {
	fold, err := ldap.FoldName(dn)
	return err == nil && r.assumedNames[fold]
}
