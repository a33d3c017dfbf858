package embedded_test

import (
	"bytes"
	"crypto/tls"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// TestTools uses the command line tools of OpenLDAP, each as people use it.
func TestTools(t *testing.T) {
	peertest.Programs(t, "ldapsearch", "ldapmodify", "ldapadd", "ldapdelete", "ldapmodrdn", "ldapcompare", "ldappasswd", "ldapwhoami")
	startTLS(t)
	socket := onSocket(t, embedded.Config{
		LDIF: fixture.Schema1(), RootDN: dirtest.RootDN, RootPassword: dirtest.RootPassword,
		Peers: map[int]string{os.Getuid(): dirtest.RootDN},
	})
	people := "ou=people," + fixture.Base("example.org")
	run := func(input string, words ...string) (string, int) {
		t.Helper()
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Stdin = strings.NewReader(input)
		cmd.Env = append(os.Environ(), "LDAPNOINIT=1", "LC_ALL=C")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run() // the code says it
		return out.String(), cmd.ProcessState.ExitCode()
	}
	simple := []string{"-x", "-H", socket, "-D", dirtest.RootDN, "-w", dirtest.RootPassword}
	external := []string{"-Q", "-Y", "EXTERNAL", "-H", socket}
	ana := []string{"-x", "-H", socket, "-D", "uid=ana," + people, "-w", fixture.Password}
	for _, step := range []struct {
		name  string
		tool  string
		auth  []string
		args  []string
		input string
		code  int
		want  string
	}{
		{"who", "ldapwhoami", simple, nil, "", 0, "dn:" + dirtest.RootDN},
		{"who by the socket", "ldapwhoami", external, nil, "", 0, "dn:" + dirtest.RootDN},
		{"who is a user", "ldapwhoami", ana, nil, "", 0, "dn:uid=ana," + people},
		{"wrong password", "ldapwhoami", append(ana[:len(ana)-1:len(ana)-1], "no"), nil, "", 49, "Invalid credentials"},
		{"search", "ldapsearch", simple, []string{"-LLL", "-b", "o=isp", "(mail=ana@*)", "mail"}, "", 0, "mail: ana@example.org"},
		{"both trees", "ldapsearch", simple, []string{"-LLL", "-b", fixture.DCRoot, "(&(objectClass=inetDomain)(dc=example))", "inetDomainBaseDN"}, "", 0, "inetDomainBaseDN: o=example.org,o=isp"},
		{"pages", "ldapsearch", simple, []string{"-LLL", "-E", "pr=2/noprompt", "-b", "o=isp", "(objectClass=inetMailUser)", "uid"}, "", 0, "uid: rest"},
		{"names in filters", "ldapsearch", simple, []string{"-LLL", "-b", "o=isp", "(&(o:dn:=example.com)(uid=bob))", "mail"}, "", 0, "mail: bob@example.com"},
		{"ordering", "ldapsearch", simple, []string{"-LLL", "-b", "o=isp", "(&(uid>=v)(uid<=w)(cn~=vain))", "uid"}, "", 0, "uid: vain"},
		{"root DSE", "ldapsearch", simple, []string{"-LLL", "-s", "base", "-b", "", "+"}, "", 0, "namingContexts: o=internet"},
		{"subschema", "ldapsearch", simple, []string{"-LLL", "-o", "ldif-wrap=no", "-s", "base", "-b", "cn=Subschema", "objectClasses"}, "", 0, "'inetMailUser'"},
		{"add", "ldapadd", external, nil, "dn: uid=zoe," + people + "\nobjectClass: inetOrgPerson\nobjectClass: inetUser\nobjectClass: inetMailUser\nobjectClass: inetLocalMailRecipient\nuid: zoe\ncn: Zoe\nsn: Z\nmail: zoe@example.org\nmailMsgQuota: 10\n", 0, "adding"},
		{"add twice", "ldapadd", external, nil, "dn: uid=zoe," + people + "\nobjectClass: inetOrgPerson\nuid: zoe\n", 68, "Already exists"},
		{"modify", "ldapmodify", simple, nil, "dn: uid=zoe," + people + "\nchangetype: modify\nreplace: mailHost\nmailHost: pair2\n-\nadd: mailAlternateAddress\nmailAlternateAddress: z@example.org\n-\nincrement: mailMsgQuota\nmailMsgQuota: 5\n", 0, "modifying"},
		{"as modified", "ldapsearch", simple, []string{"-LLL", "-b", people, "(&(mailAlternateAddress=z@example.org)(mailMsgQuota=15))", "mailHost"}, "", 0, "mailHost: pair2"},
		{"delete a value", "ldapmodify", simple, nil, "dn: uid=zoe," + people + "\nchangetype: modify\ndelete: mailAlternateAddress\nmailAlternateAddress: z@example.org\n", 0, ""},
		{"compare", "ldapcompare", simple, []string{"uid=zoe," + people, "mail:ZOE@example.org"}, "", 6, "TRUE"},
		{"compare with another", "ldapcompare", simple, []string{"uid=zoe," + people, "mail:y@example.org"}, "", 5, "FALSE"},
		{"password", "ldappasswd", simple, []string{"-s", "brand new", "uid=zoe," + people}, "", 0, ""},
		{"new password", "ldapwhoami", []string{"-x", "-H", socket, "-D", "uid=zoe," + people, "-w", "brand new"}, nil, "", 0, "uid=zoe"},
		{"made up password", "ldappasswd", ana, []string{"-a", fixture.Password}, "", 0, "New password: "},
		{"rename", "ldapmodrdn", simple, []string{"-r", "uid=zoe," + people, "uid=zora"}, "", 0, ""},
		{"move", "ldapmodrdn", simple, []string{"-s", "ou=people," + fixture.Base("example.com"), "uid=zora," + people, "uid=zora"}, "", 0, ""},
		{"moved", "ldapsearch", simple, []string{"-LLL", "-b", fixture.Base("example.com"), "(uid=zora)", "dn"}, "", 0, "uid=zora,ou=people,o=example.com"},
		{"delete", "ldapdelete", external, []string{"uid=zora,ou=people," + fixture.Base("example.com")}, "", 0, ""},
		{"gone", "ldapsearch", simple, []string{"-LLL", "-s", "base", "-b", "uid=zora,ou=people," + fixture.Base("example.com")}, "", 32, "No such object"},
		{"users may not write", "ldapdelete", []string{"-x", "-H", socket, "-D", "uid=bob," + people, "-w", fixture.Password}, []string{"uid=eve," + people}, "", 50, "Insufficient access"},
	} {
		out, code := run(step.input, append(append([]string{step.tool}, step.auth...), step.args...)...)
		if code != step.code || !strings.Contains(out, step.want) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", step.name, code, step.code, step.want, out)
		}
	}
}

// startTLS searches after StartTLS, which must have succeeded (-ZZ).
func startTLS(t *testing.T) {
	t.Helper()
	s := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1), func(c *embedded.Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	})
	cmd := exec.Command("ldapsearch", "-x", "-ZZ", "-LLL", "-H", s.URL, "-D", s.BindDN, "-w", s.Password, "-b", "o=isp", "(uid=u0002)", "mail")
	cmd.Env = append(os.Environ(), "LDAPTLS_REQCERT=never")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "mail: u0002@x.test") {
		t.Errorf("ldapsearch -ZZ: %v\n%s", err, out)
	}
}
