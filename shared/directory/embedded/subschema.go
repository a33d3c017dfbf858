package embedded

import (
	"strings"
	"sync"

	"github.com/postern-mail/postern/shared/directory/schema"
)

// subschemaDN is the entry that tells browsers of attributes and classes (RFC
// 4512 4.2). The server does not enforce them.
const subschemaDN = "cn=Subschema"

// subschema is that entry. Its definitions are operational attributes.
var subschema = sync.OnceValue(func() *object {
	o := &object{dn: subschemaDN, attrs: []attribute{
		{name: "objectClass", lower: "objectclass", values: []string{"top", "subentry", "subschema", "extensibleObject"}},
		{name: "cn", lower: "cn", values: []string{"Subschema"}},
	}}
	types, classes := schema.Definitions()
	for _, a := range []struct {
		name   string
		values []string
	}{
		{"attributeTypes", types},
		{"objectClasses", classes},
		{"ldapSyntaxes", schema.Syntaxes()},
		{"matchingRules", schema.MatchingRules()},
	} {
		o.attrs = append(o.attrs, attribute{name: a.name, lower: strings.ToLower(a.name), values: a.values, oper: true})
	}
	return o
})

func isSubschema(dn string) bool {
	norm, err := normalDN(dn)
	return err == nil && norm == "cn=subschema"
}
