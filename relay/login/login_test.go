package login_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

const domain = "example.org"

// tree has four users: one who may log in on a pair that is known, one whose
// mail is kept by a delivery option, one on a pair that is not known, one who is
// inactive.
func tree() []byte {
	text := string(fixture.Tree(domain, 4, 1))
	text = strings.Replace(text, "mail: u0003@"+domain+"\nmailHost: pair1", "mail: u0003@"+domain+"\nmailHost: elsewhere", 1)
	i := strings.Index(text, "uid: u0002")
	text = text[:i] + strings.Replace(text[i:], "mailDeliveryOption: mailbox", "mailDeliveryOption: hold", 1)
	i = strings.Index(text, "uid: u0004")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active", "inetUserStatus: inactive", 1)
	return []byte(text)
}

func TestLogin(t *testing.T) {
	server := dirtest.Embedded(t, tree())
	c := &login.Checker{
		Directory: dirtest.Dial(t, server),
		Pair:      func(host string) (string, bool) { return host, host == "pair1" },
	}
	ctx := context.Background()
	for name, tt := range map[string]struct {
		user, password, authz string
		want                  string // account, "refused" or "temporary"
	}{
		"by address":           {"u0001@example.org", "secret", "", "u0001@example.org"},
		"by uid":               {"U0001", "secret", "", "u0001@example.org"},
		"wrong password":       {"u0001", "Secret", "", "refused"},
		"empty password":       {"u0001", "", "", "refused"},
		"nobody":               {"u9999", "secret", "", "refused"},
		"a list":               {"list@example.org", "secret", "", "refused"},
		"delivery on hold":     {"u0002", "secret", "", "u0002@example.org"}, // directory.md 6
		"inactive":             {"u0004", "secret", "", "refused"},
		"for itself":           {"u0001", "secret", "u0001@example.org", "u0001@example.org"},
		"for another":          {"u0001", "secret", "u0002", "refused"},
		"for nobody":           {"u0001", "secret", "u9999", "refused"},
		"pair that is unknown": {"u0003", "secret", "", "temporary"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := c.Proxy(ctx, auth.Credentials{Mechanism: auth.Plain, User: tt.user, Password: tt.password, Authz: tt.authz}, proxy.Client{})
			got := u.Account
			switch {
			case errors.Is(err, proxy.ErrRefused):
				got = "refused"
			case err != nil:
				got = "temporary"
			case u.Pair != "pair1":
				t.Errorf("pair %q", u.Pair)
			}
			if got != tt.want {
				t.Errorf("proxy: %q, %v, want %q", got, err, tt.want)
			}
			account, err := c.Password(ctx, tt.user, tt.password, tt.authz)
			switch {
			case tt.want == "refused":
				if !mail.Permanent(err) {
					t.Errorf("submission: %q, %v", account, err)
				}
			case tt.want == "temporary": // submission needs no pair
				if account != "u0003@example.org" || err != nil {
					t.Errorf("submission: %q, %v", account, err)
				}
			case account != tt.want || err != nil:
				t.Errorf("submission: %q, %v", account, err)
			}
		})
	}
	if account, err := c.Certificate(ctx, nil, ""); !mail.Permanent(err) {
		t.Errorf("no certificate: %q, %v", account, err)
	}
	server.Stop()
	if _, err := c.Password(ctx, "u0002", "secret", ""); err == nil || mail.Permanent(err) {
		t.Errorf("no directory: %v", err)
	}
	if _, err := c.Proxy(ctx, auth.Credentials{Mechanism: auth.Plain, User: "u0002", Password: "secret"}, proxy.Client{}); err == nil || errors.Is(err, proxy.ErrRefused) {
		t.Errorf("no directory: %v", err)
	}
}

// The filters of the domain and of the user must both allow, for each service
// by what is known of the client.
func TestAccess(t *testing.T) {
	text := string(tree())
	text = strings.Replace(text, "mailDomainStatus: active\n", "mailDomainStatus: active\nmailDomainAllowedServiceAccess: -ALL:203.0.113.0/24\n", 1)
	i := strings.Index(text, "uid: u0001")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active\n", "inetUserStatus: active\nmailAllowedServiceAccess: +imaps,smtp:*$+pop:192.0.2.1\n", 1)
	i = strings.Index(text, "uid: u0002")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active\n", "inetUserStatus: active\nmailAllowedServiceAccess: imap of everybody\n", 1)
	for name, start := range map[string]func(testing.TB) dirtest.Server{
		"embedded": func(t testing.TB) dirtest.Server { return dirtest.Embedded(t, []byte(text)) },
		"OpenLDAP": func(t testing.TB) dirtest.Server { return dirtest.OpenLDAP(t, []byte(text)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := &login.Checker{
				Directory: dirtest.Dial(t, start(t)),
				Pair:      func(host string) (string, bool) { return host, host == "pair1" },
			}
			secure := &tls.ConnectionState{}
			for _, tt := range []struct {
				user string
				p    proxy.Protocol
				addr string
				tls  *tls.ConnectionState
				want bool
			}{
				{"u0001", proxy.IMAP, "192.0.2.1", secure, true},
				{"u0001", proxy.IMAP, "192.0.2.1", nil, false},
				{"u0001", proxy.POP3, "192.0.2.1", nil, true},
				{"u0001", proxy.POP3, "192.0.2.2", secure, false},
				{"u0001", proxy.IMAP, "203.0.113.9", secure, false}, // by the domain's filter
				{"u0002", proxy.IMAP, "192.0.2.1", secure, false},   // a filter that cannot be read
			} {
				_, err := c.Proxy(t.Context(), auth.Credentials{Mechanism: auth.Plain, User: tt.user, Password: "secret"}, proxy.Client{
					Protocol: tt.p, Addr: netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 999), TLS: tt.tls,
				})
				if (err == nil) != tt.want || err != nil && !errors.Is(err, proxy.ErrRefused) {
					t.Errorf("%s %s from %s, TLS %v: %v, want %v", tt.user, tt.p, tt.addr, tt.tls != nil, err, tt.want)
				}
			}
			if _, err := c.Password(t.Context(), "u0001", "secret", ""); err != nil {
				t.Errorf("submission: %v", err)
			}
			if _, err := c.Password(t.Context(), "u0002", "secret", ""); !mail.Permanent(err) {
				t.Errorf("submission with a broken filter: %v", err)
			}
		})
	}
}

// inner is a session that asks the checker, as smtpd does.
type inner struct {
	smtp.Session
	c *login.Checker
}

func (inner) Hello(context.Context, *smtp.ConnInfo) error { return nil }

func (i inner) Auth(ctx context.Context, _, authz, user, password string) (string, error) {
	return i.c.Password(ctx, user, password, authz)
}

// A submission session tells where the client is.
func TestSessions(t *testing.T) {
	text := string(tree())
	i := strings.Index(text, "uid: u0001")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active\n", "inetUserStatus: active\nmailAllowedServiceAccess: +smtps:.friends.example\n", 1)
	c := &login.Checker{
		Directory: dirtest.Dial(t, dirtest.Embedded(t, []byte(text))),
		Pair:      func(host string) (string, bool) { return host, true },
		Host:      login.HostOf(names{}),
	}
	f := login.Sessions(func(context.Context, *smtp.ConnInfo) (smtp.Session, error) { return inner{c: c}, nil })
	for addr, want := range map[string]bool{"192.0.2.1": true, "192.0.2.2": false, "192.0.2.3": false} {
		for _, state := range []*tls.ConnectionState{nil, {}} {
			info := &smtp.ConnInfo{Remote: netip.AddrPortFrom(netip.MustParseAddr(addr), 25)}
			s, err := f(t.Context(), info)
			if err != nil {
				t.Fatal(err)
			}
			after := *info
			after.TLS = state
			if err := s.Hello(t.Context(), &after); err != nil {
				t.Fatal(err)
			}
			_, err = s.Auth(t.Context(), "PLAIN", "", "u0001", "secret")
			if (err == nil) != (want && state != nil) {
				t.Errorf("%s, TLS %v: %v", addr, state != nil, err)
			}
		}
	}
}

// names is the DNS: .1 is a friend, .2 says so and is not, .3 has no name.
type names struct{}

func (names) PTR(_ context.Context, a netip.Addr) ([]string, error) {
	if a.As4()[3] == 3 {
		return nil, errors.New("no name")
	}
	return []string{"mail.friends.example"}, nil
}

func (names) Addrs(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

// TestStoreAdmin: a store administrator opens any mailbox by IMAP and POP, from
// the networks where that is permitted, and is logged with both names; nobody
// else does, and nobody submits as another.
func TestStoreAdmin(t *testing.T) {
	text := string(tree())
	i := strings.Index(text, "uid: u0001")
	text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active\n", "inetUserStatus: active\nmailAdminRole: storeadmin\n", 1)
	for name, start := range map[string]func(testing.TB) dirtest.Server{
		"embedded": func(t testing.TB) dirtest.Server { return dirtest.Embedded(t, []byte(text)) },
		"OpenLDAP": func(t testing.TB) dirtest.Server { return dirtest.OpenLDAP(t, []byte(text)) },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c := &login.Checker{
				Directory: dirtest.Dial(t, start(t)),
				Pair:      func(host string) (string, bool) { return host, host == "pair1" },
				AdminFrom: netip.MustParsePrefix("192.0.2.0/24").Contains,
				Log:       slog.New(slog.NewTextHandler(&out, nil)),
			}
			for _, tt := range []struct {
				user, authz, addr string
				want              string
			}{
				{"u0001", "u0002", "192.0.2.7", "u0002@example.org"},
				{"u0001", "u0004@example.org", "192.0.2.7", "u0004@example.org"}, // who may not log in
				{"u0001", "u0001", "203.0.113.1", "u0001@example.org"},
				{"u0001", "u0002", "203.0.113.1", ""},
				{"u0001", "u9999", "192.0.2.7", ""},
				{"u0002", "u0001", "192.0.2.7", ""},
			} {
				for _, p := range []proxy.Protocol{proxy.IMAP, proxy.POP3} {
					out.Reset()
					u, err := c.Proxy(t.Context(), auth.Credentials{Mechanism: auth.Plain, User: tt.user, Password: "secret", Authz: tt.authz},
						proxy.Client{Protocol: p, Addr: netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 9)})
					if u.Account != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, proxy.ErrRefused) {
						t.Errorf("%+v: %q, %v", tt, u.Account, err)
					}
					told := strings.Contains(out.String(), "uid=u0001,") && strings.Contains(out.String(), "account="+tt.want) && strings.Contains(out.String(), tt.addr)
					if told != (tt.want != "" && tt.user != tt.authz) {
						t.Errorf("%+v: logged %q", tt, out.String())
					}
				}
			}
			if who, err := c.Password(t.Context(), "u0001", "secret", "u0002"); !mail.Permanent(err) {
				t.Errorf("submission as %q: %v", who, err)
			}
			c.AdminFrom = nil
			if _, err := c.Proxy(t.Context(), auth.Credentials{Mechanism: auth.Plain, User: "u0001", Password: "secret", Authz: "u0002"},
				proxy.Client{Addr: netip.MustParseAddrPort("192.0.2.7:9")}); !errors.Is(err, proxy.ErrRefused) {
				t.Errorf("where it is permitted nowhere: %v", err)
			}
		})
	}
}

// TestCertMap: a domain's map says whose a certificate is, and leads to nobody
// outside of the domain.
func TestCertMap(t *testing.T) {
	with := func(attr string) string {
		return strings.Replace(string(tree()), "mailDomainStatus: active\n", "mailDomainStatus: active\n"+attr, 1)
	}
	cert := func(address, uid string) *tls.ConnectionState {
		leaf := &x509.Certificate{}
		if address != "" {
			leaf.EmailAddresses = []string{address}
		}
		leaf.Subject.Names = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: uid}}
		return &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	}
	for _, tt := range []struct {
		attr, address, uid, authz string
		want                      string
	}{
		{"", "u0001@example.org", "u0002", "", "u0001@example.org"},
		{"", "", "u0002", "u0002@example.org", ""},
		{"inetDomainCertMap: %[UID]@%V\n", "u0001@example.org", "u0002", "", "u0002@example.org"},
		{"inetDomainCertMap: %[UID]@%V\n", "whoever@example.org", "u0002", "u0002", "u0002@example.org"},
		{"inetDomainCertMap: %[UID]@%V\n", "", "u0002", "u0002@example.org", "u0002@example.org"},
		{"inetDomainCertMap: %[UID]@%V\n", "", "u0002", "u0001@example.org", ""}, // another one's name
		{"inetDomainCertMap: %[UID]@%V\n", "", "u0002", "u0002", ""},             // whose domain?
		{"inetDomainCertMap: %U@%V\n", "", "x", "u0002@example.org", ""},         // which is not proven
		{"inetDomainCertMap: %[CN]\n", "u0001@example.org", "u0002", "", ""},
		{"inetDomainCertMap: %[UID]@%V\n", "u0001@example.org", "u0004", "", ""}, // who may not log in
		{"inetDomainCertMap: %[UID]@%V\n", "u0001@elsewhere.test", "u0002", "", ""},
	} {
		c := &login.Checker{Directory: dirtest.Dial(t, dirtest.Embedded(t, []byte(with(tt.attr)))), Pair: func(h string) (string, bool) { return h, true }}
		got, err := c.Certificate(t.Context(), cert(tt.address, tt.uid), tt.authz)
		if got != tt.want || (tt.want == "") != mail.Permanent(err) {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
}
