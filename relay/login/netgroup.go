package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
)

// Bounds of one netgroup with all that are in it.
const (
	maxNetgroups = 100
	maxTriples   = 10_000
)

// Netgroups are the netgroups of a directory (RFC 2307). What is found is
// remembered by the directory's cache.
type Netgroups struct {
	Directory directory.Directory
	// URL is the search that finds the netgroup of a name, with the attributes
	// nisNetgroupTriple and memberNisNetgroup; ldap.Netgroups makes it.
	URL func(name string) string
}

// triple is a member of a netgroup. A host "" is any and "-" is none; a user ""
// or "-" says nothing about users. Its domain is the one of NIS, which there is
// not.
type triple struct{ host, user string }

// parseTriple reads a nisNetgroupTriple: (host,user,domain).
func parseTriple(v string) (t triple, err error) {
	inner, ok := strings.CutPrefix(strings.TrimSpace(v), "(")
	if ok {
		inner, ok = strings.CutSuffix(inner, ")")
	}
	parts := strings.Split(inner, ",")
	if !ok || len(parts) != 3 || strings.ContainsAny(inner, "()") {
		return t, fmt.Errorf("netgroup has %q, which is not (host,user,domain)", v)
	}
	return triple{
		host: strings.ToLower(strings.TrimSuffix(strings.TrimSpace(parts[0]), ".")), user: strings.ToLower(strings.TrimSpace(parts[1])),
	}, nil
}

// has reports whether a client is in a netgroup, or in one of those in it, which
// may ask for a user as well: the one who logs in. A netgroup that is not there, at
// any depth, that cannot be read or is too large is a refusal: a rule that denies
// would deny nothing. Other errors are the directory's.
func (n *Netgroups) has(ctx context.Context, name, user string, c *Client) (bool, error) {
	names, triples := []string{name}, 0
	for i := 0; i < len(names); i++ {
		e, err := n.find(ctx, names[i])
		if err != nil {
			return false, err
		}
		for _, v := range e.Raw.Get("nisNetgroupTriple") {
			t, err := parseTriple(v)
			if triples++; triples > maxTriples {
				err = fmt.Errorf("netgroup %s has more than %d members", name, maxTriples)
			}
			if err != nil {
				return false, fmt.Errorf("%w: %w", errRefused, err)
			}
			if (t.user == "" || t.user == "-" || t.user == strings.ToLower(user)) && t.means(c) {
				return true, nil
			}
		}
		for _, v := range e.Raw.Get("memberNisNetgroup") {
			inner := strings.ToLower(strings.TrimSpace(v))
			if slices.Contains(names, inner) {
				continue // once, which ends cycles as well
			}
			if names = append(names, inner); len(names) > maxNetgroups {
				return false, fmt.Errorf("%w: netgroup %s has more than %d netgroups", errRefused, name, maxNetgroups)
			}
		}
	}
	return false, nil
}

// find reads one netgroup.
func (n *Netgroups) find(ctx context.Context, name string) (*directory.Entry, error) {
	found, err := directory.Collect(n.Directory.Search(ctx, n.URL(name), 1))
	switch {
	case errors.Is(err, directory.ErrTooMany):
		return nil, fmt.Errorf("%w: there are several netgroups %q", errRefused, name)
	case errors.Is(err, directory.ErrNotFound):
		return nil, fmt.Errorf("netgroup %q: %w: what netgroups are below is missing", name, directory.ErrMisconfigured)
	case err != nil:
		return nil, fmt.Errorf("netgroup %q: %w", name, err)
	case len(found) == 0:
		return nil, fmt.Errorf("%w: there is no netgroup %q", errRefused, name)
	}
	return found[0], nil
}

// means reports whether t names the host of c, by its verified name or its
// address.
func (t *triple) means(c *Client) bool {
	switch t.host {
	case "":
		return true
	case "-":
		return false
	}
	if a, err := netip.ParseAddr(t.host); err == nil {
		return a.Unmap() == c.Addr.Unmap().WithZone("")
	}
	name, ok := c.host()
	return ok && name == t.host
}
