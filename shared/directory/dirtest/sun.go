package dirtest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// layouts are the trees of the Sun schemas and the presets that read them.
var layouts = []struct {
	preset string
	tree   func() []byte
}{
	{"sun-schema1", fixture.Schema1},
	{"sun-schema2", fixture.Schema2},
	{"sun-compat", fixture.Compatible},
}

// RunSun runs what holds for domains against the server that start starts, for
// both schemas and the compatibility mode.
func RunSun(t *testing.T, start func(t testing.TB, ldif []byte) Server) {
	for _, l := range layouts {
		t.Run(l.preset, func(t *testing.T) {
			schema, err := directory.Preset(l.preset)
			if err != nil {
				t.Fatal(err)
			}
			u := &sun{schema: schema, s: start(t, l.tree()), dc: schema.Layout != directory.LayoutOrganization}
			t.Run("Domains", u.domains)
			t.Run("Settings", u.settings)
			t.Run("Status", u.status)
			t.Run("Aliases", u.aliases)
			t.Run("Broken", u.broken)
			t.Run("CatchAll", u.catchAll)
			t.Run("Subaddress", u.subaddress)
			t.Run("Several", u.several)
			t.Run("Uplevel", u.uplevel)
			t.Run("Vanity", u.vanity)
			t.Run("LookupURLs", u.lookupURLs)
			t.Run("Names", u.names)
			t.Run("Filters", u.filters)
			t.Run("Login", u.login)
			t.Run("Renamed", u.renamed)
			t.Run("Tags", u.tags)
		})
	}
}

type sun struct {
	schema directory.Schema
	s      Server
	dc     bool
}

func (u *sun) dial(t *testing.T, configure ...func(*ldap.Config)) *ldap.Directory {
	t.Helper()
	return Dial(t, u.s, append([]func(*ldap.Config){func(c *ldap.Config) {
		c.Schema, c.DefaultDomain = u.schema, "example.org"
		if u.dc {
			c.DCRoot = fixture.DCRoot
		}
	}}, configure...)...)
}

// leads looks up an address. The result is what a relay would see: the mailboxes
// and the detail, or the fault.
func leads(t *testing.T, d directory.Directory, address string) string {
	t.Helper()
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := d.Domain(t.Context(), a.Domain)
	if err != nil {
		return "domain: " + outcome(err)
	}
	ans, err := d.Lookup(t.Context(), dom, a)
	if err != nil {
		return outcome(err)
	}
	var list []string
	for _, e := range ans.Entries {
		name := e.Mailbox
		if name == "" {
			name = e.DN
		}
		list = append(list, name)
	}
	slices.Sort(list)
	out := strings.Join(list, " ")
	if ans.Detail != "" {
		out += " +" + ans.Detail
	}
	if ans.CatchAll {
		out += " (catch-all)"
	}
	return out
}

func outcome(err error) string {
	if errors.Is(err, directory.ErrNotFound) {
		return "none"
	}
	return directory.FaultOf(err)
}

func check(t *testing.T, d directory.Directory, want map[string]string) {
	t.Helper()
	for address, result := range want {
		if got := leads(t, d, address); got != result {
			t.Errorf("%s leads to %q, want %q", address, got, result)
		}
	}
}

func (u *sun) domains(t *testing.T) {
	d := u.dial(t)
	for name, canonical := range map[string]string{
		"example.org": "example.org", "example.com": "example.com", "example.net": "example.org",
		"third.example": "example.org", "second.example": "example.org", "every.example": "all.example",
	} {
		dom, err := d.Domain(t.Context(), name)
		if err != nil || dom.Name != canonical || !dom.HasName(name) || dom.BaseDN != fixture.Base(canonical) {
			t.Errorf("Domain(%s) = %+v, %v", name, dom, err)
			continue
		}
		if want := canonical != "example.org"; dom.Hosted != want {
			t.Errorf("Domain(%s).Hosted = %v", name, dom.Hosted)
		}
	}
	for _, name := range []string{
		"nowhere.example", "host.example.org", "com", "org", "example", "*", "", ".", "a..b", "example.org,o=internet",
		"dc=example", strings.Repeat("a.", 120) + "example",
	} {
		if dom, err := d.Domain(t.Context(), name); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Domain(%q) = %+v, %v, want ErrNotFound", name, dom, err)
		}
	}
}

// settings: everything that directory.md 3 names comes with the domain.
func (u *sun) settings(t *testing.T) {
	d := u.dial(t)
	get := func(name string) *directory.Domain {
		t.Helper()
		dom, err := d.Domain(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return dom
	}
	org := get("example.org")
	if org.MaxBlocks != 2048 || org.DiskQuota != 10<<30 || org.MessageQuota != directory.QuotaDefault ||
		org.ReportAddress != "reports@example.org" || !slices.Equal(org.Sieve, []string{"keep;"}) || org.PreAuth != "yes" ||
		org.Language != "pt" || org.PreferredMailHost != "pair1.store.internal" || org.UIDSeparator != "@" {
		t.Errorf("settings of example.org: %+v", org)
	}
	if com := get("example.com"); com.SmartHost != "legacy.example.net" || !com.LocalTo("anything") {
		t.Errorf("settings of example.com: %+v", com)
	}
	away := get("elsewhere.example")
	if away.LocalTo("mx.example.net") || away.LocalTo() || !away.LocalTo("mx.example.net", "relay1.example.net.") {
		t.Errorf("routing hosts of elsewhere.example: %v", away.RoutingHosts)
	}
	if caught := get("caught.example"); caught.CatchAll != "ana@example.org" {
		t.Errorf("catch-all address: %q", caught.CatchAll)
	}
	if typed := get("typed.example"); typed.UIDSeparator != "%" || typed.SearchFilter == "" {
		t.Errorf("login of typed.example: %+v", typed)
	}
	odd := get("odd.example")
	if odd.MailStatus != directory.Inactive || odd.MaxBlocks != 0 || odd.PreAuth != "" || len(odd.Faults) != 3 {
		t.Errorf("values that cannot be read: %+v", odd)
	}
	second := get("second.example")
	if u.dc && (second.SmartHost != "second.example.net" || second.MaxBlocks != 0) {
		t.Errorf("a node of its own has settings of its own: %+v", second)
	}
	if !u.dc && second.MaxBlocks != 2048 {
		t.Errorf("an alias has the settings of its domain: %+v", second)
	}
	if third := get("third.example"); third.MaxBlocks != 2048 {
		t.Errorf("an alias has the settings of its domain: %+v", third)
	}
}

// status: the organization's value wins over that of the DC tree.
func (u *sun) status(t *testing.T) {
	dom, err := u.dial(t).Domain(t.Context(), "asleep.example")
	if err != nil || dom.Status != directory.Inactive || dom.MailStatus != directory.Hold {
		t.Fatalf("asleep.example: %+v, %v", dom, err)
	}
	if s, level := directory.Effective(dom, nil); s != directory.Inactive || level != directory.LevelDomain {
		t.Errorf("effective status %v at %v", s, level)
	}
}

// aliases: an alias in either manner leads to the same mailbox.
func (u *sun) aliases(t *testing.T) {
	check(t, u.dial(t), map[string]string{
		"ana@example.org":           "ana@example.org",
		"ana@example.net":           "ana@example.org",
		"ana@third.example":         "ana@example.org",
		"ana@second.example":        "ana@example.org",
		"bob@second.example":        "bob@example.org",
		"bob+lists@example.net":     "bob@example.org +lists",
		"bob@example.com":           "bob@example.com",
		"ana@example.com":           "none",
		"staff@example.net":         "cn=staff,ou=groups," + fixture.Base("example.org"),
		"ana@voice.example.org":     "domain: none",
		`"*)(mail=*"@example.org`:   "none",
		`"\\2a"@example.org`:        "none",
		"nobody@example.org":        "none",
		"a.silva+x@example.net":     "ana@example.org +x",
		"a.silva+x@example.org":     "ana@example.org +x",
		"ana@elsewhere.example":     "none",
		"ana@odd.example":           "ana@odd.example",
		"torn@example.org":          "torn@example.org",
		"deep@example.org":          "none",
		"deep@host.example.org":     "domain: none",
		"me@vain.example":           "domain: none",
		"vain@example.org":          "vain@example.org",
		"rest@every.example":        "rest@all.example",
		"example.org@example.org":   "none",
		"uid=ana@example.org":       "none",
		"postmaster@caught.example": "none",
	})
}

// broken: what is set up wrongly is a failure and never "not found".
func (u *sun) broken(t *testing.T) {
	d := u.dial(t)
	if !u.dc {
		t.Skip("SKIP: only a DC tree can be broken so")
	}
	for _, name := range []string{"loop0.example", "loop3.example", "chain5.example", "dangling.example", "nobase.example", "lost.example"} {
		_, err := d.Domain(t.Context(), name)
		if answered(err) || directory.FaultOf(err) != "misconfigured" || !strings.Contains(err.Error(), "example") {
			t.Errorf("Domain(%s): %v, want misconfigured", name, err)
		}
	}
	if dom, err := d.Domain(t.Context(), "chain4.example"); err != nil || dom.Name != "example.org" {
		t.Errorf("four aliases in a row: %+v, %v", dom, err)
	}
	if err := d.Ready(t.Context()); err != nil {
		t.Errorf("Ready: %v", err)
	}
	lost := u.dial(t, func(c *ldap.Config) { c.DCRoot = "o=nothing" })
	if err := lost.Ready(t.Context()); err == nil {
		t.Error("Ready without a DC tree")
	}
	if _, err := lost.Domain(t.Context(), "nowhere.example"); answered(err) {
		t.Errorf("Domain without a DC tree: %v", err)
	}
}

func (u *sun) catchAll(t *testing.T) {
	d := u.dial(t)
	check(t, d, map[string]string{
		"rest@all.example":      "rest@all.example",
		"some@all.example":      "some@all.example",
		"some+x@all.example":    "some@all.example +x",
		"whoever@all.example":   "rest@all.example (catch-all)",
		"whoever@every.example": "rest@all.example (catch-all)",
		"a+b@all.example":       "rest@all.example (catch-all)",
		"whoever@third.example": "eve@example.org (catch-all)", // of this name only
		"whoever@example.net":   "none",
		"whoever@example.com":   "none", // the smart host is the caller's business
	})
	dom, err := d.Domain(t.Context(), "all.example")
	if err != nil || len(dom.CatchAllOwners) != 1 || dom.CatchAllOwners[0].Mailbox != "" {
		t.Errorf("owners of the rest: %+v, %v", dom, err)
	}
}

// subaddress: whose an address with a subaddress is (directory.md 4.7). Bob has
// desk+*@ and eve+*@, eve has eve@.
func (u *sun) subaddress(t *testing.T) {
	for way, want := range map[directory.Subaddress]map[string]string{
		directory.SubaddressRelaxed: {
			"ana+work@example.org": "ana@example.org +work", "desk+a+b@example.net": "bob@example.org +a+b", "desk@example.org": "none",
			"Eve+x@example.org": "bob@example.org +x", "eve@example.org": "eve@example.org", "desk+*@example.org": "bob@example.org",
			"desk+@example.org": "bob@example.org", "whoever+x@all.example": "rest@all.example (catch-all)",
		},
		directory.SubaddressWild: {
			"ana+work@example.org": "none", "ana@example.org": "ana@example.org", "desk+work@example.org": "bob@example.org +work",
			"eve+x@example.org": "bob@example.org +x", "some+x@all.example": "rest@all.example (catch-all)",
		},
		directory.SubaddressExact: {
			"ana+work@example.org": "none", "ana@example.org": "ana@example.org", "desk+work@example.org": "none",
			"desk+*@example.org": "bob@example.org", "some+x@all.example": "rest@all.example (catch-all)",
		},
	} {
		d := u.dial(t, func(c *ldap.Config) { c.Schema.Subaddress = way })
		check(t, d, want)
	}
	d := u.dial(t, func(c *ldap.Config) {
		c.Schema.Subaddress, c.LookupURLs = directory.SubaddressWild, []string{"ldap:///$V?*?sub?(&$K$R)", "ldap:///$V?*?sub?(&(uid=$U)(sn=$S))"}
	})
	check(t, d, map[string]string{"desk+x@example.org": "bob@example.org +x", "ana+x@example.org": "none", "eve@example.org": "eve@example.org"})
}

// several: of several entries the living one counts (directory.md 4.8).
func (u *sun) several(t *testing.T) {
	d := u.dial(t)
	dom, err := d.Domain(t.Context(), "example.org")
	if err != nil {
		t.Fatal(err)
	}
	for local, want := range map[string]string{"twice": "ambiguous", "once": "bob"} {
		ans, err := d.Lookup(t.Context(), dom, mail.Address{Local: local, Domain: "example.org"})
		if err != nil || len(ans.Entries) != 2 {
			t.Fatalf("Lookup(%s) = %+v, %v", local, ans, err)
		}
		e, err := directory.Sole(ans.Entries)
		if got := outcomeOf(e, err); got != want {
			t.Errorf("%s leads to %s, want %s", local, got, want)
		}
	}
	if e, err := d.Login(t.Context(), "once@example.org"); err != nil || e.UID != "bob" {
		t.Errorf("Login(once@example.org) = %+v, %v", e, err)
	}
}

func outcomeOf(e *directory.Entry, err error) string {
	if err != nil {
		return outcome(err)
	}
	return e.UID
}

func (u *sun) uplevel(t *testing.T) {
	for bits, want := range map[int]map[string]string{
		0: {"ana@host.example.org": "domain: none", "deep@host.example.org": "domain: none"},
		1: {"ana@host.example.org": "none", "deep@host.example.org": "deep@example.org", "ana@nowhere.test": "domain: none"},
		2: {"ana@host.example.org": "domain: none"},
		3: {
			"ana@host.example.org": "ana@example.org", "deep@host.example.org": "deep@example.org",
			"ana@a.b.example.org": "ana@example.org", "bob+x@host.example.org": "bob@example.org +x",
			"ana@host.example.net": "ana@example.org", "bob@x.second.example": "bob@example.org",
			"nobody@host.example.org": "none", "ana@nowhere.test": "domain: none",
		},
	} {
		d := u.dial(t, func(c *ldap.Config) { c.Uplevel = bits })
		check(t, d, want)
	}
	d := u.dial(t, func(c *ldap.Config) { c.Uplevel = 3 })
	dom, err := d.Domain(t.Context(), "host.example.org")
	if err != nil || dom.Parent != "example.org" || dom.Name != "example.org" || dom.HasName("host.example.org") || dom.Hosted {
		t.Errorf("Domain(host.example.org) = %+v, %v", dom, err)
	}
	current := u.dial(t, func(c *ldap.Config) { c.Uplevel = ldap.UplevelCurrent })
	if dom, err := current.Domain(t.Context(), "example.net"); err != nil || !dom.Hosted {
		t.Errorf("the current name is not the default domain: %+v, %v", dom, err)
	}
}

func (u *sun) vanity(t *testing.T) {
	d := u.dial(t, func(c *ldap.Config) { c.Vanity = true })
	check(t, d, map[string]string{
		"me@vain.example":    "vain@example.org",
		"me+x@vain.example":  "vain@example.org +x",
		"other@vain.example": "none",
		"ana@vain.example":   "none", // ana@example.org is somebody else's
		"vain@vain.example":  "none",
		"me@nowhere.example": "domain: none",
		"ana@example.org":    "ana@example.org",
	})
	dom, err := d.Domain(t.Context(), "vain.example")
	if err != nil || dom.Vanity != "vain.example" || dom.Name != "example.org" {
		t.Errorf("Domain(vain.example) = %+v, %v", dom, err)
	}
}

func (u *sun) lookupURLs(t *testing.T) {
	people := "(&$K$R)"
	d := u.dial(t, func(c *ldap.Config) {
		c.LookupURLs = []string{
			"ldap:///$V?*?sub?" + people,
			"ldap:///ou=people,$1V?*?one?(uid=$U)",
			"ldap:///$B?*?sub?(&(objectClass=inetMailUser)(|(mailAlternateAddress=@$D)(mailEquivalentAddress=@$D)))",
		}
	})
	check(t, d, map[string]string{
		"ana@example.org":                 "ana@example.org",
		"ana+x@example.net":               "ana@example.org +x",
		"staff@example.org":               "cn=staff,ou=groups," + fixture.Base("example.org"),
		"deep@example.org":                "deep@example.org", // by uid
		"whoever@all.example":             "rest@all.example (catch-all)",
		`"*"@example.org`:                 "none",
		`"ana)(uid=*"@example.org`:        "none",
		`"x,o=example.com"@typed.example`: "none",
	})
	base := u.dial(t, func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///uid=$U,ou=people,$V??base?(objectClass=*)"} })
	check(t, base, map[string]string{
		"ana@example.org":                                         "ana@example.org",
		"nobody@example.org":                                      "none",
		`"ana,ou=people"@example.org`:                             "none",
		`"ana,ou=people,o=example.org,o=isp"@example.com`:         "none",
		`"bob,ou=people,o=example.org,o=isp??sub?"@typed.example`: "none",
	})
}

// names: what a value brings along stays a value.
func (u *sun) names(t *testing.T) {
	d := u.dial(t, func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///uid=$U,$B??base?(objectClass=*)"} })
	check(t, d, map[string]string{
		`"ana,ou=people,o=example.org"@example.org`: "none",
		`"ana,ou=people,o=example.org"@example.com`: "none",
	})
}

// filters: the filters that find domains can be replaced.
func (u *sun) filters(t *testing.T) {
	d := u.dial(t, func(c *ldap.Config) {
		c.Schema.DCFilter = "(&(objectClass=inetDomain)(mailDomainStatus=active))"
		c.Schema.OrganizationFilter = "(&(mailDomainStatus=active)(sunPreferredDomain=$D))"
	})
	check(t, d, map[string]string{
		"ana@example.org":       "ana@example.org",
		"ana@example.net":       "domain: none", // aliases are not looked for
		"bob@caught.example":    "domain: none",
		"whoever@all.example":   "rest@all.example (catch-all)",
		"ana@asleep.example":    "domain: none",
		"whoever@every.example": "domain: none",
	})
}

func (u *sun) login(t *testing.T) {
	d := u.dial(t, func(c *ldap.Config) { c.LoginSeparators = "%+" })
	for login, want := range map[string]string{
		"ana":                       "ana@example.org",
		"ana@example.net":           "ana@example.org",
		"bob@example.com":           "bob@example.com",
		"ana%typed.example":         "ana@typed.example",
		"ana@typed.example":         "ana@typed.example",
		"ana+typed.example":         "none", // not that domain's separator
		"ana%example.com":           "none",
		"bare@typed.example":        "none", // its search filter wants an address in the domain
		"bare%typed.example":        "none",
		"*%typed.example":           "none",
		"ana)(mail=*@typed.example": "none",
	} {
		e, err := d.Login(t.Context(), login)
		got := outcome(err)
		if err == nil {
			got = e.Mailbox
		}
		if got != want {
			t.Errorf("Login(%s) = %s, want %s", login, got, want)
		}
	}
}

// renamed: a site may use other attributes for any purpose.
func (u *sun) renamed(t *testing.T) {
	schema := u.schema
	if err := schema.Rename("mail=mailEquivalentAddress", "mailAlternateAddress=mail", "mailHost=cn", "mail_domain_status=description"); err != nil {
		t.Fatal(err)
	}
	d := u.dial(t, func(c *ldap.Config) { c.Schema = schema })
	dom, err := d.Domain(t.Context(), "example.org")
	if err != nil || dom.MailStatus != directory.Active {
		t.Fatalf("Domain: %+v, %v", dom, err)
	}
	ans, err := d.Lookup(t.Context(), dom, mail.Address{Local: "ana", Domain: "voice.example.org"})
	if err != nil || ans.Entries[0].Mail != "ana@voice.example.org" || ans.Entries[0].MailHost != "ana" {
		t.Errorf("Lookup by another attribute: %+v, %v", ans, err)
	}
	if _, err := d.Lookup(t.Context(), dom, mail.Address{Local: "a.silva", Domain: "example.org"}); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("Lookup by an attribute that has lost its purpose: %v", err)
	}
}

// tags: the classes decide, and an entry with others is not there.
func (u *sun) tags(t *testing.T) {
	for _, tt := range []struct {
		tags, users []string
		found       []string
	}{
		{nil, nil, []string{"bob"}},
		{[]string{"ims50"}, nil, []string{"bob"}},
		{[]string{"nms41"}, nil, []string{"nms", "old.nms"}},
		{[]string{"sims40"}, nil, []string{"sims", "old.sims"}},
		{[]string{"sims40", "nms41", "ims50"}, nil, []string{"bob", "nms", "old.nms", "sims", "old.sims"}},
		{nil, []string{"inetOrgPerson"}, []string{"bob", "nms", "old.nms", "sims", "plain"}},
		{nil, []string{"inetMailUser+inetMailRouting", "inetUser"}, []string{"bob", "sims"}},
	} {
		schema := u.schema
		if err := schema.SetTags(tt.tags...); len(tt.tags) > 0 && err != nil {
			t.Fatal(err)
		} else if len(tt.tags) == 0 {
			schema = u.schema
		}
		if tt.users != nil {
			sets, err := directory.ParseClasses(tt.users)
			if err != nil {
				t.Fatal(err)
			}
			schema.UserClasses = sets
		}
		d := u.dial(t, func(c *ldap.Config) { c.Schema = schema })
		for _, local := range []string{"bob", "nms", "old.nms", "sims", "old.sims", "plain"} {
			want := "none"
			if slices.Contains(tt.found, local) {
				want = strings.TrimPrefix(local, "old.") + "@example.com"
			}
			if got := leads(t, d, local+"@example.com"); got != want {
				t.Errorf("tags %v, classes %v: %s leads to %q, want %q", tt.tags, tt.users, local, got, want)
			}
		}
	}
}
