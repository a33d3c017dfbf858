package embedded_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// TestStartTLS upgrades, refuses passwords in the clear, and does not take what
// was sent before the handshake for what comes after it.
func TestStartTLS(t *testing.T) {
	cert := certificate(t)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	s := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1), func(c *embedded.Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	})
	c := connect(t, s, "", "")
	if err := c.StartTLS(&tls.Config{RootCAs: pool, ServerName: "localhost"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(s.BindDN, s.Password); err != nil {
		t.Fatal(err)
	}
	if got, _ := find(c, people, ldap.ScopeWholeSubtree, "(uid=u0001)"); len(got) != 1 {
		t.Errorf("search inside TLS: %q", got)
	}
	nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "ldap://"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	startTLS := "\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"
	whoAmI := "\x30\x1e\x02\x01\x02\x77\x19\x80\x171.3.6.1.4.1.4203.1.11.3"
	if _, err := nc.Write([]byte(startTLS + whoAmI)); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 4096)
	total := 0
	for {
		n, err := nc.Read(buf[total:])
		total += n
		if err != nil {
			break
		}
	}
	if !strings.Contains(string(buf[:total]), "1.3.6.1.4.1.1466.20036") {
		t.Errorf("a request behind StartTLS: %q, want a notice of disconnection", buf[:total])
	}
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestHostile sends what no client does. The server ends the connection or
// refuses, and goes on with the others.
func TestHostile(t *testing.T) {
	s := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1), func(c *embedded.Config) { c.MaxConnections = 20 })
	deep := "\xa3\x06\x04\x01a\x04\x01b"
	for range 3000 { // nested (!( ... ))
		n := len(deep)
		deep = fmt.Sprintf("\xa2\x83%c%c%c", n>>16, n>>8&255, n&255) + deep
	}
	search := func(filter string) string {
		body := "\x04\x00\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00" + filter + "\x30\x00"
		wrap := func(tag byte, s string) string {
			return fmt.Sprintf("%c\x83", tag)[:0] + string([]byte{tag, 0x83, byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))}) + s
		}
		return wrap(0x30, "\x02\x01\x07"+wrap(0x63, body))
	}
	for name, in := range map[string]string{
		"not BER":             "GET / HTTP/1.0\r\n\r\n",
		"huge length":         "\x30\x84\x7f\xff\xff\xff",
		"length of length":    "\x30\x88\x00\x00\x00\x00\x00\x00\x00\x05hello",
		"indefinite":          "\x30\x80\x02\x01\x01\x42\x00\x00\x00",
		"empty":               "\x30\x00",
		"no operation":        "\x30\x03\x02\x01\x01",
		"negative id":         "\x30\x05\x02\x01\xff\x42\x00",
		"unknown operation":   "\x30\x05\x02\x01\x01\x5f\x00",
		"response":            "\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
		"deep filter":         search(deep),
		"bad filter":          search("\xa2\x00"),
		"substrings of none":  search("\xa4\x05\x04\x01a\x30\x00"),
		"length past the end": search("\xa3\x7f\x04\x01a"),
		"too long":            "\x30\x83\x02\x00\x00" + strings.Repeat("x", 1000),
	} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "ldap://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 64<<10)
		for {
			if _, err := nc.Read(buf); err != nil {
				var ne net.Error
				if errors.As(err, &ne) && ne.Timeout() {
					t.Errorf("%s: the server neither answers nor closes", name)
				}
				break
			}
		}
		nc.Close()
	}
	c := root(t, s)
	if got, _ := find(c, people, ldap.ScopeWholeSubtree, "(uid=u0001)"); len(got) != 1 {
		t.Errorf("afterwards: %q", got)
	}
	// More connections than there may be: the excess is closed, the others stay.
	var extra []net.Conn
	for range 30 {
		nc, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "ldap://"))
		if err != nil {
			t.Fatal(err)
		}
		extra = append(extra, nc)
	}
	closed := 0
	for _, nc := range extra {
		nc.SetReadDeadline(time.Now().Add(40 * time.Millisecond))
		if _, err := nc.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
		if closed >= 10 {
			break
		}
	}
	for _, nc := range extra {
		nc.Close()
	}
	if closed < 10 {
		t.Errorf("%d of 30 extra connections were closed, want at least 10", closed)
	}
	if got, _ := find(c, people, ldap.ScopeWholeSubtree, "(uid=u0001)"); len(got) != 1 {
		t.Errorf("a connection that was there before: %q", got)
	}
}
