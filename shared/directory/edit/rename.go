package edit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
)

// rename gives a domain or an entry another name. What names it by the old one
// (members, URLs, bases, aliases) is changed afterwards, one by one. All of it is
// done, or nothing; what ended in between is gone on with by the same request.
func (ed *Editor) rename(ctx context.Context, req Request) (*Result, error) {
	return ed.whole(ctx, func() (*Result, error) {
		request := asked("", req.Kind, req.Name, req.To, req.Values["uid"]...)
		it, dn, old, err := ed.unfinished(ctx, request)
		if err != nil {
			return nil, err
		}
		if it == nil {
			it = &intent{request: request}
			if dn, old, err = ed.Show(ctx, req.Kind, req.Name); err != nil {
				return nil, err
			}
			it.from = dn
		}
		return ed.renameAll(ctx, req, it, dn, old)
	})
}

func (ed *Editor) renameAll(ctx context.Context, req Request, it *intent, dn string, old directory.Attributes) (*Result, error) {
	if req.Kind != Domain {
		return ed.renameEntry(ctx, req, it, dn, old)
	}
	to, err := directory.NormalizeDomain(strings.TrimSpace(req.To))
	if err != nil || to == "" || strings.ContainsAny(to, " @,=") {
		return nil, badf("domain %q: want a name such as example.org", req.To)
	}
	if !it.found {
		it.domain = ed.domainName(dn, old)
		if strings.EqualFold(it.domain, to) { // it is so already
			return &Result{Op: Set, Kind: Domain, DN: dn, Changes: []Edit{}}, nil
		}
		if err := ed.properName(ctx, req.Name, dn, old); err != nil {
			return nil, err
		}
	}
	switch {
	case ed.d.InTree(dn):
		return ed.renameNode(ctx, req, it, dn, to, old)
	case ed.isBase(dn):
		return nil, badf("the name of %s is in the configuration: change it there", req.Name)
	}
	return ed.renameOrganization(ctx, req, it, dn, to, old)
}

// moving is a change of an entry's name.
type moving struct {
	res      *Result
	it       *intent
	several  bool   // more is written than the attributes of the entry
	attr     string // of the first part of the name
	value    string // its new value
	below    string // the new place, "" for the old one
	address  string // by which it is to be found as soon as it is there
	old, raw directory.Attributes
}

// named begins the change of the entry dn to one that value names, below
// parent unless that is empty.
func named(kind Kind, it *intent, dn, value, parent string, old, raw directory.Attributes) (*moving, error) {
	attr, was, ok := ldap.First(dn)
	if !ok {
		return nil, badf("%s is named by several attributes", dn)
	}
	if value == "" {
		value = was
	}
	m := &moving{res: &Result{Op: Rename, Kind: kind, DN: dn}, it: it, several: it.found, attr: attr, value: value, old: old, raw: raw}
	if parent != "" && !sameName(parent, ldap.Parent(dn)) {
		m.below = parent
	} else {
		parent = ldap.Parent(dn)
	}
	to, err := ldap.Child(attr, value, parent)
	if err != nil {
		return nil, badf("%s %q: %v", attr, value, err)
	}
	if !sameName(to, dn) {
		m.res.NewDN, m.several = to, true
		put(&m.raw, attr, more(less(raw.Get(attr), []string{was}), []string{value})...)
	}
	return m, nil
}

// move judges and makes the change of a name, then that of the attributes and of
// what names the entry.
func (ed *Editor) move(ctx context.Context, m *moving) (*Result, error) {
	if m.res.NewDN == "" {
		return ed.stay(ctx, m)
	}
	if err := ed.vacant(ctx, m.res.NewDN); err != nil {
		return nil, err
	}
	if err := ed.judge(ctx, m.res, m.old, m.raw); err != nil {
		return refusal(m.res, err)
	}
	if err := ed.note(ctx, m); err != nil {
		return nil, err
	}
	// Servers change the attribute that is the name with it.
	renamed := clone(m.old)
	attr, was, _ := ldap.First(m.res.DN)
	keep := holds(m.raw.Get(attr), was) && !strings.EqualFold(was, m.value)
	if !keep {
		put(&renamed, attr, less(renamed.Get(attr), []string{was})...)
	}
	put(&renamed, m.attr, more(renamed.Get(m.attr), []string{m.value})...)
	mods := modifications(diff(renamed, m.raw))
	res, err := ed.do(ctx, m.res, m.raw, func() error { return ed.renameAndSet(ctx, m, keep, mods) })
	if err != nil {
		return res, err
	}
	if n := len(ed.undo); n > 0 {
		ed.undo[n-1].old = m.old
	}
	return res, ed.references(ctx, res, m.it.from, res.NewDN)
}

// stay is move for an entry that keeps its name, or has the new one already.
func (ed *Editor) stay(ctx context.Context, m *moving) (*Result, error) {
	m.res.Op = Set
	if m.it.moved(m.res.DN) { // and was judged before
		m.res.Changes = diff(m.old, m.raw)
	} else if err := ed.judge(ctx, m.res, m.old, m.raw); err != nil {
		return refusal(m.res, err)
	}
	res := m.res
	if err := ed.note(ctx, m); err != nil {
		return nil, err
	}
	if len(res.Changes) > 0 {
		if res, err := ed.write(ctx, res, m.raw); err != nil {
			return res, err
		}
	}
	if !m.it.moved(res.DN) {
		return res, nil
	}
	return res, ed.references(ctx, res, m.it.from, res.DN)
}

// end is what is left when all of a rename is done: the note goes.
func (ed *Editor) end(ctx context.Context, res *Result, err error) (*Result, error) {
	if err != nil {
		return res, err
	}
	dn := res.DN
	if res.NewDN != "" {
		dn = res.NewDN
	}
	return res, ed.finished(ctx, res.Kind, dn)
}

// renameEntry gives a user or group another address, and another name when it
// is called by the old one. The old address stays, as an alternate one, where
// the domain's base stays. Where it does not, the entry has the new one before it
// leaves, and the old one until it is there: an address is looked for below the
// base of its domain only.
func (ed *Editor) renameEntry(ctx context.Context, req Request, it *intent, dn string, old directory.Attributes) (*Result, error) {
	to, err := mail.ParseAddress(written(req.To), true)
	if err != nil {
		return nil, badf("address %q: %v", req.To, err)
	}
	d, err := ed.check.Domain(ctx, to.Domain)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", to.Domain, err)
	}
	_, stays := ldap.Moved(it.from, d.BaseDN, d.BaseDN)
	raw := clone(old)
	was := strings.TrimSpace(raw.First(ed.s.Mail))
	put(&raw, ed.s.Mail, to.String())
	for _, attr := range slices.Concat(ed.s.Alternate, ed.s.Equivalent) {
		if attr != "" && !strings.EqualFold(attr, ed.s.Mail) {
			put(&raw, attr, less(raw.Get(attr), []string{to.String()})...)
		}
	}
	if attr := alternate(ed.s); stays && attr != "" && was != "" && !strings.EqualFold(was, to.String()) {
		put(&raw, attr, more(raw.Get(attr), []string{was})...)
	}
	parent := ""
	if !stays {
		if parent, err = ed.parent(ctx, d, req.Kind); err != nil {
			return nil, err
		}
	}
	value := ""
	attr, name, _ := ldap.First(dn)
	switch uid := first(req.Values["uid"]); {
	case req.Kind == User && uid != "":
		put(&raw, ed.s.UID, uid)
		if strings.EqualFold(attr, ed.s.UID) {
			value = uid
		}
	case req.Kind == Group && strings.EqualFold(name, localPart(was)):
		value = to.Local
	case strings.EqualFold(attr, ed.s.Mail):
		value = to.String()
	}
	if req.Kind == User && !req.NewMailbox && !it.found && (!stays || !strings.EqualFold(raw.First(ed.s.UID), old.First(ed.s.UID))) {
		return nil, badf("the mailbox of %s would be called %s@%s: what is in the old one would be left there; say that a new mailbox is meant, or keep the uid and the domain",
			req.Name, strings.ToLower(raw.First(ed.s.UID)), d.Name)
	}
	m, err := named(req.Kind, it, dn, value, parent, old, raw)
	if err != nil {
		return nil, err
	}
	if m.below != "" && !ed.between(dn, old, raw) {
		m.address = to.String()
	}
	res, err := ed.move(ctx, m)
	return ed.end(ctx, res, err)
}

// between reports whether an entry whose place and attributes change one after the
// other is a third mailbox in between, which no mail is to reach: that is where its
// uid changes, and does not name it.
func (ed *Editor) between(dn string, old, raw directory.Attributes) bool {
	attr, _, _ := ldap.First(dn)
	return !strings.EqualFold(attr, ed.s.UID) && !strings.EqualFold(raw.First(ed.s.UID), old.First(ed.s.UID))
}

// renameRecord changes a name as a record of LDIF says. No mailbox gets another
// name so, because nobody says that it may.
func (ed *Editor) renameRecord(ctx context.Context, rec *embedded.Record) (*Result, error) {
	request := asked("entry", "", rec.DN, rec.NewRDN, rec.NewSuperior)
	it, dn, old, err := ed.unfinished(ctx, request)
	if err != nil {
		return nil, err
	}
	if it == nil {
		if dn, old, err = ed.raw(ctx, rec.DN); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.DN, err)
		}
		it = &intent{request: request, from: dn}
	}
	attr, was, ok := ldap.First(dn)
	newAttr, value, newOK := ldap.First(rec.NewRDN)
	if !ok || !newOK {
		return nil, badf("%s, to be called %s: names of several attributes are not changed here", dn, rec.NewRDN)
	}
	kind := ed.kindOf(dn, old)
	m := &moving{res: &Result{Op: Rename, Kind: kind, DN: dn}, it: it, attr: newAttr, value: value, below: rec.NewSuperior, old: old, raw: clone(old)}
	parent := m.below
	if parent == "" {
		parent = ldap.Parent(dn)
	}
	to, err := ldap.Child(newAttr, value, parent)
	if err != nil {
		return nil, badf("%s: %v", rec.NewRDN, err)
	}
	if rec.DeleteOld {
		put(&m.raw, attr, less(m.raw.Get(attr), []string{was})...)
	}
	put(&m.raw, newAttr, more(m.raw.Get(newAttr), []string{value})...)
	switch {
	case kind == Domain:
		return nil, badf("%s is a domain: rename it by its name", dn)
	case kind == User && (!strings.EqualFold(m.raw.First(ed.s.UID), old.First(ed.s.UID)) || m.below != ""):
		return nil, badf("the mailbox of %s could be another one then: rename it by its address", dn)
	}
	if !sameName(to, dn) {
		m.res.NewDN = to
	}
	m.several = m.res.NewDN != "" || it.found
	res, err := ed.move(ctx, m)
	return ed.end(ctx, res, err)
}

// mayRename asks for the operator's word when the mailboxes of a domain would
// be called otherwise.
func (ed *Editor) mayRename(ctx context.Context, req Request, before, after, base string) error {
	if req.NewMailbox || before == after {
		return nil
	}
	err := ed.d.Scan(ctx, base, ldap.MailEntries, []string{"objectClass"}, func(dn string, raw directory.Attributes) error {
		if ed.s.KindOf(raw.Get("objectClass")) == directory.User {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return badf("mailboxes are called after the domain: those of %s would be left behind under %s; say that new mailboxes are meant, or add %s as an alias instead", before, before, after)
	}
	return err
}

// renameOrganization gives a domain of Schema 2 another name. The old one stays
// as an alias.
func (ed *Editor) renameOrganization(ctx context.Context, req Request, it *intent, dn, to string, old directory.Attributes) (*Result, error) {
	dom, _ := ed.s.ReadDomain(dn, old)
	from := dom.Name
	if it.found {
		from = it.domain
	} else if err := ed.mayRename(ctx, req, from, to, dom.BaseDN); err != nil {
		return nil, err
	}
	raw := clone(old)
	ed.call(&raw, from, to)
	value := ""
	if _, name, _ := ldap.First(dn); strings.EqualFold(name, from) {
		value = to
	}
	m, err := named(Domain, it, dn, value, "", old, raw)
	if err != nil {
		return nil, err
	}
	m.several = m.several || from != to
	res, err := ed.move(ctx, m)
	if err != nil || len(res.Changes) == 0 && !it.found {
		return res, err
	}
	now := dn
	if res.NewDN != "" {
		now = res.NewDN
	}
	base, _ := ldap.Moved(dom.BaseDN, it.from, now)
	return ed.end(ctx, res, ed.readdress(ctx, res, base, from, to))
}

// readdress gives what is below base addresses of the domain's new name instead
// of the old one, which finds them as well, being an alias.
func (ed *Editor) readdress(ctx context.Context, res *Result, base, from, to string) error {
	attrs := ed.s.AddressAttributes()
	suffix := "@" + from
	renewed := func(raw directory.Attributes) (out directory.Attributes, changed bool) {
		out = clone(raw)
		for _, attr := range attrs {
			values := out.Get(attr)
			for i, v := range values {
				if n := len(v) - len(suffix); n >= 0 && strings.EqualFold(v[n:], suffix) {
					values[i], changed = v[:n]+"@"+to, true
				}
			}
		}
		return out, changed
	}
	if ed.cfg.DryRun && res.NewDN != "" { // nothing has moved
		base, _ = ldap.Moved(base, res.NewDN, res.DN)
	}
	return ed.correct(ctx, res, renewed, func(look lookAt) error {
		return look(base, ldap.MailEntries, attrs)
	})
}

// call gives the entry of a domain the name to, with the old one as an alias.
func (ed *Editor) call(raw *directory.Attributes, from, to string) {
	put(raw, ed.s.PreferredDomain, to)
	if attr := ed.s.AssociatedDomain; attr != "" {
		put(raw, attr, more(less(raw.Get(attr), []string{to}), []string{from})...)
	}
}

// renameNode gives a domain of the DC tree another name. The old one stays as an
// alias.
func (ed *Editor) renameNode(ctx context.Context, req Request, it *intent, dn, to string, old directory.Attributes) (*Result, error) {
	if !hasClass(old, nodeClass) {
		return nil, badf("%s is an alias: add another and remove it", dn)
	}
	target, err := ed.d.Node(to)
	if err != nil {
		return nil, badf("domain %q: %v", to, err)
	}
	err = ed.d.Scan(ctx, dn, ldap.Everything, []string{"objectClass"}, func(below string, _ directory.Attributes) error {
		if sameName(below, dn) {
			return nil
		}
		return badf("%s is below %s and would be called otherwise too", below, dn)
	})
	if err != nil {
		return nil, err
	}
	from := it.domain
	raw := clone(old)
	if attr := ed.s.CanonicalDomain; attr != "" && strings.EqualFold(raw.First(attr), from) {
		put(&raw, attr, to)
	}
	was, _ := ed.s.ReadNode(dn, from, old)
	becomes, _ := ed.s.ReadNode(target, to, raw)
	if !it.found {
		if err := ed.mayRename(ctx, req, was.Name, becomes.Name, was.BaseDN); err != nil {
			return nil, err
		}
	}
	way, err := ed.onTheWay(ctx, nil, target)
	if err != nil {
		return nil, err
	}
	_, value, _ := ldap.First(target)
	m, err := named(Domain, it, dn, value, ldap.Parent(target), old, raw)
	if err != nil {
		return nil, err
	}
	m.several = true
	var also []*Result
	for _, s := range way {
		res, err := ed.put(ctx, s.res, s.old, s.raw)
		if err != nil {
			return res, err
		}
		also = append(also, res)
	}
	res, err := ed.move(ctx, m)
	if res != nil {
		res.Also = append(also, res.Also...)
	}
	if err != nil {
		return res, err
	}
	return ed.end(ctx, res, ed.afterNode(ctx, res, was.BaseDN, from, to, target))
}

// afterNode makes the alias that a renamed node leaves, and in the
// compatibility mode renames the organization.
func (ed *Editor) afterNode(ctx context.Context, res *Result, base, from, to, target string) error {
	steps, err := ed.aliasNodes(ctx, nil, []string{from}, target)
	if err != nil {
		return err
	}
	if ed.s.Layout == directory.LayoutCompatible {
		dn, old, err := ed.raw(ctx, base)
		if err != nil {
			return err
		}
		if strings.EqualFold(old.First(ed.s.PreferredDomain), from) {
			raw := clone(old)
			ed.call(&raw, from, to)
			steps = append(steps, step{&Result{Op: Set, Kind: Domain, DN: dn}, old, raw})
		}
	}
	for _, s := range steps {
		one, err := ed.put(ctx, s.res, s.old, s.raw)
		if err != nil {
			return fmt.Errorf("%s is renamed, and %s is not as it should be: %w", from, s.res.DN, err)
		}
		res.Also = append(res.Also, one)
	}
	return ed.readdress(ctx, res, base, from, to)
}

// lookAt reads the entries at and below base, for what is to be corrected.
type lookAt func(base string, what ldap.Selection, attrs []string) error

// correct changes what change says of the entries that where looks at. It goes
// on after a failure, and tells of all.
func (ed *Editor) correct(ctx context.Context, res *Result, change func(directory.Attributes) (directory.Attributes, bool), where func(lookAt) error) error {
	var dns []string
	err := where(func(base string, what ldap.Selection, attrs []string) error {
		attrs = slices.DeleteFunc(slices.Clone(attrs), func(a string) bool { return a == "" })
		return ed.d.Scan(ctx, base, what, attrs, func(dn string, raw directory.Attributes) error {
			if _, changed := change(raw); changed {
				dns = append(dns, dn)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("%s is renamed, and what names it is not known: %w", res.DN, err)
	}
	for _, dn := range dns {
		if ed.cfg.DryRun && res.NewDN != "" && sameName(dn, res.DN) {
			dn = res.NewDN // as the run has it
		}
		dn, old, rerr := ed.raw(ctx, dn)
		if rerr != nil {
			err = errors.Join(err, rerr)
			continue
		}
		raw, _ := change(old)
		one := &Result{Op: Set, Kind: ed.kindOf(dn, old), DN: dn, Changes: diff(old, raw)}
		res.Also = append(res.Also, one)
		if _, werr := ed.write(ctx, one, raw); werr != nil {
			err = errors.Join(err, fmt.Errorf("%s still has the old name: %w", dn, werr))
		}
	}
	return err
}

// references changes what names a renamed entry, or what is below it, by the
// old name from, to name it by the new one.
func (ed *Editor) references(ctx context.Context, res *Result, from, to string) error {
	s := ed.s
	inGroups := slices.Concat(s.MemberDN, s.MemberURL, []string{s.Moderator, s.AllowedBroadcaster, s.DisallowedBroadcaster, s.ErrorsTo, s.RequestTo})
	inDomains := []string{s.DomainBaseDN, s.DomainAlias}
	change := func(raw directory.Attributes) (directory.Attributes, bool) {
		return redirected(raw, slices.Concat(inGroups, inDomains), from, to)
	}
	return ed.correct(ctx, res, change, func(look lookAt) error {
		for _, base := range ed.d.Bases() {
			if err := look(base, ldap.Groups, inGroups); err != nil {
				return err
			}
			if res.Kind == Domain && s.DomainClass != "" {
				if err := look(base, ldap.DomainEntries, inDomains); err != nil {
					return err
				}
			}
		}
		if root := ed.d.DCRoot(); root != "" && res.Kind == Domain {
			return look(root, ldap.Everything, inDomains)
		}
		return nil
	})
}

// redirected is raw with the values of attrs that name from, or what is below
// it, naming to: as names and in LDAP URLs.
func redirected(raw directory.Attributes, attrs []string, from, to string) (out directory.Attributes, changed bool) {
	out = clone(raw)
	for _, attr := range attrs {
		values := out.Get(attr)
		for i, v := range values {
			now, ok := ldap.Moved(v, from, to)
			if u, err := directory.ParseURL(v); !ok && err == nil {
				now, ok = u.At(v, func(dn string) (string, bool) { return ldap.Moved(dn, from, to) })
			}
			if ok && now != v {
				values[i], changed = now, true
			}
		}
	}
	return out, changed
}
