package migrate_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/migrate"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var servers = map[string]func(t testing.TB, ldif []byte) dirtest.Server{
	"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
	"openldap": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
	"389":      func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.DS389(t, ldif) },
}

// as reads the server by a preset.
func as(t *testing.T, s dirtest.Server, preset string) *ldap.Directory {
	t.Helper()
	schema, err := directory.Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	return dirtest.Dial(t, s, func(c *ldap.Config) {
		c.Schema, c.DefaultDomain = schema, "example.org"
		if schema.Layout != directory.LayoutOrganization {
			c.DCRoot = fixture.DCRoot
		}
	})
}

// result is what a relay sees of an address: whose it is, and all that decides
// what becomes of its mail.
func result(t *testing.T, d *ldap.Directory, local, domain string) string {
	t.Helper()
	dom, err := d.Domain(t.Context(), domain)
	if err != nil {
		return "domain: " + directory.FaultOf(err)
	}
	s := dom.DomainSettings
	out := fmt.Sprint(dom.Name, dom.Hosted, dom.BaseDN, dom.MaxBlocks, dom.SmartHost, dom.CatchAll, dom.RoutingHosts, dom.UIDSeparator, s)
	ans, err := d.Lookup(t.Context(), dom, mail.Address{Local: local, Domain: domain})
	if err != nil {
		status, level := directory.Effective(dom, nil)
		return out + fmt.Sprint(status, level, directory.FaultOf(err), errors.Is(err, directory.ErrNotFound))
	}
	var list []string
	for _, e := range ans.Entries {
		status, level := directory.Effective(dom, e)
		list = append(list, fmt.Sprint(e.DN, e.Mailbox, e.MailHost, status, level, e.Quota))
	}
	slices.Sort(list)
	return out + strings.Join(list, "; ") + ans.Detail + fmt.Sprint(ans.CatchAll)
}

// results are those of every local part of the fixture, and of nobody's, in
// every domain.
func results(t *testing.T, d *ldap.Directory, domains []string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, domain := range domains {
		for _, local := range []string{"ana", "a.silva", "bob", "eve", "old", "deep", "vain", "torn", "rest", "some", "bare", "twice", "once", "staff", "ana+work", "nobody", ""} {
			out[local+"@"+domain] = result(t, d, local, domain)
		}
	}
	return out
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, address := range slices.Sorted(maps.Keys(want)) {
		if got[address] != want[address] {
			t.Errorf("%s: %s\nis  %s\nwas %s", what, address, got[address], want[address])
		}
	}
}

func editor(t *testing.T, d *ldap.Directory) (*edit.Editor, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	a, err := edit.OpenAudit(file, "tester", "cn=root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	ed, err := edit.New(edit.Config{Directory: d, Audit: a})
	if err != nil {
		t.Fatal(err)
	}
	return ed, file
}

// plan plans a step; second.example loses what it has of its own.
func plan(t *testing.T, d *ldap.Directory, step migrate.Step) *migrate.Plan {
	t.Helper()
	p, err := migrate.Make(t.Context(), d, step, "second.example")
	if err != nil {
		t.Fatal(err)
	}
	var broken []string
	for _, q := range p.Problems {
		if !q.Broken {
			t.Errorf("%s: %s", q.Domain, q.What)
		}
		broken = append(broken, q.Domain)
	}
	const want = "chain5.example dangling.example loop0.example loop1.example loop2.example loop3.example loop4.example loop5.example lost.example nobase.example"
	if got := strings.Join(broken, " "); got != want {
		t.Errorf("%s: broken are %s", step, got)
	}
	return p
}

// TestSteps: after each step, the readers of the step before and of the one
// after see the same of every address, on every server.
func TestSteps(t *testing.T) {
	for server, start := range servers {
		for preset, tree := range map[string]func() []byte{"sun-schema1": fixture.Schema1, "sun-compat": fixture.Compatible} {
			t.Run(server+"/"+preset, func(t *testing.T) {
				s := start(t, tree())
				old := as(t, s, preset)
				p := plan(t, old, migrate.Compatible)
				names := append(slices.Clone(p.Names), "example.com", "nowhere.example", "example", "host.example.org")
				want := results(t, old, names)
				if len(names) < 18 {
					t.Fatalf("domains: %v", names)
				}
				for _, step := range []struct {
					step    migrate.Step
					readers []string
				}{
					{migrate.Compatible, []string{preset, "sun-compat"}},
					{migrate.Native, []string{preset, "sun-compat", "sun-schema2"}},
					{migrate.Native, []string{"sun-compat", "sun-schema2"}}, // again: nothing to do
					{migrate.RemoveTree, []string{"sun-schema2", "sun-compat"}},
				} {
					p := plan(t, old, step.step)
					ed, audit := editor(t, old)
					if err := migrate.Write(t.Context(), ed, p, nil); err != nil {
						t.Fatal(step.step, err)
					}
					if text, err := os.ReadFile(audit); err != nil || bytes.Count(text, []byte("\n")) != len(p.Changes) {
						t.Errorf("%s: audit log of %d changes: %v\n%s", step.step, len(p.Changes), err, text)
					}
					for _, reader := range step.readers {
						same(t, string(step.step)+", read as "+reader, results(t, as(t, s, reader), names), want)
					}
					if step.step == migrate.Native {
						if q, err := migrate.Verify(t.Context(), old, as(t, s, "sun-schema2"), p.Names); err != nil || len(q) > 0 {
							t.Errorf("%+v, %v", q, err)
						}
						if p := plan(t, old, migrate.Native); len(p.Changes) > 0 {
							t.Errorf("%s, again: %+v", step.step, p.Changes[0])
						}
					}
				}
				if _, err := as(t, s, "sun-schema1").Domain(t.Context(), "example.org"); !errors.Is(err, directory.ErrNotFound) {
					t.Errorf("the tree is there: %v", err)
				}
			})
		}
	}
}

// TestLDIF: the plan as a file does the same as written by us, and the way back
// of the last step is the tree as it was kept.
func TestLDIF(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Schema1())
	old := as(t, s, "sun-schema1")
	run := func(p *migrate.Plan) {
		t.Helper()
		var file []byte
		for _, c := range p.Changes {
			file = c.AppendLDIF(file)
		}
		for rec, err := range embedded.Records(bytes.NewReader(file)) {
			if err != nil {
				t.Fatalf("%v\n%s", err, file)
			}
			switch rec.Op {
			case "add":
				err = old.Add(t.Context(), rec.DN, rec.Attributes)
			case "delete":
				err = old.Delete(t.Context(), rec.DN)
			case "modify":
				var mods []ldap.Modification
				for _, c := range rec.Changes {
					mods = append(mods, ldap.Modification{Attribute: c.Attribute, Values: c.Values})
				}
				err = old.Modify(t.Context(), rec.DN, mods)
			}
			if err != nil {
				t.Fatalf("%s %s: %v", rec.Op, rec.DN, err)
			}
		}
	}
	p := plan(t, old, migrate.Native)
	want := results(t, old, p.Names)
	run(p)
	same(t, "native", results(t, as(t, s, "sun-schema2"), p.Names), want)
	removal := plan(t, old, migrate.RemoveTree)
	run(removal)
	kept := removal.Kept()
	for rec, err := range embedded.Records(bytes.NewReader(kept)) {
		if err == nil {
			err = old.Add(t.Context(), rec.DN, rec.Attributes)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	same(t, "back again", results(t, old, p.Names), want)
}

// TestProblems: what Schema 2 cannot say is not written.
func TestProblems(t *testing.T) {
	const top = "dn: o=isp\nobjectClass: organization\no: isp\n\ndn: o=internet\nobjectClass: organization\no: internet\n\ndn: dc=test,o=internet\nobjectClass: domain\ndc: test\n\n" +
		"dn: o=a,o=isp\nobjectClass: organization\no: a\n\ndn: o=b,o=isp\nobjectClass: organization\no: b\n\n"
	node := func(name, base string, more ...string) string {
		return "dn: dc=" + name + ",dc=test,o=internet\nobjectClass: domain\nobjectClass: inetDomain\nobjectClass: inetDomainAuthInfo\nobjectClass: mailDomain\nobjectClass: nsManagedDomain\ndc: " +
			name + "\ninetDomainBaseDN: " + base + "\n" + strings.Join(more, "\n") + "\n\n"
	}
	for name, tt := range map[string]struct{ tree, problem string }{
		"one name in two places": {node("a", "o=a,o=isp") + node("b", "o=b,o=isp", "inetCanonicalDomainName: a.test"), "have their users in different places"},
		"settings of its own":    {node("a", "o=a,o=isp") + node("b", "o=a,o=isp", "inetCanonicalDomainName: a.test", "mailDomainStatus: hold"), "mailDomainStatus"},
		"another's already":      {node("a", "o=c,o=isp") + "dn: o=c,o=isp\nobjectClass: organization\nobjectClass: sunManagedOrganization\no: c\nsunPreferredDomain: c.test\n\n", "is the domain c.test already"},
		"none":                   {node("a", "o=a,o=isp", "mailDomainStatus: hold") + node("b", "o=a,o=isp"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := dirtest.Embedded(t, []byte(top+tt.tree))
			old := as(t, s, "sun-schema1")
			p, err := migrate.Make(t.Context(), old, migrate.Native)
			if err != nil {
				t.Fatal(err)
			}
			if tt.problem != "" {
				if !p.Blocked() || !strings.Contains(p.Problems[0].What, tt.problem) {
					t.Errorf("%+v", p.Problems)
				}
				return
			}
			// Two domains with the same users are two organizations.
			names := []string{"a.test", "b.test"}
			want := results(t, old, names)
			ed, _ := editor(t, old)
			if err := migrate.Write(t.Context(), ed, p, nil); err != nil || p.Blocked() {
				t.Fatalf("%+v, %v", p.Problems, err)
			}
			same(t, "native", results(t, as(t, s, "sun-schema2"), names), want)
		})
	}
	s := dirtest.Embedded(t, fixture.Schema1())
	p, err := migrate.Make(t.Context(), as(t, s, "sun-schema1"), migrate.Native)
	if err != nil || !p.Blocked() {
		t.Fatalf("%+v, %v", p.Problems, err)
	}
	if _, err := migrate.Make(t.Context(), as(t, s, "sun-schema2"), migrate.Native); err == nil {
		t.Error("a plan without a tree")
	}
	// What has not been migrated is found to differ.
	if q, err := migrate.Verify(t.Context(), as(t, s, "sun-schema1"), as(t, s, "sun-schema2"), []string{"example.org"}); err != nil || len(q) != 1 {
		t.Errorf("%+v, %v", q, err)
	}
}
