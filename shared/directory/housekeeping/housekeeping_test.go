package housekeeping_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/edit"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/housekeeping"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is what pairs hold, by pair and account.
type store struct {
	held   map[string]map[string]housekeeping.Used
	silent map[string]error // pairs that do not answer
	broken map[string]error // pairs that remove nothing
	before func()           // a removal
}

func (s *store) Names() []string { return slices.Sorted(maps.Keys(s.held)) }

func (s *store) Usage(_ context.Context, pair string, each func(housekeeping.Used)) error {
	for _, name := range slices.Sorted(maps.Keys(s.held[pair])) {
		each(s.held[pair][name])
	}
	return s.silent[pair] // after a part of the answer, which then is none
}

func (s *store) Remove(_ context.Context, pair, account string) error {
	if s.before != nil {
		s.before()
	}
	if err := s.broken[pair]; err != nil {
		return err
	}
	if _, ok := s.held[pair][account]; !ok {
		return errors.New("no such account")
	}
	delete(s.held[pair], account)
	return nil
}

func (s *store) put(pair, account string, bytes, messages int64) {
	if s.held[pair] == nil {
		s.held[pair] = map[string]housekeeping.Used{}
	}
	s.held[pair][account] = housekeeping.Used{Account: account, Bytes: bytes, Messages: messages, LimitBytes: -1, LimitMessages: -1}
}

func (s *store) all() string {
	var out []string
	for pair, list := range s.held {
		for name := range list {
			out = append(out, pair+":"+name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// site is a directory and its pairs.
type site struct {
	t     *testing.T
	d     *ldap.Directory
	s     store
	audit string
}

var servers = map[string]func(t testing.TB, ldif []byte) dirtest.Server{
	"embedded": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
	"openldap": func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
	"389":      func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.DS389(t, ldif) },
}

var trees = map[string]func() []byte{
	"sun-schema1": fixture.Schema1, "sun-schema2": fixture.Schema2, "sun-compat": fixture.Compatible,
}

// everywhere runs f on each server with each tree of the Sun schemas.
func everywhere(t *testing.T, f func(t *testing.T, s *site)) {
	for server, start := range servers {
		t.Run(server, func(t *testing.T) {
			for preset, tree := range trees {
				t.Run(preset, func(t *testing.T) { f(t, open(t, start(t, tree()), preset)) })
			}
		})
	}
}

func open(t *testing.T, srv dirtest.Server, preset string) *site {
	t.Helper()
	schema, err := directory.Preset(preset)
	if err != nil {
		t.Fatal(err)
	}
	d := dirtest.Dial(t, srv, func(c *ldap.Config) {
		c.Schema, c.DefaultDomain = schema, "example.org"
		if schema.Layout != directory.LayoutOrganization {
			c.DCRoot = fixture.DCRoot
		}
	})
	return &site{t: t, d: d, s: store{held: map[string]map[string]housekeeping.Used{"pair1": {}}}, audit: filepath.Join(t.TempDir(), "audit.log")}
}

func pairs(host string) (string, bool) {
	name, _, _ := strings.Cut(host, ".")
	return name, name == "pair1" || name == "pair2"
}

// config is for a run that changes something, unless dry.
func (s *site) config(dry bool) housekeeping.Config {
	s.t.Helper()
	a, err := edit.OpenAudit(s.audit, "tester", "cn=root")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { a.Close() })
	ed, err := edit.New(edit.Config{Directory: s.d, Pair: pairs, Options: []string{"#*mailbox=x", "#&members=*", "#*^!autoreply=x"}, Audit: a, DryRun: dry, Faulty: true})
	if err != nil {
		s.t.Fatal(err)
	}
	return housekeeping.Config{Directory: s.d, Editor: ed, Pairs: &s.s, Pair: pairs}
}

// set changes attributes of an entry: NAME=VALUE, or NAME= for none.
func (s *site) set(dn string, values ...string) {
	s.t.Helper()
	var mods []ldap.Modification
	for _, v := range values {
		name, value, _ := strings.Cut(v, "=")
		m := ldap.Modification{Attribute: name}
		if value != "" {
			m.Values = []string{value}
		}
		mods = append(mods, m)
	}
	if err := s.d.Modify(s.t.Context(), dn, mods); err != nil {
		s.t.Fatal(err)
	}
}

// domain is the entry of a domain.
func (s *site) domain(name string) *directory.Domain {
	s.t.Helper()
	d, err := s.d.Domain(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func person(uid, domain string) string { return "uid=" + uid + ",ou=people," + fixture.Base(domain) }

// status is that of a user's mail.
func (s *site) status(dn string) string {
	s.t.Helper()
	e, err := s.d.Entry(s.t.Context(), dn)
	if err != nil {
		return err.Error()
	}
	return e.MailStatus.String()
}

func (s *site) quota(cfg housekeeping.Config, users bool) *housekeeping.Report {
	s.t.Helper()
	rep, err := housekeeping.Quota(s.t.Context(), cfg, housekeeping.QuotaOptions{Users: users})
	if err != nil {
		s.t.Fatal(err)
	}
	return rep
}

func (s *site) log() string {
	s.t.Helper()
	text, err := os.ReadFile(s.audit)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

func of(rep *housekeeping.Report, dn string) *housekeeping.DomainQuota {
	for _, d := range rep.Domains {
		if strings.EqualFold(d.DN, dn) {
			return d
		}
	}
	return &housekeeping.DomainQuota{}
}

// TestDomainQuota: the sum over all pairs at N-1, N and N+1, and back.
func TestDomainQuota(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		const gig = 1 << 30
		dn := s.domain("example.org").DN // with 10G
		s.s.put("pair1", "ana@example.org", 6*gig, 10)
		s.s.put("pair1", "bob@example.com", 50*gig, 10) // another domain
		s.s.put("pair2", "bob@example.org", 4*gig-1, 10)
		rep := s.quota(s.config(false), false)
		if d := of(rep, dn); d.Bytes != 10*gig-1 || d.Messages != 20 || d.Mailboxes != 2 || d.LimitBytes != 10*gig || d.Action != "" || d.Skipped != "" {
			t.Errorf("one octet below: %+v", d)
		}
		s.s.put("pair2", "bob@example.org", 4*gig, 10)
		if d := of(s.quota(s.config(true), false), dn); d.Action != housekeeping.SetOverQuota || d.Done || s.domain("example.org").MailStatus != directory.Active {
			t.Errorf("dry run: %+v", d)
		}
		if d := of(s.quota(s.config(false), false), dn); d.Action != housekeeping.SetOverQuota || !d.Done {
			t.Errorf("full: %+v", d)
		}
		for _, name := range []string{"example.org", "third.example"} {
			if d := s.domain(name); d.MailStatus != directory.OverQuota {
				t.Errorf("%s is %v", name, d.MailStatus)
			}
		}
		if other := s.domain("example.com"); other.MailStatus != directory.Active {
			t.Errorf("example.com is %v", other.MailStatus)
		}
		if !strings.Contains(s.log(), `"overquota"`) {
			t.Errorf("audit log: %s", s.log())
		}
		s.s.put("pair2", "bob@example.org", 4*gig+1, 10)
		if d := of(s.quota(s.config(false), false), dn); d.Action != "" || d.Skipped != "" || d.Error != "" {
			t.Errorf("it was so already: %+v", d)
		}
		s.s.put("pair2", "bob@example.org", 1, 10)
		if d := of(s.quota(s.config(false), false), dn); d.Action != housekeeping.ClearOverQuota || !d.Done || s.domain("example.org").MailStatus != directory.Active {
			t.Errorf("below again: %+v", d)
		}
		// Messages, and a limit that is taken away.
		s.set(dn, "mailDomainMsgQuota=20")
		s.quota(s.config(false), false)
		if d := s.domain("example.org"); d.MailStatus != directory.OverQuota {
			t.Errorf("20 of 20 messages: %v", d.MailStatus)
		}
		s.set(dn, "mailDomainMsgQuota=-1", "mailDomainDiskQuota=")
		s.quota(s.config(false), false)
		if d := s.domain("example.org"); d.MailStatus != directory.Active {
			t.Errorf("no quota: %v", d.MailStatus)
		}
		// A status that says something else is the operator's.
		s.set(dn, "mailDomainMsgQuota=1", "mailDomainStatus=hold")
		if d := of(s.quota(s.config(false), false), dn); d.Action != "" || s.domain("example.org").MailStatus != directory.Hold {
			t.Errorf("on hold: %+v", d)
		}
	})
}

// TestSilentPair: what a pair that does not answer may hold decides nothing, one
// way or the other, for the domains that have users there, and for no others.
func TestSilentPair(t *testing.T) {
	s := open(t, dirtest.Embedded(t, fixture.Schema2()), "sun-schema2")
	s.set(person("bob", "example.org"), "mailHost=pair2")
	s.set(s.domain("example.com").DN, "mailDomainDiskQuota=10")
	s.set(s.domain("all.example").DN, "mailDomainDiskQuota=10", "mailDomainStatus=overquota")
	s.s.put("pair1", "ana@example.org", 11<<30, 1)
	s.s.put("pair1", "bob@example.com", 11, 1)
	s.s.put("pair2", "bob@example.org", 1, 1)
	s.s.silent = map[string]error{"pair2": errors.New("no answer in time")}
	rep := s.quota(s.config(false), false)
	org := of(rep, s.domain("example.org").DN)
	if org.Action != "" || !strings.Contains(org.Skipped, "pair2") || s.domain("example.org").MailStatus != directory.Active {
		t.Errorf("%+v", org)
	}
	if len(rep.Silent) != 1 || rep.Silent[0].Pair != "pair2" || rep.Failed() == 0 {
		t.Errorf("%+v", rep)
	}
	if com, all := s.domain("example.com"), s.domain("all.example"); com.MailStatus != directory.OverQuota || all.MailStatus != directory.Active {
		t.Errorf("without users there: %v, %v", com.MailStatus, all.MailStatus)
	}
	// Neither cleared.
	s.s.silent = nil
	s.quota(s.config(false), false)
	s.s.put("pair1", "ana@example.org", 1, 1)
	s.s.silent = map[string]error{"pair2": errors.New("no answer in time")}
	s.quota(s.config(false), false)
	if d := s.domain("example.org"); d.MailStatus != directory.OverQuota {
		t.Errorf("cleared without knowing: %v", d.MailStatus)
	}
	// A pair that nobody knows of any more is as silent as one that is away.
	s.s.silent = nil
	s.set(person("bob", "example.org"), "mailHost=pair9")
	if org := of(s.quota(s.config(false), false), s.domain("example.org").DN); org.Action != "" || !strings.Contains(org.Skipped, "pair9") {
		t.Errorf("%+v", org)
	}
	cfg := s.config(false)
	cfg.Elsewhere = []string{"Pair9"}
	if org := of(s.quota(cfg, false), s.domain("example.org").DN); org.Action != housekeeping.ClearOverQuota || !org.Done {
		t.Errorf("%+v", org)
	}
}

// TestUserQuota: the entry's limit, or else the pair's.
func TestUserQuota(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		ana, some, torn := person("ana", "example.org"), person("some", "all.example"), person("torn", "example.org")
		s.s.put("pair1", "ana@example.org", 50<<20, 10) // mailQuota: 50M
		s.s.put("pair1", "some@all.example", 100, 10)
		s.s.held["pair1"]["some@all.example"] = housekeeping.Used{Account: "some@all.example", Bytes: 100, Messages: 10, LimitBytes: -1, LimitMessages: 10}
		s.s.put("pair1", "torn@example.org", 1<<40, 1)
		s.set(some, "mailAlternateAddress=rest@all.example") // another fault of an entry is no reason to leave it
		s.quota(s.config(false), false)
		if got := s.status(ana); got != "active" {
			t.Errorf("without being asked to: %s", got)
		}
		rep := s.quota(s.config(false), true)
		if len(rep.Users) != 2 || s.status(ana) != "overquota" || s.status(some) != "overquota" || s.status(torn) != "inactive" {
			t.Errorf("%+v: %s, %s, %s", rep.Users, s.status(ana), s.status(some), s.status(torn))
		}
		s.set(ana, "mailQuota=51M")
		s.s.put("pair1", "some@all.example", 100, 9)
		if rep = s.quota(s.config(false), true); len(rep.Users) != 2 || s.status(ana) != "active" || s.status(some) != "active" {
			t.Errorf("%+v: %s, %s", rep.Users, s.status(ana), s.status(some))
		}
	})
}

// TestAway: a directory that does not answer whole changes nothing.
func TestAway(t *testing.T) {
	srv := dirtest.Embedded(t, fixture.Schema2())
	s := open(t, srv, "sun-schema2")
	s.set(person("bob", "example.org"), "mailUserStatus=deleted")
	s.s.put("pair1", "bob@example.org", 11<<30, 1)
	cfg := s.config(false)
	cfg.Domain = "third.example" // an alias
	if rep, err := housekeeping.Quota(t.Context(), cfg, housekeeping.QuotaOptions{}); !errors.Is(err, directory.ErrNotFound) {
		t.Errorf("%+v, %v", rep, err)
	}
	cfg.Domain = ""
	srv.Stop()
	if rep, err := housekeeping.Quota(t.Context(), cfg, housekeeping.QuotaOptions{}); err == nil {
		t.Errorf("%+v", rep)
	}
	if rep, err := housekeeping.Purge(t.Context(), cfg, housekeeping.PurgeOptions{Now: time.Now().AddDate(1, 0, 0)}); err == nil || s.s.all() == "" {
		t.Errorf("%+v, left %q", rep, s.s.all())
	}
}

const grace = 10 * 24 * time.Hour

func (s *site) purge(cfg housekeeping.Config, after time.Duration, change ...func(*housekeeping.PurgeOptions)) *housekeeping.PurgeReport {
	s.t.Helper()
	opt := housekeeping.PurgeOptions{Grace: grace, Now: time.Now().Add(after)}
	for _, f := range change {
		f(&opt)
	}
	rep, err := housekeeping.Purge(s.t.Context(), cfg, opt)
	if err != nil {
		s.t.Fatal(err)
	}
	return rep
}

func entries(o *housekeeping.PurgeOptions) { o.Entries = true }

func summary(rep *housekeeping.PurgeReport) string {
	var out []string
	for _, p := range rep.Entries {
		word := "open"
		switch {
		case p.Error != "":
			word = "error " + p.Error
		case p.Skipped != "":
			word = "skipped"
		case p.Waits != "":
			word = "waits"
		case p.Done:
			word = "done"
		}
		out = append(out, fmt.Sprintf("%s %s %s", p.Action, p.Name, word))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// TestPurge: a user who is deleted is purged after the grace time and not
// before, then removed, then gone; nobody else is touched.
func TestPurge(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		bob := person("bob", "example.org")
		s.s.put("pair1", "bob@example.org", 100, 3)
		s.s.put("pair2", "bob@example.org", 50, 1) // of an older place
		s.s.put("pair1", "bob@example.com", 100, 3)
		s.s.put("pair1", "ana@example.org", 100, 3)
		s.s.put("pair1", "nobody@example.org", 100, 3) // an entry is missing
		all := s.s.all()
		if rep := s.purge(s.config(false), 100*grace); len(rep.Entries) != 0 || s.s.all() != all {
			t.Fatalf("nobody is deleted: %s, left %s", summary(rep), s.s.all())
		}
		s.set(bob, "mailUserStatus=deleted")
		if rep := s.purge(s.config(false), grace-time.Minute); summary(rep) != "remove bob@example.org waits" || s.s.all() != all {
			t.Errorf("within the grace time: %s, left %s", summary(rep), s.s.all())
		}
		rep := s.purge(s.config(true), grace+time.Minute)
		if summary(rep) != "remove bob@example.org open" || len(rep.Entries[0].Mailboxes) != 2 || s.s.all() != all || s.status(bob) != "deleted" {
			t.Errorf("dry run: %+v, left %s", rep.Entries[0], s.s.all())
		}
		s.s.before = func() {
			if !strings.Contains(s.log(), "bob@example.org on pair1, 3 messages") {
				t.Errorf("removed before it was in the audit log: %s", s.log())
			}
		}
		if rep := s.purge(s.config(false), grace+time.Minute); summary(rep) != "remove bob@example.org done" || s.status(bob) != "removed" {
			t.Errorf("%s, status %s", summary(rep), s.status(bob))
		}
		if s.s.all() != "pair1:ana@example.org pair1:bob@example.com pair1:nobody@example.org" {
			t.Errorf("left %s", s.s.all())
		}
		if rep := s.purge(s.config(false), 100*grace); len(rep.Entries) != 0 {
			t.Errorf("again: %s", summary(rep))
		}
		// "old" of the fixture is removed as well.
		if rep := s.purge(s.config(false), grace-time.Minute, entries); summary(rep) != "delete bob@example.org waits; delete old@example.org waits" {
			t.Errorf("%s", summary(rep))
		}
		s.s.put("pair1", "old@example.org", 1, 1) // not to be lost with the entry
		if rep := s.purge(s.config(false), grace+time.Minute, entries); summary(rep) != "delete bob@example.org done; delete old@example.org skipped" {
			t.Errorf("%s", summary(rep))
		}
		if _, err := s.d.Entry(t.Context(), bob); !errors.Is(err, directory.ErrNotFound) {
			t.Error(err)
		}
	})
}

// TestPurgeGuards: what keeps a mailbox.
func TestPurgeGuards(t *testing.T) {
	const bob = "bob@example.org"
	for name, tt := range map[string]struct {
		prepare func(s *site)
		want    string
		left    bool
	}{
		"the account, and not the mail": {func(s *site) { s.set(person("bob", "example.org"), "mailUserStatus=", "inetUserStatus=deleted") }, "remove bob@example.org done", false},
		"somebody else has the uid": {func(s *site) {
			err := s.d.Add(s.t.Context(), "uid=bob,ou=groups,"+fixture.Base("example.org"), directory.Attributes{
				{Name: "objectClass", Values: []string{"inetOrgPerson", "inetUser", "inetMailUser", "inetLocalMailRecipient"}},
				{Name: "uid", Values: []string{"bob"}},
				{Name: "cn", Values: []string{"bob"}},
				{Name: "sn", Values: []string{"bob"}},
				{Name: "mail", Values: []string{"robert@example.org"}},
				{Name: "mailHost", Values: []string{"pair1"}},
			})
			if err != nil {
				s.t.Fatal(err)
			}
		}, "remove bob@example.org skipped", true},
		"the domain is only inactive": {func(s *site) { s.set(s.domain("example.org").DN, "inetDomainStatus=inactive") }, "", true},
		"the pair is away":            {func(s *site) { s.s.silent = map[string]error{"pair1": errors.New("away")} }, "remove bob@example.org skipped", true},
		"the pair refuses": {
			func(s *site) { s.s.broken = map[string]error{"pair1": errors.New("the pair is on format 1")} },
			"remove bob@example.org error bob@example.org on pair1: the pair is on format 1", true,
		},
		"the audit log is broken": {func(s *site) { s.audit = "/dev/full" }, "remove bob@example.org error audit log: write /dev/full: no space left on device; nothing more is changed", true},
		"a limit": {func(s *site) {
			s.set(person("ana", "example.org"), "mailUserStatus=deleted")
			s.s.put("pair1", "ana@example.org", 1, 1)
		}, "remove ana@example.org done; remove bob@example.org skipped", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, dirtest.Embedded(t, fixture.Schema2()), "sun-schema2")
			s.set(person("bob", "example.org"), "mailUserStatus=deleted")
			s.s.put("pair1", bob, 100, 3)
			tt.prepare(s)
			rep := s.purge(s.config(false), grace+time.Minute, func(o *housekeeping.PurgeOptions) { o.Most = 1 })
			if _, left := s.s.held["pair1"][bob]; summary(rep) != tt.want || left != tt.left {
				t.Errorf("%s, want %s; left %s", summary(rep), tt.want, s.s.all())
			}
			if tt.left && s.status(person("bob", "example.org")) == "removed" {
				t.Error("the entry says removed and the mailbox is there")
			}
		})
	}
}

// TestPurgeRace: who is taken back between the scan and the removal keeps the
// mailbox.
func TestPurgeRace(t *testing.T) {
	s := open(t, dirtest.Embedded(t, fixture.Schema2()), "sun-schema2")
	for _, uid := range []string{"ana", "bob"} {
		s.set(person(uid, "example.org"), "mailUserStatus=deleted")
		s.s.put("pair1", uid+"@example.org", 100, 3)
	}
	s.s.before = func() { s.set(person("bob", "example.org"), "mailUserStatus=active") } // while ana's is removed
	rep := s.purge(s.config(false), grace+time.Minute)
	if s.s.all() != "pair1:bob@example.org" || summary(rep) != "remove ana@example.org done; remove bob@example.org skipped" {
		t.Errorf("%s, left %s", summary(rep), s.s.all())
	}
}

// TestPurgeDomain: a domain that is deleted, its users' mailboxes with it.
func TestPurgeDomain(t *testing.T) {
	everywhere(t, func(t *testing.T, s *site) {
		all := s.domain("all.example")
		some, rest := person("some", "all.example"), person("rest", "all.example")
		for _, account := range []string{"some@all.example", "rest@all.example", "gone@all.example", "ana@example.org"} {
			s.s.put("pair1", account, 100, 3)
		}
		s.set(all.DN, "mailDomainStatus=deleted")
		const waiting = "remove all.example waits; remove rest@all.example waits; remove some@all.example waits"
		if rep := s.purge(s.config(false), grace-time.Minute); summary(rep) != waiting {
			t.Errorf("within the grace time: %s", summary(rep))
		}
		// A mailbox of nobody's entry stays, and the domain with it.
		rep := s.purge(s.config(false), grace+time.Minute)
		if summary(rep) != "remove all.example skipped; remove rest@all.example done; remove some@all.example done" ||
			s.s.all() != "pair1:ana@example.org pair1:gone@all.example" || s.status(some) != "active" {
			t.Errorf("%s, left %s, status %s", summary(rep), s.s.all(), s.status(some))
		}
		delete(s.s.held["pair1"], "gone@all.example")
		s.s.put("pair1", "some@all.example", 100, 3)
		dry := s.purge(s.config(true), grace+time.Minute)
		if rep := s.purge(s.config(false), grace+time.Minute); strings.ReplaceAll(summary(dry), "open", "done") != summary(rep) || !rep.Entries[len(rep.Entries)-1].Done {
			t.Errorf("%s, and the dry run said %s", summary(rep), summary(dry))
		}
		if d := s.domain("every.example"); d.MailStatus != directory.Removed {
			t.Errorf("%v", d.MailStatus)
		}
		dry = s.purge(s.config(true), grace+time.Minute, entries)
		rep = s.purge(s.config(false), grace+time.Minute, entries)
		const want = "delete all.example done; delete old@example.org done; delete rest@all.example done; delete some@all.example done"
		if summary(rep) != want || strings.ReplaceAll(summary(dry), "open", "done") != want {
			t.Errorf("%s, and the dry run said %s", summary(rep), summary(dry))
		}
		if _, err := s.d.Entry(t.Context(), rest); !errors.Is(err, directory.ErrNotFound) {
			t.Error(err)
		}
		if d, err := s.d.Domain(t.Context(), "all.example"); !errors.Is(err, directory.ErrNotFound) {
			t.Errorf("%+v, %v", d, err)
		}
		if s.s.all() != "pair1:ana@example.org" {
			t.Errorf("left %s", s.s.all())
		}
	})
}

// TestPurgeSharedName: two nodes of the DC tree whose mailboxes have one name; one
// of them is deleted.
func TestPurgeSharedName(t *testing.T) {
	s := open(t, dirtest.Embedded(t, fixture.Schema1()), "sun-schema1")
	s.s.put("pair1", "ana@example.org", 100, 3)
	second := s.domain("second.example").DN
	s.set(second, "mailDomainStatus=deleted")
	rep := s.purge(s.config(false), grace+time.Minute)
	if s.s.all() != "pair1:ana@example.org" || s.domain("second.example").MailStatus != directory.Removed || s.domain("example.org").MailStatus != directory.Active {
		t.Errorf("%s, left %s", summary(rep), s.s.all())
	}
	// The other way round, too.
	s.set(second, "mailDomainStatus=active")
	s.set(s.domain("example.org").DN, "mailDomainStatus=deleted")
	s.purge(s.config(false), grace+time.Minute)
	if s.s.all() != "pair1:ana@example.org" {
		t.Errorf("left %s", s.s.all())
	}
}

// TestPurgeOrphans: a deleted domain with mailboxes of nobody.
func TestPurgeOrphans(t *testing.T) {
	for preset, tree := range trees {
		t.Run(preset, func(t *testing.T) {
			s := open(t, dirtest.Embedded(t, tree()), preset)
			orphans := func(o *housekeeping.PurgeOptions) { o.Orphans = true }
			put := func() {
				for _, account := range []string{"some@all.example", "gone@all.example", "lost@all.example", "ana@example.org", "gone@example.org"} {
					s.s.put("pair1", account, 100, 3)
				}
				s.s.put("pair2", "gone@all.example", 10, 1) // of an older place
			}
			put()
			all := s.s.all()
			if rep := s.purge(s.config(false), 100*grace, orphans); len(rep.Entries) != 0 || s.s.all() != all {
				t.Fatalf("no domain is deleted: %s, left %s", summary(rep), s.s.all())
			}
			s.set(s.domain("all.example").DN, "mailDomainStatus=deleted")
			if s.purge(s.config(false), grace-time.Minute, orphans); s.s.all() != all {
				t.Errorf("within the grace time: left %s", s.s.all())
			}
			s.s.silent = map[string]error{"pair2": errors.New("away")}
			if rep := s.purge(s.config(false), grace+time.Minute, orphans); strings.Contains(summary(rep), "remove all.example done") || !strings.Contains(s.s.all(), "gone@all.example") {
				t.Errorf("a pair is silent: %s, left %s", summary(rep), s.s.all())
			}
			s.s.silent = nil
			put()
			const done = "remove all.example done; remove rest@all.example done; remove some@all.example done"
			dry := s.purge(s.config(true), grace+time.Minute, orphans)
			if got := strings.ReplaceAll(summary(dry), "open", "done"); got != done || s.s.all() != all {
				t.Errorf("dry run: %s, left %s", got, s.s.all())
			}
			one := s.purge(s.config(false), grace+time.Minute, orphans, func(o *housekeeping.PurgeOptions) { o.Most = 2 })
			if !strings.Contains(summary(one), "remove all.example skipped") || strings.Count(s.s.all(), "@all.example") != 1 {
				t.Errorf("two users a run: %s, left %s", summary(one), s.s.all())
			}
			s.s.before = func() {
				if !strings.Contains(s.log(), "lost@all.example on pair1, 3 messages") {
					t.Errorf("removed before it was in the audit log: %s", s.log())
				}
			}
			rep := s.purge(s.config(false), grace+time.Minute, orphans)
			if summary(rep) != done || s.s.all() != "pair1:ana@example.org pair1:gone@example.org" || s.domain("all.example").MailStatus != directory.Removed {
				t.Errorf("%s, left %s", summary(rep), s.s.all())
			}
		})
	}
}

// TestOrphanHasEntry: an entry with the uid that appears while others are
// removed keeps its mailbox.
func TestOrphanHasEntry(t *testing.T) {
	s := open(t, dirtest.Embedded(t, fixture.Schema2()), "sun-schema2")
	for _, account := range []string{"gone@all.example", "lost@all.example"} {
		s.s.put("pair1", account, 100, 3)
	}
	s.set(s.domain("all.example").DN, "mailDomainStatus=deleted")
	s.s.before = sync.OnceFunc(func() {
		err := s.d.Add(t.Context(), person("lost", "all.example"), directory.Attributes{
			{Name: "objectClass", Values: []string{"inetOrgPerson", "inetUser", "inetMailUser", "inetLocalMailRecipient"}},
			{Name: "uid", Values: []string{"lost"}},
			{Name: "cn", Values: []string{"Lost"}},
			{Name: "sn", Values: []string{"Lost"}},
			{Name: "mail", Values: []string{"lost@all.example"}},
		})
		if err != nil {
			t.Error(err)
		}
	})
	rep := s.purge(s.config(false), grace+time.Minute, func(o *housekeeping.PurgeOptions) { o.Orphans = true })
	if s.s.all() != "pair1:lost@all.example" || s.domain("all.example").MailStatus != directory.Deleted {
		t.Errorf("%s, left %s", summary(rep), s.s.all())
	}
}

// TestEndedEarly: what a run that ends early did not come to counts as left.
func TestEndedEarly(t *testing.T) {
	s := open(t, dirtest.Embedded(t, fixture.Schema2()), "sun-schema2")
	for _, uid := range []string{"ana", "bob"} {
		s.set(person(uid, "example.org"), "mailUserStatus=deleted")
		s.s.put("pair1", uid+"@example.org", 100, 3)
	}
	ctx, end := context.WithCancel(t.Context())
	s.s.before = end
	purged, err := housekeeping.Purge(ctx, s.config(false), housekeeping.PurgeOptions{Grace: grace, Now: time.Now().Add(grace + time.Minute)})
	if !errors.Is(err, context.Canceled) || purged == nil || purged.Failed() != 2 { // ana's status and bob
		t.Errorf("%v, %+v", err, purged)
	}
	s.set(person("ana", "example.org"), "mailUserStatus=active")
	s.set(person("bob", "example.org"), "mailUserStatus=active")
	s.s.put("pair1", "ana@example.org", 1<<40, 3)
	s.s.put("pair1", "some@all.example", 1<<40, 3)
	s.set(s.domain("all.example").DN, "mailDomainDiskQuota=1M")
	cfg := s.config(false)
	ctx, end = context.WithCancel(t.Context())
	defer end()
	cfg.Progress = func(what string, _, _ int) {
		if what == "changes" {
			end()
		}
	}
	rep, err := housekeeping.Quota(ctx, cfg, housekeeping.QuotaOptions{})
	if !errors.Is(err, context.Canceled) || rep == nil || rep.Failed() != 2 {
		t.Errorf("%v, %+v", err, rep)
	}
}
