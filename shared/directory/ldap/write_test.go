package ldap_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// servers are the kinds of server that writing is tried with.
var servers = map[string]func(t *testing.T, ldif []byte) dirtest.Server{
	"embedded": func(t *testing.T, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
	"openldap": func(t *testing.T, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
}

func TestWrite(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree(dirtest.Domain, 3, 1)))
			ctx := t.Context()
			base := "ou=people," + fixture.Base(dirtest.Domain)
			dn, err := ldap.Child("uid", "o'neil, x", base)
			if err != nil {
				t.Fatal(err)
			}
			entry := directory.Attributes{
				{Name: "objectClass", Values: []string{"inetOrgPerson", "inetMailUser", "inetLocalMailRecipient"}},
				{Name: "uid", Values: []string{"o'neil, x"}},
				{Name: "cn", Values: []string{"O"}},
				{Name: "sn", Values: []string{"O"}},
				{Name: "mail", Values: []string{"oneil@example.org"}},
			}
			if err := d.Add(ctx, dn, entry); err != nil {
				t.Fatal(err)
			}
			if err := d.Add(ctx, dn, entry); !errors.Is(err, ldap.ErrExists) {
				t.Errorf("added twice: %v", err)
			}
			if err := d.Add(ctx, "uid=x,ou=nowhere,"+fixture.Base(dirtest.Domain), entry); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("added below nothing: %v", err)
			}
			if err := d.Delete(ctx, "uid=x,o=elsewhere"); !errors.Is(err, directory.ErrURL) {
				t.Errorf("outside of the bases: %v", err)
			}
			if err := d.Modify(ctx, dn, []ldap.Modification{{Attribute: "mailQuota", Values: []string{"50M"}}, {Attribute: "mailHost"}}); err != nil {
				t.Fatal(err)
			}
			_, raw, err := d.Raw(ctx, dn)
			if err != nil || raw.First("mailQuota") != "50M" || raw.First("uid") != "o'neil, x" {
				t.Errorf("read back %v, %v", raw, err)
			}
			found, err := d.Find(ctx, d.Base(), []string{"mail", "mailAlternateAddress"}, []string{"ONEIL@example.org", "u0001@example.org"}, 5)
			if err != nil || len(found) != 2 {
				t.Errorf("found %d, %v", len(found), err)
			}
			if err := d.Delete(ctx, dn); err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(ctx, dn); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("deleted twice: %v", err)
			}
		})
	}
}

// TestWriteMaster: changes go to the master, reads do not.
func TestWriteMaster(t *testing.T) {
	replica := dirtest.Embedded(t, fixture.Tree(dirtest.Domain, 2, 1))
	master := dirtest.Embedded(t, fixture.Tree(dirtest.Domain, 2, 1))
	d := dirtest.Dial(t, replica, func(c *ldap.Config) { c.Master = master.URL })
	there := dirtest.Dial(t, master)
	const dn = "ou=new,o=isp"
	ctx := t.Context()
	if err := d.Add(ctx, dn, directory.Attributes{{Name: "objectClass", Values: []string{"organizationalUnit"}}, {Name: "ou", Values: []string{"new"}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Raw(ctx, dn); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("at the replica: %v", err)
	}
	if _, _, err := there.Raw(ctx, dn); err != nil {
		t.Errorf("at the master: %v", err)
	}
	if err := d.Rename(ctx, dn, "ou=newer", "", false); err != nil {
		t.Error(err)
	}
	if err := d.Rename(ctx, dn, "ou=newest", "", false); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("renamed what has gone: %v", err)
	}
	if err := d.Rename(ctx, "ou=newer,o=isp", "o=example.org", "", false); !errors.Is(err, ldap.ErrExists) {
		t.Errorf("a name that somebody has: %v", err)
	}
	if err := d.Rename(ctx, "ou=newer,o=isp", "ou=newer", "o=elsewhere", false); !errors.Is(err, directory.ErrURL) {
		t.Errorf("to outside of the bases: %v", err)
	}
	master.Stop()
	if err := d.Delete(ctx, "uid=u0001,ou=people,"+fixture.Base(dirtest.Domain)); !errors.Is(err, directory.ErrUnavailable) {
		t.Errorf("without the master: %v", err)
	}
}

func TestScan(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree(dirtest.Domain, 1100, 1)))
			for what, want := range map[ldap.Selection]int{ldap.Everything: 1107, ldap.MailEntries: 1103, ldap.Groups: 2, ldap.DomainEntries: 1} {
				n := 0
				err := d.Scan(t.Context(), d.Base(), what, []string{"objectClass", "uid"}, func(_ string, raw directory.Attributes) error {
					if n++; raw.First("mail") != "" {
						t.Error("attribute that was not asked for")
					}
					return nil
				})
				if err != nil || n != want {
					t.Errorf("selection %d: %d entries, want %d; %v", what, n, want, err)
				}
			}
			stop, n := errors.New("enough"), 0
			err := d.Scan(t.Context(), d.Base(), ldap.Everything, nil, func(string, directory.Attributes) error { n++; return stop })
			if !errors.Is(err, stop) || n != 1 {
				t.Errorf("stopped after %d: %v", n, err)
			}
			var names []string
			err = d.Hosted(t.Context(), func(dom *directory.Domain, ok bool) error {
				names = append(names, dom.Name)
				return nil
			})
			if err != nil || !slices.Equal(names, []string{dirtest.Domain}) {
				t.Errorf("hosted %v, %v", names, err)
			}
		})
	}
}

func TestWatch(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree(dirtest.Domain, 3, 1)))
	var mu sync.Mutex
	var asked []ldap.Asked
	ctx := ldap.Watch(context.Background(), func(a ldap.Asked) { mu.Lock(); defer mu.Unlock(); asked = append(asked, a) })
	dom, err := d.Domain(ctx, dirtest.Domain)
	if err != nil {
		t.Fatal(err)
	}
	asked = nil
	if _, err := d.Lookup(ctx, dom, mail.Address{Local: "u0001", Domain: dirtest.Domain}); err != nil {
		t.Fatal(err)
	}
	if len(asked) != 1 || asked[0].Entries != 1 || asked[0].Scope != "sub" || asked[0].Err != nil || asked[0].Took <= 0 {
		t.Errorf("asked %+v", asked)
	}
	if _, err := directory.Collect(d.Search(ctx, "ldap:///"+d.Base()+"??sub?(uid=u*)", 10)); err != nil || len(asked) != 2 || asked[1].Entries != 3 {
		t.Errorf("asked %+v, %v", asked, err)
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"UID=Ana, OU=People,o=isp":   "uid=ana,ou=people,o=isp",
		`cn=a\2cb,o=isp`:             `cn=a\,b,o=isp`,
		`cn=a\,B,o=isp`:              `cn=a\,b,o=isp`,
		"uid=x,  dc=example ,dc=org": "uid=x,dc=example,dc=org",
	} {
		if got, err := ldap.FoldName(in); err != nil || got != want {
			t.Errorf("FoldName(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if _, err := ldap.FoldName("nonsense"); err == nil {
		t.Error("nonsense is a name")
	}
	if _, err := ldap.Child("uid", "", "o=isp"); err == nil {
		t.Error("a name without a value")
	}
}
