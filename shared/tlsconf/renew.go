package tlsconf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// pendingSuffix names, behind KeyFile, the key of a certificate that Request has
// asked for. It takes the place of KeyFile after the certificate has taken that of
// CertFile; a process that is killed in between finds it.
const pendingSuffix = ".new"

// maxPEM bounds what is taken from others.
const maxPEM = 256 << 10

// loadOwn reads certificate and key, and ends an Install that was cut off.
func (s *Store) loadOwn() (tls.Certificate, error) {
	cert, err := loadPair(s.files.CertFile, s.files.KeyFile)
	if err == nil {
		return cert, nil
	}
	pending, perr := loadPair(s.files.CertFile, s.files.KeyFile+pendingSuffix)
	if perr != nil {
		return cert, err
	}
	// Another call may have done it meanwhile.
	_ = os.Rename(s.files.KeyFile+pendingSuffix, s.files.KeyFile)
	return pending, nil
}

// Request makes a new key, which stays on this host, and returns a request for a
// certificate of it (PKCS #10, DER). The key in use stays.
func (s *Store) Request() ([]byte, error) {
	s.change.Lock()
	defer s.change.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := writeKey(s.files.KeyFile+pendingSuffix, key); err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// Install takes a certificate (PEM, the leaf first) of the key that Request has
// made, writes both in place of the old ones and uses them from now on. It must be
// of this node and of a CA that is trusted. Connections that are open go on.
func (s *Store) Install(certPEM []byte) error {
	s.change.Lock()
	defer s.change.Unlock()
	keyPEM, err := os.ReadFile(s.files.KeyFile + pendingSuffix)
	if err != nil {
		return fmt.Errorf("no certificate was asked for: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("certificate offered: %w", err)
	}
	m := s.current.Load()
	id, err := verifyChain(m.roots, chainOf(cert), s.now())
	switch {
	case err != nil:
		return fmt.Errorf("certificate offered: %w", err)
	case id.Node != m.id.Node || id.Cluster != m.id.Cluster:
		return fmt.Errorf("certificate offered: it is for %s of cluster %s, this node is %s of %s", id.Node, id.Cluster, m.id.Node, m.id.Cluster)
	}
	if err := replace(s.files.CertFile, 0o644, certPEM); err != nil {
		return err
	}
	if err := os.Rename(s.files.KeyFile+pendingSuffix, s.files.KeyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return s.Reload()
}

// SetTrust replaces the CAs that are trusted (PEM). The certificate in use must be
// of one of them, and all must be CAs of this cluster.
func (s *Store) SetTrust(caPEM []byte) error {
	s.change.Lock()
	defer s.change.Unlock()
	cas, err := parseCAs(caPEM)
	if err != nil {
		return err
	}
	m := s.current.Load()
	roots := x509.NewCertPool()
	for _, ca := range cas {
		if len(ca.Subject.Organization) != 1 || ca.Subject.Organization[0] != m.id.Cluster {
			return fmt.Errorf("CAs offered: %s is not of cluster %s", ca.Subject, m.id.Cluster)
		}
		roots.AddCert(ca)
	}
	if _, err := verifyChain(roots, chainOf(m.cert), s.now()); err != nil {
		return fmt.Errorf("CAs offered: this node's own certificate: %w", err)
	}
	if bytes.Equal(caPEM, m.ca) {
		return nil
	}
	if err := replace(s.files.CAFile, 0o644, caPEM); err != nil {
		return err
	}
	return s.Reload()
}

// Trusted returns the CAs that are trusted.
func (s *Store) Trusted() []*x509.Certificate {
	cas, err := parseCAs(s.current.Load().ca)
	if err != nil {
		return nil // a file brought by the operator may hold other things too
	}
	return cas
}

func parseCAs(text []byte) (cas []*x509.Certificate, err error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("CAs: %d octets, at most %d", len(text), maxPEM)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("CAs: a %s is among them", block.Type)
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CAs: %w", err)
		}
		if !ca.IsCA {
			return nil, fmt.Errorf("CAs: %s is none", ca.Subject)
		}
		cas = append(cas, ca)
	}
	if len(cas) == 0 {
		return nil, errors.New("CAs: none")
	}
	return cas, nil
}

// replace writes a file under another name and renames it into place.
func replace(name string, mode os.FileMode, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// Issued reports whether cert is of this CA.
func (ca *CA) Issued(cert *x509.Certificate) bool { return cert.CheckSignatureFrom(ca.cert) == nil }

// Fingerprint is that of the CA's certificate.
func (ca *CA) Fingerprint() Fingerprint { return FingerprintOf(ca.cert.Raw) }

// Sign answers a request of Request with a certificate (PEM) that says what old
// does, names, roles and length of life, for the new key. Who asks, and that old
// is the asker's and of a CA of this cluster, is for the caller to know.
func (ca *CA) Sign(request []byte, old *x509.Certificate, now time.Time) ([]byte, error) {
	req, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("request: node keys are ECDSA")
	}
	tmpl, err := ca.template(requestOf(old), now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key, ca.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// nextDir is the folder, in that of a CA, of the one that is to replace it.
const nextDir = "next"

// OpenNext opens the CA that is to replace the one in dir, and makes it if there
// is none.
func OpenNext(dir, cluster string, now time.Time) (*CA, error) {
	next := filepath.Join(dir, nextDir)
	if ca, err := OpenCA(next); !errors.Is(err, os.ErrNotExist) {
		return ca, err
	}
	// A key without a certificate is of one that was never used.
	if err := os.Remove(filepath.Join(next, CAKeyName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return InitCA(next, cluster, now)
}

// Promote makes the CA of OpenNext the one in dir. The old one is kept in a folder
// named after its end. Called again after it was cut off, it ends the work; without
// a next CA it does nothing.
func Promote(dir string, now time.Time) error {
	next := filepath.Join(dir, nextDir)
	ca, err := OpenCA(next)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if old, err := OpenCA(dir); err == nil && !old.cert.Equal(ca.cert) {
		kept := filepath.Join(dir, "until-"+now.UTC().Format("20060102-150405"))
		if err := os.MkdirAll(kept, 0o700); err != nil {
			return err
		}
		if err := copyCA(kept, dir); err != nil {
			return err
		}
	}
	if err := copyCA(dir, next); err != nil {
		return err
	}
	return os.RemoveAll(next)
}

// Promoting reports whether a Promote of dir was cut off.
func Promoting(dir string) bool {
	if _, err := OpenCA(filepath.Join(dir, nextDir)); err != nil {
		return false
	}
	key, err := os.ReadFile(filepath.Join(dir, CAKeyName))
	next, nerr := os.ReadFile(filepath.Join(dir, nextDir, CAKeyName))
	return err == nil && nerr == nil && bytes.Equal(key, next)
}

// copyCA copies key and certificate, in this order.
func copyCA(to, from string) error {
	for _, f := range []struct {
		name string
		mode os.FileMode
	}{{CAKeyName, 0o600}, {CACertName, 0o644}} {
		data, err := os.ReadFile(filepath.Join(from, f.name))
		if err != nil {
			return err
		}
		if err := replace(filepath.Join(to, f.name), f.mode, data); err != nil {
			return err
		}
	}
	return nil
}
