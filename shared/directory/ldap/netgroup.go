package ldap

import (
	"fmt"
	"net/url"

	"github.com/go-ldap/ldap/v3"
)

// DefaultNetgroupFilter finds the netgroup $N (RFC 2307).
const DefaultNetgroupFilter = "(&(objectClass=nisNetgroup)(cn=$N))"

// Netgroups is a function that makes the LDAP URL of the search for the netgroup
// of a name, with its members, below base. filter has $N for the name; empty, it
// is DefaultNetgroupFilter. Config.NetgroupBase lets such searches through.
func Netgroups(base, filter string) (func(name string) string, error) {
	if filter == "" {
		filter = DefaultNetgroupFilter
	}
	if _, err := ldap.ParseDN(base); err != nil {
		return nil, fmt.Errorf("base of netgroups %q: %w", base, err)
	}
	t, err := parseTemplate(filter, '$', "N")
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", filter, err)
	}
	fill := func(name string) string {
		f, _ := t.fill(func(string) (string, error) { return value(name), nil })
		return f
	}
	if _, err := ldap.CompileFilter(fill("x")); err != nil {
		return nil, fmt.Errorf("filter %q: %w", filter, err)
	}
	return func(name string) string {
		return "ldap:///" + url.PathEscape(base) + "?nisNetgroupTriple,memberNisNetgroup?sub?" + url.PathEscape(fill(name))
	}, nil
}
