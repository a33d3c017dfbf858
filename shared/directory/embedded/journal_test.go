package embedded_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.ldif")
	start := func(t *testing.T) dirtest.Server {
		return dirtest.Embedded(t, fixture.Tree("x.test", 3, 1), func(c *embedded.Config) { c.Journal = path })
	}
	s := start(t)
	c := root(t, s)
	add := ldap.NewAddRequest("uid=neu,"+people, nil)
	add.Attribute("objectClass", []string{"inetOrgPerson"})
	add.Attribute("description", []string{" leading", "größe", strings.Repeat("long ", 50), "line\nend", ":colon", "trailing "})
	m := ldap.NewModifyRequest("uid=u0001,"+people, nil)
	m.Replace("mailHost", []string{"pair7"})
	m.Delete("mailAlternateAddress", []string{"postmaster@x.test"})
	m.Add("mailQuota", []string{"1G"})
	for i, err := range []error{
		c.Add(add), c.Modify(m),
		c.ModifyDN(ldap.NewModifyDNRequest("ou=groups,"+fixture.Base("x.test"), "ou=lists", true, "o=isp")),
		c.Del(ldap.NewDelRequest("uid=u0002,"+people, nil)),
	} {
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	want := dump(t, c)
	whole := func(c *ldap.Conn) string {
		res, err := c.Search(ldap.NewSearchRequest("uid=u0001,"+people, 0, 0, 0, 0, false, "(objectClass=*)", []string{"+"}, nil))
		if err != nil {
			t.Fatal(err)
		}
		return res.Entries[0].GetAttributeValue("entryCSN") + res.Entries[0].GetAttributeValue("createTimestamp")
	}
	stamp := whole(c)
	s.Stop()
	s = start(t)
	c = root(t, s)
	if got := dump(t, c); !slices.Equal(got, want) || whole(c) != stamp {
		t.Errorf("after a restart:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	s.Stop()

	// A crash in the middle of a write: each length of the last record.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := strings.LastIndex(strings.TrimSuffix(string(data), "\n\n"), "\n\n") + 2
	for _, cut := range []int{last, last + 1, last + 20, last + 50, len(data) - 2, len(data) - 1} {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		srv, err := embedded.New(embedded.Config{Journal: path})
		if err != nil {
			t.Errorf("cut at %d of %d: %v", cut, len(data), err)
			continue
		}
		if n := srv.Len(); n != len(dns(want))+1 { // the deletion never happened
			t.Errorf("cut at %d: %d entries", cut, n)
		}
		srv.Close()
		if again, err := os.ReadFile(path); err != nil || len(again) != last {
			t.Errorf("cut at %d: the rest was not removed: %d of %d", cut, len(again), last)
		}
	}
	// Damage anywhere else is not a crash.
	broken := slices.Clone(data)
	copy(broken[len(broken)/2:], "\x00\x00\x00\x00")
	if err := os.WriteFile(path, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if srv, err := embedded.New(embedded.Config{Journal: path}); err == nil {
		t.Error("a damaged journal was taken")
		srv.Close()
	}
}

func dns(lines []string) map[string]bool {
	out := map[string]bool{}
	for _, l := range lines {
		dn, _, _ := strings.Cut(l, " objectclass:")
		if dn != l {
			out[dn] = true
		}
	}
	return out
}
