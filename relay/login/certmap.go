package login

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// subjectNames are the attributes of a certificate's subject that a map may
// name, by their object identifiers.
var subjectNames = map[string]string{
	"CN": "2.5.4.3", "SN": "2.5.4.4", "SERIALNUMBER": "2.5.4.5", "O": "2.5.4.10", "OU": "2.5.4.11", "GIVENNAME": "2.5.4.42",
	"UID": "0.9.2342.19200300.100.1.1", "DC": "0.9.2342.19200300.100.1.25", "E": "1.2.840.113549.1.9.1", "EMAILADDRESS": "1.2.840.113549.1.9.1",
}

const maxCertMap = 1024

// certLogin is the login that a domain's inetDomainCertMap makes of a
// certificate: text with %U and %V for the two parts of the certificate's mail
// address, %[NAME] for an attribute of its subject that it has once, and %% for
// a percent sign.
func certLogin(text string, leaf *x509.Certificate, address mail.Address) (string, error) {
	if len(text) > maxCertMap {
		return "", fmt.Errorf("map of %d octets", len(text))
	}
	var out strings.Builder
	for text != "" {
		before, after, found := strings.Cut(text, "%")
		out.WriteString(before)
		if !found {
			break
		}
		value := ""
		switch {
		case strings.HasPrefix(after, "%"):
			value, text = "%", after[1:]
		case strings.HasPrefix(after, "U"):
			value, text = address.Local, after[1:]
		case strings.HasPrefix(after, "V"):
			value, text = address.Domain, after[1:]
		case strings.HasPrefix(after, "["):
			name, rest, ok := strings.Cut(after[1:], "]")
			oid := subjectNames[strings.ToUpper(name)]
			if !ok || oid == "" {
				return "", fmt.Errorf("map names no attribute of a subject: %q", after)
			}
			value, text = subject(leaf, oid), rest
		default:
			return "", fmt.Errorf("map cannot be read at %%%s", after)
		}
		if value == "" {
			return "", fmt.Errorf("the certificate has nothing, or several values, for a part of the map before %q", text)
		}
		out.WriteString(value)
	}
	return out.String(), nil
}

// subject is the only value of an attribute of a subject, "" without one.
func subject(leaf *x509.Certificate, oid string) string {
	found := ""
	for _, n := range leaf.Subject.Names {
		if n.Type.String() != oid {
			continue
		}
		v, ok := n.Value.(string)
		if !ok || found != "" {
			return ""
		}
		found = v
	}
	return found
}

// holder is the user whose certificate it is: by the map of the domain that the
// certificate's mail address is in, or without an address the identity to act
// as; without a map by the mail address. A domain's map leads to nobody outside
// of it.
func (c *Checker) holder(ctx context.Context, leaf *x509.Certificate, authz string) (*directory.Entry, error) {
	var address mail.Address
	name := authz
	if len(leaf.EmailAddresses) > 0 {
		name = leaf.EmailAddresses[0]
	}
	if a, err := mail.ParseAddress(name, true); err == nil {
		address = a
	}
	domain, err := directory.NormalizeDomain(address.Domain)
	if err != nil || domain == "" {
		return nil, fmt.Errorf("%w: the certificate names no mail address", errRefused)
	}
	if len(leaf.EmailAddresses) == 0 {
		address.Local = "" // that is what is asked for, not what is proven
	}
	d, err := c.Directory.Domain(ctx, domain)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrAmbiguous):
		return nil, fmt.Errorf("%w: domain of the certificate's address: %w", errRefused, err)
	case err != nil:
		return nil, err
	case d.CertMap == "" && len(leaf.EmailAddresses) == 0:
		return nil, fmt.Errorf("%w: the certificate names no mail address", errRefused)
	case d.CertMap == "":
		return c.find(ctx, name)
	}
	address.Domain = domain
	user, err := certLogin(d.CertMap, leaf, address)
	if err != nil {
		return nil, fmt.Errorf("%w: inetDomainCertMap of %s: %w", errRefused, d.Name, err)
	}
	e, err := c.find(ctx, user)
	if err != nil {
		return nil, err
	}
	if e.Domain == nil || e.Domain.Name != d.Name {
		return nil, fmt.Errorf("%w: inetDomainCertMap of %s leads to %s, which is not in that domain", errRefused, d.Name, e.DN)
	}
	return e, nil
}
