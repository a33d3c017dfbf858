package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// maxMatches is the most entries that one address or login is read for. More
// than one is a fault of the directory already.
const maxMatches = 16

var (
	errReferral   = errors.New("referral: not followed")
	errUnfinished = errors.New("more results than wanted")
)

// Directory is a directory.Directory over LDAP servers.
type Directory struct {
	cfg   Config
	pool  *pool
	bases []*ldap.DN

	static  map[string]*Domain // by each name
	deflt   string
	hosts   []string
	domain  []string // attributes
	entry   []string
	address []string
}

var _ directory.Directory = (*Directory)(nil)

// New checks cfg. It does not connect: that happens when the first question is
// asked.
func New(cfg Config) (*Directory, error) {
	cfg.defaults()
	d := &Directory{cfg: cfg, static: map[string]*Domain{}}
	var err error
	if d.bases, err = cfg.bases(); err == nil {
		d.pool, err = newPool(&d.cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	for i := range cfg.Domains {
		sd := &cfg.Domains[i]
		if sd.Base == "" {
			return nil, fmt.Errorf("directory: domain %q has no base", sd.Name)
		}
		for _, name := range append([]string{sd.Name}, sd.Aliases...) {
			n, err := directory.NormalizeDomain(name)
			if err != nil || n == "" {
				return nil, fmt.Errorf("directory: bad domain name %q", name)
			}
			if d.static[n] != nil {
				return nil, fmt.Errorf("directory: domain %q is given twice", name)
			}
			d.static[n] = sd
		}
	}
	if d.deflt, err = directory.NormalizeDomain(cfg.DefaultDomain); err != nil {
		return nil, fmt.Errorf("directory: bad default domain %q", cfg.DefaultDomain)
	}
	for _, h := range cfg.URLHosts {
		d.hosts = append(d.hosts, strings.ToLower(h))
	}
	for _, s := range d.pool.servers {
		d.hosts = append(d.hosts, s.host, s.addr)
	}
	d.domain, d.entry, d.address = cfg.Schema.DomainAttributes(), cfg.Schema.EntryAttributes(), cfg.Schema.AddressAttributes()
	return d, nil
}

// Close ends all connections. Questions asked afterwards fail with
// directory.ErrUnavailable.
func (d *Directory) Close() { d.pool.close() }

// Ready reports whether a server is in use and the base exists there, for
// start-up checks.
func (d *Directory) Ready(ctx context.Context) error {
	if !d.pool.available() {
		return directory.ErrUnavailable
	}
	return d.baseExists(ctx)
}

// search runs one bounded search without paging. A result that is not known to
// be whole is an error.
func (d *Directory) search(ctx context.Context, base string, scope int, filter string, attrs []string, limit int) ([]*ldap.Entry, error) {
	req := ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, d.seconds(), false, filter, attrs, nil)
	var entries []*ldap.Entry
	err := d.pool.do(ctx, &query{op: "search", slowIsBad: true, run: func(c *ldap.Conn) error {
		res, err := c.Search(req)
		if err != nil {
			return err
		}
		if len(res.Referrals) > 0 {
			return &ldap.Error{ResultCode: ldap.LDAPResultReferral, Err: errReferral}
		}
		entries = res.Entries
		return nil
	}})
	return entries, err
}

func (d *Directory) seconds() int { return max(1, int(d.cfg.Timeout/time.Second)) }

// baseExists tells a missing entry from a server that lacks the whole tree.
func (d *Directory) baseExists(ctx context.Context) error {
	base := d.Base()
	_, err := d.search(ctx, base, ldap.ScopeBaseObject, "(objectClass=*)", []string{"1.1"}, 1)
	if err != nil {
		return fmt.Errorf("base %q: %w", base, err)
	}
	return nil
}

// missing turns "no such object" for something below the base into ErrNotFound,
// once it is clear that the base itself is there.
func (d *Directory) missing(ctx context.Context, err error) error {
	if !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return err
	}
	if baseErr := d.baseExists(ctx); baseErr != nil {
		return baseErr
	}
	return directory.ErrNotFound
}

func attributes(e *ldap.Entry) directory.Attributes {
	out := make(directory.Attributes, 0, len(e.Attributes))
	for _, a := range e.Attributes {
		out = append(out, directory.Attribute{Name: strings.ToLower(a.Name), Values: a.Values})
	}
	return out
}

func (d *Directory) read(le *ldap.Entry) *directory.Entry {
	e := d.cfg.Schema.ReadEntry(le.DN, attributes(le))
	e.Fetched = time.Now()
	if len(e.Faults) > 0 {
		d.cfg.Log.Debug("directory entry has values that cannot be read", "dn", e.DN, "faults", e.Faults)
	}
	return e
}

// place sets what depends on the domain that e was found in.
func place(e *directory.Entry, dom *directory.Domain) *directory.Entry {
	e.Domain = dom
	if e.Kind == directory.User && e.UID != "" {
		e.Mailbox = e.UID + "@" + dom.Name
	}
	return e
}

// equal is a filter item that tests one attribute for one value.
func equal(b *strings.Builder, attr, value string) {
	b.WriteByte('(')
	b.WriteString(attr)
	b.WriteByte('=')
	b.WriteString(ldap.EscapeFilter(value))
	b.WriteByte(')')
}

// anyOf is a filter that is true when one of attrs has one of values.
func anyOf(b *strings.Builder, attrs, values []string) {
	b.WriteString("(|")
	for _, v := range values {
		for _, a := range attrs {
			equal(b, a, v)
		}
	}
	b.WriteByte(')')
}

// Domain implements directory.Directory. ErrAmbiguous names both entries.
func (d *Directory) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	if sd := d.static[name]; sd != nil {
		return d.staticDomain(ctx, sd)
	}
	s := &d.cfg.Schema
	if s.DomainClass == "" || d.cfg.Base == "" || name == "" || len(name) > mail.MaxDomain {
		return nil, directory.ErrNotFound
	}
	var f strings.Builder
	f.WriteString("(&")
	equal(&f, "objectClass", s.DomainClass)
	names := make([]string, 0, 2)
	for _, a := range []string{s.PreferredDomain, s.AssociatedDomain} {
		if a != "" {
			names = append(names, a)
		}
	}
	anyOf(&f, names, []string{name})
	f.WriteByte(')')
	found, err := d.search(ctx, d.cfg.Base, ldap.ScopeWholeSubtree, f.String(), d.domain, maxMatches)
	switch {
	case err != nil:
		return nil, fmt.Errorf("domain %s: %w", name, err)
	case len(found) == 0:
		return nil, directory.ErrNotFound
	case len(found) > 1:
		return nil, fmt.Errorf("domain %s: %w: %q and %q", name, directory.ErrAmbiguous, found[0].DN, found[1].DN)
	}
	dom, ok := s.ReadDomain(found[0].DN, attributes(found[0]))
	if !ok {
		return nil, fmt.Errorf("domain %s: entry %q has no usable %s", name, dom.DN, s.PreferredDomain)
	}
	if err := d.inside(dom.BaseDN); err != nil {
		return nil, fmt.Errorf("domain %s: base %q: %w", name, dom.BaseDN, err)
	}
	dom.Fetched = time.Now()
	return dom, nil
}

// staticDomain reads the entry at the base of a configured domain, for its
// status. That the base is missing is a fault, not an answer.
func (d *Directory) staticDomain(ctx context.Context, sd *Domain) (*directory.Domain, error) {
	found, err := d.search(ctx, sd.Base, ldap.ScopeBaseObject, "(objectClass=*)", d.domain, 1)
	if err == nil && len(found) != 1 {
		err = errors.New("base entry is not visible")
	}
	if err != nil {
		return nil, fmt.Errorf("domain %s: base %q: %w", sd.Name, sd.Base, err)
	}
	dom, _ := d.cfg.Schema.ReadDomain(found[0].DN, attributes(found[0]))
	name, _ := directory.NormalizeDomain(sd.Name) // New has checked it
	dom.Name, dom.BaseDN, dom.Fetched = name, sd.Base, time.Now()
	for _, alias := range sd.Aliases {
		if a, _ := directory.NormalizeDomain(alias); !dom.HasName(a) {
			dom.Aliases = append(dom.Aliases, a)
		}
	}
	return dom, nil
}

// Lookup implements directory.Directory with one search.
func (d *Directory) Lookup(ctx context.Context, dom *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if a.Local == "" || len(a.Local) > mail.MaxLocalPart {
		return nil, directory.ErrNotFound
	}
	base, detail, hasDetail := directory.SplitDetail(a.Local, d.cfg.Schema.Separator)
	whole := spellings(a.Local, a.Domain, dom.Name)
	values := whole
	if hasDetail {
		values = slices.Concat(whole, spellings(base, a.Domain, dom.Name))
	}
	var f strings.Builder
	anyOf(&f, d.address, values)
	found, err := d.search(ctx, dom.BaseDN, ldap.ScopeWholeSubtree, f.String(), d.entry, maxMatches)
	if err != nil {
		return nil, fmt.Errorf("lookup of %s: %w", a, err)
	}
	var exact, stem []*directory.Entry
	for _, le := range found {
		e := place(d.read(le), dom)
		switch {
		case e.Kind == directory.Other:
			d.cfg.Log.Debug("directory entry has an address but not the classes", "dn", e.DN, "classes", e.Classes)
		case !hasDetail || slices.ContainsFunc(whole, e.Owns):
			exact = append(exact, e)
		default:
			stem = append(stem, e)
		}
	}
	switch {
	case len(exact) > 0:
		return &directory.Answer{Entries: exact}, nil
	case len(stem) > 0:
		return &directory.Answer{Entries: stem, Detail: detail}, nil
	}
	return nil, directory.ErrNotFound
}

// spellings are the addresses that local has in a domain: under the name used
// and under the canonical one.
func spellings(local, name, canonical string) []string {
	out := []string{mail.Address{Local: local, Domain: name}.String()}
	if name != canonical {
		out = append(out, mail.Address{Local: local, Domain: canonical}.String())
	}
	return out
}

// Login implements directory.Directory.
func (d *Directory) Login(ctx context.Context, login string) (*directory.Entry, error) {
	user, domain, hasDomain := login, d.deflt, false
	if i := strings.LastIndexByte(login, '@'); i >= 0 {
		user, domain, hasDomain = login[:i], login[i+1:], true
	}
	if user == "" || len(login) > mail.MaxPath || strings.ContainsFunc(login, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, directory.ErrNotFound
	}
	if domain == "" {
		return d.loginAnywhere(ctx, user)
	}
	domain, err := directory.NormalizeDomain(domain)
	if err != nil {
		return nil, directory.ErrNotFound
	}
	dom, err := d.Domain(ctx, domain)
	if err != nil {
		return nil, err
	}
	var f strings.Builder
	f.WriteString("(|")
	equal(&f, d.cfg.Schema.UID, user)
	if hasDomain {
		anyOf(&f, d.address, spellings(user, domain, dom.Name))
	}
	f.WriteByte(')')
	found, err := d.search(ctx, dom.BaseDN, ldap.ScopeWholeSubtree, f.String(), d.entry, maxMatches)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	var byUID, byAddress []*directory.Entry
	for _, le := range found {
		switch e := place(d.read(le), dom); {
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
	return one(byUID)
}

func one(list []*directory.Entry) (*directory.Entry, error) {
	switch len(list) {
	case 0:
		return nil, directory.ErrNotFound
	case 1:
		return list[0], nil
	}
	return nil, fmt.Errorf("%w: %q and %q", directory.ErrAmbiguous, list[0].DN, list[1].DN)
}

// loginAnywhere finds a bare uid when there is no default domain; the user's
// mail address tells the domain.
func (d *Directory) loginAnywhere(ctx context.Context, user string) (*directory.Entry, error) {
	if d.cfg.Base == "" {
		return nil, directory.ErrNotFound
	}
	var f strings.Builder
	equal(&f, d.cfg.Schema.UID, user)
	found, err := d.search(ctx, d.cfg.Base, ldap.ScopeWholeSubtree, f.String(), d.entry, maxMatches)
	if err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	var users []*directory.Entry
	for _, le := range found {
		if e := d.read(le); e.Kind == directory.User && e.UID != "" {
			users = append(users, e)
		}
	}
	e, err := one(users)
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
	dom, err := d.Domain(ctx, name)
	if err != nil {
		return nil, err
	}
	return place(e, dom), nil
}

// Entry implements directory.Directory. A name outside the configured bases is
// ErrURL.
func (d *Directory) Entry(ctx context.Context, dn string) (*directory.Entry, error) {
	if err := d.inside(dn); err != nil {
		return nil, err
	}
	found, err := d.search(ctx, dn, ldap.ScopeBaseObject, "(objectClass=*)", d.entry, 1)
	switch {
	case err != nil:
		if err = d.missing(ctx, err); !errors.Is(err, directory.ErrNotFound) {
			err = fmt.Errorf("entry %q: %w", dn, err)
		}
		return nil, err
	case len(found) == 0:
		return nil, directory.ErrNotFound
	}
	return d.read(found[0]), nil
}

// inside reports as ErrURL a name that is not at or below one of the bases.
func (d *Directory) inside(dn string) error {
	parsed, err := ldap.ParseDN(dn)
	if err != nil || len(dn) > 8192 || len(parsed.RDNs) == 0 {
		return fmt.Errorf("%w: bad name", directory.ErrURL)
	}
	for _, b := range d.bases {
		if b.EqualFold(parsed) || b.AncestorOfFold(parsed) {
			return nil
		}
	}
	return fmt.Errorf("%w: name outside the configured bases", directory.ErrURL)
}

// Search implements directory.Directory, in pages. A name in the URL that does
// not exist is ErrNotFound; an empty one means the base.
func (d *Directory) Search(ctx context.Context, url string, limit int) ([]*directory.Entry, error) {
	u, err := directory.ParseURL(url)
	if err != nil {
		return nil, err
	}
	if u.Host != "" && !slices.Contains(d.hosts, u.Host) {
		return nil, fmt.Errorf("%w: host %q is not configured", directory.ErrURL, u.Host)
	}
	if u.DN == "" {
		u.DN = d.cfg.Base
	}
	if err := d.inside(u.DN); err != nil {
		return nil, err
	}
	if _, err := ldap.CompileFilter(u.Filter); err != nil {
		return nil, fmt.Errorf("%w: %w", directory.ErrURL, err)
	}
	var out []*directory.Entry
	err = d.pool.do(ctx, &query{op: "page", stock: func(s *server) *stock { return &s.pages }, run: func(c *ldap.Conn) (err error) {
		out, err = d.pages(ctx, c, u, limit)
		return err
	}})
	switch {
	case errors.Is(err, errUnfinished):
		return nil, fmt.Errorf("search %q: %w (%d)", url, directory.ErrTooMany, limit)
	case err != nil:
		if err = d.missing(ctx, err); !errors.Is(err, directory.ErrNotFound) {
			err = fmt.Errorf("search %q: %w", url, err)
		}
		return nil, err
	}
	return out, nil
}

func (d *Directory) pages(ctx context.Context, c *ldap.Conn, u *directory.URL, limit int) ([]*directory.Entry, error) {
	var out []*directory.Entry
	paging := ldap.NewControlPaging(uint32(min(d.cfg.PageSize, limit+1)))
	scope := [...]int{ldap.ScopeBaseObject, ldap.ScopeSingleLevel, ldap.ScopeWholeSubtree}[u.Scope]
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		req := ldap.NewSearchRequest(u.DN, scope, ldap.NeverDerefAliases, 0, d.seconds(), false, u.Filter, d.entry, []ldap.Control{paging})
		res, err := c.Search(req)
		if err != nil {
			return nil, err
		}
		if len(res.Referrals) > 0 {
			return nil, &ldap.Error{ResultCode: ldap.LDAPResultReferral, Err: errReferral}
		}
		if len(out)+len(res.Entries) > limit {
			return nil, errUnfinished
		}
		for _, le := range res.Entries {
			out = append(out, d.read(le))
		}
		next, _ := ldap.FindControl(res.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
		if next == nil || len(next.Cookie) == 0 {
			return out, nil
		}
		paging.SetCookie(next.Cookie)
	}
}

// Authenticate implements directory.Directory with a bind on a connection of
// its own. That an entry has no password, or is locked, is ErrBadPassword.
func (d *Directory) Authenticate(ctx context.Context, e *directory.Entry, password string) error {
	// RFC 4513 5.1.2: a bind with a name and no password succeeds, as nobody.
	if password == "" || e.DN == "" || len(password) > maxPassword {
		return directory.ErrBadPassword
	}
	err := d.pool.do(ctx, &query{op: "bind", slowIsBad: true, stock: func(s *server) *stock { return &s.binds }, run: func(c *ldap.Conn) error {
		err := c.Bind(e.DN, password)
		if ldap.IsErrorAnyOf(err, ldap.LDAPResultUnwillingToPerform) {
			err = &ldap.Error{ResultCode: ldap.LDAPResultInvalidCredentials, Err: err}
		}
		return err
	}})
	if ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultConstraintViolation) {
		return directory.ErrBadPassword
	}
	if err != nil {
		return fmt.Errorf("bind as %q: %w", e.DN, err)
	}
	return nil
}

// maxPassword is the longest password that is sent, in octets.
const maxPassword = 1024

// Base is the top of the tree, or the first domain's base without one.
func (d *Directory) Base() string {
	if d.cfg.Base == "" {
		return d.cfg.Domains[0].Base
	}
	return d.cfg.Base
}
