package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/housekeeping"
)

// tree is the folder of a cluster of which only the directory runs.
func tree(t *testing.T, users int) string {
	t.Helper()
	s := dirtest.Embedded(t, fixture.Tree("example.org", users, 2))
	dir := t.TempDir()
	file := clusterfile.File{
		Version: clusterfile.Version, Domain: "example.org", Pairs: []clusterfile.Pair{{Name: "pair1"}, {Name: "pair2"}},
		Directory: clusterfile.Directory{URL: s.URL, Base: fixture.Root, BindDN: s.BindDN, Password: s.Password},
	}
	if err := file.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// failing is an output without room.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }

func TestDirectory(t *testing.T) {
	dir := tree(t, 10)
	on := func(args ...string) []string {
		return append(append([]string{"directory"}, args...), "--dir", dir)
	}
	must(t, on("domain", "add", "new.example", "--mail-host", "pair2", "--alias", "new2.example")...)

	var o, e bytes.Buffer
	status := run(t.Context(), on("user", "add", "ana@new.example", "--name", "Ana Silva", "--quota", "50M", "--alternate", "a@new.example",
		"--forward", "ana@far.example", "--password-stdin", "-o", "json"), strings.NewReader("geheim\n"), &o, &e)
	var res struct {
		Op, DN  string
		Written bool
		Changes []struct {
			Attribute string
			New       []string
		}
	}
	if err := json.Unmarshal(o.Bytes(), &res); status != ExitOK || err != nil || res.Op != "add" || !res.Written || res.DN != "uid=ana,ou=people,o=new.example,o=isp" {
		t.Fatalf("status %d, %v: %s%s", status, err, &o, &e)
	}
	if strings.Contains(o.String(), "geheim") || strings.Contains(o.String(), "SSHA") {
		t.Errorf("a password in %s", &o)
	}
	if out := must(t, on("user", "set", "a@new2.example", "--quota", "1G", "--add", "alternate=silva@new.example", "--dry-run")...); !strings.Contains(out, "would be changed") || !strings.Contains(out, "silva@new.example") {
		t.Error(out)
	}
	if out := must(t, on("user", "show", "ana@new.example")...); !strings.Contains(out, "50M") || strings.Contains(out, "SSHA") || strings.Contains(out, "silva@") {
		t.Error(out)
	}
	must(t, on("user", "set", "ana@new.example", "--quota", "1G", "--clear", "forward", "--option", "mailbox")...)
	must(t, on("group", "add", "all@new.example", "--member", "ana@new.example", "--member", "bob@far.example")...)
	if out := must(t, on("user", "list", "--domain", "new.example")...); !strings.Contains(out, "1G") || strings.Contains(out, "u0001") {
		t.Error(out)
	}
	var list []struct {
		Attributes map[string][]string
	}
	if err := json.Unmarshal([]byte(must(t, on("group", "list", "-o", "json")...)), &list); err != nil || len(list) != 3 {
		t.Errorf("%v, %v", list, err)
	}
	if _, errOut, status := call(t, on("user", "rename", "ana@new.example", "anna@new.example", "--uid", "anna")...); status == ExitOK || !strings.Contains(errOut, "new mailbox") {
		t.Errorf("a new mailbox without asking: %d, %s", status, errOut)
	}
	if out := must(t, on("user", "rename", "ana@new.example", "anna@new.example", "--uid", "anna", "--new-mailbox")...); !strings.Contains(out, "user renamed: uid=ana,ou=people,o=new.example,o=isp to uid=anna,ou=people,o=new.example,o=isp") ||
		!strings.Contains(out, "also changed: cn=all,ou=groups,o=new.example,o=isp") {
		t.Error(out)
	}
	if out := must(t, on("group", "show", "all@new.example", "--rename", "mgrpAuthPassword=mgrpRFC822MailMember")...); strings.Contains(out, "bob@far.example") || !strings.Contains(out, "***") {
		t.Errorf("a password by another name is shown: %s", out)
	}
	must(t, on("lint")...)
	file, err := clusterfile.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	url := file.Directory.URL
	t.Setenv(envBindDN, file.Directory.BindDN)
	t.Setenv(envPassword, file.Directory.Password)
	for name, c := range map[string]struct {
		args   []string
		status int
		say    string
	}{
		"taken":        {on("user", "add", "ana@new.example", "--uid", "ana2"), ExitFailed, "several entries own the address"},
		"taken later":  {on("user", "set", "anna@new.example", "--alternate", "U0001@example.org"), ExitFailed, "(mailAlternateAddress: U0001@example.org): uid=u0001,"},
		"unknown pair": {on("user", "set", "ana@new.example", "--mail-host", "pair7"), ExitFailed, "names no pair"},
		"access":       {on("user", "set", "ana@new.example", "--access", "imap:*"), ExitFailed, "(mailAllowedServiceAccess: imap:*); write it as rules"},
		"not there":    {on("user", "show", "nobody@new.example"), ExitFailed, "not found"},
		"not empty":    {on("domain", "delete", "new.example"), ExitFailed, "is not empty"},
		"nothing":      {on("user", "set", "ana@new.example"), ExitUsage, "nothing to change"},
		"field":        {on("user", "set", "ana@new.example", "--add", "colour=red"), ExitUsage, "no field"},
		"no directory": {[]string{"directory", "lint"}, ExitUsage, "--dir"},
		"no server":    {[]string{"directory", "user", "delete", "x@y.example", "--url", "ldap://127.0.0.1:1", "--base", "o=isp"}, ExitUsage, "no server"},
		"no audit":     {[]string{"directory", "user", "delete", "ana@new.example", "--url", url, "--base", "o=isp"}, ExitUsage, "--audit"},
		"bad schema":   {on("lint", "--schema", "x"), ExitUsage, "unknown schema"},
	} {
		_, errOut, status := call(t, c.args...)
		if status != c.status || !strings.Contains(errOut, c.say) {
			t.Errorf("%s: status %d, %s", name, status, errOut)
		}
	}
	must(t, on("group", "delete", "all@new.example")...)
	must(t, on("user", "delete", "ana@new.example")...)
	must(t, on("domain", "delete", "new.example")...)
	// Four writes of the rename are among them: its note, the entry, the group, and
	// the note's end.
	text, err := os.ReadFile(filepath.Join(dir, "directory", "audit.log"))
	if err != nil || bytes.Contains(text, []byte("geheim")) || bytes.Count(text, []byte("\n")) != 13 {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestDirectoryBulk(t *testing.T) {
	dir := tree(t, 10)
	file := filepath.Join(dir, "people.csv")
	rows := "address,quota,password\nana@example.org,1G,x\nbob@example.org,many,\nu0001@example.org,2G,\n"
	if err := os.WriteFile(file, []byte(rows), 0o600); err != nil {
		t.Fatal(err)
	}
	importing := func(args ...string) (out imported, status int) {
		t.Helper()
		text, errOut, status := call(t, append([]string{"directory", "import", file, "--dir", dir, "-o", "json", "--update"}, args...)...)
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatalf("%v: %s%s", err, text, errOut)
		}
		return out, status
	}
	if out, status := importing("--dry-run"); status != ExitFailed || out.Changed != 1 || out.Failed != 2 || !out.DryRun {
		t.Errorf("ana has no pair: %+v", out) // her domain has no preferred one
	}
	must(t, "directory", "domain", "set", "example.org", "--dir", dir, "--mail-host", "pair1")
	out, status := importing()
	if status != ExitFailed || out.Added != 1 || out.Changed != 1 || out.Failed != 1 || len(out.Reported) != 1 || out.Reported[0].Line != 3 || !strings.Contains(out.Reported[0].Error, "bad-quota") {
		t.Errorf("%d, %+v", status, out)
	}
	if out, _ := importing(); out.Unchanged != 2 || out.Failed != 1 {
		t.Errorf("once more: %+v", out)
	}
	ldif := must(t, "directory", "export", "--dir", dir, "--domain", "example.org")
	if n := strings.Count(ldif, "dn: "); n != 15 || strings.Contains(ldif, "assword:") {
		t.Errorf("%d entries", n)
	}
	target := filepath.Join(dir, "out.csv")
	must(t, "directory", "export", "--dir", dir, "--format", "csv", "--kind", "user", "--file", target)
	if text, err := os.ReadFile(target); err != nil || bytes.Count(text, []byte("\n")) != 13 {
		t.Errorf("%v\n%s", err, text)
	}
	for name, c := range map[string]struct {
		args   []string
		status int
		say    string
	}{"format": {[]string{"--format", "xml"}, ExitUsage, "want csv or ldif"}, "domain": {[]string{"--domain", "nobody.example"}, ExitFailed, "not found"}} {
		for _, to := range [][]string{nil, {"--file", target}} {
			if _, errOut, status := call(t, append(append([]string{"directory", "export", "--dir", dir}, c.args...), to...)...); status != c.status || !strings.Contains(errOut, c.say) {
				t.Errorf("%s, to %v: status %d, %s", name, to, status, errOut)
			}
		}
	}
	var full bytes.Buffer
	if status := run(t.Context(), []string{"directory", "export", "--dir", dir}, strings.NewReader(""), failing{}, &full); status == ExitOK || !strings.Contains(full.String(), "no room") {
		t.Errorf("nowhere to write to: status %d, %s", status, &full)
	}
	if err := os.WriteFile(file, []byte("address,quota\n\"broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errOut, status := call(t, "directory", "import", file, "--dir", dir); status != ExitUsage || !strings.Contains(errOut, "nothing was changed") {
		t.Errorf("broken file: %d, %s", status, errOut)
	}
}

func TestDirectoryLint(t *testing.T) {
	dir := tree(t, 10)
	out := must(t, "directory", "lint", "--dir", dir, "-o", "json")
	var got struct {
		Findings []struct{ Severity, Rule, DN, Attribute, Meaning, Mend string }
		Complete bool
		Summary  struct{ Users, Errors int }
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Findings) != 0 || !got.Complete || got.Summary.Users != 11 {
		t.Errorf("%v: %s", err, out)
	}
	out, errOut, status := call(t, "directory", "lint", "--dir", dir, "-o", "json", "--pairs", "pair1")
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != ExitFailed || len(got.Findings) != 5 || got.Summary.Errors != 5 {
		t.Fatalf("status %d, %v: %s%s", status, err, out, errOut)
	}
	if f := got.Findings[0]; f.Severity != "error" || f.Rule != "unknown-pair" || f.DN == "" || f.Attribute != "mailHost" || f.Meaning == "" || f.Mend == "" {
		t.Errorf("%+v", f)
	}
	out, errOut, status = call(t, "directory", "lint", "--dir", dir, "--pairs", "pair1", "--limit", "2")
	if status != ExitFailed || strings.Count(out, "To mend:") != 2 || !strings.Contains(errOut, "--limit") {
		t.Errorf("status %d: %s%s", status, out, errOut)
	}
}

// TestDirectoryLintOpenLDAP: the tool finds what was put into a tree on OpenLDAP,
// and nothing in a tree without faults.
func TestDirectoryLintOpenLDAP(t *testing.T) {
	faults, err := os.ReadFile("../../../shared/directory/lint/testdata/faults.ldif")
	if err != nil {
		t.Fatal(err)
	}
	clean := fixture.Tree("example.org", 20, 3)
	for name, tt := range map[string]struct {
		tree   []byte
		status int
		rules  int // different ones, at least
	}{"clean": {clean, ExitOK, 0}, "faults": {append(bytes.Clone(clean), faults...), ExitFailed, 30}} {
		t.Run(name, func(t *testing.T) {
			s := dirtest.OpenLDAP(t, tt.tree)
			t.Setenv(envBindDN, s.BindDN)
			t.Setenv(envPassword, s.Password)
			out, errOut, status := call(t, "directory", "lint", "--url", s.URL, "--base", fixture.Root, "--pairs", "pair1,pair2,pair3", "-o", "json")
			var got struct{ Findings []struct{ Rule string } }
			if err := json.Unmarshal([]byte(out), &got); err != nil || status != tt.status {
				t.Fatalf("status %d, %v: %s%s", status, err, out, errOut)
			}
			rules := map[string]bool{}
			for _, f := range got.Findings {
				rules[f.Rule] = true
			}
			// What the tool of the original finds (directory.md 2.6 e).
			for _, rule := range []string{"domain-overlap", "domain-name", "bad-domain"} {
				if rules[rule] != (tt.rules > 0) {
					t.Errorf("rule %s: %v", rule, rules[rule])
				}
			}
			if len(rules) < tt.rules || tt.rules == 0 && len(got.Findings) > 0 {
				t.Errorf("%d findings by %d rules: %s", len(got.Findings), len(rules), out)
			}
			t.Logf("%d findings by %d rules", len(got.Findings), len(rules))
		})
	}
}

// TestDirectoryFlush: each relay is told, and one that is not there is named.
func TestDirectoryFlush(t *testing.T) {
	var asked admin.FlushRequest
	dir := answering(t, func(s *admin.Server) {
		admin.Handle(s, admin.Flush, func(_ context.Context, in admin.FlushRequest) (admin.FlushResult, error) {
			if asked = in; len(in.Domains) > 0 && in.Domains[0] == "bad" {
				return admin.FlushResult{}, fmt.Errorf("%w: domain", admin.ErrBadRequest)
			}
			return admin.FlushResult{Forgotten: 7}, nil
		})
	})
	out, errOut, status := call(t, "directory", "flush", "--dir", dir, "ana@example.org", "example.net")
	if status != ExitFailed || !strings.Contains(out, "relay2") || !strings.Contains(out, "7") || !strings.Contains(errOut, "relay1") ||
		!slices.Equal(asked.Addresses, []string{"ana@example.org"}) || !slices.Equal(asked.Domains, []string{"example.net"}) || asked.All {
		t.Errorf("status %d, asked %+v: %s%s", status, asked, out, errOut)
	}
	if out := must(t, "directory", "flush", "--dir", dir, "--relay", "relay2", "--all", "-o", "json"); !asked.All || !strings.Contains(out, `"forgotten": 7`) {
		t.Errorf("asked %+v: %s", asked, out)
	}
	for _, args := range [][]string{{}, {"--all", "example.org"}, {"--relay", "relay9", "--all"}, {"--relay", "relay2", "bad"}} {
		if out, errOut, status := call(t, append([]string{"directory", "flush", "--dir", dir}, args...)...); status == ExitOK {
			t.Errorf("%q: %s%s", args, out, errOut)
		}
	}
}

// TestDirectoryTree: domains of a DC tree, on OpenLDAP.
func TestDirectoryTree(t *testing.T) {
	s := dirtest.OpenLDAP(t, fixture.Schema1())
	t.Setenv(envBindDN, s.BindDN)
	t.Setenv(envPassword, s.Password)
	log := filepath.Join(t.TempDir(), "audit.log")
	on := func(args ...string) []string {
		args = append(append([]string{"directory"}, args...), "--url", s.URL, "--base", fixture.Root, "--schema", "sun-schema1", "--dc-root", fixture.DCRoot)
		if args[2] != "list" && args[2] != "show" {
			args = append(args, "--audit", log)
		}
		return args
	}
	out := must(t, on("domain", "add", "shop.test", "--alias", "market.test", "--mail-host", "pair1")...)
	for _, want := range []string{"domain added: dc=shop,dc=test,o=internet", "also added: dc=market,dc=test,o=internet", "also added: o=shop.test,o=isp"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if out := must(t, on("domain", "set", "shop.test", "--remove", "alias=market.test")...); !strings.Contains(out, "also deleted: dc=market,dc=test,o=internet") {
		t.Error(out)
	}
	if out := must(t, on("domain", "rename", "shop.test", "stall.test")...); !strings.Contains(out, "dc=shop,dc=test,o=internet to dc=stall,dc=test,o=internet") {
		t.Error(out)
	}
	if out := must(t, on("domain", "list")...); !strings.Contains(out, "dc=stall,dc=test,o=internet") || strings.Contains(out, "dc=shop,") {
		t.Error(out)
	}
	if out := must(t, on("domain", "delete", "stall.test")...); !strings.Contains(out, "domain deleted: dc=stall,dc=test,o=internet") || !strings.Contains(out, "also deleted: o=shop.test,o=isp") {
		t.Error(out)
	}
	if out := must(t, on("domain", "list")...); strings.Contains(out, "dc=stall,") || !strings.Contains(out, "dc=example,dc=org,o=internet") {
		t.Error(out)
	}
	text, err := os.ReadFile(log)
	if err != nil || bytes.Count(text, []byte("\n")) < 12 || !bytes.Contains(text, []byte(`"op":"rename","kind":"domain"`)) {
		t.Errorf("%v: %s", err, text)
	}
}

// TestDirectoryMigrate: the three steps, their LDIF, and what keeps one from
// being made.
func TestDirectoryMigrate(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Schema1())
	dir := t.TempDir()
	kept, audit := filepath.Join(dir, "tree.ldif"), filepath.Join(dir, "audit.log")
	on := func(schema string, args ...string) []string {
		return append(append([]string{"directory"}, args...), "--url", s.URL, "--base", fixture.Root, "--bind-dn", s.BindDN, "--bind-password", s.Password,
			"--schema", schema, "--dc-root", fixture.DCRoot)
	}
	t.Setenv(envAudit, audit)
	if _, errOut, status := call(t, on("sun-schema1", "migrate", "--to", "compat")...); status != ExitFailed || !strings.Contains(errOut, "second.example: it has settings of its own") || !strings.Contains(errOut, "dangling.example is left alone") {
		t.Errorf("status %d: %s", status, errOut)
	}
	if _, errOut, status := call(t, on("sun-schema2", "migrate", "--to", "native")...); status != ExitFailed {
		t.Errorf("without a tree: status %d: %s", status, errOut)
	}
	if _, errOut, status := call(t, on("sun-schema1", "migrate", "--to", "remove-tree", "--as-alias", "second.example")...); status != ExitFailed || !strings.Contains(errOut, "not read the same") {
		t.Errorf("before the organizations are there: status %d: %s", status, errOut)
	}
	ldif := must(t, on("sun-schema1", "migrate", "--to", "compat", "--as-alias", "second.example")...)
	if !strings.Contains(ldif, "dn: o=example.org,o=isp\nchangetype: modify\n") || !strings.Contains(ldif, "replace: sunPreferredDomain\nsunPreferredDomain: example.org\n-\n") {
		t.Errorf("%s", ldif)
	}
	if again := must(t, on("sun-schema1", "migrate", "--to", "compat", "--as-alias", "second.example")...); again != ldif {
		t.Error("a dry run changed something")
	}
	for _, step := range []struct{ schema, to string }{{"sun-schema1", "compat"}, {"sun-compat", "native"}} {
		out := must(t, on(step.schema, "migrate", "--to", step.to, "--as-alias", "second.example", "--apply")...)
		if !strings.Contains(out, "domain names read the same") {
			t.Error(out)
		}
	}
	if _, _, status := call(t, on("sun-compat", "migrate", "--to", "remove-tree", "--as-alias", "second.example", "--apply")...); status != ExitUsage {
		t.Errorf("without a file for the tree: status %d", status)
	}
	must(t, on("sun-compat", "migrate", "--to", "remove-tree", "--as-alias", "second.example", "--apply", "--keep", kept)...)
	if out := must(t, on("sun-schema2", "user", "show", "ana@third.example")...); !strings.Contains(out, "uid=ana,ou=people,o=example.org,o=isp") {
		t.Error(out)
	}
	if text, err := os.ReadFile(kept); err != nil || !strings.Contains(string(text), "dn: dc=example,dc=org,o=internet\n") {
		t.Errorf("%v\n%s", err, text)
	}
}

// TestFiguresOfFailedRun: a run that ends with an error has failed, also when no
// entry says so.
func TestFiguresOfFailedRun(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		out   job
		ended error
		want  string
	}{
		"quota":         {&quotaJob{Report: &housekeeping.Report{}}, nil, "postern_directory_quota_failed 0\n"},
		"quota, ended":  {&quotaJob{Report: &housekeeping.Report{}}, context.Canceled, "postern_directory_quota_failed 1\n"},
		"purge, ended":  {&purgeJob{PurgeReport: &housekeeping.PurgeReport{}}, context.Canceled, "postern_directory_purge_failed 1\n"},
		"purge, two of": {&purgeJob{PurgeReport: &housekeeping.PurgeReport{Entries: []*housekeeping.Purged{{Error: "x"}, {Skipped: "y"}, {Done: true}}}}, context.Canceled, "postern_directory_purge_failed 2\n"},
	} {
		a := &app{out: io.Discard, err: io.Discard}
		file := filepath.Join(dir, "figures.prom")
		err := a.finishJob(t.Context(), nil, &jobFlags{metrics: file}, tt.out, tt.ended)
		if (err != nil) != (tt.out.failed() > 0) {
			t.Errorf("%s: %v", name, err)
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), tt.want) {
			t.Errorf("%s: %v, %s, want %s", name, err, text, tt.want)
		}
	}
}
