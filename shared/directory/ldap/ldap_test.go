package ldap_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// trips is how many requests were sent to servers since the process began.
func trips() float64 { return testutil.ToFloat64(metrics.DirRoundTrips.With("search")) }

// faults is how many faults of a kind were counted since the process began.
func faults(kind string) float64 { return testutil.ToFloat64(metrics.DirFaults.With(kind)) }

// logged is a log that a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logged) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func domain(t testing.TB, d directory.Directory, name string) *directory.Domain {
	t.Helper()
	dom, err := d.Domain(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return dom
}

func user(n int) mail.Address { return mail.Address{Local: fixture.UID(n), Domain: "x.test"} }

// TestRoundTrips: once the domain is known an address costs one request, found
// or not, whatever the layout.
func TestRoundTrips(t *testing.T) {
	for preset, tree := range map[string][]byte{
		"sun-schema1": fixture.Schema1(), "sun-schema2": fixture.Schema2(), "sun-compat": fixture.Compatible(),
	} {
		schema, err := directory.Preset(preset)
		if err != nil {
			t.Fatal(err)
		}
		d := dirtest.Dial(t, dirtest.Embedded(t, tree), func(c *ldap.Config) { c.Schema, c.DCRoot = schema, fixture.DCRoot })
		dom := domain(t, d, "example.org")
		all := domain(t, d, "all.example")
		for address, in := range map[string]*directory.Domain{
			"ana@example.org": dom, "ana@example.net": dom, "bob+x@example.org": dom, "nobody@example.org": dom,
			"staff@example.org": dom, "twice@example.org": dom, "whoever@all.example": all,
		} {
			a, _ := mail.ParseAddress(address, true)
			before := trips()
			_, err := d.Lookup(t.Context(), in, a)
			if n := trips() - before; n != 1 || err != nil && !errors.Is(err, directory.ErrNotFound) {
				t.Errorf("%s: Lookup(%s) sent %v requests: %v", preset, address, n, err)
			}
		}
	}
}

// TestFaults: what a server or its data has wrong is named, counted and told.
func TestFaults(t *testing.T) {
	ctx := t.Context()
	people := func(c *embedded.Config) { c.SizeLimit, c.AnonymousRead = 1, true }
	small := dirtest.Embedded(t, dirtest.Tree(), people)
	sun := dirtest.Embedded(t, fixture.Schema2())
	for name, tt := range map[string]struct {
		server    dirtest.Server
		configure func(*ldap.Config)
		ask       func(d *ldap.Directory) error
		kind      string
		told      string
	}{
		"size limit": {small, func(c *ldap.Config) { c.BindDN, c.Password = "", "" }, func(d *ldap.Directory) error {
			_, err := d.Lookup(ctx, &directory.Domain{Name: "example.org", BaseDN: fixture.Base("example.org")}, mail.Address{Local: "shared", Domain: "example.org"})
			return err
		}, "incomplete", "shared@example.org"},
		"base": {sun, func(c *ldap.Config) { c.Base = "o=wrong" }, func(d *ldap.Directory) error {
			_, err := d.Domain(ctx, "example.org")
			return err
		}, "misconfigured", "search base is missing"},
		"base of a domain": {sun, func(*ldap.Config) {}, func(d *ldap.Directory) error {
			_, err := d.Lookup(ctx, &directory.Domain{Name: "example.org", BaseDN: "o=wrong,o=isp"}, mail.Address{Local: "ana", Domain: "example.org"})
			return err
		}, "misconfigured", "search base is missing"},
		"two organizations": {dirtest.Embedded(t, dirtest.Tree()), func(*ldap.Config) {}, func(d *ldap.Directory) error {
			_, err := d.Domain(ctx, "claimed.example")
			return err
		}, "ambiguous", "o=rival"},
		"URL": {sun, func(*ldap.Config) {}, func(d *ldap.Directory) error {
			_, err := d.Entry(ctx, "o=elsewhere")
			if errors.Is(err, directory.ErrURL) {
				_, err = directory.Collect(d.Search(ctx, "ldap:///ou=people,o=example.org,o=isp??sub?(mail=*)", 1))
			}
			return err
		}, "too_many", "search"},
	} {
		t.Run(name, func(t *testing.T) {
			var out logged
			d := dirtest.Dial(t, tt.server, tt.configure, func(c *ldap.Config) { c.Log = out.log() })
			before := faults(tt.kind)
			err := tt.ask(d)
			if err == nil || directory.FaultOf(err) != tt.kind || errors.Is(err, directory.ErrNotFound) {
				t.Errorf("%v is %q, want %q", err, directory.FaultOf(err), tt.kind)
			}
			if n := faults(tt.kind) - before; n != 1 {
				t.Errorf("%v faults were counted, want 1", n)
			}
			if s := out.String(); !strings.Contains(s, "fault="+tt.kind) || !strings.Contains(s, tt.told) {
				t.Errorf("log: %s", s)
			}
		})
	}
}

// TestOpenLDAPLimits: an answer that OpenLDAP cuts short, or that sends us
// elsewhere, is no answer, and nobody goes where it points.
func TestOpenLDAPLimits(t *testing.T) {
	ctx := t.Context()
	rogue, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer rogue.Close()
	var contacts atomic.Int32
	go func() {
		for {
			c, err := rogue.Accept()
			if err != nil {
				return
			}
			contacts.Add(1)
			c.Close()
		}
	}()
	ref := "dn: ou=away,ou=people," + fixture.Base("example.com") + "\nobjectClass: referral\nobjectClass: extensibleObject\nou: away\nref: ldap://" + rogue.Addr().String() + "/o=isp\n\n"
	s := dirtest.OpenLDAP(t, append(fixture.Schema2(), ref...), "sizelimit 1")
	d := dirtest.Dial(t, s, func(c *ldap.Config) { c.BindDN, c.Password = "", "" })
	if _, err := d.Domain(ctx, "example.org"); directory.FaultOf(err) != "incomplete" {
		t.Errorf("Domain with a referral in the tree: %v", err)
	}
	org := &directory.Domain{Name: "example.org", BaseDN: fixture.Base("example.org")}
	if _, err := d.Lookup(ctx, org, mail.Address{Local: "twice", Domain: "example.org"}); directory.FaultOf(err) != "incomplete" {
		t.Errorf("Lookup with a size limit: %v", err)
	}
	if _, err := d.Lookup(ctx, org, mail.Address{Local: "ana", Domain: "example.org"}); err != nil {
		t.Errorf("Lookup of one: %v", err)
	}
	com := &directory.Domain{Name: "example.com", BaseDN: fixture.Base("example.com")}
	if _, err := d.Lookup(ctx, com, mail.Address{Local: "bob", Domain: "example.com"}); directory.FaultOf(err) != "incomplete" {
		t.Errorf("Lookup with a referral: %v", err)
	}
	if _, err := directory.Collect(d.Search(ctx, "ldap://"+rogue.Addr().String()+"/"+fixture.Base("example.org")+"??sub?(mail=*)", 10)); !errors.Is(err, directory.ErrURL) {
		t.Errorf("Search elsewhere: %v", err)
	}
	if n := contacts.Load(); n != 0 {
		t.Errorf("%d contacts of another server", n)
	}
}

// TestBrokenValues: they are counted and told, and hide nothing.
func TestBrokenValues(t *testing.T) {
	var out logged
	d := dirtest.Dial(t, dirtest.Embedded(t, fixture.Schema2()), func(c *ldap.Config) { c.Log = out.log() })
	before := faults("broken_value")
	ans, err := d.Lookup(t.Context(), domain(t, d, "example.org"), mail.Address{Local: "torn", Domain: "example.org"})
	if err != nil || ans.Entries[0].Quota.Bytes != directory.QuotaDefault || ans.Entries[0].MailStatus != directory.Inactive {
		t.Fatalf("%+v, %v", ans, err)
	}
	domain(t, d, "odd.example")
	if n := faults("broken_value") - before; n != 5 {
		t.Errorf("%v faults were counted, want 5", n)
	}
	for _, want := range []string{"mailQuota", "lots", "mailUserStatus", "drowsy", "mailDomainStatus", "sleepy", "uid=torn"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log does not tell %s: %s", want, out.String())
		}
	}
}

// secured is a server that offers StartTLS, one that speaks TLS from the start,
// and the CA of both.
func secured(t *testing.T) (startTLS, tlsOnly dirtest.Server, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(leaf)
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	tree := fixture.Tree("x.test", 2, 1)
	startTLS = dirtest.Embedded(t, tree, func(c *embedded.Config) { c.TLS = conf })
	s, err := embedded.New(embedded.Config{LDIF: tree, RootDN: dirtest.RootDN, RootPassword: dirtest.RootPassword})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(ctx, l) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	return startTLS, dirtest.Server{URL: "ldaps://" + l.Addr().String(), BindDN: dirtest.RootDN, Password: dirtest.RootPassword}, roots
}

// TestTLS: both ways to TLS, and nothing is asked of a server that cannot prove
// who it is.
func TestTLS(t *testing.T) {
	startTLS, tlsOnly, roots := secured(t)
	plain := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1))
	for name, tt := range map[string]struct {
		s     dirtest.Server
		start bool
		roots *x509.CertPool
		ok    bool
	}{
		"StartTLS":                        {startTLS, true, roots, true},
		"ldaps":                           {tlsOnly, false, roots, true},
		"StartTLS with an unknown CA":     {startTLS, true, x509.NewCertPool(), false},
		"ldaps with an unknown CA":        {tlsOnly, false, x509.NewCertPool(), false},
		"StartTLS that is not offered":    {plain, true, roots, false},
		"StartTLS on ldaps is not needed": {tlsOnly, true, roots, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := dirtest.Dial(t, tt.s, func(c *ldap.Config) {
				c.StartTLS, c.TLS = tt.start, &tls.Config{RootCAs: tt.roots}
			})
			_, err := d.Domain(t.Context(), "x.test")
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, directory.ErrUnavailable) {
				t.Errorf("Domain: %v", err)
			}
			e := &directory.Entry{DN: "uid=u0001,ou=people," + fixture.Base("x.test")}
			if err := d.Authenticate(t.Context(), e, fixture.Password); tt.ok != (err == nil) {
				t.Errorf("Authenticate: %v", err)
			}
		})
	}
}

func TestNew(t *testing.T) {
	ok := func() ldap.Config { return ldap.Config{Servers: []string{"ldap://127.0.0.1"}, Base: "o=isp"} }
	for name, spoil := range map[string]func(*ldap.Config){
		"no server":        func(c *ldap.Config) { c.Servers = nil },
		"server":           func(c *ldap.Config) { c.Servers = []string{"http://x"} },
		"master":           func(c *ldap.Config) { c.Master = "x" },
		"base":             func(c *ldap.Config) { c.Base = "isp" },
		"no base":          func(c *ldap.Config) { c.Base = "" },
		"DC root":          func(c *ldap.Config) { c.DCRoot = "internet" },
		"no DC root":       func(c *ldap.Config) { c.Schema, _ = directory.Preset("sun-schema1") },
		"domain":           func(c *ldap.Config) { c.Domains = []ldap.Domain{{Name: "x"}} },
		"domain twice":     func(c *ldap.Config) { c.Domains = []ldap.Domain{{Name: "x", Base: "o=x"}, {Name: "X", Base: "o=y"}} },
		"lookup URL":       func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///$V?*?sub?$R)"} },
		"placeholder":      func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///$V?*?sub?(mail=$X)"} },
		"filter in a name": func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///$R?*?sub?(mail=$A)"} },
		"lookup scope":     func(c *ldap.Config) { c.LookupURLs = []string{"ldap:///$V?*??$R"} },
		"lookup host":      func(c *ldap.Config) { c.LookupURLs = []string{"ldap://x/$V?*?sub?$R"} },
		"domain filter":    func(c *ldap.Config) { c.Schema = directory.SunSchema2(); c.Schema.OrganizationFilter = "(o=$A)" },
		"DC filter":        func(c *ldap.Config) { c.Schema = directory.SunSchema2(); c.Schema.DCFilter = "o=" },
	} {
		c := ok()
		spoil(&c)
		if d, err := ldap.New(c); err == nil {
			d.Close()
			t.Errorf("%s: no error", name)
		}
	}
	c := ok()
	c.LookupURLs = []string{ldap.DefaultLookupURL, "ldap:///$1V??one?(|$R(cn=$$%28))"}
	d, err := ldap.New(c)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

// BenchmarkColdLookups is what a recipient costs that nobody has asked for
// before: one search, over a socket, of a server in the same process. "library"
// sends the same search by go-ldap, to compare with. cpu-us/op holds on a busy
// machine too.
func BenchmarkColdLookups(b *testing.B) {
	const users = 10000
	s := dirtest.Embedded(b, fixture.Tree("x.test", users, 3))
	d := dirtest.Dial(b, s)
	dom := domain(b, d, "x.test")
	library, err := goldap.DialURL(s.URL)
	if err != nil {
		b.Fatal(err)
	}
	defer library.Close()
	if err := library.Bind(s.BindDN, s.Password); err != nil {
		b.Fatal(err)
	}
	schema := directory.SunSchema2()
	for name, ask := range map[string]func(n int64) error{
		"ours": func(n int64) error {
			_, err := d.Lookup(context.Background(), dom, user(int(n%users)+1))
			return err
		},
		"library": func(n int64) error {
			a := user(int(n%users) + 1).String()
			_, err := library.Search(goldap.NewSearchRequest(dom.BaseDN, 2, 0, 16, 5, false,
				"(|(mail="+a+")(mailAlternateAddress="+a+")(mailEquivalentAddress="+a+"))", schema.EntryAttributes(), nil))
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(32)
			before := cpu()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := ask(n.Add(1)); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
