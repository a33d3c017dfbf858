package embedded

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"
)

// external binds as whom the other end is known to be without asking it (RFC
// 4422 A, RFC 4513 5.2.3): over a Unix socket the name that Config.Peers has
// for its user; over TLS the subject of the certificate that it showed and that
// Config.TLS verified, if that is the name of an entry or the root DN.
func (c *conn) external(req *request) error {
	name, err := c.outside()
	if err != nil {
		return err
	}
	norm, err := normalDN(name)
	if err != nil || norm == "" {
		return result(codeInvalidCredentials, "")
	}
	if req.creds != "" {
		// An authorization identity may only say the same.
		if want, err := normalDN(strings.TrimPrefix(req.creds, "dn:")); err != nil || want != norm {
			return result(codeInsufficientAccess, "not authorized to assume the identity")
		}
	}
	c.who, c.norm, c.root = name, norm, norm == c.s.rootDN
	return nil
}

// outside is the name of the other end.
func (c *conn) outside() (string, error) {
	if uid, ok := peerUID(c.nc); ok {
		name, known := c.s.cfg.Peers[uid]
		if !known {
			return "", result(codeInvalidCredentials, "")
		}
		return name, nil
	}
	cert := c.certificate()
	if cert == nil {
		return "", result(codeInappropriateAuth, "EXTERNAL needs a Unix socket, or a certificate of the client")
	}
	name, err := subject(cert)
	if err != nil {
		return "", result(codeInvalidCredentials, "")
	}
	norm, err := normalDN(name)
	switch {
	case err != nil || norm == "":
		return "", result(codeInvalidCredentials, "")
	case norm == c.s.rootDN:
		return c.s.cfg.RootDN, nil
	}
	c.s.tree.mu.RLock()
	defer c.s.tree.mu.RUnlock()
	n := c.s.tree.nodes[norm]
	if n == nil {
		return "", result(codeInvalidCredentials, "")
	}
	return n.obj.dn, nil
}

// certificate is what the client has shown, nil unless it was verified.
func (c *conn) certificate() *x509.Certificate {
	tc, ok := c.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	cs := tc.ConnectionState()
	if !cs.HandshakeComplete || len(cs.VerifiedChains) == 0 || len(cs.VerifiedChains[0]) == 0 {
		return nil
	}
	return cs.VerifiedChains[0][0]
}

// subjectTypes are the short names of attributes in a subject (RFC 4514 3).
var subjectTypes = map[string]string{
	"2.5.4.3": "cn", "2.5.4.4": "sn", "2.5.4.5": "serialNumber", "2.5.4.6": "c", "2.5.4.7": "l", "2.5.4.8": "st",
	"2.5.4.9": "street", "2.5.4.10": "o", "2.5.4.11": "ou", "2.5.4.12": "title", "2.5.4.42": "givenName",
	"0.9.2342.19200300.100.1.1": "uid", "0.9.2342.19200300.100.1.25": "dc", "1.2.840.113549.1.9.1": "email",
}

// subject is the subject of a certificate as a distinguished name.
func subject(cert *x509.Certificate) (string, error) {
	var seq pkix.RDNSequence
	rest, err := asn1.Unmarshal(cert.RawSubject, &seq)
	if err == nil && len(rest) > 0 {
		err = errors.New("something after it")
	}
	if err != nil {
		return "", fmt.Errorf("subject of certificate: %w", err)
	}
	var dn ldap.DN
	for i := len(seq) - 1; i >= 0; i-- { // the last part comes first (RFC 4514 2.1)
		if len(seq[i]) == 0 {
			return "", errors.New("subject of certificate: a part without attributes")
		}
		rdn := &ldap.RelativeDN{}
		for _, a := range seq[i] {
			value, ok := a.Value.(string)
			if !ok {
				return "", fmt.Errorf("subject of certificate: %s is no text", a.Type)
			}
			name := a.Type.String()
			if short, ok := subjectTypes[name]; ok {
				name = short
			}
			rdn.Attributes = append(rdn.Attributes, &ldap.AttributeTypeAndValue{Type: name, Value: value})
		}
		dn.RDNs = append(dn.RDNs, rdn)
	}
	return dn.String(), nil
}
