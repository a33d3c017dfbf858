package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/login"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/cache"
	"github.com/postern-mail/postern/shared/directory/ldap"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// lookups is the directory and what is remembered of it.
type lookups struct {
	about   aboutLookups
	schema  directory.Schema
	servers *ldap.Directory
	cache   *cache.Cache
	keep    cache.Persistence  // Path is empty without a file
	stop    context.CancelFunc // ends run
	resting chan struct{}      // closed when it has ended

	netgroups *login.Netgroups // nil without
}

// aboutLookups is all that they are made from.
type aboutLookups struct {
	config.Directory
	Secret      string
	CA          string // certificates
	PasswordTTL time.Duration
}

// makeLookups makes what c says, or takes the old ones when they are just that. It
// asks nobody yet.
func (r *relay) makeLookups(c *config.Relay, old *lookups) (*lookups, error) {
	d := &c.Directory
	password, err := config.SecretOf(d.Password, d.PasswordFile)
	if err != nil {
		return nil, err
	}
	about := aboutLookups{Directory: *d, Secret: password.Reveal(), PasswordTTL: c.Proxy.PasswordCacheTTL}
	if d.CA != "" {
		pem, err := os.ReadFile(d.CA)
		if err != nil {
			return nil, err
		}
		about.CA = string(pem)
	}
	if old != nil && reflect.DeepEqual(about, old.about) {
		return old, nil
	}
	roots, _, err := pool(d.CA)
	if err != nil {
		return nil, err
	}
	l := &lookups{about: about}
	if l.schema, err = schemaOf(d); err != nil {
		return nil, err
	}
	var domains []ldap.Domain
	for _, h := range d.Domains {
		if h.Base == "" {
			h.Base = d.Base
		}
		domains = append(domains, ldap.Domain(h))
	}
	l.servers, err = ldap.New(ldap.Config{
		Domains: domains, Schema: l.schema, DCRoot: d.DCRoot, Uplevel: d.Uplevel, Vanity: d.VanityDomains,
		NetgroupBase: d.NetgroupBase, LookupURLs: d.LookupURLs, LoginSeparators: d.LoginSeparators, URLHosts: d.URLHosts, Master: d.Master,
		Fastest: d.ServerOrder == "fastest",
		Servers: d.URLs, StartTLS: d.StartTLS, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		BindDN: d.BindDN, Password: about.Secret, Base: d.Base, DefaultDomain: d.DefaultDomain,
		Timeout: d.Timeout, SearchConns: d.Connections, Log: r.n.Log,
		Observe: func(_ string, _ int, _ time.Duration, err error) {
			result := "ok"
			if err != nil {
				result = "failed"
			}
			metrics.DirSearches.With(result).Inc()
		},
	})
	if err != nil {
		return nil, err
	}
	l.cache = cache.New(l.servers, cache.Config{
		Entries: d.CacheEntries, TTL: d.CacheTTL, NegativeDomain: d.NegativeTTL, Negative: d.AddressNegativeTTL, Stale: d.StaleTTL,
		PasswordTTL: c.Proxy.PasswordCacheTTL, Timeout: 2 * d.Timeout, Schema: &l.schema,
	})
	l.keep = cache.Persistence{
		Path: d.CacheFile, Bytes: int(d.CacheFileBytes), Schema: &l.schema, Log: r.n.Log,
		About: strings.Join([]string{d.Base, d.DCRoot, l.schema.Name, strings.Join(d.Attributes, ",")}, "\n"),
	}
	if d.NetgroupBase != "" {
		url, err := ldap.Netgroups(d.NetgroupBase, d.NetgroupFilter)
		if err != nil {
			l.servers.Close()
			return nil, fmt.Errorf("directory.netgroup_filter: %w", err)
		}
		l.netgroups = &login.Netgroups{Directory: l.cache, URL: url}
	}
	return l, nil
}

// closeUnless ends lookups that are not to be used after all, unless they are the
// old ones, which stay in use.
func (l *lookups) closeUnless(old *lookups) {
	if l != old {
		l.servers.Close()
	}
}

// run loads what the last run, or the lookups before these, knew and saves what
// these know until rest, for a start while the directory is away.
func (l *lookups) run() {
	l.resting = make(chan struct{})
	var ctx context.Context
	ctx, l.stop = context.WithCancel(context.Background())
	if l.keep.Path != "" {
		l.cache.Load(l.keep)
	}
	go func() {
		defer close(l.resting)
		if l.keep.Path != "" {
			l.cache.Keep(ctx, l.keep)
		}
	}()
}

// rest saves for the last time.
func (l *lookups) rest() {
	l.stop()
	<-l.resting
}

// flush forgets answers of the directory, in the file too: a restart must not
// bring them back.
func (r *relay) flush(_ context.Context, in admin.FlushRequest) (out admin.FlushResult, err error) {
	var addresses []mail.Address
	for _, text := range in.Addresses {
		a, err := mail.ParseAddress(strings.TrimSpace(text), true)
		if err != nil {
			return out, fmt.Errorf("%w: address %q: %w", admin.ErrBadRequest, text, err)
		}
		addresses = append(addresses, a)
	}
	var domains []string
	for _, text := range in.Domains {
		d, err := directory.NormalizeDomain(strings.TrimSpace(text))
		if err != nil || d == "" {
			return out, fmt.Errorf("%w: domain %q", admin.ErrBadRequest, text)
		}
		domains = append(domains, d)
	}
	if len(addresses)+len(domains) == 0 && !in.All {
		return out, fmt.Errorf("%w: nothing to forget", admin.ErrBadRequest)
	}
	dir := r.now().dir
	for _, a := range addresses {
		out.Forgotten += dir.cache.FlushAddress(a)
	}
	for _, d := range domains {
		out.Forgotten += dir.cache.FlushDomain(d)
	}
	if in.All {
		out.Forgotten += dir.cache.Flush()
	}
	if dir.keep.Path != "" {
		err = dir.cache.Save(dir.keep)
	}
	return out, err
}

// moved forgets what is remembered of a user who is at another pair than the
// directory said.
func (r *relay) moved(mailbox string) {
	if a, err := mail.ParseAddress(mailbox, true); err == nil {
		r.now().dir.cache.FlushAddress(a)
	}
}

// schemaOf is the preset with the names that the configuration changes.
func schemaOf(d *config.Directory) (directory.Schema, error) {
	s, err := directory.Preset(d.Schema)
	if err != nil {
		return s, err
	}
	if len(d.ClassTags) > 0 {
		if err := s.SetTags(d.ClassTags...); err != nil {
			return s, fmt.Errorf("directory.class_tags: %w", err)
		}
	}
	if err := s.Rename(d.Attributes...); err != nil {
		return s, fmt.Errorf("directory.attributes: %w", err)
	}
	for name, set := range map[string]struct {
		given []string
		to    *[][]string
	}{"user_classes": {d.UserClasses, &s.UserClasses}, "group_classes": {d.GroupClasses, &s.GroupClasses}} {
		if len(set.given) == 0 {
			continue
		}
		if *set.to, err = directory.ParseClasses(set.given); err != nil {
			return s, fmt.Errorf("directory.%s: %w", name, err)
		}
	}
	s.Extra = append(s.Extra, d.ExtraAttributes...)
	s.DCFilter, s.OrganizationFilter = d.DomainFilterSchema1, d.DomainFilterSchema2
	s.SetSubaddress(d.Subaddress, d.SubaddressSeparator)
	return s, nil
}

// pool reads CAs; nil, which means those of the system, without a file.
func pool(file string) (cas *x509.CertPool, text []byte, err error) {
	if file == "" {
		return nil, nil, nil
	}
	if text, err = os.ReadFile(file); err != nil {
		return nil, nil, err
	}
	cas = x509.NewCertPool()
	if !cas.AppendCertsFromPEM(text) {
		return nil, nil, fmt.Errorf("%s holds no certificate", file)
	}
	return cas, text, nil
}

// backendTLS makes the configuration for connections to a node once.
func (r *relay) backendTLS() func(node string) *tls.Config {
	var made sync.Map // node: *tls.Config
	return func(node string) *tls.Config {
		if c, ok := made.Load(node); ok {
			return c.(*tls.Config)
		}
		c, _ := made.LoadOrStore(node, r.n.TLS.Client(node, tlsconf.Backend))
		return c.(*tls.Config)
	}
}

// staticNodes are those that the configuration knows.
func staticNodes(c *config.Relay) (nodes []route.Node) {
	for _, s := range c.Pairs {
		nodes = append(nodes, route.Node{
			Name: s.Node, Pair: s.Pair, Alive: true,
			Addr: map[route.Service]string{route.LMTP: s.LMTP, route.IMAP: s.IMAP, route.POP3: s.POP3},
		})
	}
	return nodes
}

func port(n int) string { return strconv.Itoa(n) }

// dialFrom connects from a given address; nil lets the system choose.
func dialFrom(source string) (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	if source == "" {
		return nil, nil
	}
	ip := net.ParseIP(source)
	if ip == nil {
		return nil, errors.New("outbound.source is not an address")
	}
	return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}).DialContext, nil
}
