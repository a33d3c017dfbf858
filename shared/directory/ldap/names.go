package ldap

import (
	"errors"
	"fmt"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// Schema is the schema that the directory is read by.
func (d *Directory) Schema() *directory.Schema { return &d.cfg.Schema }

// Inside reports as directory.ErrURL a name that is not at or below one of the
// bases.
func (d *Directory) Inside(dn string) error { return d.inside(dn) }

// FoldName is a distinguished name in the form that names compare equal in:
// parts in lower case, without spaces around them, special characters written
// in one way.
func FoldName(dn string) (string, error) {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return "", err
	}
	return strings.ToLower(parsed.String()), nil
}

// Child is the name of an entry below parent that attr=value names.
func Child(attr, value, parent string) (string, error) {
	if attr == "" || value == "" {
		return "", errors.New("a name needs a value")
	}
	rdn := ldap.DN{RDNs: []*ldap.RelativeDN{{Attributes: []*ldap.AttributeTypeAndValue{{Type: attr, Value: value}}}}}
	dn := rdn.String() + "," + parent
	if _, err := ldap.ParseDN(dn); err != nil {
		return "", err
	}
	return dn, nil
}

// First is the attribute and value that the first part of a name consists of;
// ok is false when it has several.
func First(dn string) (attr, value string, ok bool) {
	parsed, err := ldap.ParseDN(dn)
	if err != nil || len(parsed.RDNs) == 0 || len(parsed.RDNs[0].Attributes) != 1 {
		return "", "", false
	}
	a := parsed.RDNs[0].Attributes[0]
	return a.Type, a.Value, true
}

// Parent is the name of the entry that an entry is below, "" for none.
func Parent(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil || len(parsed.RDNs) < 2 {
		return ""
	}
	return (&ldap.DN{RDNs: parsed.RDNs[1:]}).String()
}

// Moved is what the name dn becomes when the entry from is called to; ok is
// false when it stays as it is.
func Moved(dn, from, to string) (now string, ok bool) {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return dn, false
	}
	old, err := ldap.ParseDN(from)
	switch {
	case err != nil || !old.EqualFold(parsed) && !old.AncestorOfFold(parsed):
		return dn, false
	case len(old.RDNs) == len(parsed.RDNs):
		return to, true
	}
	return (&ldap.DN{RDNs: parsed.RDNs[:len(parsed.RDNs)-len(old.RDNs)]}).String() + "," + to, true
}

// InTree reports whether dn is a node of the DC tree.
func (d *Directory) InTree(dn string) bool {
	if d.dcRoot == nil {
		return false
	}
	parsed, err := ldap.ParseDN(dn)
	return err == nil && d.dcRoot.AncestorOfFold(parsed)
}

// Node is the name of the node of the DC tree that stands for a domain.
func (d *Directory) Node(domain string) (string, error) {
	if d.dcRoot == nil {
		return "", fmt.Errorf("%w: no DC tree", directory.ErrMisconfigured)
	}
	dn := dcName(domain, d.cfg.DCRoot)
	if d.Spelled(dn) != domain || strings.Count(domain, ".") >= maxLabels {
		return "", fmt.Errorf("%w: domain %q", directory.ErrURL, domain)
	}
	return dn, nil
}

// Spelled is the domain that a node of the DC tree stands for, "" for none.
func (d *Directory) Spelled(dn string) string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil || d.dcRoot == nil {
		return ""
	}
	return spelledBy(parsed, d.dcRoot)
}

// DCRoot is the top of the DC tree, "" without one.
func (d *Directory) DCRoot() string { return d.cfg.DCRoot }

// Configured is the base of a domain that the configuration gives; ok is false
// for others.
func (d *Directory) Configured(domain string) (base string, ok bool) {
	sd := d.static[domain]
	if sd == nil {
		return "", false
	}
	return sd.Base, true
}

// ConfiguredBases are the bases of the domains that the configuration gives.
func (d *Directory) ConfiguredBases() []string { return domainBases(d.cfg.Domains) }

// Bases are the names that everything is below, each once.
func (d *Directory) Bases() []string {
	var out []string
	for i, b := range d.bases {
		inner := false
		for j, other := range d.bases {
			inner = inner || other.AncestorOfFold(b) || j < i && other.EqualFold(b)
		}
		if !inner {
			out = append(out, b.String())
		}
	}
	return out
}
