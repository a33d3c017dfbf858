package interop

import (
	"bytes"
	"fmt"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

// TestPostfix has a Postfix on each side of one cluster: before the relay,
// before a backend, and behind the relay.
func TestPostfix(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	peertest.Programs(t, "postfix", "postconf")
	c := cluster.Start(t, "--users", "12", "--bench-ports")
	t.Run("in", func(t *testing.T) { postfixIn(t, c, c.Info().Users[:4]) })
	t.Run("lmtp", func(t *testing.T) { postfixLMTP(t, c, c.Info().Users[4:8]) })
	t.Run("out", func(t *testing.T) { postfixOut(t, c, c.Info().Users[8:12]) })
}

// postfixIn relays into port 25, as a site's gateway does.
func postfixIn(t *testing.T, c *cluster.Cluster, users []cluster.User) {
	relay := c.Info().Relays[0]
	p := cluster.StartPostfix(t, cluster.PostfixConfig{
		Hostname: "gateway.client.test",
		Main: []string{
			"relayhost = [127.0.0.1]:" + cluster.Port(relay.SMTP),
			"smtp_tls_security_level = secure", // the certificate must be good and name the host
			"smtp_tls_secure_cert_match = localhost",
			"smtp_tls_CAfile = " + c.Info().CA,
			"debug_peer_list = 127.0.0.1", // notes every command
			"debug_peer_level = 1",
		},
	})

	t.Run("corpus", func(t *testing.T) {
		names, msgs := ordinary(t, 50)
		s := dialSMTP(t, p.Addr)
		for _, m := range msgs {
			s.send("250", users[0].Address, m)
		}
		p.AwaitLog(t, `postfix/smtp\[.*to=<`+regexp.QuoteMeta(users[0].Address)+`>.*status=sent \(250 2`, len(msgs), time.Minute)
		arrived(t, names, msgs, inbox(t, c, users[0]))
		log := p.Log(t)
		if !strings.Contains(log, "Verified TLS connection established to 127.0.0.1[127.0.0.1]") {
			t.Error("the mail did not travel under verified TLS")
		}
		if !regexp.MustCompile(`> 127\.0\.0\.1\S*: MAIL FROM:<sender@client\.test> SIZE=[0-9]+ BODY=8BITMIME`).MatchString(log) {
			t.Error("no MAIL with SIZE and BODY=8BITMIME")
		}
		if !pipelined(log) {
			t.Error("no command was sent before the answer to the one before it")
		}
	})

	t.Run("several recipients", func(t *testing.T) {
		s := dialSMTP(t, p.Addr)
		s.cmd("250", "MAIL FROM:<%s>", users[3].Address)
		for _, u := range users[1:3] {
			s.cmd("250", "RCPT TO:<%s>", u.Address)
		}
		s.cmd("354", "DATA")
		msg := []byte("From: <a@client.test>\r\nSubject: for two\r\nMessage-ID: <two@client.test>\r\n\r\n.one\r\n..two\r\n")
		s.c.Write(stuff(msg))
		s.want("250")
		for _, u := range users[1:3] {
			await(t, c, u, "for two", 1)
			arrived(t, []string{"for " + u.Login}, [][]byte{msg}, inbox(t, c, u))
		}
	})

	// The sender asks for a report of success: Postfix hands that on, and the
	// relay reports.
	t.Run("DSN", func(t *testing.T) {
		s := dialSMTP(t, p.Addr)
		s.cmd("250", "MAIL FROM:<%s> RET=HDRS ENVID=envelope+2B7", users[1].Address)
		s.cmd("250", "RCPT TO:<%s> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2Bname@client.test", users[2].Address)
		s.cmd("354", "DATA")
		fmt.Fprintf(s.c, "From: <%s>\r\nSubject: report please\r\n\r\nx\r\n.\r\n", users[1].Address)
		s.want("250")
		await(t, c, users[2], "Subject: report please", 1)
		report := await(t, c, users[1], "report-type=", 1)[0]
		wantFields(t, report, map[string]string{
			"Original-Envelope-Id": `envelope\+7`,
			"Original-Recipient":   `rfc822; ?first\+name@client\.test`,
			"Final-Recipient":      `rfc822; ?` + regexp.QuoteMeta(users[2].Address),
			"Action":               `delivered`,
			"Status":               `2\.\d+\.\d+`,
			"Reporting-MTA":        `dns; ?relay1\..*`,
		})
		log := p.Log(t)
		for _, want := range []string{`RET=HDRS`, `ENVID=envelope\+2B7`, `NOTIFY=SUCCESS,FAILURE`, `ORCPT=rfc822;first\+2Bname@client\.test`} {
			if !regexp.MustCompile(`postfix/smtp\[.* > 127\.0\.0\.1\S*: .* ` + want).MatchString(log) {
				t.Errorf("Postfix did not hand on %s", want)
			}
		}
	})

	t.Run("unknown user", func(t *testing.T) {
		_, domain, _ := strings.Cut(users[3].Address, "@")
		p.Sendmail(t, "Subject: to nobody\n\nx\n", "-f", users[3].Address, "nobody@"+domain, users[1].Address)
		await(t, c, users[1], "Subject: to nobody", 1)
		bounce := await(t, c, users[3], "report-type=", 1)[0]
		wantFields(t, bounce, map[string]string{
			"Final-Recipient": `rfc822; ?nobody@` + regexp.QuoteMeta(domain),
			"Action":          `failed`,
			"Status":          `5\.1\.1`,
			"Remote-MTA":      `dns; ?127\.0\.0\.1`,
			"Diagnostic-Code": `smtp; ?550 5\.1\.1 .*`,
			"Reporting-MTA":   `dns; ?gateway\.client\.test`,
		})
	})
	if q := p.Queue(t); q != "" {
		t.Errorf("left in Postfix's queue: %s", q)
	}
}

// pipelined reports whether a log with every command of Postfix's client shows
// RCPT right after MAIL, without a reply between them.
func pipelined(log string) bool {
	last := map[string]string{} // by process
	re := regexp.MustCompile(`(?m)postfix/smtp\[(\d+)\]: ([<>]) \S+: (\S+)`)
	for _, m := range re.FindAllStringSubmatch(log, -1) {
		now := m[2] + m[3]
		if now == ">RCPT" && last[m[1]] == ">MAIL" {
			return true
		}
		last[m[1]] = now
	}
	return false
}

// headerLine is a line that may stand in a header.
var headerLine = regexp.MustCompile(`^(?:[!-9;-~]+:[^\r\n]*|[ \t]+\S[^\r\n]*)$`)

// ordinary picks n messages of the corpus, from all its parts, that no MTA
// repairs: a real header, an empty line, no NUL, and fields that are not
// trace themselves.
func ordinary(t testing.TB, n int) (names []string, msgs [][]byte) {
	t.Helper()
	all, raw := corpus(t)
	for i, m := range raw {
		if documentedRefusal(m) == "" && regular(m) {
			names, msgs = append(names, all[i]), append(msgs, m)
		}
	}
	if len(msgs) < n {
		t.Fatalf("%d ordinary messages in the corpus, want %d", len(msgs), n)
	}
	for i := range n {
		names[i], msgs[i] = names[i*len(msgs)/n], msgs[i*len(msgs)/n]
	}
	return names[:n], msgs[:n]
}

func regular(m []byte) bool {
	head, _, found := bytes.Cut(m, []byte("\r\n\r\n"))
	if !found || len(head) > 60_000 || len(m) > 1<<20 || bytes.HasPrefix(head, []byte(" ")) || bytes.HasPrefix(head, []byte("\t")) {
		return false
	}
	lower := bytes.ToLower(append([]byte("\r\n"), head...))
	for _, field := range []string{"date:", "from:", "message-id:"} { // a submission server adds what is missing
		if bytes.Count(lower, []byte("\r\n"+field)) != 1 {
			return false
		}
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if !headerLine.Match(line) {
			return false
		}
	}
	return true
}

// arrived checks that got are the messages of want, in any order, each with
// trace fields before it and nothing else.
func arrived(t testing.TB, names []string, want, got [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d messages arrived, want %d", len(got), len(want))
	}
	rest := slices.Clone(got)
	for i, m := range want {
		k := slices.IndexFunc(rest, func(g []byte) bool { return sameButTrace(g, m) == nil })
		if k < 0 {
			t.Errorf("%s did not arrive as it was sent: %v", names[i], nearest(rest, m))
			continue
		}
		rest = slices.Delete(rest, k, k+1)
	}
}

// nearest says how the message with want's Message-ID differs.
func nearest(got [][]byte, want []byte) error {
	id := field(want, "Message-ID")
	for _, g := range got {
		if field(g, "Message-ID") == id {
			return sameButTrace(g, want)
		}
	}
	return fmt.Errorf("no message with Message-ID %q", id)
}

// field is the first line of a header field, wherever in the text it stands.
func field(msg []byte, name string) string {
	m := regexp.MustCompile(`(?im)^` + name + `:[ \t]*(.*?)\r?$`).FindSubmatch(msg)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// wantFields checks the fields of a delivery status notification (RFC 3464).
func wantFields(t testing.TB, report []byte, want map[string]string) {
	t.Helper()
	text := regexp.MustCompile(`\r\n[ \t]+`).ReplaceAll(report, []byte(" "))
	for name, pattern := range want {
		if v := field(text, name); !regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(v) {
			t.Errorf("%s is %q, want %s", textproto.CanonicalMIMEHeaderKey(name), v, pattern)
		}
	}
	if t.Failed() {
		t.Logf("the report:\n%s", report)
	}
}

// await waits until n messages with text in them are in a user's INBOX and
// returns those.
func await(t testing.TB, c *cluster.Cluster, u cluster.User, text string, n int) [][]byte {
	t.Helper()
	var with [][]byte
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		with = slices.DeleteFunc(inbox(t, c, u), func(m []byte) bool { return !bytes.Contains(m, []byte(text)) })
		if len(with) >= n {
			return with
		}
	}
	t.Fatalf("%d messages with %q for %s after 30 s, want %d", len(with), text, u.Login, n)
	return nil
}

// maildir reads the messages of a maildir, with CRLF line ends.
func maildir(t testing.TB, dir string) (msgs [][]byte) {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "new", "*"))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n")))
	}
	return msgs
}
