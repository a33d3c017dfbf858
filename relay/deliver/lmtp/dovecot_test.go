//go:build linux

package lmtp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// dovecot is a Dovecot of the test's own, which delivers into maildirs.
type dovecot struct {
	dir      string
	plain    string // LMTP, STARTTLS offered
	implicit string // LMTP, TLS at once
	roots    *x509.CertPool
}

// vmail owns the maildirs.
const vmail = 65534

// A maildir for each user, quota where the user has one, stored with CRLF so
// that a file is what was sent.
const dovecotConf = `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = lmtp
listen = 127.0.0.1
ssl = yes
ssl_cert = <%[1]s/localhost.pem
ssl_key = <%[1]s/localhost-key.pem
mail_uid = %[2]d
mail_gid = %[2]d
first_valid_uid = 1
first_valid_gid = 1
mail_home = %[1]s/mail/%%n
mail_location = maildir:~/Maildir
mail_save_crlf = yes
mail_plugins = quota
namespace inbox {
  inbox = yes
}
plugin {
  quota = maildir:User quota
}
passdb {
  driver = static
  args = nopassword
}
userdb {
  driver = passwd-file
  args = %[1]s/users
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[3]s
  }
  inet_listener lmtps {
    address = 127.0.0.1
    port = %[4]s
    ssl = yes
  }
}
`

func startDovecot(t *testing.T) *dovecot {
	t.Helper()
	program := peertest.Programs(t, "dovecot")[0]
	peertest.Root(t, "Dovecot")
	if v, err := exec.Command(program, "--version").Output(); err != nil || !bytes.HasPrefix(v, []byte("2.3.")) {
		peertest.Lacks(t, "the configuration is for Dovecot 2.3, this is %q", v)
	}
	d := &dovecot{dir: t.TempDir(), plain: freeAddr(t), implicit: freeAddr(t), roots: x509.NewCertPool()}
	for _, dir := range []string{filepath.Dir(d.dir), d.dir} { // private to root otherwise
		must(t, os.Chmod(dir, 0o755))
	}
	for _, dir := range []string{"run", "state", "mail"} {
		must(t, os.Mkdir(filepath.Join(d.dir, dir), 0o755))
	}
	must(t, os.Chown(filepath.Join(d.dir, "mail"), vmail, vmail))
	ca, err := tlsconf.InitCA(filepath.Join(d.dir, "ca"), "test", time.Now())
	must(t, err)
	_, err = ca.Issue(filepath.Join(d.dir, "localhost"), tlsconf.Request{Node: "localhost", DNSNames: []string{"localhost"}}, time.Now())
	must(t, err)
	d.roots.AppendCertsFromPEM(ca.CertPEM())
	users := "ann@example.org:::::::\nben@example.org:::::::\nfull@example.org:::::::userdb_quota_rule=*:bytes=500\n"
	must(t, os.WriteFile(filepath.Join(d.dir, "users"), []byte(users), 0o644))
	_, plain, _ := net.SplitHostPort(d.plain)
	_, implicit, _ := net.SplitHostPort(d.implicit)
	conf := filepath.Join(d.dir, "dovecot.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, dovecotConf, d.dir, vmail, plain, implicit), 0o644))

	cmd := exec.Command(program, "-F", "-c", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Dovecot did not end within 10 s of SIGTERM")
		}
		for range 50 { // whoever of its group is left
			if syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		<-done
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
			t.Logf("Dovecot's log:\n%s", log[max(0, len(log)-6000):])
		}
	})
	for _, addr := range []string{d.plain, d.implicit} {
		awaitPort(t, addr)
	}
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func awaitPort(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("nothing listens on %s after 20 s", addr)
}

// take returns the messages of a user and removes them.
func (d *dovecot) take(t *testing.T, user string) (msgs [][]byte) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(d.dir, "mail", user, "Maildir", "new", "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(t, err)
		must(t, os.Remove(f))
		msgs = append(msgs, data)
	}
	return msgs
}

// sample picks n messages beside the project (POSTERN_CORPUS names another
// place), from all its parts, with CRLF line ends. Octets that LMTP cannot
// carry are left out.
func sample(t *testing.T, n int) (names []string, msgs [][]byte) {
	t.Helper()
	files := peertest.Corpus(t, n)
	lineEnd := regexp.MustCompile(`\r\n|\r|\n`)
	for i := range n {
		f := files[i*len(files)/n]
		data, err := os.ReadFile(f)
		must(t, err)
		data = lineEnd.ReplaceAll(data, []byte("\r\n"))
		if !bytes.HasSuffix(data, []byte("\r\n")) {
			data = append(data, "\r\n"...)
		}
		if bytes.IndexByte(data, 0) < 0 {
			names, msgs = append(names, filepath.Base(f)), append(msgs, data)
		}
	}
	return names, msgs
}

// dovecotTrace is what Dovecot's delivery puts before a message.
var dovecotTrace = regexp.MustCompile(`^(?:(?:Return-Path|Received|Delivered-To):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+$`)

func letter(body []byte, rcpts ...string) *deliver.Delivery {
	d := &deliver.Delivery{
		Envelope: &mail.Envelope{ReversePath: mail.Address{Local: "sam", Domain: "example.net"}, RootID: "root", Arrival: time.Unix(1700000000, 0)},
		Body:     [][]byte{body[:len(body)/3], body[len(body)/3:]},
		EightBit: slices.ContainsFunc(body, func(c byte) bool { return c > 127 }),
	}
	for _, r := range rcpts {
		d.Recipients = append(d.Recipients, mail.Recipient{
			Channel: mail.ChannelLMTP, NextHop: "dovecot", Mailbox: r + "@example.org",
			Address: mail.Address{Local: r, Domain: "example.org"}, Key: mail.NewDeliveryKey("o", "root", r),
		})
	}
	return d
}

// TestDovecot delivers to a server that knows nothing of ours, in each way it
// offers.
func TestDovecot(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running Dovecot")
	}
	d := startDovecot(t)
	secure := &tls.Config{RootCAs: d.roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	names, msgs := sample(t, 60)
	for _, way := range []struct {
		name    string
		foreign Foreign
		with    string // protocol in Dovecot's Received field
	}{
		{"plain", Foreign{Addrs: []string{d.plain}}, "LMTP"},
		{"STARTTLS", Foreign{Addrs: []string{d.plain}, TLS: secure}, "LMTPS"},
		{"implicit TLS", Foreign{Addrs: []string{d.implicit}, TLS: secure, Implicit: true}, "LMTPS"},
		{"the second address", Foreign{Addrs: []string{freeAddr(t), d.plain}}, "LMTP"},
	} {
		t.Run(way.name, func(t *testing.T) {
			a := agent(t, Config{Foreign: map[string]Foreign{"dovecot": way.foreign}, Rounds: 1})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for i, m := range msgs {
				results := a.Deliver(ctx, letter(m, "ann", "ben"))
				if got := outcomes(results); got != "delivered delivered" || results[0].Code != 250 {
					t.Fatalf("%s: %s: %+v", names[i], got, results)
				}
				for _, user := range []string{"ann", "ben"} {
					got := d.take(t, user)
					if len(got) != 1 {
						t.Fatalf("%s: %d messages for %s, want 1", names[i], len(got), user)
					}
					trace, ok := bytes.CutSuffix(got[0], m)
					if !ok || !dovecotTrace.Match(trace) {
						t.Fatalf("%s for %s is not what was sent:\n%q\nwant\n%q", names[i], user, got[0][:min(len(got[0]), 2000)], m[:min(len(m), 2000)])
					}
					if !regexp.MustCompile(`\s+with ` + way.with + `\r?\n`).Match(trace) {
						t.Fatalf("not with %s: %q", way.with, trace)
					}
				}
			}
			if err := a.Probe(ctx, "dovecot"); err != nil {
				t.Errorf("probe: %v", err)
			}
		})
	}
}

// TestDovecotAnswers has several recipients in one transaction, each with a
// fate of its own.
func TestDovecotAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running Dovecot")
	}
	d := startDovecot(t)
	a := agent(t, Config{Foreign: map[string]Foreign{"dovecot": {Addrs: []string{d.plain}}}, Rounds: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	body := []byte("From: <sam@example.net>\r\nSubject: for some\r\n\r\n" + strings.Repeat("a line of thirty-two octets, so.\r\n", 40))
	results := a.Deliver(ctx, letter(body, "ann", "nobody", "full", "ben"))
	want := []struct {
		outcome deliver.Outcome
		code    int
		status  mail.Status
		text    string
	}{
		{deliver.Delivered, 250, mail.Status{2, 0, 0}, "Saved"},
		{deliver.Failed, 550, mail.Status{5, 1, 1}, "doesn't exist"},
		{deliver.Failed, 552, mail.Status{5, 2, 2}, "Quota exceeded"},
		{deliver.Delivered, 250, mail.Status{2, 0, 0}, "Saved"},
	}
	for i, w := range want {
		if r := results[i]; r.Outcome != w.outcome || r.Code != w.code || r.Status != w.status || !strings.Contains(r.Text, w.text) || r.Relay != d.plain {
			t.Errorf("recipient %d: %+v, want %+v", i, r, w)
		}
	}
	for user, n := range map[string]int{"ann": 1, "ben": 1, "full": 0, "nobody": 0} {
		if got := d.take(t, user); len(got) != n {
			t.Errorf("%d messages for %s, want %d", len(got), user, n)
		}
	}
	// Nobody is left to take the message.
	if got := outcomes(a.Deliver(ctx, letter(body, "nobody", "nobody2"))); got != "failed failed" {
		t.Errorf("two unknown users: %s", got)
	}
}

// TestDovecotUntrusted keeps the message from a server whose certificate is not
// good.
func TestDovecotUntrusted(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running Dovecot")
	}
	d := startDovecot(t)
	for name, foreign := range map[string]Foreign{
		"unknown CA":           {Addrs: []string{d.implicit}, TLS: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}, Implicit: true},
		"other name":           {Addrs: []string{d.implicit}, TLS: &tls.Config{RootCAs: d.roots, ServerName: "elsewhere.example", MinVersion: tls.VersionTLS12}, Implicit: true},
		"unknown CA, STARTTLS": {Addrs: []string{d.plain}, TLS: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}},
	} {
		a := agent(t, Config{Foreign: map[string]Foreign{"dovecot": foreign}, Rounds: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		results := a.Deliver(ctx, letter([]byte("Subject: secret\r\n\r\nx\r\n"), "ann"))
		cancel()
		var bad *tls.CertificateVerificationError
		if r := results[0]; r.Outcome != deliver.Deferred || !errors.As(r.Err, &bad) {
			t.Errorf("%s: %+v", name, r)
		}
		if got := d.take(t, "ann"); len(got) != 0 {
			t.Errorf("%s: %d messages delivered", name, len(got))
		}
	}
}
