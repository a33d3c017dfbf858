package edit_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

const table = `kind,domain,address,name,uid,mail-host,quota,alternate,forward,member,password,status
domain,new.example,,,,pair1,,,,,,
user,,ana@new.example,"Silva, Ana",ana,,50M,a@new.example;silva@new.example,,,geheim,
user,,bob@new.example,Bob,,pair2,1G,,ana@new.example;bob@far.example,,,
user,,bad@new.example,Bad,,,many,,,,,
user,,twice@new.example,Twice,,,,a@new.example,,,,
group,,all@new.example,Everybody,,,,,,ana@new.example;bob@new.example;x@far.example,,
`

// load carries out all rows and returns what became of each.
func load(t *testing.T, ed *edit.Editor, read func(take func(edit.Row) error) error) (out []string) {
	t.Helper()
	err := read(func(r edit.Row) error {
		res, err := r.Do(t.Context(), ed)
		var no *edit.Refused
		switch {
		case errors.As(err, &no):
			out = append(out, no.Findings[0].Rule)
		case errors.Is(err, ldap.ErrExists):
			out = append(out, "exists")
		case err != nil:
			out = append(out, err.Error())
		case len(res.Changes) == 0:
			out = append(out, "same")
		default:
			out = append(out, string(res.Op))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fromCSV(text string, update bool) func(func(edit.Row) error) error {
	return func(take func(edit.Row) error) error { return edit.CSV(strings.NewReader(text), "", update, take) }
}

func TestImportCSV(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, start(t, fixture.Tree("example.org", 5, 3)))
			want := []string{"add", "add", "add", "bad-quota", "ambiguous-address", "add"}
			dry, _ := open(t, d, true)
			if got := load(t, dry, fromCSV(table, false)); !slices.Equal(got, want) {
				t.Errorf("dry run: %q, want %q", got, want)
			}
			if _, err := d.Domain(t.Context(), "new.example"); !errors.Is(err, directory.ErrNotFound) {
				t.Fatalf("the dry run has left something: %v", err)
			}
			ed, _ := open(t, d, false)
			if got := load(t, ed, fromCSV(table, false)); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			clean(t, d)
			if e := as(t, d, "silva@new.example"); e.Raw.First("mailHost") != "pair1" || e.Quota.Bytes != 50<<20 {
				t.Errorf("%+v", e)
			}
			if e := as(t, d, "all@new.example"); len(e.MemberDNs) != 2 || len(e.MemberAddresses) != 1 {
				t.Errorf("%+v", e)
			}
			if got := load(t, ed, fromCSV(table, false)); got[0] != "domain-overlap" && got[0] != "exists" || got[1] != "exists" || got[5] != "exists" {
				t.Errorf("once more: %q", got)
			}
			again := []string{"same", "same", "same", "bad-quota", "ambiguous-address", "same"}
			if got := load(t, ed, fromCSV(table, true)); !slices.Equal(got, again) {
				t.Errorf("once more with update: %q, want %q", got, again)
			}
			if got := load(t, ed, fromCSV("kind,address,quota,alternate\nuser,ana@new.example,2G,-\n", true)); !slices.Equal(got, []string{"set"}) {
				t.Errorf("%q", got)
			}
			if e := as(t, d, "ana@new.example"); e.Quota.Bytes != 2<<30 || len(e.Alternate) != 0 {
				t.Errorf("%+v", e)
			}
		})
	}
	for text, want := range map[string]string{
		"":                                 "no line",
		"name,quota\n":                     "no column address",
		"address;quota\na@b.example;1M\n":  "separated by commas",
		"address,colour\n":                 "no field",
		"address,name\na@b.example,\xf6\n": "line 2 is not UTF-8",
		"address,quota,quota\n":            "there already",
		"address,quota\na@b.example\n":     "wrong number of fields",
		"address,quota\n\"a@b.example,x,":  "quote",
	} {
		if err := fromCSV(text, false)(func(edit.Row) error { return nil }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLDIF(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			from := dirtest.Dial(t, start(t, fixture.Tree("example.org", 30, 3)))
			src, _ := open(t, from, false)
			var text bytes.Buffer
			n, err := src.WriteLDIF(t.Context(), &text, edit.Export{Domain: "example.org"})
			if err != nil || n != 34 || strings.Contains(strings.ToLower(text.String()), "userpassword") {
				t.Fatalf("%d, %v", n, err)
			}
			to := dirtest.Dial(t, start(t, fixture.Tree("other.example", 0, 1)))
			ed, _ := open(t, to, false)
			boxes := "dn: ou=people,o=example.org,o=isp\nobjectClass: organizationalUnit\nou: people\n\ndn: ou=groups,o=example.org,o=isp\nobjectClass: organizationalUnit\nou: groups\n\n"
			domain, rest, _ := strings.Cut(text.String(), "\n\n")
			all := domain + "\n\n" + boxes + rest
			read := func(text string, update bool) func(func(edit.Row) error) error {
				return func(take func(edit.Row) error) error { return edit.LDIF(strings.NewReader(text), update, take) }
			}
			got := load(t, ed, read(all, false))
			if len(got) != 36 || slices.ContainsFunc(got, func(s string) bool { return s != "add" }) {
				t.Errorf("%q", got)
			}
			clean(t, to)
			if got := load(t, ed, read(all, true)); len(got) != 36 || slices.ContainsFunc(got, func(s string) bool { return s != "same" }) {
				t.Errorf("once more: %q", got)
			}
			changes := `dn: uid=u0001,ou=people,o=example.org,o=isp
changetype: modify
add: mailAlternateAddress
mailAlternateAddress: u0002@example.org
-

dn: uid=u0002,ou=people,o=example.org,o=isp
changetype: modify
replace: mailQuota
mailQuota: 1G
-
delete: mailUserStatus
-

dn: uid=u0003,ou=people,o=example.org,o=isp
changetype: delete

dn: uid=left,ou=people,o=example.org,o=isp
changetype: delete
`
			if got := load(t, ed, read(changes, false)); !slices.Equal(got[:3], []string{"ambiguous-address", "set", "delete"}) || !strings.Contains(got[3], "not found") {
				t.Errorf("%q", got)
			}
			if e := as(t, to, "u0002@example.org"); e.Quota.Bytes != 1<<30 || e.Raw.First("mailUserStatus") != "" {
				t.Errorf("%+v", e)
			}
			ldifRenames(t, to, ed, read)
		})
	}
}

// ldifRenames renames entries by LDIF, where no mailbox gets another name.
func ldifRenames(t *testing.T, to *ldap.Directory, ed *edit.Editor, read func(text string, update bool) func(func(edit.Row) error) error) {
	t.Helper()
	renames := `dn: cn=team,ou=groups,o=example.org,o=isp
changetype: modrdn
newrdn: cn=crew
deleteoldrdn: 1

dn: uid=u0002,ou=people,o=example.org,o=isp
changetype: modrdn
newrdn: cn=User Two
deleteoldrdn: 0

dn: uid=u0004,ou=people,o=example.org,o=isp
changetype: modrdn
newrdn: uid=other
deleteoldrdn: 1

dn: cn=list,ou=groups,o=example.org,o=isp
changetype: modrdn
newrdn: cn=crew
deleteoldrdn: 1

dn: o=example.org,o=isp
changetype: modrdn
newrdn: o=x
deleteoldrdn: 1
`
	got := load(t, ed, read(renames, false))
	if !slices.Equal(got[:2], []string{"rename", "rename"}) || !strings.Contains(got[2], "another one") || got[3] != "exists" || !strings.Contains(got[4], "by its name") {
		t.Errorf("%q", got)
	}
	if e := as(t, to, "u0002@example.org"); e.DN != "cn=User Two,ou=people,o=example.org,o=isp" || e.Mailbox != "u0002@example.org" {
		t.Errorf("%+v", e)
	}
	if e := as(t, to, "team@example.org"); e.DN != "cn=crew,ou=groups,o=example.org,o=isp" || !slices.Contains(e.MemberDNs, "cn=User Two,ou=people,o=example.org,o=isp") || slices.Contains(e.Raw.Get("cn"), "team") {
		t.Errorf("%+v", e)
	}
}

func TestExportCSV(t *testing.T) {
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("example.org", 30, 3)))
	ed, _ := open(t, d, false)
	for kind, want := range map[edit.Kind]int{edit.Domain: 1, edit.User: 31, edit.Group: 2} {
		var text bytes.Buffer
		n, err := ed.WriteCSV(t.Context(), &text, edit.Export{Kind: kind})
		if err != nil || n != want {
			t.Fatalf("%s: %d, %v", kind, n, err)
		}
		if rows, err := csv.NewReader(bytes.NewReader(text.Bytes())).ReadAll(); err != nil || len(rows) != want+1 {
			t.Errorf("%s: %d rows, %v", kind, len(rows), err)
		}
		// What was written is what is there.
		got := load(t, ed, func(take func(edit.Row) error) error { return edit.CSV(&text, kind, true, take) })
		if len(got) != want || slices.ContainsFunc(got, func(s string) bool { return s != "same" }) {
			t.Errorf("%s: %q", kind, got)
		}
	}
	if _, err := ed.WriteCSV(t.Context(), &bytes.Buffer{}, edit.Export{}); !errors.Is(err, edit.ErrBadRequest) {
		t.Errorf("all kinds in one table: %v", err)
	}
}

func FuzzCSV(f *testing.F) {
	f.Add(table)
	f.Add("address,attr:x\n\"a;b\",c;;d\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = edit.CSV(strings.NewReader(text), edit.User, true, func(r edit.Row) error {
			if r.Line < 1 || r.Do == nil {
				t.Error("a row without line")
			}
			return context.Cause(t.Context())
		})
	})
}

// TestImportGoesOn: a table that makes a domain, and the run of which ended after
// any of the domain's writes, comes to the same when it is imported again with
// --update; a domain that is in use is only changed.
func TestImportGoesOn(t *testing.T) {
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			s := start(t, fixture.Tree("example.org", 2, 0))
			d := dirtest.Dial(t, s)
			was := all(t, d, fixture.Root)
			ed, _ := open(t, d, false)
			load(t, ed, fromCSV(table, true))
			want := withoutSecrets(dump(t, d, fixture.Root))
			for n := 1; n <= 2; n++ {
				again(t, d, was, fixture.Root)
				ed, _ := open(t, d, false)
				do(t, ed, edit.Request{Op: edit.Add, Kind: edit.Domain, Name: "new.example", Values: edit.Values{"mail-host": {"pair1"}}})
				for _, ou := range []string{"ou=groups,", "ou=people,"}[:n] {
					if err := d.Delete(t.Context(), ou+"o=new.example,o=isp"); err != nil {
						t.Fatal(err)
					}
				}
				ed, _ = open(t, d, false)
				load(t, ed, fromCSV(table, true))
				if now := withoutSecrets(dump(t, d, fixture.Root)); now != want {
					t.Errorf("%d containers were missing:\n%s", n, difference(want, now))
				}
			}
			if err := d.Delete(t.Context(), "cn=all,ou=groups,o=new.example,o=isp"); err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(t.Context(), "ou=groups,o=new.example,o=isp"); err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(table, "user,")
			if got := load(t, ed, fromCSV(text, true)); !slices.Equal(got, []string{"same"}) {
				t.Errorf("a domain in use: %q", got)
			}
			if _, _, err := d.Raw(t.Context(), "ou=groups,o=new.example,o=isp"); !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("a domain in use has its container again: %v", err)
			}
		})
	}
}

// withoutSecrets leaves out what two runs cannot make alike: hashes have salt.
func withoutSecrets(dump string) string {
	lines := strings.Split(dump, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, "\tuserpassword:") }), "\n")
}
