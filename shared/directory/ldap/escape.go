package ldap

import (
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/internal/ber"
)

// This file is the only place of the module where filters and names are put
// together (RFC 4515 3, RFC 4514 2.4); a test reads the sources to keep it so.
// Every value goes through value, pair or rdn.

// value is v as a filter spells it.
func value(v string) string { return ldap.EscapeFilter(v) }

// equal is a filter item that tests one attribute for one value.
func equal(b *strings.Builder, attr, v string) {
	b.WriteByte('(')
	b.WriteString(attr)
	b.WriteByte('=')
	b.WriteString(value(v))
	b.WriteByte(')')
}

// anyOf is a filter that is true when one of attrs has one of values; with
// nothing to test it is the filter that is never true (RFC 4526).
func anyOf(b *strings.Builder, attrs, values []string) {
	b.WriteString("(|")
	for _, v := range values {
		for _, a := range attrs {
			equal(b, a, v)
		}
	}
	b.WriteByte(')')
}

// both is a filter that is true when both are. They are whole filters.
func both(a, b string) string { return "(&" + a + b + ")" }

// either is a filter that is true when one of two is. They are whole filters.
func either(a, b string) string { return "(|" + a + b + ")" }

// oneEqual is equal as a whole filter.
func oneEqual(attr, v string) string {
	var b strings.Builder
	equal(&b, attr, v)
	return b.String()
}

// anyEqual is anyOf as a whole filter.
func anyEqual(attrs, values []string) string {
	var b strings.Builder
	anyOf(&b, attrs, values)
	return b.String()
}

// ofClasses is a filter that is true for entries with all classes of one of
// the sets.
func ofClasses(sets ...[]string) string {
	var b strings.Builder
	b.WriteString("(|")
	for _, set := range sets {
		b.WriteString("(&")
		for _, c := range set {
			equal(&b, "objectClass", c)
		}
		b.WriteByte(')')
	}
	b.WriteByte(')')
	return b.String()
}

// The filters of what is asked most are made in BER, where nothing needs to be
// escaped (RFC 4511 4.5.1).
const (
	filterAnd     = 0xa0
	filterOr      = 0xa1
	filterEqual   = 0xa3
	filterPresent = 0x87
)

// everything is anything in BER.
var everything = func() []byte {
	var w ber.Encoder
	w.Octets(filterPresent, "objectClass")
	return w.B
}()

// owners is anyOf in BER.
func owners(attrs, values []string) []byte {
	var w ber.Encoder
	or := w.Begin(filterOr)
	for _, v := range values {
		for _, a := range attrs {
			equalBER(&w, a, v)
		}
	}
	w.End(or)
	return w.B
}

// members is either of two anyOf in BER.
func members(names, dns, attrs, addresses []string) []byte {
	var w ber.Encoder
	or := w.Begin(filterOr)
	w.B = append(w.B, owners(names, dns)...)
	w.B = append(w.B, owners(attrs, addresses)...)
	w.End(or)
	return w.B
}

// ownersWith is both in BER: attr has the value v, and filter is true.
func ownersWith(attr, v string, filter []byte) []byte {
	var w ber.Encoder
	and := w.Begin(filterAnd)
	equalBER(&w, attr, v)
	w.B = append(w.B, filter...)
	w.End(and)
	return w.B
}

func equalBER(w *ber.Encoder, attr, v string) {
	item := w.Begin(filterEqual)
	w.Octets(ber.TagOctets, attr)
	w.Octets(ber.TagOctets, v)
	w.End(item)
}

// dnValue is v as a name spells it: every octet that could mean something is
// written in hexadecimal.
func dnValue(v string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		c := v[i]
		if c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || (c == '-' || c == '.' || c == '_') && i > 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('\\')
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

// dcName is the node of a domain in the DC tree below root.
func dcName(domain, root string) string {
	var b strings.Builder
	for _, label := range strings.Split(domain, ".") {
		b.WriteString("dc=")
		b.WriteString(dnValue(label))
		b.WriteByte(',')
	}
	b.WriteString(root)
	return b.String()
}

// spelledBy is the domain that a node of the DC tree below root spells, "" when
// it is none.
func spelledBy(dn, root *ldap.DN) string {
	n := len(dn.RDNs) - len(root.RDNs)
	if n <= 0 || !root.AncestorOfFold(dn) {
		return ""
	}
	labels := make([]string, n)
	for i, rdn := range dn.RDNs[:n] {
		if len(rdn.Attributes) != 1 || !strings.EqualFold(rdn.Attributes[0].Type, "dc") {
			return ""
		}
		labels[i] = strings.ToLower(rdn.Attributes[0].Value)
	}
	return strings.Join(labels, ".")
}

// organizationFilter is the filter for the entry of domain $D that the schema's
// names lead to.
func organizationFilter(s *directory.Schema) template {
	t := template{{text: "(&"}, {text: oneEqual("objectClass", s.DomainClass)}, {text: "(|"}}
	for _, a := range []string{s.PreferredDomain, s.AssociatedDomain} {
		if a != "" {
			t = append(t, piece{text: "("}, piece{text: a}, piece{text: "="}, piece{name: "D"}, piece{text: ")"})
		}
	}
	return append(t, piece{text: "))"})
}
