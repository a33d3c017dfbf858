package ldap_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/metrics"
)

// TestGroups: groups that have somebody as a member by name, by an entry above or
// by address, in that domain; one request, however many they are.
func TestGroups(t *testing.T) {
	base := fixture.Base("example.org")
	text := string(fixture.Tree("example.org", 3, 0))
	list := func(name, attrs string) {
		text += fmt.Sprintf("\ndn: cn=%s,ou=groups,%s\nobjectClass: groupOfUniqueNames\nobjectClass: inetMailGroup\nobjectClass: inetLocalMailRecipient\ncn: %[1]s\nmail: %[1]s@example.org\n%[3]s", name, base, attrs)
	}
	list("byname", "mailAlternateAddress: also@example.org\nmailEquivalentAddress: else@far.example\nuniqueMember: UID=U0001, ou=people,"+base+"\n")
	list("byaddress", "uniqueMember: uid=nobody\nmgrpRFC822MailMember: U0001@example.org\n")
	list("above", "uniqueMember: ou=people,"+base+"\n")
	list("gone", "inetMailGroupStatus: deleted\nuniqueMember: uid=u0001,ou=people,"+base+"\n")
	list("nested", "uniqueMember: cn=byname,ou=groups,"+base+"\n")
	list("url", "uniqueMember: uid=nobody\nmemberURL: ldap:///ou=people,"+base+"??sub?(uid=u0001)\n")
	text += fmt.Sprintf("\ndn: cn=plain,ou=groups,%s\nobjectClass: groupOfUniqueNames\ncn: plain\nuniqueMember: uid=u0001,ou=people,%[1]s\n", base)
	for i := range directory.MaxGroups {
		list(fmt.Sprintf("many%d", i), "uniqueMember: uid=u0003,ou=people,"+base+"\n")
	}
	text += "\ndn: o=far.example,o=isp\nobjectClass: organization\nobjectClass: sunManagedOrganization\nobjectClass: mailDomain\no: far.example\nsunPreferredDomain: far.example\n" +
		"\ndn: cn=far,o=far.example,o=isp\nobjectClass: groupOfUniqueNames\nobjectClass: inetMailGroup\nobjectClass: inetLocalMailRecipient\ncn: far\nmail: far@far.example\nuniqueMember: uid=u0001,ou=people," + base + "\n"
	for name, start := range map[string]func(t testing.TB, ldif []byte) dirtest.Server{
		"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
		"openldap": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
		"389":      dirtest.DS389,
	} {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, []byte(text)))
			for login, want := range map[string]string{
				"u0001": "above@example.org also@example.org byaddress@example.org byname@example.org list@example.org team@example.org", "u0002": "above@example.org list@example.org team@example.org", "u0003": "",
			} {
				e, err := d.Login(t.Context(), login+"@example.org")
				if err != nil {
					t.Fatal(err)
				}
				counted := func() float64 {
					return testutil.ToFloat64(metrics.DirRoundTrips.With("groups")) + 1000*trips()
				}
				before := counted()
				g, err := d.Groups(t.Context(), e)
				if n := counted() - before; err != nil || n != 1 {
					t.Fatalf("%s: %v requests: %v", login, n, err)
				}
				slices.Sort(g.Addresses)
				if many := len(g.Addresses) == directory.MaxGroups && g.More; login == "u0003" && !many || login != "u0003" && (g.More || strings.Join(g.Addresses, " ") != want) {
					t.Errorf("%s: %+v, want %s", login, g, want)
				}
			}
		})
	}
}
