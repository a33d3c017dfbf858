package dev

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// TestDirectory uses the tools of OpenLDAP on a cluster's directory: over TLS by
// the cluster's CA, begun in both ways, and as a user who changes what is the
// user's to change.
func TestDirectory(t *testing.T) {
	peertest.Programs(t, "ldapsearch", "ldapmodify")
	dir := t.TempDir()
	o := options(nil)
	l, err := openLayout(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	// A cluster that was made before there was TLS gets a port for it.
	had := l.LDAPS
	l.LDAPS = ""
	if err := l.save(dir); err != nil {
		t.Fatal(err)
	}
	if l, err = openLayout(dir, o); err != nil || l.LDAPS == "" || l.LDAPS == l.LDAP {
		t.Fatalf("port %q, %v", l.LDAPS, err)
	}
	if again, err := openLayout(dir, o); err != nil || again.LDAPS != l.LDAPS {
		t.Errorf("another port for TLS, after %s: %+v, %v", had, again, err)
	}
	if err := l.secrets(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "directory")); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder of the directory: %v, %v", fi, err)
	}
	s, listeners, err := l.openDirectory(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveDirectory(ctx, s, listeners) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	other := t.TempDir()
	if _, err := tlsconf.InitCA(other, "other", time.Now()); err != nil {
		t.Fatal(err)
	}
	f := l.describe(dir, o, func(string) int { return 0 })
	people := "ou=people," + fixture.Base(l.Domains[0])
	self := "uid=" + fixture.UID(1) + "," + people
	run := func(ca, input string, words ...string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Stdin = strings.NewReader(input)
		cmd.Env = append(os.Environ(), "LDAPNOINIT=1", "LC_ALL=C")
		if ca != "" {
			cmd.Env = append(cmd.Env[:len(cmd.Env)-2], "LC_ALL=C", "LDAPTLS_REQCERT=demand", "LDAPTLS_CACERT="+ca)
		}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run() // the code says it
		return out.String(), cmd.ProcessState.ExitCode()
	}
	search := []string{"-LLL", "-b", l.Base, "(uid=" + fixture.UID(2) + ")", "mail"}
	mail := "mail: " + fixture.UID(2) + "@" + l.Domains[0]
	user := []string{"-x", "-D", self, "-w", fixture.Password}
	for name, tt := range map[string]struct {
		ca   string
		args []string
		code int
		want string
	}{
		"StartTLS":           {f.CA, []string{"-ZZ", "-H", f.Directory.URL}, 0, mail},
		"TLS from the start": {f.CA, []string{"-H", f.Directory.TLSURL}, 0, mail},
		"in the clear":       {"", []string{"-H", f.Directory.URL}, 0, mail},
		"another CA":         {filepath.Join(other, tlsconf.CACertName), []string{"-H", f.Directory.TLSURL}, 255, "Can't contact"},
		"StartTLS, no CA":    {os.DevNull, []string{"-ZZ", "-H", f.Directory.URL}, 1, "Connect error"},
	} {
		out, code := run(tt.ca, "", append(append(append([]string{"ldapsearch"}, tt.args...), user...), search...)...)
		if code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %d, want %d with %q: %s", name, code, tt.code, tt.want, out)
		}
	}

	set := func(dn, attr, value string) (string, int) {
		return run(f.CA, "dn: "+dn+"\nchangetype: modify\nreplace: "+attr+"\n"+attr+": "+value+"\n", append([]string{"ldapmodify", "-ZZ", "-H", f.Directory.URL}, user...)...)
	}
	own := map[string]string{
		"mailDeliveryOption": "mailbox", "mailForwardingAddress": "ana@example.net", "mailAutoReplyMode": "reply", "mailAutoReplySubject": "Away",
		"mailAutoReplyText": "Back on Monday.", "mailAutoReplyText;lang-de": "Am Montag.", "mailAutoReplyTextInternal": "Ask Bob.", "mailAutoReplyTimeOut": "24",
		"vacationStartDate": "20260101000000Z", "vacationEndDate": "20260201000000Z", "preferredLanguage": "de", "userPassword": fixture.Password,
	}
	for attr, value := range own {
		if out, code := set(self, attr, value); code != 0 {
			t.Errorf("%s of the own entry: %d: %s", attr, code, out)
		}
		if out, code := set("uid="+fixture.UID(2)+","+people, attr, value); code != 50 {
			t.Errorf("%s of another's entry: %d, want insufficientAccessRights: %s", attr, code, out)
		}
	}
	if out, _ := run(f.CA, "", append(append([]string{"ldapsearch", "-ZZ", "-H", f.Directory.URL}, user...), "-LLL", "-b", self, "vacationEndDate", "mailAutoReplyText;lang-de")...); !strings.Contains(out, "vacationEndDate: 20260201000000Z") || !strings.Contains(out, "Am Montag.") {
		t.Errorf("the entry is %s", out)
	}
	for _, attr := range []string{
		"mail", "mailAlternateAddress", "mailEquivalentAddress", "uid", "cn", "mailHost", "mailMessageStore", "mailRoutingAddress", "mailQuota", "mailMsgQuota",
		"mailMsgMaxBlocks", "mailUserStatus", "inetUserStatus", "mailAllowedServiceAccess", "mailAdminRole", "mailSMTPSubmitChannel", "msgVanityDomain",
		"mailSieveRuleSource", "mailProgramDeliveryInfo", "objectClass", "description",
	} {
		if out, code := set(self, attr, "x"); code != 50 {
			t.Errorf("%s of the own entry: %d, want insufficientAccessRights: %s", attr, code, out)
		}
	}
	if out, code := run(f.CA, "dn: "+self+"\nchangetype: delete\n", append([]string{"ldapmodify", "-ZZ", "-H", f.Directory.URL}, user...)...); code != 50 {
		t.Errorf("deleting the own entry: %d: %s", code, out)
	}
}
