package lint

import (
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// domains is the pass over the hosted domains.
func (r *run) domains() error {
	claims := map[string]*domain{}
	byDN := map[string]*domain{}
	return r.d.Hosted(r.ctx, func(d *directory.Domain, ok bool) error {
		if own := byDN[d.DN]; ok && own != nil { // by another name
			return r.claim(claims, own, d.Aliases)
		}
		r.sum.Domains++
		if err := r.faults(d.DN, d.Faults); err != nil {
			return err
		}
		switch {
		case ok:
		case len(d.Faults) > 0:
			return nil
		case d.BaseDN == "":
			return r.say("domain-base", d.DN, r.s.DomainBaseDN, "")
		default:
			return r.say("domain-name", d.DN, r.s.PreferredDomain, "")
		}
		own := &domain{Domain: d, all: d.SmartHost != ""}
		base, err := r.checkBase(d)
		if err != nil {
			return err
		}
		own.base, byDN[d.DN] = base, own
		if err := r.claim(claims, own, append([]string{d.Name}, d.Aliases...)); err != nil {
			return err
		}
		r.hosted = append(r.hosted, own)
		switch first := r.byBase[base]; {
		case first == nil:
			r.byBase[base] = own
		case base != noBase && first.Name != own.Name:
			if err := r.say("domain-canonical", d.DN, r.canonicalAttribute(d), d.Name, first.DN); err != nil {
				return err
			}
		}
		return r.domainSettings(d)
	})
}

// claim gives a domain its names, unless another has them. In a DC tree two
// nodes may describe one organization, and the organization may do so itself.
func (r *run) claim(claims map[string]*domain, own *domain, names []string) error {
	for _, name := range names {
		if !addressable(name) {
			if err := r.say("bad-domain", own.DN, r.nameAttribute(own.Domain, name), name); err != nil {
				return err
			}
		}
		first := claims[name]
		switch {
		case first == nil:
			claims[name], r.names[name] = own, own
			if !own.HasName(name) {
				own.Aliases = append(own.Aliases, name)
			}
			continue
		case first == own, r.s.Layout != directory.LayoutOrganization && first.base == own.base:
			continue
		}
		if err := r.say("domain-overlap", own.DN, r.nameAttribute(own.Domain, name), name, first.DN); err != nil {
			return err
		}
	}
	return nil
}

// addressable reports whether an address can have the domain.
func addressable(name string) bool {
	_, err := mail.ParseAddress("x@"+name, true)
	return err == nil
}

// nameAttribute is where a domain has its name from.
func (r *run) nameAttribute(d *directory.Domain, name string) string {
	switch {
	case r.d.InTree(d.DN):
		return "dc"
	case name != d.Name:
		return r.s.AssociatedDomain
	}
	return r.s.PreferredDomain
}

// canonicalAttribute is where a domain has its canonical name from.
func (r *run) canonicalAttribute(d *directory.Domain) string {
	if r.d.InTree(d.DN) {
		return r.s.CanonicalDomain
	}
	return r.s.PreferredDomain
}

// noBase is the base of domains without a usable one.
const noBase = "\x00"

// checkBase returns the folded base of d. Without a usable base it is one that
// nothing is below.
func (r *run) checkBase(d *directory.Domain) (string, error) {
	fold, err := ldap.FoldName(d.BaseDN)
	if err == nil && r.assumed(d.BaseDN) {
		return fold, nil
	}
	if err == nil {
		_, _, err = r.d.Raw(r.ctx, d.BaseDN, "1.1")
	}
	switch {
	case err == nil:
		return fold, nil
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrURL), fold == "":
		return noBase, r.say("domain-base", d.DN, r.s.DomainBaseDN, d.BaseDN)
	}
	return noBase, err
}

func (r *run) domainSettings(d *directory.Domain) error {
	if v := strings.TrimSpace(d.Raw.First(r.s.MailDomainStatus)); d.Status != directory.Active && strings.EqualFold(v, "active") {
		if err := r.say("status-clash", d.DN, r.s.MailDomainStatus, "active, but "+r.s.DomainStatus+" is "+d.Status.String()); err != nil {
			return err
		}
	}
	if h := d.PreferredMailHost; h != "" && r.cfg.Pair != nil {
		if _, ok := r.cfg.Pair(h); !ok {
			if err := r.say("unknown-preferred-pair", d.DN, r.s.PreferredMailHost, h); err != nil {
				return err
			}
		}
	}
	if err := r.access(d.DN, r.s.DomainAccess, d.ServiceAccess); err != nil {
		return err
	}
	d.Raw = nil // it is not needed any more
	return nil
}

// catchAlls checks the addresses for everybody else, once it is known whose
// they are.
func (r *run) catchAlls() error {
	for _, d := range r.hosted {
		v := strings.TrimSpace(d.CatchAll)
		if v == "" {
			continue
		}
		a, err := mail.ParseAddress(v, true)
		if err == nil && !r.nowhere(a) {
			continue
		}
		if err := r.say("catch-all", d.DN, r.s.CatchAll, v); err != nil {
			return err
		}
	}
	return nil
}

// ambiguous asks, for each address that came up twice, the question that a
// relay asks.
func (r *run) ambiguous() error {
	for _, spelled := range sorted(r.doubles) {
		entries, err := r.owners(spelled)
		if err != nil {
			return err
		}
		if _, err := directory.Sole(entries); !errors.Is(err, directory.ErrAmbiguous) {
			continue
		}
		dns := []string{}
		attr := r.s.Mail
		for _, e := range entries {
			if counts(e) {
				dns = append(dns, e.DN)
			}
		}
		slices.Sort(dns)
		for _, e := range entries {
			for _, own := range r.owned(e) {
				if e.DN == dns[0] && r.sameAddress(own.value, spelled) {
					attr = own.attribute
				}
			}
		}
		if err := r.say("ambiguous-address", dns[0], attr, spelled, dns[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// sameAddress reports whether two addresses are one, by whatever names of a
// domain.
func (r *run) sameAddress(a, b string) bool {
	i, j := strings.LastIndexByte(a, '@'), strings.LastIndexByte(b, '@')
	if i < 0 || j < 0 || !strings.EqualFold(a[:i], b[:j]) {
		return false
	}
	d := r.domainOf(mail.Address{Domain: a[i+1:]})
	return strings.EqualFold(a[i+1:], b[j+1:]) || d != nil && d == r.domainOf(mail.Address{Domain: b[j+1:]})
}

// owners are the entries that an address leads to.
func (r *run) owners(spelled string) ([]*directory.Entry, error) {
	local, name, _ := strings.Cut(spelled, "@")
	if i := strings.LastIndexByte(spelled, '@'); i > 0 {
		local, name = spelled[:i], spelled[i+1:]
	}
	dom, err := r.d.Domain(r.ctx, name)
	if err != nil {
		if errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous) || errors.Is(err, directory.ErrMisconfigured) {
			return nil, nil // told as a fault of the domain
		}
		return nil, err
	}
	if local == "" {
		return dom.CatchAllOwners, nil
	}
	a, err := mail.ParseAddress(spelled, true)
	if err != nil {
		return nil, nil
	}
	a.Domain = name
	ans, err := r.d.Lookup(r.ctx, dom, a)
	if errors.Is(err, directory.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ans.Entries, nil
}

// sameUID names the users who have one uid.
func (r *run) sameUID() error {
	for _, k := range sorted(r.doubleUIDs) {
		uid, _, _ := strings.Cut(k, "\x00")
		found, err := r.d.Find(r.ctx, r.doubleUIDs[k].BaseDN, []string{r.s.UID}, []string{uid}, 16)
		if err != nil {
			return err
		}
		var dns []string
		for _, e := range found {
			if e.Kind == directory.User && counts(e) {
				dns = append(dns, e.DN)
			}
		}
		if len(dns) < 2 {
			continue
		}
		slices.Sort(dns)
		if err := r.say("duplicate-uid", dns[0], r.s.UID, uid, dns[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
