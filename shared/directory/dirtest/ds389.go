package dirtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/schema"
	"github.com/postern-mail/postern/shared/peertest"
)

// shared389 is where 389 Directory Server keeps what its instances share.
const shared389 = "/usr/share/dirsrv"

// DS389 starts a private 389 Directory Server on a socket in a directory of its
// own, with the tree of ldif, and stops it when the test ends. It skips the test
// when the server is not installed, or does not run here.
func DS389(t testing.TB, ldif []byte) Server {
	t.Helper()
	program := find(t, "ns-slapd")
	template, err := os.ReadFile(shared389 + "/data/template-dse.ldif")
	if err != nil {
		peertest.Lacks(t, "389 Directory Server has no template of a configuration here")
	}
	if os.Getuid() != 0 {
		peertest.Lacks(t, "389 Directory Server takes a configuration of root only")
	}
	dir, err := os.MkdirTemp("", "ds") // the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	socket := filepath.Join(dir, "s")
	values := strings.NewReplacer(
		"nsslapd-rootpw:", "nsslapd-rootpwstoragescheme: CLEAR\nnsslapd-rootpw:",
		"%ds_port%", "0", "%ds_user%", "root", "%rootdn%", RootDN, "%ds_passwd%", RootPassword, "%fqdn%", "localhost",
		"%ldapi_enabled%", "on", "%ldapi%", socket, "%ldapi_autobind%", "off", "%db_lib%", "bdb", "%ds_suffix%", fixture.Root,
		"%schema_dir%", dir+"/schema", "%config_dir%", dir, "%cert_dir%", dir, "%db_dir%", dir+"/db", "%db_home_dir%", dir+"/db",
		"%log_dir%", dir, "%run_dir%", dir, "%lock_dir%", dir+"/lock", "%tmp_dir%", dir, "%inst_dir%", dir, "%ldif_dir%", dir, "%bak_dir%", dir,
	)
	conf := strings.TrimRight(values.Replace(string(template)), "\n") + "\n\n"
	org, dc := split(ldif)
	backends := map[string]string{"org": fixture.Root, "dc": fixture.DCRoot}
	for name, suffix := range backends {
		conf += fmt.Sprintf(`dn: cn=%[1]s,cn=ldbm database,cn=plugins,cn=config
objectClass: top
objectClass: extensibleObject
objectClass: nsBackendInstance
cn: %[1]s
nsslapd-suffix: %[2]s
nsslapd-directory: %[3]s/db/%[1]s

dn: cn="%[2]s",cn=mapping tree,cn=config
objectClass: top
objectClass: extensibleObject
objectClass: nsMappingTree
cn: "%[2]s"
nsslapd-state: backend
nsslapd-backend: %[1]s

`, name, suffix, dir)
	}
	write("dse.ldif", conf)
	if collations, err := os.ReadFile("/etc/dirsrv/config/slapd-collations.conf"); err == nil {
		write("slapd-collations.conf", string(collations))
	}
	write("schema/98postern.ldif", schemaFor389(t))
	for _, sub := range []string{"db", "lock"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"org": org, "dc": dc} {
		if text == "" {
			continue
		}
		cmd := exec.Command(program, "ldif2db", "-D", dir, "-n", name, "-i", write(name+".ldif", text))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ldif2db: %v\n%s", err, out)
		}
	}
	return run(t, exec.Command(program, "-D", dir, "-i", filepath.Join(dir, "pid"), "-d", "0"), dir, socket, "ldapi://"+url.QueryEscape(socket))
}

var definition = regexp.MustCompile(`(?i)NAME\s+(\(\s*)?((?:'[^']+'\s*)+)`)

var number = regexp.MustCompile(`(?m)^\w+: \( ([0-9.]+)\s`)

// schemaFor389 is our schema without what 389 Directory Server defines itself.
func schemaFor389(t testing.TB) string {
	t.Helper()
	files, err := filepath.Glob(shared389 + "/schema/*.ldif")
	if err != nil || len(files) == 0 {
		peertest.Lacks(t, "389 Directory Server has no schema here")
	}
	defined := map[string]bool{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		unfolded := strings.ReplaceAll(string(text), "\n ", "")
		for _, m := range definition.FindAllStringSubmatch(unfolded, -1) {
			for _, n := range strings.Fields(m[2]) {
				defined[strings.ToLower(strings.Trim(n, "'"))] = true
			}
		}
		for _, m := range number.FindAllStringSubmatch(unfolded, -1) {
			defined[m[1]] = true
		}
	}
	var b strings.Builder
	b.WriteString("dn: cn=schema\n")
	types, classes := schema.Definitions()
	for attr, list := range map[string][]string{"attributeTypes": types, "objectClasses": classes} {
		for _, def := range list {
			m := definition.FindStringSubmatch(def)
			if m == nil || defined[strings.ToLower(strings.Trim(strings.Fields(m[2])[0], "'"))] {
				continue
			}
			if words := strings.Fields(def); defined[words[1]] { // by another name
				words[1] = strings.Trim(strings.Fields(m[2])[0], "'") + "-oid"
				def = strings.Join(words, " ")
			}
			fmt.Fprintf(&b, "%s: %s\n", attr, def)
		}
	}
	return b.String()
}
