package edit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/directory/lint"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// servers are the kinds of server that everything is tried with.
var servers = map[string]func(t testing.TB, ldif []byte) dirtest.Server{
	"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
	"openldap": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
}

var options = []string{"#*mailbox=x", "#&members=*", "#/hold=x", "#forward=**", "#*^!autoreply=x"}

func pairs(host string) (string, bool) {
	return host, host == "pair1" || host == "pair2" || host == "pair3"
}

func open(t *testing.T, d *ldap.Directory, dry bool, configure ...func(*edit.Config)) (*edit.Editor, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit", "audit.log")
	a, err := edit.OpenAudit(file, "tester", "cn=root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	cfg := edit.Config{Directory: d, Pair: pairs, Options: options, Audit: a, DryRun: dry}
	for _, f := range configure {
		f(&cfg)
	}
	ed, err := edit.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ed, file
}

func do(t *testing.T, ed *edit.Editor, req edit.Request) *edit.Result {
	t.Helper()
	res, err := ed.Do(t.Context(), req)
	if err != nil {
		t.Fatalf("%s %s %s: %v", req.Op, req.Kind, req.Name, err)
	}
	return res
}

// refused carries out a request and returns the rules that refused it.
func refused(t *testing.T, ed *edit.Editor, req edit.Request) string {
	t.Helper()
	_, err := ed.Do(t.Context(), req)
	var r *edit.Refused
	if !errors.As(err, &r) {
		return fmt.Sprint(err)
	}
	var rules []string
	for _, f := range r.Findings {
		rules = append(rules, f.Rule)
	}
	slices.Sort(rules)
	return strings.Join(slices.Compact(rules), " ")
}

// as is what a relay finds for an address.
func as(t *testing.T, d *ldap.Directory, address string) *directory.Entry {
	t.Helper()
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		t.Fatal(err)
	}
	dom, err := d.Domain(t.Context(), a.Domain)
	if err != nil {
		t.Fatal(err)
	}
	ans, err := d.Lookup(t.Context(), dom, a)
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	e, err := directory.Sole(ans.Entries)
	if err != nil {
		t.Fatalf("%s: %v", address, err)
	}
	return e
}

func TestLife(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree("example.org", 5, 3)))
			ed, file := open(t, d, false, func(c *edit.Config) {
				if name == "openldap" { // which knows no other without a module
					c.Hash, _ = edit.HashBy("ssha")
				}
			})

			res := do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "New.Example", Values: edit.Values{
				"alias": {"new2.example"}, "mail-host": {"pair2"}, "max-users": {"2"},
			}})
			if res.DN != "o=new.example,o=isp" || !res.Written {
				t.Errorf("%+v", res)
			}
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "Ana.Silva@new.example", Values: edit.Values{
				"uid": {"ana"}, "name": {"Ana Silva"}, "quota": {"50M"}, "password": {"geheim"}, "alternate": {"a.silva@new.example", "ana@new2.example"},
				"forward": {"ana@far.example"},
			}})
			e := as(t, d, "ana@new2.example")
			if e.UID != "ana" || e.Mailbox != "ana@new.example" || e.MailHost != "pair2" || e.Quota.Bytes != 50<<20 ||
				e.DN != "uid=ana,ou=people,o=new.example,o=isp" || !slices.Equal(e.DeliveryOptions, []string{"mailbox", "forward"}) {
				t.Errorf("%+v", e)
			}
			if err := d.Authenticate(t.Context(), e, "geheim"); err != nil {
				t.Error(err)
			}
			_, raw, err := ed.Show(t.Context(), edit.User, "ana.silva@new.example")
			if err != nil || raw.First("sn") != "Silva" || !strings.HasPrefix(raw.First("userPassword"), "{SSHA") || !auth.VerifyPassword(raw.First("userPassword"), "geheim") {
				t.Errorf("%v, %v", raw, err)
			}

			do(t, ed, edit.Request{
				Op: edit.Set, Kind: edit.User, Name: "a.silva@new.example", Values: edit.Values{"quota": {"-1"}, "forward": nil, "option": {"mailbox"}, "password": {"neu"}},
				More: edit.Values{"equivalent": {"silva@new.example"}}, Less: edit.Values{"alternate": {"A.Silva@new.example"}},
			})
			if e = as(t, d, "silva@new.example"); e.Quota.Bytes != -1 || len(e.Forwarding) > 0 || !slices.Equal(e.Alternate, []string{"ana@new2.example"}) {
				t.Errorf("%+v", e)
			}
			if err := d.Authenticate(t.Context(), e, "neu"); err != nil {
				t.Error(err)
			}
			if again := do(t, ed, edit.Request{Op: edit.Set, Kind: edit.User, Name: e.DN, Values: edit.Values{"quota": {"-1"}, "password": {"neu"}}}); again.Written || len(again.Changes) > 0 {
				t.Errorf("nothing to do, and %+v", again)
			}

			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "bob@new.example", Values: edit.Values{"status": {"hold"}}})
			if _, err := ed.Do(t.Context(), edit.Request{Op: edit.Add, Kind: edit.User, Name: "carl@new.example"}); err == nil || !strings.Contains(err.Error(), "as many users") {
				t.Errorf("a third user: %v", err)
			}

			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "all@new.example", Values: edit.Values{
				"member": {"bob@new.example", "u0001@example.org", "eva@far.example", "ldap:///ou=people,o=example.org,o=isp??sub?(uid=u*)"}, "owner": {"bob@new.example"},
			}})
			e = as(t, d, "all@new.example")
			if len(e.MemberDNs) != 2 || !slices.Equal(e.MemberAddresses, []string{"eva@far.example"}) || len(e.MemberURLs) != 1 || e.ErrorsTo != "bob@new.example" {
				t.Errorf("%+v", e)
			}
			do(t, ed, edit.Request{Op: edit.Set, Kind: edit.Group, Name: "all@new.example", Less: edit.Values{"member": {"bob@new.example", "eva@far.example"}}})
			if e = as(t, d, "all@new.example"); len(e.MemberDNs) != 1 || len(e.MemberAddresses) != 0 {
				t.Errorf("%+v", e)
			}

			if got := refused(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "new.example"}); !strings.Contains(got, "is not empty") {
				t.Errorf("domain with users: %s", got)
			}
			for _, name := range []string{"ana@new2.example", "bob@new.example"} {
				do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.User, Name: name})
			}
			do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Group, Name: "all@new.example"})
			do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "new.example"})
			if _, err := d.Domain(t.Context(), "new.example"); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("deleted, and %v", err)
			}
			audited(t, file)
		})
	}
}

// audited checks the log of TestLife.
func audited(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(file); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	for _, bad := range []string{"geheim", "neu", "SSHA"} {
		if bytes.Contains(text, []byte(`"`+bad)) || bytes.Contains(text, []byte("{"+bad)) {
			t.Errorf("the log has %q", bad)
		}
	}
	var ops []string
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		var l struct {
			Time, Who, DN, Error string
			BindDN               string `json:"bind_dn"`
			Op, Kind             string
			Changes              []edit.Edit
		}
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Time == "" || l.Who != "tester" || l.BindDN != "cn=root" || l.DN == "" || len(l.Changes) == 0 || l.Error != "" {
			t.Errorf("%s", sc.Bytes())
		}
		ops = append(ops, l.Op+" "+l.Kind)
		if len(ops) == 5 { // the change of ana
			for _, c := range l.Changes {
				if strings.EqualFold(c.Attribute, "mailQuota") && (c.Old[0] != "50M" || c.New[0] != "-1") || strings.EqualFold(c.Attribute, "userPassword") && c.New[0] != "***" {
					t.Errorf("%+v", c)
				}
			}
		}
	}
	want := "add domain, add other, add other, add user, set user, add user, add group, set group, delete user, delete user, delete group, delete domain"
	if got := strings.Join(ops, ", "); got != want {
		t.Errorf("log %s\nwant %s", got, want)
	}
}

// TestInternational: a user of an international domain has mail, by whichever
// form of its name the tool was asked.
func TestInternational(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, dirtest.Tree()))
			ed, _ := open(t, d, false)
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "b\u00fccher.example", Values: edit.Values{"mail-host": {"pair1"}}})
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "ana@B\u00dcCHER.example", Values: edit.Values{"alternate": {"a@b\u00fccher.example", "@b\u00fccher.example"}}})
			if e := as(t, d, "ana@xn--bcher-kva.example"); e.Mail != "ana@xn--bcher-kva.example" || as(t, d, "a@xn--bcher-kva.example").DN != e.DN || as(t, d, "x@xn--bcher-kva.example").DN != e.DN {
				t.Errorf("%+v", e)
			}
			do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.User, Name: "ana@b\u00fccher.example", To: "anna@b\u00fccher.example"})
			do(t, ed, edit.Request{Op: edit.Set, Kind: edit.User, Name: "anna@b\u00fccher.example", Less: edit.Values{"alternate": {"a@b\u00fccher.example"}}})
			if e := as(t, d, "anna@xn--bcher-kva.example"); e.Mail != "anna@xn--bcher-kva.example" || e.Owns("a@xn--bcher-kva.example") {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, dirtest.Tree()))
	ed, _ := open(t, d, false)
	user := func(name string, v edit.Values) edit.Request {
		if v["mail-host"] == nil && v != nil {
			v["mail-host"] = []string{"pair1"}
		}
		return edit.Request{Op: edit.Add, Kind: edit.User, Name: name, Values: v}
	}
	for name, c := range map[string]struct {
		req  edit.Request
		want string
	}{
		"no pair":           {user("x@example.org", nil), "no-mail-host"},
		"unknown pair":      {user("x@example.org", edit.Values{"mail-host": {"pair9"}}), "unknown-pair"},
		"address taken":     {user("u0001@example.org", edit.Values{"uid": {"x"}}), "ambiguous-address"},
		"by another name":   {user("x@example.org", edit.Values{"alternate": {"U0001@alias.example.org"}}), "ambiguous-address"},
		"uid taken":         {edit.Request{Op: edit.Add, Kind: edit.User, Name: "x@example.org", Below: "ou=groups,o=example.org,o=isp", Values: edit.Values{"uid": {"u0001"}, "mail-host": {"pair1"}}}, "duplicate-uid"},
		"quota":             {user("x@example.org", edit.Values{"quota": {"lots"}}), "bad-quota"},
		"status":            {user("x@example.org", edit.Values{"status": {"tired"}}), "bad-status"},
		"uid":               {user("x@example.org", edit.Values{"uid": {"a/b"}}), "bad-uid"},
		"date":              {user("x@example.org", edit.Values{"away-start": {"tomorrow"}}), "bad-date"},
		"to itself":         {user("x@example.org", edit.Values{"forward": {"x@example.org"}, "option": {"forward"}}), "forward-self"},
		"to nobody":         {user("x@example.org", edit.Values{"option": {"forward"}}), "forward-nobody"},
		"other domain":      {user("x@example.org", edit.Values{"alternate": {"two words@example.org"}}), "bad-address"},
		"list outside":      {edit.Request{Op: edit.Add, Kind: edit.Group, Name: "l@example.org", Values: edit.Values{"member": {"ldap:///o=elsewhere??sub?(uid=*)"}}}, "bad-url"},
		"list taken":        {edit.Request{Op: edit.Add, Kind: edit.Group, Name: "bob@example.org"}, "ambiguous-address"},
		"domain taken":      {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "alias.example.org"}, "domain-overlap"},
		"alias taken":       {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.example", Values: edit.Values{"alias": {"example.org"}}}, "domain-overlap"},
		"bad domain":        {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x..example"}, "bad-domain"},
		"bad alias":         {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.example", Values: edit.Values{"alias": {"y .example"}}}, "bad-domain"},
		"base of domain":    {edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.example", Values: edit.Values{"users-base": {"o=moved,o=isp"}}}, "domain-base"},
		"change to a taken": {edit.Request{Op: edit.Set, Kind: edit.User, Name: "u0002@example.org", More: edit.Values{"alternate": {"team@example.org"}}}, "ambiguous-address"},
	} {
		if got := refused(t, ed, c.req); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	for name, req := range map[string]edit.Request{
		"field":         user("x@example.org", edit.Values{"colour": {"red"}}),
		"not UTF-8":     user("x@example.org", edit.Values{"name": {"Zo\xeb"}}),
		"two values":    user("x@example.org", edit.Values{"quota": {"1M", "2M"}}),
		"attribute":     user("x@example.org", edit.Values{"attr:a b": {"x"}}),
		"address":       user("nonsense", edit.Values{}),
		"operation":     {Op: "move", Kind: edit.User, Name: "u0001@example.org"},
		"kind":          {Op: edit.Add, Kind: "thing", Name: "x@example.org"},
		"list by name":  {Op: edit.Delete, Kind: edit.User, Name: "cn=team,ou=groups,o=example.org,o=isp"},
		"container":     {Op: edit.Delete, Kind: edit.User, Name: "ou=people,o=example.org,o=isp"},
		"no domain":     {Op: edit.Delete, Kind: edit.Domain, Name: "ou=people,o=example.org,o=isp"},
		"part of name":  {Op: edit.Set, Kind: edit.User, Name: "u0001@example.org", Values: edit.Values{"uid": {"other"}}},
		"domain's name": {Op: edit.Add, Kind: edit.Domain, Name: "a b"},
	} {
		if _, err := ed.Do(t.Context(), req); !errors.Is(err, edit.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]edit.Request{
		"domain":        user("x@far.example", edit.Values{}),
		"user":          {Op: edit.Set, Kind: edit.User, Name: "nobody@example.org"},
		"not a list":    {Op: edit.Set, Kind: edit.Group, Name: "u0001@example.org"},
		"by subaddress": {Op: edit.Delete, Kind: edit.User, Name: "u0001+x@example.org"},
	} {
		if _, err := ed.Do(t.Context(), req); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	res := do(t, ed, edit.Request{Op: edit.Set, Kind: edit.Group, Name: "team@example.org", More: edit.Values{"member": {"team@example.org"}}})
	if len(res.Warnings) != 1 || res.Warnings[0].Rule != "list-loop" {
		t.Errorf("a list within itself: %+v", res.Warnings)
	}
	res = do(t, ed, user("x@example.org", edit.Values{"name": nil}))
	if !slices.ContainsFunc(res.Changes, func(e edit.Edit) bool { return e.Attribute == "cn" && e.New[0] == "x" }) {
		t.Errorf("a person must have a name: %+v", res.Changes)
	}
	if _, err := ed.Do(t.Context(), edit.Request{Op: edit.Delete, Kind: edit.User, Name: "shared@example.org"}); !errors.Is(err, directory.ErrAmbiguous) {
		t.Errorf("an address of two: %v", err)
	}
}

func TestGeneric(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree("example.org", 3, 1)), func(c *ldap.Config) {
				c.Schema = directory.Generic()
				c.Domains = []ldap.Domain{
					{Name: "example.org", Base: fixture.Base("example.org")},
					{Name: "new.example", Base: "ou=new,o=isp", Aliases: []string{"also.example"}},
				}
			})
			ed, _ := open(t, d, false)
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "ana@example.org", Values: edit.Values{"mail-host": {"pair1"}, "quota": {"1G"}, "alternate": {"a@example.org"}}})
			if e := as(t, d, "a@example.org"); e.Kind != directory.User || e.Quota.Bytes != 1<<30 {
				t.Errorf("%+v", e)
			}
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Group, Name: "all@example.org", Values: edit.Values{"member": {"ana@example.org", "eva@far.example"}}})
			if e := as(t, d, "all@example.org"); e.Kind != directory.Group || len(e.MemberDNs) != 1 || len(e.MemberAddresses) != 1 {
				t.Errorf("%+v", e)
			}
			if _, err := ed.Do(t.Context(), edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "x.example"}); !errors.Is(err, edit.ErrBadRequest) {
				t.Errorf("domain: %v", err)
			}
			// One that the configuration has needs its base.
			res := do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "new.example"})
			if res.DN != "ou=new,o=isp" || len(res.Also) != 2 {
				t.Errorf("%+v", res)
			}
			do(t, ed, edit.Request{Op: edit.Add, Kind: edit.User, Name: "bo@new.example", Values: edit.Values{"mail-host": {"pair1"}}})
			if e := as(t, d, "bo@also.example"); e.Mailbox != "bo@new.example" || e.DN != "uid=bo,ou=people,ou=new,o=isp" {
				t.Errorf("%+v", e)
			}
			do(t, ed, edit.Request{Op: edit.Rename, Kind: edit.User, Name: "bo@new.example", To: "bob@new.example"})
			for name, req := range map[string]edit.Request{
				"not empty":            {Op: edit.Delete, Kind: edit.Domain, Name: "new.example"},
				"another name of the":  {Op: edit.Delete, Kind: edit.Domain, Name: "also.example"},
				"in the configuration": {Op: edit.Rename, Kind: edit.Domain, Name: "new.example", To: "x.example"},
				ldap.ErrExists.Error(): {Op: edit.Add, Kind: edit.Domain, Name: "new.example"},
				"has no attribute for": {Op: edit.Set, Kind: edit.Domain, Name: "new.example", Values: edit.Values{"status": {"hold"}}},
			} {
				if _, err := ed.Do(t.Context(), req); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%+v: %v, want %q", req, err, name)
				}
			}
			do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.User, Name: "bo@new.example"})
			do(t, ed, edit.Request{Op: edit.Delete, Kind: edit.Domain, Name: "new.example"})
			if dn, _, err := ed.Show(t.Context(), edit.Domain, "new.example"); err == nil {
				t.Errorf("%s is there", dn)
			}
		})
	}
}

func TestAuditBroken(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("example.org", 3, 1)))
	a, err := edit.OpenAudit(filepath.Join(t.TempDir(), "log"), "x", "y")
	if err != nil {
		t.Fatal(err)
	}
	ed, err := edit.New(edit.Config{Directory: d, Pair: pairs, Options: options, Audit: a})
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	set := edit.Request{Op: edit.Set, Kind: edit.User, Name: "u0001@example.org", Values: edit.Values{"quota": {"1M"}}}
	if res, err := ed.Do(t.Context(), set); err == nil || !res.Written {
		t.Errorf("%+v, %v", res, err)
	}
	set.Name = "u0002@example.org"
	if _, err := ed.Do(t.Context(), set); err == nil {
		t.Error("changed without a log")
	}
	if as(t, d, "u0002@example.org").Quota.Bytes != directory.QuotaDefault {
		t.Error("written all the same")
	}
}

// clean reports the findings of the whole directory.
func clean(t *testing.T, d *ldap.Directory) {
	t.Helper()
	_, err := lint.Run(context.Background(), lint.Config{Directory: d, Pair: pairs, Options: options}, func(f lint.Finding) error {
		t.Errorf("left behind: %+v", f)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
