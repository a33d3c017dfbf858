package directory

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

func TestSole(t *testing.T) {
	user := func(uid string, s Status) *Entry {
		return &Entry{DN: "uid=" + uid, Kind: User, UID: uid, MailStatus: s}
	}
	group := &Entry{DN: "cn=g", Kind: Group}
	other := &Entry{DN: "cn=o"}
	for name, tt := range map[string]struct {
		entries []*Entry
		want    string // DN, or part of the error
	}{
		"none":              {nil, "not found"},
		"one":               {[]*Entry{user("a", Active)}, "uid=a"},
		"one that is gone":  {[]*Entry{user("a", Removed)}, "uid=a"}, // its status answers, not "unknown"
		"one without uid":   {[]*Entry{user("", Active)}, "uid="},
		"one of no class":   {[]*Entry{other}, "not found"},
		"two":               {[]*Entry{user("a", Active), user("b", Inactive)}, "more than one"},
		"a user and a list": {[]*Entry{user("a", Active), group}, "more than one"},
		"one is deleted":    {[]*Entry{user("a", Deleted), user("b", Active)}, "uid=b"},
		"one is removed":    {[]*Entry{user("b", Hold), user("a", Removed)}, "uid=b"},
		"one has no uid":    {[]*Entry{user("", Active), user("b", Active)}, "uid=b"},
		"one has no class":  {[]*Entry{other, user("b", Active)}, "uid=b"},
		"all are gone":      {[]*Entry{user("a", Deleted), user("b", Removed)}, "not found"},
		"three":             {[]*Entry{user("a", Deleted), user("b", Active), group}, "uid=b\" and \"cn=g"},
	} {
		e, err := Sole(tt.entries)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = e.DN
		}
		if !strings.Contains(got, tt.want) || err == nil && got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAmbiguous) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFirstStatusDecides: of the four, the first that is not active
// (directory.md 6).
func TestFirstStatusDecides(t *testing.T) {
	for _, tt := range []struct {
		domain, domainMail, entry, entryMail string
		want                                 Status
		level                                Level
	}{
		{"", "", "", "", Active, LevelDomain},
		{"active", "active", "active", "active", Active, LevelDomain},
		{"inactive", "hold", "deleted", "disabled", Inactive, LevelDomain},
		{"active", "hold", "deleted", "disabled", Hold, LevelDomainMail},
		{"active", "", "deleted", "disabled", Deleted, LevelEntry},
		{"active", "active", "active", "disabled", Disabled, LevelEntryMail},
		{"ACTIVE", " Active ", "active", "OverQuota", OverQuota, LevelEntryMail},
		{"active", "overquota", "active", "active", OverQuota, LevelDomainMail},
		{"hold", "active", "active", "active", Inactive, LevelDomain},         // only legal for mail
		{"active", "active", "disabled", "active", Inactive, LevelEntry},      // only legal for mail
		{"active", "active", "removed", "active", Inactive, LevelEntry},       // only legal for mail
		{"active", "active", "active", "removed", Removed, LevelEntryMail},    //
		{"active", "sleepy", "active", "active", Inactive, LevelDomainMail},   // unknown word
		{"active", "active", "active", "unused", Unused, LevelEntryMail},      //
		{"deleted", "active", "active", "active", Deleted, LevelDomain},       //
		{"active", "disabled", "active", "active", Disabled, LevelDomainMail}, //
	} {
		s := SunSchema2()
		d, _ := s.ReadDomain("o=x", Attributes{
			{Name: "sunpreferreddomain", Values: []string{"x"}},
			{Name: "inetdomainstatus", Values: []string{tt.domain}},
			{Name: "maildomainstatus", Values: []string{tt.domainMail}},
		})
		e := s.ReadEntry("uid=a", Attributes{
			{Name: "objectclass", Values: []string{"inetMailUser", "inetLocalMailRecipient"}},
			{Name: "uid", Values: []string{"a"}},
			{Name: "inetuserstatus", Values: []string{tt.entry}},
			{Name: "mailuserstatus", Values: []string{tt.entryMail}},
		})
		if got, level := Effective(d, e); got != tt.want || level != tt.level {
			t.Errorf("%+v: %v at %v", tt, got, level)
		}
		e.Domain = d
		if login := e.MayLogin(); login != (tt.want == Active || tt.want == OverQuota) {
			t.Errorf("%+v: may log in: %v", tt, login)
		}
	}
	if s, ok := ParseStatus("overquota", LevelEntryMail, Group); ok || s != Inactive {
		t.Errorf("a group over quota: %v, %v", s, ok)
	}
	// A group's general status is read where the site names its attribute.
	for rule, want := range map[string]Status{"groupGeneralStatus=inetGroupStatus": Deleted, "groupGeneralStatus=": Disabled} {
		s := SunSchema2()
		if err := s.Rename(rule); err != nil {
			t.Fatal(err)
		}
		e := s.ReadEntry("cn=g", Attributes{
			{Name: "objectclass", Values: []string{"inetMailGroup", "inetLocalMailRecipient"}},
			{Name: "inetgroupstatus", Values: []string{"deleted"}},
			{Name: "inetmailgroupstatus", Values: []string{"disabled"}},
		})
		if got, _ := Effective(nil, e); got != want {
			t.Errorf("%s: %v, want %v", rule, got, want)
		}
	}
}

// TestQuota: what the directory says of a quota is the entry's change stamp's,
// also that there is none (any more), unless the site has no such attribute.
func TestQuota(t *testing.T) {
	for _, tt := range []struct {
		quota, messages string
		want            mail.Quota
	}{
		{"10M", "100", mail.Quota{Bytes: 10 << 20, Messages: 100, Stamp: "2"}},
		{"10M", "", mail.Quota{Bytes: 10 << 20, Messages: QuotaDefault, Stamp: "2"}},
		{"-1", "-2", mail.Quota{Bytes: -1, Messages: QuotaDefault, Stamp: "2"}},
		{"", "", mail.Quota{Bytes: QuotaDefault, Messages: QuotaDefault, Stamp: "2"}},
		{"lots", "0", mail.Quota{Bytes: QuotaDefault, Messages: 0, Stamp: "2"}},
	} {
		s := SunSchema2()
		raw := Attributes{
			{Name: "objectclass", Values: []string{"inetMailUser", "inetLocalMailRecipient"}},
			{Name: "entrycsn", Values: []string{"2"}},
		}
		raw.Put("mailquota", tt.quota)
		raw.Put("mailmsgquota", tt.messages)
		if e := s.ReadEntry("uid=a", raw); e.Quota == nil || *e.Quota != tt.want {
			t.Errorf("%q, %q: %+v, want %+v", tt.quota, tt.messages, e.Quota, tt.want)
		}
		if err := s.Rename("quota=", "messageQuota="); err != nil {
			t.Fatal(err)
		}
		if e := s.ReadEntry("uid=a", raw); e.Quota != nil {
			t.Errorf("without attributes for it: %+v", e.Quota)
		}
	}
}

func TestReadNode(t *testing.T) {
	s, err := Preset("sun-schema1")
	if err != nil {
		t.Fatal(err)
	}
	raw := func(pairs ...string) (out Attributes) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, Attribute{Name: strings.ToLower(pairs[i]), Values: []string{pairs[i+1]}})
		}
		return out
	}
	for _, tt := range []struct {
		raw     Attributes
		ok      bool
		name    string
		aliases []string
		faults  int
	}{
		{raw("inetDomainBaseDN", "o=x"), true, "x.test", nil, 0},
		{raw("inetDomainBaseDN", "o=x", "inetCanonicalDomainName", "Y.Test."), true, "y.test", []string{"x.test"}, 0},
		{raw("inetDomainBaseDN", "o=x", "inetCanonicalDomainName", "\xff"), true, "x.test", nil, 1},
		{raw("mailDomainStatus", "active"), false, "x.test", nil, 0},
		{raw("inetDomainBaseDN", " "), false, "x.test", nil, 0},
		{raw("inetDomainBaseDN", "o=x", "mailDomainStatus", "?"), true, "x.test", nil, 1},
	} {
		d, ok := s.ReadNode("dc=x,dc=test", "x.test", tt.raw)
		if ok != tt.ok || d.Name != tt.name || !slices.Equal(d.Aliases, tt.aliases) || len(d.Faults) != tt.faults {
			t.Errorf("%+v: %+v, %v", tt.raw, d, ok)
		}
	}
	d, _ := s.ReadNode("dc=x", "x", raw("inetDomainStatus", "active", "inetDomainBaseDN", "o=x"))
	for value, want := range map[string]Status{"deleted": Deleted, "": Deleted, "inactive": Inactive, "drowsy": Inactive} {
		c := *d
		c.Status = Deleted
		s.OverrideStatus(&c, raw("inetDomainStatus", value))
		if c.Status != want {
			t.Errorf("status %q of the organization gives %v, want %v", value, c.Status, want)
		}
	}
}

func TestNormalizeDomain(t *testing.T) {
	for in, want := range map[string]string{
		"example.org": "example.org", "EXAMPLE.org.": "example.org", "bücher.example": "xn--bcher-kva.example",
		"BÜCHER.example": "xn--bcher-kva.example", "_x.Example": "_x.example", "a--b.x": "a--b.x",
	} {
		if got, err := NormalizeDomain(in); err != nil || got != want {
			t.Errorf("NormalizeDomain(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if got, err := NormalizeDomain("\xff.x"); err == nil {
		t.Errorf("NormalizeDomain of no text: %q", got)
	}
}

func TestSplitDetail(t *testing.T) {
	for _, tt := range []struct {
		local, sep, base, detail string
		ok                       bool
	}{
		{"a+b", "+", "a", "b", true},
		{"a+b+c", "+", "a", "b+c", true},
		{"a+", "+", "a", "", true},
		{"a", "+", "a", "", false},
		{"+b", "+", "+b", "", false},
		{"a+b", "", "a+b", "", false},
		{"a--b", "--", "a", "b", true},
	} {
		if base, detail, ok := SplitDetail(tt.local, tt.sep); base != tt.base || detail != tt.detail || ok != tt.ok {
			t.Errorf("%+v: %q, %q, %v", tt, base, detail, ok)
		}
	}
}

func TestParts(t *testing.T) {
	for _, tt := range []struct {
		way                Subaddress
		sep, local         string
		wild, base, detail string
	}{
		{SubaddressRelaxed, "+", "a+b+c", "a+*", "a", "b+c"},
		{SubaddressWild, "+", "a+b", "a+*", "", "b"},
		{SubaddressExact, "+", "a+b", "", "", ""},
		{SubaddressRelaxed, "--", "a--b", "a--*", "a", "b"},
		{SubaddressRelaxed, "", "a+b", "", "", ""},
		{SubaddressRelaxed, "+", "+b", "", "", ""},
		{SubaddressWild, "+", "a", "", "", ""},
	} {
		s := Schema{Separator: tt.sep, Subaddress: tt.way}
		if wild, base, detail := s.Parts(tt.local); wild != tt.wild || base != tt.base || detail != tt.detail {
			t.Errorf("%+v: %q, %q, %q", tt, wild, base, detail)
		}
	}
}

func TestParseQuota(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "50M": 50 << 20, "1g": 1 << 30, " 10 k ": 10 << 10, "4T": 4 << 40, "-1": -1, "-2": -2, "20M;#voice%10M": 20 << 20,
	} {
		if got, ok := ParseQuota(in); !ok || got != want {
			t.Errorf("ParseQuota(%q) = %d, %v, want %d", in, got, ok, want)
		}
	}
	for _, in := range []string{"", "M", "lots", "-3", "-1M", "9999999999999T", "1.5M", ";5"} {
		if got, ok := ParseQuota(in); ok {
			t.Errorf("ParseQuota(%q) = %d", in, got)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, s := range []string{"ldap:///o=isp??sub?(mail=*)", "LDAPS://h:1/dc=x?a,b?one?a=b?!c", "ldap://", "ldap:///%zz", "mailto:a@b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURL(s)
		if err != nil {
			if !errors.Is(err, ErrURL) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if u.Filter == "" || u.Filter[0] != '(' || u.Host != strings.ToLower(u.Host) {
			t.Errorf("%q: %+v", s, u)
		}
		// With another name it is the same in all else.
		const name = "cn=é?#%2c /x,o=a b"
		other, ok := u.At(s, func(dn string) (string, bool) { return name, dn == u.DN })
		if !ok {
			return
		}
		now, err := ParseURL(other)
		if len(other) > maxURL {
			return
		}
		if err != nil {
			t.Fatalf("%q, of %q: %v", other, s, err)
		}
		if now.DN != name {
			t.Errorf("%q, of %q: name %q", other, s, now.DN)
		}
		now.DN = u.DN
		if !reflect.DeepEqual(now, u) {
			t.Errorf("%q, of %q: %+v, was %+v", other, s, now, u)
		}
	})
}
