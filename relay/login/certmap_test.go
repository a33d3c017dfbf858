package login

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// leaf is a certificate with these attributes in its subject, by name.
func leaf(t testing.TB, address string, attrs ...string) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{}
	if address != "" {
		c.EmailAddresses = []string{address}
	}
	for i := 0; i < len(attrs); i += 2 {
		var oid asn1.ObjectIdentifier
		for n := range strings.SplitSeq(subjectNames[attrs[i]], ".") {
			v := 0
			for _, d := range n {
				v = 10*v + int(d-'0')
			}
			oid = append(oid, v)
		}
		c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: oid, Value: attrs[i+1]})
	}
	return c
}

func TestCertLogin(t *testing.T) {
	ann := mail.Address{Local: "ann", Domain: "example.test"}
	c := leaf(t, "ann@example.test", "CN", "Ann Smith", "UID", "as17", "OU", "one", "OU", "two")
	c.Subject.Names = append(c.Subject.Names, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 5}, Value: 7})
	for text, want := range map[string]string{
		"%U@%V":                     "ann@example.test",
		"%[UID]":                    "as17",
		"%[uid]@%V":                 "as17@example.test",
		"x-%[CN]-%%":                "x-Ann Smith-%",
		"fixed":                     "fixed",
		"%[OU]":                     "", // two of them
		"%[SERIALNUMBER]":           "", // no text
		"%[O]":                      "",
		"%[PASSWORD]":               "",
		"%[CN":                      "",
		"%x":                        "",
		"%":                         "",
		strings.Repeat("a", 1025):   "",
		"%[CN]%[O]":                 "",
		"%V.%V":                     "example.test.example.test",
		"":                          "",
		"%[GIVENNAME]@example.test": "",
	} {
		if got, err := certLogin(text, c, ann); got != want && err == nil || (err == nil) != (want != "" || text == "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := certLogin("%U", c, mail.Address{Domain: "example.test"}); err == nil {
		t.Errorf("a name that is not proven: %q", got)
	}
}

// FuzzCertLogin: a map is read or refused, and what comes of it has nothing that
// is neither in the map nor in the certificate.
func FuzzCertLogin(f *testing.F) {
	for _, s := range []string{"%U@%V", "%[UID]", "%[", "%%%[CN]x", "%[]"} {
		f.Add(s, "ann", "Ann")
	}
	f.Fuzz(func(t *testing.T, text, uid, cn string) {
		got, err := certLogin(text, leaf(t, "a@b.test", "UID", uid, "CN", cn), mail.Address{Local: "a", Domain: "b.test"})
		if err != nil {
			return
		}
		if n := strings.Count(text, "%"); n == 0 && got != text || len(got) > len(text)+n*(len(uid)+len(cn)+6) {
			t.Errorf("%q became %q", text, got)
		}
	})
}

// TestVerifyCertificate: sites that name the attribute let a certificate log in only
// if it is in the entry that it leads to.
func TestVerifyCertificate(t *testing.T) {
	der := dirtest.Certificate()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	renewed := *cert
	renewed.Raw = append([]byte{}, der...)
	renewed.Raw[len(der)-1] ^= 1
	tree := bytes.Replace(dirtest.Tree(), []byte("inetUserStatus: inactive\n"), nil, 1)
	for name, server := range map[string]dirtest.Server{"embedded": dirtest.Embedded(t, tree), "OpenLDAP": dirtest.OpenLDAP(t, tree)} {
		c := &Checker{
			Directory: dirtest.Dial(t, server, func(c *ldap.Config) { c.Schema = directory.SunSchema2(); c.Schema.Certificate = "userCertificate" }),
			Pair:      func(h string) (string, bool) { return h, true }, VerifyCertificate: true,
		}
		for _, tt := range []struct {
			leaf *x509.Certificate
			want bool
		}{{cert, true}, {&renewed, false}, {leaf(t, "ana@example.org"), false}} {
			login, err := c.Certificate(t.Context(), &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{tt.leaf}}}, "")
			if (err == nil) != tt.want || tt.want && login != "bob@example.org" {
				t.Errorf("%s: %q, %v, want %v", name, login, err, tt.want)
			}
			if !tt.want && !mail.Permanent(err) {
				t.Errorf("%s: %v is no refusal", name, err)
			}
		}
	}
}
