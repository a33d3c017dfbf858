package edit_test

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// more are the servers, and 389 Directory Server.
func more() map[string]func(t testing.TB, ldif []byte) dirtest.Server {
	out := maps.Clone(servers)
	out["389"] = dirtest.DS389
	return out
}

// nobody checks that an address leads to nobody.
func nobody(t *testing.T, ed *edit.Editor, kind edit.Kind, name string) {
	t.Helper()
	if dn, _, err := ed.Show(t.Context(), kind, name); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("%s: %s, %v", name, dn, err)
	}
}

func also(res *edit.Result) (out []string) {
	for _, r := range res.Also {
		out = append(out, string(r.Op)+" "+r.DN)
	}
	slices.Sort(out)
	return out
}

const base = "o=example.org,o=isp"

func TestRename(t *testing.T) {
	for name, start := range more() {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree("example.org", 5, 3)))
			ed, file := open(t, d, false)
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "other.example", Values: edit.Values{"mail-host": {"pair1"}}})
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "one@example.org", Values: edit.Values{
				"name":   {"The one"},
				"member": {"u0001@example.org", "u0002@example.org"}, "moderator": {"ldap:///uid=u0001,ou=people," + base},
			}})
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "two@example.org", Values: edit.Values{
				"member": {"one@example.org", "ldap:///ou=people," + base + "??one?(uid=u*)"},
			}})

			renameUsers(t, d, ed)
			renameGroup(t, d, ed)
			renameRefused(t, ed)
			renameDomain(t, d, ed)
			text, err := os.ReadFile(file)
			if err != nil || strings.Count(string(text), `"op":"rename"`) != 4 || !strings.Contains(string(text), `"new_dn":"o=new.example,o=isp"`) {
				t.Errorf("%v: %s", err, text)
			}
		})
	}
}

func renameUsers(t *testing.T, d *ldap.Directory, ed *edit.Editor) {
	t.Helper()
	// Another address, the same mailbox.
	res := do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0001@example.org", To: "eva@example.org"})
	if e := as(t, d, "eva@example.org"); res.Op != edit.Set || e.Mailbox != "u0001@example.org" || !e.Owns("u0001@example.org") || e.DN != res.DN {
		t.Errorf("%+v, %+v", res, e)
	}
	// Another uid is another mailbox.
	uid := edit.Request{Op: edit.Rename, Kind: edit.User, Name: "eva@example.org", To: "eva@example.org", Values: edit.Values{"uid": {"Eva"}}}
	if _, err := ed.Do(t.Context(), uid); !errors.Is(err, edit.ErrBadRequest) || !strings.Contains(err.Error(), "eva@example.org") {
		t.Errorf("a new mailbox without asking: %v", err)
	}
	uid.NewMailbox = true
	res = do(t, ed, uid)
	if e := as(t, d, "u0001@example.org"); e.DN != "uid=Eva,ou=people,"+base || e.Mailbox != "eva@example.org" || res.NewDN != e.DN || !res.Written {
		t.Errorf("%+v, %+v", res, e)
	}
	if e := as(t, d, "one@example.org"); !slices.ContainsFunc(e.MemberDNs, func(v string) bool { return strings.EqualFold(v, "uid=eva,ou=people,"+base) }) ||
		len(e.MemberDNs) != 2 || !slices.Equal(e.List.Moderators, []string{"ldap:///uid=Eva,ou=people," + base}) {
		t.Errorf("members %q, moderators %q", e.MemberDNs, e.List.Moderators)
	}
	if got := also(res); !slices.Contains(got, "set cn=one,ou=groups,"+base) {
		t.Errorf("also %q", got)
	}
	clean(t, d)

	// Into another domain.
	move := edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0002@example.org", To: "u0002@other.example"}
	if _, err := ed.Do(t.Context(), move); !errors.Is(err, edit.ErrBadRequest) {
		t.Errorf("a new mailbox without asking: %v", err)
	}
	move.NewMailbox = true
	do(t, ed, move)
	if e := as(t, d, "u0002@other.example"); e.DN != "uid=u0002,ou=people,o=other.example,o=isp" || e.Mailbox != "u0002@other.example" {
		t.Errorf("%+v", e)
	}
	nobody(t, ed, edit.User, "u0002@example.org")
}

func renameGroup(t *testing.T, d *ldap.Directory, ed *edit.Editor) {
	t.Helper()
	// A list is called by its address.
	res := do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.Group, Name: "one@example.org", To: "first@example.org"})
	if e := as(t, d, "one@example.org"); e.DN != "cn=first,ou=groups,"+base || e.Mail != "first@example.org" || !slices.Contains(e.Raw.Get("cn"), "The one") && e.Raw.First("cn") != "" {
		t.Errorf("%+v", e)
	}
	if e := as(t, d, "two@example.org"); !slices.Equal(e.MemberDNs, []string{"cn=first,ou=groups," + base}) {
		t.Errorf("members %q, also %q", e.MemberDNs, also(res))
	}
	clean(t, d)
}

func renameRefused(t *testing.T, ed *edit.Editor) {
	t.Helper()
	for name, c := range map[string]struct {
		req  edit.Request
		want string
	}{
		"taken address": {edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0003@example.org", To: "u0004@example.org"}, "ambiguous-address"},
		"taken name":    {edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0003@example.org", To: "x@example.org", Values: edit.Values{"uid": {"u0004"}}, NewMailbox: true}, ldap.ErrExists.Error()},
		"bad uid":       {edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0003@example.org", To: "x@example.org", Values: edit.Values{"uid": {"a/b"}}, NewMailbox: true}, "bad-uid"},
		"elsewhere":     {edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0003@example.org", To: "x@far.example"}, directory.ErrNotFound.Error()},
		"nonsense":      {edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0003@example.org", To: "two words"}, edit.ErrBadRequest.Error()},
		"taken domain":  {edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "other.example", To: "alias.example.org", NewMailbox: true}, "domain-overlap"},
		"its alias":     {edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "alias.example.org", To: "x.example"}, "another name of the domain"},
		"by an alias":   {edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "alias.example.org"}, "another name of the domain"},
	} {
		if got := refused(t, ed, c.req); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func renameDomain(t *testing.T, d *ldap.Directory, ed *edit.Editor) {
	t.Helper()
	domain := edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "example.org", To: "new.example"}
	if got := refused(t, ed, domain); !strings.Contains(got, "left behind") {
		t.Errorf("a domain with users: %s", got)
	}
	domain.NewMailbox = true
	res := do(t, ed, domain)
	if res.NewDN != "o=new.example,o=isp" {
		t.Errorf("%+v", res)
	}
	for _, address := range []string{"eva@new.example", "u0001@example.org", "u0001@alias.example.org"} {
		if e := as(t, d, address); e.DN != "uid=Eva,ou=people,o=new.example,o=isp" || e.Mailbox != "eva@new.example" {
			t.Errorf("%s: %+v", address, e)
		}
	}
	e := as(t, d, "two@new.example")
	if !slices.Equal(e.MemberDNs, []string{"cn=first,ou=groups,o=new.example,o=isp"}) || !slices.Equal(e.MemberURLs, []string{"ldap:///ou=people,o=new.example,o=isp??one?(uid=u*)"}) {
		t.Errorf("members %q %q", e.MemberDNs, e.MemberURLs)
	}
	clean(t, d)
}

func TestRenameDry(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("example.org", 3, 1)))
	ed, file := open(t, d, true)
	res := do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.User, Name: "u0001@example.org", To: "eva@example.org", Values: edit.Values{"uid": {"eva"}}, NewMailbox: true})
	if res.Written || res.NewDN == "" || len(res.Also) != 2 { // list and team
		t.Errorf("%+v", res)
	}
	// The next request sees it.
	do(t, ed, edit.Request{Op: edit.Set, Kind: edit.User, Name: "eva@example.org", Values: edit.Values{"quota": {"1M"}}})
	do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "new@example.org", Values: edit.Values{"uid": {"u0001"}, "mail-host": {"pair1"}}})
	if e := as(t, d, "u0001@example.org"); e.UID != "u0001" || e.Quota.Bytes != directory.QuotaDefault {
		t.Errorf("written: %+v", e)
	}
	if text, err := os.ReadFile(file); err != nil || len(text) != 0 {
		t.Errorf("%v, %s", err, text)
	}
}

// TestRenameNames: domains whose entry is called otherwise, or whose users are
// somewhere else; tried first.
func TestRenameNames(t *testing.T) {
	tree := string(fixture.Tree("example.org", 3, 1))
	tree = strings.ReplaceAll(tree, "o=example.org,o=isp", "o=Acme,o=isp")
	tree = strings.Replace(tree, "\no: example.org\n", "\no: Acme\n", 1)
	tree += `dn: o=shell.example,o=isp
objectClass: organization
objectClass: sunManagedOrganization
objectClass: mailDomain
o: shell.example
sunPreferredDomain: shell.example
inetDomainBaseDN: ou=in,o=shell.example,o=isp

dn: ou=in,o=shell.example,o=isp
objectClass: organizationalUnit
ou: in

dn: uid=eva,ou=in,o=shell.example,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: eva
cn: Eva
sn: Eva
mail: eva@shell.example
mailHost: pair1
`
	d := dirtest.Dial(t, dirtest.Embedded(t, []byte(tree)))
	for _, dry := range []bool{true, false} {
		ed, _ := open(t, d, dry)
		acme := do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "example.org", To: "acme.example", NewMailbox: true})
		if acme.NewDN != "" || len(acme.Also) != 6 { // three users, forward, list and team
			t.Errorf("dry %v: %+v, also %q", dry, acme, also(acme))
		}
		shell := do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "shell.example", To: "new.example", NewMailbox: true})
		if shell.NewDN != "o=new.example,o=isp" || len(shell.Also) < 2 { // itself, for its base, and eva
			t.Errorf("dry %v: %+v, also %q", dry, shell, also(shell))
		}
		if dry {
			if e := as(t, d, "eva@shell.example"); e.Mailbox != "eva@shell.example" {
				t.Errorf("written: %+v", e)
			}
		}
	}
	for address, want := range map[string]string{
		"u0001@acme.example": "uid=u0001,ou=people,o=Acme,o=isp", "u0001@example.org": "uid=u0001,ou=people,o=Acme,o=isp",
		"eva@new.example": "uid=eva,ou=in,o=new.example,o=isp", "eva@shell.example": "uid=eva,ou=in,o=new.example,o=isp",
	} {
		if e := as(t, d, address); e.DN != want {
			t.Errorf("%s: %s, want %s", address, e.DN, want)
		}
	}
	clean(t, d)
}

// TestTreeDry: a series of changes of the DC tree that is only tried.
func TestTreeDry(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Schema1()), func(c *ldap.Config) {
		c.Schema, _ = directory.Preset("sun-schema1")
		c.DCRoot = fixture.DCRoot
	})
	ed, _ := open(t, d, true)
	res := do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "shop.test", Values: edit.Values{"mail-host": {"pair2"}, "alias": {"market.test"}}})
	if want := []string{"add dc=market,dc=test,o=internet", "add dc=test,o=internet", "add o=shop.test,o=isp", "add ou=groups,o=shop.test,o=isp", "add ou=people,o=shop.test,o=isp"}; !slices.Equal(also(res), want) {
		t.Errorf("%q", also(res))
	}
	user := do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "ana@market.test"})
	if user.DN != "uid=ana,ou=people,o=shop.test,o=isp" {
		t.Errorf("%+v", user)
	}
	if got := refused(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "market.test"}); !strings.Contains(got, ldap.ErrExists.Error()) {
		t.Error(got)
	}
	if dom, err := d.Domain(t.Context(), "shop.test"); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("written: %+v, %v", dom, err)
	}
}

// TestTree: domains of the DC tree.
func TestTree(t *testing.T) {
	trees := map[string][]byte{"sun-schema1": fixture.Schema1(), "sun-compat": fixture.Compatible()}
	for server, start := range more() {
		for preset, ldif := range trees {
			t.Run(server+" "+preset, func(t *testing.T) {
				d := dirtest.Dial(t, start(t, ldif), func(c *ldap.Config) {
					c.Schema, _ = directory.Preset(preset)
					c.DCRoot = fixture.DCRoot
				})
				ed, _ := open(t, d, false, func(c *edit.Config) {
					c.Pair = func(host string) (string, bool) { return host, true }
					c.Hash, _ = edit.HashBy("ssha")
				})
				treeLife(t, d, ed)
			})
		}
	}
}

func treeLife(t *testing.T, d *ldap.Directory, ed *edit.Editor) {
	find := func(name string) *directory.Domain {
		t.Helper()
		dom, err := d.Domain(t.Context(), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return dom
	}
	gone := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if dom, err := d.Domain(t.Context(), name); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("%s: %+v, %v", name, dom, err)
			}
		}
	}
	res := do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "Shop.New.test", Values: edit.Values{
		"mail-host": {"pair2"}, "alias": {"shop.old.test", "market.test"}, "max-users": {"2"}, "uid-separator": {"%"},
	}})
	dom := find("market.test")
	if res.DN != "dc=shop,dc=new,dc=test,o=internet" || dom.Name != "shop.new.test" || dom.BaseDN != "o=shop.new.test,o=isp" || dom.PreferredMailHost != "pair2" || dom.UIDSeparator != "%" {
		t.Errorf("%+v, %+v", res, dom)
	}
	do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "ana@shop.new.test", Values: edit.Values{"password": {"x"}}})
	if e := as(t, d, "ana@shop.old.test"); e.Mailbox != "ana@shop.new.test" || e.MailHost != "pair2" {
		t.Errorf("%+v", e)
	}
	// One below it, and a second one that leads to the same users.
	do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "eu.shop.new.test"})
	do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "twin.test", Values: edit.Values{"users-base": {"o=shop.new.test,o=isp"}}})
	if find("twin.test").BaseDN != dom.BaseDN || find("eu.shop.new.test").BaseDN != "o=eu.shop.new.test,o=isp" {
		t.Error("bases")
	}
	// The status of a domain counts where it is set.
	do(t, ed, edit.Request{
		Op: edit.Set, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"account-status": {"inactive"}},
		More: edit.Values{"alias": {"plaza.test"}}, Less: edit.Values{"alias": {"market.test"}},
	})
	if s := find("plaza.test"); s.Status != directory.Inactive || s.Name != "shop.new.test" {
		t.Errorf("%+v", s)
	}
	gone("market.test")
	do(t, ed, edit.Request{Op: edit.Set, Kind: edit.Domain, Name: "shop.new.test", Values: edit.Values{"account-status": {"active"}, "alias": {"market.test", "shop.old.test"}}})
	gone("plaza.test")

	for name, c := range map[string]struct {
		req  edit.Request
		want string
	}{
		"there already":    {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "market.test"}, ldap.ErrExists.Error()},
		"alias taken":      {edit.Request{Op: edit.Set, Kind: edit.Domain, Name: "twin.test", More: edit.Values{"alias": {"example.net"}}}, ldap.ErrExists.Error()},
		"base missing":     {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.test", Values: edit.Values{"users-base": {"o=nowhere,o=isp"}}}, "domain-base"},
		"base elsewhere":   {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.test", Values: edit.Values{"users-base": {"o=nowhere"}}}, "domain-base"},
		"bad status":       {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.test", Values: edit.Values{"status": {"sleepy"}}}, "bad-status"},
		"not empty":        {edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "example.com"}, "is not empty"},
		"below an alias":   {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.market.test"}, "nothing can be below it"},
		"rename with more": {edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "shop.new.test", To: "x.test"}, "would be called otherwise too"},
	} {
		if got := refused(t, ed, c.req); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	gone("x.test", "x.market.test")
	treeEnd(t, d, ed)
}

// treeEnd renames and deletes what treeLife has made.
func treeEnd(t *testing.T, d *ldap.Directory, ed *edit.Editor) {
	gone := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if dom, err := d.Domain(t.Context(), name); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("%s: %+v, %v", name, dom, err)
			}
		}
	}
	// A node that others are below stays on the way to them.
	do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "eu.shop.new.test"})
	gone("eu.shop.new.test")
	rename := edit.Request{Op: edit.Rename, Kind: edit.Domain, Name: "shop.new.test", To: "stall.fair.test"}
	if got := refused(t, ed, rename); !strings.Contains(got, "left behind") {
		t.Errorf("a domain with users: %s", got)
	}
	rename.NewMailbox = true
	do(t, ed, rename)
	for _, name := range []string{"ana@stall.fair.test", "ana@shop.new.test", "ana@market.test"} {
		if e := as(t, d, name); e.Mailbox != "ana@stall.fair.test" {
			t.Errorf("%s: %+v", name, e)
		}
	}
	do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "sub.stall.fair.test"})
	// twin.test still leads to its users.
	res := do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "stall.fair.test"})
	gone("stall.fair.test", "shop.new.test", "market.test", "shop.old.test")
	if dom, err := d.Domain(t.Context(), "sub.stall.fair.test"); err != nil || dom.Name != "sub.stall.fair.test" || res.Op != edit.Set {
		t.Errorf("%+v, %v, %+v", dom, err, res)
	}
	if got := refused(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "twin.test"}); !strings.Contains(got, "is not empty") {
		t.Errorf("the last way to users: %s", got)
	}
	var listed []string
	err := ed.List(t.Context(), edit.Export{Kind: edit.Domain}, func(_ edit.Kind, dn string, _ directory.Attributes) error {
		listed = append(listed, dn)
		return nil
	})
	if err != nil || !slices.Contains(listed, "dc=twin,dc=test,o=internet") || slices.Contains(listed, "dc=stall,dc=fair,dc=test,o=internet") ||
		slices.ContainsFunc(listed, func(dn string) bool { return strings.HasPrefix(dn, "dc=loop0") }) {
		t.Errorf("%q, %v", listed, err)
	}
}
