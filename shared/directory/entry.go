package directory

import (
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// Secret reports whether an attribute is known to hold passwords or keys,
// whatever a schema says.
func Secret(attribute string) bool {
	name, _, _ := strings.Cut(strings.ToLower(attribute), ";")
	switch name {
	case "userpassword", "authpassword", "mgrpauthpassword", "sambantpassword", "userpkcs12", "krbprincipalkey":
		return true
	}
	return false
}

// Kind says what an entry is to mail, by its object classes.
type Kind uint8

// The kinds.
const (
	Other Kind = iota // has neither set of object classes
	User
	Group
)

func (k Kind) String() string {
	switch k {
	case User:
		return "user"
	case Group:
		return "group"
	}
	return "other"
}

// Attribute is one attribute description, in lower case and with its options
// ("mailautoreplytext;lang-fr"), and its values.
type Attribute struct {
	Name   string
	Values []string
}

// Attributes are the raw attributes of an entry.
type Attributes []Attribute

// Get returns the values of the attribute of that name, which is compared
// without case. They are ASCII (RFC 4512 1.4), so that equal ones are of one
// length, and most others are not.
func (a Attributes) Get(name string) []string {
	for i := range a {
		if len(a[i].Name) == len(name) && strings.EqualFold(a[i].Name, name) {
			return a[i].Values
		}
	}
	return nil
}

// First returns the first value of the attribute of that name, "" without one.
func (a Attributes) First(name string) string {
	if v := a.Get(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Clone is a copy that shares nothing with a.
func (a Attributes) Clone() Attributes {
	out := make(Attributes, len(a))
	for i := range a {
		out[i] = Attribute{Name: a[i].Name, Values: slices.Clone(a[i].Values)}
	}
	return out
}

// Put replaces the values of an attribute; without any it is gone. Without a
// name nothing happens: the site has no such attribute.
func (a *Attributes) Put(name string, values ...string) {
	i := slices.IndexFunc(*a, func(have Attribute) bool { return strings.EqualFold(have.Name, name) })
	switch {
	case name == "":
	case i < 0 && len(values) > 0:
		*a = append(*a, Attribute{Name: name, Values: values})
	case i >= 0 && len(values) == 0:
		*a = slices.Delete(*a, i, i+1)
	case i >= 0:
		(*a)[i].Values = values
	}
}

// Entry is a user or a group. It is read-only.
type Entry struct {
	DN      string
	Kind    Kind
	Classes []string // objectClass

	// Domain and Mailbox are set by Lookup and Login, which know the domain.
	// Mailbox is uid@canonical.domain in lower case, empty for groups and for
	// users without uid.
	Domain  *Domain
	Mailbox string

	UID        string // mailbox name, in lower case
	Mail       string // primary address
	Alternate  []string
	Equivalent []string

	MailHost        string // pair name, in lower case
	RoutingAddress  string // mailRoutingAddress
	MessageStore    string // mailMessageStore: partition
	DeliveryOptions []string
	Forwarding      []string
	Status          Status // inetUserStatus, and of groups what the site has instead
	MailStatus      Status // mailUserStatus, inetMailGroupStatus
	Quota           *mail.Quota
	MaxBlocks       int64 // mailMsgMaxBlocks in 1024 octets, 0 when not given
	ServiceAccess   string

	// Members of a group.
	MemberAddresses []string // mgrpRFC822MailMember or rfc822MailMember
	MemberDNs       []string // uniqueMember, member
	MemberURLs      []string // mgrpDeliverTo, memberURL
	ErrorsTo        string   // mgrpErrorsTo
	PostingRules    []string // attributes that limit posting and have a value

	EntrySettings

	Stamp   string // entryCSN or modifyTimestamp: grows with each change
	Raw     Attributes
	Faults  []string  // values that could not be read, for logs and lint
	Fetched time.Time // when a server gave this answer
}

// MayLogin reports whether the status of e and its domain lets its owner log
// in. Access filters are another question.
func (e *Entry) MayLogin() bool {
	s, _ := Effective(e.Domain, e)
	return e.Kind == User && (s == Active || s == OverQuota)
}

// Owns reports whether address, in the form of mail.Address.String, is among
// the addresses of e, without case.
func (e *Entry) Owns(address string) bool {
	if strings.EqualFold(e.Mail, address) {
		return true
	}
	for _, list := range [...][]string{e.Alternate, e.Equivalent} {
		for _, v := range list {
			if strings.EqualFold(v, address) {
				return true
			}
		}
	}
	return false
}

// Addresses are all that e has, the primary one first.
func (e *Entry) Addresses() []string {
	var out []string
	if e.Mail != "" {
		out = append(out, e.Mail)
	}
	return append(append(out, e.Alternate...), e.Equivalent...)
}

// Size is the approximate number of bytes that e occupies.
func (e *Entry) Size() int {
	n := 512 + len(e.DN) + len(e.Mailbox)
	for i := range e.Raw {
		n += 48 + len(e.Raw[i].Name)
		for _, v := range e.Raw[i].Values {
			n += 16 + len(v)
		}
	}
	return n
}

// In returns a copy of e as found in domain d, with Domain and Mailbox set.
func (e *Entry) In(d *Domain) *Entry {
	c := *e
	c.Domain = d
	if c.Kind == User && c.UID != "" {
		c.Mailbox = d.MailboxOf(c.UID)
	}
	return &c
}

// Domain is a hosted domain. It is read-only.
type Domain struct {
	Name    string   // canonical name, as NormalizeDomain leaves it
	Aliases []string // other names
	DN      string   // entry that describes it
	BaseDN  string   // where its users and groups are

	Status     Status // inetDomainStatus
	MailStatus Status // mailDomainStatus

	UIDSeparator string   // between uid and domain in a login, "@" by default
	RoutingHosts []string // mailRoutingHosts
	SmartHost    string   // mailRoutingSmartHost
	CatchAll     string   // mailDomainCatchallAddress
	MaxBlocks    int64    // mailDomainMsgMaxBlocks in 1024 octets, 0 when not given

	DomainSettings

	// Parent is the name by which d was found when a subdomain without an entry
	// of its own was asked for; Vanity is the name that was asked for when it
	// belongs to one user of d only. Hosted says that d is not the default
	// domain.
	Parent, Vanity string
	Hosted         bool
	// CatchAllOwners are the entries that own "@domain": whoever else is not
	// found is theirs.
	CatchAllOwners []*Entry

	Stamp   string
	Raw     Attributes
	Faults  []string
	Fetched time.Time
}

// MailboxOf names the mailbox that a user of the domain has on the pair.
func (d *Domain) MailboxOf(uid string) string { return uid + "@" + d.Name }

// HasName reports whether name is the canonical name or an alias of d.
func (d *Domain) HasName(name string) bool {
	if strings.EqualFold(d.Name, name) {
		return true
	}
	for _, a := range d.Aliases {
		if strings.EqualFold(a, name) {
			return true
		}
	}
	return false
}

// Size is the approximate number of bytes that d occupies.
func (d *Domain) Size() int {
	n := 512 + len(d.DN) + len(d.BaseDN)
	for i := range d.Raw {
		n += 48 + len(d.Raw[i].Name)
		for _, v := range d.Raw[i].Values {
			n += 16 + len(v)
		}
	}
	for _, e := range d.CatchAllOwners {
		n += e.Size()
	}
	return n
}
