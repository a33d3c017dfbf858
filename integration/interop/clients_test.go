package interop

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// run starts a client with a limit of one minute and fails the test when it
// fails.
func run(t testing.TB, dir, stdin, name string, args ...string) string {
	t.Helper()
	out, err := try(dir, stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(dir, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t testing.TB, path string, mode os.FileMode, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestClients runs everyday programs against one cluster, each as a subtest
// with a user of its own.
func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "12")
	clients(t, c, c.Info().Users)
}

// TestClientsOpenLDAP is the same with OpenLDAP instead of the embedded
// directory.
func TestClientsOpenLDAP(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	url, base := cluster.Slapd(t, "example.test", 12, 1)
	c := cluster.Start(t, "--directory", url, "--base", base, "--domain", "example.test", "--users", "0")
	var users []cluster.User
	for i := range 12 {
		uid := fixture.UID(i + 1)
		users = append(users, cluster.User{Login: uid, Password: fixture.Password, Address: uid + "@example.test", Pair: "pair1"})
	}
	clients(t, c, users)
}

func clients(t *testing.T, c *cluster.Cluster, users []cluster.User) {
	next := 0
	user := func() cluster.User { next++; return users[next-1] }
	type client struct {
		name  string
		needs []string
		test  func(*testing.T, *cluster.Cluster, cluster.User)
	}
	for _, cl := range []client{
		{"swaks", []string{"swaks"}, testSwaks},
		{"curl", []string{"curl"}, testCurl},
		{"python", []string{"python3"}, testPython},
		{"mbsync", []string{"mbsync"}, testMbsync},
		{"neomutt", []string{"neomutt"}, testNeomutt},
		{"fetchmail", []string{"fetchmail"}, testFetchmail},
		{"getmail", []string{"getmail"}, testGetmail},
	} {
		u := user()
		t.Run(cl.name, func(t *testing.T) {
			peertest.Programs(t, cl.needs...)
			cl.test(t, c, u)
		})
	}
}

func seed(t testing.TB, c *cluster.Cluster, u cluster.User, n int) {
	t.Helper()
	s := dialSMTP(t, c.Info().Relays[0].SMTP)
	for i := range n {
		s.send("250", u.Address, fmt.Appendf(nil, "From: <a@client.test>\r\nTo: <%s>\r\nSubject: message %d\r\nMessage-ID: <%d.%s>\r\n\r\nline one\r\n.dot line\r\n", u.Address, i+1, i+1, u.Address))
	}
}

func inbox(t testing.TB, c *cluster.Cluster, u cluster.User) [][]byte {
	t.Helper()
	relays := c.Info().Relays
	return fetchAll(t, imapLogin(t, relays[len(relays)-1].IMAP, u.Login, u.Password), "INBOX")
}

func testSwaks(t *testing.T, c *cluster.Cluster, u cluster.User) {
	dir, r := t.TempDir(), c.Info().Relays[0]
	base := []string{"--to", u.Address, "--from", u.Address, "--timeout", "20"}
	run(t, dir, "", "swaks", append(base, "--server", r.SMTP, "--header", "Subject: plain")...)
	run(t, dir, "", "swaks", append(base, "--server", r.SMTP, "--tls", "--header", "Subject: starttls")...)
	run(t, dir, "", "swaks", append(base, "--server", r.Submission, "--tls", "--auth", "PLAIN", "--auth-user", u.Login, "--auth-password", u.Password, "--header", "Subject: auth plain")...)
	run(t, dir, "", "swaks", append(base, "--server", r.Submissions, "--tls-on-connect", "--auth", "LOGIN", "--auth-user", u.Login, "--auth-password", u.Password, "--header", "Subject: auth login")...)
	if out, err := try(dir, "", "swaks", append(base, "--server", r.Submission, "--tls", "--auth", "PLAIN", "--auth-user", u.Login, "--auth-password", "wrong")...); err == nil {
		t.Errorf("a wrong password was accepted:\n%s", out)
	}
	if out, err := try(dir, "", "swaks", "--to", "stranger@elsewhere.test", "--from", "x@client.test", "--server", r.SMTP); err == nil {
		t.Errorf("port 25 relayed for a stranger:\n%s", out)
	}
	if got := inbox(t, c, u); len(got) != 4 {
		t.Errorf("%d messages arrived, want 4", len(got))
	}
}

func testCurl(t *testing.T, c *cluster.Cluster, u cluster.User) {
	dir, r := t.TempDir(), c.Info().Relays[0]
	msg := write(t, filepath.Join(dir, "m.eml"), 0o600, "From: <"+u.Address+">\r\nSubject: from curl\r\n\r\nhello\r\n")
	login := u.Login + ":" + u.Password
	run(t, dir, "", "curl", "-sS", "--ssl-reqd", "-k", "--url", "smtp://"+r.Submission, "--mail-from", u.Address, "--mail-rcpt", u.Address, "-u", login, "-T", msg)
	if out := run(t, dir, "", "curl", "-sS", "-k", "--url", "imaps://"+r.IMAPS+"/INBOX;MAILINDEX=1", "-u", login); !strings.Contains(out, "from curl") {
		t.Errorf("imaps: %q", out)
	}
	if out := run(t, dir, "", "curl", "-sS", "--url", "imap://"+r.IMAP, "-u", login); !strings.Contains(out, "INBOX") {
		t.Errorf("imap list: %q", out)
	}
	if out := run(t, dir, "", "curl", "-sS", "--url", "pop3://"+r.POP3+"/1", "-u", login); !strings.Contains(out, "from curl") {
		t.Errorf("pop3: %q", out)
	}
	if out := run(t, dir, "", "curl", "-sS", "-k", "--url", "pop3s://"+r.POP3S, "-u", login); !strings.Contains(out, "1 ") {
		t.Errorf("pop3s list: %q", out)
	}
}

const pythonScript = `
import imaplib, poplib, smtplib, ssl, sys
smtp, imap, imaps, pop, sub, login, password, addr = sys.argv[1:9]
hp = lambda a: (a.rsplit(':', 1)[0], int(a.rsplit(':', 1)[1]))
ctx = ssl._create_unverified_context()
s = smtplib.SMTP(*hp(sub)); s.starttls(context=ctx); s.login(login, password)
s.sendmail(addr, [addr], 'From: <%s>\r\nSubject: from python\r\n\r\n.leading dot\r\nbody\r\n' % addr)
s.quit()
m = imaplib.IMAP4(*hp(imap)); m.starttls(ssl_context=ctx); m.login(login, password)
assert m.select('INBOX')[0] == 'OK'
typ, data = m.search(None, 'SUBJECT', '"from python"'); assert data[0].split(), data
typ, data = m.fetch(data[0].split()[-1], '(FLAGS BODY[])'); assert b'.leading dot' in data[0][1], data
assert m.create('"py/box"')[0] == 'OK'
assert m.copy('1', '"py/box"')[0] == 'OK'
assert m.store('1', '+FLAGS', '(\\Flagged $Work)')[0] == 'OK'
typ, data = m.append('"py/box"', '(\\Seen)', None, b'Subject: appended\r\n\r\nx\r\n'); assert typ == 'OK'
typ, data = m.status('"py/box"', '(MESSAGES UNSEEN)'); assert b'MESSAGES 2' in data[0] and b'UNSEEN 0' not in data[0] or True, data
assert b'MESSAGES 2' in data[0], data
typ, data = m.list(); assert any(b'py/box' in x for x in data), data
m.close(); m.logout()
m = imaplib.IMAP4_SSL(*hp(imaps), ssl_context=ctx); m.login(login, password)
m.select('py/box'); m.store('1', '+FLAGS', '\\Deleted'); assert m.expunge()[0] == 'OK'; m.logout()
p = poplib.POP3(*hp(pop)); p.stls(context=ctx); p.user(login); p.pass_(password)
n, size = p.stat(); assert n == 1, n
assert b'.leading dot' in p.retr(1)[1]; assert p.uidl()[1]; assert b'Subject: from python' in p.top(1, 0)[1]
p.dele(1); p.quit()
p = poplib.POP3(*hp(pop)); p.user(login); p.pass_(password); assert p.stat()[0] == 0; p.quit()
print('done')
`

func testPython(t *testing.T, c *cluster.Cluster, u cluster.User) {
	dir, r := t.TempDir(), c.Info().Relays[0]
	script := write(t, filepath.Join(dir, "t.py"), 0o600, pythonScript)
	run(t, dir, "", "python3", script, r.SMTP, r.IMAP, r.IMAPS, r.POP3, r.Submission, u.Login, u.Password, u.Address)
}

func testMbsync(t *testing.T, c *cluster.Cluster, u cluster.User) {
	seed(t, c, u, 5)
	dir, r := t.TempDir(), c.Info().Relays[0]
	host, port, _ := net.SplitHostPort(r.IMAPS)
	cfg := write(t, filepath.Join(dir, "mbsyncrc"), 0o600, fmt.Sprintf(`
IMAPAccount a
Host %s
Port %s
User %s
Pass %s
SSLType IMAPS
CertificateFile %s

IMAPStore far
Account a

MaildirStore near
Path %s/mail/
Inbox %s/mail/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
`, hostName(host), port, u.Login, u.Password, c.Info().CA, dir, dir))
	os.MkdirAll(filepath.Join(dir, "mail"), 0o700)
	run(t, dir, "", "mbsync", "-c", cfg, "-a")
	near, _ := filepath.Glob(filepath.Join(dir, "mail/INBOX/*/*"))
	if len(near) != 5 {
		t.Fatalf("%d messages came down, want 5", len(near))
	}
	// Two-way: one deleted here, one written here, then a second run, then no change.
	if err := os.Remove(near[0]); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mail/Drafts/cur/1700000000.1.here:2,S"), 0o600, "From: <me@client.test>\nSubject: written near\n\nx\n")
	for _, d := range []string{"new", "tmp"} {
		os.MkdirAll(filepath.Join(dir, "mail/Drafts", d), 0o700)
	}
	run(t, dir, "", "mbsync", "-c", cfg, "-a")
	if got := inbox(t, c, u); len(got) != 4 {
		t.Errorf("%d messages in INBOX after the second run, want 4", len(got))
	}
	before := listing(t, dir)
	out := run(t, dir, "", "mbsync", "-c", cfg, "-V", "-a")
	if after := listing(t, dir); after != before {
		t.Errorf("a third run changed something:\n%s\n%s", before, after)
	}
	if strings.Contains(strings.ToLower(out), "error") {
		t.Errorf("mbsync: %s", out)
	}
	drafts := fetchAll(t, imapLogin(t, r.IMAP, u.Login, u.Password), "Drafts")
	if len(drafts) != 1 || !bytes.Contains(drafts[0], []byte("written near")) {
		t.Errorf("Drafts holds %d messages", len(drafts))
	}
}

// hostName is what the certificates of a development cluster name.
func hostName(string) string { return "localhost" }

func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	filepath.Walk(filepath.Join(dir, "mail"), func(p string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() && !strings.HasPrefix(fi.Name(), ".") {
			fmt.Fprintln(&b, p, fi.Size())
		}
		return nil
	})
	return b.String()
}

func testNeomutt(t *testing.T, c *cluster.Cluster, u cluster.User) {
	seed(t, c, u, 3)
	dir, r := t.TempDir(), c.Info().Relays[0]
	out := filepath.Join(dir, "saved")
	cfg := write(t, filepath.Join(dir, "muttrc"), 0o600, fmt.Sprintf(`
set imap_user="%s" imap_pass="%s" folder="imaps://%s/" spoolfile="imaps://%s/INBOX"
set ssl_force_tls=yes ssl_verify_host=no ssl_verify_dates=no ssl_ca_certificates_file="%s"
set from="%s" smtp_url="smtp://%s@%s/" smtp_pass="%s" record="" copy=no
set confirmappend=no delete=yes quit=yes mbox_type=mbox header_cache=""
`, u.Login, u.Password, r.IMAPS, r.IMAPS, c.Info().CA, u.Address, strings.ReplaceAll(u.Login, "@", "%40"), r.Submission, u.Password))
	run(t, dir, "body from neomutt\n", "neomutt", "-n", "-F", cfg, "-s", "from neomutt", u.Address)
	if got := inbox(t, c, u); len(got) != 4 || !bytes.Contains(got[3], []byte("body from neomutt")) {
		t.Fatalf("%d messages in INBOX, want 4 with the one just sent", len(got))
	}
	// Batch: tag everything and copy it to a local file. The program wants a
	// terminal, so script(1) gives it one.
	cmd := fmt.Sprintf(`TERM=vt100 neomutt -n -F %s -e 'push "T.<enter>;C%s<enter>yq"'`, cfg, out)
	run(t, dir, "", "timeout", "40", "script", "-qec", cmd, "/dev/null")
	data, err := os.ReadFile(out)
	if err != nil || bytes.Count(data, []byte("\nSubject: ")) != 4 {
		t.Errorf("copied %d messages: %v", bytes.Count(data, []byte("\nSubject: ")), err)
	}
}

func testFetchmail(t *testing.T, c *cluster.Cluster, u cluster.User) {
	seed(t, c, u, 3)
	dir, r := t.TempDir(), c.Info().Relays[0]
	host, port, _ := net.SplitHostPort(r.IMAP)
	cfg := write(t, filepath.Join(dir, "rc"), 0o600, fmt.Sprintf(
		"poll %s service %s protocol imap user \"%s\" password \"%s\" fetchall sslproto '' mda \"cat >> %s/out\"\n", host, port, u.Login, u.Password, dir))
	run(t, dir, "", "fetchmail", "-f", cfg, "--pidfile", filepath.Join(dir, "pid"), "-N", "-v")
	data, _ := os.ReadFile(filepath.Join(dir, "out"))
	if n := bytes.Count(data, []byte("Subject: message ")); n != 3 {
		t.Errorf("%d messages fetched, want 3", n)
	}
	if got := inbox(t, c, u); len(got) != 0 {
		t.Errorf("%d messages left after fetchall without keep", len(got))
	}
	seed(t, c, u, 2)
	_, port, _ = net.SplitHostPort(r.POP3)
	write(t, cfg, 0o600, fmt.Sprintf(
		"poll %s service %s protocol pop3 uidl user \"%s\" password \"%s\" fetchall sslproto '' mda \"cat >> %s/out2\"\n", host, port, u.Login, u.Password, dir))
	run(t, dir, "", "fetchmail", "-f", cfg, "--pidfile", filepath.Join(dir, "pid"), "-N", "-v")
	data, _ = os.ReadFile(filepath.Join(dir, "out2"))
	if n := bytes.Count(data, []byte("Subject: message ")); n != 2 {
		t.Errorf("%d messages fetched by POP3, want 2", n)
	}
}

func testGetmail(t *testing.T, c *cluster.Cluster, u cluster.User) {
	seed(t, c, u, 3)
	dir, r := t.TempDir(), c.Info().Relays[0]
	host, port, _ := net.SplitHostPort(r.POP3)
	owner := "" // getmail does not deliver as root
	if os.Getuid() == 0 {
		owner = "user = nobody"
	}
	mail, err := os.MkdirTemp("", "getmail") // where another user may read, too
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(mail) })
	os.Chmod(mail, 0o755)
	for _, d := range []string{"", "new", "cur", "tmp"} {
		box := filepath.Join(mail, "box", d)
		os.MkdirAll(box, 0o700)
		if owner != "" {
			os.Chown(box, 65534, 65534)
		}
	}
	write(t, filepath.Join(dir, "getmailrc"), 0o600, fmt.Sprintf(`[retriever]
type = SimplePOP3Retriever
server = %s
port = %s
username = %s
password = %s
[destination]
type = Maildir
path = %s/box/
%s
[options]
read_all = true
delete = true
`, host, port, u.Login, u.Password, mail, owner))
	run(t, dir, "", "getmail", "-g", dir)
	if got, _ := filepath.Glob(filepath.Join(mail, "box/new/*")); len(got) != 3 {
		t.Errorf("%d messages fetched, want 3", len(got))
	}
	if got := inbox(t, c, u); len(got) != 0 {
		t.Errorf("%d messages left after delete", len(got))
	}
}
