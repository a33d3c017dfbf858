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
)

// maxMatches is the most entries that one address or login is read for. More
// than one is a fault of the directory already.
const maxMatches = 16

var errReferral = errors.New("referral: not followed")

// anything is the filter that every entry matches.
const anything = "(objectClass=*)"

// Directory is a directory.Directory over LDAP servers.
type Directory struct {
	cfg     Config
	pool    *pool
	bases   []*ldap.DN // Base first
	dcRoot  *ldap.DN   // nil without a DC tree
	groups  *ldap.DN   // Config.NetgroupBase, nil without
	master  *Directory // the same at the master, nil without one
	reports *reporter

	static    map[string]*Domain // by each name
	deflt     string
	hosts     []string
	orgFilter template
	dcFilter  string
	urls      []*lookupURL
	classes   string // filter of users and groups

	domain, entry, address, catchAll, status, group []string // attributes
}

var _ directory.Directory = (*Directory)(nil)

// New checks cfg. It does not connect: that happens when the first question is
// asked.
func New(cfg Config) (*Directory, error) {
	cfg.defaults()
	d := &Directory{cfg: cfg, static: map[string]*Domain{}, reports: &reporter{}}
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
	if err := d.prepare(); err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return d, d.openMaster()
}

// prepare makes the lists and filters that the questions use.
func (d *Directory) prepare() (err error) {
	s := &d.cfg.Schema
	d.domain, d.entry, d.address = s.DomainAttributes(), s.EntryAttributes(), s.AddressAttributes()
	if s.VanityDomain != "" && d.cfg.Vanity {
		d.entry = append(d.entry, s.VanityDomain)
	}
	d.group = append([]string{"objectClass"}, d.address...)
	if s.GroupStatus != "" {
		d.group = append(d.group, s.GroupStatus)
	}
	d.status = []string{"objectClass"}
	if s.DomainStatus != "" {
		d.status = append(d.status, s.DomainStatus)
	}
	for _, a := range slices.Concat(s.Alternate, s.Equivalent) {
		if a != "" {
			d.catchAll = append(d.catchAll, a)
		}
	}
	d.classes = ofClasses(slices.Concat(s.UserClasses, s.GroupClasses)...)
	if d.cfg.DCRoot != "" {
		if d.dcRoot, err = ldap.ParseDN(d.cfg.DCRoot); err != nil {
			return fmt.Errorf("DC root %q: %w", d.cfg.DCRoot, err)
		}
	} else if s.Layout != directory.LayoutOrganization {
		return fmt.Errorf("schema %s needs the root of a DC tree", s.Name)
	}
	if d.cfg.NetgroupBase != "" {
		if d.groups, err = ldap.ParseDN(d.cfg.NetgroupBase); err != nil {
			return fmt.Errorf("base of netgroups %q: %w", d.cfg.NetgroupBase, err)
		}
	}
	d.dcFilter = s.DCFilter
	if d.dcFilter == "" {
		d.dcFilter = either(oneEqual("objectClass", "inetDomain"), oneEqual("objectClass", "inetDomainAlias"))
	}
	if _, err := ldap.CompileFilter(d.dcFilter); err != nil {
		return fmt.Errorf("filter %q: %w", d.dcFilter, err)
	}
	if s.OrganizationFilter != "" {
		if d.orgFilter, err = parseFilter(s.OrganizationFilter); err != nil {
			return err
		}
	} else if s.DomainClass != "" {
		d.orgFilter = organizationFilter(s)
	}
	for _, u := range d.cfg.LookupURLs {
		parsed, err := parseLookupURL(u)
		if err != nil {
			return err
		}
		d.urls = append(d.urls, parsed)
	}
	return nil
}

// openMaster makes the Directory that asks the master, unless that is the only
// server anyway.
func (d *Directory) openMaster() error {
	if d.cfg.Master == "" || len(d.cfg.Servers) == 1 && d.cfg.Servers[0] == d.cfg.Master {
		return nil
	}
	m := *d
	m.cfg.Servers, m.cfg.Master = []string{d.cfg.Master}, ""
	var err error
	if m.pool, err = newPool(&m.cfg); err != nil {
		return fmt.Errorf("directory: master: %w", err)
	}
	for _, s := range m.pool.servers {
		s.n = len(d.cfg.Servers)
		d.hosts = append(d.hosts, s.host, s.addr)
	}
	d.master = &m
	return nil
}

// Close ends all connections. Questions asked afterwards fail with
// directory.ErrUnavailable.
func (d *Directory) Close() {
	d.pool.close()
	if d.master != nil {
		d.master.pool.close()
	}
}

// Ready reports whether a server is in use and the base exists there, for
// start-up checks.
func (d *Directory) Ready(ctx context.Context) error {
	if !d.pool.available() {
		return directory.ErrUnavailable
	}
	if d.dcRoot != nil {
		if _, err := d.search(ctx, d.cfg.DCRoot, ldap.ScopeBaseObject, anything, []string{"1.1"}, 1); err != nil {
			return fmt.Errorf("DC root %q: %w", d.cfg.DCRoot, d.whole(err))
		}
	}
	return d.baseExists(ctx)
}

// search runs one bounded search without paging. A result that is not known to
// be whole is an error.
func (d *Directory) search(ctx context.Context, base string, scope int, filter string, attrs []string, limit int) ([]result, error) {
	compiled, err := ldap.CompileFilter(filter)
	if err != nil {
		return nil, fmt.Errorf("filter %q: %w", filter, err)
	}
	return d.ask(ctx, base, scope, compiled.Bytes(), func() string { return filter }, attrs, limit)
}

// ask is search with a filter in BER; text is the filter for who watches.
func (d *Directory) ask(ctx context.Context, base string, scope int, filter []byte, text func() string, attrs []string, limit int) (found []result, err error) {
	return d.askFor(ctx, "search", base, scope, filter, text, attrs, limit)
}

// askFor is ask, counted as op.
func (d *Directory) askFor(ctx context.Context, op, base string, scope int, filter []byte, text func() string, attrs []string, limit int) (found []result, err error) {
	done := unwatched
	if watched(ctx) {
		done = watch(ctx, base, scope, text())
	}
	err = d.pool.do(ctx, &query{op: op, slowIsBad: op == "search", ask: func(l *line) (err error) {
		found, err = l.search(ctx, base, scope, filter, attrs, limit)
		return err
	}})
	done(len(found), err)
	return found, classify(err)
}

// baseExists tells a missing entry from a server that lacks the whole tree.
func (d *Directory) baseExists(ctx context.Context) error {
	base := d.Base()
	_, err := d.search(ctx, base, ldap.ScopeBaseObject, anything, []string{"1.1"}, 1)
	if err != nil {
		return fmt.Errorf("base %q: %w", base, d.whole(err))
	}
	return nil
}

func attributes(e *ldap.Entry) directory.Attributes {
	out := make(directory.Attributes, 0, len(e.Attributes))
	for _, a := range e.Attributes {
		out = append(out, directory.Attribute{Name: strings.ToLower(a.Name), Values: a.Values})
	}
	return out
}

func (d *Directory) read(r *result) *directory.Entry {
	e := d.cfg.Schema.ReadEntry(r.DN, r.Attributes)
	e.Fetched = time.Now()
	d.broken(e.DN, e.Faults)
	return e
}

// Entry implements directory.Directory. A name outside the configured bases is
// ErrURL.
func (d *Directory) Entry(ctx context.Context, dn string) (*directory.Entry, error) {
	if err := d.inside(dn); err != nil {
		return nil, err
	}
	found, err := d.search(ctx, dn, ldap.ScopeBaseObject, anything, d.entry, 1)
	switch {
	case err != nil:
		return nil, d.note("entry "+dn, d.missing(ctx, err))
	case len(found) == 0:
		return nil, directory.ErrNotFound
	}
	return d.read(&found[0]), nil
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

// reachable is inside, for a search by URL.
func (d *Directory) reachable(dn string) error {
	err := d.inside(dn)
	if err == nil || d.groups == nil {
		return err
	}
	if parsed, perr := ldap.ParseDN(dn); perr == nil && (d.groups.EqualFold(parsed) || d.groups.AncestorOfFold(parsed)) {
		return nil
	}
	return err
}

// Authenticate implements directory.Directory with a bind on a connection of
// its own. That an entry has no password, or is locked, is ErrBadPassword.
func (d *Directory) Authenticate(ctx context.Context, e *directory.Entry, password string) error {
	// RFC 4513 5.1.2: a bind with a name and no password succeeds, as nobody.
	if password == "" || e.DN == "" || len(password) > maxPassword {
		return directory.ErrBadPassword
	}
	err := d.pool.do(ctx, &query{op: "bind", slowIsBad: true, stock: func(s *server) *stock[*ldap.Conn] { return s.binds }, run: func(c *ldap.Conn) error {
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
		return d.note("bind as "+e.DN, err)
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
