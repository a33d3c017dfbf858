package ldap

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// template is text with placeholders, which fill replaces. What it inserts is
// escaped for where it stands; only the filters that this package makes itself
// are inserted as they are.
type template []piece

// piece is literal text, or the name of a placeholder.
type piece struct {
	text, name string
}

// parseTemplate cuts s at its placeholders: sigil, an optional "1", and one of
// the letters known. A doubled sigil is the character.
func parseTemplate(s string, sigil byte, known string) (template, error) {
	var t template
	for s != "" {
		i := strings.IndexByte(s, sigil)
		if i < 0 {
			return append(t, piece{text: s}), nil
		}
		if i > 0 {
			t = append(t, piece{text: s[:i]})
		}
		s = s[i+1:]
		switch {
		case s == "":
			return nil, fmt.Errorf("%q at the end", string(sigil))
		case s[0] == sigil:
			t, s = append(t, piece{text: string(sigil)}), s[1:]
		case len(s) > 1 && s[:2] == "1V" && strings.Contains(known, "V"):
			t, s = append(t, piece{name: "1V"}), s[2:]
		case strings.IndexByte(known, s[0]) >= 0:
			t, s = append(t, piece{name: s[:1]}), s[1:]
		default:
			return nil, fmt.Errorf("unknown placeholder %q", string(sigil)+s[:1])
		}
	}
	return t, nil
}

// fill replaces the placeholders by what insert returns.
func (t template) fill(insert func(name string) (string, error)) (string, error) {
	var b strings.Builder
	for _, p := range t {
		if p.name == "" {
			b.WriteString(p.text)
			continue
		}
		v, err := insert(p.name)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

// DefaultLookupURL is the search for the owners of an address when none is
// configured (directory.md 4.3). That one is made in one go with the owners of
// "@domain", which come with the domain.
const DefaultLookupURL = "ldap:///$V?*?sub?$R"

// lookupURL is a configured search for the owners of an address.
type lookupURL struct {
	spelled    string
	base       template
	scope      int
	filter     template
	attributes []string // nil: all that the schema names
	all        bool     // literally all
}

// Placeholders of lookup URLs: names in the base, everything in the filter.
const (
	inBase   = "VBAUSD"
	inFilter = "VBRAUSDK"
)

// parseLookupURL reads a URL in the language of directory.md 4.3.
func parseLookupURL(s string) (*lookupURL, error) {
	bad := func(err error) (*lookupURL, error) { return nil, fmt.Errorf("lookup URL %q: %w", s, err) }
	rest, ok := strings.CutPrefix(s, "ldap:///")
	if !ok {
		return bad(errors.New("does not begin with ldap:///"))
	}
	parts := strings.Split(rest, "?")
	if len(parts) > 4 {
		return bad(errors.New("too many fields"))
	}
	parts = append(parts, make([]string, 4-len(parts))...)
	for i := range parts {
		p, err := url.PathUnescape(parts[i])
		if err != nil {
			return bad(err)
		}
		parts[i] = p
	}
	u := &lookupURL{spelled: s}
	var err error
	if u.base, err = parseTemplate(parts[0], '$', inBase); err != nil {
		return bad(err)
	}
	if u.filter, err = parseTemplate(parts[3], '$', inFilter); err != nil {
		return bad(err)
	}
	switch parts[1] {
	case "":
		u.all = true
	case "*":
	default:
		u.attributes = strings.Split(parts[1], ",")
		if !slices.ContainsFunc(u.attributes, func(a string) bool { return strings.EqualFold(a, "objectClass") }) {
			u.attributes = append(u.attributes, "objectClass")
		}
	}
	switch parts[2] {
	case "base":
		u.scope = ldap.ScopeBaseObject
	case "one":
		u.scope = ldap.ScopeSingleLevel
	case "sub":
		u.scope = ldap.ScopeWholeSubtree
	default:
		return bad(fmt.Errorf("scope %q", parts[2]))
	}
	// $R and $K are comparisons in each other, of more than one depth.
	for _, sample := range []string{oneEqual("objectClass", "x"), anyEqual([]string{"mail"}, []string{"x"}), ofClasses([]string{"x", "y"})} {
		f, err := u.filter.fill(func(name string) (string, error) {
			if name == "R" || name == "K" {
				return sample, nil
			}
			return "x", nil
		})
		if err == nil {
			_, err = ldap.CompileFilter(f)
		}
		if err != nil {
			return bad(err)
		}
	}
	return u, nil
}

// asked is what the placeholders of a lookup stand for.
type asked struct {
	root, base    string // $B, $V
	address       string // $A
	user, detail  string // $U, $S
	domain        string // $D
	owns, classes string // $R, $K
}

// errNoBase is the failure of $V without a base of the domain.
var errNoBase = fmt.Errorf("%w: $V without a base", directory.ErrMisconfigured)

func (q *asked) of(name string) (string, error) {
	switch name {
	case "B":
		return q.root, nil
	case "V":
		if q.base == "" {
			return "", errNoBase
		}
		return q.base, nil
	case "1V":
		if q.base == "" {
			return q.root, nil
		}
		return q.base, nil
	case "A":
		return q.address, nil
	case "U":
		return q.user, nil
	case "S":
		return q.detail, nil
	}
	return q.domain, nil
}

// search is the base and filter of u for q.
func (u *lookupURL) search(q *asked) (base, filter string, err error) {
	base, err = u.base.fill(func(name string) (string, error) {
		v, err := q.of(name)
		if strings.HasSuffix(name, "V") || name == "B" {
			return v, err // a name that has been checked, and not a value of one
		}
		return dnValue(v), err
	})
	if err != nil {
		return "", "", err
	}
	filter, err = u.filter.fill(func(name string) (string, error) {
		switch name {
		case "R":
			return q.owns, nil
		case "K":
			return q.classes, nil
		}
		v, err := q.of(name)
		return value(v), err
	})
	return base, filter, err
}

// domainFilter fills the filter that finds a domain's entry.
func (t template) domainFilter(name string) string {
	s, _ := t.fill(func(string) (string, error) { return value(name), nil })
	return s
}

// parseFilter reads a filter in which $D stands for a domain.
func parseFilter(s string) (template, error) {
	t, err := parseTemplate(s, '$', "D")
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", s, err)
	}
	if _, err := ldap.CompileFilter(t.domainFilter("x")); err != nil {
		return nil, fmt.Errorf("filter %q: %w", s, err)
	}
	return t, nil
}

// loginFilter is the filter of a domain's inetDomainSearchFilter: %U is the
// uid, %V the domain, %o the login as it was typed.
func loginFilter(s, uid, domain, login string) (string, error) {
	t, err := parseTemplate(s, '%', "UVo")
	if err != nil {
		return "", fmt.Errorf("%w: login filter %q: %v", directory.ErrMisconfigured, s, err)
	}
	f, _ := t.fill(func(name string) (string, error) {
		switch name {
		case "U":
			return value(uid), nil
		case "V":
			return value(domain), nil
		}
		return value(login), nil
	})
	if !strings.HasPrefix(f, "(") {
		f = "(" + f + ")"
	}
	if _, err := ldap.CompileFilter(f); err != nil {
		return "", fmt.Errorf("%w: login filter %q: %v", directory.ErrMisconfigured, s, err)
	}
	return f, nil
}
