package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Role says what the holder of a certificate may do towards other nodes.
type Role string

// The roles. A relay usually holds both of its roles; a relay that only takes
// mail holds RelayMX and can deliver, and nothing else.
const (
	RelayMX    Role = "relay-mx"    // deliver by LMTP
	RelayProxy Role = "relay-proxy" // open IMAP and POP sessions for the user who logged in
	Backend    Role = "backend"     // raft, re-seeding
	Witness    Role = "witness"     // raft
	Admin      Role = "admin"       // admin API
)

// Roles lists every role.
var Roles = []Role{RelayMX, RelayProxy, Backend, Witness, Admin}

// scheme of the URI names.
const scheme = "postern"

// ErrIdentity marks a certificate that names no node of a cluster.
var ErrIdentity = errors.New("certificate names no node of a cluster")

// Identity is who a certificate says its holder is.
type Identity struct {
	Cluster string
	Node    string
	Roles   []Role
}

// Has reports whether id holds one of roles.
func (id Identity) Has(roles ...Role) bool {
	return slices.ContainsFunc(roles, func(r Role) bool { return slices.Contains(id.Roles, r) })
}

func (id Identity) uris() []*url.URL {
	uris := make([]*url.URL, len(id.Roles))
	for i, r := range id.Roles {
		uris[i] = &url.URL{Scheme: scheme, Host: id.Cluster, Path: "/" + string(r) + "/" + id.Node}
	}
	return uris
}

// check refuses names that would not survive the way through a URI, and roles
// that do not exist.
func (id Identity) check() error {
	if !validName(id.Cluster) {
		return fmt.Errorf("cluster name %q: want letters, digits, hyphens and dots", id.Cluster)
	}
	if !validName(id.Node) {
		return fmt.Errorf("node name %q: want letters, digits, hyphens and dots", id.Node)
	}
	if len(id.Roles) == 0 {
		return errors.New("no role given")
	}
	for _, r := range id.Roles {
		if !slices.Contains(Roles, r) {
			return fmt.Errorf("role %q does not exist, want one of %v", r, Roles)
		}
	}
	return nil
}

// validName accepts a DNS-like name in lower case of at most 63 octets.
func validName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case (c == '-' || c == '.') && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return true
}

// IdentityOf reads the identity from a certificate. It does not check who
// signed it.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var id Identity
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		role, node, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if !ok || !validName(node) || !validName(u.Host) {
			return Identity{}, fmt.Errorf("%w: bad name %q", ErrIdentity, u)
		}
		if len(id.Roles) > 0 && (id.Cluster != u.Host || id.Node != node) {
			return Identity{}, fmt.Errorf("%w: it names two nodes", ErrIdentity)
		}
		id.Cluster, id.Node = u.Host, node
		id.Roles = append(id.Roles, Role(role)) // a role of a newer version is kept and matches nothing
	}
	if len(id.Roles) == 0 {
		return Identity{}, ErrIdentity
	}
	return id, nil
}

// Peer tells who stands at the other end of a connection whose handshake a
// configuration of this package has accepted.
func Peer(cs *tls.ConnectionState) (Identity, error) {
	if cs == nil || !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return Identity{}, ErrIdentity
	}
	return IdentityOf(cs.PeerCertificates[0])
}
