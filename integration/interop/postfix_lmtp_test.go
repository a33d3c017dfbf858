package interop

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// lmtpNode is what cluster.json says of a backend's LMTP.
type lmtpNode struct {
	Name, Role string
	LMTP       string // plain, for measuring
	LMTPTLS    string `json:"lmtp_tls"`
	IMAPTLS    string `json:"imap_tls"`
	POP3TLS    string `json:"pop3_tls"`
}

// lmtpNodes returns the data nodes of the first pair, the serving one first.
func lmtpNodes(t testing.TB, c *cluster.Cluster) (pair string, nodes []lmtpNode) {
	t.Helper()
	var info struct {
		Pairs []struct {
			Name  string
			Nodes []lmtpNode
		}
	}
	data, err := os.ReadFile(filepath.Join(c.Dir, "cluster.json"))
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		t.Fatal(err)
	}
	pair = info.Pairs[0].Name
	nodes = slices.DeleteFunc(info.Pairs[0].Nodes, func(n lmtpNode) bool { return n.Role == "witness" })
	if len(nodes) != 2 {
		t.Fatalf("%d nodes with data in %s, want 2", len(nodes), pair)
	}
	if nodes[0].Name != c.AwaitServing(pair, 30*time.Second) {
		slices.Reverse(nodes)
	}
	return pair, nodes
}

// openCA is the authority of a development cluster.
func openCA(t testing.TB, c *cluster.Cluster) *tlsconf.CA {
	t.Helper()
	ca, err := tlsconf.OpenCA(filepath.Dir(c.Info().CA))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// issue makes a certificate and returns the prefix of its files.
func issue(t testing.TB, ca *tlsconf.CA, dir string, req tlsconf.Request) string {
	t.Helper()
	prefix := filepath.Join(dir, req.Node)
	if _, err := ca.Issue(prefix, req, time.Now()); err != nil {
		t.Fatal(err)
	}
	return prefix
}

// submit sends a message from an address to several recipients.
func submit(t testing.TB, addr, from string, msg []byte, rcpts ...string) {
	t.Helper()
	s := dialSMTP(t, addr)
	s.transaction(from, msg, rcpts...)
	s.cmd("221", "QUIT")
}

func (s *smtpConn) transaction(from string, msg []byte, rcpts ...string) {
	s.t.Helper()
	s.cmd("250", "MAIL FROM:<%s> BODY=8BITMIME", from)
	for _, r := range rcpts {
		s.cmd("250", "RCPT TO:<%s>", r)
	}
	s.cmd("354", "DATA")
	s.c.Write(stuff(msg))
	s.want("250")
}

// lmtpTransport is a line of master.cf: an LMTP client that logs under its own
// name, with settings of its own.
func lmtpTransport(name string, settings ...string) string {
	return name + " unix - - n - - lmtp -o syslog_name=postfix/" + name + " -o " + strings.Join(settings, " -o ")
}

// postfixLMTP delivers to a backend without a relay of ours. The sender of a
// message chooses the way it takes.
func postfixLMTP(t *testing.T, c *cluster.Cluster, users []cluster.User) {
	_, nodes := lmtpNodes(t, c)
	serving, other := nodes[0], nodes[1]
	dir := t.TempDir()
	ca := openCA(t, c)
	strangers, err := tlsconf.InitCA(filepath.Join(dir, "strangers"), ca.Cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	mx := tlsconf.Request{Node: "foreign-mx", Roles: []tlsconf.Role{tlsconf.RelayMX}}
	relay := issue(t, ca, dir, mx)
	mx.Node = "stranger-mx"
	stranger := issue(t, strangers, dir, mx)
	proxy := issue(t, ca, dir, tlsconf.Request{Node: "foreign-proxy", Roles: []tlsconf.Role{tlsconf.RelayProxy}})
	wrapped := []string{"lmtp_tls_wrappermode=yes", "lmtp_tls_security_level=encrypt", "lmtp_tls_CAfile=" + c.Info().CA}
	with := func(prefix string) []string {
		return append(slices.Clone(wrapped), "lmtp_tls_cert_file="+prefix+".pem", "lmtp_tls_key_file="+prefix+"-key.pem")
	}
	p := cluster.StartPostfix(t, cluster.PostfixConfig{
		Hostname: "foreign-mx.client.test",
		Main: []string{
			"sender_dependent_default_transport_maps = inline:{" + strings.Join([]string{
				"{plain@client.test = plain:inet:" + serving.LMTP + "}",
				"{both@client.test = both:inet:" + other.LMTP + ", " + serving.LMTP + "}",
				"{mutual@client.test = mutual:inet:" + serving.LMTPTLS + "}",
				"{bare@client.test = bare:inet:" + serving.LMTPTLS + "}",
				"{stranger@client.test = stranger:inet:" + serving.LMTPTLS + "}",
				"{proxy@client.test = proxy:inet:" + serving.LMTPTLS + "}",
			}, ", ") + "}",
			"debug_peer_list = 127.0.0.1",
			"debug_peer_level = 1",
		},
		Master: []string{
			lmtpTransport("plain", "lmtp_tls_security_level=none"),
			lmtpTransport("both", "lmtp_tls_security_level=none"),
			lmtpTransport("mutual", with(relay)...),
			lmtpTransport("bare", wrapped...),
			lmtpTransport("stranger", with(stranger)...),
			lmtpTransport("proxy", with(proxy)...),
		},
	})
	for i, way := range []string{"plain", "mutual"} {
		t.Run("corpus "+way, func(t *testing.T) {
			names, msgs := ordinary(t, 50)
			s := dialSMTP(t, p.Addr)
			for _, m := range msgs {
				s.transaction(way+"@client.test", m, users[i].Address)
			}
			p.AwaitLog(t, `postfix/`+way+`/lmtp\[.*to=<`+regexp.QuoteMeta(users[i].Address)+`>.*status=sent \(250 2\.1\.5`, len(msgs), time.Minute)
			arrived(t, names, msgs, inbox(t, c, users[i]))
			if tls := strings.Contains(p.Log(t), "postfix/"+way+"/lmtp") && regexp.MustCompile(`postfix/`+way+`/lmtp\[\d+\]: Trusted TLS connection established to \S+: TLSv1\.3`).MatchString(p.Log(t)); tls != (way == "mutual") {
				t.Errorf("TLS used: %v", tls)
			}
		})
	}
	t.Run("a reply for each recipient", func(t *testing.T) {
		limit(t, ca, dir, serving.LMTPTLS, users[2].Address, 2000)
		msg := fmt.Appendf(nil, "From: <a@client.test>\r\nSubject: too much for one\r\n\r\n%s", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 50))
		submit(t, p.Addr, "plain@client.test", msg, users[0].Address, users[2].Address, users[3].Address)
		for _, u := range []cluster.User{users[0], users[3]} {
			p.AwaitLog(t, `to=<`+regexp.QuoteMeta(u.Address)+`>.*status=sent \(250 2\.1\.5 <`+regexp.QuoteMeta(u.Address)+`> delivered`, 1, 30*time.Second)
			await(t, c, u, "Subject: too much for one", 1)
		}
		p.AwaitLog(t, `to=<`+regexp.QuoteMeta(users[2].Address)+`>.*status=deferred \(.* said: 452 4\.2\.2 `, 1, 30*time.Second)
		if one := regexp.MustCompile(`MAIL RCPT RCPT RCPT DATA`); !one.MatchString(commands(p.Log(t), "plain")) {
			t.Error("the three recipients did not share a transaction")
		}
	})
	// Postfix knows both nodes and tries the wrong one first.
	t.Run("not serving", func(t *testing.T) {
		submit(t, p.Addr, "both@client.test", []byte("From: <a@client.test>\r\nSubject: by the second\r\n\r\nx\r\n"), users[3].Address)
		p.AwaitLog(t, `postfix/both/lmtp\[\d+\]: < .*451 4\.3\.0 not serving; leader=`+regexp.QuoteMeta(serving.Name), 1, 30*time.Second)
		p.AwaitLog(t, `postfix/both/lmtp\[.*status=sent \(250 2\.1\.5`, 1, 30*time.Second)
		await(t, c, users[3], "Subject: by the second", 1)
	})
	for _, way := range []string{"bare", "stranger", "proxy"} {
		t.Run("refused "+way, func(t *testing.T) {
			submit(t, p.Addr, way+"@client.test", []byte("From: <a@client.test>\r\nSubject: by "+way+"\r\n\r\nx\r\n"), users[3].Address)
			p.AwaitLog(t, `postfix/`+way+`/lmtp\[.*status=deferred`, 1, 30*time.Second)
			if said := regexp.MustCompile(`postfix/` + way + `/lmtp\[\d+\]: [<>] .*`).FindString(p.Log(t)); said != "" {
				t.Errorf("something was said: %s", said)
			}
			for _, m := range inbox(t, c, users[3]) {
				if strings.Contains(string(m), "Subject: by "+way) {
					t.Error("the message was stored")
				}
			}
		})
	}
}

// commands lists the verbs that a transport of Postfix has sent, process after
// process.
func commands(log, way string) string {
	byProcess := map[string][]string{}
	for _, m := range regexp.MustCompile(`postfix/`+way+`/lmtp\[(\d+)\]: > \S+: (\S+)`).FindAllStringSubmatch(log, -1) {
		byProcess[m[1]] = append(byProcess[m[1]], m[2])
	}
	var all []string
	for _, verbs := range byProcess {
		all = append(all, strings.Join(verbs, " "))
	}
	return strings.Join(all, "\n")
}

// limit sets the quota of an account, as a relay does with each delivery, by
// the private parameters that only relays are offered.
func limit(t testing.TB, ca *tlsconf.CA, dir, addr, account string, octets int) {
	t.Helper()
	prefix := issue(t, ca, dir, tlsconf.Request{Node: "quota-mx", Roles: []tlsconf.Role{tlsconf.RelayMX}})
	caFile := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, ca.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := tlsconf.Load(tlsconf.Files{CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem", CAFile: caFile})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(plain, store.Client("", tlsconf.Backend))
	defer conn.Close()
	s := &smtpConn{t, conn, bufio.NewReader(conn)}
	s.want("220")
	s.cmd("250", "LHLO quota-mx")
	s.cmd("250", "MAIL FROM:<a@client.test>")
	s.cmd("250", "RCPT TO:<%s> XQUOTA=%d,-1,20260101000000Z", account, octets)
	s.cmd("354", "DATA")
	fmt.Fprintf(conn, "Subject: sets the limit\r\n\r\nx\r\n.\r\n")
	s.want("250")
	s.cmd("221", "QUIT")
}
