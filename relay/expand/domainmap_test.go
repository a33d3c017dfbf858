package expand

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	trees "github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// TestDomainMap: whose a domain is, in the three layouts, by where its mail goes:
// aliases, parents and routing hosts (directory.md 1 and 2).
func TestDomainMap(t *testing.T) {
	const ana = "tcp_lmtpcs pair1 ana@example.org"
	always := map[string]string{
		"ana@example.org": ana, "ana@example.net": ana, "ana@third.example": ana, "ana@second.example": ana,
		"nobody@example.org": "550 5.1.1", "nobody@example.net": "550 5.1.1",
		"nobody@example.com": "tcp_local legacy.example.net nobody@example.com",
	}
	// A second node has a routing of its own; a name of the same entry has not.
	ownRouting := map[string]string{"nobody@second.example": "tcp_local second.example.net nobody@second.example"}
	noRouting := map[string]string{"nobody@second.example": "550 5.1.1"}
	type setting struct {
		uplevel int
		names   []string // of this relay
		follow  bool
		want    map[string]string
	}
	settings := map[string]setting{
		"alone": {0, []string{"relay1.test"}, false, map[string]string{
			"ana@host.example.org": "tcp_local host.example.org ana@host.example.org", "x@elsewhere.example": "tcp_local elsewhere.example x@elsewhere.example",
		}},
		"uplevel 1": {1, []string{"relay1.test"}, false, map[string]string{"ana@host.example.org": "550 5.1.1"}},
		"uplevel 3": {3, []string{"relay1.test"}, false, map[string]string{"ana@host.example.org": ana, "nobody@host.example.org": "550 5.1.1"}},
		"first routing host": {0, []string{"relay1.test"}, true, map[string]string{
			"x@elsewhere.example": "tcp_local relay9.example.net x@elsewhere.example", "ana@example.org": ana,
		}},
		"a routing host": {0, []string{"relay1.test", "relay1.example.net"}, true, map[string]string{"x@elsewhere.example": "550 5.1.1"}},
	}
	for preset, layout := range map[string]struct {
		ldif []byte
		own  map[string]string
	}{
		"sun-schema1": {trees.Schema1(), ownRouting}, "sun-compat": {trees.Compatible(), ownRouting}, "sun-schema2": {trees.Schema2(), noRouting},
	} {
		schema, err := directory.Preset(preset)
		if err != nil {
			t.Fatal(err)
		}
		for server, start := range servers {
			s := start(t, layout.ldif)
			for name, set := range settings {
				d := dirtest.Dial(t, s, patient, func(c *ldap.Config) {
					c.Schema, c.Uplevel, c.DefaultDomain = schema, set.uplevel, "example.org"
					if schema.Layout != directory.LayoutOrganization {
						c.DCRoot = trees.DCRoot
					}
				})
				x, err := New(Config{Directory: cache.New(d, cache.Config{}), Pair: Pairs("pair1"), Hostnames: set.names, RouteToRoutingHost: set.follow})
				if err != nil {
					t.Fatal(err)
				}
				for _, list := range []map[string]string{always, layout.own, set.want} {
					for to, want := range list {
						if got := wayOf(t, x, to); got != want {
							t.Errorf("%s on %s, %s: %s: %q, want %q", preset, server, name, to, got, want)
						}
					}
				}
			}
		}
	}
}

// wayOf is the channel, next hop and mailbox or address of the one recipient that an
// address has, or the answer.
func wayOf(t *testing.T, x *Expander, to string) string {
	t.Helper()
	a, err := mail.ParseAddress(to, true)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := x.Rcpt(t.Context(), nil, mail.Recipient{Address: a})
	switch {
	case err != nil:
		e := mail.AsError("", err)
		return fmt.Sprintf("%d %s", e.ReplyCode(), e.Status)
	case len(rs) != 1:
		return fmt.Sprintf("%d recipients", len(rs))
	}
	hop, name := rs[0].NextHop, rs[0].Address.String()
	if rs[0].Mailbox != "" {
		name = rs[0].Mailbox
	}
	if hop == "" {
		hop = rs[0].Address.Domain
	}
	return fmt.Sprintf("%s %s %s", rs[0].Channel, hop, name)
}
