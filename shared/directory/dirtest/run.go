package dirtest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// Domain is the domain of the suite's tree.
const Domain = "example.org"

// Tree is the tree of the suite: the fixture with 1,200 users and three pairs,
// and entries that ask for care.
func Tree() []byte {
	base := fixture.Base(Domain)
	tree := fixture.Tree(Domain, 1200, 3)
	return fmt.Appendf(tree, `dn: uid=ana,ou=people,%[1]s
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: Ana
cn: Ana Silva
sn: Silva
mail: ana@example.org
mailAlternateAddress: a.silva@example.org
mailAlternateAddress: shared@example.org
mailEquivalentAddress: ana@voice.example.org
mailHost: Pair1.store.internal
mailQuota: 50M
mailMsgQuota: 1000
mailDeliveryOption: mailbox
mailDeliveryOption: autoreply
userPassword: {SSHA}JjMU3UMTU8LfYbqLz4wZnSLlBiNwb2xh
preferredLanguage: pt

dn: uid=bob,ou=people,%[1]s
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: bob
cn: Bob
sn: Bob
mail: bob@example.org
mailAlternateAddress: shared@example.org
mailAlternateAddress: bob+lists@example.org
mailAlternateAddress: "o'bob (x)"@example.org
mailHost: pair2
userPassword: plain
inetUserStatus: inactive
userCertificate;binary:: %[2]s

dn: uid=plain,ou=people,%[1]s
objectClass: inetOrgPerson
uid: plain
cn: No mail classes
sn: Plain
mail: plain@example.org

dn: uid=ana@example.org,ou=people,%[1]s
objectClass: inetOrgPerson
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: ana@example.org
cn: A uid that is an address
sn: Odd
mail: odd@example.org

dn: cn=dynamic,ou=groups,%[1]s
objectClass: groupOfURLs
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
cn: dynamic
mail: dynamic@example.org
memberURL: ldap:///ou=people,%[1]s??sub?(mailHost=pair2)
mgrpRFC822MailMember: outside@example.com
mgrpRFC822MailMember: ana@example.org

dn: o=example.com,o=isp
objectClass: organization
objectClass: sunManagedOrganization
objectClass: mailDomain
o: example.com
sunPreferredDomain: example.com
associatedDomain: claimed.example
mailDomainStatus: hold
inetDomainBaseDN: ou=staff,o=example.com,o=isp

dn: ou=staff,o=example.com,o=isp
objectClass: organizationalUnit
ou: staff

dn: uid=ana,ou=staff,o=example.com,o=isp
objectClass: inetOrgPerson
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: ana
cn: Another Ana
sn: Ana
mail: ana@example.com
mailHost: pair1
userPassword: other

dn: o=rival,o=isp
objectClass: organization
objectClass: sunManagedOrganization
o: rival
sunPreferredDomain: rival.example
associatedDomain: claimed.example

`, base, base64.StdEncoding.EncodeToString(Certificate()))
}

// Dial makes a Directory that asks s.
func Dial(t testing.TB, s Server, configure ...func(*ldap.Config)) *ldap.Directory {
	t.Helper()
	cfg := ldap.Config{
		Servers: []string{s.URL}, BindDN: s.BindDN, Password: s.Password,
		Base: fixture.Root, DefaultDomain: Domain,
	}
	for _, f := range configure {
		f(&cfg)
	}
	d, err := ldap.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// Run runs the contract against what wrap makes of a Directory over the server
// that start starts. wrap may be nil.
func Run(t *testing.T, start func(t testing.TB, ldif []byte) Server, wrap func(directory.Directory) directory.Directory) {
	s := start(t, Tree())
	var d directory.Directory = Dial(t, s)
	if wrap != nil {
		d = wrap(d)
	}
	c := &contract{d}
	t.Run("Domain", c.domain)
	t.Run("Lookup", c.lookup)
	t.Run("Entry", c.entry)
	t.Run("Search", c.search)
	t.Run("Stream", c.stream)
	t.Run("Login", c.login)
	t.Run("Groups", c.groups)
	t.Run("Authenticate", c.authenticate)
	t.Run("Injection", c.injection)
	t.Run("Certificate", func(t *testing.T) { certificates(t, s) })
	t.Run("Configured", func(t *testing.T) { configured(t, s) })
	t.Run("Faults", func(t *testing.T) { faults(t, s) })
	t.Run("Away", func(t *testing.T) { away(t, s) })
}

type contract struct{ d directory.Directory }

func (c *contract) domain(t *testing.T) {
	ctx := t.Context()
	for name, want := range map[string]string{
		"example.org": "example.org", "alias.example.org": "example.org", "example.com": "example.com",
	} {
		d, err := c.d.Domain(ctx, name)
		if err != nil || d.Name != want || !d.HasName(name) {
			t.Errorf("Domain(%q) = %+v, %v, want %s", name, d, err, want)
		}
	}
	d, err := c.d.Domain(ctx, "example.com")
	if err != nil || d.BaseDN != "ou=staff,o=example.com,o=isp" || d.MailStatus != directory.Hold || d.Stamp == "" {
		t.Errorf("Domain(example.com) = %+v, %v", d, err)
	}
	for _, name := range []string{"example.net", "sub.example.org", "*", "", "org"} {
		if d, err := c.d.Domain(ctx, name); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Domain(%q) = %+v, %v, want ErrNotFound", name, d, err)
		}
	}
	_, err = c.d.Domain(ctx, "claimed.example")
	if !errors.Is(err, directory.ErrAmbiguous) || !strings.Contains(err.Error(), "o=rival") {
		t.Errorf("Domain(claimed.example): %v, want ErrAmbiguous with both names", err)
	}
}

func (c *contract) groups(t *testing.T) {
	for login, want := range map[string]string{
		"ana@example.org": "dynamic@example.org", "u0001@example.org": "list@example.org team@example.org", "bob@example.org": "", "ana@example.com": "",
	} {
		e, err := c.d.Login(t.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			g, err := c.d.Groups(t.Context(), e)
			if err != nil || g.More || strings.Join(slices.Sorted(slices.Values(g.Addresses)), " ") != want {
				t.Errorf("Groups(%s) = %+v, %v, want %q", login, g, err, want)
			}
		}
	}
	if g, err := c.d.Groups(t.Context(), &directory.Entry{DN: "uid=u0002,ou=people," + fixture.Base(Domain)}); err != nil || len(g.Addresses) > 0 {
		t.Errorf("Groups of an entry without domain: %+v, %v", g, err)
	}
}

// must returns the domain of that name.
func (c *contract) must(t *testing.T, name string) *directory.Domain {
	t.Helper()
	d, err := c.d.Domain(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (c *contract) lookup(t *testing.T) {
	ctx := t.Context()
	org := c.must(t, "example.org")
	for address, want := range map[string]struct {
		uids   string
		detail string
	}{
		"ana@example.org":                {"ana", ""},
		"ANA@example.org":                {"ana", ""},
		"a.silva@example.org":            {"ana", ""},
		"ana@alias.example.org":          {"ana", ""},
		"ana+work@example.org":           {"ana", "work"},
		"ana+work+more@example.org":      {"ana", "work+more"},
		"ana+@example.org":               {"ana", ""},
		"ana+work@alias.example.org":     {"ana", "work"},
		"bob+lists@example.org":          {"bob", ""},
		"bob+lists+x@example.org":        {"bob", "lists+x"},
		"shared@example.org":             {"ana bob", ""},
		`"o'bob (x)"@example.org`:        {"bob", ""},
		"first.0010@example.org":         {"u0010", ""},
		"voice.0005@example.org":         {"u0005", ""},
		"nobody@example.org":             {},
		"plain@example.org":              {},
		"+work@example.org":              {},
		"nobody+ana@example.org":         {},
		`"*"@example.org`:                {},
		`"a*"@example.org`:               {},
		`"ana)(uid=*"@example.org`:       {},
		`"*)(objectClass=*"@example.org`: {},
	} {
		a, err := mail.ParseAddress(address, true)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.d.Lookup(ctx, org, a)
		if want.uids == "" {
			if !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("Lookup(%s) = %+v, %v, want ErrNotFound", address, answer, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Lookup(%s): %v", address, err)
			continue
		}
		var uids []string
		for _, e := range answer.Entries {
			uids = append(uids, e.UID)
			if e.Mailbox != e.UID+"@example.org" || e.Domain.Name != "example.org" || e.Kind != directory.User || e.Stamp == "" || e.Fetched.IsZero() {
				t.Errorf("Lookup(%s): entry %+v", address, e)
			}
		}
		sort.Strings(uids)
		if got := strings.Join(uids, " "); got != want.uids || answer.Detail != want.detail {
			t.Errorf("Lookup(%s) = %s, %q, want %s, %q", address, got, answer.Detail, want.uids, want.detail)
		}
	}
	com := c.must(t, "example.com")
	answer, err := c.d.Lookup(ctx, com, mail.Address{Local: "ana", Domain: "example.com"})
	if err != nil || len(answer.Entries) != 1 || answer.Entries[0].Mailbox != "ana@example.com" {
		t.Errorf("Lookup(ana@example.com) = %+v, %v", answer, err)
	}
}

func (c *contract) entry(t *testing.T) {
	ctx := t.Context()
	e, err := c.d.Entry(ctx, "uid=ana,ou=people,"+fixture.Base(Domain))
	if err != nil {
		t.Fatal(err)
	}
	if e.UID != "ana" || e.MailHost != "pair1.store.internal" || e.Quota == nil || e.Quota.Bytes != 50<<20 ||
		e.Quota.Messages != 1000 || e.Quota.Stamp != e.Stamp || !slices.Equal(e.DeliveryOptions, []string{"mailbox", "autoreply"}) {
		t.Errorf("entry of ana: %+v %+v", e, e.Quota)
	}
	if len(e.Raw.Get("userPassword")) > 0 {
		t.Error("the password was read")
	}
	// Spelled differently, the name is the same.
	if same, err := c.d.Entry(ctx, "UID=Ana, OU=People,"+fixture.Base(Domain)); err != nil || same.DN != e.DN {
		t.Errorf("Entry in another spelling: %+v, %v", same, err)
	}
	list, err := c.d.Entry(ctx, "cn=list,ou=groups,"+fixture.Base(Domain))
	if err != nil || list.Kind != directory.Group || len(list.MemberDNs) != 1000 || list.UID != "" {
		t.Errorf("entry of the list: %+v, %v", list, err)
	}
	if e, err := c.d.Entry(ctx, "uid=nobody,ou=people,"+fixture.Base(Domain)); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("Entry of nobody: %+v, %v, want ErrNotFound", e, err)
	}
	for _, dn := range []string{"o=elsewhere", "", "no name", "uid=ana,o=isp,o=other", "cn=config"} {
		if e, err := c.d.Entry(ctx, dn); !errors.Is(err, directory.ErrURL) {
			t.Errorf("Entry(%q) = %+v, %v, want ErrURL", dn, e, err)
		}
	}
}

func (c *contract) search(t *testing.T) {
	ctx := t.Context()
	people := "ou=people," + fixture.Base(Domain)
	for url, want := range map[string]int{
		"ldap:///" + people + "??sub?(mailHost=pair2)":                                400 + 1, // bob too
		"ldap:///" + people + "??one?(mail=u000*)":                                    9,
		"ldap:///" + people + "??base?(objectClass=*)":                                1,
		"ldap:///" + people + "??sub?(%26(mail=*)(!(objectClass=inetMailUser)))":      1,
		"ldap:///??sub?(uid=ana)":                                                     2,
		"LDAP:///" + people + "?cn,sn?SUB?mail=ana@example.org":                       1,
		"ldap:///" + people + "??sub?(mail=nobody@*)":                                 0,
		"ldap:///" + people + "??sub?(|(uid=u0001)(uid=u0002)(cn:caseExactMatch:=x))": 2,
	} {
		list, err := directory.Collect(c.d.Search(ctx, url, 2000))
		if err != nil || len(list) != want {
			t.Errorf("Search(%q) = %d entries, %v, want %d", url, len(list), err, want)
		}
	}
	all := "ldap:///" + people + "??sub?(mail=u*)"
	if list, err := directory.Collect(c.d.Search(ctx, all, 1200)); err != nil || len(list) != 1200 {
		t.Errorf("Search for 1,200 in pages: %d, %v", len(list), err)
	}
	for _, limit := range []int{1, 100, 1199} {
		if list, err := directory.Collect(c.d.Search(ctx, all, limit)); !errors.Is(err, directory.ErrTooMany) {
			t.Errorf("Search with limit %d = %d entries, %v, want ErrTooMany", limit, len(list), err)
		}
	}
	if list, err := directory.Collect(c.d.Search(ctx, "ldap:///ou=none,"+fixture.Base(Domain)+"??sub?(uid=*)", 10)); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("Search below nothing = %d entries, %v, want ErrNotFound", len(list), err)
	}
	for _, url := range []string{
		"ldap://other.example/" + people + "??sub?(mail=*)", "ldap:///o=elsewhere??sub?(mail=*)", "ldap:///cn=config??sub",
		"mailto:ana@example.org", "", "ldap:///" + people + "??sub?(mail=", "ldap:///" + people + "??sub?((", "ldap:///" + people + "??deep?(mail=*)",
		"ldap:///" + people + "??sub?(mail=*)?!critical", "ldap:///%zz??sub", "http:///" + people,
	} {
		if list, err := directory.Collect(c.d.Search(ctx, url, 10)); !errors.Is(err, directory.ErrURL) {
			t.Errorf("Search(%q) = %d entries, %v, want ErrURL", url, len(list), err)
		}
	}
}

// stream: entries come one after the other, whoever has enough ends it, and
// what is not whole ends with an error.
func (c *contract) stream(t *testing.T) {
	all := "ldap:///ou=people," + fixture.Base(Domain) + "??sub?(mail=u*)"
	// Nobody waits for a connection, however many stop in the middle.
	for range 20 {
		n := 0
		for e, err := range c.d.Search(t.Context(), all, 1200) {
			if err != nil || e.Mail == "" {
				t.Fatalf("entry %d: %+v, %v", n, e, err)
			}
			if n++; n == 3 {
				break
			}
		}
	}
	seen := map[string]bool{}
	var last error
	for e, err := range c.d.Search(t.Context(), all, 1100) {
		if last != nil {
			t.Fatal("something after the error")
		}
		if last = err; err == nil {
			seen[e.DN] = true
		} else if e != nil {
			t.Errorf("an entry with the error: %+v", e)
		}
	}
	if !errors.Is(last, directory.ErrTooMany) || len(seen) > 1100 {
		t.Errorf("limit 1100: %d entries, %v", len(seen), last)
	}
	// A search inside of a search, as lists in lists ask for them.
	seen = map[string]bool{}
	for e, err := range c.d.Search(t.Context(), all, 1200) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[e.DN] = true; len(seen)%400 != 0 {
			continue
		}
		inner, err := directory.Collect(c.d.Search(t.Context(), "ldap:///??sub?(mail="+e.Mail+")", 10))
		if err != nil || len(inner) != 1 || inner[0].DN != e.DN {
			t.Errorf("search for %s inside: %d entries, %v", e.Mail, len(inner), err)
		}
	}
	if len(seen) != 1200 {
		t.Errorf("%d entries with searches between them", len(seen))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	last = nil
	for _, err := range c.d.Search(ctx, all+"(", 1200) {
		last = err
	}
	if !errors.Is(last, directory.ErrURL) {
		t.Errorf("bad URL: %v", last)
	}
	for _, err := range c.d.Search(ctx, all, 1200) {
		if last = err; err == nil {
			n++
			cancel()
		}
	}
	if !errors.Is(last, context.Canceled) || directory.FaultOf(last) != "" || n == 0 || n == 1200 {
		t.Errorf("given up: %d entries, %v", n, last)
	}
	if list, err := directory.Collect(c.d.Search(t.Context(), all, 1200)); err != nil || len(list) != 1200 {
		t.Errorf("afterwards: %d, %v", len(list), err)
	}
}

func (c *contract) login(t *testing.T) {
	ctx := t.Context()
	for login, want := range map[string]string{
		"ana":                    "ana@example.org",
		"ANA":                    "ana@example.org",
		"ana@example.org":        "ana@example.org",
		"ana@alias.example.org":  "ana@example.org",
		"ana@EXAMPLE.org":        "ana@example.org",
		"ana@example.com":        "ana@example.com",
		"a.silva@example.org":    "ana@example.org",
		"u0001@example.org":      "u0001@example.org",
		"first.0010@example.org": "u0010@example.org",
		"bob":                    "bob@example.org",
		"plain":                  "",
		"a.silva":                "",
		"nobody":                 "",
		"nobody@example.org":     "",
		"ana@nowhere.example":    "",
		"list@example.org":       "",
		"*":                      "",
		"a*@example.org":         "",
		"":                       "",
		"@example.org":           "",
		"ana\x00":                "",
		"ana)(uid=*":             "",
	} {
		e, err := c.d.Login(ctx, login)
		switch {
		case want == "" && !errors.Is(err, directory.ErrNotFound):
			t.Errorf("Login(%q) = %+v, %v, want ErrNotFound", login, e, err)
		case want != "" && (err != nil || e.Mailbox != want):
			t.Errorf("Login(%q) = %+v, %v, want %s", login, e, err, want)
		case want == "bob@example.org" && e.MayLogin():
			t.Error("an inactive user may log in")
		case want == "ana@example.org" && !e.MayLogin():
			t.Error("an active user may not log in")
		}
	}
	if e, err := c.d.Login(ctx, "shared@example.org"); !errors.Is(err, directory.ErrAmbiguous) {
		t.Errorf("Login by a shared address = %+v, %v, want ErrAmbiguous", e, err)
	}
}

func (c *contract) authenticate(t *testing.T) {
	ctx := t.Context()
	for _, tt := range []struct {
		login, password string
		ok              bool
	}{
		{"u0001", fixture.Password, true},
		{"u0001", "Secret", false},
		{"u0001", "", false},
		{"u0001", "\x00", false},
		{"u0001", strings.Repeat("x", 5000), false},
		{"bob", "plain", true}, // may not log in, but that is another question
		{"ana", "polar", true},
		{"ana", "{SSHA}JjMU3UMTU8LfYbqLz4wZnSLlBiNwb2xh", false},
		{"ana@example.com", "other", true},
		{"ana@example.com", "polar", false},
	} {
		e, err := c.d.Login(ctx, tt.login)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second answer may come from a cache
			err = c.d.Authenticate(ctx, e, tt.password)
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, directory.ErrBadPassword) {
				t.Errorf("Authenticate(%s, %.20q): %v, want ok %v", tt.login, tt.password, err, tt.ok)
			}
		}
	}
	none, err := c.d.Entry(ctx, "uid=plain,ou=people,"+fixture.Base(Domain))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.d.Authenticate(ctx, none, "x"); !errors.Is(err, directory.ErrBadPassword) {
		t.Errorf("Authenticate without a password in the entry: %v", err)
	}
	// Searches still run as the service after binds as other people.
	if _, err := directory.Collect(c.d.Search(ctx, "ldap:///??sub?(uid=u0001)", 10)); err != nil {
		t.Errorf("Search after binds: %v", err)
	}
}

// injection looks up what would change a filter if it were not escaped.
func (c *contract) injection(t *testing.T) {
	org := c.must(t, "example.org")
	for _, s := range []string{
		"*", "ana)(uid=*", "*)(&", `\2a`, `\`, "ana\\29", "(", ")", "&", "|(mail=*)", "ana\x00", "\xff\xfe", "é", " ana", "ana ", "a#na", `a"na`, "=", "ana=",
	} {
		if answer, err := c.d.Lookup(t.Context(), org, mail.Address{Local: s, Domain: "example.org"}); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Lookup(%q) = %+v, %v, want ErrNotFound", s, answer, err)
		}
		if d, err := c.d.Domain(t.Context(), s); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("Domain(%q) = %+v, %v, want ErrNotFound", s, d, err)
		}
	}
}

// configured asks for domains that the configuration gives.
// Certificate is bob's, in DER.
var Certificate = sync.OnceValue(func() []byte {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Bob"}, EmailAddresses: []string{"bob@" + Domain},
		NotBefore: time.Unix(1767225600, 0), NotAfter: time.Unix(4102444800, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return der
})

// certificates of users are read by sites that compare them, octet by octet.
func certificates(t *testing.T, s Server) {
	for name, want := range map[string][]string{"userCertificate": {string(Certificate())}, "": nil} {
		d := Dial(t, s, func(c *ldap.Config) { c.Schema = directory.SunSchema2(); c.Schema.Certificate = name })
		for _, login := range []string{"bob@" + Domain, "ana@" + Domain} {
			if login[0] == 'a' {
				want = nil
			}
			if e, err := d.Login(t.Context(), login); err != nil || !slices.Equal(e.Certificates, want) {
				t.Errorf("%q of %s: %v, %v", name, login, e, err)
			}
		}
	}
}

func configured(t *testing.T, s Server) {
	d := Dial(t, s, func(c *ldap.Config) {
		c.Schema = directory.Generic()
		c.Domains = []ldap.Domain{
			{Name: "Example.ORG", Base: "ou=people," + fixture.Base(Domain), Aliases: []string{"also.example"}},
			{Name: "gone.example", Base: "ou=gone,o=isp"},
		}
	})
	dom, err := d.Domain(t.Context(), "also.example")
	if err != nil || dom.Name != "example.org" {
		t.Fatalf("Domain(also.example) = %+v, %v", dom, err)
	}
	answer, err := d.Lookup(t.Context(), dom, mail.Address{Local: "plain", Domain: "also.example"})
	if err != nil || answer.Entries[0].Mailbox != "plain@example.org" {
		t.Errorf("Lookup in a configured domain: %+v, %v", answer, err)
	}
	if _, err := d.Domain(t.Context(), "example.com"); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("a domain that is only in the tree, with the generic schema: %v", err)
	}
	if _, err := d.Domain(t.Context(), "gone.example"); answered(err) {
		t.Errorf("Domain with a base that is missing: %v, want a temporary error", err)
	}
}

// answered reports whether err is an answer and not a failure.
func answered(err error) bool {
	return err == nil || errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous) || errors.Is(err, directory.ErrBadPassword)
}
