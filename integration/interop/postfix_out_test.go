package interop

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// nobody owns what a Postfix of ours delivers.
const nobody = 65534

// postfixOut sends to the Internet, which is a Postfix and a DNS.
func postfixOut(t *testing.T, c *cluster.Cluster, users []cluster.User) {
	boxes, certs := t.TempDir(), t.TempDir()
	for _, d := range []string{filepath.Dir(boxes), boxes} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(boxes, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	ca := openCA(t, c)
	cert := issue(t, ca, certs, tlsconf.Request{Node: "mx.outside.example", DNSNames: []string{"mx.outside.example"}})
	_, port, _ := net.SplitHostPort(cluster.FreeAddr(t))
	const waits = "check_recipient_access inline:{{later@outside.example = 450 4.7.1 Come back later}}, "
	p := cluster.StartPostfix(t, cluster.PostfixConfig{
		Hostname: "mx.outside.example",
		Main: []string{
			"virtual_mailbox_domains = outside.example, plain.example",
			"virtual_mailbox_base = " + boxes,
			"virtual_mailbox_maps = inline:{{someone@outside.example = someone/}, {other@outside.example = other/}, " +
				"{later@outside.example = later/}, {someone@plain.example = plain/}}",
			fmt.Sprintf("virtual_uid_maps = static:%d", nobody),
			fmt.Sprintf("virtual_gid_maps = static:%d", nobody),
			"smtpd_tls_security_level = may",
			"smtpd_tls_cert_file = " + cert + ".pem",
			"smtpd_tls_key_file = " + cert + "-key.pem",
			"smtpd_recipient_restrictions = " + waits + "permit_mynetworks, reject",
		},
		Master: []string{ // the exchangers of the two domains, on one port
			"127.0.0.3:" + port + " inet n - n - - smtpd",
			"127.0.0.4:" + port + " inet n - n - - smtpd -o smtpd_tls_security_level=none",
		},
	})
	edge := startEdge(t, c, ca, port, resolver(t,
		"outside.example. MX 10 mx.outside.example.", "mx.outside.example. A 127.0.0.3",
		"plain.example. MX 10 mx.plain.example.", "mx.plain.example. A 127.0.0.4",
		"nothing.example. MX 0 .",
	))
	sent := func(t *testing.T, rcpt string, n int) {
		t.Helper()
		p.AwaitLog(t, `postfix/virtual\[.*to=<`+regexp.QuoteMeta(rcpt)+`>.*status=sent`, n, time.Minute)
	}

	t.Run("corpus", func(t *testing.T) {
		names, msgs := ordinary(t, 50)
		s := authenticate(t, edge, users[0])
		for _, m := range msgs {
			s.transaction(users[0].Address, m, "someone@outside.example")
		}
		sent(t, "someone@outside.example", len(msgs))
		got := maildir(t, filepath.Join(boxes, "someone"))
		arrived(t, names, msgs, got)
		for _, m := range got {
			if !regexp.MustCompile(`(?m)^Received: from edge1\S* \(.*\r\n(?:[ \t].*\r\n)*[ \t]+by mx\.outside\.example \(Postfix\) with ESMTPS `).Match(m) {
				t.Fatalf("no TLS where it was offered:\n%s", m[:min(len(m), 600)])
			}
		}
	})
	t.Run("no TLS offered", func(t *testing.T) {
		msg := []byte("From: <a@client.test>\r\nSubject: in the clear\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <clear@client.test>\r\n\r\n.\r\n..\r\n")
		authenticate(t, edge, users[0]).transaction(users[0].Address, msg, "someone@plain.example")
		sent(t, "someone@plain.example", 1)
		got := maildir(t, filepath.Join(boxes, "plain"))
		arrived(t, []string{"message"}, [][]byte{msg}, got)
		if !bytes.Contains(got[0], []byte("(Postfix) with ESMTP ")) {
			t.Errorf("not in the clear:\n%s", got[0])
		}
	})
	t.Run("one recipient refused", func(t *testing.T) {
		u := users[1]
		authenticate(t, edge, u).transaction(u.Address, note("one of two"), "nobody@outside.example", "other@outside.example")
		sent(t, "other@outside.example", 1)
		wantFields(t, await(t, c, u, "report-type=", 1)[0], map[string]string{
			"Final-Recipient": `rfc822; ?nobody@outside\.example`,
			"Action":          `failed`,
			"Status":          `5\.1\.1`,
			"Remote-MTA":      `dns; ?mx\.outside\.example.*`,
			"Diagnostic-Code": `smtp; ?550 5\.1\.1 .*User unknown.*`,
			"Reporting-MTA":   `dns; ?edge1\..*`,
		})
		if n := len(maildir(t, filepath.Join(boxes, "other"))); n != 1 {
			t.Errorf("%d copies for the other recipient, want 1", n)
		}
	})
	t.Run("deferred", func(t *testing.T) {
		u := users[2]
		authenticate(t, edge, u).transaction(u.Address, note("try again"), "later@outside.example")
		p.AwaitLog(t, `postfix/smtpd\[.*RCPT from .*: 450 4\.7\.1 <later@outside\.example>.*Come back later`, 2, 30*time.Second)
		p.Set(t, "smtpd_recipient_restrictions = permit_mynetworks, reject")
		sent(t, "later@outside.example", 1)
		if n := len(maildir(t, filepath.Join(boxes, "later"))); n != 1 {
			t.Errorf("%d copies, want 1", n)
		}
		if got := inbox(t, c, u); len(got) != 0 {
			t.Errorf("the sender of deferred mail was told:\n%s", got[0])
		}
	})
	t.Run("null MX", func(t *testing.T) {
		u := users[3]
		authenticate(t, edge, u).transaction(u.Address, note("to a domain without mail"), "x@nothing.example")
		wantFields(t, await(t, c, u, "report-type=", 1)[0], map[string]string{
			"Final-Recipient": `rfc822; ?x@nothing\.example`, "Action": `failed`, "Status": `5\.1\.10`,
		})
	})
	// Once more at the end, when a second notification would have come.
	for _, u := range users[1:4:4] {
		want := 1
		if u == users[2] {
			want = 0
		}
		if got := inbox(t, c, u); len(got) != want {
			t.Errorf("%d notifications for %s, want %d", len(got), u.Login, want)
		}
	}
}

func note(subject string) []byte {
	return fmt.Appendf(nil, "From: <a@client.test>\r\nSubject: %s\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <%d@client.test>\r\n\r\nx\r\n", subject, time.Now().UnixNano())
}

// resolver answers with records, on loopback, and returns its address.
func resolver(t testing.TB, records ...string) string {
	t.Helper()
	zone := new(dns.Zone)
	for _, r := range records {
		if err := zone.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	s, err := dns.Listen("127.0.0.1:0", zone)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s.Addr()
}

// startEdge adds a relay to the cluster that takes mail from users and sends to
// the Internet that a name server describes. It returns its submission address.
func startEdge(t testing.TB, c *cluster.Cluster, ca *tlsconf.CA, port, names string) string {
	t.Helper()
	dir, info := t.TempDir(), c.Info()
	node := issue(t, ca, dir, tlsconf.Request{Node: "edge1", Roles: []tlsconf.Role{tlsconf.RelayMX, tlsconf.RelayProxy}})
	public := issue(t, ca, dir, tlsconf.Request{Node: "localhost", DNSNames: []string{"localhost"}})
	addr := cluster.FreeAddr(t)
	var b strings.Builder
	fmt.Fprintf(&b, `node: edge1
cluster: %s
dir: %s/state
hostname: edge1.%s
roles: [submit, outbound]
tls: {ca: %s, cert: %s.pem, key: %s-key.pem}
public: {cert: %s.pem, key: %s-key.pem}
submission: {listen: ["%s"], tls_listen: ["%s"]}
proxy: {plain_loopback: "yes"}
directory: {urls: ["%s"], base: "%s", default_domain: %s}
dns: {servers: ["%s"]}
outbound: {port: %s}
retry: {schedule: [5s]}
log: {format: text}
pairs:
`, ca.Cluster, dir, info.Domain, info.CA, node, node, public, public, addr, cluster.FreeAddr(t),
		info.Directory.URL, info.Directory.Base, info.Domain, names, port)
	pair, nodes := lmtpNodes(t, c)
	for _, n := range nodes {
		fmt.Fprintf(&b, "  - {pair: %s, node: %s, lmtp: \"%s\", imap: \"%s\", pop3: \"%s\"}\n", pair, n.Name, n.LMTPTLS, n.IMAPTLS, n.POP3TLS)
	}
	config := write(t, filepath.Join(dir, "edge1.yaml"), 0o600, b.String())
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.Bin, "postern-relay"), "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-done:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			err = fmt.Errorf("killed after 30 s of SIGTERM: %w", <-done)
		}
		if err != nil {
			t.Errorf("edge relay: %v", err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("edge relay, its log:\n%s", text[max(0, len(text)-8000):])
		}
	})
	cluster.AwaitPort(t, addr)
	return addr
}

// authenticate opens a submission session of a user.
func authenticate(t testing.TB, addr string, u cluster.User) *smtpConn {
	t.Helper()
	s := dialSMTP(t, addr)
	s.cmd("235", "AUTH PLAIN %s", base64.StdEncoding.EncodeToString([]byte("\x00"+u.Login+"\x00"+u.Password)))
	return s
}
