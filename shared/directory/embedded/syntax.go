package embedded

import (
	"strings"

	"github.com/go-ldap/ldap/v3"
)

type syntax uint8

const (
	syntaxText   syntax = iota // case and runs of spaces do not matter
	syntaxDN                   // distinguishedNameMatch
	syntaxOctets               // octetStringMatch
)

// syntaxes of the attributes that are not text.
var syntaxes = map[string]syntax{
	"member": syntaxDN, "uniquemember": syntaxDN, "owner": syntaxDN, "seealso": syntaxDN, "manager": syntaxDN,
	"roleoccupant": syntaxDN, "aliasedobjectname": syntaxDN, "inetdomainbasedn": syntaxDN, "entrydn": syntaxDN,
	"memberof": syntaxDN, "creatorsname": syntaxDN, "modifiersname": syntaxDN, "mgmanmemberof": syntaxDN,
	"userpassword": syntaxOctets, "jpegphoto": syntaxOctets, "usercertificate": syntaxOctets,
	"usersmimecertificate": syntaxOctets, "userpkcs12": syntaxOctets,
}

func syntaxOf(attr string) syntax {
	if i := strings.IndexByte(attr, ';'); i >= 0 {
		attr = attr[:i]
	}
	return syntaxes[attr]
}

// normalValue is v in the form in which values of attr (lower case) are equal
// when they match.
func normalValue(attr, v string) string {
	switch syntaxOf(attr) {
	case syntaxDN:
		return normalDNOrFold(v)
	case syntaxOctets:
		return v
	}
	return foldSpaces(v)
}

// foldSpaces is the preparation of caseIgnoreMatch: lower case, no space at
// either end, runs of spaces as one.
func foldSpaces(v string) string {
	v = strings.ToLower(strings.Trim(v, " "))
	if !strings.Contains(v, "  ") {
		return v
	}
	return strings.Join(strings.FieldsFunc(v, func(r rune) bool { return r == ' ' }), " ")
}

// normalDN returns dn in the one spelling that equal names share. Values in
// names compare without case, as all naming attributes in use do.
func normalDN(dn string) (string, error) {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return "", err
	}
	if len(parsed.RDNs) > maxDepth {
		return "", errLimit
	}
	for _, rdn := range parsed.RDNs {
		for _, a := range rdn.Attributes {
			a.Type = strings.TrimPrefix(strings.ToLower(a.Type), "oid.")
			a.Value = foldSpaces(a.Value)
		}
	}
	return parsed.String(), nil
}

func normalDNOrFold(dn string) string {
	if n, err := normalDN(dn); err == nil {
		return n
	}
	return foldSpaces(dn)
}

// dnParts returns the (type in lower case, value) pairs of a name.
func dnParts(dn string) [][2]string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil {
		return nil
	}
	var out [][2]string
	for _, rdn := range parsed.RDNs {
		for _, a := range rdn.Attributes {
			out = append(out, [2]string{strings.ToLower(a.Type), a.Value})
		}
	}
	return out
}

// rdnParts returns the pairs of the first part of a name.
func rdnParts(dn string) [][2]string {
	parsed, err := ldap.ParseDN(dn)
	if err != nil || len(parsed.RDNs) == 0 {
		return nil
	}
	var out [][2]string
	for _, a := range parsed.RDNs[0].Attributes {
		out = append(out, [2]string{a.Type, a.Value})
	}
	return out
}

// splitDN cuts a name into its first part and the rest, as they are spelled.
func splitDN(dn string) (rdn, parent string) {
	for i := 0; i < len(dn); i++ {
		switch dn[i] {
		case '\\':
			i++
		case ',', ';':
			return strings.TrimSpace(dn[:i]), strings.TrimSpace(dn[i+1:])
		}
	}
	return strings.TrimSpace(dn), ""
}
