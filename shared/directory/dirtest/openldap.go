package dirtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/schema"
	"github.com/postern-mail/postern/shared/peertest"
)

// Server is a directory server that the suite may ask and kill.
type Server struct {
	URL              string
	BindDN, Password string
	Stop             func() // the server is gone when it returns; may be called twice
}

// RootDN and RootPassword are those of the servers that this package starts.
const (
	RootDN       = "cn=root," + fixture.Root
	RootPassword = "root-secret"
)

// OpenLDAP starts a private slapd on a socket in a directory of its own, with
// the tree of ldif, and stops it when the test ends. It skips the test when
// slapd is not installed. extra are lines of slapd.conf for the database.
func OpenLDAP(t testing.TB, ldif []byte, extra ...string) Server {
	t.Helper()
	slapd := find(t, "slapd")
	slapadd := find(t, "slapadd")
	const schemas = "/etc/ldap/schema"
	if _, err := os.Stat(schemas + "/core.schema"); err != nil {
		peertest.Lacks(t, "OpenLDAP's schema files not installed")
	}
	// The path of a socket is limited to 107 octets, which t.TempDir may exceed.
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var conf strings.Builder
	for _, name := range []string{"core", "cosine", "inetorgperson", "misc", "dyngroup", "nis"} {
		fmt.Fprintf(&conf, "include %s/%s.schema\n", schemas, name)
	}
	fmt.Fprintf(&conf, "include %s\n", write("postern.schema", schema.OpenLDAP))
	modules := "/usr/lib/ldap"
	if _, err := os.Stat(modules + "/back_mdb.so"); err == nil {
		fmt.Fprintf(&conf, "modulepath %s\nmoduleload back_mdb.so\n", modules)
	}
	fmt.Fprintf(&conf, `pidfile %s/pid
threads 4
database mdb
suffix "%s"
directory %s
rootdn "%s"
rootpw %s
maxsize 268435456
envflags nosync
dbnosync
index objectClass,uid,mail,mailAlternateAddress,mailEquivalentAddress,sunPreferredDomain,associatedDomain,member,uniqueMember,mgrpRFC822MailMember eq
access to attrs=userPassword by anonymous auth by * none
access to * by * read
`, dir, fixture.Root, dir, RootDN, RootPassword)
	for _, line := range extra {
		fmt.Fprintln(&conf, line)
	}
	org, dc := split(ldif)
	if dc != "" {
		sub := filepath.Join(dir, "dc")
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&conf, "database mdb\nsuffix \"%s\"\ndirectory %s\nrootdn \"%s\"\nmaxsize 16777216\nenvflags nosync\ndbnosync\naccess to * by * read\n",
			fixture.DCRoot, sub, RootDN)
	}
	confPath := write("slapd.conf", conf.String())
	for suffix, text := range map[string]string{fixture.Root: org, fixture.DCRoot: dc} {
		if text == "" {
			continue
		}
		if out, err := exec.Command(slapadd, "-q", "-b", suffix, "-f", confPath, "-l", write("tree.ldif", text)).CombinedOutput(); err != nil {
			t.Fatalf("slapadd: %v\n%s", err, out)
		}
	}
	socket := filepath.Join(dir, "s")
	listen := "ldapi://" + url.QueryEscape(socket)
	return run(t, exec.Command(slapd, "-d", "0", "-f", confPath, "-h", listen), dir, socket, listen)
}

// run starts a server and waits until it listens on socket.
func run(t testing.TB, cmd *exec.Cmd, dir, socket, url string) Server {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // killed below, so its status says nothing
	}()
	s := Server{URL: url, BindDN: RootDN, Password: RootPassword, Stop: func() {
		_ = cmd.Process.Kill()
		<-done
	}}
	t.Cleanup(s.Stop)
	for deadline := time.Now().Add(30 * time.Second); ; {
		// The socket's name appears before the server listens on it.
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return s
		}
		select {
		case <-done:
			out, _ := os.ReadFile(log.Name())
			t.Fatalf("the server ended: %s", out)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not listen")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// split parts the records of the DC tree from the others: slapd keeps each tree
// in a database of its own.
func split(ldif []byte) (org, dc string) {
	var o, d strings.Builder
	for _, rec := range strings.SplitAfter(string(ldif), "\n\n") {
		dn, _, _ := strings.Cut(rec, "\n")
		if strings.HasSuffix(dn, fixture.DCRoot) {
			d.WriteString(rec)
		} else {
			o.WriteString(rec)
		}
	}
	return o.String(), d.String()
}

// find returns the path of a program that may be outside of PATH.
func find(t testing.TB, name string) string { return peertest.Programs(t, name)[0] }
