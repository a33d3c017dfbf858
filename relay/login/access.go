package login

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Client is what an access filter is asked about.
type Client struct {
	Addr netip.Addr // zero when it is not known
	TLS  bool
	// Name finds the client's host name; verified says that the name leads back
	// to the address. It is called when a rule asks for names, once. Nil, and
	// the empty name: none is known.
	Name func() (name string, verified bool)

	// Netgroup reports whether the client is in a netgroup; nil: in none.
	Netgroup func(name string) (bool, error)

	name            string
	verified, asked bool
	err             error // of Netgroup
}

func (c *Client) host() (string, bool) {
	if !c.asked {
		c.asked = true
		if c.Name != nil {
			c.name, c.verified = c.Name()
			c.name = strings.ToLower(strings.TrimSuffix(c.name, "."))
		}
	}
	return c.name, c.verified
}

// services are the names that a rule may give (directory.md 12).
var services = []string{"imap", "imaps", "pop", "pops", "smtp", "smtps", "http", "https", "smime", "jmap", "sieve"}

const (
	maxFilter = 16 << 10
	maxRules  = 200
)

// Filter is an access filter taken apart.
type Filter []filterRule

type filterRule struct {
	allow             bool
	services, clients list
}

// list is the words before and after EXCEPT.
type list struct{ words, except []string }

// ParseFilter reads the value of mailAllowedServiceAccess (directory.md 12):
//
//	rule $ rule ...      rule: + or -, services, ":", clients
//
// An empty value is a filter without rules, which allows everything.
func ParseFilter(value string) (Filter, error) {
	if len(value) > maxFilter {
		return nil, fmt.Errorf("access filter of %d octets", len(value))
	}
	var f Filter
	for text := range strings.SplitSeq(value, "$") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if len(f) == maxRules {
			return nil, errors.New("access filter has too many rules")
		}
		r, err := parseRule(text)
		if err != nil {
			return nil, fmt.Errorf("access rule %q: %w", text, err)
		}
		f = append(f, r)
	}
	return f, nil
}

// CheckFilter says what is wrong with an access filter, by which nobody can log
// in.
func CheckFilter(value string) error {
	_, err := ParseFilter(value)
	return err
}

func parseRule(text string) (r filterRule, err error) {
	switch text[0] {
	case '+':
		r.allow = true
	case '-':
	default:
		return r, errors.New("begins with neither + nor -")
	}
	left, right, ok := strings.Cut(text[1:], ":")
	if !ok {
		return r, errors.New("no colon after the services")
	}
	if r.services, err = parseList(left); err != nil {
		return r, fmt.Errorf("services: %w", err)
	}
	for _, words := range [][]string{r.services.words, r.services.except} {
		for _, w := range words {
			if !known(w) {
				return r, fmt.Errorf("unknown service %q", w)
			}
		}
	}
	if r.clients, err = parseList(right); err != nil {
		return r, fmt.Errorf("clients: %w", err)
	}
	for _, words := range [][]string{r.clients.words, r.clients.except} {
		for _, w := range words {
			if err := checkClient(w); err != nil {
				return r, err
			}
		}
	}
	return r, nil
}

func parseList(text string) (l list, err error) {
	except := false
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' }) {
		switch {
		case strings.EqualFold(w, "EXCEPT"):
			if except || len(l.words) == 0 {
				return l, errors.New("EXCEPT stands once, between two lists")
			}
			except = true
		case except:
			l.except = append(l.except, strings.ToLower(w))
		default:
			l.words = append(l.words, strings.ToLower(w))
		}
	}
	if len(l.words) == 0 || except && len(l.except) == 0 {
		return l, errors.New("empty list")
	}
	return l, nil
}

func known(service string) bool {
	if service == "all" || service == "*" {
		return true
	}
	for _, s := range services {
		if s == service {
			return true
		}
	}
	return false
}

// checkClient refuses a word that can match nobody because of an error in it.
func checkClient(w string) error {
	if w == "@" {
		return errors.New("netgroup without a name")
	}
	if before, after, ok := strings.Cut(w, "/"); ok {
		if _, err := network(before, after); err != nil {
			return err
		}
	}
	return nil
}

// network reads net/bits or net/mask.
func network(net, mask string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(strings.Trim(net, "[]"))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("not an address: %q", net)
	}
	if p, err := netip.ParsePrefix(a.String() + "/" + mask); err == nil {
		return p.Masked(), nil
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || m.BitLen() != a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("not a mask: %q", mask)
	}
	bits, end := 0, false
	for _, b := range m.AsSlice() {
		for i := 7; i >= 0; i-- {
			one := b>>i&1 == 1
			if one && end {
				return netip.Prefix{}, fmt.Errorf("mask %q has a gap", mask)
			}
			end = end || !one
			if one {
				bits++
			}
		}
	}
	return netip.PrefixFrom(a, bits).Masked(), nil
}

// netgroup is a netgroup that f names, "" when it names none.
func (f Filter) netgroup() string {
	for i := range f {
		for _, words := range [...][]string{f[i].clients.words, f[i].clients.except} {
			for _, w := range words {
				if w[0] == '@' {
					return w[1:]
				}
			}
		}
	}
	return ""
}

// Allows evaluates f for a service, one of the plain names (imap, pop, smtp,
// http ...). The first rule with + that matches allows; without one, a rule
// with - that matches denies; without either, it is denied if all rules are
// with +.
//
// The names with an s stand for the service under TLS, from the start or by
// STARTTLS; the plain names stand for both. An error is that of a netgroup, on
// which the answer hangs, and goes with false.
func (f Filter) Allows(service string, c *Client) (bool, error) {
	allowed := f.allows(service, c)
	if c.err != nil {
		return false, c.err
	}
	return allowed, nil
}

func (f Filter) allows(service string, c *Client) bool {
	denies := len(f) == 0
	for i := range f {
		if f[i].allow && f[i].matches(service, c) {
			return true
		}
		denies = denies || !f[i].allow
	}
	for i := range f {
		if !f[i].allow && f[i].matches(service, c) {
			return false
		}
	}
	return denies
}

func (r *filterRule) matches(service string, c *Client) bool {
	is := func(w string) bool {
		return w == "all" || w == "*" || w == service || c.TLS && w == service+"s"
	}
	return r.services.matches(is) && r.clients.matches(c.is)
}

func (l *list) matches(is func(string) bool) bool {
	for _, w := range l.except {
		if is(w) {
			return false
		}
	}
	for _, w := range l.words {
		if is(w) {
			return true
		}
	}
	return false
}

// is reports whether one word of a client list names c.
func (c *Client) is(w string) bool {
	switch w {
	case "all", "*":
		return true
	case "local":
		name, ok := c.host()
		return ok && name != "" && !strings.Contains(name, ".")
	case "known":
		name, ok := c.host()
		return ok && name != "" && c.Addr.IsValid()
	case "unknown":
		name, ok := c.host()
		return !ok || name == "" || !c.Addr.IsValid()
	case "dnsspoofer":
		name, ok := c.host()
		return name != "" && !ok
	}
	if w[0] == '@' {
		return c.in(w[1:])
	}
	addr := c.Addr.Unmap().WithZone("")
	if before, after, ok := strings.Cut(w, "/"); ok {
		p, err := network(before, after)
		return err == nil && addr.IsValid() && p.Contains(addr)
	}
	if a, err := netip.ParseAddr(strings.Trim(w, "[]")); err == nil {
		return a.Unmap() == addr
	}
	if addr.IsValid() {
		text := addr.String()
		if strings.HasSuffix(w, ".") && strings.HasPrefix(text, w) || strings.Contains(w, "*") && match(w, text) {
			return true
		}
	}
	name, ok := c.host()
	switch {
	case !ok || name == "":
		return false
	case w[0] == '.':
		return strings.HasSuffix(name, w)
	}
	return name == w || strings.Contains(w, "*") && match(w, name)
}

// in reports whether c is in a netgroup. The first error ends the questions.
func (c *Client) in(group string) (in bool) {
	if c.err == nil && c.Netgroup != nil {
		in, c.err = c.Netgroup(group)
	}
	return in && c.err == nil
}

// match is a comparison in which "*" stands for any run of characters.
func match(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[last])
}
