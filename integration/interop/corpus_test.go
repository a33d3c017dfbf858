/*
Package interop shows real clients, real servers and real messages that Postern
is one of them: what the corpus says comes back to the byte, and programs that
people use every day work without a word about Postern in their configuration.
*/
package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// corpus returns real messages with CRLF line ends, each with its file name.
func corpus(t testing.TB) (names []string, msgs [][]byte) {
	t.Helper()
	for _, f := range peertest.Corpus(t, 1) {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Base(filepath.Dir(f))+"/"+filepath.Base(f))
		msgs = append(msgs, crlf(data))
	}
	return names, msgs
}

var lineEnd = regexp.MustCompile(`\r\n|\r|\n`)

// crlf turns every line end into CRLF and ends the message with one.
func crlf(b []byte) []byte {
	b = lineEnd.ReplaceAll(b, []byte("\r\n"))
	if !bytes.HasSuffix(b, []byte("\r\n")) {
		b = append(b, "\r\n"...)
	}
	return b
}

// traceOnly is what may stand before the message: the fields that delivery adds.
var traceOnly = regexp.MustCompile(`^(?:(?:Return-Path|Received|Delivered-To):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*$`)

func sameButTrace(got, want []byte) error {
	if !bytes.HasSuffix(got, want) {
		n := 0
		for n < len(got) && n < len(want) && got[len(got)-1-n] == want[len(want)-1-n] {
			n++
		}
		return fmt.Errorf("differs %d octets before the end: %d octets came back, %d were sent", n, len(got), len(want))
	}
	if prefix := got[:len(got)-len(want)]; !traceOnly.Match(prefix) {
		return fmt.Errorf("before the message stand more than trace fields: %q", prefix)
	}
	return nil
}

func stuff(msg []byte) []byte {
	if bytes.HasPrefix(msg, []byte(".")) {
		msg = append([]byte("."), msg...)
	}
	return append(bytes.ReplaceAll(msg, []byte("\r\n."), []byte("\r\n..")), ".\r\n"...)
}

// smtpConn is a plain client that says what it is told.
type smtpConn struct {
	t testing.TB
	c net.Conn
	r *bufio.Reader
}

func dialSMTP(t testing.TB, addr string) *smtpConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s := &smtpConn{t, c, bufio.NewReader(c)}
	s.want("220")
	s.cmd("250", "EHLO client.test")
	return s
}

func (s *smtpConn) want(code string) string {
	s.t.Helper()
	s.c.SetDeadline(time.Now().Add(30 * time.Second))
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", code, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, code) {
			s.t.Fatalf("got %q, want %s", line, code)
		}
		return line
	}
}

func (s *smtpConn) cmd(code, f string, a ...any) string {
	s.t.Helper()
	fmt.Fprintf(s.c, f+"\r\n", a...)
	return s.want(code)
}

func (s *smtpConn) send(code, rcpt string, msg []byte) string {
	s.t.Helper()
	s.cmd("250", "MAIL FROM:<sender@client.test> BODY=8BITMIME")
	s.cmd("250", "RCPT TO:<%s>", rcpt)
	s.cmd("354", "DATA")
	s.c.Write(stuff(msg))
	return s.want(code)
}

func imapLogin(t testing.TB, addr, user, pass string) *imapclient.Client {
	t.Helper()
	c, err := imapclient.DialInsecure(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Login(user, pass).Wait(); err != nil {
		t.Fatalf("login of %s: %v", user, err)
	}
	return c
}

func fetchAll(t testing.TB, c *imapclient.Client, box string) (bodies [][]byte) {
	t.Helper()
	sel, err := c.Select(box, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil {
		t.Fatal(err)
	}
	if sel.NumMessages == 0 {
		return nil
	}
	section := &imap.FetchItemBodySection{Peek: true}
	msgs, err := c.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range msgs {
		bodies = append(bodies, m.FindBodySection(section))
	}
	return bodies
}

// TestCorpus submits every message by SMTP and by APPEND and reads it back by
// IMAP and POP3.
func TestCorpus(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	testCorpus(t, cluster.Start(t, "--users", "4"))
}

// TestCorpusOpenLDAP is TestCorpus with OpenLDAP as the directory.
func TestCorpusOpenLDAP(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	peertest.Programs(t, "slapd")
	url, base := cluster.Slapd(t, "postern.test", 4, 1)
	testCorpus(t, cluster.Start(t, "--users", "4", "--directory", url, "--base", base, "--domain", "postern.test"))
}

func testCorpus(t *testing.T, c *cluster.Cluster) {
	names, msgs := corpus(t)
	info := c.Info()
	relay, users := info.Relays[0], info.Users
	sent := make([][]int, len(users)) // per user: indexes of msgs in order
	refused := map[string]string{}

	smtp := dialSMTP(t, relay.SMTP)
	for i, m := range msgs {
		u := i % len(users)
		if why := documentedRefusal(m); why != "" {
			refused[names[i]] = smtp.send(why, users[u].Address, m)
			continue
		}
		smtp.send("250", users[u].Address, m)
		sent[u] = append(sent[u], i)
	}
	for name, reply := range refused {
		t.Logf("refused as documented: %s: %s", name, strings.TrimSpace(reply))
	}
	if len(refused) > len(msgs)/20 {
		t.Errorf("%d of %d messages refused", len(refused), len(msgs))
	}
	for u, idx := range sent {
		cl := imapLogin(t, relay.IMAP, users[u].Login, users[u].Password)
		got := fetchAll(t, cl, "INBOX")
		if len(got) != len(idx) {
			t.Fatalf("%s: %d messages, want %d", users[u].Login, len(got), len(idx))
		}
		popped := popAll(t, relay.POP3, users[u].Login, users[u].Password)
		if len(popped) != len(idx) {
			t.Fatalf("%s: %d messages by POP3, want %d", users[u].Login, len(popped), len(idx))
		}
		for k, i := range idx {
			if err := sameButTrace(got[k], msgs[i]); err != nil {
				t.Errorf("%s by IMAP: %v", names[i], err)
			}
			if !bytes.Equal(popped[k], got[k]) {
				t.Errorf("%s: POP3 and IMAP differ", names[i])
			}
		}
		// APPEND: the octets themselves, nothing added.
		if err := cl.Create("Corpus", nil).Wait(); err != nil {
			t.Fatal(err)
		}
		for _, i := range idx {
			cmd := cl.Append("Corpus", int64(len(msgs[i])), nil)
			cmd.Write(msgs[i])
			cmd.Close()
			if _, err := cmd.Wait(); err != nil {
				t.Errorf("%s: APPEND: %v", names[i], err)
			}
		}
		back := fetchAll(t, cl, "Corpus")
		if len(back) != len(idx) {
			t.Fatalf("%s: %d messages appended, want %d", users[u].Login, len(back), len(idx))
		}
		for k, i := range idx {
			if !bytes.Equal(back[k], msgs[i]) {
				t.Errorf("%s: APPEND changed the message", names[i])
			}
		}
		cl.Logout().Wait()
	}
}

// documentedRefusal is the reply code that a message must get, "" when it must
// be accepted.
func documentedRefusal(m []byte) string {
	head, _, _ := bytes.Cut(m, []byte("\r\n\r\n"))
	switch {
	case bytes.IndexByte(m, 0) >= 0:
		return "550" // RFC 5321 4.5.2, our 5.6.0 family
	case bytes.Count(bytes.ToLower(head), []byte("\r\nreceived:")) > 50:
		return "554" // loop
	}
	return ""
}

func popAll(t testing.TB, addr, user, pass string) (msgs [][]byte) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	r := bufio.NewReader(c)
	ok := func() string {
		t.Helper()
		line, err := r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "+OK") {
			t.Fatalf("pop3: %q %v", line, err)
		}
		return line
	}
	cmd := func(s string) string { t.Helper(); fmt.Fprintf(c, "%s\r\n", s); return ok() }
	ok()
	cmd("USER " + user)
	cmd("PASS " + pass)
	n, _ := strconv.Atoi(strings.Fields(cmd("STAT"))[1])
	for i := 1; i <= n; i++ {
		cmd(fmt.Sprintf("RETR %d", i))
		var b bytes.Buffer
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == ".\r\n" {
				break
			}
			b.WriteString(strings.TrimPrefix(line, "."))
		}
		msgs = append(msgs, b.Bytes())
	}
	cmd("QUIT")
	return msgs
}

// TestHostileMessages gives each odd case its documented answer.
func TestHostileMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "1")
	relay, u := c.Info().Relays[0], c.Info().Users[0]
	head := "From: <a@client.test>\r\nSubject: x\r\n"
	deep := head + "Content-Type: multipart/mixed; boundary=b0\r\n\r\n"
	for i := range 400 {
		deep += fmt.Sprintf("--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n", i, i+1)
	}
	cases := []struct{ name, want, msg string }{
		{"8-bit", "250", head + "\r\nna\xefve \xff\xfe\r\n"},
		{"NUL", "550", head + "\r\na\x00b\r\n"},
		{"bare LF", "550", head + "\r\na\nb\r\n"},
		{"bare CR", "550", head + "\r\na\rb\r\n"},
		{"endless line", "250", head + "\r\n" + strings.Repeat("x", 1<<20) + "\r\n"},
		{"deep MIME", "250", deep + "end\r\n"},
		{"odd charset", "250", head + "Content-Type: text/plain; charset=x-nobody-knows\r\n\r\n\xa4\r\n"},
		{"no header", "250", "\r\njust a body\r\n"},
		{"empty", "250", ""},
		{"too many hops", "554", strings.Repeat("Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n", 120) + head + "\r\nx\r\n"},
	}
	stored := [][]byte{}
	for _, tt := range cases {
		s := dialSMTP(t, relay.SMTP)
		s.send(tt.want, u.Address, []byte(tt.msg))
		s.cmd("221", "QUIT")
		if tt.want == "250" {
			stored = append(stored, []byte(tt.msg))
		}
	}
	// Oversize: refused at MAIL, before the octets travel.
	s := dialSMTP(t, relay.SMTP)
	s.cmd("552", "MAIL FROM:<a@client.test> SIZE=999999999999")
	cl := imapLogin(t, relay.IMAP, u.Login, u.Password)
	got := fetchAll(t, cl, "INBOX")
	if len(got) != len(stored) {
		t.Fatalf("%d messages stored, want %d", len(got), len(stored))
	}
	for i := range stored {
		if err := sameButTrace(got[i], stored[i]); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	// Every structure can be asked for.
	msgs, err := cl.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{Envelope: true, BodyStructure: &imap.FetchItemBodyStructure{Extended: true}}).Collect()
	if err != nil || len(msgs) != len(stored) {
		t.Errorf("ENVELOPE and BODYSTRUCTURE of %d messages: %v", len(msgs), err)
	}
}
