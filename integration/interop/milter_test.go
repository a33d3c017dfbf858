package interop

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
	"github.com/postern-mail/postern/shared/tlsconf"
)

var updateMilter = flag.Bool("update-milter", false, "write what Postfix does into the golden file of package milter")

const milterData = "../../relay/policy/milter/testdata"

// TestPostfixMilter: the golden file, with which package milter compares itself, is
// what a real Postfix does.
func TestPostfixMilter(t *testing.T) {
	sessions := peertest.MilterSessions(t, milterData+"/postfix.json")
	peertest.Programs(t, "postfix", "postconf", "postcat")
	logs, addrs, master := map[string]string{}, map[string]string{}, []string{}
	for _, s := range sessions {
		key := strings.Join(s.Options, " ")
		if logs[key] != "" {
			continue
		}
		logs[key] = filepath.Join(t.TempDir(), "log")
		milter := cluster.FreeAddr(t)
		startMilter(t, milter, logs[key], s.Options...)
		addrs[key] = cluster.FreeAddr(t)
		master = append(master, addrs[key]+" inet n - n - - smtpd -o inet_protocols=all -o smtpd_milters=inet:"+milter)
	}
	ca, err := tlsconf.InitCA(t.TempDir(), "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certs := t.TempDir()
	cert := issue(t, ca, certs, tlsconf.Request{Node: "mx.test", DNSNames: []string{"mx.test"}})
	p := cluster.StartPostfix(t, cluster.PostfixConfig{
		Hostname: "mx.test",
		Main: []string{
			"milter_macro_daemon_name = mx",
			"milter_connect_macros = j {daemon_name} {daemon_addr} {daemon_port} v _ {client_addr} {client_name} {client_port} {client_ptr}",
			"smtpd_authorized_xclient_hosts = 127.0.0.1",
			"smtpd_relay_restrictions = check_client_access inline:{192.0.2.7=permit, 2001:db8::7=permit}, reject",
			"smtpd_delay_open_until_valid_rcpt = no",
			"smtputf8_enable = no",
			"defer_transports = smtp", // what was accepted stays where postcat finds it
			"smtpd_tls_security_level = may",
			"smtpd_tls_cert_file = " + cert + ".pem",
			"smtpd_tls_key_file = " + cert + "-key.pem",
			"smtpd_soft_error_limit = 100",
		},
		Master: master,
	})
	for _, s := range sessions {
		t.Run(s.Name, func(t *testing.T) {
			want, _ := json.MarshalIndent(s, "", "\t")
			key := strings.Join(s.Options, " ")
			os.Remove(logs[key])
			milterRun(t, s, p, addrs[key])
			s.Events = peertest.MilterEvents(t, logs[key], 2)
			if got, _ := json.MarshalIndent(s, "", "\t"); !*updateMilter && !bytes.Equal(got, want) {
				t.Errorf("Postfix gives\n%s\nwant\n%s", got, want)
			}
		})
	}
	if *updateMilter && !t.Failed() {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "\t")
		if err := e.Encode(sessions); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(milterData+"/postfix.json", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// startMilter runs filter.py. It ends with the test.
func startMilter(t testing.TB, addr, log string, options ...string) {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	cmd := peertest.MilterFilter(t, milterData+"/filter.py", append([]string{"inet:" + port + "@" + host, log}, options...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	cluster.AwaitPort(t, addr)
}

// milterRun is the session, as 192.0.2.7, and fills in what Postfix answers and keeps.
func milterRun(t *testing.T, s *peertest.MilterSession, p *cluster.Postfix, server string) {
	c := dialSMTP(t, server)
	addr := "192.0.2.7"
	if s.Addr != "" {
		addr = "IPv6:" + s.Addr
	}
	name, reverse := "host.client.test", "host.client.test"
	if s.Host != "" {
		name = "[UNAVAILABLE]"
	}
	if s.Host == "none" {
		reverse = "[UNAVAILABLE]"
	}
	c.cmd("220", "XCLIENT NAME=%s REVERSE_NAME=%s ADDR=%s PORT=4711", name, reverse, addr)
	hello := func() { milterReply(c, "EHLO "+s.Helo) }
	hello()
	if s.TLS {
		c.cmd("220", "STARTTLS")
		tc := tls.Client(c.c, &tls.Config{InsecureSkipVerify: true})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		c.c = tc
		c.r.Reset(tc)
		hello()
	}
	for _, m := range s.Messages {
		m.Replies, m.Stored, m.Sender, m.Recipients, m.Held = nil, nil, "", nil, false
		path, params, _ := strings.Cut(m.From, " ")
		say := func(line string) string {
			r := milterReply(c, line)
			if strings.HasPrefix(r, "250") {
				m.Replies = append(m.Replies, "")
			} else {
				m.Replies = append(m.Replies, r)
			}
			return r
		}
		if !strings.HasPrefix(say(strings.TrimSpace("MAIL FROM:<"+path+"> "+params)), "250") {
			continue
		}
		for _, to := range m.To {
			say("RCPT TO:<" + to + ">")
		}
		if m.Text == nil {
			c.cmd("250", "RSET")
			continue
		}
		if r := milterReply(c, "DATA"); !strings.HasPrefix(r, "354") {
			m.Replies = append(m.Replies, r)
			continue
		}
		c.c.Write(stuff(m.Octets()))
		r := say("")
		if id := regexp.MustCompile(`queued as (\w+)`).FindStringSubmatch(r); id != nil {
			milterStored(t, m, p, id[1])
		}
	}
	c.cmd("221", "QUIT")
}

// milterReply is a reply in one line. An empty line only waits for one.
func milterReply(c *smtpConn, line string) string {
	if line != "" {
		fmt.Fprintf(c.c, "%s\r\n", line)
	}
	c.c.SetDeadline(time.Now().Add(30 * time.Second))
	var all []string
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatal(err)
		}
		line = strings.TrimRight(line, "\r\n")
		all = append(all, line)
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	if all[0][0] == '2' {
		return all[len(all)-1]
	}
	return strings.Join(all, " / ")
}

// milterStored notes what the queue has under id.
func milterStored(t *testing.T, m *peertest.MilterMessage, p *cluster.Postfix, id string) {
	var entry struct {
		Queue      string `json:"queue_name"`
		ID         string `json:"queue_id"`
		Sender     string `json:"sender"`
		Recipients []struct {
			Address string `json:"address"`
		} `json:"recipients"`
	}
	if !m.Gone {
		p.AwaitLog(t, id+`: (.*status=deferred|.*milter-hold)`, 1, 30*time.Second)
	}
	for line := range strings.Lines(p.Queue(t)) {
		entry.Recipients = nil
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.ID != id {
			continue
		}
		m.Sender, m.Held = strings.Replace(entry.Sender, "MAILER-DAEMON", "", 1), entry.Queue == "hold"
		for _, r := range entry.Recipients {
			m.Recipients = append(m.Recipients, r.Address)
		}
		slices.Sort(m.Recipients)
		cmd := exec.Command(peertest.Programs(t, "postcat")[0], "-c", filepath.Join(p.Dir, "etc"), "-bhq", id)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		m.Keep(milterReceived.ReplaceAllString(string(out), ""))
		return
	}
}

var milterReceived = regexp.MustCompile(`(?m)^Received: from .*\n(?:[ \t].*\n)*?[ \t]by mx\.test \(Postfix\) .*\n(?:[ \t].*\n)*`)
