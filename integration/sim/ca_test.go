package sim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// authority holds the certificates of all hosts. It is made once, outside of
// virtual time, and good for all of it.
type authority struct {
	pool  *x509.CertPool
	certs map[string]tls.Certificate
}

func newAuthority(t *testing.T, names ...string) *authority {
	sign := func(tmpl, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		tmpl.NotBefore, tmpl.NotAfter = time.Unix(0, 0), time.Unix(1<<33, 0)
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "simulation"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootKey := newKey()
	ca, err := x509.ParseCertificate(sign(root, root, rootKey, rootKey))
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{pool: x509.NewCertPool(), certs: map[string]tls.Certificate{}}
	a.pool.AddCert(ca)
	for i, name := range names {
		key := newKey()
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		a.certs[name] = tls.Certificate{Certificate: [][]byte{sign(leaf, ca, key, rootKey)}, PrivateKey: key}
	}
	return a
}

// curves is one that the race detector does not slow down, as it does the others.
var curves = []tls.CurveID{tls.CurveP256}

func (a *authority) server(name string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{a.certs[name]}, ClientCAs: a.pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, CurvePreferences: curves,
	}
}

func (a *authority) client(name string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.certs[name]}, RootCAs: a.pool, MinVersion: tls.VersionTLS13, CurvePreferences: curves}
}
