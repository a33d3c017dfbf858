package milter

import (
	"cmp"
	"crypto/tls"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
)

// defaultMacros are sent to a filter that did not ask for others: those of
// Postfix, and the client, which many filters look for.
var defaultMacros = [stages][]string{
	stageConnect: {"j", "{daemon_name}", "{daemon_addr}", "{daemon_port}", "v", "_", "{client_addr}", "{client_name}", "{client_port}", "{client_ptr}"},
	stageHelo:    {"{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}"},
	stageMail:    {"i", "{auth_type}", "{auth_authen}", "{mail_addr}", "{mail_host}", "{mail_mailer}"},
	stageRcpt:    {"i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"},
	stageData:    {"i"},
	stageEOM:     {"i"},
	stageEOH:     {"i"},
}

// maxMacros bounds the names that a filter may ask for at a stage.
const maxMacros = 256

// values are the macros that are known. One without a value is not sent.
type values map[string]string

func (v values) set(name, value string) {
	if value == "" {
		delete(v, name)
		return
	}
	v[name] = printable(value)
}

// get takes a name with its braces or without, since filters write both.
func (v values) get(name string) (value string, ok bool) {
	if value, ok = v[name]; ok {
		return value, true
	}
	if strings.HasPrefix(name, "{") {
		value, ok = v[strings.Trim(name, "{}")]
	} else {
		value, ok = v["{"+name+"}"]
	}
	return value, ok
}

// append appends the names and values of a stage.
func (v values) append(dst []byte, names []string) []byte {
	for _, name := range names {
		if value, ok := v.get(name); ok {
			dst = append(append(dst, name...), 0)
			dst = append(append(dst, value...), 0)
		}
	}
	return dst
}

// connection sets what stands for the whole session, as in Postfix. host is the name
// that the client's address has, verified that the name has the address, too.
func (v values) connection(c *policy.Client, own, host string, verified bool) {
	v.set("j", own)
	v.set("v", "Postern")
	v.set("{daemon_name}", c.Service)
	if c.Service == "" {
		v.set("{daemon_name}", own)
	}
	if c.Local.IsValid() {
		v.set("{daemon_addr}", address(c.Local.Addr()))
		v.set("{daemon_port}", strconv.Itoa(int(c.Local.Port())))
	}
	if !c.Remote.IsValid() {
		return
	}
	addr := address(c.Remote.Addr())
	ptr, name, from := "unknown", "unknown", "unknown ["+addr+"]"
	switch {
	case host != "" && verified:
		ptr, name, from = host, host, host+" ["+addr+"]"
	case host != "":
		ptr, from = host, host+" ["+addr+"] (may be forged)"
	}
	v.set("_", from)
	v.set("{client_name}", name)
	v.set("{client_ptr}", ptr)
	v.set("{client_port}", strconv.Itoa(int(c.Remote.Port())))
	if strings.Contains(addr, ":") {
		addr = "IPv6:" + addr
	}
	v.set("{client_addr}", addr)
}

// address prints an address as it is in an event.
func address(a netip.Addr) string { return a.Unmap().WithZone("").String() }

// hello sets what is known of TLS.
func (v values) hello(c *policy.Client) {
	for _, name := range defaultMacros[stageHelo] {
		v.set(name, "")
	}
	if c.TLS == nil {
		return
	}
	v.set("{tls_version}", strings.Replace(tls.VersionName(c.TLS.Version), "TLS ", "TLSv", 1))
	name := tls.CipherSuiteName(c.TLS.CipherSuite)
	v.set("{cipher}", cipher(name))
	switch {
	case strings.Contains(name, "_256_"), strings.Contains(name, "CHACHA20"):
		v.set("{cipher_bits}", "256")
	case strings.Contains(name, "_128_"):
		v.set("{cipher_bits}", "128")
	}
	if len(c.TLS.VerifiedChains) > 0 { // what nobody vouches for says nothing
		cert := c.TLS.PeerCertificates[0]
		v.set("{cert_subject}", cert.Subject.CommonName)
		v.set("{cert_issuer}", cert.Issuer.CommonName)
	}
}

// cipher is the name that OpenSSL has for a cipher suite, which filters know:
// ECDHE-RSA-AES128-GCM-SHA256. Those of TLS 1.3 have one name only.
func cipher(name string) string {
	kx, enc, old := strings.Cut(name, "_WITH_")
	if !old {
		return name
	}
	enc = strings.NewReplacer("AES_", "AES", "_CBC_", "-", "3DES_EDE-", "DES-CBC3-", "CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305").Replace(enc)
	kx = strings.TrimPrefix(strings.TrimPrefix(kx, "TLS_"), "RSA")
	return strings.TrimPrefix(strings.ReplaceAll(kx+"-"+enc, "_", "-"), "-")
}

// mail sets what is known from MAIL on.
func (v values) mail(c *policy.Client, m *policy.Mail) {
	v.set("i", m.QueueID)
	v.set("{auth_authen}", c.AuthUser)
	v.set("{auth_type}", "")
	if c.AuthUser != "" {
		v.set("{auth_type}", cmp.Or(c.AuthType, authType))
	}
	v.address("{mail_", m.From)
}

// authType stands for a mechanism that is not known any more. That there is one tells
// filters that the client has logged in.
const authType = "AUTH"

// address sets the macros of one address. The null address is at this host, as in
// Postfix.
func (v values) address(prefix string, a mail.Address) {
	v[prefix+"addr}"] = printable(a.String())
	v.set(prefix+"host}", a.Domain)
	if a.IsNull() {
		v.set(prefix+"host}", v["j"])
	}
	v.set(prefix+"mailer}", "smtp")
}

// forget removes the macros of a message.
func (v values) forget() {
	for _, stage := range []int{stageMail, stageRcpt} {
		for _, name := range defaultMacros[stage] {
			delete(v, name)
		}
	}
}

// macroNames reads a list of names, apart by white space or commas.
func macroNames(list string) (names []string) {
	names = strings.FieldsFunc(list, func(r rune) bool { return r <= ' ' || r == ',' })
	return names[:min(len(names), maxMacros)]
}
