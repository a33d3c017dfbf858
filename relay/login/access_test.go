package login

import (
	"net/netip"
	"strings"
	"testing"
)

func named(name string, verified bool) func() (string, bool) {
	return func() (string, bool) { return name, verified }
}

func TestAllows(t *testing.T) {
	ip := netip.MustParseAddr
	server1 := Client{Addr: ip("192.0.2.7"), Name: named("server1.example.com", true)}
	other := Client{Addr: ip("192.0.2.8"), Name: named("other.example.com", true)}
	nameless := Client{Addr: ip("2001:db8::9")}
	spoofed := Client{Addr: ip("192.0.2.66"), Name: named("server1.example.com", false)}
	bare := Client{Addr: ip("10.0.0.1"), Name: named("desk", true)}
	tls := func(c Client) Client { c.TLS = true; return c }
	for _, tt := range []struct {
		filter, service string
		c               Client
		want            bool
	}{
		// The table of the specification.
		{"+imap,pop,http:*", "imap", other, true},
		{"+imap,pop,http:*", "imap", tls(other), true},
		{"+imap,pop,http:*", "smtp", other, false},
		{"-imap:*$-pop:*$-http:*", "imap", other, false},
		{"-imap:*$-pop:*$-http:*", "pop", tls(other), false},
		{"-imap:*$-pop:*$-http:*", "smtp", other, true},
		{"-ALL:ALL EXCEPT server1.example.com", "imap", server1, true},
		{"-ALL:ALL EXCEPT server1.example.com", "imap", other, false},
		{"-ALL:ALL EXCEPT server1.example.com", "imap", nameless, false},
		{"-ALL:ALL EXCEPT server1.example.com", "imap", spoofed, false},
		{"+imaps:ALL", "imap", other, false},
		{"+imaps:ALL", "imap", tls(other), true},
		{"+imaps,pops:*$+imap,pop:192.0.2.8", "imap", other, true},
		{"+imaps,pops:*$+imap,pop:192.0.2.8", "imap", server1, false},

		{"", "imap", other, true},
		{" $ ", "imap", other, true},
		{"+imap:*$-ALL:*", "pop", other, false},
		{"+imap:192.0.2.8$-pop:*", "smtp", other, true}, // neither matches, and one rule denies
		{"-imap:.example.com$+imap:server1.example.com", "imap", server1, true},
		{"-imap:.example.com$+imap:server1.example.com", "imap", other, false},
		{"+imap:192.0.2.0/29", "imap", server1, true},
		{"+imap:192.0.2.0/29", "imap", other, false},
		{"+imap:192.0.2.0/255.255.255.248", "imap", server1, true},
		{"+imap:2001:db8::/32", "imap", nameless, true},
		{"+imap:[2001:db8::]/32,10.0.0.1", "imap", nameless, true},
		{"+imap:2001:db8::9", "imap", nameless, true},
		{"+imap:192.0.2.", "imap", server1, true},
		{"+imap:192.0.2.*", "imap", server1, true},
		{"+imap:*.example.com", "imap", other, true},
		{"+imap:*.example.com", "imap", spoofed, false},
		{"+imap:LOCAL", "imap", bare, true},
		{"+imap:LOCAL", "imap", other, false},
		{"+imap:KNOWN", "imap", other, true},
		{"+imap:KNOWN", "imap", nameless, false},
		{"+imap:UNKNOWN", "imap", nameless, true},
		{"+imap:UNKNOWN", "imap", spoofed, true},
		{"-imap:DNSSPOOFER", "imap", spoofed, false},
		{"-imap:DNSSPOOFER", "imap", nameless, true},
		{"-ALL EXCEPT imap:*", "imap", other, true},
		{"-ALL EXCEPT imap:*", "pop", other, false},
		{"+imap:192.0.2.8", "imap", Client{Addr: ip("::ffff:192.0.2.8")}, true},
		{"+imap:192.0.2.8", "imap", Client{}, false},
		{"+IMAP:All", "imap", Client{}, true},
	} {
		f, err := ParseFilter(tt.filter)
		if err != nil {
			t.Errorf("%q: %v", tt.filter, err)
			continue
		}
		c := tt.c
		if got, err := f.Allows(tt.service, &c); got != tt.want || err != nil {
			t.Errorf("%q: %s from %s %+v = %v, %v, want %v", tt.filter, tt.service, c.Addr, c.TLS, got, err, tt.want)
		}
	}
}

func TestFilterErrors(t *testing.T) {
	for text, want := range map[string]string{
		"imap:*": "neither", "+imap": "no colon", "+:*": "empty list", "+imap:": "empty list", "+telnet:*": "unknown service",
		"+imap:ALL EXCEPT": "empty list", "+imap:EXCEPT x": "EXCEPT", "+imap:a EXCEPT b EXCEPT c": "EXCEPT", "+imap:@": "netgroup",
		"+imap:1.2.3.4/33": "mask", "+imap:host/24": "not an address", "+imap:1.2.3.4/255.0.255.0": "gap",
		strings.Repeat("+imap:*$", maxRules+1): "too many", strings.Repeat("x", maxFilter+1): "octets",
	} {
		if _, err := ParseFilter(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

// FuzzFilter looks for a filter that panics, or that allows a service which it
// does not know and no rule can allow.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"+imap,pop,http:*", "-ALL:ALL EXCEPT server1.example.com", "+imap:10.0.0.0/8$-pop:.x", "+imap:*a*b*", "+imaps:[::1]", "+imap:@a EXCEPT @b"} {
		f.Add(s, "10.1.2.3", "host.x", true)
	}
	f.Fuzz(func(t *testing.T, text, addr, name string, tls bool) {
		filter, err := ParseFilter(text)
		if err != nil {
			return
		}
		a, _ := netip.ParseAddr(addr)
		c := &Client{Addr: a, TLS: tls, Name: named(name, true)}
		allowed, _ := filter.Allows("imap", c)
		hasAllow, hasDeny := false, false
		for _, r := range filter {
			hasAllow, hasDeny = hasAllow || r.allow, hasDeny || !r.allow
		}
		if !hasAllow && !hasDeny && !allowed {
			t.Errorf("%q: no rules and denied", text)
		}
		// What is allowed in the clear is allowed under TLS by the same + rules.
		plain := *c
		plain.TLS = false
		if inClear, _ := filter.Allows("imap", &plain); !hasDeny && inClear && tls && !allowed {
			t.Errorf("%q: allowed in the clear only", text)
		}
	})
}

func FuzzTriple(f *testing.F) {
	for _, s := range []string{"(host,user,domain)", "( , ,)", "(-,-,-)", "(a,b)", "((a,b,c))", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, v string) {
		tr, err := parseTriple(v)
		if err != nil {
			return
		}
		if again, err := parseTriple("(" + tr.host + "," + tr.user + ",)"); err != nil || again.user != tr.user {
			t.Errorf("%q: %+v, again %+v, %v", v, tr, again, err)
		}
		c := Client{Addr: netip.MustParseAddr("192.0.2.1"), Name: named("desk.example", true)}
		if tr.means(&c) && tr.host != "" && tr.host != "desk.example" && tr.host != "192.0.2.1" && tr.host != "::ffff:192.0.2.1" && !strings.HasPrefix(tr.host, "::ffff:") {
			t.Errorf("%q means the host", v)
		}
	})
}
