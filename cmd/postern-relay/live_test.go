package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/relay/smtpd"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// withOption is the least configuration with one option more.
func withOption(t *testing.T, dir, name, value string) *config.Relay {
	t.Helper()
	options := map[string]string{
		"node": "relay1", "cluster": "east", "dir": dir, "hostname": "mx1.example.com", "directory.base": "o=isp",
		"directory.urls": "[\"ldap://127.0.0.1:1\"]", "directory.dc_root": "o=internet", "expand.srs_domain": "example.com", "expand.srs_key_file": filepath.Join(dir, "srs.key"),
		"roles": "[mx, submit, proxy, outbound]", "dns.servers": "[\"127.0.0.1:53\"]",
	}
	if name != "" {
		options[name] = value
	}
	sections := map[string][]string{}
	for k, v := range options {
		section, option, nested := strings.Cut(k, ".")
		if !nested {
			section, option = "", k
		}
		sections[section] = append(sections[section], option+": "+v)
	}
	var text strings.Builder
	for section, lines := range sections {
		slices.Sort(lines)
		if section == "" {
			text.WriteString(strings.Join(lines, "\n") + "\n")
			continue
		}
		text.WriteString(section + ":\n  " + strings.Join(lines, "\n  ") + "\n")
	}
	c, err := config.Parse[config.Relay]("c.yaml", []byte(text.String()), config.NoEnv, nil)
	if err != nil {
		t.Fatalf("%s = %s: %v", name, value, err)
	}
	return c
}

// otherValue is a value that the option has not.
func otherValue(o *config.Option, dir string) string {
	for _, v := range o.Values {
		if v != o.Default && o.Type == config.String {
			return v
		}
	}
	switch o.Name {
	case "directory.attributes":
		return "[alternate=mailLocalAddress]"
	case "directory.class_tags":
		return "[nms41]"
	case "smtp.in_flight":
		return "1MB"
	case "directory.base", "directory.dc_root", "directory.bind_dn", "directory.netgroup_base":
		return "o=other"
	case "directory.netgroup_filter":
		return "(cn=$N)"
	case "directory.domain_filter_schema1", "directory.domain_filter_schema2":
		return "(o=$D)"
	case "directory.domains":
		return "[{name: example.net}]"
	case "directory.lookup_urls":
		return "[\"ldap:///$B?*?sub?$R\"]"
	case "directory.master":
		return "ldap://127.0.0.1:2"
	case "directory.urls":
		return "[\"ldap://127.0.0.1:3\"]"
	case "directory.ca":
		return filepath.Join(dir, "ca.pem")
	case "expand.options":
		return "[\"#*archive=$U@archive.example\"]"
	case "expand.texts":
		return "[user_disabled=closed]"
	case "expand.mappings", "expand.srs_key_file", "directory.password_file":
		return filepath.Join(dir, "other."+o.Name)
	case "notices.texts":
		return dir
	case "notices.language":
		return "fr"
	case "filters":
		return "[{name: spam, address: \"unix:/run/spam.sock\", opt_in: [spam]}]"
	case "pairs":
		return "[{pair: pair9, node: pair9-a}]"
	case "public.client_ca":
		return filepath.Join(dir, "ca.pem")
	case "public.addresses":
		return "[192.0.2.77]"
	case "outbound.source":
		return "192.0.2.78"
	case "directory.user_classes", "directory.group_classes":
		return "[inetOrgPerson+other]"
	}
	switch o.Type {
	case config.Bool:
		return map[string]string{"yes": "no"}[o.Default] + map[string]string{"no": "yes"}[o.Default]
	case config.Int:
		return fmt.Sprint(max(o.Min, 1) + 1)
	case config.Octets:
		return fmt.Sprint(max(o.Min, 1) + 1)
	case config.Duration:
		return fmt.Sprint(max(o.Min, 1)+1) + "s"
	case config.Durations:
		return "[17m]"
	case config.HostPort:
		return "127.0.0.1:7777"
	case config.HostPorts:
		return "[\"127.0.0.1:7777\"]"
	case config.Blocks:
		return "[192.0.2.0/24]"
	case config.Words:
		if o.Values != nil {
			return "[" + o.Values[0] + "]"
		}
		return "[other.example]"
	}
	return "other.example"
}

// told is all that the parts of a relay are told of a configuration, in words.
func told(t *testing.T, r *relay, c *config.Relay) string {
	t.Helper()
	in, err := r.makeInside(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.dir.servers.Close()
	var b strings.Builder
	say := func(v ...any) { fmt.Fprintln(&b, v...) }
	peer, loop := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("127.0.0.1:1")
	door := r.doorConfig(in)
	say(door.Hostname, door.Origin, door.Domain, door.PairDeadline, door.MaxReceived, door.MaxOwn, door.HoldLoops,
		door.Copies != nil, door.Submission != nil, door.Reverse != nil, door.Mode != nil)
	for _, f := range door.Filters {
		say(f.Name(), f.Words, f.Some)
	}
	s := &mailService{name: "submission", role: smtpd.Submission}
	if s.service, err = smtpd.New(smtpd.Config{Acceptor: r.acceptor}); err != nil {
		t.Fatal(err)
	}
	engine := r.engineConfig(in, s)
	say(engine.Hostname, engine.Limits, engine.Mechanisms, engine.TrustProxy(peer), engine.TrustXCLIENT(peer), engine.LineEnds(peer), engine.PlainWithoutTLS(loop))
	r.inFlight.Store(1)
	_, full := engine.Admit(2 << 20)
	say(full)
	r.inFlight.Store(0)
	service := r.serviceConfig(in, s)
	say(service.MayRelay, service.Limits.Sessions, service.Limits.Unlimited(peer.Addr()), r.checker(in).AdminFrom(peer.Addr()), c.SMTP.MaxSessions)
	p := r.proxyConfig(in, &accessService{protocol: proxy.IMAP})
	say(p.Hostname, p.PlainWithoutTLS(loop), p.Within, p.PreAuth, p.Idle, p.MaxConns, p.PerAddress)
	out, err := outsideConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	say(out.Hello, out.Port, out.RequireTLS, out.SelfNames, out.Dial != nil)
	pool := r.poolConfig(in)
	say(pool.Hello, pool.MaxIdle, pool.MaxConns, pool.IdleTime, pool.MaxRecipients)
	notices, err := r.noticeConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	say(notices.Hostname, notices.Lifetime, notices.Language, c.Notices.Texts)
	say(answerRules(c), jobRules(c), queueLimits(c))
	say(string(in.clientCA), staticNodes(c), c.Tracing, c.Journal.FileSize, c.Journal.Files)
	answers := r.responderConfig(in)
	say(answers.Zone, answers.Names, answers.NS, answers.Contact, answers.TTL, answers.Rate)
	about := in.dir.about
	about.Directory.Serve = config.DirectoryServer{}
	say(fmt.Sprintf("%+v", about), about.Secret)
	x, err := r.expandConfig(in)
	if err != nil {
		t.Fatal(err)
	}
	say(x.Hostnames, x.RouteToRoutingHost, x.Options, x.ListLimit, x.ChunkSize, x.Quota, x.MessageQuota, x.OverQuotaTemporary, x.Texts, x.Guaranteed, x.SRS, x.Mappings, x.Trim, x.Groups, x.Separator)
	r.in.Store(in)
	say(c.DNS.Servers, r.self().Services["public/0"])
	return b.String()
}

// fixed are options that parts are told of and that a reload keeps all the same,
// with the reason.
var fixed = map[string]string{
	"node":     "it is in the certificate and in delivery keys",
	"hostname": "sessions, trace fields and gossip have it",
}

// TestReloadable: the options that the table says follow a reload are just those
// that the parts of a running relay are told anew.
func TestReloadable(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"srs.key": "0123456789abcdef\n", "other.expand.srs_key_file": "fedcba9876543210\n", "other.expand.mappings": "TABLE\n  *  $N\n",
		"other.directory.password_file": "secret\n", "ca.pem": string(certificate(t, dir)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &relay{c: withOption(t, dir, "", ""), n: &daemon.Node[config.Relay]{Routes: new(route.Table), Log: slog.New(slog.DiscardHandler), TLS: store(t, dir)}}
	var err error
	if r.acceptor, err = transaction.New(transaction.Config{
		Hostname: "mx1.example.com", Origin: "relay1", Expander: struct{ transaction.Expander }{}, Queue: struct{ transaction.Queue }{},
	}); err != nil {
		t.Fatal(err)
	}
	before := told(t, r, withOption(t, dir, "", ""))
	if again := told(t, r, withOption(t, dir, "", "")); again != before {
		t.Fatalf("the same configuration tells something else:\n%s\n%s", before, again)
	}
	for i := range config.Table {
		o := &config.Table[i]
		if o.Tier&config.TierRelay == 0 || strings.Contains(o.Name, "[]") || len(strings.Split(o.Name, ".")) > 2 || common(o.Name) {
			continue
		}
		changed := told(t, r, withOption(t, dir, o.Name, otherValue(o, dir))) != before
		if why := fixed[o.Name]; why != "" {
			if o.Reload || !changed {
				t.Errorf("%s is fixed (%s): reload %v, told %v", o.Name, why, o.Reload, changed)
			}
			continue
		}
		if changed != o.Reload {
			t.Errorf("%s: the table says reload %v, the parts are told anew: %v", o.Name, o.Reload, changed)
		}
	}
}

// common reports whether the frame of all daemons reads an option.
func common(name string) bool {
	if name == "heap_growth" {
		return true // goes with the section runtime
	}
	section, _, _ := strings.Cut(name, ".")
	for i := range reflect.TypeFor[config.Common]().NumField() {
		if strings.EqualFold(reflect.TypeFor[config.Common]().Field(i).Name, section) && section != "node" {
			return true
		}
	}
	return false
}

func store(t *testing.T, dir string) *tlsconf.Store {
	t.Helper()
	certificate(t, dir)
	s, err := tlsconf.Load(tlsconf.Files{CertFile: filepath.Join(dir, "node.pem"), KeyFile: filepath.Join(dir, "node-key.pem"), CAFile: filepath.Join(dir, "ca", "ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// certificate makes the node's, once, and returns the CA's.
func certificate(t *testing.T, dir string) []byte {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "ca")); err != nil {
		ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "east", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.Issue(filepath.Join(dir, "node"), tlsconf.Request{Node: "relay1", Roles: []tlsconf.Role{tlsconf.RelayMX, tlsconf.RelayProxy}}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return pem
}

// TestRetire: a directory that a reload has replaced still answers the sessions
// that began before, as long as one may take to its login.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &relay{n: &daemon.Node[config.Relay]{Log: slog.New(slog.DiscardHandler)}}
		r.retiring, r.endRetired = context.WithCancel(t.Context())
		defer r.retired.Wait()
		defer r.endRetired()
		c := withOption(t, t.TempDir(), "proxy.login_timeout", "9h")
		retired := func() (asked func() bool) {
			n := 0
			servers, err := ldap.New(ldap.Config{
				Servers: c.Directory.URLs, Base: c.Directory.Base,
				Observe: func(string, int, time.Duration, error) { n++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			r.retire(&inside{c: c, dir: &lookups{servers: servers}})
			return func() bool {
				_ = servers.Ready(t.Context()) // nobody is there
				return n > 0
			}
		}
		early, late := retired(), retired()
		time.Sleep(9 * time.Hour)
		if !early() {
			t.Error("closed while a session may ask it")
		}
		time.Sleep(2*c.Directory.Timeout + time.Second)
		if late() {
			t.Error("still open when nobody may ask it")
		}
	})
}
