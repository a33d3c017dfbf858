package lint_test

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/lint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//go:embed testdata/faults.ldif
var faults []byte

// options are those of the relays, as far as they matter here.
var options = []string{
	"#*mailbox=x", "#&members=*", "#&@members_offline=*", "#/hold=x", "#program=x@pipe-daemon", "#forward=**", "#*^!autoreply=x",
	"#*native=$M@native-daemon",
}

func pairs(host string) (string, bool) {
	name, _, _ := strings.Cut(host, ".")
	return name, slices.Contains([]string{"pair1", "pair2", "pair3"}, name)
}

// access reads as much of an access filter as matters here.
func access(filter string) error {
	if filter[0] != '+' && filter[0] != '-' {
		return errors.New("begins with neither + nor -")
	}
	return nil
}

func check(t *testing.T, d *ldap.Directory, change ...func(*lint.Config)) ([]lint.Finding, lint.Summary) {
	t.Helper()
	cfg := lint.Config{Directory: d, Pair: pairs, Options: options, Access: access}
	for _, f := range change {
		f(&cfg)
	}
	var out []lint.Finding
	sum, err := lint.Run(t.Context(), cfg, func(f lint.Finding) error { out = append(out, f); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out, sum
}

// seeded are the faults of the tree: rule, first part of the name, attribute.
var seeded = []string{
	"bad-uid cn=Bad Uid uid",
	"no-uid cn=Nobody Special uid",
	"no-classes uid=classless objectClass",
	"no-address uid=addressless mail",
	"bad-address uid=badaddress mailAlternateAddress",
	"foreign-address uid=foreign mailAlternateAddress",
	"wrong-domain uid=wrongdomain mailAlternateAddress",
	"outside-domains uid=stray -",
	"foreign-address uid=stray mail",
	"ambiguous-address uid=twin1 mailAlternateAddress",
	"duplicate-uid uid=same uid",
	"no-mail-host uid=homeless mailHost",
	"unknown-pair uid=pairless mailHost",
	"bad-status uid=badstatus mailUserStatus",
	"status-clash uid=clash mailUserStatus",
	"bad-option uid=options mailDeliveryOption",
	"wrong-option uid=options mailDeliveryOption",
	"dead-option uid=options mailDeliveryOption",
	"bad-quota uid=badquota mailQuota",
	"no-quota uid=noquota mailQuota",
	"bad-access uid=locked mailAllowedServiceAccess",
	"bad-access o=other.example mailDomainAllowedServiceAccess",
	"bad-date uid=dates vacationStartDate",
	"dates-reverse uid=reverse vacationEndDate",
	"no-answer-text uid=mute mailAutoReplyText",
	"forward-self uid=narcissus mailForwardingAddress",
	"forward-nobody uid=into.nothing mailForwardingAddress",
	"forward-unused uid=unused mailForwardingAddress",
	"forward-nowhere uid=typo mailForwardingAddress",
	"forward-loop uid=ping mailForwardingAddress",
	"list-loop cn=inner uniqueMember",
	"no-members cn=empty uniqueMember",
	"member-nowhere cn=lost uniqueMember",
	"member-gone cn=lost uniqueMember",
	"member-no-mail cn=lost uniqueMember",
	"member-unknown cn=lost mgrpRFC822MailMember",
	"bad-url cn=urls memberURL",
	"bad-url cn=urls mgrpModerator",
	"bad-header cn=urls mgrpAddHeader",
	"catch-all o=other.example mailDomainCatchallAddress",
	"unknown-preferred-pair o=other.example preferredMailHost",
	"domain-overlap o=overlap associatedDomain",
	"domain-name o=nameless sunPreferredDomain",
	"domain-base o=baseless inetDomainBaseDN",
	"bad-domain o=spelling sunPreferredDomain",
	"bad-domain o=spelling associatedDomain",
	"rename-unfinished uid=halfway description",
}

func TestFaults(t *testing.T) {
	tree := append(fixture.Tree("example.org", 20, 3), faults...)
	for name, start := range map[string]func(t testing.TB) dirtest.Server{
		"embedded": func(t testing.TB) dirtest.Server { return dirtest.Embedded(t, tree) },
		"openldap": func(t testing.TB) dirtest.Server { return dirtest.OpenLDAP(t, tree) },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			found, sum := check(t, dirtest.Dial(t, s))
			var got []string
			for _, f := range found {
				rdn, _, _ := strings.Cut(f.DN, ",")
				attr := f.Attribute
				if attr == "" {
					attr = "-"
				}
				got = append(got, f.Rule+" "+rdn+" "+attr)
				if f.Meaning == "" || f.Mend == "" || f.Severity != lint.Error && f.Severity != lint.Warning && f.Severity != lint.Note {
					t.Errorf("%+v says too little", f)
				}
			}
			for _, want := range seeded {
				if !slices.Contains(got, want) {
					t.Errorf("not found: %s", want)
				}
			}
			for _, g := range got {
				if !slices.Contains(seeded, g) {
					t.Errorf("nobody put it there: %s", g)
				}
			}
			if sum.Errors == 0 || sum.Warnings == 0 || sum.Notes != 1 || sum.Errors+sum.Warnings+sum.Notes != len(found) || sum.Domains != 6 {
				t.Errorf("%+v for %d findings", sum, len(found))
			}
			if t.Failed() {
				return
			}
			errors, counted := check(t, dirtest.Dial(t, s), func(c *lint.Config) { c.Least = lint.Error })
			if len(errors) != sum.Errors || counted != sum {
				t.Errorf("errors only: %d, %+v", len(errors), counted)
			}
			twins := found[slices.IndexFunc(found, func(f lint.Finding) bool { return f.Rule == "ambiguous-address" })]
			if len(twins.Others) != 1 || !strings.HasPrefix(twins.Others[0], "uid=twin2,") {
				t.Errorf("owners of one address: %+v", twins)
			}
		})
	}
}

func TestClean(t *testing.T) {
	embedded := func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) }
	for name, tt := range map[string]struct {
		start func(t testing.TB, ldif []byte) dirtest.Server
		tree  []byte
	}{
		"one domain":           {embedded, fixture.Tree("example.org", 1200, 3)},
		"no users":             {embedded, fixture.Tree("example.org", 0, 1)},
		"OpenLDAP":             {func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) }, fixture.Tree("example.org", 1200, 3)},
		"389 Directory Server": {dirtest.DS389, fixture.Tree("example.org", 1200, 3)},
	} {
		t.Run(name, func(t *testing.T) {
			found, sum := check(t, dirtest.Dial(t, tt.start(t, tt.tree)))
			if len(found) > 0 {
				t.Errorf("%d findings, the first %+v", len(found), found[0])
			}
			if sum.Domains != 1 || sum.Entries < 4 {
				t.Errorf("%+v", sum)
			}
		})
	}
}

// TestLayouts reads trees whose domains are in other places.
func TestLayouts(t *testing.T) {
	for name, layout := range map[string]struct {
		preset   string
		tree     []byte
		statuses int // odd.example is described once or twice
	}{"Schema 1": {"sun-schema1", fixture.Schema1(), 2}, "compatible": {"sun-compat", fixture.Compatible(), 3}} {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, dirtest.Embedded(t, layout.tree), func(c *ldap.Config) {
				s, err := directory.Preset(layout.preset)
				if err != nil {
					t.Fatal(err)
				}
				c.Schema, c.DCRoot = s, fixture.DCRoot
			})
			found, sum := check(t, d)
			rules := map[string]int{}
			for _, f := range found {
				rules[f.Rule]++
			}
			// odd.example has a status, a limit and a setting that nobody can read;
			// six aliases lead in a circle and one to nothing; nobase has no base, and
			// that of lost does not exist.
			want := map[string]int{
				"bad-status": layout.statuses, "bad-value": 2 * (layout.statuses - 1), "domain-alias": 7, "domain-base": 2, "bad-quota": 1,
				"ambiguous-address": 1, "no-classes": 3, "wrong-domain": 1, "foreign-address": 3,
			}
			for rule, n := range want {
				if rules[rule] < n {
					t.Errorf("%s: %d, want %d at least", rule, rules[rule], n)
				}
			}
			if rules["domain-overlap"]+rules["outside-domains"]+rules["domain-name"] > 0 || sum.Users == 0 {
				t.Errorf("%+v, %v", sum, rules)
			}
		})
	}
	t.Run("generic", func(t *testing.T) {
		plain := bytes.ReplaceAll(fixture.Tree("example.org", 30, 3), []byte("objectClass: inetLocalMailRecipient\n"), nil)
		d := dirtest.Dial(t, dirtest.Embedded(t, plain), func(c *ldap.Config) {
			c.Schema = directory.Generic()
			c.Domains = []ldap.Domain{{Name: "example.org", Base: fixture.Base("example.org")}}
		})
		if found, sum := check(t, d); len(found) > 0 || sum.Users != 31 || sum.Groups != 2 {
			t.Errorf("%+v, %+v", sum, found)
		}
	})
}

// TestUnfinishedDomain: a domain whose change of its name was not finished is found in
// a tree apart too.
func TestUnfinishedDomain(t *testing.T) {
	tree := bytes.Replace(fixture.Schema1(), []byte("inetDomainBaseDN:"), []byte("description: postern rename: domain a.example to example.com\ninetDomainBaseDN:"), 1)
	d := dirtest.Dial(t, dirtest.Embedded(t, tree), func(c *ldap.Config) {
		c.Schema, _ = directory.Preset("sun-schema1")
		c.DCRoot = fixture.DCRoot
	})
	found, _ := check(t, d)
	found = slices.DeleteFunc(found, func(f lint.Finding) bool { return f.Rule != "rename-unfinished" })
	if len(found) != 1 || found[0].Rule != "rename-unfinished" || !strings.HasSuffix(found[0].DN, fixture.DCRoot) || found[0].Severity != lint.Warning {
		t.Errorf("%+v", found)
	}
}

// TestSharedUsers: two nodes lead to the same users, and say otherwise, or not,
// whose they are (directory.md 2.6 e).
func TestSharedUsers(t *testing.T) {
	for canonical, want := range map[string]int{"": 1, "inetCanonicalDomainName: twin.example\n": 1, "inetCanonicalDomainName: example.com\n": 0} {
		tree := append(fixture.Schema1(), "dn: dc=twin,dc=example,o=internet\nobjectClass: domain\nobjectClass: inetDomain\nobjectClass: inetDomainAuthInfo\nobjectClass: mailDomain\ndc: twin\ninetDomainBaseDN: o=example.com,o=isp\n"+canonical+"\n"...)
		d := dirtest.Dial(t, dirtest.Embedded(t, tree), func(c *ldap.Config) {
			c.Schema, _ = directory.Preset("sun-schema1")
			c.DCRoot = fixture.DCRoot
		})
		found, _ := check(t, d)
		n := 0
		for _, f := range found {
			if f.Rule != "domain-canonical" {
				continue
			}
			n++
			both := []string{f.DN, strings.Join(f.Others, " ")}
			if slices.Sort(both); !slices.Equal(both, []string{"dc=example,dc=com,o=internet", "dc=twin,dc=example,o=internet"}) || f.Attribute != "inetCanonicalDomainName" {
				t.Errorf("%+v", f)
			}
		}
		if n != want {
			t.Errorf("%q: %d findings, want %d", canonical, n, want)
		}
	}
}

func TestEnd(t *testing.T) {
	s := dirtest.Embedded(t, append(fixture.Tree("example.org", 20, 3), faults...))
	d := dirtest.Dial(t, s)
	n := 0
	cfg := lint.Config{Directory: d, Options: options, Limit: 3}
	sum, err := lint.Run(t.Context(), cfg, func(lint.Finding) error { n++; return nil })
	if !errors.Is(err, lint.ErrLimit) || n != 3 || sum.Errors+sum.Warnings+sum.Notes != 3 {
		t.Errorf("%d findings, %+v, %v", n, sum, err)
	}
	stop := errors.New("full disk")
	if _, err := lint.Run(t.Context(), cfg, func(lint.Finding) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	if _, err := lint.Run(t.Context(), lint.Config{Directory: d, Options: []string{"nonsense"}}, nil); err == nil {
		t.Error("an option that nobody can read")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lint.Run(ctx, cfg, func(lint.Finding) error { return nil }); err == nil {
		t.Error("given up, and done")
	}
	s.Stop()
	if _, err := lint.Run(t.Context(), cfg, func(lint.Finding) error { return nil }); err == nil {
		t.Error("no server, and no error")
	}
}

// TestMemory measures what is kept of 100,000 entries, in its own process's
// heap less that of the server, which is in it too.
func TestMemory(t *testing.T) {
	if os.Getenv("POSTERN_LINT_MEMORY") == "" {
		t.Skip("SKIP: takes half a minute; set POSTERN_LINT_MEMORY=1")
	}
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("example.org", 100_000, 3)))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	found, sum := check(t, d, func(c *lint.Config) {
		c.Progress = func(n int) {
			if n%20_000 == 0 {
				most = max(most, heap()-before)
			}
		}
	})
	fmt.Printf("%d entries, %d findings, %.1f MB kept at most\n", sum.Entries, len(found), float64(most)/(1<<20))
	if most > 64<<20 || len(found) > 0 {
		t.Errorf("%d octets, %d findings", most, len(found))
	}
}

// TestInternational: an address is found by the form of its domain that relays
// ask for, and by no other.
func TestInternational(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, append(fixture.Tree("xn--bcher-kva.example", 1, 1), `dn: uid=ana,ou=people,o=xn--bcher-kva.example,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: ana
mail: ana@xn--bcher-kva.example
mailAlternateAddress: ana@bücher.example
mailHost: pair1

`...)))
	found, _ := check(t, d)
	if len(found) != 1 || found[0].Rule != "idn-address" || found[0].Severity != lint.Error || found[0].Value != "ana@bücher.example" {
		t.Errorf("%+v", found)
	}
}
