/*
Package schema has the definitions of the Sun, iPlanet and Oracle messaging
attributes and object classes, and of what the standards define and mail uses.

postern.schema is the one source, in the syntax of slapd.conf. OpenLDAP servers
include it after core, cosine, inetorgperson, misc and dyngroup, which have what
core.schema has; or they load the same as LDIF into cn=config. Package embedded
tells browsers of both files. The files in deploy/openldap are made from here,
and a test compares them.

The numbers are from OpenLDAP's experimental arc: nothing on the wire or on
disk depends on them.
*/
package schema

import (
	_ "embed"
	"slices"
	"strings"
)

// OpenLDAP is the text of postern.schema.
//
//go:embed postern.schema
var OpenLDAP string

//go:embed core.schema
var core string

// Definitions are the attribute types and object classes of both files, in the
// syntax of RFC 4512 4.1.
func Definitions() (attributeTypes, objectClasses []string) {
	for _, text := range []string{core, OpenLDAP} {
		types, classes := parse(text)
		attributeTypes, objectClasses = append(attributeTypes, types...), append(objectClasses, classes...)
	}
	return attributeTypes, objectClasses
}

// parse takes the definitions out of the text of a schema file: each begins at
// the left margin, with its keyword.
func parse(text string) (types, classes []string) {
	var keyword string
	var words []string
	flush := func() {
		switch keyword {
		case "attributetype":
			types = append(types, strings.Join(words, " "))
		case "objectclass":
			classes = append(classes, strings.Join(words, " "))
		}
		keyword, words = "", nil
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) == 0 {
			flush()
			continue
		}
		if line[0] != ' ' && line[0] != '\t' {
			flush()
			keyword, fields = strings.ToLower(fields[0]), fields[1:]
		}
		words = append(words, fields...)
	}
	flush()
	return types, classes
}

// LDIF is postern.schema as an entry of OpenLDAP's cn=config.
func LDIF() string {
	var b strings.Builder
	b.WriteString("# Made from postern.schema. Load with: ldapadd -Y EXTERNAL -H ldapi:/// -f postern.ldif\n")
	b.WriteString("dn: cn=postern,cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: postern\n")
	types, classes := parse(OpenLDAP)
	write := func(name string, list []string) {
		for _, def := range list {
			line := name + ": " + def
			for len(line) > 76 {
				b.WriteString(line[:76] + "\n")
				line = " " + line[76:]
			}
			b.WriteString(line + "\n")
		}
	}
	write("olcAttributeTypes", types)
	write("olcObjectClasses", classes)
	return b.String()
}

// after returns the word that follows each keyword in the definitions.
func after(keyword string) []string {
	types, _ := Definitions()
	var out []string
	for _, def := range types {
		words := strings.Fields(def)
		if i := slices.Index(words, keyword); i >= 0 && i+1 < len(words) {
			out = append(out, words[i+1])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Syntaxes are the syntaxes that the definitions name.
func Syntaxes() []string {
	var out []string
	for _, oid := range after("SYNTAX") {
		out = append(out, "( "+oid+" )")
	}
	return out
}

// matching are the numbers and syntaxes of the matching rules in use (RFC 4517
// 4.2).
var matching = map[string][2]string{
	"objectIdentifierMatch":               {"2.5.13.0", "38"},
	"distinguishedNameMatch":              {"2.5.13.1", "12"},
	"caseIgnoreMatch":                     {"2.5.13.2", "15"},
	"caseIgnoreSubstringsMatch":           {"2.5.13.4", "58"},
	"caseExactMatch":                      {"2.5.13.5", "15"},
	"caseExactOrderingMatch":              {"2.5.13.6", "15"},
	"caseExactSubstringsMatch":            {"2.5.13.7", "58"},
	"caseIgnoreListMatch":                 {"2.5.13.11", "41"},
	"booleanMatch":                        {"2.5.13.13", "7"},
	"integerMatch":                        {"2.5.13.14", "27"},
	"octetStringMatch":                    {"2.5.13.17", "40"},
	"telephoneNumberMatch":                {"2.5.13.20", "50"},
	"telephoneNumberSubstringsMatch":      {"2.5.13.21", "58"},
	"uniqueMemberMatch":                   {"2.5.13.23", "34"},
	"generalizedTimeMatch":                {"2.5.13.27", "24"},
	"generalizedTimeOrderingMatch":        {"2.5.13.28", "24"},
	"objectIdentifierFirstComponentMatch": {"2.5.13.30", "38"},
	"certificateExactMatch":               {"2.5.13.34", "8"},
	"caseExactIA5Match":                   {"1.3.6.1.4.1.1466.109.114.1", "26"},
	"caseIgnoreIA5Match":                  {"1.3.6.1.4.1.1466.109.114.2", "26"},
	"caseIgnoreIA5SubstringsMatch":        {"1.3.6.1.4.1.1466.109.114.3", "58"},
}

// MatchingRules are the matching rules that the definitions name.
func MatchingRules() []string {
	var out []string
	for _, name := range slices.Concat(after("EQUALITY"), after("ORDERING"), after("SUBSTR")) {
		if m, ok := matching[name]; ok {
			out = append(out, "( "+m[0]+" NAME '"+name+"' SYNTAX 1.3.6.1.4.1.1466.115.121.1."+m[1]+" )")
		}
	}
	return out
}
