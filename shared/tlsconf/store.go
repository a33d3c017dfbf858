package tlsconf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Files names where a node's material lies, in PEM. CertFile holds the leaf
// first, then intermediates if there are any. CAFile may hold several CAs while
// one is being replaced.
type Files struct {
	CertFile string
	KeyFile  string
	CAFile   string // not used by Public
}

// Fingerprint is the SHA-256 of a certificate in DER.
type Fingerprint [sha256.Size]byte

// FingerprintOf computes the fingerprint of a certificate in DER.
func FingerprintOf(der []byte) Fingerprint { return sha256.Sum256(der) }

// material is one set of files that fits together. It is never changed.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
	ca    []byte // PEM of roots
	id    Identity
}

// Store holds a node's certificate for the other nodes and the CA it trusts.
// Any number of goroutines may use it.
type Store struct {
	files    Files
	now      func() time.Time
	current  atomic.Pointer[material]
	stamp    atomic.Pointer[string]
	sessions sessions
	change   sync.Mutex // one change of the files at a time
}

// sessions is a cache that is emptied by renew. A peer resumes a session with the
// certificates of its beginning, and refuses it for good once it does not trust
// their CA any more.
type sessions struct {
	current atomic.Pointer[tls.ClientSessionCache]
}

func (s *sessions) renew() {
	c := tls.NewLRUClientSessionCache(sessionCacheSize)
	s.current.Store(&c)
}

func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	return (*s.current.Load()).Get(key)
}
func (s *sessions) Put(key string, cs *tls.ClientSessionState) { (*s.current.Load()).Put(key, cs) }

// sessionCacheSize is the number of peers whose sessions are kept for
// resumption. A relay talks to every node of every pair.
const sessionCacheSize = 1024

// Load reads the files. The certificate must be signed by a CA of CAFile and
// name this node.
func Load(files Files) (*Store, error) {
	s := &Store{files: files, now: time.Now}
	if err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again. On an error the old material stays in use.
func (s *Store) Reload() error {
	stamp := fileStamp(s.files.CertFile, s.files.KeyFile, s.files.CAFile)
	m, err := s.read()
	if err != nil {
		return err
	}
	if old := s.current.Load(); old != nil && (old.id.Node != m.id.Node || old.id.Cluster != m.id.Cluster) {
		return fmt.Errorf("%s: it is for %s of cluster %s, this node is %s of %s", s.files.CertFile,
			m.id.Node, m.id.Cluster, old.id.Node, old.id.Cluster)
	}
	s.current.Store(m)
	s.sessions.renew()
	s.stamp.Store(&stamp)
	return nil
}

func (s *Store) read() (*material, error) {
	cert, err := s.loadOwn()
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(s.files.CAFile)
	if err != nil {
		return nil, fmt.Errorf("CA of the cluster: %w", err)
	}
	m := &material{cert: cert, roots: x509.NewCertPool(), ca: pem}
	if !m.roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA of the cluster: no certificate in %s", s.files.CAFile)
	}
	if m.id, err = verifyChain(m.roots, chainOf(cert), s.now()); err != nil {
		return nil, fmt.Errorf("%s: %w", s.files.CertFile, err)
	}
	return m, nil
}

func loadPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return cert, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	return cert, nil
}

func chainOf(cert tls.Certificate) []*x509.Certificate {
	chain := make([]*x509.Certificate, 0, len(cert.Certificate))
	for _, der := range cert.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	return chain
}

// verifyChain checks that chain ends in roots at the time now and returns whom
// its leaf names.
func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, errors.New("no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:       roots,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if len(chain) > 1 {
		opts.Intermediates = x509.NewCertPool()
		for _, c := range chain[1:] {
			opts.Intermediates.AddCert(c)
		}
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return Identity{}, err
	}
	return IdentityOf(chain[0])
}

// fileStamp describes the state of files in a form that changes with them.
func fileStamp(files ...string) string {
	var stamp []byte
	for _, name := range files {
		var fi fs.FileInfo
		if name != "" {
			fi, _ = os.Stat(name)
		}
		if fi == nil {
			stamp = append(stamp, '-')
			continue
		}
		stamp = fmt.Appendf(stamp, "%d.%d;", fi.ModTime().UnixNano(), fi.Size())
	}
	return string(stamp)
}

// Watch looks at the files every interval until ctx ends and reads them when
// they have changed. A set that cannot be used is logged, once for each state
// of the files.
func (s *Store) Watch(ctx context.Context, interval time.Duration, log *slog.Logger) {
	watch(ctx, interval, log, &s.stamp, []string{s.files.CertFile, s.files.KeyFile, s.files.CAFile}, s.Reload)
}

func watch(ctx context.Context, interval time.Duration, log *slog.Logger, stamp *atomic.Pointer[string], files []string, reload func() error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := fileStamp(files...)
		if now == *stamp.Load() {
			continue
		}
		if err := reload(); err != nil {
			log.Error("certificate not reloaded, the old one stays in use", "err", err)
			stamp.Store(&now)
			continue
		}
		log.Info("certificate reloaded", "file", files[0])
	}
}

// Identity returns who this node is.
func (s *Store) Identity() Identity { return s.current.Load().id }

// NotAfter is when this node's certificate ends.
func (s *Store) NotAfter() time.Time {
	leaf, err := x509.ParseCertificate(s.current.Load().cert.Certificate[0])
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// Server returns the configuration of a listener that only peers with one of
// roles may speak to. It follows every Reload: a session that began with another
// certificate is not resumed, so that a peer sees the one of now, and when it
// has ended.
func (s *Store) Server(roles ...Role) *tls.Config {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.current.Load().cert, nil
		},
		// The chain is checked by VerifyConnection, which unlike the check of
		// crypto/tls uses the CA of now and looks at resumed sessions too.
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error { return s.verify(&cs, "", roles) },
	}
	conf.WrapSession = func(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
		state.Extra = append(state.Extra, s.ticketMark())
		return conf.EncryptTicket(cs, state)
	}
	conf.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		state, err := conf.DecryptTicket(ticket, cs)
		if state == nil || err != nil {
			return nil, err
		}
		mark := s.ticketMark()
		if !slices.ContainsFunc(state.Extra, func(b []byte) bool { return bytes.Equal(b, mark) }) {
			return nil, nil
		}
		return state, nil
	}
	return conf
}

// ticketMark tells in a session's ticket which certificate it began with.
func (s *Store) ticketMark() []byte {
	fp := FingerprintOf(s.current.Load().cert.Certificate[0])
	return append([]byte("postern certificate "), fp[:]...)
}

// Client returns the configuration for a connection to node, which must hold
// one of roles. An empty node stands for any. Sessions are resumed between
// connections to the same node. It follows every Reload.
func (s *Store) Client(node string, roles ...Role) *tls.Config {
	name := node
	if name == "" {
		name = "any"
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: name, // the key of the session cache; not a host name
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.current.Load().cert, nil
		},
		// The peer is a node of the cluster and not a host of the Internet:
		// VerifyConnection checks chain, cluster, role and node.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return s.verify(&cs, node, roles) },
		ClientSessionCache: &s.sessions,
	}
}

func (s *Store) verify(cs *tls.ConnectionState, node string, roles []Role) error {
	m := s.current.Load()
	id, err := verifyChain(m.roots, cs.PeerCertificates, s.now())
	switch {
	case err != nil:
		return fmt.Errorf("peer refused: %w", err)
	case id.Cluster != m.id.Cluster:
		return fmt.Errorf("peer refused: it belongs to cluster %q", id.Cluster)
	case !id.Has(roles...):
		return fmt.Errorf("peer refused: %s holds %v, wanted %v", id.Node, id.Roles, roles)
	case node != "" && id.Node != node:
		return fmt.Errorf("peer refused: it is %s, wanted %s", id.Node, node)
	}
	return nil
}

// Chain returns this node's certificates in DER, leaf first.
func (s *Store) Chain() [][]byte { return s.current.Load().cert.Certificate }

// Sign signs msg with this node's key, for the purpose named by label, so that
// a signature made for one purpose is worth nothing for another. fp names the
// certificate whose key was used.
func (s *Store) Sign(label string, msg []byte) (fp Fingerprint, sig []byte, err error) {
	cert := s.current.Load().cert
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return fp, nil, errors.New("tlsconf: key cannot sign")
	}
	if _, ok := key.Public().(*ecdsa.PublicKey); !ok {
		return fp, nil, errors.New("tlsconf: node keys are ECDSA")
	}
	sum := digest(label, msg)
	sig, err = key.Sign(nil, sum[:], crypto.SHA256) // nil: the deterministic nonce of RFC 6979
	if err != nil {
		return fp, nil, fmt.Errorf("tlsconf: sign: %w", err)
	}
	return FingerprintOf(cert.Certificate[0]), sig, nil
}

func digest(label string, msg []byte) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "postern %d:%s", len(label), label)
	h.Write(msg)
	return [sha256.Size]byte(h.Sum(nil))
}

// Signer is the certificate of another node, accepted by VerifySigner.
type Signer struct {
	Identity
	NotAfter time.Time
	key      *ecdsa.PublicKey
}

// VerifySigner checks a chain in DER, leaf first, against the CA and cluster of
// this node.
func (s *Store) VerifySigner(chain [][]byte) (*Signer, error) {
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs[i] = c
	}
	m := s.current.Load()
	id, err := verifyChain(m.roots, certs, s.now())
	if err != nil {
		return nil, err
	}
	if id.Cluster != m.id.Cluster {
		return nil, fmt.Errorf("certificate of cluster %q", id.Cluster)
	}
	key, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("tlsconf: node keys are ECDSA")
	}
	return &Signer{Identity: id, NotAfter: certs[0].NotAfter, key: key}, nil
}

// Verify reports whether sig is the signer's signature of msg under label.
func (p *Signer) Verify(label string, msg, sig []byte) bool {
	sum := digest(label, msg)
	return ecdsa.VerifyASN1(p.key, sum[:], sig)
}
