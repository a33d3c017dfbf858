package directory

import (
	"fmt"
	"slices"
	"strings"
)

// Layout says how the entry of a domain is found.
type Layout uint8

// The layouts.
const (
	// LayoutOrganization searches the organization tree for an entry with
	// DomainClass that has the name (Schema 2 native mode). Without a
	// DomainClass there are no domains but those of the configuration.
	LayoutOrganization Layout = iota
	// LayoutDC reads the node of the DC tree that the name spells (Schema 1).
	LayoutDC
	// LayoutCompatible reads the DC tree, and then searches the organization
	// tree (Schema 2 compatibility mode).
	LayoutCompatible
)

// DomainSchema is the part of a Schema that only domains have.
type DomainSchema struct {
	Layout Layout
	// DCFilter is what a node of the DC tree must match; empty for
	// inetDomain or inetDomainAlias.
	DCFilter string
	// OrganizationFilter finds the entry of domain $D in the organization tree;
	// empty for DomainClass and one of the two name attributes.
	OrganizationFilter string

	CanonicalDomain, DomainAlias, VanityDomain                     string
	DomainAccess, DomainDiskQuota, DomainMessageQuota              string
	DomainSieve, DomainConversionTag, DomainReport, DomainWelcome  string
	DomainSearchFilter, DomainCertMap, PreAuth, Replay             string
	PreferredMailHost, PreferredStore, Language, AttachmentQuota   string
	PreferredOrganization, DomainAutoReplyTimeout, DomainAliasMark string
}

func sunDomains(l Layout) DomainSchema {
	return DomainSchema{
		Layout:                l,
		CanonicalDomain:       "inetCanonicalDomainName",
		DomainAlias:           "aliasedObjectName",
		DomainAliasMark:       "inetDomainAlias",
		VanityDomain:          "msgVanityDomain",
		DomainAccess:          "mailDomainAllowedServiceAccess",
		DomainDiskQuota:       "mailDomainDiskQuota",
		DomainMessageQuota:    "mailDomainMsgQuota",
		DomainSieve:           "mailDomainSieveRuleSource",
		DomainConversionTag:   "mailDomainConversionTag",
		DomainReport:          "mailDomainReportAddress",
		DomainWelcome:         "mailDomainWelcomeMessage",
		DomainSearchFilter:    "inetDomainSearchFilter",
		DomainCertMap:         "inetDomainCertMap",
		PreAuth:               "mailAccessProxyPreAuth",
		Replay:                "mailAccessProxyReplay",
		PreferredMailHost:     "preferredMailHost",
		PreferredStore:        "preferredMailMessageStore",
		Language:              "preferredLanguage",
		AttachmentQuota:       "mailClientAttachmentQuota",
		PreferredOrganization: "sunPreferredOrganization",
	}
}

func (s *DomainSchema) attributes() []string {
	return []string{
		s.CanonicalDomain, s.DomainAlias, s.DomainAccess, s.DomainDiskQuota, s.DomainMessageQuota, s.DomainSieve,
		s.DomainConversionTag, s.DomainReport, s.DomainWelcome, s.DomainSearchFilter, s.DomainCertMap, s.PreAuth,
		s.Replay, s.PreferredMailHost, s.PreferredStore, s.Language, s.AttachmentQuota, s.PreferredOrganization,
		s.DomainAutoReplyTimeout,
	}
}

// DomainSettings are the attributes of a domain that its users share.
type DomainSettings struct {
	ServiceAccess     string   // mailDomainAllowedServiceAccess
	DiskQuota         int64    // bytes of the whole domain; QuotaDefault when not given
	MessageQuota      int64    // messages of the whole domain; QuotaDefault when not given
	NoMail            bool     // one of them is 0
	Sieve             []string // mailDomainSieveRuleSource, run after the user's own
	ConversionTags    []string
	ReportAddress     string // From of notifications for the domain's recipients
	Welcome           string // first message of a new mailbox
	SearchFilter      string // inetDomainSearchFilter: how a login is found
	CertMap           string // inetDomainCertMap
	PreAuth           string // "yes", "no", or "" for the proxy's own setting
	Replay            string // how the proxy spells a login to the backend
	PreferredMailHost string
	PreferredStore    string
	Language          string
	AttachmentQuota   int64 // of webmail; QuotaDefault when not given
	AutoReplyTimeout  int64 // hours, QuotaDefault when not given
}

func (s *DomainSchema) read(r *reader) DomainSettings {
	d := DomainSettings{
		ServiceAccess: r.one(s.DomainAccess), DiskQuota: r.limit(s.DomainDiskQuota), MessageQuota: r.limit(s.DomainMessageQuota),
		Sieve: r.all(s.DomainSieve), ConversionTags: r.all(s.DomainConversionTag), ReportAddress: r.one(s.DomainReport),
		Welcome: r.one(s.DomainWelcome), SearchFilter: r.one(s.DomainSearchFilter), CertMap: r.one(s.DomainCertMap),
		PreAuth: strings.ToLower(r.one(s.PreAuth)), Replay: r.one(s.Replay),
		PreferredMailHost: strings.ToLower(r.one(s.PreferredMailHost)), PreferredStore: r.one(s.PreferredStore),
		Language: r.one(s.Language), AttachmentQuota: r.limit(s.AttachmentQuota), AutoReplyTimeout: r.limit(s.DomainAutoReplyTimeout),
	}
	d.NoMail = d.DiskQuota == 0 || d.MessageQuota == 0
	if d.PreAuth != "" && d.PreAuth != "yes" && d.PreAuth != "no" {
		r.fault(s.PreAuth, d.PreAuth)
		d.PreAuth = ""
	}
	return d
}

// ReadNode makes a Domain of a node of the DC tree, whose name in the DNS is
// spelled. ok is false when it names no base: it is not a hosted domain.
func (s *Schema) ReadNode(dn, spelled string, raw Attributes) (d *Domain, ok bool) {
	d, _ = s.ReadDomain(dn, raw)
	d.Name, d.Aliases, d.BaseDN = spelled, nil, strings.TrimSpace(raw.First(s.DomainBaseDN))
	if v := strings.TrimSpace(raw.First(s.CanonicalDomain)); v != "" {
		if name, err := NormalizeDomain(v); err == nil && name != "" {
			d.Name = name
		} else {
			d.Faults = append(d.Faults, fmt.Sprintf("%s: %q", s.CanonicalDomain, v))
		}
	}
	if d.Name != spelled && spelled != "" {
		d.Aliases = []string{spelled}
	}
	return d, d.BaseDN != ""
}

// OverrideStatus takes the status of the organization's entry, which wins over
// that of the DC tree when it is given.
func (s *Schema) OverrideStatus(d *Domain, raw Attributes) {
	r := &reader{raw: raw}
	if r.one(s.DomainStatus) != "" {
		d.Status = r.status(s.DomainStatus, LevelDomain, Other)
		d.Faults = append(d.Faults, r.faults...)
	}
}

// LocalTo reports whether a host with these names keeps the mail of d: d names
// no routing hosts, or one of them.
func (d *Domain) LocalTo(hosts ...string) bool {
	if len(d.RoutingHosts) == 0 {
		return true
	}
	return slices.ContainsFunc(d.RoutingHosts, func(v string) bool {
		v = strings.TrimSuffix(strings.TrimSpace(v), ".")
		return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(strings.TrimSuffix(h, "."), v) })
	})
}

// Sole is the one entry that remains of those with an address (directory.md
// 4.8): of several, those that are deleted or removed and users without a uid
// count for nothing. Entries without mail classes never do. ErrNotFound or
// ErrAmbiguous when it is not one.
func Sole(entries []*Entry) (*Entry, error) {
	if len(entries) == 1 && entries[0].Kind != Other {
		return entries[0], nil
	}
	var left *Entry
	for _, e := range entries {
		if e.Kind == Other || e.Kind == User && e.UID == "" {
			continue
		}
		if s, _ := Effective(nil, e); s == Deleted || s == Removed {
			continue
		}
		if left != nil {
			return nil, fmt.Errorf("%w: %q and %q", ErrAmbiguous, left.DN, e.DN)
		}
		left = e
	}
	if left == nil {
		return nil, ErrNotFound
	}
	return left, nil
}
