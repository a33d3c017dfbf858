package lint

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // mail is refused, lost from sight or goes astray
	Warning Severity = "warning" // something does not do what it says
	Note    Severity = "note"    // it does nothing
)

// Finding is one fault.
type Finding struct {
	Severity  Severity `json:"severity"`
	Rule      string   `json:"rule"`
	DN        string   `json:"dn"`
	Attribute string   `json:"attribute"`
	Value     string   `json:"value,omitempty"`
	Others    []string `json:"others,omitempty"` // further entries concerned
	Meaning   string   `json:"meaning"`
	Mend      string   `json:"mend"`
}

// kind is what all findings of one rule have in common.
type kind struct {
	severity      Severity
	meaning, mend string
}

// Rules are the names of the rules and their severity.
func Rules() map[string]Severity {
	out := make(map[string]Severity, len(rules))
	for name, k := range rules {
		out[name] = k.severity
	}
	return out
}

var rules = map[string]kind{
	"bad-name":   {Error, "the name of the entry cannot be read, so nothing finds it", "rename the entry"},
	"no-classes": {Error, "the entry has an address of a hosted domain and not the object classes of a user or group: mail for it is refused as for nobody", "add the object classes of a user or a group, or remove the address"},
	"no-uid":     {Error, "a user without uid has no mailbox: mail is deferred and then returned", "set uid"},
	"bad-uid":    {Error, "the uid cannot name a mailbox: it is taken for absent", "use letters, digits and .-_ without spaces, slashes and @"},
	"no-address": {Error, "the entry has no address: nobody can write to it", "set mail"},
	"bad-address": {
		Error, "the address is not well formed: it is never used",
		"write it as local-part@domain, or @domain for everybody else of a domain",
	},
	"idn-address": {
		Error, "the domain of the address is not in ASCII: the address is not found, and mail for it is refused",
		"write the domain in A-labels, xn--...",
	},
	"foreign-address": {Warning, "the domain of the address is not hosted here: mail for it leaves", "add the domain, or remove the address"},
	"wrong-domain": {
		Error, "the entry is not below the base of the address's domain: the address is not found",
		"move the entry below that base, or give it an address of its own domain",
	},
	"outside-domains":   {Error, "the entry is below no domain's base: no address leads to it", "move the entry below the base of its domain"},
	"ambiguous-address": {Error, "several entries own the address: mail for it is refused", "leave the address to one of them"},
	"address-twice":     {Note, "the entry has the address twice", "remove it from one of the attributes"},
	"duplicate-uid":     {Error, "several users of the domain have this uid: they share a mailbox, and none can log in by it", "give each user of a domain a uid of its own"},
	"no-mail-host":      {Error, "a user with a mailbox has no mailHost, and the domain no smart host: mail waits and is then returned", "set mailHost to the name of a pair"},
	"unknown-pair":      {Error, "mailHost names no pair: mail waits and is then returned", "set mailHost to the name of a pair"},
	"unknown-preferred-pair": {
		Warning, "new users of the domain get a mailHost that names no pair", "set preferredMailHost to the name of a pair",
	},
	"bad-status":    {Error, "the status is an unknown word, or not legal there: it counts as inactive and mail is refused for now", "use active, inactive, deleted; for mail also disabled, removed, hold, overquota"},
	"status-clash":  {Warning, "one status says active, and one that counts before it does not: mail is refused", "make them say the same"},
	"bad-option":    {Warning, "the delivery option is unknown and ignored", "use mailbox, forward, autoreply, hold; for lists members, members_offline"},
	"wrong-option":  {Warning, "the delivery option is not for this kind of entry and is ignored", "remove the value"},
	"dead-option":   {Warning, "the delivery option leads to a channel that relays do not have and is ignored", "remove the value"},
	"no-option":     {Error, "none of the delivery options can be used: the default applies, which may not be meant", "set mailDeliveryOption"},
	"bad-quota":     {Error, "the quota cannot be read: the default applies", "write octets with K, M, G or T, -1 for none, -2 for the default"},
	"no-quota":      {Warning, "a quota of 0 allows no mail", "set a quota, or the status disabled"},
	"bad-date":      {Error, "the date cannot be read: the window is open on that side", "write it as YYYYMMDDHHMMSSZ"},
	"dates-reverse": {Error, "the end is before the start: mail is never answered", "swap the dates"},
	"bad-access": {
		Error, "the access filter cannot be read: nobody whom it is for can log in",
		"write it as rules such as +imap,pops:*$-smtp:ALL EXCEPT 10.0.0.0/8",
	},
	"bad-value":  {Warning, "the value cannot be read and is ignored", "correct or remove it"},
	"bad-url":    {Error, "the URL is malformed or leads outside of the servers and bases: the list cannot be used", "name an entry below the configured bases"},
	"bad-header": {Warning, "the field to add has no name and is ignored", "write it as Name: value"},
	"no-answer-text": {
		Warning, "mail is to be answered and there is no text to answer with: nobody gets an answer",
		"set mailAutoReplyText, or remove autoreply from the delivery options",
	},
	"forward-nobody":  {Error, "mail is to be forwarded and there is no usable address to forward to", "set mailForwardingAddress, or remove forward from the delivery options"},
	"forward-self":    {Error, "the entry forwards to itself: that copy is dropped", "remove the address"},
	"forward-unused":  {Note, "there are addresses to forward to and the delivery option forward is not set", "add forward to mailDeliveryOption, or remove the addresses"},
	"forward-nowhere": {Warning, "mail is forwarded to an address of a hosted domain that nobody has", "correct the address"},
	"forward-loop":    {Error, "entries forward to each other: mail ends nowhere", "let one of them keep its mail or forward elsewhere"},
	"no-members":      {Error, "the list has no member that can be reached: mail for it is refused", "add members"},
	"member-nowhere":  {Warning, "a member leads to no entry and is left out", "remove the member"},
	"member-no-mail":  {Warning, "a member has no address and is left out", "give it an address, or remove the member"},
	"member-gone":     {Warning, "a member is deleted or removed: copies for it are returned", "remove the member"},
	"member-unknown":  {Warning, "a member is an address of a hosted domain that nobody has: copies for it are returned", "remove or correct the member"},
	"list-loop":       {Error, "lists contain each other: whoever is reached by the circle only gets nothing", "take one of the lists out of the other"},
	"domain-name":     {Error, "the entry has the class of a domain and no usable name: the domain is unknown", "set sunPreferredDomain"},
	"bad-domain":      {Error, "the name of the domain is not well formed: no address can have it", "correct or remove it"},
	"domain-overlap":  {Error, "several domains have this name: all mail for it is refused for now", "leave the name to one of them"},
	"domain-canonical": {
		Error, "domains with the same users have different canonical names: a user has a mailbox under each of them",
		"give them the same canonical name, or make one an alias of the other",
	},
	"domain-alias": {Error, "the alias leads to no domain, or in a circle: mail for it waits", "correct aliasedObjectName"},
	"domain-base":  {Error, "the base of the domain's users does not exist or is outside of the bases: mail for the domain waits", "correct inetDomainBaseDN, or add the entry"},
	"rename-unfinished": {
		Warning, "a change of the entry's name was begun and not finished: what refers to it may name the old or the new one",
		"run the command of the value again (postern directory), or take the note out",
	},
	"catch-all": {Error, "the address for everybody else of the domain is malformed or nobody's", "correct mailDomainCatchallAddress"},
}
