package edit

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/lint"
	"github.com/postern-mail/postern/shared/mail"
)

// Field is a property that people name in plain words, whatever attribute a
// site keeps it in.
type Field struct {
	Name  string
	Multi bool // it may have several values
	Help  string
	attr  func(s *directory.Schema) string
}

// Attribute is the attribute of the field in s, "" when it has none.
func (f *Field) Attribute(s *directory.Schema) string { return f.attr(s) }

func fixed(name string) func(*directory.Schema) string {
	return func(*directory.Schema) string { return name }
}

// common are the fields that users and groups have.
var common = []Field{
	{"name", false, "full name", fixed("cn")},
	{"description", true, "what people should know", fixed("description")},
	{"address", false, "primary address", func(s *directory.Schema) string { return s.Mail }},
	{"alternate", true, "further address, rewritten to the primary one in what the entry sends", alternate},
	{"equivalent", true, "further address, left as it is in what the entry sends", func(s *directory.Schema) string { return first(s.Equivalent) }},
	{"option", true, "delivery option: mailbox, forward, autoreply, hold; for groups members", func(s *directory.Schema) string { return s.DeliveryOption }},
	{"forward", true, "address to forward to", func(s *directory.Schema) string { return s.ForwardingAddress }},
	{"routing-address", false, "address that all mail goes to instead", func(s *directory.Schema) string { return s.RoutingAddress }},
	{"max-blocks", false, "largest message in blocks of 1024 octets", func(s *directory.Schema) string { return s.MaxBlocks }},
	{"defer", false, "expand later: yes, no or after_auth", func(s *directory.Schema) string { return s.DeferProcessing }},
	{"filter", true, "filter that is to judge the mail, by a word that the relays know (filters.opt_in)", func(s *directory.Schema) string { return s.OptIn }},
}

var userFields = slices.Concat(common, []Field{
	{"uid", false, "name of the mailbox (default: the local part of the address)", func(s *directory.Schema) string { return s.UID }},
	{"surname", false, "family name (default: the last word of the name)", fixed("sn")},
	{"password", false, "password, or its hash", fixed("userPassword")},
	{"mail-host", false, "pair that has the mailbox (default: the domain's preferred one)", func(s *directory.Schema) string { return s.MailHost }},
	{"store", false, "partition of the mailbox", func(s *directory.Schema) string { return s.MessageStore }},
	{"quota", false, "octets of the mailbox: 50M, -1 for no limit, -2 for the relays' expand.quota", func(s *directory.Schema) string { return s.Quota }},
	{"message-quota", false, "messages of the mailbox", func(s *directory.Schema) string { return s.MessageQuota }},
	{"status", false, "status of the mail service: active, inactive, disabled, deleted, removed, hold, overquota", func(s *directory.Schema) string { return s.MailUserStatus }},
	{"account-status", false, "status of the account: active, inactive, deleted", func(s *directory.Schema) string { return s.UserStatus }},
	{"access", false, "who may use which services from where", func(s *directory.Schema) string { return s.ServiceAccess }},
	{"language", false, "preferred language", func(s *directory.Schema) string { return s.UserLanguage }},
	{"away-text", false, "answer to mail while away; $ ends a line", func(s *directory.Schema) string { return s.AutoReplyText }},
	{"away-internal", false, "the same for senders of the own domain", func(s *directory.Schema) string { return s.AutoReplyTextInternal }},
	{"away-subject", false, "subject of the answer", func(s *directory.Schema) string { return s.AutoReplySubject }},
	{"away-mode", false, "reply or echo", func(s *directory.Schema) string { return s.AutoReplyMode }},
	{"away-hours", false, "hours between two answers to one sender", func(s *directory.Schema) string { return s.AutoReplyTimeout }},
	{"away-start", false, "first second away: YYYYMMDDHHMMSSZ", func(s *directory.Schema) string { return s.VacationStart }},
	{"away-end", false, "last second away: YYYYMMDDHHMMSSZ", func(s *directory.Schema) string { return s.VacationEnd }},
})

var groupFields = slices.Concat(common, []Field{
	{"status", false, "status: active, inactive, disabled, deleted, hold", func(s *directory.Schema) string { return s.GroupStatus }},
	{"member", true, "member: an address, a distinguished name or an LDAP URL", fixed("")},
	{"owner", false, "address for bounces of the list's mail", func(s *directory.Schema) string { return s.ErrorsTo }},
	{"moderator", true, "moderator: mailto:ADDRESS or an LDAP URL", func(s *directory.Schema) string { return s.Moderator }},
	{"allowed-domain", true, "domain that may post, with * for any text", func(s *directory.Schema) string { return s.AllowedDomain }},
	{"disallowed-domain", true, "domain that may not post", func(s *directory.Schema) string { return s.DisallowedDomain }},
	{"allowed-sender", true, "who may post: mailto:ADDRESS or an LDAP URL", func(s *directory.Schema) string { return s.AllowedBroadcaster }},
	{"disallowed-sender", true, "who may not post", func(s *directory.Schema) string { return s.DisallowedBroadcaster }},
	{"policy", true, "further rules for posting, such as SMTP_AUTH_REQUIRED", func(s *directory.Schema) string { return s.BroadcasterPolicy }},
	{"max-size", false, "largest message in octets", func(s *directory.Schema) string { return s.ListMaxSize }},
	{"result-mapping", false, "mapping table for what member URLs find", func(s *directory.Schema) string { return s.ResultMapping }},
	{"subject-tag", false, "text before the subject", func(s *directory.Schema) string { return s.SubjectTag }},
	{"add-header", true, "field to add: Name: value", func(s *directory.Schema) string { return s.AddHeader }},
	{"remove-header", true, "field to remove", func(s *directory.Schema) string { return s.RemoveHeader }},
	{"prefix-text", false, "text before the message", func(s *directory.Schema) string { return s.PrefixText }},
	{"suffix-text", false, "text after the message", func(s *directory.Schema) string { return s.SuffixText }},
})

var domainFields = []Field{
	{"alias", true, "further name of the domain", func(s *directory.Schema) string { return s.AssociatedDomain }},
	{"status", false, "status of the mail service: active, inactive, disabled, deleted, hold, overquota", func(s *directory.Schema) string { return s.MailDomainStatus }},
	{"account-status", false, "status of all services: active, inactive, deleted", func(s *directory.Schema) string { return s.DomainStatus }},
	{"users-base", false, "entry that users and groups are below (default: the domain's own)", func(s *directory.Schema) string { return s.DomainBaseDN }},
	{"mail-host", false, "pair of new users", func(s *directory.Schema) string { return s.PreferredMailHost }},
	{"store", false, "partition of new users", func(s *directory.Schema) string { return s.PreferredStore }},
	{"smart-host", false, "host for users without a pair", func(s *directory.Schema) string { return s.SmartHost }},
	{"routing-host", true, "relay that keeps the domain", func(s *directory.Schema) string { return s.RoutingHosts }},
	{"catch-all", false, "address for unknown recipients", func(s *directory.Schema) string { return s.CatchAll }},
	{"quota", false, "octets of the whole domain", func(s *directory.Schema) string { return s.DomainDiskQuota }},
	{"message-quota", false, "messages of the whole domain", func(s *directory.Schema) string { return s.DomainMessageQuota }},
	{"max-blocks", false, "largest message in blocks of 1024 octets", func(s *directory.Schema) string { return s.DomainMaxBlocks }},
	{"uid-separator", false, "character between uid and domain in logins", func(s *directory.Schema) string { return s.UIDSeparator }},
	{"access", false, "who may use which services from where", func(s *directory.Schema) string { return s.DomainAccess }},
	{"language", false, "preferred language", func(s *directory.Schema) string { return s.Language }},
	{"report-address", false, "author of notifications", func(s *directory.Schema) string { return s.DomainReport }},
	{"max-users", false, "most users of the domain", fixed("sunMaxUsers")},
	{"max-groups", false, "most groups of the domain", fixed("sunMaxGroups")},
}

// Fields are the fields of a kind.
func Fields(k Kind) []Field {
	switch k {
	case Domain:
		return domainFields
	case User:
		return userFields
	case Group:
		return groupFields
	}
	return nil
}

func field(k Kind, name string) *Field {
	list := Fields(k)
	if i := slices.IndexFunc(list, func(f Field) bool { return f.Name == name }); i >= 0 {
		return &list[i]
	}
	return nil
}

// alternate is the attribute of further addresses: the Sun one where several
// can have them, because it is allowed in users and groups.
func alternate(s *directory.Schema) string {
	if holds(s.Alternate, "mailAlternateAddress") {
		return "mailAlternateAddress"
	}
	return first(s.Alternate)
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// attribute is the attribute of a field of k.
func (ed *Editor) attribute(k Kind, name string) (attr string, multi bool, err error) {
	if raw, ok := strings.CutPrefix(name, "attr:"); ok {
		if raw == "" || strings.ContainsAny(raw, " =:,*()\\\x00") {
			return "", false, badf("attribute %q", raw)
		}
		return raw, true, nil
	}
	f := field(k, name)
	if f == nil {
		return "", false, badf("a %s has no field %q", k, name)
	}
	if attr = f.attr(ed.s); attr == "" {
		return "", false, badf("schema %s has no attribute for the field %s of a %s", ed.s.Name, name, k)
	}
	return attr, f.Multi, nil
}

// apply changes raw as the request says.
func (ed *Editor) apply(ctx context.Context, raw *directory.Attributes, req Request) error {
	for i, values := range []Values{req.Values, req.More, req.Less} {
		for _, name := range sortedKeys(values) {
			given := values[name]
			if req.Kind == Group && name == "member" {
				if err := ed.members(ctx, raw, i, given); err != nil {
					return err
				}
				continue
			}
			attr, multi, err := ed.attribute(req.Kind, name)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(given, func(v string) bool { return !utf8.ValidString(v) }) {
				return badf("%s is not UTF-8", name)
			}
			if slices.ContainsFunc(ed.s.AddressAttributes(), func(a string) bool { return strings.EqualFold(a, attr) }) {
				given = slices.Clone(given)
				for i := range given {
					given[i] = written(given[i])
				}
			}
			have := raw.Get(attr)
			switch i {
			case 0:
				have = given
			case 1:
				have = more(have, given)
			case 2:
				have = less(have, given)
			}
			if !multi && len(have) > 1 {
				return badf("%s of a %s has one value, not %d", name, req.Kind, len(have))
			}
			put(raw, attr, have...)
		}
	}
	if req.Kind == User && len(req.Values["forward"])+len(req.More["forward"]) > 0 && len(req.Values["option"])+len(req.More["option"]) == 0 && ed.s.DeliveryOption != "" {
		// Whoever says where to forward to and not how, keeps a copy.
		have := raw.Get(ed.s.DeliveryOption)
		if len(have) == 0 {
			have = []string{"mailbox"}
		}
		put(raw, ed.s.DeliveryOption, more(have, []string{"forward"})...)
	}
	if req.Kind == Domain && (has(req.Values, "max-users") || has(req.Values, "max-groups")) && !hasClass(*raw, "sunDelegatedOrganization") {
		put(raw, "objectClass", more(raw.Get("objectClass"), []string{"sunDelegatedOrganization"})...)
	}
	return nil
}

// written is an address as it is kept and searched for: an international domain
// in A-labels (directory.md 2).
func written(address string) string {
	address = strings.TrimSpace(address)
	i := strings.LastIndexByte(address, '@') + 1
	if name, err := directory.NormalizeDomain(address[i:]); err == nil && i > 0 && !lint.Plain(address[i:]) {
		return address[:i] + name
	}
	return address
}

func has(v Values, name string) bool { return len(v[name]) > 0 }

func sortedKeys[V any](v map[string]V) []string {
	out := make([]string, 0, len(v))
	for k := range v {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// members spreads members over the attributes for names, addresses and URLs.
// how is 0 to replace all, 1 to add, 2 to take away.
func (ed *Editor) members(ctx context.Context, raw *directory.Attributes, how int, given []string) error {
	dn, address, url := first(ed.s.MemberDN), first(ed.s.MemberAddress), last(ed.s.MemberURL)
	if how == 0 {
		for _, attr := range slices.Concat(ed.s.MemberDN, ed.s.MemberAddress, ed.s.MemberURL) {
			put(raw, attr)
		}
	}
	for _, v := range given {
		v = strings.TrimSpace(v)
		attr, alt := address, ""
		switch {
		case strings.HasPrefix(strings.ToLower(v), "ldap:"):
			attr = url
		case strings.Contains(v, "=") && !strings.Contains(v, "@") || strings.Contains(v, ","):
			attr = dn
		default:
			// An address of ours is kept as the name of its entry, which a new
			// address does not change.
			owner, err := ed.owner(ctx, v)
			if err != nil {
				return err
			}
			if owner != "" && dn != "" {
				attr, v, alt = dn, owner, v
			}
		}
		if attr == "" {
			return badf("schema %s has no attribute for the member %s", ed.s.Name, v)
		}
		if how == 2 {
			for _, a := range slices.Concat(ed.s.MemberDN, ed.s.MemberAddress, ed.s.MemberURL) {
				put(raw, a, less(raw.Get(a), []string{v, cmp.Or(alt, v)})...)
			}
			continue
		}
		put(raw, attr, more(raw.Get(attr), []string{v})...)
	}
	return nil
}

func last(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// owner is the name of the entry that an address leads to, "" when it is
// elsewhere or nobody's.
func (ed *Editor) owner(ctx context.Context, address string) (string, error) {
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		return "", badf("member %q: %v", address, err)
	}
	for _, kind := range []Kind{User, Group} {
		dn, err := ed.find(ctx, kind, address)
		if err == nil && a.Local != "" {
			return dn, nil
		}
		if !errors.Is(err, directory.ErrNotFound) {
			return "", err
		}
	}
	return "", nil
}
