package dirtest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// faults asks with configurations that are wrong: nothing may come out as an
// answer.
func faults(t *testing.T, s Server) {
	ctx := t.Context()
	org := &directory.Domain{Name: "example.org", BaseDN: fixture.Base(Domain)}
	ana := mail.Address{Local: "ana", Domain: "example.org"}
	for name, configure := range map[string]func(*ldap.Config){
		"base missing":       func(c *ldap.Config) { c.Base = "o=gone" },
		"base below missing": func(c *ldap.Config) { c.Base = "o=gone,o=isp" },
		"bad password":       func(c *ldap.Config) { c.Password = "wrong" },
		"no server":          func(c *ldap.Config) { c.Servers = []string{"ldap://127.0.0.1:1"} },
	} {
		t.Run(name, func(t *testing.T) {
			d := Dial(t, s, configure)
			if _, err := d.Domain(ctx, "example.org"); answered(err) {
				t.Errorf("Domain: %v", err)
			}
			lost := *org
			if strings.HasPrefix(name, "base") {
				lost.BaseDN = "o=gone"
			}
			if _, err := d.Lookup(ctx, &lost, ana); answered(err) {
				t.Errorf("Lookup: %v", err)
			}
			if _, err := d.Login(ctx, "ana"); answered(err) {
				t.Errorf("Login: %v", err)
			}
			if _, err := d.Entry(ctx, "uid=nobody,"+d.Base()); answered(err) {
				t.Errorf("Entry: %v", err)
			}
			if _, err := directory.Collect(d.Search(ctx, "ldap:///??sub?(uid=nobody)", 10)); answered(err) {
				t.Errorf("Search: %v", err)
			}
			if err := d.Ready(ctx); err == nil {
				t.Error("Ready: no error")
			}
			for _, what := range []ldap.Selection{ldap.Everything, ldap.MailEntries, ldap.Groups, ldap.DomainEntries} {
				err := d.Scan(ctx, d.Base(), what, nil, func(string, directory.Attributes) error { return nil })
				if answered(err) || strings.HasPrefix(name, "base") && !errors.Is(err, directory.ErrMisconfigured) {
					t.Errorf("Scan for %d: %v", what, err)
				}
			}
		})
	}
}

// away stops the server: the first questions fail, the others fail at once.
func away(t *testing.T, s Server) {
	d := Dial(t, s)
	dom, err := d.Domain(t.Context(), Domain)
	if err != nil {
		t.Fatal(err)
	}
	user, err := d.Login(t.Context(), "u0001")
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 20 {
		if _, err := d.Lookup(ctx, dom, mail.Address{Local: "ana", Domain: Domain}); !errors.Is(err, directory.ErrUnavailable) || answered(err) {
			t.Fatalf("Lookup without a server: %v", err)
		}
		if err := d.Authenticate(ctx, user, fixture.Password); !errors.Is(err, directory.ErrUnavailable) || answered(err) {
			t.Fatalf("Authenticate without a server: %v", err)
		}
	}
}
