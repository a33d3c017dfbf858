package directory

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// EntrySchema is the part of a Schema that says how a user's or a group's mail
// is handled once the entry is found.
type EntrySchema struct {
	// Groups, in the order of the specification's 13.2.
	RejectAction, RejectText, BroadcasterPolicy string
	AllowedDomain, DisallowedDomain             string
	AllowedBroadcaster, DisallowedBroadcaster   string
	ListMaxSize, ListMaxAttachments             string
	AuthPassword, Moderator, RequestTo          string
	RemoveHeader, AddHeader                     string
	PrefixText, SuffixText, SubjectTag          string
	UnsubscribeURL, NoDuplicateChecks           string
	ResultMapping                               string

	// Users who are away.
	AutoReplyMode, AutoReplySubject, AutoReplyText string
	AutoReplyTextInternal, AutoReplyTimeout        string
	AutoReplyAddress, VacationStart, VacationEnd   string

	// Both.
	UserLanguage, DeferProcessing, OptIn, Capture string
	ProgramDelivery, DeliveryFile, SpareE, SpareG string

	// Users.
	AdminRole, SubmitChannel, ACLGroup string
	// Certificate has the certificates that a user may log in by; without a name
	// all do that lead to the user.
	Certificate                       string
	SenderRecipients, SenderMaxBlocks string // no usual names
}

func sunEntries() EntrySchema {
	return EntrySchema{
		RejectAction:          "mgrpMsgRejectAction",
		RejectText:            "mailRejectText",
		BroadcasterPolicy:     "mgrpBroadcasterPolicy",
		AllowedDomain:         "mgrpAllowedDomain",
		DisallowedDomain:      "mgrpDisallowedDomain",
		AllowedBroadcaster:    "mgrpAllowedBroadcaster",
		DisallowedBroadcaster: "mgrpDisallowedBroadcaster",
		ListMaxSize:           "mgrpMsgMaxSize",
		ListMaxAttachments:    "posternMaxAttachments",
		AuthPassword:          "mgrpAuthPassword",
		Moderator:             "mgrpModerator",
		RequestTo:             "mgrpRequestTo",
		RemoveHeader:          "mgrpRemoveHeader",
		AddHeader:             "mgrpAddHeader",
		PrefixText:            "mgrpMsgPrefixText",
		SuffixText:            "mgrpMsgSuffixText",
		SubjectTag:            "posternSubjectTag",
		UnsubscribeURL:        "posternUnsubscribeURL",
		NoDuplicateChecks:     "mgrpNoDuplicateChecks",
		ResultMapping:         "mgrpURLResultMapping",

		AutoReplyMode:         "mailAutoReplyMode",
		AutoReplySubject:      "mailAutoReplySubject",
		AutoReplyText:         "mailAutoReplyText",
		AutoReplyTextInternal: "mailAutoReplyTextInternal",
		AutoReplyTimeout:      "mailAutoReplyTimeOut",
		VacationStart:         "vacationStartDate",
		VacationEnd:           "vacationEndDate",
		UserLanguage:          "preferredLanguage",
		DeferProcessing:       "mailDeferProcessing",
		OptIn:                 "mailAntiUBEService",
		ProgramDelivery:       "mailProgramDeliveryInfo",
		DeliveryFile:          "mailDeliveryFileURL",
		AdminRole:             "mailAdminRole",
		SubmitChannel:         "mailSMTPSubmitChannel",
		ACLGroup:              "aclGroupAddr",
	}
}

func (s *EntrySchema) attributes() []string {
	return []string{
		s.RejectAction, s.RejectText, s.BroadcasterPolicy, s.AllowedDomain, s.DisallowedDomain, s.AllowedBroadcaster,
		s.DisallowedBroadcaster, s.ListMaxSize, s.ListMaxAttachments, s.AuthPassword, s.Moderator, s.RequestTo,
		s.RemoveHeader, s.AddHeader, s.PrefixText, s.SuffixText, s.SubjectTag, s.UnsubscribeURL, s.NoDuplicateChecks,
		s.ResultMapping,
		s.AutoReplyMode, s.AutoReplySubject, s.AutoReplyText, s.AutoReplyTextInternal, s.AutoReplyTimeout,
		s.AutoReplyAddress, s.VacationStart, s.VacationEnd, s.UserLanguage, s.DeferProcessing, s.OptIn, s.Capture,
		s.ProgramDelivery, s.DeliveryFile, s.SpareE, s.SpareG, s.AdminRole, s.SubmitChannel, s.ACLGroup,
		s.SenderRecipients, s.SenderMaxBlocks, s.Certificate,
	}
}

// EntrySettings are the attributes of an entry that decide what becomes of its
// mail, beyond those that find it.
type EntrySettings struct {
	Defer    string   // mailDeferProcessing in lower case: "", "no", "yes", "after_auth"
	OptIn    []string // mailAntiUBEService: checks that the person asked for
	Capture  []string // who gets a copy, by the site's attribute
	FileURL  string   // mailDeliveryFileURL
	Programs []string // mailProgramDeliveryInfo
	SpareE   string   // $E of delivery templates
	SpareG   string   // $G
	Language string   // preferredLanguage

	StoreAdmin    bool   // mailAdminRole: may open every mailbox
	SubmitChannel string // mailSMTPSubmitChannel: channel of what the user submits, in lower case
	// ACLGroups are aclGroupAddr: the groups that the user is one of where a
	// mailbox's list of rights names them.
	ACLGroups []string
	// Certificates are those in the user's entry (DER), by the site's attribute.
	Certificates []string
	// SenderRecipients and SenderMaxBlocks bound what the user submits, by the
	// site's attributes: recipients, and blocks of 1024 octets; 0 without limit.
	SenderRecipients, SenderMaxBlocks int64

	// Start and End are vacationStartDate and vacationEndDate, both inclusive;
	// zero is open.
	Start, End time.Time
	Away       *Away // nil: the entry says nothing about answering mail
	List       *List // nil: a group without rules and without changes to its mail
}

// Away is what a user's entry says about answering mail.
type Away struct {
	Mode     string // in lower case
	Subject  []Tagged
	Text     []Tagged // for senders of other domains
	Internal []Tagged // for senders of the same domain
	Hours    int64    // least time between two replies to one sender; QuotaDefault when not given
	Me       []string // further addresses that count as the person's
}

// Tagged is a text in a language, "" for a value without a tag.
type Tagged struct{ Language, Text string }

// List is what a group's entry says about who may post and about the message.
type List struct {
	RejectAction                                string // in lower case
	RejectText                                  string // first line of the first value, "" unless printable ASCII
	Policy                                      []string
	AllowedDomains, DisallowedDomains           []string
	AllowedBroadcasters, DisallowedBroadcasters []string
	MaxSize                                     int64 // octets, 0 without limit
	MaxAttachments                              int   // -1 without limit
	Password                                    string
	Moderators                                  []string
	RequestTo                                   string

	RemoveHeader, AddHeader []string
	Prefix, Suffix          string // lines ended by LF
	SubjectTag              string
	Unsubscribe             []string // URLs
	NoDuplicateChecks       bool
	ResultMapping           string // mapping table for what member URLs find
}

// Restricted reports whether somebody may be refused.
func (l *List) Restricted() bool {
	return len(l.Policy) > 0 || len(l.AllowedDomains) > 0 || len(l.DisallowedDomains) > 0 || len(l.AllowedBroadcasters) > 0 ||
		len(l.DisallowedBroadcasters) > 0 || l.MaxSize > 0 || l.MaxAttachments >= 0 || l.Password != "" || len(l.Moderators) > 0
}

// Changes reports whether the list's mail differs from what was sent to it.
func (l *List) Changes() bool {
	return len(l.RemoveHeader) > 0 || len(l.AddHeader) > 0 || l.Prefix != "" || l.Suffix != "" || l.SubjectTag != "" ||
		len(l.Unsubscribe) > 0 || l.RequestTo != "" || l.Password != ""
}

// settings reads what users and groups have in common.
func (s *EntrySchema) settings(r *reader, k Kind) EntrySettings {
	e := EntrySettings{
		Defer: strings.ToLower(r.one(s.DeferProcessing)), OptIn: r.all(s.OptIn), Capture: r.all(s.Capture),
		FileURL: r.one(s.DeliveryFile), Programs: r.all(s.ProgramDelivery), SpareE: r.one(s.SpareE), SpareG: r.one(s.SpareG),
		Language: r.one(s.UserLanguage), Start: r.date(s.VacationStart), End: r.date(s.VacationEnd),
	}
	switch e.Defer {
	case "", "no", "yes", "after_auth":
	default:
		r.fault(s.DeferProcessing, e.Defer)
		e.Defer = ""
	}
	if k == Group {
		e.List = s.list(r)
	} else {
		e.Away = s.away(r)
		e.StoreAdmin = s.storeAdmin(r)
		e.SenderRecipients, e.SenderMaxBlocks = max(r.limit(s.SenderRecipients), 0), max(r.limit(s.SenderMaxBlocks), 0)
		e.SubmitChannel, e.ACLGroups = strings.ToLower(r.one(s.SubmitChannel)), r.all(s.ACLGroup)
		e.Certificates = r.binary(s.Certificate)
	}
	return e
}

// storeAdmin reads mailAdminRole, whose one role is storeAdmin.
func (s *EntrySchema) storeAdmin(r *reader) (admin bool) {
	for _, v := range r.words(s.AdminRole) {
		if strings.EqualFold(v, "storeAdmin") {
			admin = true
		} else {
			r.fault(s.AdminRole, v)
		}
	}
	return admin
}

func (s *EntrySchema) away(r *reader) *Away {
	a := &Away{
		Mode: strings.ToLower(r.one(s.AutoReplyMode)), Subject: r.tagged(s.AutoReplySubject), Text: r.tagged(s.AutoReplyText),
		Internal: r.tagged(s.AutoReplyTextInternal), Hours: r.limit(s.AutoReplyTimeout), Me: r.all(s.AutoReplyAddress),
	}
	if a.Mode == "" && a.Text == nil && a.Internal == nil && a.Subject == nil {
		return nil
	}
	for _, list := range [][]Tagged{a.Text, a.Internal} {
		for i := range list {
			list[i].Text = Lines(list[i].Text)
		}
	}
	return a
}

func (s *EntrySchema) list(r *reader) *List {
	l := &List{
		RejectAction: strings.ToLower(r.one(s.RejectAction)), RejectText: firstLine(r.one(s.RejectText)),
		Policy:         r.words(s.BroadcasterPolicy),
		AllowedDomains: r.words(s.AllowedDomain), DisallowedDomains: r.words(s.DisallowedDomain),
		AllowedBroadcasters: r.all(s.AllowedBroadcaster), DisallowedBroadcasters: r.all(s.DisallowedBroadcaster),
		Password: r.one(s.AuthPassword), Moderators: r.all(s.Moderator), RequestTo: r.one(s.RequestTo),
		RemoveHeader: r.words(s.RemoveHeader), AddHeader: r.all(s.AddHeader),
		Prefix: text(r.one(s.PrefixText)), Suffix: text(r.one(s.SuffixText)), SubjectTag: r.one(s.SubjectTag),
		Unsubscribe: r.all(s.UnsubscribeURL), MaxAttachments: -1, ResultMapping: r.one(s.ResultMapping),
	}
	l.Policy = slices.DeleteFunc(slices.Clone(l.Policy), func(v string) bool { return strings.EqualFold(v, "NO_REQUIREMENTS") })
	if n := r.limit(s.ListMaxSize); n > 0 {
		l.MaxSize = n
	}
	if v := r.one(s.ListMaxAttachments); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			r.fault(s.ListMaxAttachments, v)
		} else {
			l.MaxAttachments = n
		}
	}
	if v := r.one(s.NoDuplicateChecks); v != "" {
		l.NoDuplicateChecks = !strings.EqualFold(v, "no") && !strings.EqualFold(v, "false") && v != "0"
	}
	if !l.Restricted() && !l.Changes() && !l.NoDuplicateChecks && l.ResultMapping == "" {
		return nil
	}
	return l
}

// words are the values of attr, each cut at commas.
func (r *reader) words(attr string) []string {
	var out []string
	for _, v := range r.all(attr) {
		for w := range strings.SplitSeq(v, ",") {
			if w = strings.TrimSpace(w); w != "" {
				out = append(out, w)
			}
		}
	}
	return out
}

// binary reads values that servers give with ";binary" (RFC 4522), or without.
func (r *reader) binary(attr string) (out []string) {
	if attr == "" {
		return nil
	}
	for i := range r.raw {
		if base, _, _ := strings.Cut(r.raw[i].Name, ";"); strings.EqualFold(base, attr) {
			out = append(out, r.raw[i].Values...)
		}
	}
	return out
}

// date reads YYYYMMDDHHMMSSZ, in UTC.
func (r *reader) date(attr string) time.Time {
	v := r.one(attr)
	if v == "" {
		return time.Time{}
	}
	t, err := time.Parse("20060102150405Z0700", v)
	if err != nil {
		r.fault(attr, v)
		return time.Time{}
	}
	return t.UTC()
}

// tagged are the values of attr with their language tags (RFC 3866), those
// without one first.
func (r *reader) tagged(attr string) []Tagged {
	if attr == "" {
		return nil
	}
	var out []Tagged
	for i := range r.raw {
		if len(r.raw[i].Name) < len(attr) {
			continue
		}
		base, options, _ := strings.Cut(r.raw[i].Name, ";")
		if !strings.EqualFold(base, attr) {
			continue
		}
		language := ""
		for o := range strings.SplitSeq(options, ";") {
			if len(o) > 5 && strings.EqualFold(o[:5], "lang-") {
				language = strings.ToLower(o[5:])
			}
		}
		for _, v := range r.raw[i].Values {
			out = append(out, Tagged{language, v})
		}
	}
	slices.SortStableFunc(out, func(a, b Tagged) int { return strings.Compare(a.Language, b.Language) })
	return out
}

// Lines makes lines of a value in which "$" ends a line, \24 stands for a
// dollar sign and \5c for a backslash.
func Lines(v string) string {
	v = strings.ReplaceAll(v, "\r\n", "\n")
	v = strings.ReplaceAll(v, "$", "\n")
	return strings.NewReplacer(`\24`, "$", `\5c`, `\`, `\5C`, `\`).Replace(v)
}

// text is Lines with an end to the last line.
func text(v string) string {
	if v == "" {
		return ""
	}
	return strings.TrimRight(Lines(v), "\n") + "\n"
}

// firstLine is the first line of v if it is printable ASCII, as SMTP wants.
func firstLine(v string) string {
	v, _, _ = strings.Cut(Lines(v), "\n")
	v = strings.TrimSpace(v)
	for i := 0; i < len(v); i++ {
		if v[i] < ' ' || v[i] > '~' {
			return ""
		}
	}
	return v[:min(len(v), 400)]
}
