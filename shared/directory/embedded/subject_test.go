package embedded

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// FuzzSubject: whatever a subject holds, its name has as many parts, so that a
// value never becomes a part of the name.
func FuzzSubject(f *testing.F) {
	for _, n := range []pkix.Name{{CommonName: "a,o=b", Organization: []string{"isp"}}, {}, {CommonName: "#é\x00+\\ "}} {
		raw, err := asn1.Marshal(n.ToRDNSequence())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		name, err := subject(&x509.Certificate{RawSubject: raw})
		if err != nil {
			return
		}
		var seq pkix.RDNSequence
		if _, err := asn1.Unmarshal(raw, &seq); err != nil {
			t.Fatal(err)
		}
		parsed, err := ldap.ParseDN(name)
		if err == nil && len(parsed.RDNs) != len(seq) {
			t.Errorf("%x has %d parts and is %q", raw, len(seq), name)
		}
	})
}
