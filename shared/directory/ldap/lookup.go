package ldap

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Lookup implements directory.Directory with one search, unless LookupURLs are
// configured. An address that is nobody's is asked again of the master, if
// there is one.
func (d *Directory) Lookup(ctx context.Context, dom *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if a.Local == "" || len(a.Local) > mail.MaxLocalPart {
		return nil, directory.ErrNotFound
	}
	ans, err := d.lookup(ctx, dom, a)
	if errors.Is(err, directory.ErrNotFound) && d.master != nil {
		if ans, err = d.master.lookup(ctx, dom, a); err == nil {
			d.lags("lookup of " + a.String())
		}
	}
	if errors.Is(err, directory.ErrNotFound) && len(dom.CatchAllOwners) > 0 && dom.Vanity == "" {
		ans, err = &directory.Answer{CatchAll: true}, nil
		for _, e := range dom.CatchAllOwners {
			ans.Entries = append(ans.Entries, e.In(dom))
		}
	}
	if err != nil {
		return nil, d.note("lookup of "+a.String(), err)
	}
	if len(ans.Entries) > 1 {
		if _, err := directory.Sole(ans.Entries); errors.Is(err, directory.ErrAmbiguous) {
			_ = d.note("lookup of "+a.String(), err) // told, and the caller decides
		}
	}
	return ans, nil
}

func (d *Directory) lookup(ctx context.Context, dom *directory.Domain, a mail.Address) (*directory.Answer, error) {
	m := d.match(dom, a)
	if len(d.urls) == 0 {
		base, filter := dom.BaseDN, owners(d.address, m.values)
		text := func() string { return anyEqual(d.address, m.values) }
		if dom.Vanity != "" {
			attr := d.cfg.Schema.VanityDomain
			base, filter = d.cfg.Base, ownersWith(attr, dom.Vanity, filter)
			text = func() string { return both(oneEqual(attr, dom.Vanity), anyEqual(d.address, m.values)) }
		}
		found, err := d.ask(ctx, base, ldap.ScopeWholeSubtree, filter, text, d.entry, maxMatches)
		if err != nil {
			return nil, d.whole(err)
		}
		return m.answer(d, found, false)
	}
	q := asked{
		root: d.Base(), base: dom.BaseDN, address: a.String(), user: m.user, detail: m.detail, domain: a.Domain,
		owns: anyEqual(d.address, m.values), classes: d.classes,
	}
	for _, u := range d.urls {
		base, filter, err := u.search(&q)
		if err == nil {
			err = d.inside(base)
		}
		if err != nil {
			return nil, err
		}
		attrs := d.entry
		switch {
		case u.all:
			attrs = append([]string{"*"}, d.cfg.Schema.Stamp...)
		case u.attributes != nil:
			attrs = u.attributes
		}
		found, err := d.search(ctx, base, u.scope, filter, attrs, maxMatches)
		if err != nil {
			return nil, d.missing(ctx, err)
		}
		if ans, err := m.answer(d, found, true); err == nil {
			return ans, nil
		}
	}
	return nil, directory.ErrNotFound
}

// match is how the entries of an address are told.
type match struct {
	dom          *directory.Domain
	whole        []string // spellings of the whole address
	wild         []string // spellings of "user+*@domain"
	all          []string // spellings of "@domain"
	values       []string // everything to search for
	user, detail string
	hasDetail    bool
}

func (d *Directory) match(dom *directory.Domain, a mail.Address) *match {
	m := &match{dom: dom, user: a.Local}
	names := d.names(dom, a.Domain)
	m.whole = spellings(a.Local, names)
	m.values = m.whole
	if wild, base, detail := d.cfg.Schema.Parts(a.Local); wild != "" {
		m.user, m.detail, m.hasDetail = a.Local[:len(wild)-len("*")-len(d.cfg.Schema.Separator)], detail, true
		m.wild = spellings(wild, names)
		m.values = slices.Concat(m.whole, m.wild)
		if base != "" {
			m.values = append(m.values, spellings(base, names)...)
		}
	}
	for _, n := range names {
		m.all = append(m.all, "@"+n)
	}
	return m
}

// names are the domains under which the addresses of name are looked for: name
// itself, and the canonical one (directory.md 4.4). For a subdomain without an
// entry these are its parent's, if UplevelAddresses says so.
func (d *Directory) names(dom *directory.Domain, name string) []string {
	out := []string{name}
	switch {
	case dom.Vanity != "":
		return out
	case dom.Parent != "":
		if d.cfg.Uplevel&UplevelAddresses == 0 {
			return out
		}
		out = append(out, dom.Parent)
	}
	if !slices.Contains(out, dom.Name) {
		out = append(out, dom.Name)
	}
	return out
}

// spellings are the addresses that local has in domains.
func spellings(local string, domains []string) []string {
	out := make([]string, len(domains))
	for i, d := range domains {
		out[i] = mail.Address{Local: local, Domain: d}.String()
	}
	return out
}

// answer sorts what was found. An entry that owns none of the addresses, which
// only a configured URL can find, owns the whole domain or is as good as exact.
func (m *match) answer(d *Directory, found []result, configured bool) (*directory.Answer, error) {
	var exact, wild, stem, all []*directory.Entry
	for i := range found {
		e := place(d.read(&found[i]), m.dom)
		switch {
		case e.Kind == directory.Other:
			d.cfg.Log.Debug("directory entry has an address but not the classes", "dn", e.DN, "classes", e.Classes)
		case slices.ContainsFunc(m.whole, e.Owns):
			exact = append(exact, e)
		case slices.ContainsFunc(m.wild, e.Owns):
			wild = append(wild, e)
		case configured && slices.ContainsFunc(m.all, e.Owns):
			all = append(all, e)
		case configured && !slices.ContainsFunc(m.values, e.Owns) || !m.hasDetail:
			exact = append(exact, e)
		default:
			stem = append(stem, e)
		}
	}
	switch {
	case len(exact) > 0:
		return &directory.Answer{Entries: exact}, nil
	case len(wild) > 0:
		return &directory.Answer{Entries: wild, Detail: m.detail}, nil
	case len(stem) > 0:
		return &directory.Answer{Entries: stem, Detail: m.detail}, nil
	case len(all) > 0:
		return &directory.Answer{Entries: all, CatchAll: true}, nil
	}
	return nil, directory.ErrNotFound
}

// place sets what depends on the domain that e was found in.
func place(e *directory.Entry, dom *directory.Domain) *directory.Entry {
	e.Domain = dom
	if e.Kind == directory.User && e.UID != "" {
		e.Mailbox = dom.MailboxOf(e.UID)
	}
	return e
}

// Login implements directory.Directory. A login that is nobody's is asked again
// of the master, if there is one.
func (d *Directory) Login(ctx context.Context, login string) (*directory.Entry, error) {
	if login == "" || len(login) > mail.MaxPath || strings.ContainsFunc(login, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, directory.ErrNotFound
	}
	e, err := d.login(ctx, login)
	if errors.Is(err, directory.ErrNotFound) && d.master != nil {
		if e, err = d.master.login(ctx, login); err == nil {
			d.lags("login of " + e.DN)
		}
	}
	if err != nil {
		return nil, d.note("login", err)
	}
	return e, nil
}

// login tries the separators: "@", then those that a domain may have instead.
func (d *Directory) login(ctx context.Context, login string) (*directory.Entry, error) {
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		return d.loginIn(ctx, login, login[:i], login[i+1:], "")
	}
	for _, sep := range d.cfg.LoginSeparators {
		i := strings.LastIndex(login, string(sep))
		if i <= 0 {
			continue
		}
		e, err := d.loginIn(ctx, login, login[:i], login[i+len(string(sep)):], string(sep))
		if !errors.Is(err, directory.ErrNotFound) {
			return e, err
		}
	}
	if d.deflt == "" {
		return d.loginAnywhere(ctx, login)
	}
	return d.loginIn(ctx, login, login, "", "")
}

// loginIn finds a user in a domain, "" being the default one. With a separator
// the domain must have it.
func (d *Directory) loginIn(ctx context.Context, login, user, domain, separator string) (*directory.Entry, error) {
	if user == "" || domain == "" && strings.Contains(login, "@") {
		return nil, directory.ErrNotFound
	}
	name, err := directory.NormalizeDomain(domain)
	if err != nil {
		return nil, directory.ErrNotFound
	}
	if name == "" {
		name = d.deflt
	}
	dom, err := d.find(ctx, name, false)
	if err != nil {
		return nil, err
	}
	if separator != "" && dom.UIDSeparator != separator {
		return nil, directory.ErrNotFound
	}
	filter, err := d.loginFilter(dom, login, user, name, domain != "")
	if err != nil {
		return nil, err
	}
	found, err := d.search(ctx, dom.BaseDN, ldap.ScopeWholeSubtree, filter, d.entry, maxMatches)
	if err != nil {
		return nil, d.whole(err)
	}
	var byUID, byAddress []*directory.Entry
	for i := range found {
		switch e := place(d.read(&found[i]), dom); {
		case e.Mailbox == "":
		case strings.EqualFold(e.UID, user):
			byUID = append(byUID, e)
		default:
			byAddress = append(byAddress, e)
		}
	}
	if len(byUID) == 0 {
		byUID = byAddress
	}
	return directory.Sole(byUID)
}

// loginFilter is how a login is found: as the domain says (directory.md 3,
// inetDomainSearchFilter), or by uid; and, with a domain, by address.
func (d *Directory) loginFilter(dom *directory.Domain, login, user, name string, hasDomain bool) (string, error) {
	filter := oneEqual(d.cfg.Schema.UID, user)
	if dom.SearchFilter != "" {
		var err error
		if filter, err = loginFilter(dom.SearchFilter, user, name, login); err != nil {
			return "", err
		}
	}
	if !hasDomain {
		return filter, nil
	}
	return either(filter, anyEqual(d.address, spellings(user, d.names(dom, name)))), nil
}

// loginAnywhere finds a bare uid when there is no default domain; the user's
// mail address tells the domain.
func (d *Directory) loginAnywhere(ctx context.Context, user string) (*directory.Entry, error) {
	if d.cfg.Base == "" {
		return nil, directory.ErrNotFound
	}
	found, err := d.search(ctx, d.cfg.Base, ldap.ScopeWholeSubtree, oneEqual(d.cfg.Schema.UID, user), d.entry, maxMatches)
	if err != nil {
		return nil, d.whole(err)
	}
	var users []*directory.Entry
	for i := range found {
		if e := d.read(&found[i]); e.Kind == directory.User && e.UID != "" {
			users = append(users, e)
		}
	}
	e, err := directory.Sole(users)
	if err != nil {
		return nil, err
	}
	a, err := mail.ParseAddress(e.Mail, true)
	if err != nil {
		return nil, directory.ErrNotFound
	}
	name, err := directory.NormalizeDomain(a.Domain)
	if err != nil {
		return nil, directory.ErrNotFound
	}
	dom, err := d.find(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return place(e, dom), nil
}
