package cache

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
)

// A list that its password protects is not kept on disk: without the password,
// which is never written, it would be open to all.
func TestGuardedList(t *testing.T) {
	tree := strings.Replace(string(fixture.Schema2()), "mail: staff@example.org\n", "mail: staff@example.org\nmgrpAuthPassword: s3cret\n", 1)
	schema := directory.SunSchema2()
	c := New(dirtest.Dial(t, dirtest.Embedded(t, []byte(tree))), Config{})
	for _, address := range []string{"staff@example.org", "bob@example.org"} {
		if _, err := ask(t, c, address); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Entry(t.Context(), "cn=staff,ou=groups,"+fixture.Base("example.org")); err != nil {
		t.Fatal(err)
	}
	p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), Schema: &schema}
	if err := c.Save(p); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p.Path)
	if err != nil || strings.Contains(string(b), "s3cret") || strings.Contains(string(b), "cn=staff") || !strings.Contains(string(b), "uid=bob") {
		t.Errorf("the file, %d octets: %v", len(b), err)
	}
	after := New(&server{}, Config{})
	after.Load(p)
	d, err := after.Domain(t.Context(), "example.org")
	if err != nil {
		t.Fatal(err)
	}
	if ans, err := after.Lookup(t.Context(), d, mail.Address{Local: "staff", Domain: "example.org"}); err == nil && (len(ans.Entries) == 0 || ans.Entries[0].DN == "cn=staff,ou=groups,"+fixture.Base("example.org")) {
		t.Errorf("the list from the file: %+v", ans)
	}
}
