package edit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/ldap"
)

// nodeClass marks the domains among the nodes of the DC tree.
const nodeClass = "inetDomain"

// nodeClasses are those that make a node a domain. Without them it is a node
// on the way to others.
var nodeClasses = []string{nodeClass, "inetDomainAuthInfo", "mailDomain", "nsManagedDomain", "sunDelegatedOrganization"}

// maxAliasNodes is how many aliases of one domain are handled.
const maxAliasNodes = 1000

// newNode is newDomain for one of the DC tree: its node and those on the way to it,
// its aliases, and, unless users-base names one, its organization.
func (ed *Editor) newNode(ctx context.Context, req Request, name string) (steps []step, main int, err error) {
	dn, err := ed.d.Node(name)
	if err != nil {
		return nil, 0, badf("domain %q: %v", name, err)
	}
	aliases := slices.Concat(req.Values["alias"], req.More["alias"])
	req = withoutAliases(req)
	base := first(req.Values["users-base"])
	if base == "" {
		if steps, base, err = ed.addOrganization(ctx, req, name, aliases); err != nil {
			return nil, 0, err
		}
	}
	if steps, err = ed.onTheWay(ctx, steps, dn); err != nil {
		return nil, 0, err
	}
	old, raw, err := ed.node(ctx, dn)
	if errors.Is(err, ldap.ErrExists) { // or a request that was not finished
		old, raw, err = nil, bareNode(dn), nil
	}
	if err != nil {
		return nil, 0, err
	}
	put(&raw, "objectClass", more(raw.Get("objectClass"), nodeClasses[:4])...)
	put(&raw, ed.s.DomainBaseDN, base)
	for _, attr := range []string{ed.s.DomainStatus, ed.s.MailDomainStatus} {
		if attr != "" {
			put(&raw, attr, "active")
		}
	}
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, 0, err
	}
	op := Add
	if old != nil {
		op = Set
	}
	main = len(steps)
	steps = append(steps, step{&Result{Op: op, Kind: Domain, DN: dn}, old, raw})
	steps, err = ed.aliasNodes(ctx, steps, aliases, dn)
	return steps, main, err
}

func withoutAliases(req Request) Request {
	for _, v := range []*Values{&req.Values, &req.More, &req.Less} {
		*v = maps.Clone(*v)
		delete(*v, "alias")
	}
	return req
}

// addOrganization makes the organization that a node leads to. In the
// compatibility mode it has the names of the domain too, and no status, which
// would win over that of the node.
func (ed *Editor) addOrganization(ctx context.Context, req Request, name string, aliases []string) ([]step, string, error) {
	parent := req.Below
	if parent == "" {
		parent = ed.d.Base()
	}
	base, err := ldap.Child("o", name, parent)
	if err != nil {
		return nil, "", err
	}
	raw, kind := directory.Attributes{{Name: "objectClass", Values: []string{"organization"}}, {Name: "o", Values: []string{name}}}, Other
	if ed.s.Layout == directory.LayoutCompatible && ed.s.DomainClass != "" {
		raw, kind = ed.organization(name, false), Domain
		put(&raw, ed.s.AssociatedDomain, aliases...)
	}
	if err := ed.begun(ctx, base, raw); err != nil {
		return nil, "", fmt.Errorf("%w; name it by users-base to use it", err)
	}
	steps, err := boxes([]step{{&Result{Op: Add, Kind: kind, DN: base}, nil, raw}}, base)
	return steps, base, err
}

// onTheWay adds the nodes above dn that are not there.
func (ed *Editor) onTheWay(ctx context.Context, steps []step, dn string) ([]step, error) {
	var missing []string
	for up := ldap.Parent(dn); ed.d.InTree(up); up = ldap.Parent(up) {
		_, raw, err := ed.raw(ctx, up)
		if err == nil && hasClass(raw, "alias") {
			return nil, badf("%s is an alias: nothing can be below it", up)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, directory.ErrNotFound) {
			return nil, err
		}
		missing = append(missing, up)
	}
	slices.Reverse(missing)
	for _, up := range missing {
		if slices.ContainsFunc(steps, func(s step) bool { return sameName(s.res.DN, up) }) {
			continue
		}
		_, raw, err := ed.node(ctx, up)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{&Result{Op: Add, Kind: Other, DN: up}, nil, raw})
	}
	return steps, nil
}

// node is the node of the DC tree of that name as it is, nil when there is
// none, and one on the way to others to begin with. ErrExists when it is a
// domain or an alias.
func (ed *Editor) node(ctx context.Context, dn string) (old, raw directory.Attributes, err error) {
	_, old, err = ed.raw(ctx, dn)
	switch {
	case errors.Is(err, directory.ErrNotFound):
		return nil, bareNode(dn), nil
	case err != nil:
		return nil, nil, err
	case ed.kindOf(dn, old) == Domain:
		return nil, nil, fmt.Errorf("%s: %w", dn, ldap.ErrExists)
	}
	return old, clone(old), nil
}

// bareNode is a node on the way to others.
func bareNode(dn string) directory.Attributes {
	attr, value, _ := ldap.First(dn)
	return directory.Attributes{{Name: "objectClass", Values: []string{"domain"}}, {Name: attr, Values: []string{value}}}
}

// aliasNodes adds nodes that are aliases of the one of name to, as far as they
// are not yet.
func (ed *Editor) aliasNodes(ctx context.Context, steps []step, names []string, to string) ([]step, error) {
	for _, name := range names {
		n, err := directory.NormalizeDomain(strings.TrimSpace(name))
		if err != nil || n == "" {
			return nil, badf("alias %q", name)
		}
		dn, err := ed.d.Node(n)
		if err != nil {
			return nil, badf("alias %q: %v", name, err)
		}
		if _, raw, err := ed.raw(ctx, dn); err == nil && sameName(raw.First(ed.s.DomainAlias), to) {
			continue
		}
		if steps, err = ed.onTheWay(ctx, steps, dn); err != nil {
			return nil, err
		}
		old, raw, err := ed.node(ctx, dn)
		if err != nil {
			return nil, err
		}
		op := Add
		if old != nil {
			op = Set
			put(&raw, "objectClass", more(raw.Get("objectClass"), []string{ed.s.DomainAliasMark})...)
		} else {
			put(&raw, "objectClass", "alias", "dcObject", ed.s.DomainAliasMark)
		}
		put(&raw, ed.s.DomainAlias, to)
		steps = append(steps, step{&Result{Op: op, Kind: Domain, DN: dn}, old, raw})
	}
	return steps, nil
}

// aliases are the nodes that are aliases of the one of name dn, by the names
// that they spell.
func (ed *Editor) aliases(ctx context.Context, dn string) (map[string]string, error) {
	found, err := ed.d.Find(ctx, ed.d.DCRoot(), []string{ed.s.DomainAlias}, []string{dn}, maxAliasNodes)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range found {
		out[ed.d.Spelled(e.DN)] = e.DN
	}
	for fold, raw := range ed.planned { // in a dry run
		switch to := raw.First(ed.s.DomainAlias); {
		case raw == nil:
			delete(out, ed.d.Spelled(fold))
		case to != "" && sameName(to, dn):
			out[ed.d.Spelled(fold)] = fold
		}
	}
	return out, nil
}

// setNode changes a domain of the DC tree. Its aliases are nodes of their own.
func (ed *Editor) setNode(ctx context.Context, req Request, dn string, old directory.Attributes) (*Result, error) {
	if !hasClass(old, nodeClass) {
		return nil, badf("%s is an alias: change the domain that it leads to", dn)
	}
	values, given := req.Values["alias"]
	added, taken := req.More["alias"], req.Less["alias"]
	req = withoutAliases(req)
	raw := clone(old)
	if err := ed.apply(ctx, &raw, req); err != nil {
		return nil, err
	}
	steps := []step{{&Result{Op: Set, Kind: Domain, DN: dn}, old, raw}}
	if !given && len(added)+len(taken) == 0 {
		return ed.all(ctx, steps, 0)
	}
	have, err := ed.aliases(ctx, dn)
	if err != nil {
		return nil, err
	}
	want := sortedKeys(have)
	if given {
		want = values
	}
	want = less(more(want, added), taken)
	if steps, err = ed.sameAliases(ctx, steps, dn, old, want); err != nil {
		return nil, err
	}
	if steps, err = ed.aliasNodes(ctx, steps, less(want, sortedKeys(have)), dn); err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(have) {
		if holds(want, name) {
			continue
		}
		if steps, err = ed.withoutNode(ctx, steps, have[name]); err != nil {
			return nil, err
		}
	}
	return ed.all(ctx, steps, 0)
}

// sameAliases gives the organization of a node the node's aliases, in the
// compatibility mode, where it has names too.
func (ed *Editor) sameAliases(ctx context.Context, steps []step, dn string, node directory.Attributes, want []string) ([]step, error) {
	attr := ed.s.AssociatedDomain
	if ed.s.Layout != directory.LayoutCompatible || attr == "" {
		return steps, nil
	}
	base, old, err := ed.raw(ctx, strings.TrimSpace(node.First(ed.s.DomainBaseDN)))
	if errors.Is(err, directory.ErrNotFound) || err == nil && !strings.EqualFold(old.First(ed.s.PreferredDomain), ed.d.Spelled(dn)) {
		return steps, nil
	}
	if err != nil {
		return nil, err
	}
	raw := clone(old)
	put(&raw, attr, want...)
	return append(steps, step{&Result{Op: Set, Kind: Domain, DN: base}, old, raw}), nil
}

// withoutNode takes a node of the DC tree out; one that others are below, or
// will be by the steps before, stays as a node on the way to them.
func (ed *Editor) withoutNode(ctx context.Context, steps []step, dn string) ([]step, error) {
	_, old, err := ed.raw(ctx, dn)
	if err != nil {
		return nil, err
	}
	below := 0
	err = ed.d.Scan(ctx, dn, ldap.Everything, []string{"objectClass"}, func(string, directory.Attributes) error {
		if below++; below > 1 {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	for _, s := range steps {
		if _, ok := ldap.Moved(s.res.DN, dn, dn); ok && s.res.Op == Add {
			below++
		}
	}
	if below <= 1 {
		return append(steps, step{&Result{Op: Delete, Kind: Domain, DN: dn, Changes: diff(old, nil)}, old, nil}), nil
	}
	raw := clone(old)
	for _, a := range old {
		if !holds([]string{"objectClass", "dc", "description"}, a.Name) {
			put(&raw, a.Name)
		}
	}
	put(&raw, "objectClass", less(raw.Get("objectClass"), append(slices.Clone(nodeClasses), ed.s.DomainAliasMark))...)
	return append(steps, step{&Result{Op: Set, Kind: Other, DN: dn}, old, raw}), nil
}

// errEnough ends a scan that has seen enough.
var errEnough = errors.New("enough")

// removeNode takes a domain out of the DC tree, with its aliases and, when no
// other node leads there, its organization, which must be empty.
func (ed *Editor) removeNode(ctx context.Context, dn string, old directory.Attributes) (*Result, error) {
	var steps []step
	have, err := ed.aliases(ctx, dn)
	if err != nil {
		return nil, err
	}
	for _, name := range sortedKeys(have) {
		if steps, err = ed.withoutNode(ctx, steps, have[name]); err != nil {
			return nil, err
		}
	}
	// The node goes last, because what else is to go is found by it.
	if hasClass(old, nodeClass) {
		if steps, err = ed.withoutBase(ctx, steps, dn, strings.TrimSpace(old.First(ed.s.DomainBaseDN))); err != nil {
			return nil, err
		}
	}
	main := len(steps)
	if steps, err = ed.withoutNode(ctx, steps, dn); err != nil {
		return nil, err
	}
	return ed.all(ctx, steps, main)
}

// withoutBase takes away the organization base of the node dn, unless another
// node leads there or it is for more than this domain.
func (ed *Editor) withoutBase(ctx context.Context, steps []step, dn, base string) ([]step, error) {
	users, err := ed.d.Find(ctx, ed.d.DCRoot(), []string{ed.s.DomainBaseDN}, []string{base}, 2)
	shared := errors.Is(err, directory.ErrTooMany) || len(users) > 1 || ed.isBase(base) ||
		slices.ContainsFunc(ed.d.Bases(), func(top string) bool { return sameName(top, base) })
	if err != nil && !shared {
		return nil, err
	}
	baseDN, raw, err := ed.raw(ctx, base)
	switch {
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, directory.ErrURL):
		return steps, nil
	case err != nil:
		return nil, err
	case shared && ed.s.Layout == directory.LayoutCompatible && strings.EqualFold(raw.First(ed.s.PreferredDomain), ed.d.Spelled(dn)):
		// It has the name too, and must not find what has no node any more.
		nameless := clone(raw)
		put(&nameless, ed.s.PreferredDomain)
		put(&nameless, ed.s.AssociatedDomain)
		put(&nameless, "objectClass", less(raw.Get("objectClass"), []string{ed.s.DomainClass})...)
		return append(steps, step{&Result{Op: Set, Kind: Other, DN: baseDN}, raw, nameless}), nil
	case shared:
		return steps, nil
	}
	containers, err := ed.empty(ctx, baseDN)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		steps = append(steps, step{&Result{Op: Delete, Kind: Other, DN: c, Changes: []Edit{{Attribute: "objectClass", Old: []string{"organizationalUnit"}}}}, nil, nil})
	}
	return append(steps, step{&Result{Op: Delete, Kind: ed.kindOf(baseDN, raw), DN: baseDN, Changes: diff(raw, nil)}, raw, nil}), nil
}
