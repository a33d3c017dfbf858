package dev

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/tlsconf"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
	}
	goleak.VerifyTestMain(m)
}

// options are those of a plain `postern dev`, changed by f.
func options(f func(*Options)) *Options {
	o := &Options{Relays: 2, Pairs: 1, Users: 3, Domain: "postern.test", PairPrefix: "pair", Given: func(string) bool { return false }}
	if f != nil {
		f(o)
	}
	return o
}

func given(flags ...string) func(string) bool {
	return func(f string) bool { return slices.Contains(flags, f) }
}

// TestConfigs loads every file that is written the way the daemons do.
func TestConfigs(t *testing.T) {
	for name, o := range map[string]*Options{
		"plain": options(nil),
		"large": options(func(o *Options) { o.Relays, o.Pairs, o.Users, o.BenchPorts, o.PairPrefix = 3, 2, 50, true, "store" }),
		"outside": options(func(o *Options) {
			o.Directory, o.Base, o.BindDN, o.BindPassword, o.Users = "ldap://127.0.0.1:389", "o=isp", "cn=reader", "s3cret", 0
		}),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := newLayout(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.secrets(dir, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := l.configs(dir, o); err != nil {
				t.Fatal(err)
			}
			ports := map[string]string{}
			for _, n := range l.Nodes {
				for s, a := range n.Addr {
					if other := ports[a]; other != "" {
						t.Errorf("%s is the port of %s and of %s %s", a, other, n.Name, s)
					}
					ports[a] = n.Name + " " + s
				}
				checkConfig(t, dir, l, n, o)
			}
		})
	}
}

func checkConfig(t *testing.T, dir string, l *layout, n *node, o *Options) {
	t.Helper()
	var c *config.Common
	switch n.Tier {
	case relayTier:
		r, err := config.Load[config.Relay](configFile(dir, n), nil)
		if err != nil {
			t.Fatal(err)
		}
		c = &r.Common
		if r.SMTP.Listen[0] != n.Addr["smtp"] || r.POP3.TLSListen[0] != n.Addr["pop3s"] || !r.Proxy.PlainLoopback {
			t.Errorf("%s: %+v", n.Name, r)
		}
		if len(r.Pairs) != 2*o.Pairs || r.Pairs[0].LMTP == "" {
			t.Errorf("%s: static nodes %+v", n.Name, r.Pairs)
		}
		if o.Directory != "" {
			pw, err := config.SecretOf("", r.Directory.PasswordFile)
			if err != nil || pw.Reveal() != o.BindPassword || r.Directory.URLs[0] != o.Directory {
				t.Errorf("%s: directory %+v, %v", n.Name, r.Directory, err)
			}
		}
		if _, err := tlsconf.LoadPublic(r.Public.Cert, r.Public.Key); err != nil {
			t.Error(err)
		}
	case backendTier:
		b, err := config.Load[config.Backend](configFile(dir, n), nil)
		if err != nil {
			t.Fatal(err)
		}
		c = &b.Common
		checkGroup(t, l, n, b.Groups)
		if want := o.BenchPorts; (b.Bench.LMTP != "") != want || (b.Bench.Password.Reveal() == benchPassword) != want {
			t.Errorf("%s: bench ports %+v", n.Name, b.Bench)
		}
	default:
		w, err := config.Load[config.Witness](configFile(dir, n), nil)
		if err != nil {
			t.Fatal(err)
		}
		c = &w.Common
		checkGroup(t, l, n, w.Groups)
	}
	store, err := tlsconf.Load(tlsconf.Files{CertFile: c.TLS.Cert, KeyFile: c.TLS.Key, CAFile: c.TLS.CA})
	if err != nil {
		t.Fatal(err)
	}
	if id := store.Identity(); id.Node != c.Node || id.Cluster != c.Cluster || c.Node != n.Name {
		t.Errorf("certificate of %+v for %s of %s", id, c.Node, c.Cluster)
	}
	if len(c.Gossip.Join) != len(l.Nodes)-1 || slices.Contains(c.Gossip.Join, c.Gossip.Listen) {
		t.Errorf("%s joins %v", n.Name, c.Gossip.Join)
	}
	if c.Admin.Socket != socket(dir, n) {
		t.Errorf("%s: admin socket %s, want %s", n.Name, c.Admin.Socket, socket(dir, n))
	}
}

func checkGroup(t *testing.T, l *layout, n *node, groups []config.Group) {
	t.Helper()
	if len(groups) != 1 || len(groups[0].Members) != 3 || groups[0].Pair != n.Pair {
		t.Fatalf("%s: groups %+v", n.Name, groups)
	}
	ids := map[string]bool{}
	for i, v := range l.voters(n.Pair) {
		m := groups[0].Members[i]
		if m.Node != v.Name || m.ID != v.ID || m.Addr != v.Addr["raft"] || m.Witness != (v.Tier == witnessTier) || len(m.ID) != 16 {
			t.Errorf("%s: member %+v of %+v", n.Name, m, v)
		}
		ids[m.ID] = true
	}
	if len(ids) != 3 {
		t.Errorf("replica ids %v", ids)
	}
}

// TestClusterFile compares cluster.json with its golden form, ports and random
// values made plain.
func TestClusterFile(t *testing.T) {
	o := options(func(o *Options) { o.Relays, o.BenchPorts = 1, true })
	l, err := newLayout(o)
	if err != nil {
		t.Fatal(err)
	}
	l.LDAP, l.LDAPS, l.DNS, l.RootPass = "127.0.0.1:1", "127.0.0.1:3", "127.0.0.1:2", "random"
	for _, n := range l.Nodes {
		for s := range n.Addr {
			n.Addr[s] = "127.0.0.1:" + s
		}
	}
	f := l.describe("/cluster", o, func(name string) int { return len(name) })
	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, clusterfile.Name))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "cluster.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("cluster.json is\n%s\nwant\n%s", got, want)
	}
	back, err := clusterfile.Read(dir)
	if err != nil || back.Pairs[0].Nodes[2].Role != clusterfile.RoleWitness || len(back.Users) != 3 {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

// TestLayoutStays makes a layout and opens it again, as another start does.
func TestLayoutStays(t *testing.T) {
	dir := t.TempDir()
	first, err := openLayout(dir, options(func(o *Options) { o.Users = 7 }))
	if err != nil {
		t.Fatal(err)
	}
	again, err := openLayout(dir, options(nil)) // nothing given: as it was
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(first)
	b, _ := json.Marshal(again)
	if !bytes.Equal(a, b) {
		t.Errorf("the layout changed:\n%s\n%s", a, b)
	}
	for name, o := range map[string]*Options{
		"--relays 5":   options(func(o *Options) { o.Relays, o.Given = 5, given("relays") }),
		"--domain x.y": options(func(o *Options) { o.Domain, o.Given = "x.y", given("domain") }),
		"--users 3":    options(func(o *Options) { o.Given = given("users") }),
		"--directory":  options(func(o *Options) { o.Directory, o.Base = "ldap://h", "o=isp" }),
	} {
		if _, err := openLayout(dir, o); err == nil || !strings.Contains(err.Error(), strings.Fields(name)[0]) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := openLayout(dir, options(func(o *Options) { o.Users, o.Given = 7, given("users") })); err != nil {
		t.Errorf("the same option again: %v", err)
	}
	strange := t.TempDir()
	if err := os.WriteFile(filepath.Join(strange, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLayout(strange, options(nil)); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("somebody's folder: error %v", err)
	}
}

func TestCheck(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"plain":            {func(*Options) {}, ""},
		"no relay":         {func(o *Options) { o.Relays = 0 }, "--relays"},
		"too many pairs":   {func(o *Options) { o.Pairs = 17 }, "--pairs"},
		"users below zero": {func(o *Options) { o.Users = -1 }, "--users"},
		"prefix":           {func(o *Options) { o.PairPrefix = "Pair." }, "--pair-prefix"},
		"no base":          {func(o *Options) { o.Directory = "ldap://h" }, "--base"},
		"base alone":       {func(o *Options) { o.Base = "o=isp" }, "--base"},
		"two directories":  {func(o *Options) { o.Directory, o.LDIF = "ldap://h", "f" }, "--ldif"},
		"bind alone":       {func(o *Options) { o.BindDN = "cn=x" }, "--bind-dn"},
	} {
		err := options(tt.change).Check()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

const ldif = `dn: o=isp
objectClass: organization

dn: o=a.test,o=isp
sunPreferredDomain: a.test
associatedDomain: B.test

# a comment
dn: uid=ann,o=a.test,o=isp
uid: ann
mail: ann@a.test
mailHost: pair1.cluster.example
userPassword: plain

dn: uid=bob,o=a.test,o=isp
uid: bob
mail: bob@b.test
mailHost: pair1
userPassword:: cGxh
 aW4=

dn: uid=eve,o=a.test,o=isp
uid: eve
mail: eve@a.test
mailHost: pair1
userPassword: {SSHA}abc

dn: uid=far,o=a.test,o=isp
uid: far
mail: far@a.test
mailHost: elsewhere
userPassword: plain

dn: cn=all,o=a.test,o=isp
mail: all@a.test
uniqueMember: uid=ann,o=a.test,o=isp
uniqueMember: uid=bob,o=a.test,o=isp
mgrpRFC822MailMember: x@y.test
`

func TestPeopleOfLDIF(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tree.ldif")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(ldif, "\n", "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(options(func(o *Options) { o.LDIF = file }))
	if err != nil {
		t.Fatal(err)
	}
	if n := l.known(); n != 1 {
		t.Errorf("%d strangers, want 1", n)
	}
	want := []clusterfile.User{
		{Login: "ann", Password: "plain", Address: "ann@a.test", Pair: "pair1"},
		{Login: "bob@b.test", Password: "plain", Address: "bob@b.test", Pair: "pair1"},
	}
	if !slices.Equal(l.Users, want) {
		t.Errorf("users %+v, want %+v", l.Users, want)
	}
	if len(l.Lists) != 1 || l.Lists[0] != (clusterfile.List{Address: "all@a.test", Members: 3}) {
		t.Errorf("lists %+v", l.Lists)
	}
	if l.Base != "o=isp" || !slices.Equal(l.Domains, []string{"a.test", "b.test"}) {
		t.Errorf("base %q, domains %v", l.Base, l.Domains)
	}
}

func TestFaultyLDIF(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "tree.ldif")
	if err := os.WriteFile(file, []byte("dn: o=isp\nno colon here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openLayout(dir, options(func(o *Options) { o.LDIF = file }))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("error %v, want the line", err)
	}
	if _, err := os.Stat(filepath.Join(dir, layoutName)); err == nil {
		t.Error("a layout was kept of it")
	}
}

func FuzzParseLDIF(f *testing.F) {
	f.Add([]byte(ldif))
	f.Add([]byte("dn: a\nuserPassword:: ====\nx:< file:///etc\n b\n:\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := &layout{}
		for _, e := range parseLDIF(text) {
			if e.get("dn") == "" {
				t.Fatalf("an entry without a name: %v", e)
			}
			l.person(e, "a.test")
		}
		for _, u := range l.Users {
			if u.Login == "" || u.Password == "" || !strings.Contains(u.Address, "@") {
				t.Fatalf("a user who cannot log in: %+v", u)
			}
		}
	})
}

func TestNodeEnv(t *testing.T) {
	got := nodeEnv([]string{"HOME=/h", "POSTERN_NODE=x", "POSTERN_LOG_LEVEL=debug", "POSTERN_DIR=/d"})
	if want := []string{"HOME=/h", "POSTERN_LOG_LEVEL=debug"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
