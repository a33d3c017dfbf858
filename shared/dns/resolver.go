package dns

import (
	"context"
	"errors"
	"net/netip"
	"strings"
)

// ErrNotFound says that a name, or records of the type, do not exist.
var ErrNotFound = errors.New("dns: not found")

// MX is one mail exchanger.
type MX struct {
	Host       string // without the final dot; "" in a null MX (RFC 7505)
	Preference uint16
}

// Resolver asks the DNS. Any number of calls may run at once. Errors other
// than ErrNotFound are temporary.
type Resolver interface {
	// MX returns the exchangers of domain, the most preferred first, those of
	// equal preference in no order.
	MX(ctx context.Context, domain string) ([]MX, error)
	// Addrs returns the addresses of host, A and AAAA.
	Addrs(ctx context.Context, host string) ([]netip.Addr, error)
	// TXT returns the texts of name, the strings of each record joined.
	TXT(ctx context.Context, name string) ([]string, error)
	// PTR returns the names of an address.
	PTR(ctx context.Context, addr netip.Addr) ([]string, error)
}

// canonical is name in lower case without the final dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// validName reports whether name can be asked for: labels of 1 to 63 octets,
// 253 in all, no white space or control octets.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' || c == '(' || c == ')' || c == ';' || c == '@' || c == '$' {
			return false
		}
	}
	return true
}
