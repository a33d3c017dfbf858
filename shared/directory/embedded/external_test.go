package embedded_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// issue makes a certificate for a client, whose subject has these parts, the
// outermost first.
func issue(t *testing.T, ca tls.Certificate, parts ...[2]string) tls.Certificate {
	t.Helper()
	oids := map[string]asn1.ObjectIdentifier{
		"o": {2, 5, 4, 10}, "ou": {2, 5, 4, 11}, "cn": {2, 5, 4, 3}, "uid": {0, 9, 2342, 19200300, 100, 1, 1}, "odd": {1, 2, 3, 4},
	}
	var seq pkix.RDNSequence
	for _, p := range parts {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{Type: oids[p[0]], Value: p[1]}})
	}
	raw, err := asn1.Marshal(seq)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), RawSubject: raw, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Leaf, &key.PublicKey, ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestExternalTLS: whoever shows a certificate is the entry that its subject
// names, and nobody else.
func TestExternalTLS(t *testing.T) {
	ca, stranger := certificate(t), certificate(t)
	cas := x509.NewCertPool()
	cas.AddCert(ca.Leaf)
	s := dirtest.Embedded(t, fixture.Tree("x.test", 2, 1), func(c *embedded.Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{ca}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: cas}
	})
	ana := [][2]string{{"o", "isp"}, {"o", "X.test"}, {"ou", "people"}, {"uid", "u0001"}}
	root := [][2]string{{"o", "isp"}, {"cn", "Root"}}
	const name = "uid=u0001,ou=people,o=x.test,o=isp"
	for label, tt := range map[string]struct {
		cert *tls.Certificate
		code uint16
		who  string
	}{
		"an entry":         {cert: ptr(issue(t, ca, ana...)), who: "dn:" + name},
		"root":             {cert: ptr(issue(t, ca, root...)), who: "dn:" + dirtest.RootDN},
		"nobody":           {cert: ptr(issue(t, ca, append(ana[:3:3], [2]string{"uid", "nobody"})...)), code: ldap.LDAPResultInvalidCredentials},
		"a comma":          {cert: ptr(issue(t, ca, [2]string{"cn", "u0001,ou=people,o=x.test,o=isp"})), code: ldap.LDAPResultInvalidCredentials},
		"an odd attribute": {cert: ptr(issue(t, ca, append(ana[:3:3], [2]string{"odd", "u0001"})...)), code: ldap.LDAPResultInvalidCredentials},
		"no subject":       {cert: ptr(issue(t, ca)), code: ldap.LDAPResultInvalidCredentials},
		"no certificate":   {code: ldap.LDAPResultInappropriateAuthentication},
	} {
		conf := &tls.Config{InsecureSkipVerify: true}
		if tt.cert != nil {
			conf.Certificates = []tls.Certificate{*tt.cert}
		}
		c, err := ldap.DialURL(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.StartTLS(conf); err != nil {
			t.Fatalf("%s: %v", label, err)
		}
		if got := code(c.ExternalBind()); got != tt.code {
			t.Errorf("%s: %d, want %d", label, got, tt.code)
		}
		who, err := c.WhoAmI(nil)
		if err != nil || who.AuthzID != tt.who {
			t.Errorf("%s: is %+v, %v, want %q", label, who, err, tt.who)
		}
	}
	// One of another CA does not get as far.
	c, err := ldap.DialURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.StartTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{issue(t, stranger, root...)}})
	if err == nil {
		err = c.ExternalBind()
	}
	if err == nil {
		t.Error("a certificate of another CA is taken")
	}
	externalTools(t, s, ca, issue(t, ca, ana...), name)
}

func ptr[T any](v T) *T { return &v }

// externalTools does the same with the tools of OpenLDAP.
func externalTools(t *testing.T, s dirtest.Server, ca, own tls.Certificate, name string) {
	t.Helper()
	peertest.Programs(t, "ldapwhoami")
	dir := t.TempDir()
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "LDAPTLS_REQCERT=never", "LDAPTLS_CACERT="+write("ca", "CERTIFICATE", ca.Certificate[0]),
		"LDAPTLS_CERT="+write("cert", "CERTIFICATE", own.Certificate[0]), "LDAPTLS_KEY="+write("key", "PRIVATE KEY", key))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "dn:" + name},
		{[]string{"-X", "dn:" + name}, "dn:" + name},
		{[]string{"-X", "dn:" + dirtest.RootDN}, "not authorized"},
	} {
		cmd := exec.Command("ldapwhoami", append([]string{"-Q", "-Y", "EXTERNAL", "-ZZ", "-H", s.URL}, tt.args...)...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), tt.want) || (err == nil) != strings.HasPrefix(tt.want, "dn:") {
			t.Errorf("ldapwhoami %q: %v\n%s", tt.args, err, out)
		}
	}
}
