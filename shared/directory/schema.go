package directory

import (
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/mail"
)

// QuotaDefault in a mail.Quota says that the directory leaves this limit to
// the system's default, which the relays have, or else there is none.
const QuotaDefault = -2

// Subaddress is how subaddresses take part in looking for an address
// (directory.md 4.7). The entry that has the whole address always wins.
type Subaddress string

// The ways, as the original's channel keywords have them.
const (
	SubaddressRelaxed Subaddress = ""      // then the entry with "user+*", then the one with "user"
	SubaddressWild    Subaddress = "wild"  // then the entry with "user+*"
	SubaddressExact   Subaddress = "exact" // then none
)

// Parts are where else an address with this local part is looked for: as wild,
// "user+*", and as base, "user", each "" for not at all. detail is the
// subaddress then.
func (s *Schema) Parts(local string) (wild, base, detail string) {
	base, detail, ok := SplitDetail(local, s.Separator)
	if !ok || s.Subaddress == SubaddressExact {
		return "", "", ""
	}
	if wild = base + s.Separator + "*"; s.Subaddress == SubaddressWild {
		base = ""
	}
	return wild, base, detail
}

// SetSubaddress takes the words of a configuration: "relaxed", "wild", "exact",
// and a separator, or "none"; empty ones are those of the preset.
func (s *Schema) SetSubaddress(way, separator string) {
	switch way {
	case "", "relaxed":
		s.Subaddress = SubaddressRelaxed
	default:
		s.Subaddress = Subaddress(way)
	}
	switch separator {
	case "":
	case "none":
		s.Separator = ""
	default:
		s.Separator = separator
	}
}

// Schema names the attributes and object classes of a site. Every name can be
// replaced; an empty one means that the site has no such attribute. Names that
// may stand in several attributes are lists, read in order.
type Schema struct {
	Name string

	// UserClasses and GroupClasses are sets of object classes: an entry is of
	// that kind when it has all classes of one set.
	UserClasses, GroupClasses [][]string
	// DomainClass marks the entry of a domain (Schema 2 native); empty: domains
	// come from the configuration only.
	DomainClass string

	// Separator between user and subaddress; "" for none.
	Separator string
	// Subaddress says whose an address with a subaddress is, besides the entry
	// that has all of it.
	Subaddress Subaddress

	// Domains.
	PreferredDomain, AssociatedDomain, DomainBaseDN string
	DomainStatus, MailDomainStatus                  string
	UIDSeparator, RoutingHosts, SmartHost, CatchAll string
	DomainMaxBlocks                                 string
	UID, Mail                                       string // users and groups from here
	Alternate, Equivalent                           []string
	MailHost, RoutingAddress, MessageStore          string
	DeliveryOption, ForwardingAddress               string
	UserStatus, MailUserStatus, GroupStatus         string
	GroupGeneralStatus                              string // of groups what UserStatus is of users; no usual name
	Quota, MessageQuota, MaxBlocks, ServiceAccess   string
	MemberAddress, MemberDN, MemberURL              []string
	ErrorsTo                                        string
	Stamp                                           []string // first one present
	// PostingRules are the attributes that limit who may send to a group, what
	// and how.
	PostingRules []string
	// Extra are further attributes to read into Raw.
	Extra []string

	DomainSchema
	EntrySchema
}

// SunSchema2 is the schema of the Sun, iPlanet and Oracle messaging servers in
// Schema 2 native mode, the default.
func SunSchema2() Schema {
	return Schema{
		Name:             "sun-schema2",
		UserClasses:      [][]string{tags["ims50"].user},
		GroupClasses:     [][]string{tags["ims50"].group},
		DomainSchema:     sunDomains(LayoutOrganization),
		EntrySchema:      sunEntries(),
		DomainClass:      "sunManagedOrganization",
		Separator:        "+",
		PreferredDomain:  "sunPreferredDomain",
		AssociatedDomain: "associatedDomain",
		DomainBaseDN:     "inetDomainBaseDN",
		DomainStatus:     "inetDomainStatus",
		MailDomainStatus: "mailDomainStatus",
		UIDSeparator:     "domainUidSeparator",
		RoutingHosts:     "mailRoutingHosts",
		SmartHost:        "mailRoutingSmartHost",
		CatchAll:         "mailDomainCatchallAddress",
		DomainMaxBlocks:  "mailDomainMsgMaxBlocks",

		UID:               "uid",
		Mail:              "mail",
		Alternate:         []string{"mailAlternateAddress"},
		Equivalent:        []string{"mailEquivalentAddress"},
		MailHost:          "mailHost",
		RoutingAddress:    "mailRoutingAddress",
		MessageStore:      "mailMessageStore",
		DeliveryOption:    "mailDeliveryOption",
		ForwardingAddress: "mailForwardingAddress",
		UserStatus:        "inetUserStatus",
		MailUserStatus:    "mailUserStatus",
		GroupStatus:       "inetMailGroupStatus",
		Quota:             "mailQuota",
		MessageQuota:      "mailMsgQuota",
		MaxBlocks:         "mailMsgMaxBlocks",
		ServiceAccess:     "mailAllowedServiceAccess",
		MemberAddress:     []string{"mgrpRFC822MailMember", "rfc822MailMember"},
		MemberDN:          []string{"uniqueMember", "member"},
		MemberURL:         []string{"mgrpDeliverTo", "memberURL"},
		ErrorsTo:          "mgrpErrorsTo",
		Stamp:             []string{"entryCSN", "modifyTimestamp"},
		PostingRules: []string{
			"mgrpBroadcasterPolicy", "mgrpAllowedDomain", "mgrpDisallowedDomain", "mgrpAllowedBroadcaster",
			"mgrpDisallowedBroadcaster", "mgrpMsgMaxSize", "mgrpAuthPassword", "mgrpModerator",
		},
	}
}

// Generic is a plain directory of inetOrgPerson (RFC 2798) and groupOfNames
// with mail addresses. Domains come from the configuration.
func Generic() Schema {
	return Schema{
		Name:              "generic",
		UserClasses:       [][]string{{"inetOrgPerson"}, {"inetMailUser"}, {"inetLocalMailRecipient"}},
		GroupClasses:      [][]string{{"groupOfNames"}, {"groupOfUniqueNames"}, {"groupOfURLs"}, {"nisMailAlias"}},
		Separator:         "+",
		UID:               "uid",
		Mail:              "mail",
		Alternate:         []string{"mailLocalAddress", "mailAlternateAddress"},
		MailHost:          "mailHost",
		RoutingAddress:    "mailRoutingAddress",
		DeliveryOption:    "mailDeliveryOption",
		ForwardingAddress: "mailForwardingAddress",
		Quota:             "mailQuota",
		MessageQuota:      "mailMsgQuota",
		MemberAddress:     []string{"rfc822MailMember"},
		MemberDN:          []string{"member", "uniqueMember"},
		MemberURL:         []string{"memberURL"},
		Stamp:             []string{"entryCSN", "modifyTimestamp"},
	}
}

// AddressAttributes are the attributes that an address is looked up in, each
// once.
func (s *Schema) AddressAttributes() []string {
	return distinct([]string{s.Mail}, s.Alternate, s.Equivalent)
}

// EntryAttributes are all attributes to ask a server for when reading users
// and groups.
func (s *Schema) EntryAttributes() []string {
	return distinct([]string{
		"objectClass", s.UID, s.Mail, s.MailHost, s.RoutingAddress, s.MessageStore, s.DeliveryOption,
		s.ForwardingAddress, s.UserStatus, s.MailUserStatus, s.GroupStatus, s.GroupGeneralStatus, s.Quota, s.MessageQuota, s.MaxBlocks,
		s.ServiceAccess, s.ErrorsTo,
	}, s.Alternate, s.Equivalent, s.MemberAddress, s.MemberDN, s.MemberURL, s.EntrySchema.attributes(), s.Stamp, s.PostingRules, s.Extra)
}

// DomainAttributes are all attributes to ask a server for when reading domains.
func (s *Schema) DomainAttributes() []string {
	return distinct([]string{
		"objectClass", s.PreferredDomain, s.AssociatedDomain, s.DomainBaseDN, s.DomainStatus, s.MailDomainStatus,
		s.UIDSeparator, s.RoutingHosts, s.SmartHost, s.CatchAll, s.DomainMaxBlocks,
	}, s.DomainSchema.attributes(), s.Stamp, s.Extra)
}

func distinct(lists ...[]string) []string {
	var out []string
	for _, list := range lists {
		for _, name := range list {
			if name != "" && !slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, name) }) {
				out = append(out, name)
			}
		}
	}
	return out
}

// KindOf tells users from groups by their object classes. An entry that has
// the classes of both is a user.
func (s *Schema) KindOf(classes []string) Kind {
	switch {
	case hasSet(classes, s.UserClasses):
		return User
	case hasSet(classes, s.GroupClasses):
		return Group
	}
	return Other
}

func hasSet(classes []string, sets [][]string) bool {
	for _, set := range sets {
		all := len(set) > 0
		for _, want := range set {
			all = all && slices.ContainsFunc(classes, func(c string) bool { return strings.EqualFold(c, want) })
		}
		if all {
			return true
		}
	}
	return false
}

func (s *Schema) stamp(raw Attributes) string {
	for _, name := range s.Stamp {
		if v := raw.First(name); v != "" {
			return v
		}
	}
	return ""
}

// reader reads single values and remembers what it could not read.
type reader struct {
	raw    Attributes
	faults []string
}

func (r *reader) fault(attr, value string) {
	if len(r.faults) < 16 {
		if len(value) > 64 {
			value = value[:64] + "..."
		}
		r.faults = append(r.faults, attr+": "+strconv.Quote(value))
	}
}

func (r *reader) one(attr string) string {
	if attr == "" {
		return ""
	}
	return strings.TrimSpace(r.raw.First(attr))
}

func (r *reader) all(attrs ...string) []string {
	var out []string
	for _, attr := range attrs {
		if attr == "" {
			continue
		}
		if v := r.raw.Get(attr); out == nil {
			out = v
		} else {
			out = append(slices.Clip(out), v...)
		}
	}
	return out
}

func (r *reader) status(attr string, l Level, k Kind) Status {
	v := r.one(attr)
	s, ok := ParseStatus(v, l, k)
	if !ok {
		r.fault(attr, v)
	}
	return s
}

func (r *reader) limit(attr string) int64 {
	v := r.one(attr)
	if v == "" {
		return QuotaDefault
	}
	n, ok := ParseQuota(v)
	if !ok {
		r.fault(attr, v)
		return QuotaDefault
	}
	return n
}

// ReadEntry makes an Entry of what a server returned for dn. raw is kept.
func (s *Schema) ReadEntry(dn string, raw Attributes) *Entry {
	r := &reader{raw: raw}
	e := &Entry{DN: dn, Raw: raw, Classes: raw.Get("objectClass"), Stamp: s.stamp(raw)}
	e.Kind = s.KindOf(e.Classes)
	e.Mail = r.one(s.Mail)
	e.Alternate = r.all(s.Alternate...)
	e.Equivalent = r.all(s.Equivalent...)
	e.MailHost = strings.ToLower(r.one(s.MailHost))
	e.RoutingAddress = r.one(s.RoutingAddress)
	e.DeliveryOptions = r.all(s.DeliveryOption)
	e.Forwarding = r.all(s.ForwardingAddress)
	e.ErrorsTo = r.one(s.ErrorsTo)
	if n := r.limit(s.MaxBlocks); n > 0 {
		e.MaxBlocks = n
	}
	if e.Kind != Group {
		e.readUser(s, r)
	} else {
		e.Status = r.status(s.GroupGeneralStatus, LevelEntry, Group)
		e.MailStatus = r.status(s.GroupStatus, LevelEntryMail, Group)
		e.MemberAddresses = r.all(s.MemberAddress...)
		e.MemberDNs = r.all(s.MemberDN...)
		e.MemberURLs = r.all(s.MemberURL...)
		for _, name := range s.PostingRules {
			if v := r.one(name); v != "" && !strings.EqualFold(v, "NO_REQUIREMENTS") {
				e.PostingRules = append(e.PostingRules, name)
			}
		}
	}
	e.EntrySettings = s.EntrySchema.settings(r, e.Kind)
	e.Faults = r.faults
	return e
}

func (e *Entry) readUser(s *Schema, r *reader) {
	uid := r.one(s.UID)
	if validUID(uid) {
		e.UID = strings.ToLower(uid)
	} else if uid != "" {
		r.fault(s.UID, uid)
	}
	if e.MessageStore = r.one(s.MessageStore); !validStore(e.MessageStore) {
		r.fault(s.MessageStore, e.MessageStore)
		e.MessageStore = ""
	}
	e.ServiceAccess = r.one(s.ServiceAccess)
	e.Status = r.status(s.UserStatus, LevelEntry, User)
	e.MailStatus = r.status(s.MailUserStatus, LevelEntryMail, User)
	if s.Quota != "" || s.MessageQuota != "" {
		// Also when the entry has none: the pair may still have one that it had before.
		e.Quota = &mail.Quota{Bytes: r.limit(s.Quota), Messages: r.limit(s.MessageQuota), Stamp: e.Stamp}
	}
}

// validStore reports whether name can be the name of a partition, or is empty.
func validStore(name string) bool {
	if len(name) > 64 {
		return false
	}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && i > 0:
		default:
			return false
		}
	}
	return true
}

// validUID reports whether uid can be the name of a mailbox: it has no control
// characters, no separators of paths, and fits a local part.
func validUID(uid string) bool {
	if uid == "" || len(uid) > mail.MaxLocalPart {
		return false
	}
	for i := 0; i < len(uid); i++ {
		switch c := uid[i]; {
		case c <= ' ' || c == 0x7f || c == '/' || c == '\\' || c == '@':
			return false
		}
	}
	return true
}

// ReadDomain makes a Domain of what a server returned for dn. raw is kept. ok
// is false when the entry has no usable name.
func (s *Schema) ReadDomain(dn string, raw Attributes) (d *Domain, ok bool) {
	r := &reader{raw: raw}
	d = &Domain{DN: dn, BaseDN: dn, Raw: raw, Stamp: s.stamp(raw)}
	if base := r.one(s.DomainBaseDN); base != "" {
		d.BaseDN = base
	}
	name := r.one(s.PreferredDomain)
	var err error
	if d.Name, err = NormalizeDomain(name); err != nil {
		r.fault(s.PreferredDomain, name)
		d.Name = ""
	}
	for _, v := range r.all(s.AssociatedDomain) {
		if alias, err := NormalizeDomain(strings.TrimSpace(v)); err != nil || alias == "" {
			r.fault(s.AssociatedDomain, v)
		} else if alias != d.Name {
			d.Aliases = append(d.Aliases, alias)
		}
	}
	d.Status = r.status(s.DomainStatus, LevelDomain, Other)
	d.MailStatus = r.status(s.MailDomainStatus, LevelDomainMail, Other)
	d.UIDSeparator = r.one(s.UIDSeparator)
	if d.UIDSeparator == "" {
		d.UIDSeparator = "@"
	}
	d.RoutingHosts = r.all(s.RoutingHosts)
	d.SmartHost = r.one(s.SmartHost)
	d.CatchAll = r.one(s.CatchAll)
	if n := r.limit(s.DomainMaxBlocks); n > 0 {
		d.MaxBlocks = n
	}
	d.DomainSettings = s.DomainSchema.read(r)
	d.Faults = r.faults
	return d, d.Name != ""
}

// ParseQuota reads a quota: a number of bytes or messages with an optional K,
// M, G or T (powers of 1024). -1 is without limit, -2 the default. Of a
// value in several parts, separated by semicolons, the first counts.
func ParseQuota(v string) (int64, bool) {
	if i := strings.IndexByte(v, ';'); i >= 0 {
		v = v[:i]
	}
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	shift := 0
	switch v[len(v)-1] {
	case 'k', 'K':
		shift = 10
	case 'm', 'M':
		shift = 20
	case 'g', 'G':
		shift = 30
	case 't', 'T':
		shift = 40
	}
	if shift > 0 {
		v = strings.TrimSpace(v[:len(v)-1])
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case err != nil || n < -2 || n < 0 && shift > 0:
		return 0, false
	case n > 0 && n > (1<<62)>>shift:
		return 0, false
	}
	return n << shift, true
}
