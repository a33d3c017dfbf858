package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// TestServices: the directory answers after StartTLS and takes a password, the DNS
// answers from its file, and both end with the context.
func TestServices(t *testing.T) {
	dir := t.TempDir()
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(dir, "directory")
	if _, err := ca.Issue(prefix, tlsconf.Request{Node: "directory", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	zone := filepath.Join(dir, "zone")
	if err := os.WriteFile(zone, []byte("@ MX 10 relay1\nrelay1 A 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- Services(ctx, ServicesOptions{
			LDAP: addrs[0], Domain: "example.com", Users: 2, Pairs: 1, Cert: prefix + ".pem", Key: prefix + "-key.pem",
			DNS: addrs[1], Zone: zone, Origin: "example.com", Ready: func() { close(ready) },
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	d, err := ldap.New(ldap.Config{
		Servers: []string{"ldap://" + addrs[0]}, Base: fixture.Root, DefaultDomain: "example.com",
		StartTLS: true, TLS: &tls.Config{RootCAs: roots},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if u, err := d.Login(ctx, "u0002"); err != nil {
		t.Error(err)
	} else if err := d.Authenticate(ctx, u, fixture.Password); err != nil {
		t.Error(err)
	}
	r, err := dns.NewClient(dns.Config{Servers: []string{addrs[1]}})
	if err != nil {
		t.Fatal(err)
	}
	mx, err := r.MX(ctx, "example.com")
	if err != nil || len(mx) != 1 || !strings.HasPrefix(mx[0].Host, "relay1.example.com") {
		t.Errorf("MX: %v, %v", mx, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServicesRefused(t *testing.T) {
	zone := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(zone, []byte("@ MX relay1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]ServicesOptions{
		"nothing":      {},
		"no zone file": {DNS: "127.0.0.1:0", Zone: zone + ".no"},
		"bad zone":     {DNS: "127.0.0.1:0", Zone: zone},
		"no LDIF":      {LDAP: "127.0.0.1:0", LDIF: zone + ".no"},
		"bad LDIF":     {LDAP: "127.0.0.1:0", LDIF: zone},
		"bad address":  {LDAP: "nowhere", Domain: "example.com", Users: 1, Pairs: 1},
		"no key":       {LDAP: "127.0.0.1:0", Cert: zone, Key: zone + ".no"},
	} {
		if err := Services(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
