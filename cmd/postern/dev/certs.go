package dev

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// clusterName is the name of every development cluster in its certificates.
const clusterName = "dev"

// Files and folders of a cluster.
const (
	caDir     = "ca"
	adminDir  = "admin"
	binDir    = "bin"
	gossipKey = "gossip.key"
)

// directoryCert is the certificate of our own directory, without ".pem".
var directoryCert = filepath.Join("directory", "tls")

// loopback are the addresses that a cluster listens on.
var loopback = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}

// renewBefore is the rest of a certificate's life at which a start renews it.
const renewBefore = 30 * 24 * time.Hour

// secrets makes the CA, the certificates and the gossip key that are missing or
// end soon.
func (l *layout) secrets(dir string, now time.Time) error {
	ca, err := tlsconf.OpenCA(filepath.Join(dir, caDir))
	if errors.Is(err, fs.ErrNotExist) {
		ca, err = tlsconf.InitCA(filepath.Join(dir, caDir), clusterName, now)
	}
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	issue := func(prefix string, req tlsconf.Request) error {
		prefix = filepath.Join(dir, prefix)
		if cert, err := tlsconf.ReadCert(prefix + ".pem"); err == nil && cert.NotAfter.Sub(now) > renewBefore && ca.Issued(cert) {
			return nil
		}
		if _, err := ca.Issue(prefix, req, now); err != nil {
			return fmt.Errorf("certificate of %s: %w", req.Node, err)
		}
		return nil
	}
	roles := map[string][]tlsconf.Role{
		relayTier:   {tlsconf.RelayMX, tlsconf.RelayProxy},
		backendTier: {tlsconf.Backend},
		witnessTier: {tlsconf.Witness},
	}
	for _, n := range l.Nodes {
		if err := issue(filepath.Join(n.Name, "tls", "node"), tlsconf.Request{Node: n.Name, Roles: roles[n.Tier]}); err != nil {
			return err
		}
		if n.Tier != relayTier {
			continue
		}
		public := tlsconf.Request{
			Node: "localhost", IPs: loopback,
			DNSNames: []string{"localhost", l.hostname(n), l.Domains[0]},
		}
		if err := issue(filepath.Join(n.Name, "tls", "public"), public); err != nil {
			return err
		}
	}
	if !l.Settings.Outside {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(directoryCert)), 0o700); err != nil {
			return err
		}
		if err := issue(directoryCert, tlsconf.Request{Node: "localhost", IPs: loopback, DNSNames: []string{"localhost"}}); err != nil {
			return err
		}
	}
	if err := issue(filepath.Join(adminDir, "admin"), tlsconf.Request{Node: "operator", Roles: []tlsconf.Role{tlsconf.Admin}}); err != nil {
		return err
	}
	if err := gossipSecret(filepath.Join(dir, gossipKey)); err != nil {
		return err
	}
	for _, n := range l.Nodes {
		if err := own(nodeFile(dir, n, tlsconf.CACertName), filepath.Join(dir, caDir, tlsconf.CACertName)); err != nil {
			return err
		}
		if err := own(nodeFile(dir, n, gossipKey), filepath.Join(dir, gossipKey)); err != nil {
			return err
		}
	}
	return nil
}

// own gives a node its copy of a file, unless it has one, which may have been
// changed since.
func own(name, from string) error {
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return clusterfile.Replace(name, data, 0o600)
}

// gossipSecret makes the key of the membership protocol unless it exists.
func gossipSecret(name string) error {
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // never fails
	return os.WriteFile(name, []byte(base64.StdEncoding.EncodeToString(key[:])+"\n"), 0o600)
}

// hostname is the name of a relay in mail.
func (l *layout) hostname(n *node) string { return n.Name + "." + l.Domains[0] }
