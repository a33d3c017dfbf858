package lint

import (
	"errors"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// all runs checks until one fails.
func all(checks ...func() error) error {
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// other checks an entry that is neither user nor group: it may have no address
// of ours, unless it is a domain.
func (r *run) other(e *directory.Entry, fold string) error {
	for _, a := range r.owned(e) {
		p, err := mail.ParseAddress(a.value, true)
		if err != nil {
			continue
		}
		if d := r.domainOf(p); d != nil && below(fold, d.base) && fold != d.base {
			return r.say("no-classes", e.DN, "objectClass", strings.Join(e.Classes, ", "))
		}
	}
	return nil
}

// address is a value of one of the attributes with addresses.
type address struct{ attribute, value string }

// owned are the addresses of e with their attributes.
func (r *run) owned(e *directory.Entry) (out []address) {
	for _, attr := range r.s.AddressAttributes() {
		for _, v := range e.Raw.Get(attr) {
			out = append(out, address{attr, strings.TrimSpace(v)})
		}
	}
	return out
}

// entry checks a user or a group by itself and remembers what it owns.
func (r *run) entry(e *directory.Entry, fold string, h uint64, set []option) error {
	d := r.home(fold)
	if d == nil {
		if err := r.say("outside-domains", e.DN, "", ""); err != nil {
			return err
		}
	}
	err := all(
		func() error { return r.faults(e.DN, e.Faults) },
		func() error { return r.ownedAddresses(e, fold, h) },
		func() error { return r.deliveryOptions(e) },
		func() error { return r.status(e) },
		func() error { return r.routing(e) },
	)
	switch {
	case err != nil:
		return err
	case e.Kind == directory.Group:
		return r.group(e, set)
	}
	return r.user(e, d, h, set)
}

// faults tells what the reader could not read.
func (r *run) faults(dn string, faults []string) error {
	s := r.s
	for _, f := range faults {
		attr, value, _ := strings.Cut(f, ": ")
		rule := "bad-value"
		switch attr {
		case s.UserStatus, s.MailUserStatus, s.GroupGeneralStatus, s.GroupStatus, s.DomainStatus, s.MailDomainStatus:
			rule = "bad-status"
		case s.Quota, s.MessageQuota, s.DomainDiskQuota, s.DomainMessageQuota:
			rule = "bad-quota"
		case s.VacationStart, s.VacationEnd:
			rule = "bad-date"
		case s.UID:
			rule = "bad-uid"
		case s.PreferredDomain, s.AssociatedDomain:
			rule = "domain-name"
		case s.DomainAlias:
			rule = "domain-alias"
		}
		if err := r.say(rule, dn, attr, strings.Trim(value, `"`)); err != nil {
			return err
		}
	}
	return nil
}

// counts reports whether e is one of those between whom an address can be
// ambiguous (directory.md 4.8).
func counts(e *directory.Entry) bool {
	st, _ := directory.Effective(nil, e)
	return st != directory.Deleted && st != directory.Removed && (e.Kind == directory.Group || e.UID != "")
}

// ownedAddresses checks and remembers the addresses of e.
func (r *run) ownedAddresses(e *directory.Entry, fold string, h uint64) error {
	list := r.owned(e)
	if len(list) == 0 {
		return r.say("no-address", e.DN, r.s.Mail, "")
	}
	for i, own := range list {
		if slices.ContainsFunc(list[:i], func(o address) bool { return strings.EqualFold(o.value, own.value) }) {
			if err := r.say("address-twice", e.DN, own.attribute, own.value); err != nil {
				return err
			}
			continue
		}
		if err := r.ownedAddress(e, fold, h, own); err != nil {
			return err
		}
	}
	return nil
}

// Plain reports whether a domain is one that addresses are kept and searched for
// with: in ASCII, an international one in A-labels.
func Plain(domain string) bool {
	return !strings.ContainsFunc(domain, func(c rune) bool { return c >= 0x80 })
}

func (r *run) ownedAddress(e *directory.Entry, fold string, h uint64, own address) error {
	if !Plain(own.value[strings.LastIndexByte(own.value, '@')+1:]) {
		return r.say("idn-address", e.DN, own.attribute, own.value)
	}
	if name, ok := strings.CutPrefix(own.value, "@"); ok && !strings.EqualFold(own.attribute, r.s.Mail) {
		d := r.domainOf(mail.Address{Local: "x", Domain: name})
		switch {
		case d == nil:
			return r.say("foreign-address", e.DN, own.attribute, own.value)
		case !below(fold, d.base):
			return r.say("wrong-domain", e.DN, own.attribute, own.value, d.DN)
		}
		d.all = true
		return r.remember(e, h, own.value, "", d)
	}
	a, err := mail.ParseAddress(own.value, true)
	if err != nil {
		return r.say("bad-address", e.DN, own.attribute, own.value)
	}
	d := r.domainOf(a)
	if d == nil {
		if known, err := r.elsewhere(a.Domain); err != nil || known {
			return err
		}
		return r.say("foreign-address", e.DN, own.attribute, own.value)
	}
	if !below(fold, d.base) {
		return r.say("wrong-domain", e.DN, own.attribute, own.value, d.DN)
	}
	return r.remember(e, h, own.value, a.Local, d)
}

// elsewhere reports whether a name that no domain has is one all the same: a
// subdomain, or a vanity domain, where the site has those.
func (r *run) elsewhere(name string) (bool, error) {
	name, err := directory.NormalizeDomain(name)
	if err != nil {
		return false, nil
	}
	known, asked := r.strange[name]
	if asked {
		return known, nil
	}
	_, err = r.d.Domain(r.ctx, name)
	switch {
	case err == nil:
		known = true
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous), errors.Is(err, directory.ErrMisconfigured):
	default:
		return false, err
	}
	if len(r.strange) < maxDoubles {
		r.strange[name] = known
	}
	return known, nil
}

// remember notes whose an address is, and that it is somebody else's as well.
func (r *run) remember(e *directory.Entry, h uint64, spelled, local string, d *domain) error {
	if !counts(e) {
		return nil
	}
	k := r.key(local, d)
	if first, ok := r.address(k); ok && first != h {
		if len(r.doubles) < maxDoubles {
			r.doubles[strings.ToLower(spelled)] = true
		}
		return nil
	}
	r.addresses[k] = h
	return nil
}

// status tells of an explicit "active" that does not count.
func (r *run) status(e *directory.Entry) error {
	own, general := r.s.MailUserStatus, r.s.UserStatus
	if e.Kind == directory.Group {
		own, general = r.s.GroupStatus, r.s.GroupGeneralStatus
	}
	if own != "" && e.Status != directory.Active && strings.EqualFold(strings.TrimSpace(e.Raw.First(own)), "active") {
		return r.say("status-clash", e.DN, own, "active, but "+general+" is "+e.Status.String())
	}
	return nil
}

// routing checks single addresses that the entry gives to relays.
func (r *run) routing(e *directory.Entry) error {
	if v := e.RoutingAddress; v != "" {
		if _, err := mail.ParseAddress(v, true); err != nil {
			return r.say("bad-address", e.DN, r.s.RoutingAddress, v)
		}
	}
	if v := e.ErrorsTo; v != "" && !r.person(v) {
		return r.say("bad-address", e.DN, r.s.ErrorsTo, v)
	}
	return nil
}

// person reports whether v is an address, a mailto: URL or a usable LDAP URL.
func (r *run) person(v string) bool {
	if _, err := directory.ParseURL(v); err == nil {
		return r.d.Usable(v) == nil
	}
	_, err := memberAddress(v)
	return err == nil
}

// user checks what only users have.
func (r *run) user(e *directory.Entry, d *domain, h uint64, set []option) error {
	return all(
		func() error { return r.uid(e, d, h) },
		func() error { return r.mailHost(e, d, set) },
		func() error { return r.quota(e) },
		func() error { return r.access(e.DN, r.s.ServiceAccess, e.ServiceAccess) },
		func() error { return r.away(e, set) },
		func() error { return r.forwarding(e, set) },
	)
}

func (r *run) uid(e *directory.Entry, d *domain, h uint64) error {
	if e.UID == "" {
		if strings.TrimSpace(e.Raw.First(r.s.UID)) != "" {
			return nil // told as a value that cannot be read
		}
		return r.say("no-uid", e.DN, r.s.UID, "")
	}
	if d == nil || !counts(e) {
		return nil
	}
	k := r.hash(e.UID + "\x00" + d.Name)
	if first, ok := r.uids[k]; ok && first != h {
		if len(r.doubleUIDs) < maxDoubles {
			r.doubleUIDs[e.UID+"\x00"+d.Name] = d
		}
		return nil
	}
	r.uids[k] = h
	return nil
}

func (r *run) mailHost(e *directory.Entry, d *domain, set []option) error {
	if !has(set, "mailbox") || e.RoutingAddress != "" || has(set, "hold") {
		return nil
	}
	if e.MailHost == "" {
		if d != nil && d.SmartHost != "" {
			return nil
		}
		return r.say("no-mail-host", e.DN, r.s.MailHost, "")
	}
	if r.cfg.Pair != nil {
		if _, ok := r.cfg.Pair(e.MailHost); !ok {
			return r.say("unknown-pair", e.DN, r.s.MailHost, e.MailHost)
		}
	}
	return nil
}

func (r *run) quota(e *directory.Entry) error {
	if e.Quota == nil {
		return nil
	}
	if e.Quota.Bytes == 0 {
		return r.say("no-quota", e.DN, r.s.Quota, e.Raw.First(r.s.Quota))
	}
	if e.Quota.Messages == 0 {
		return r.say("no-quota", e.DN, r.s.MessageQuota, e.Raw.First(r.s.MessageQuota))
	}
	return nil
}

// access checks the access filter of a user or a domain.
func (r *run) access(dn, attribute, filter string) error {
	if filter == "" || r.cfg.Access == nil || r.cfg.Access(filter) == nil {
		return nil
	}
	return r.say("bad-access", dn, attribute, filter)
}

func (r *run) away(e *directory.Entry, set []option) error {
	if !e.Start.IsZero() && !e.End.IsZero() && e.End.Before(e.Start) {
		if err := r.say("dates-reverse", e.DN, r.s.VacationEnd, e.Raw.First(r.s.VacationEnd)); err != nil {
			return err
		}
	}
	if a := e.Away; a != nil && !slices.Contains([]string{"", "reply", "echo", "vacation"}, a.Mode) {
		if err := r.say("bad-value", e.DN, r.s.AutoReplyMode, a.Mode); err != nil {
			return err
		}
	}
	if has(set, "autoreply") && (e.Away == nil || len(e.Away.Text) == 0 && len(e.Away.Internal) == 0) {
		return r.say("no-answer-text", e.DN, r.s.AutoReplyText, "")
	}
	return nil
}

func (r *run) forwarding(e *directory.Entry, set []option) error {
	usable, self := 0, ""
	for _, v := range e.Forwarding {
		a, err := mail.ParseAddress(strings.TrimSpace(v), true)
		if err != nil {
			if err := r.say("bad-address", e.DN, r.s.ForwardingAddress, v); err != nil {
				return err
			}
			continue
		}
		if r.isOwn(e, a) {
			self = v
			continue
		}
		usable++
	}
	switch {
	case !has(set, "forward"):
		if len(e.Forwarding) > 0 {
			return r.say("forward-unused", e.DN, r.s.ForwardingAddress, e.Forwarding[0])
		}
	case self != "" && usable == 0 && !has(set, "mailbox"):
		return r.say("forward-self", e.DN, r.s.ForwardingAddress, self)
	case self != "":
		return r.sayAs(Warning, "forward-self", e.DN, r.s.ForwardingAddress, self)
	case usable == 0 && has(set, "mailbox"):
		return r.sayAs(Warning, "forward-nobody", e.DN, r.s.ForwardingAddress, "")
	case usable == 0:
		return r.say("forward-nobody", e.DN, r.s.ForwardingAddress, "")
	}
	return nil
}

// isOwn reports whether a is one of e's addresses, by any name of its domain.
func (r *run) isOwn(e *directory.Entry, a mail.Address) bool {
	if e.Owns(a.String()) {
		return true
	}
	d := r.domainOf(a)
	return d != nil && slices.ContainsFunc(r.owned(e), func(o address) bool {
		p, err := mail.ParseAddress(o.value, true)
		return err == nil && strings.EqualFold(p.Local, a.Local) && r.domainOf(p) == d
	})
}

// policies are the words of mgrpBroadcasterPolicy.
var policies = []string{
	"SMTP_AUTH_REQUIRED", "AUTH_REQ", "SMTP_AUTH_USED", "AUTH_USED", "PASSWORD_REQUIRED", "PASSWD_REQUIRED", "PASSWD_REQ",
	"OR", "AND", "NO_REQUIREMENTS",
}

// group checks what only groups have; their members come later.
func (r *run) group(e *directory.Entry, set []option) error {
	l := e.List
	if l == nil {
		l = &directory.List{}
	}
	if len(e.MemberAddresses)+len(e.MemberDNs)+len(e.MemberURLs) == 0 && (has(set, "members") || has(set, "members_offline")) {
		if err := r.say("no-members", e.DN, first(r.s.MemberDN), ""); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		attr   string
		values []string
	}{{r.s.Moderator, l.Moderators}, {r.s.AllowedBroadcaster, l.AllowedBroadcasters}, {r.s.DisallowedBroadcaster, l.DisallowedBroadcasters}} {
		for _, v := range p.values {
			if !r.person(strings.TrimSpace(v)) {
				if err := r.say("bad-url", e.DN, p.attr, v); err != nil {
					return err
				}
			}
		}
	}
	for _, v := range l.Policy {
		if !slices.ContainsFunc(policies, func(p string) bool { return strings.EqualFold(p, v) }) {
			if err := r.say("bad-value", e.DN, r.s.BroadcasterPolicy, v); err != nil {
				return err
			}
		}
	}
	for _, v := range l.AddHeader {
		if name, _, ok := strings.Cut(v, ":"); !ok || strings.TrimSpace(name) == "" || strings.ContainsAny(strings.TrimSpace(name), " \t") {
			if err := r.say("bad-header", e.DN, r.s.AddHeader, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}
