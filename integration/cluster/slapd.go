package cluster

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// Slapd runs a private OpenLDAP on loopback with the fixture tree of domain and
// returns its URL and base. It ends with the test.
func Slapd(t testing.TB, domain string, users, pairs int) (url, base string) {
	t.Helper()
	return StartSlapd(t, fixture.Tree(domain, users, pairs)).URL, fixture.Root
}

// OpenLDAP is a slapd of a test's own, with the tree of package fixture's Root.
type OpenLDAP struct {
	URL  string
	Addr string
	PID  int
}

// room is the most that a database may grow to; the file is sparse.
const room = 8 << 30

// StartSlapd runs a private OpenLDAP on loopback with the tree of ldif, which
// ends with the test.
func StartSlapd(t testing.TB, tree []byte) *OpenLDAP {
	t.Helper()
	peertest.Programs(t, "slapd", "slapadd")
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "db"), 0o700)
	conf := filepath.Join(dir, "slapd.conf")
	var b bytes.Buffer
	for _, s := range []string{"core", "cosine", "inetorgperson", "misc", "dyngroup"} {
		fmt.Fprintf(&b, "include /etc/ldap/schema/%s.schema\n", s)
	}
	fmt.Fprintf(&b, `include %s
modulepath /usr/lib/ldap
moduleload back_mdb
sizelimit unlimited
database mdb
maxsize %d
suffix "%s"
rootdn "cn=admin,%s"
rootpw secret
directory %s/db
index objectClass,uid,mail,mailAlternateAddress,mailEquivalentAddress,member,uniqueMember,mgrpRFC822MailMember eq
access to * by * read
database monitor
access to * by * read
`, filepath.Join(root, "shared/directory/schema/postern.schema"), int64(room), fixture.Root, fixture.Root, dir)
	ldif := filepath.Join(dir, "tree.ldif")
	if err := os.WriteFile(conf, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ldif, tree, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/slapadd", "-q", "-b", fixture.Root, "-f", conf, "-l", ldif).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v\n%s", err, out)
	}
	addr := FreeAddr(t)
	cmd := exec.Command("/usr/sbin/slapd", "-h", "ldap://"+addr, "-f", conf, "-d", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	AwaitPort(t, addr)
	return &OpenLDAP{URL: "ldap://" + addr, Addr: addr, PID: cmd.Process.Pid}
}

var monitored = regexp.MustCompile(`(?m)^monitor(?:OpCompleted|Counter): (\d+)$`)

// Searches is how many searches the server has answered since it started, by
// its own count; the one that asks is not among them yet.
func (s *OpenLDAP) Searches(t testing.TB) int {
	return s.monitor(t, "cn=Search,cn=Operations", "monitorOpCompleted")
}

// Connections is how many connections are open, the one that asks left out.
func (s *OpenLDAP) Connections(t testing.TB) int {
	return s.monitor(t, "cn=Current,cn=Connections", "monitorCounter") - 1
}

func (s *OpenLDAP) monitor(t testing.TB, entry, attribute string) int {
	t.Helper()
	peertest.Programs(t, "ldapsearch")
	out, err := exec.Command("ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-H", s.URL,
		"-b", entry+",cn=Monitor", "-s", "base", attribute).CombinedOutput()
	m := monitored.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("%s of %s: %v\n%s", attribute, entry, err, out)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// FreeAddr is a loopback address that nothing listens on now.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// AwaitPort waits until something listens on addr.
func AwaitPort(t testing.TB, addr string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s after 20 s", addr)
}
