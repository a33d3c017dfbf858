package expand

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	trees "github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// outages is the specification's fixture, and what must not be in a directory.
func outages() []byte {
	text := string(trees.Schema2())
	for _, name := range []string{"claimer", "rival"} {
		text += fmt.Sprintf("dn: o=%s,o=isp\nobjectClass: organization\nobjectClass: sunManagedOrganization\nobjectClass: mailDomain\no: %[1]s\nsunPreferredDomain: %[1]s.example\nassociatedDomain: claimed.example\n\n", name)
	}
	text += "dn: o=lost,o=isp\nobjectClass: organization\nobjectClass: sunManagedOrganization\nobjectClass: mailDomain\no: lost\nsunPreferredDomain: lost.example\ninetDomainBaseDN: ou=gone,o=lost,o=isp\n\n"
	return []byte(text)
}

// newcomer is a user that a replica does not have yet.
const newcomer = `dn: uid=newcomer,ou=people,o=example.org,o=isp
objectClass: inetOrgPerson
objectClass: inetUser
objectClass: inetMailUser
objectClass: inetLocalMailRecipient
uid: newcomer
cn: New
sn: Comer
mail: newcomer@example.org
mailHost: pair1

`

// logBook is a log that a test reads while others write.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// silent is a server that takes connections and never says anything.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		var open []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.Close()
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return "ldap://" + l.Addr().String()
}

// TestOutages: whatever the directory has wrong, or is, has its answer at RCPT,
// its figure and its line of the log. Nobody is turned away because the directory
// cannot say, and what is remembered is delivered until its hard limit.
func TestOutages(t *testing.T) {
	type servers struct {
		start func(t testing.TB, ldif []byte) dirtest.Server
		small func(t testing.TB, ldif []byte) dirtest.Server // gives one entry to who did not log in
	}
	for kind, s := range map[string]servers{
		"embedded": {
			func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
			func(t testing.TB, ldif []byte) dirtest.Server {
				return dirtest.Embedded(t, ldif, func(c *embedded.Config) { c.SizeLimit, c.AnonymousRead = 1, true })
			},
		},
		"OpenLDAP": {
			func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) },
			func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif, "sizelimit 1") },
		},
	} {
		whole := s.start(t, outages())
		for name, tt := range map[string]struct {
			begin func(t *testing.T, c *ldap.Config) // prepares the outage
			away  bool                               // the first server goes away once it was asked
			cache cache.Config
			to    string
			code  int
			want  mail.Status
			fault string
			log   []string
		}{
			"two organizations have the name": {
				to: "x@claimed.example", code: 451, want: mail.StatusDirectoryFailure, fault: "ambiguous",
				log: []string{"fault=ambiguous", "o=rival", "o=claimer", "level=ERROR"},
			},
			"two entries have the address": {
				to: "twice@example.org", code: 550, want: mail.StatusAmbiguous, fault: "ambiguous",
				log: []string{"fault=ambiguous", "twice@example.org", "level=ERROR"},
			},
			"values are broken": {
				to: "torn@example.org", code: 450, want: mail.Status{4, 2, 1}, fault: "broken_value",
				log: []string{"values that cannot be read", "uid=torn", "drowsy"},
			},
			"base is wrong": {
				begin: func(_ *testing.T, c *ldap.Config) { c.Base = "o=wrong" },
				to:    "ana@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "misconfigured",
				log: []string{"fault=misconfigured", "search base is missing"},
			},
			"base of a domain is wrong": {
				to: "x@lost.example", code: 451, want: mail.StatusDirectoryFailure, fault: "misconfigured",
				log: []string{"fault=misconfigured", "ou=gone,o=lost,o=isp"},
			},
			"size limit": {
				begin: func(t *testing.T, c *ldap.Config) {
					c.Servers, c.BindDN, c.Password = []string{s.small(t, outages()).URL}, "", ""
				},
				to: "twice@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "incomplete",
				log: []string{"fault=incomplete", "twice@example.org"},
			},
			"server is slow": {
				begin: func(t *testing.T, c *ldap.Config) {
					c.Servers, c.BindDN, c.Password, c.Timeout = []string{silent(t)}, "", "", 100*time.Millisecond
				},
				to: "ana@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "slow",
				log: []string{"fault=slow"},
			},
			"away at boot": {
				begin: func(t *testing.T, c *ldap.Config) {
					one := s.start(t, outages())
					one.Stop()
					c.Servers = []string{one.URL}
				},
				to: "ana@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "unavailable",
				log: []string{"fault=unavailable"},
			},
			"goes away": {
				away:  true,
				cache: cache.Config{TTL: time.Nanosecond, Retry: time.Nanosecond}, // old at once, and good for an hour
				to:    "ana@example.org", fault: "unavailable", log: []string{"directory server failed", "fault=unavailable"},
			},
			"goes away, past the hard limit": {
				away:  true,
				cache: cache.Config{TTL: time.Nanosecond, Retry: time.Nanosecond, Stale: time.Nanosecond},
				to:    "ana@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "unavailable",
				log: []string{"directory server failed", "fault=unavailable"},
			},
			"first server goes away": {
				begin: func(_ *testing.T, c *ldap.Config) { c.Servers = append(c.Servers, whole.URL) },
				away:  true,
				cache: cache.Config{TTL: time.Nanosecond, Stale: time.Nanosecond, Retry: time.Nanosecond},
				to:    "ana@example.org", fault: "server_down", log: []string{"directory server failed"},
			},
			"replica does not know yet": {
				begin: func(t *testing.T, c *ldap.Config) { c.Master = s.start(t, append(outages(), newcomer...)).URL },
				to:    "newcomer@example.org", fault: "replica_lags", log: []string{"replica lags", "newcomer@example.org"},
			},
			"nobody, says the master too": {
				begin: func(t *testing.T, c *ldap.Config) { c.Master = s.start(t, outages()).URL },
				to:    "newcomer@example.org", code: 550, want: mail.Status{5, 1, 1},
			},
			"replica does not know, and the master is away": {
				begin: func(t *testing.T, c *ldap.Config) {
					one := s.start(t, outages())
					one.Stop()
					c.Master = one.URL
				},
				to: "newcomer@example.org", code: 451, want: mail.StatusDirectoryFailure, fault: "unavailable",
				log: []string{"fault=unavailable", "newcomer@example.org"},
			},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				var out logBook
				log := slog.New(slog.NewTextHandler(&out, nil))
				asked := whole
				if tt.away {
					asked = s.start(t, outages())
				}
				under := dirtest.Dial(t, asked, func(c *ldap.Config) {
					c.Log, c.RetryMin = log, time.Hour
					if tt.begin != nil {
						tt.begin(t, c)
					}
				})
				x, err := New(Config{Directory: cache.New(under, tt.cache), Pair: Pairs("pair1", "pair2"), Log: log})
				if err != nil {
					t.Fatal(err)
				}
				ask := func(to string) error {
					a, err := mail.ParseAddress(to, true)
					if err != nil {
						t.Fatal(err)
					}
					rs, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: a})
					if err == nil && len(rs) == 0 {
						t.Errorf("%s: nobody, and no error", to)
					}
					return err
				}
				before := testutil.ToFloat64(metrics.DirFaults.With(tt.fault))
				if tt.away {
					if err := ask(tt.to); err != nil {
						t.Fatalf("before the outage: %v", err)
					}
					asked.Stop()
					err := ask("bob@example.org") // who is not remembered
					if other := tt.fault == "server_down"; (err == nil) != other || !other && mail.AsError("", err).ReplyCode() != 451 {
						t.Errorf("who was not asked for before: %v", err)
					}
				}
				err = ask(tt.to)
				if e := mail.AsError("", err); (err == nil) != (tt.code == 0) || err != nil && (e.ReplyCode() != tt.code || e.Status != tt.want) {
					t.Errorf("%v, want %d %v", err, tt.code, tt.want)
				}
				if tt.fault != "" && testutil.ToFloat64(metrics.DirFaults.With(tt.fault)) <= before {
					t.Errorf("no fault %s was counted", tt.fault)
				}
				for _, want := range tt.log {
					if !strings.Contains(out.String(), want) {
						t.Errorf("the log has not %q: %s", want, out.String())
					}
				}
				if tt.fault == "" && out.String() != "" {
					t.Errorf("log: %s", out.String())
				}
			})
		}
	}
}
