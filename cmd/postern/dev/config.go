package dev

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
)

// The types below are the part of a node's options that a development cluster
// sets. What they leave out has its default.

type common struct {
	Node    string  `yaml:"node"`
	Cluster string  `yaml:"cluster"`
	Dir     string  `yaml:"dir"`
	TLS     tlsCA   `yaml:"tls"`
	Gossip  gossip  `yaml:"gossip"`
	Admin   listen  `yaml:"admin"`
	Metrics listen  `yaml:"metrics"`
	Log     logForm `yaml:"log"`
}

type tlsCA struct {
	CA string `yaml:"ca"`
}

type gossip struct {
	Listen  string   `yaml:"listen"`
	Join    []string `yaml:"join,flow"`
	KeyFile string   `yaml:"key_file"`
}

type listen struct {
	Listen string `yaml:"listen"`
}

type logForm struct {
	Format string `yaml:"format"`
}

type relayConfig struct {
	common     `yaml:",inline"`
	Hostname   string       `yaml:"hostname"`
	SMTP       smtpConfig   `yaml:"smtp"`
	Submission access       `yaml:"submission"`
	IMAP       access       `yaml:"imap"`
	POP3       access       `yaml:"pop3"`
	Proxy      proxyConfig  `yaml:"proxy"`
	Directory  ldapConfig   `yaml:"directory"`
	DNS        dnsConfig    `yaml:"dns"`
	Public     *publicNames `yaml:"public,omitempty"`
	Pairs      []pairConfig `yaml:"pairs"`
	Retry      retryConfig  `yaml:"retry"`
}

type smtpConfig struct {
	Listen        []string `yaml:"listen,flow"`
	MaxSessions   int      `yaml:"max_sessions"`
	MaxPerAddress int      `yaml:"max_per_address"`
}

type access struct {
	Listen    []string `yaml:"listen,flow"`
	TLSListen []string `yaml:"tls_listen,flow"`
}

type proxyConfig struct {
	MaxPerAddress int    `yaml:"max_per_address"`
	PlainLoopback string `yaml:"plain_loopback"`
}

type ldapConfig struct {
	URLs          []string `yaml:"urls,flow"`
	Base          string   `yaml:"base"`
	BindDN        string   `yaml:"bind_dn,omitempty"`
	PasswordFile  string   `yaml:"password_file,omitempty"`
	DefaultDomain string   `yaml:"default_domain"`

	Domains      []domainConfig `yaml:"domains,omitempty"`
	UserClasses  []string       `yaml:"user_classes,flow,omitempty"`
	GroupClasses []string       `yaml:"group_classes,flow,omitempty"`
}

type domainConfig struct {
	Name string `yaml:"name"`
}

type dnsConfig struct {
	Servers []string  `yaml:"servers,flow"`
	Serve   *dnsServe `yaml:"serve,omitempty"`
}

type dnsServe struct {
	Listen []string `yaml:"listen,flow"`
	Zone   string   `yaml:"zone"`
	TTL    string   `yaml:"ttl"`
	Rate   int      `yaml:"rate"`
}

type publicNames struct {
	Addresses []string `yaml:"addresses,flow"`
}

type pairConfig struct {
	Pair string `yaml:"pair"`
	Node string `yaml:"node"`
	LMTP string `yaml:"lmtp"`
	IMAP string `yaml:"imap"`
	POP3 string `yaml:"pop3"`
}

type retryConfig struct {
	Schedule []string `yaml:"schedule,flow"`
}

type storeConfig struct {
	common `yaml:",inline"`
	Raft   listen        `yaml:"raft"`
	Groups []groupConfig `yaml:"groups"`
	Serve  *serveConfig  `yaml:"serve,omitempty"`
	Bench  *benchConfig  `yaml:"bench,omitempty"`
}

type groupConfig struct {
	Pair    string         `yaml:"pair"`
	Members []memberConfig `yaml:"members"`
}

type memberConfig struct {
	Node    string `yaml:"node"`
	ID      string `yaml:"id"`
	Addr    string `yaml:"addr"`
	Witness string `yaml:"witness,omitempty"`
}

type serveConfig struct {
	LMTP string `yaml:"lmtp"`
	IMAP string `yaml:"imap"`
	POP3 string `yaml:"pop3"`
}

type benchConfig struct {
	LMTP     string `yaml:"lmtp"`
	IMAP     string `yaml:"imap"`
	Domain   string `yaml:"domain"`
	Password string `yaml:"password"`
}

const (
	// Everybody on loopback is one address.
	sessionsPerAddress = 20_000
	// benchPassword opens every account on the plain port for measuring.
	benchPassword = "secret"
	// ldapPassword is the file with the password of an outside directory.
	ldapPassword = "ldap.password"
)

// retrySchedule is short: whoever tries things out does not wait five minutes.
var retrySchedule = []string{"2s", "5s", "10s", "30s", "1m", "5m"}

// configs writes the configuration file of every node.
func (l *layout) configs(dir string, o *Options) error {
	if o.BindPassword != "" {
		if err := clusterfile.Replace(filepath.Join(dir, ldapPassword), []byte(o.BindPassword), 0o600); err != nil {
			return err
		}
	}
	for _, n := range l.Nodes {
		var c any = l.store(dir, n, o)
		if n.Tier == relayTier {
			c = l.relay(dir, n, o)
		}
		text, err := yaml.Marshal(c)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, n.Name), 0o700); err != nil {
			return err
		}
		head := fmt.Appendf(nil, "# Written by postern dev at each start; changes are lost.\n")
		if err := clusterfile.Replace(configFile(dir, n), append(head, text...), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func configFile(dir string, n *node) string { return filepath.Join(dir, n.Name, n.Name+".yaml") }

// nodeFile is a file among the certificates and keys of a node, which are its
// own as on a machine of its own: they change node by node.
func nodeFile(dir string, n *node, name string) string {
	return filepath.Join(dir, n.Name, "tls", name)
}

func (l *layout) common(dir string, n *node) common {
	c := common{
		Node: n.Name, Cluster: clusterName, Dir: filepath.Join(dir, n.Name),
		TLS:    tlsCA{CA: nodeFile(dir, n, "ca.pem")},
		Gossip: gossip{Listen: n.Addr["gossip"], KeyFile: nodeFile(dir, n, gossipKey)},
		Admin:  listen{n.Addr["admin"]}, Metrics: listen{n.Addr["metrics"]}, Log: logForm{"text"},
	}
	for _, other := range l.Nodes {
		if other != n {
			c.Gossip.Join = append(c.Gossip.Join, other.Addr["gossip"])
		}
	}
	return c
}

func (l *layout) relay(dir string, n *node, o *Options) *relayConfig {
	c := &relayConfig{
		common: l.common(dir, n), Hostname: l.hostname(n),
		SMTP:       smtpConfig{[]string{n.Addr["smtp"]}, sessionsPerAddress, sessionsPerAddress},
		Submission: access{[]string{n.Addr["submission"]}, []string{n.Addr["submissions"]}},
		IMAP:       access{[]string{n.Addr["imap"]}, []string{n.Addr["imaps"]}},
		POP3:       access{[]string{n.Addr["pop3"]}, []string{n.Addr["pop3s"]}},
		Proxy:      proxyConfig{sessionsPerAddress, "yes"},
		Directory:  ldapConfig{URLs: []string{"ldap://" + l.LDAP}, Base: l.Base, DefaultDomain: l.Domains[0]},
		DNS:        dnsConfig{Servers: []string{l.DNS}},
		Retry:      retryConfig{retrySchedule},
	}
	if l.Unlisted {
		c.Directory.Domains = []domainConfig{{l.Domains[0]}}
		// Such a tree was not made for us: one class says what an entry is.
		c.Directory.UserClasses, c.Directory.GroupClasses = []string{"inetMailUser"}, []string{"inetMailGroup"}
	}
	if o.Responder {
		smtp, dns := l.public(n)
		host, _, _ := net.SplitHostPort(smtp)
		c.SMTP.Listen = append(c.SMTP.Listen, smtp)
		c.Public = &publicNames{[]string{host}}
		c.DNS.Serve = &dnsServe{[]string{dns}, responderZone + l.Domains[0], "1s", 100_000}
	}
	if o.Directory != "" {
		c.Directory.URLs, c.Directory.BindDN = []string{o.Directory}, o.BindDN
		if o.BindPassword != "" {
			c.Directory.PasswordFile = filepath.Join(dir, ldapPassword)
		}
	}
	for _, b := range l.of(backendTier) {
		c.Pairs = append(c.Pairs, pairConfig{Pair: b.Pair, Node: b.Name, LMTP: b.Addr["lmtp"], IMAP: b.Addr["imap"], POP3: b.Addr["pop3"]})
	}
	return c
}

// responderZone begins the name of the zone of the relays' own DNS.
const responderZone = "mx."

// public are the addresses of a relay that has one of its own on loopback: the
// ports, of SMTP and DNS, are the same for all, as they would be in the world. They
// are those of the first relay's SMTP and metrics, which are on 127.0.0.1.
func (l *layout) public(n *node) (smtp, dns string) {
	relays := l.of(relayTier)
	host := fmt.Sprintf("127.0.0.%d", 11+slices.Index(relays, n))
	on := func(service string) string {
		_, port, _ := net.SplitHostPort(relays[0].Addr[service])
		return net.JoinHostPort(host, port)
	}
	return on("smtp"), on("metrics")
}

func (l *layout) store(dir string, n *node, o *Options) *storeConfig {
	g := groupConfig{Pair: n.Pair}
	for _, v := range l.voters(n.Pair) {
		m := memberConfig{Node: v.Name, ID: v.ID, Addr: v.Addr["raft"]}
		if v.Tier == witnessTier {
			m.Witness = "yes"
		}
		g.Members = append(g.Members, m)
	}
	c := &storeConfig{common: l.common(dir, n), Raft: listen{n.Addr["raft"]}, Groups: []groupConfig{g}}
	if n.Tier == backendTier {
		c.Serve = &serveConfig{LMTP: n.Addr["lmtp"], IMAP: n.Addr["imap"], POP3: n.Addr["pop3"]}
		if o.BenchPorts {
			c.Bench = &benchConfig{LMTP: n.Addr["bench_lmtp"], IMAP: n.Addr["bench_imap"], Domain: l.Domains[0], Password: benchPassword}
		}
	}
	return c
}
