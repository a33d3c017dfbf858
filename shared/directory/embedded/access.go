package embedded

import (
	"fmt"
	"strings"
)

// Access is what a rule allows: a set of the rights below.
type Access uint8

// The rights. Each but WriteOnly includes those before it.
const (
	None      Access = 0
	Auth      Access = 1        // bind by this attribute
	Compare   Access = Auth | 2 // compare a value
	Search    Access = Compare | 4
	Read      Access = Search | 8
	Write     Access = Read | 16
	WriteOnly Access = Auth | 16 // change, but not see
)

// Rule is one rule of access. The first rule that is about an attribute of an
// entry and about who asks decides; without one nothing is allowed. The root DN
// is never asked about.
type Rule struct {
	// Base is the top of the subtree that the rule is about; "" is everything.
	Base string
	// Attributes are those that the rule is about; empty is all of them. The
	// name "entry" stands for the entry itself: to find it, add it, delete it
	// and rename it.
	Attributes []string
	// Who is "*" (everybody), "anonymous", "users" (who has logged in), "self"
	// (the entry's owner), "dn:NAME", "subtree:NAME" (all below NAME), or
	// "group:NAME" (member or uniqueMember of that entry).
	Who    string
	Access Access
}

// rule is a Rule with its names in normal form.
type rule struct {
	base   string
	attrs  []string // lower case; nil is all
	kind   string   // of Who
	name   string   // after its colon
	access Access
}

func compileRules(rules []Rule) ([]rule, error) {
	out := make([]rule, 0, len(rules))
	for _, r := range rules {
		c := rule{access: r.Access}
		var err error
		if c.base, err = normalDN(r.Base); err != nil {
			return nil, fmt.Errorf("access rule: base %q: %w", r.Base, err)
		}
		for _, a := range r.Attributes {
			c.attrs = append(c.attrs, strings.ToLower(a))
		}
		var name string
		c.kind, name, _ = strings.Cut(r.Who, ":")
		switch c.kind {
		case "*", "anonymous", "users", "self":
			if name != "" {
				return nil, fmt.Errorf("access rule: who %q", r.Who)
			}
		case "dn", "subtree", "group":
			if c.name, err = normalDN(name); err != nil || c.name == "" {
				return nil, fmt.Errorf("access rule: who %q: bad name", r.Who)
			}
		default:
			return nil, fmt.Errorf("access rule: who %q", r.Who)
		}
		out = append(out, c)
	}
	return out, nil
}

// defaultRules are those of a Config without Rules.
func defaultRules(cfg *Config) []Rule {
	rules := []Rule{
		{Attributes: []string{"userPassword"}, Who: "self", Access: WriteOnly},
		{Attributes: cfg.Protected, Who: "*", Access: Auth},
	}
	if len(cfg.Protected) == 0 {
		rules = nil
	}
	if len(cfg.SelfWrite) > 0 {
		rules = append(rules, Rule{Attributes: cfg.SelfWrite, Who: "self", Access: Write})
	}
	rules = append(rules, Rule{Who: "users", Access: Read})
	if cfg.AnonymousRead {
		rules = append(rules, Rule{Who: "anonymous", Access: Read})
	}
	return rules
}

// under reports whether a name is base or below it; both are in normal form.
func under(norm, base string) bool {
	n := len(norm) - len(base)
	return n == 0 && norm == base || n > 0 && norm[n-1] == ',' && norm[n:] == base
}

// view is what one client may see and do. nil sees everything.
type view struct {
	rules []rule // those that can be about this client
	self  string // its entry, in normal form
	entry string // the entry that is looked at, in normal form
}

// viewOf returns the view of a client, nil for the root DN. The caller holds
// the tree's lock if it has rules for groups.
func (s *Server) viewOf(norm string, root bool) *view {
	if root {
		return nil
	}
	v := &view{self: norm}
	for _, r := range s.rules {
		fits := false
		switch r.kind {
		case "*":
			fits = true
		case "anonymous":
			fits = norm == ""
		case "users", "self":
			fits = norm != ""
		case "dn":
			fits = norm == r.name
		case "subtree":
			fits = norm != "" && under(norm, r.name)
		case "group":
			fits = norm != "" && s.tree.member(r.name, norm)
		}
		if fits {
			v.rules = append(v.rules, r)
		}
	}
	return v
}

// member reports whether the entry named group has a member of that name.
func (t *tree) member(group, norm string) bool {
	n := t.nodes[group]
	if n == nil {
		return false
	}
	for _, name := range []string{"member", "uniquemember"} {
		if a := n.obj.find(name); a != nil {
			for _, v := range a.values {
				if normalDNOrFold(v) == norm {
					return true
				}
			}
		}
	}
	return false
}

// at makes v look at an entry.
func (v *view) at(norm string) {
	if v != nil {
		v.entry = norm
	}
}

// may reports whether the client has a right on an attribute of the entry.
func (v *view) may(attr string, need Access) bool {
	if v == nil {
		return true
	}
	for i := range v.rules {
		r := &v.rules[i]
		if r.kind == "self" && v.entry != v.self || r.base != "" && !under(v.entry, r.base) || !r.about(attr) {
			continue
		}
		return r.access&need == need
	}
	return false
}

func (r *rule) about(attr string) bool {
	if r.attrs == nil {
		return true
	}
	for _, a := range r.attrs {
		if describes(a, attr) {
			return true
		}
	}
	return false
}

// blind reports whether nothing can be found at all.
func (v *view) blind() bool {
	if v == nil {
		return false
	}
	for i := range v.rules {
		if v.rules[i].access&Search == Search && v.rules[i].about("entry") {
			return false
		}
	}
	return true
}

// allowed checks that the client may make a change. It holds the tree's lock
// for reading.
func (v *view) allowed(t *tree, req *request) error {
	if v == nil {
		return nil
	}
	denied := result(codeInsufficientAccess, "no write access")
	norm, err := normalDN(req.dn)
	if err != nil {
		return result(codeInvalidDN, "invalid DN")
	}
	v.at(norm)
	switch req.op {
	case opAdd:
		if !v.may("entry", Write) {
			return denied
		}
		for i := range req.attrs {
			if !v.may(req.attrs[i].lower, WriteOnly) {
				return denied
			}
		}
	case opModify:
		for i := range req.changes {
			if !v.may(req.changes[i].lower, WriteOnly) {
				return denied
			}
		}
	case opModifyDN:
		if !v.may("entry", Write) {
			return denied
		}
		up := req.newSuperior
		if !req.hasSuperior {
			_, up = splitDN(req.dn)
		}
		norm, err := normalDN(req.newRDN + "," + up)
		if err != nil {
			return result(codeInvalidDN, "invalid DN")
		}
		v.at(norm)
		fallthrough
	default:
		if !v.may("entry", Write) {
			return denied
		}
	}
	return nil
}
