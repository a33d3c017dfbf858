package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// asDaemon makes the test's program the daemon.
const asDaemon = "POSTERN_TEST_AS_RELAY"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		main()
	}
	os.Exit(m.Run())
}

// ownDirectory is the folder of a relay that serves a directory of its own.
func ownDirectory(t *testing.T) (dir, ldapi, addr string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "od") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "east", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(filepath.Join(dir, "tls", "node"), tlsconf.Request{Node: "relay1", Roles: []tlsconf.Role{tlsconf.RelayMX, tlsconf.RelayProxy}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"node.pem": "public.pem", "node-key.pem": "public-key.pem"} {
		if err := os.Link(filepath.Join(dir, "tls", from), filepath.Join(dir, "tls", to)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	ldapi = "ldapi://" + url.QueryEscape(filepath.Join(dir, "ldapi"))
	for name, data := range map[string][]byte{
		"tls/ca.pem": ca.CertPEM(), "tree.ldif": fixture.Tree("example.org", 2, 1), "password": []byte("geheim\n"),
		"relay.yaml": fmt.Appendf(nil, `
node: relay1
cluster: east
dir: %s
hostname: relay1.test
roles: outbound
smtp: {listen: ""}
log: {level: warn}
pairs: [{pair: pair1, node: n1, lmtp: "127.0.0.1:1"}]
directory:
  urls: "%s"
  base: o=isp
  bind_dn: cn=admin,o=isp
  password_file: password
  default_domain: example.org
  serve:
    file: directory/journal.ldif
    ldif: tree.ldif
    listen: "%s"
    client_ca: tls/ca.pem
    root_dn: cn=admin,o=isp
    root_password_file: password
    peers: [{uid: %d, name: "cn=admin,o=isp"}]
`, dir, ldapi, addr, os.Getuid()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, ldapi, addr
}

// runRelay starts the daemon and waits until it answers; stop ends it.
func runRelay(t *testing.T, dir string) (stop func()) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(os.Args[0], "--config", filepath.Join(dir, "relay.yaml"))
	cmd.Env = append(os.Environ(), asDaemon+"=1")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var status error
	go func() { status = cmd.Wait(); close(done) }()
	stop = func() {
		t.Helper()
		_ = cmd.Process.Signal(syscall.SIGTERM) // gone already is as well
		<-done
		if status != nil {
			t.Errorf("the relay: %v\n%s", status, &out)
		}
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := admin.NewUnixClient(filepath.Join(dir, "admin.sock"))
	for {
		if _, err := admin.Call(ctx, client, admin.GetStatus, admin.None{}); err == nil {
			return stop
		} else if ctx.Err() != nil {
			t.Fatalf("the relay does not answer: %v", err)
		}
		select {
		case <-done:
			t.Fatalf("the relay has ended: %v\n%s", status, &out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestOwnDirectory: a relay serves a directory of its own on a Unix socket,
// where the tools of OpenLDAP log in by EXTERNAL, keeps what they change, and
// takes mail for who is in it.
func TestOwnDirectory(t *testing.T) {
	peertest.Programs(t, "ldapsearch", "ldapadd", "ldapmodify", "ldapwhoami")
	dir, ldapi, addr := ownDirectory(t)
	tool := func(input string, words ...string) string {
		t.Helper()
		cmd := exec.Command(words[0], append([]string{"-Q", "-Y", "EXTERNAL", "-H", ldapi}, words[1:]...)...)
		cmd.Stdin = strings.NewReader(input)
		cmd.Env = append(os.Environ(), "LDAPNOINIT=1", "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v\n%s", words, err, out)
		}
		return string(out)
	}
	stop := runRelay(t, dir)
	if out := tool("", "ldapwhoami"); !strings.Contains(out, "dn:cn=admin,o=isp") {
		t.Error(out)
	}
	if out := tool("", "ldapsearch", "-LLL", "-b", "o=isp", "(mail=u0002@*)", "mailHost"); !strings.Contains(out, "mailHost: pair1") {
		t.Error(out)
	}
	overTCP(t, addr)
	tool(`dn: uid=eva,ou=people,o=example.org,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: eva
cn: Eva
sn: Eva
mail: eva@example.org
mailHost: pair1
`, "ldapadd")
	// People see neither each other's passwords nor those of lists, and may
	// change their own; relays see those of lists.
	tool(`dn: cn=team,ou=groups,o=example.org,o=isp
changetype: modify
replace: mgrpAuthPassword
mgrpAuthPassword: sesame

dn: uid=relay,o=isp
changetype: add
objectClass: account
uid: relay
userPassword: relay
`, "ldapmodify")
	whoSees(t, addr)
	stop()
	if _, err := os.Lstat(filepath.Join(dir, "ldapi")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	stop = runRelay(t, dir)
	if out := tool("", "ldapsearch", "-LLL", "-b", "o=isp", "(uid=eva)", "mail"); !strings.Contains(out, "mail: eva@example.org") {
		t.Errorf("after a restart: %s", out)
	}
	forgets(t, dir, tool, func() { stop(); stop = runRelay(t, dir) })
	stop()
}

// overTCP logs in by a password.
func overTCP(t *testing.T, addr string) {
	t.Helper()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"-ZZ", "-w", "geheim"}, "dn:cn=admin,o=isp"},
		{[]string{"-w", "geheim"}, "dn:cn=admin,o=isp"}, // from this host
		{[]string{"-ZZ", "-w", "wrong"}, "Invalid credentials"},
	} {
		cmd := exec.Command("ldapwhoami", append([]string{"-x", "-H", "ldap://" + addr, "-D", "cn=admin,o=isp"}, tt.args...)...)
		cmd.Env = append(os.Environ(), "LDAPTLS_REQCERT=never", "LC_ALL=C")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), tt.want) { // which says it
			t.Errorf("%q: %s", tt.args, out)
		}
	}
}

// whoSees searches for everything.
func whoSees(t *testing.T, addr string) {
	t.Helper()
	for _, tt := range []struct{ who, password, sees, not string }{
		{"uid=u0001,ou=people,o=example.org,o=isp", fixture.Password, "mail: team@example.org", "assword:"},
		{"uid=relay,o=isp", "relay", "mail: team@example.org", "sesame"}, // it is not the one of bind_dn
		{"cn=admin,o=isp", "geheim", "mgrpAuthPassword: sesame", "no such text"},
	} {
		cmd := exec.Command("ldapsearch", "-x", "-LLL", "-H", "ldap://"+addr, "-D", tt.who, "-w", tt.password, "-b", "o=isp")
		cmd.Env = append(os.Environ(), "LDAPNOINIT=1")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), tt.sees) || strings.Contains(string(out), tt.not) {
			t.Errorf("%s sees\n%s", tt.who, out)
		}
	}
}

// forgets: a change counts when the relay has forgotten what it knew, also after
// a restart.
func forgets(t *testing.T, dir string, tool func(input string, words ...string) string, restart func()) {
	t.Helper()
	client := admin.NewUnixClient(filepath.Join(dir, "admin.sock"))
	quota := func(want int64) {
		t.Helper()
		got, err := admin.Call(t.Context(), client, admin.Explain, admin.ExplainRequest{Address: "eva@example.org"})
		if err != nil || got.Reply.Code != 250 || len(got.Recipients) != 1 || got.Recipients[0].Mailbox != "eva@example.org" || got.Recipients[0].Quota != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	flush := func(in admin.FlushRequest, least int) {
		t.Helper()
		if got, err := admin.Call(t.Context(), client, admin.Flush, in); err != nil || got.Forgotten < least {
			t.Errorf("flush %+v: %+v, %v", in, got, err)
		}
	}
	quota(-2)
	for i, in := range []admin.FlushRequest{{Addresses: []string{"EVA@example.org"}}, {Domains: []string{"Alias.Example.ORG"}}, {All: true}} {
		tool(fmt.Sprintf("dn: uid=eva,ou=people,o=example.org,o=isp\nchangetype: modify\nreplace: mailQuota\nmailQuota: %d\n", i+1), "ldapmodify")
		if i > 0 {
			quota(int64(i))
		} else {
			quota(-2)
		}
		flush(in, 1)
		if i == 0 {
			restart()
		}
		quota(int64(i + 1))
	}
	for _, in := range []admin.FlushRequest{{}, {Addresses: []string{"two words"}}, {Domains: []string{"\xff"}}, {Domains: []string{""}}} {
		if got, err := admin.Call(t.Context(), client, admin.Flush, in); err == nil {
			t.Errorf("flush %+v: %+v", in, got)
		}
	}
}

// TestRulesFor: the name that relays log in as sees the passwords of lists, and
// nobody else does.
func TestRulesFor(t *testing.T) {
	const relay, other = "uid=u0001,ou=people,o=example.org,o=isp", "uid=u0002,ou=people,o=example.org,o=isp"
	tree := bytes.Replace(fixture.Tree("example.org", 5, 1), []byte("\ncn: team\n"), []byte("\ncn: team\nmgrpAuthPassword: sesame\n"), 1)
	s := dirtest.Embedded(t, tree, func(c *embedded.Config) { c.Rules = rulesFor("mgrpAuthPassword", relay) })
	for who, want := range map[string]string{relay: "sesame", other: "", s.BindDN: "sesame"} {
		d := dirtest.Dial(t, s, func(c *ldap.Config) {
			if who != s.BindDN {
				c.BindDN, c.Password = who, fixture.Password
			}
		})
		e, err := d.Entry(t.Context(), "cn=team,ou=groups,"+fixture.Base("example.org"))
		if err != nil || e.Raw.First("mgrpAuthPassword") != want || len(e.MemberDNs) != 5 {
			t.Errorf("%s: %+v, %v", who, e, err)
		}
		if _, raw, err := d.Raw(t.Context(), relay, "userPassword"); err != nil || (raw.First("userPassword") != "") != (who == s.BindDN) {
			t.Errorf("%s sees the password %v, %v", who, raw, err)
		}
	}
}

func TestListenSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "ls")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", fi, err)
	}
	if l, err := listenSocket(path); err == nil {
		l.Close()
		t.Error("a socket in use was taken away")
	}
	l.Close()
	// What a killed process leaves.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	syscall.Close(fd)
	if l, err = listenSocket(path); err != nil {
		t.Fatal(err)
	}
	l.Close()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := listenSocket(file); err == nil {
		l.Close()
		t.Error("a file was taken away")
	}
	for _, own := range []config.DirectoryServer{{}, {Socket: path, Listen: []string{"127.0.0.1:-1"}}} {
		if list, err := listenDirectory(&own); err == nil {
			t.Errorf("%+v: %v", own, list)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
