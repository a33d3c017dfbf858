package lint

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// edge is where a group or somebody who forwards leads to, of that kind.
type edge struct {
	dn string
	to []uint64
}

// relations is the second pass: members and forwards, now that it is known who
// there is.
func (r *run) relations() error {
	s := r.s
	attrs := slices.Concat([]string{"objectClass", s.UID, s.Mail, s.DeliveryOption, s.ForwardingAddress, s.UserStatus, s.MailUserStatus, s.GroupGeneralStatus, s.GroupStatus},
		s.Alternate, s.Equivalent, s.MemberAddress, s.MemberDN, s.MemberURL)
	attrs = slices.DeleteFunc(attrs, func(a string) bool { return a == "" })
	return r.scan(ldap.MailEntries, attrs, func(dn string, raw directory.Attributes) error {
		if len(raw.Get(s.ForwardingAddress)) == 0 && s.KindOf(raw.Get("objectClass")) != directory.Group {
			return nil // almost everybody
		}
		fold, err := ldap.FoldName(dn)
		if err != nil {
			return nil // told before
		}
		h, e := r.hash(fold), s.ReadEntry(dn, raw)
		if e.Kind == directory.Group {
			return r.members(e, h)
		}
		return r.forwardsTo(e, h)
	})
}

// link notes that one entry leads to another. People who keep their mail are
// ends.
func (r *run) link(e *directory.Entry, from, to uint64) {
	if n, _ := r.node(to); n&(isGroup|forwards) == 0 {
		return
	}
	if r.edges[from] == nil {
		r.edges[from] = &edge{dn: e.DN}
	}
	if l := r.edges[from]; !slices.Contains(l.to, to) {
		l.to = append(l.to, to)
	}
}

func (r *run) forwardsTo(e *directory.Entry, h uint64) error {
	if r.nodes[h]&forwards == 0 {
		return nil
	}
	for _, v := range e.Forwarding {
		a, err := mail.ParseAddress(strings.TrimSpace(v), true)
		if err != nil || r.isOwn(e, a) {
			continue // told before
		}
		if r.nowhere(a) {
			if err := r.say("forward-nowhere", e.DN, r.s.ForwardingAddress, v); err != nil {
				return err
			}
		}
		if d := r.domainOf(a); d != nil {
			if to, ok := r.owner(a, d); ok && to != h {
				r.link(e, h, to)
			}
		}
	}
	return nil
}

// members checks the members of a group; lost counts those that lead nowhere.
func (r *run) members(e *directory.Entry, h uint64) error {
	good, lost := 0, 0
	count := func(rule string, attrs []string, value string, err error) error {
		if err != nil {
			return err
		}
		if rule == "" {
			good++
			return nil
		}
		lost++
		return r.say(rule, e.DN, attributeOf(e, attrs, value), value)
	}
	for _, dn := range e.MemberDNs {
		rule, err := r.memberDN(e, h, dn)
		if err := count(rule, r.s.MemberDN, dn, err); err != nil {
			return err
		}
	}
	for _, v := range e.MemberAddresses {
		rule := r.memberAddress(e, h, v)
		if err := count(rule, r.s.MemberAddress, v, nil); err != nil {
			return err
		}
	}
	for _, v := range e.MemberURLs {
		rule, err := r.memberURL(e, h, v)
		if err := count(rule, r.s.MemberURL, v, err); err != nil {
			return err
		}
	}
	if good == 0 && lost > 0 {
		return r.say("no-members", e.DN, first(r.s.MemberDN), "")
	}
	return nil
}

// attributeOf is the attribute, of several, that a value is from.
func attributeOf(e *directory.Entry, attrs []string, value string) string {
	for _, a := range attrs {
		if slices.Contains(e.Raw.Get(a), value) {
			return a
		}
	}
	return first(attrs)
}

func (r *run) memberDN(e *directory.Entry, h uint64, dn string) (rule string, err error) {
	fold, err := ldap.FoldName(dn)
	if err != nil || r.d.Inside(dn) != nil {
		return "member-nowhere", nil
	}
	to := r.hash(fold)
	n, ok := r.node(to)
	switch {
	case !ok:
		return "member-nowhere", nil
	case n&dead != 0:
		return "member-gone", nil
	case n&hasMail != 0:
		r.link(e, h, to)
		return "", nil
	case n&(isUser|isGroup) != 0:
		return "member-no-mail", nil
	}
	// The name may stand for all that is below it (directory.md 13.2, row 13).
	return r.memberURL(e, h, "ldap:///"+url.PathEscape(dn)+"??sub?(mail=*)")
}

func (r *run) memberAddress(e *directory.Entry, h uint64, v string) (rule string) {
	a, err := memberAddress(v)
	if err != nil {
		return "bad-address"
	}
	if r.nowhere(a) {
		return "member-unknown"
	}
	if d := r.domainOf(a); d != nil {
		if to, ok := r.owner(a, d); ok {
			r.link(e, h, to)
		}
	}
	return ""
}

func (r *run) memberURL(e *directory.Entry, h uint64, v string) (rule string, err error) {
	if r.d.Usable(v) != nil {
		return "bad-url", nil
	}
	reached := false
	for m, err := range r.d.Search(r.ctx, v, maxFollowed) {
		switch {
		case errors.Is(err, directory.ErrTooMany):
			return "", nil
		case errors.Is(err, directory.ErrNotFound):
			return "member-nowhere", nil
		case err != nil:
			return "", err
		case m.Mail == "":
			continue
		}
		reached = true
		if fold, err := ldap.FoldName(m.DN); err == nil {
			r.link(e, h, r.hash(fold))
		}
	}
	if !reached {
		return "member-nowhere", nil
	}
	return "", nil
}

// memberAddress reads an address that may be written as a mailto: URL.
func memberAddress(text string) (mail.Address, error) {
	text = strings.TrimSpace(text)
	if len(text) > 7 && strings.EqualFold(text[:7], "mailto:") {
		text, _, _ = strings.Cut(text[7:], "?")
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
	}
	return mail.ParseAddress(text, true)
}

// loops tells of each set of entries that lead to each other (Tarjan's strongly
// connected components).
func (r *run) loops() error {
	t := &tarjan{r: r, index: map[uint64]int{}, low: map[uint64]int{}, on: map[uint64]bool{}}
	for _, h := range r.ordered() {
		if _, seen := t.index[h]; !seen {
			t.visit(h)
		}
	}
	for _, c := range t.circles {
		if err := r.loop(c); err != nil {
			return err
		}
	}
	return nil
}

// ordered are the entries with edges, by name, so that two runs say the same.
func (r *run) ordered() []uint64 {
	out := make([]uint64, 0, len(r.edges))
	for h := range r.edges {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b uint64) int { return strings.Compare(r.edges[a].dn, r.edges[b].dn) })
	return out
}

func (r *run) loop(circle []uint64) error {
	var dns []string
	var kinds node
	for _, h := range circle {
		dns = append(dns, r.edges[h].dn)
		kinds |= r.nodes[h]
	}
	slices.Sort(dns)
	switch {
	case kinds&isGroup != 0:
		return r.say("list-loop", dns[0], first(r.s.MemberDN), "", dns[1:]...)
	case kinds&stores != 0:
		return r.sayAs(Warning, "forward-loop", dns[0], r.s.ForwardingAddress, "", dns[1:]...)
	}
	return r.say("forward-loop", dns[0], r.s.ForwardingAddress, "", dns[1:]...)
}

type tarjan struct {
	r       *run
	next    int
	index   map[uint64]int
	low     map[uint64]int
	on      map[uint64]bool
	stack   []uint64
	circles [][]uint64
}

func (t *tarjan) visit(h uint64) {
	t.next++
	t.index[h], t.low[h] = t.next, t.next
	t.stack, t.on[h] = append(t.stack, h), true
	self := false
	if e := t.r.edges[h]; e != nil {
		for _, to := range e.to {
			self = self || to == h
			if _, seen := t.index[to]; !seen {
				t.visit(to)
				t.low[h] = min(t.low[h], t.low[to])
			} else if t.on[to] {
				t.low[h] = min(t.low[h], t.index[to])
			}
		}
	}
	if t.low[h] != t.index[h] {
		return
	}
	i := slices.Index(t.stack, h)
	circle := slices.Clone(t.stack[i:])
	for _, m := range circle {
		t.on[m] = false
	}
	t.stack = t.stack[:i]
	if len(circle) > 1 || self {
		t.circles = append(t.circles, circle)
	}
}
