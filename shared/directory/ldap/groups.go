package ldap

import (
	"context"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// Bounds of what the groups of an entry are asked for by: entries above it, and
// its addresses.
const (
	maxAbove    = 8
	maxMemberAs = 32
)

// Groups implements directory.Directory with one search below the domain's base,
// which brings no members. A server that has more than were asked for says so, and
// that is an answer; so it is, and a fault, that it does not search as far, for want
// of an index perhaps.
func (d *Directory) Groups(ctx context.Context, e *directory.Entry) (*directory.Groups, error) {
	out := &directory.Groups{}
	if e.Domain == nil || e.Domain.BaseDN == "" {
		return out, nil
	}
	s := &d.cfg.Schema
	var names []string
	for dn := e.DN; len(names) <= maxAbove; dn = Parent(dn) {
		if _, below := Moved(dn, e.Domain.BaseDN, e.Domain.BaseDN); !below {
			break
		}
		names = append(names, dn)
	}
	var addresses []string
	for _, a := range e.Addresses() {
		if !strings.HasPrefix(a, "@") && len(addresses) < maxMemberAs {
			addresses = append(addresses, a)
		}
	}
	text := func() string { return either(anyEqual(s.MemberDN, names), anyEqual(s.MemberAddress, addresses)) }
	found, err := d.askFor(ctx, "groups", e.Domain.BaseDN, ldap.ScopeWholeSubtree, members(s.MemberDN, names, s.MemberAddress, addresses), text, d.group, directory.MaxGroups)
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded):
		out.More = true
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultAdminLimitExceeded, ldap.LDAPResultUnwillingToPerform):
		out.More = true
		_ = d.note("groups of "+e.DN, err) // told, and the caller decides
	case err != nil:
		return nil, d.note("groups of "+e.DN, d.whole(err))
	}
	for i := range found {
		g := s.ReadEntry(found[i].DN, found[i].Attributes)
		if status, _ := directory.Effective(nil, g); g.Kind == directory.Group && status != directory.Deleted && status != directory.Removed {
			for _, a := range g.Addresses() {
				// Others are not its to have, and nobody reaches it by them.
				if name, err := directory.NormalizeDomain(a[strings.LastIndexByte(a, '@')+1:]); err == nil && e.Domain.HasName(name) {
					out.Addresses = append(out.Addresses, a)
				}
			}
		}
	}
	return out, nil
}
