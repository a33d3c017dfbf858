package directory

import (
	"fmt"
	"net/url"
	"strings"
)

// Scope of a search (RFC 4511 4.5.1.2).
type Scope uint8

// The scopes.
const (
	ScopeBase Scope = iota
	ScopeOne
	ScopeSub
)

// URL is an LDAP URL (RFC 4516) taken apart.
type URL struct {
	Host       string // host[:port] in lower case, "" for the configured servers
	DN         string
	Attributes []string
	Scope      Scope
	Filter     string // "(objectClass=*)" when not given
}

// maxURL bounds an LDAP URL; the filters of dynamic lists are shorter.
const maxURL = 8192

// ParseURL reads an LDAP URL. Its errors are ErrURL. A critical extension
// ("!name") is an error because none is known.
func ParseURL(s string) (*URL, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxURL {
		return nil, fmt.Errorf("%w: %d octets", ErrURL, len(s))
	}
	i := strings.Index(s, "://")
	if i < 0 || !strings.EqualFold(s[:i], "ldap") && !strings.EqualFold(s[:i], "ldaps") {
		return nil, fmt.Errorf("%w: not an ldap: URL", ErrURL)
	}
	s = s[i+3:]
	u := &URL{Filter: "(objectClass=*)"}
	slash := strings.IndexByte(s, '/')
	if slash < 0 {
		u.Host = strings.ToLower(s)
		return u, nil
	}
	u.Host = strings.ToLower(s[:slash])
	parts := strings.Split(s[slash+1:], "?")
	if len(parts) > 5 {
		return nil, fmt.Errorf("%w: too many fields", ErrURL)
	}
	for i := range parts {
		p, err := url.PathUnescape(parts[i])
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrURL, err)
		}
		parts[i] = p
	}
	u.DN = parts[0]
	if len(parts) > 1 && parts[1] != "" {
		u.Attributes = strings.Split(parts[1], ",")
	}
	if len(parts) > 2 {
		switch strings.ToLower(parts[2]) {
		case "", "base":
		case "one", "onelevel":
			u.Scope = ScopeOne
		case "sub", "subtree":
			u.Scope = ScopeSub
		default:
			return nil, fmt.Errorf("%w: scope %q", ErrURL, parts[2])
		}
	}
	if len(parts) > 3 && parts[3] != "" {
		u.Filter = parts[3]
		if u.Filter[0] != '(' { // RFC 4516 2: always in brackets; older tools leave them out
			u.Filter = "(" + u.Filter + ")"
		}
	}
	if len(parts) > 4 {
		for _, ext := range strings.Split(parts[4], ",") {
			if strings.HasPrefix(ext, "!") {
				return nil, fmt.Errorf("%w: critical extension %q", ErrURL, ext)
			}
		}
	}
	return u, nil
}

// At is the URL s, of which u was made, with the name that f says instead of
// its own; ok is what f says.
func (u *URL) At(s string, f func(dn string) (now string, ok bool)) (out string, ok bool) {
	now, ok := f(u.DN)
	if !ok || u.DN == "" {
		return s, false
	}
	s = strings.TrimSpace(s)
	start := strings.Index(s, "://") + len("://")
	slash := strings.IndexByte(s[start:], '/')
	if slash < 0 {
		return s, false
	}
	start += slash + 1
	end := len(s)
	if q := strings.IndexByte(s[start:], '?'); q >= 0 {
		end = start + q
	}
	// As a path, so that commas and equal signs stay readable.
	return s[:start] + (&url.URL{Path: now}).EscapedPath() + s[end:], true
}
