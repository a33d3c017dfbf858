package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// warm asks for some of everything and returns the persistence to save it by.
func warm(t *testing.T, c directory.Directory) {
	t.Helper()
	for _, address := range []string{"ana@example.org", "bob+x@example.net", "staff@example.org", "twice@example.org", "whoever@all.example", "bob@example.com"} {
		if _, err := ask(t, c, address); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ask(t, c, "nobody@example.org"); !errors.Is(err, directory.ErrNotFound) {
		t.Fatal(err)
	}
	e, err := c.Login(t.Context(), "ana@example.org")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Authenticate(t.Context(), e, fixture.Password); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Entry(t.Context(), "uid=eve,ou=people,"+fixture.Base("example.org")); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, c directory.Directory, address string) (*directory.Answer, error) {
	t.Helper()
	a, err := mail.ParseAddress(address, true)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.Domain(t.Context(), a.Domain)
	if err != nil {
		return nil, err
	}
	return c.Lookup(t.Context(), d, a)
}

// TestBootWithoutServer: a relay that starts while the directory is away knows
// whom it knew before, and turns nobody away whom it does not know.
func TestBootWithoutServer(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Schema2())
	schema := directory.SunSchema2()
	schema.Extra = []string{"userPassword"} // a site that lets relays see hashes
	before := New(dirtest.Dial(t, s, func(c *ldap.Config) { c.Schema = schema }), Config{})
	warm(t, before)
	p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), About: "x", Schema: &schema}
	if err := before.Save(p); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(p.Path)
	if err != nil || bytes.Contains(data, []byte(fixture.Password)) || bytes.Contains(bytes.ToLower(data), []byte("userpassword")) {
		t.Fatalf("the file has passwords, or none: %v", err)
	}
	s.Stop()

	var out bytes.Buffer
	p.Log = slog.New(slog.NewTextHandler(&out, nil))
	unavailable := func() float64 { return testutil.ToFloat64(metrics.DirFaults.With("unavailable")) }
	failed := unavailable()
	after := New(dirtest.Dial(t, s), Config{})
	if n := after.Load(p); n != 4+6+1 || !strings.Contains(out.String(), "directory cache of the last run is loaded") {
		t.Errorf("%d answers were loaded, want 11: %s", n, out.String())
	}
	for address, want := range map[string]string{
		"ana@example.org": "ana@example.org", "BOB+X@example.net": "bob@example.org", "whoever@all.example": "rest@all.example", "bob@example.com": "bob@example.com",
	} {
		ans, err := ask(t, after, address)
		if err != nil || ans.Entries[0].Mailbox != want || ans.Entries[0].Domain == nil || ans.Entries[0].Kind != directory.User {
			t.Errorf("%s: %+v, %v", address, ans, err)
		}
		was, _ := ask(t, before, address)
		if ans.Detail != was.Detail || ans.CatchAll != was.CatchAll || ans.Entries[0].MailHost != was.Entries[0].MailHost {
			t.Errorf("%s: %+v, was %+v", address, ans, was)
		}
	}
	for _, address := range []string{"nobody@example.org", "eve@example.org", "x@unknown.example"} {
		if _, err := ask(t, after, address); err == nil || answered(err) {
			t.Errorf("%s: %v, want a temporary failure", address, err)
		}
	}
	if unavailable() == failed {
		t.Error("no fault unavailable was counted")
	}
	// A password is not remembered: nobody logs in by what is on a disk.
	e, err := after.Entry(t.Context(), "uid=eve,ou=people,"+fixture.Base("example.org"))
	if err != nil {
		t.Fatal(err)
	}
	if err := after.Authenticate(t.Context(), e, fixture.Password); err == nil {
		t.Error("a login without a directory")
	}
}

// closedLists is a tree of lists with passwords that their usual attribute does
// not have, one of them the owner of a whole domain.
func closedLists() []byte {
	base := fixture.Base("example.org")
	return fmt.Appendf(fixture.Tree("example.org", 3, 1), `dn: cn=closed,ou=groups,%[1]s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
objectClass: extensibleObject
cn: closed
mail: closed@example.org
uniqueMember: uid=u0001,ou=people,%[1]s
employeeNumber: xyzzy1

dn: uid=odd,ou=people,%[1]s
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: odd
cn: odd
sn: odd
mail: odd@example.org
mailHost: pair1
employeeNumber: xyzzy2

dn: o=all.example,%[2]s
objectClass: organization
objectClass: sunManagedOrganization
objectClass: mailDomain
o: all.example
sunPreferredDomain: all.example

dn: cn=rest,o=all.example,%[2]s
objectClass: groupOfUniqueNames
objectClass: inetMailGroup
objectClass: inetLocalMailRecipient
objectClass: extensibleObject
cn: rest
mail: rest@all.example
mailAlternateAddress: @all.example
uniqueMember: uid=u0001,ou=people,%[1]s
employeeNumber: xyzzy3

`, base, fixture.Root)
}

// TestSecretsByOtherNames: no password of a list is kept on disk, whatever its
// attribute is called, and no list that has one is kept without it: it would be
// open to all.
func TestSecretsByOtherNames(t *testing.T) {
	schema := directory.SunSchema2()
	if err := schema.Rename("mgrpAuthPassword=employeeNumber"); err != nil {
		t.Fatal(err)
	}
	s := dirtest.Embedded(t, closedLists())
	configure := func(c *ldap.Config) { c.Schema = schema }
	c := New(dirtest.Dial(t, s, configure), Config{})
	for address, password := range map[string]string{
		"closed@example.org": "xyzzy1", "odd@example.org": "", "u0001@example.org": "", "whoever@all.example": "xyzzy3", "rest@all.example": "xyzzy3",
	} {
		ans, err := ask(t, c, address)
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		if l := ans.Entries[0].List; password != "" && (l == nil || l.Password != password) {
			t.Fatalf("%s: %+v", address, l)
		}
	}
	if _, err := c.Entry(t.Context(), "cn=closed,ou=groups,"+fixture.Base("example.org")); err != nil {
		t.Fatal(err)
	}
	p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), Schema: &schema}
	if err := c.Save(p); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(p.Path)
	if err != nil || bytes.Contains(data, []byte("xyzzy")) || !bytes.Contains(data, []byte("odd@example.org")) {
		t.Errorf("the file has passwords, or nothing: %v\n%q", err, data)
	}
	s.Stop()
	after := New(dirtest.Dial(t, s, configure), Config{})
	after.Load(p)
	for _, address := range []string{"odd@example.org", "u0001@example.org"} {
		if _, err := ask(t, after, address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"closed@example.org", "whoever@all.example", "rest@all.example"} {
		if ans, err := ask(t, after, address); err == nil || answered(err) {
			t.Errorf("%s: %+v, %v, want a temporary failure", address, ans, err)
		}
	}
}

// TestAgeOfSaved: what was saved grows no younger by being loaded.
func TestAgeOfSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schema := directory.SunSchema2()
		p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), Schema: &schema}
		s := &server{}
		before := New(s, Config{})
		if _, err := before.Domain(t.Context(), "x.test"); err != nil {
			t.Fatal(err)
		}
		if err := before.Save(p); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Minute)
		after := New(s, Config{})
		if n := after.Load(p); n != 1 {
			t.Fatalf("%d answers", n)
		}
		get := func() (int32, error) {
			had := s.asked.Load()
			_, err := after.Domain(t.Context(), "x.test")
			return s.asked.Load() - had, err
		}
		if n, err := get(); n != 0 || err != nil {
			t.Errorf("fresh for a minute more: asked %d times, %v", n, err)
		}
		time.Sleep(2 * time.Minute)
		s.err = directory.ErrUnavailable
		if n, err := get(); n != 1 || err != nil {
			t.Errorf("stale: asked %d times, %v", n, err)
		}
		time.Sleep(50 * time.Minute)
		if _, err := get(); !errors.Is(err, directory.ErrUnavailable) {
			t.Errorf("past the hard limit: %v", err)
		}
		if n := New(s, Config{}).Load(p); n != 0 {
			t.Errorf("%d answers past the hard limit were loaded", n)
		}
	})
}

// TestDamagedFile: whatever is in the file, the cache begins empty, says why,
// and works.
func TestDamagedFile(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Schema2())
	schema := directory.SunSchema2()
	c := New(dirtest.Dial(t, s), Config{})
	warm(t, c)
	p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), About: "one", Schema: &schema}
	if New(&server{}, Config{}).Load(p) != 0 {
		t.Error("something came from no file")
	}
	if err := c.Save(p); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for name, data := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)-1], "cut in the middle": good[:len(good)/2], "flipped": flipped,
		"another version": append([]byte("postern directory cache 2\n"), good[len(magic):]...),
		"longer":          append(bytes.Clone(good), 'x'), "text": []byte(strings.Repeat("hello ", 100)),
	} {
		var out bytes.Buffer
		p.Log = slog.New(slog.NewTextHandler(&out, nil))
		if err := os.WriteFile(p.Path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		fresh := New(dirtest.Dial(t, s), Config{})
		if n := fresh.Load(p); n != 0 || fresh.domains.len()+fresh.addresses.len()+fresh.entries.len() != 0 || !strings.Contains(out.String(), "not used") {
			t.Errorf("%s: %d answers, log %s", name, n, out.String())
		}
		if _, err := ask(t, fresh, "ana@example.org"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	p.Log = nil
	if err := os.WriteFile(p.Path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := New(&server{}, Config{}).Load(p); n != 11 {
		t.Errorf("the good file: %d answers", n)
	}
	p.About = "two"
	if n := New(&server{}, Config{}).Load(p); n != 0 {
		t.Errorf("another directory's file: %d answers", n)
	}
}

// TestSaveIsBounded: no more is written than is allowed, by about one answer.
func TestSaveIsBounded(t *testing.T) {
	schema := directory.SunSchema2()
	c := New(dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("x.test", 300, 1))), Config{})
	for n := range 300 {
		if _, err := ask(t, c, fixture.UID(n+1)+"@x.test"); err != nil {
			t.Fatal(err)
		}
	}
	p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), Schema: &schema, Bytes: 20000}
	if err := c.Save(p); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(p.Path)
	if err != nil || info.Size() < 15000 || info.Size() > 22000 {
		t.Errorf("%v octets, %v", info.Size(), err)
	}
	if n := New(&server{}, Config{}).Load(p); n < 10 || n > 100 {
		t.Errorf("%d answers", n)
	}
}

// TestRoundTrips: a recipient costs one request when the domain is known, and
// none for as long as it is remembered.
func TestRoundTrips(t *testing.T) {
	c := New(dirtest.Dial(t, dirtest.Embedded(t, fixture.Tree("x.test", 50, 1))), Config{})
	trips := func() float64 { return testutil.ToFloat64(metrics.DirRoundTrips.With("search")) }
	if _, err := c.Domain(t.Context(), "x.test"); err != nil {
		t.Fatal(err)
	}
	for round, want := range []float64{50, 0, 0} {
		before, hits := trips(), testutil.ToFloat64(metrics.DirAnswers.With("address", "cache"))
		for n := range 50 {
			if _, err := ask(t, c, fixture.UID(n+1)+"@x.test"); err != nil {
				t.Fatal(err)
			}
		}
		if got := trips() - before; got != want {
			t.Errorf("round %d: %v requests for 50 recipients, want %v", round, got, want)
		}
		if got := testutil.ToFloat64(metrics.DirAnswers.With("address", "cache")) - hits; got != 50-want {
			t.Errorf("round %d: %v answers from the cache", round, got)
		}
	}
}

// TestVanityIsRememberedAsUnknown: a name that is nobody's costs a search of
// the whole tree once a minute and no more.
func TestVanityIsRememberedAsUnknown(t *testing.T) {
	c := New(dirtest.Dial(t, dirtest.Embedded(t, fixture.Schema2()), func(c *ldap.Config) { c.Vanity = true }), Config{})
	trips := func() float64 { return testutil.ToFloat64(metrics.DirRoundTrips.With("search")) }
	for round, want := range []float64{2, 0, 0} { // its entry, and its user
		before := trips()
		if _, err := c.Domain(t.Context(), "nowhere.example"); !errors.Is(err, directory.ErrNotFound) {
			t.Fatal(err)
		}
		if got := trips() - before; got != want {
			t.Errorf("round %d: %v requests, want %v", round, got, want)
		}
	}
	if _, err := ask(t, c, "me@vain.example"); err != nil {
		t.Error(err)
	}
}

// TestKeep saves by and by, and at the end.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schema := directory.SunSchema2()
		p := Persistence{Path: filepath.Join(t.TempDir(), "cache"), Schema: &schema, Every: time.Minute}
		c := New(&server{}, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.Keep(ctx, p)
		}()
		load := func() int { return New(&server{}, Config{}).Load(p) }
		_, _ = c.Domain(ctx, "a.test")
		time.Sleep(61 * time.Second)
		if n := load(); n != 1 {
			t.Errorf("%d answers after a minute", n)
		}
		_, _ = c.Domain(ctx, "b.test")
		cancel()
		<-done
		if n := load(); n != 2 {
			t.Errorf("%d answers at the end", n)
		}
	})
}

// TestFlushCatchAllOwner: who owns the rest of a domain is part of the domain.
func TestFlushCatchAllOwner(t *testing.T) {
	c := New(dirtest.Dial(t, dirtest.Embedded(t, fixture.Schema2())), Config{})
	if _, err := ask(t, c, "whoever@all.example"); err != nil {
		t.Fatal(err)
	}
	c.FlushAddress(mail.Address{Local: "rest", Domain: "all.example"})
	if c.domains.len() != 0 || c.addresses.len() != 0 {
		t.Errorf("%d domains and %d addresses are left", c.domains.len(), c.addresses.len())
	}
}

func FuzzLoad(f *testing.F) {
	schema := directory.SunSchema2()
	w := &writer{secret: (&Persistence{}).secret}
	w.time(time.Now())
	w.string("x")
	w.b = append(w.b, 'd')
	w.time(time.Now())
	w.string("x.test")
	w.string(`{"Name":"x.test"}`)
	w.b = append(w.b, 'a')
	w.time(time.Now())
	for _, s := range []string{"x.test\x00a\x00x.test", "x.test", "", ""} {
		w.string(s)
	}
	w.number(1)
	w.entry(&directory.Entry{DN: "uid=a", Raw: directory.Attributes{{Name: "mail", Values: []string{"a@x.test"}}}})
	f.Add(w.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(&server{}, Config{})
		r := &reader{b: b}
		r.time()
		r.string()
		p := &Persistence{Schema: &schema}
		domains := map[string]*directory.Domain{}
		for len(r.b) > 0 {
			kind := r.b[0]
			r.b = r.b[1:]
			if _, err := c.loadOne(kind, r, p, domains); err != nil {
				break
			}
		}
	})
}
