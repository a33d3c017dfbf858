package login_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/relay/proxy"
	"github.com/postern-mail/postern/shared/auth"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// netgroups is a tree of netgroups.
func netgroups(base string) string {
	var b strings.Builder
	class := map[string]string{"o": "organization", "ou": "organizationalUnit"}
	attr, _, _ := strings.Cut(base, "=")
	fmt.Fprintf(&b, "dn: %s\nobjectClass: %s\n%s: hosts\n\n", base, class[attr], attr)
	group := func(name string, attrs ...string) {
		fmt.Fprintf(&b, "dn: cn=%s,%s\nobjectClass: top\nobjectClass: nisNetgroup\ncn: %[1]s\n%[3]s\n", name, base, strings.Join(attrs, "\n")+"\n")
	}
	host, member := func(t string) string { return "nisNetgroupTriple: " + t }, func(n string) string { return "memberNisNetgroup: " + n }
	group("desks", host("(Desk1.example.com,-,)"), host("( 192.0.2.7 , , )"), host("(-,u0001,)"))
	group("ring", member("ring2"), host("(nowhere.example,,)"))
	group("ring2", member("Ring"), member("desks"))
	group("all", host("(,,)"))
	group("mine", host("(,U0001,example)"))
	group("broken", host("(desk1.example.com"))
	group("dangling", member("nothing"))
	group("empty")
	group("large", func() (all []string) {
		for i := range 101 {
			all = append(all, member(fmt.Sprintf("none%d", i)))
		}
		return all
	}()...)
	return b.String()
}

// TestNetgroups: access filters that name netgroups (directory.md 12).
func TestNetgroups(t *testing.T) {
	filters := map[string]string{ // by user
		"u0001": "+imap:@ring$+pop:@mine$+smtp:@nothing",
		"u0002": "-imap:@desks$+pop:@mine",
	}
	text := string(tree())
	for user, f := range filters {
		i := strings.Index(text, "uid: "+user)
		text = text[:i] + strings.Replace(text[i:], "inetUserStatus: active\n", "inetUserStatus: active\nmailAllowedServiceAccess: "+f+"\n", 1)
	}
	for name, tt := range map[string]struct {
		base  string // the embedded server's is beside that of the mail
		start func(t testing.TB, ldif []byte) dirtest.Server
	}{
		"embedded": {"o=hosts", func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) }},
		"OpenLDAP": {"ou=hosts,o=isp", func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.OpenLDAP(t, ldif) }},
	} {
		t.Run(name, func(t *testing.T) {
			url, err := ldap.Netgroups(tt.base, "")
			if err != nil {
				t.Fatal(err)
			}
			server := tt.start(t, []byte(text+"\n"+netgroups(tt.base)))
			d := cache.New(dirtest.Dial(t, server, func(c *ldap.Config) { c.NetgroupBase, c.Timeout = tt.base, time.Minute }), cache.Config{Timeout: time.Minute})
			c := &login.Checker{
				Directory: d, Pair: func(h string) (string, bool) { return h, true }, Netgroups: &login.Netgroups{Directory: d, URL: url},
				Host: func(_ context.Context, a netip.Addr) (string, bool) {
					return map[string]string{"192.0.2.1": "desk1.example.com", "192.0.2.2": "desk2.example.com"}[a.String()], a.String() != "192.0.2.3"
				},
			}
			for _, tt := range []struct {
				user string
				p    proxy.Protocol
				addr string
				want bool
			}{
				{"u0001", proxy.IMAP, "192.0.2.1", true}, // by name, two netgroups down
				{"u0001", proxy.IMAP, "192.0.2.7", true}, // by address
				{"u0001", proxy.IMAP, "192.0.2.2", false},
				{"u0001", proxy.IMAP, "192.0.2.3", false},   // without a verified name
				{"u0001", proxy.POP3, "198.51.100.9", true}, // any host, and this user
				{"u0002", proxy.IMAP, "192.0.2.1", false},
				{"u0002", proxy.IMAP, "192.0.2.2", true},
				{"u0002", proxy.POP3, "192.0.2.1", true}, // in no rule of its own
			} {
				_, err := c.Proxy(t.Context(), auth.Credentials{Mechanism: auth.Plain, User: tt.user, Password: "secret"}, proxy.Client{
					Protocol: tt.p, Addr: netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 999),
				})
				if (err == nil) != tt.want || err != nil && !errors.Is(err, proxy.ErrRefused) {
					t.Errorf("%s %s from %s: %v, want %v", tt.user, tt.p, tt.addr, err, tt.want)
				}
			}
			before := d.StatsOf(cache.Searches).Misses
			for group, want := range map[string]string{
				"desks": "true", "RING": "true", "ring2": "true", "all": "true", "mine": "false", "empty": "false",
				"broken": "refused: netgroup has", "dangling": `refused: there is no netgroup "nothing"`, "nothing": "refused: there is no",
				"large": "refused: netgroup large has more than", "*": "refused: there is no", "desks)(cn=*": "refused: there is no",
			} {
				in, err := login.Has(t.Context(), c.Netgroups, strings.ToLower(group), "u0002", &login.Client{Addr: netip.MustParseAddr("192.0.2.7")})
				if got := fmt.Sprint(in); err == nil && got != want || err != nil && !strings.HasPrefix(err.Error(), want) {
					t.Errorf("%s: %v, %v, want %s", group, in, err, want)
				}
			}
			asked := d.StatsOf(cache.Searches).Misses
			if _, err := login.Has(t.Context(), c.Netgroups, "ring", "x", &login.Client{}); err != nil || d.StatsOf(cache.Searches).Misses != asked || asked == before {
				t.Errorf("%v, %d searches, then %d", err, asked-before, d.StatsOf(cache.Searches).Misses-asked)
			}
			c.Netgroups = nil
			if _, err := c.Proxy(t.Context(), auth.Credentials{Mechanism: auth.Plain, User: "u0001", Password: "secret"}, proxy.Client{}); !errors.Is(err, proxy.ErrRefused) || !strings.Contains(err.Error(), "none here") {
				t.Errorf("without netgroups: %v", err)
			}
		})
	}
}

// TestNetgroupsAway: while the directory cannot answer nobody is refused.
func TestNetgroupsAway(t *testing.T) {
	server := dirtest.Embedded(t, []byte(netgroups("o=hosts")))
	url, err := ldap.Netgroups("o=hosts", "")
	if err != nil {
		t.Fatal(err)
	}
	outside := &login.Netgroups{Directory: dirtest.Dial(t, server), URL: url} // no NetgroupBase
	if _, err := login.Has(t.Context(), outside, "desks", "", &login.Client{}); err == nil || strings.HasPrefix(err.Error(), "refused") {
		t.Errorf("outside of the bases: %v", err)
	}
	d := dirtest.Dial(t, server, func(c *ldap.Config) { c.NetgroupBase = "o=hosts" })
	if url, err = ldap.Netgroups("ou=none,o=hosts", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := login.Has(t.Context(), &login.Netgroups{Directory: d, URL: url}, "desks", "", &login.Client{}); !errors.Is(err, directory.ErrMisconfigured) || errors.Is(err, directory.ErrNotFound) {
		t.Errorf("no base: %v", err)
	}
	d.Close()
	if _, err := login.Has(t.Context(), &login.Netgroups{Directory: d, URL: url}, "desks", "", &login.Client{}); err == nil || strings.HasPrefix(err.Error(), "refused") {
		t.Errorf("away: %v", err)
	}
}

func TestNetgroupFilter(t *testing.T) {
	for _, bad := range [][2]string{{"nowhere", ""}, {"o=x", "(cn=$X)"}, {"o=x", "(cn=$N"}, {"o=x", "cn"}} {
		if _, err := ldap.Netgroups(bad[0], bad[1]); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	url, err := ldap.Netgroups("ou=a?b,o=x", "(&(objectClass=nisNetgroup)(|(cn=$N)(description=$$$N)))")
	if err != nil {
		t.Fatal(err)
	}
	if got := url("a*)b"); !strings.HasPrefix(got, "ldap:///ou=a%3Fb%2Co=x?nisNetgroupTriple,memberNisNetgroup?sub?") || !strings.Contains(got, `a%5C2a%5C29b`) {
		t.Error(got)
	}
}
