package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of certificates made here.
const (
	CALifetime   = 10 * 365 * 24 * time.Hour
	LeafLifetime = 397 * 24 * time.Hour // what the public world allows, good enough for us
)

// backdate is how far in the past a certificate begins, for clocks that differ.
const backdate = 10 * time.Minute

// Names of the files of a CA directory.
const (
	CACertName = "ca.pem"
	CAKeyName  = "ca-key.pem"
)

// CA is the cluster's own certificate authority. Its key signs; it never
// leaves the machine of the operator.
type CA struct {
	Cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	pem     []byte
}

// InitCA makes a CA for cluster in dir, which is created. It refuses to replace
// one that is there.
func InitCA(dir, cluster string, now time.Time) (*CA, error) {
	if !validName(cluster) {
		return nil, fmt.Errorf("cluster name %q: want letters, digits, hyphens and dots", cluster)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, CAKeyName)); err == nil {
		return nil, fmt.Errorf("%s holds a CA: %w", dir, os.ErrExist)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Postern CA of " + cluster, Organization: []string{cluster}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writeKey(filepath.Join(dir, CAKeyName), key); err != nil {
		return nil, err
	}
	if err := writePEM(filepath.Join(dir, CACertName), 0o644, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return OpenCA(dir)
}

// OpenCA reads a CA that InitCA has made.
func OpenCA(dir string) (*CA, error) {
	pemBytes, err := os.ReadFile(filepath.Join(dir, CACertName))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate", filepath.Join(dir, CACertName))
	}
	pemBytes = pem.EncodeToMemory(block) // others may follow while it is being replaced
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, CAKeyName))
	if err != nil {
		return nil, err
	}
	block, _ = pem.Decode(keyPEM)
	if block == nil {
		return nil, fmt.Errorf("%s: no key", filepath.Join(dir, CAKeyName))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("CA key does not belong to the CA certificate")
	}
	if len(cert.Subject.Organization) != 1 {
		return nil, errors.New("CA certificate names no cluster")
	}
	return &CA{Cluster: cert.Subject.Organization[0], cert: cert, key: key, pem: pemBytes}, nil
}

// CertPEM returns the CA's certificate, for the nodes.
func (ca *CA) CertPEM() []byte { return ca.pem }

// Request describes a certificate to issue.
type Request struct {
	Node     string
	Roles    []Role // none: a public certificate, worth nothing between the tiers
	DNSNames []string
	IPs      []net.IP
	Lifetime time.Duration // 0 is LeafLifetime
}

// Issue makes a key and a certificate and writes them as PREFIX.pem and
// PREFIX-key.pem. Existing files are replaced, the key first.
func (ca *CA) Issue(prefix string, req Request, now time.Time) (*x509.Certificate, error) {
	tmpl, err := ca.template(req, now)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(prefix), 0o755); err != nil {
		return nil, err
	}
	if err := writeKey(prefix+"-key.pem", key); err != nil {
		return nil, err
	}
	if err := writePEM(prefix+".pem", 0o644, "CERTIFICATE", der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// template is the certificate of req before it is signed.
func (ca *CA) template(req Request, now time.Time) (*x509.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: req.Node, Organization: []string{ca.Cluster}},
		NotBefore:    now.Add(-backdate),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     req.DNSNames,
		IPAddresses:  req.IPs,
	}
	if len(req.Roles) > 0 {
		id := Identity{Cluster: ca.Cluster, Node: req.Node, Roles: req.Roles}
		if err := id.check(); err != nil {
			return nil, err
		}
		tmpl.URIs = id.uris()
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		for _, r := range req.Roles {
			tmpl.Subject.OrganizationalUnit = append(tmpl.Subject.OrganizationalUnit, string(r))
		}
	}
	life := req.Lifetime
	if life == 0 {
		life = LeafLifetime
	}
	tmpl.NotAfter = now.Add(life)
	if tmpl.NotAfter.After(ca.cert.NotAfter) {
		tmpl.NotAfter = ca.cert.NotAfter
	}
	return tmpl, nil
}

// Renew issues PREFIX.pem again with the names and roles that it has, a new key
// and a new lifetime.
func (ca *CA) Renew(prefix string, now time.Time) (*x509.Certificate, error) {
	old, err := ReadCert(prefix + ".pem")
	if err != nil {
		return nil, err
	}
	if err := old.CheckSignatureFrom(ca.cert); err != nil {
		return nil, fmt.Errorf("%s.pem is not from this CA: %w", prefix, err)
	}
	return ca.Issue(prefix, requestOf(old), now)
}

// requestOf asks for what a certificate says.
func requestOf(old *x509.Certificate) Request {
	req := Request{
		Node: old.Subject.CommonName, DNSNames: old.DNSNames, IPs: old.IPAddresses,
		Lifetime: old.NotAfter.Sub(old.NotBefore) - backdate,
	}
	if id, err := IdentityOf(old); err == nil {
		req.Roles = id.Roles
	}
	return req
}

// ReadCert reads the first certificate of a PEM file.
func ReadCert(file string) (*x509.Certificate, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no certificate", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

// serial returns a random serial number of 126 bits (RFC 5280 4.1.2.2).
func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return n.Add(n, big.NewInt(1))
}

func writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(name, 0o600, "PRIVATE KEY", der)
}

// writePEM replaces name by rename, so that a reader sees the old file or the
// new one.
func writePEM(name string, mode os.FileMode, kind string, der []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Chmod(mode), pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
