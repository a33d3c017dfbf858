package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/postern-mail/postern/shared/directory"
)

// Config describes the servers and the tree. Zero values take the defaults
// named.
type Config struct {
	// Servers are ldap://host:port, ldaps://host:port or ldapi://%2Fpath, in
	// the order of preference.
	Servers []string
	// StartTLS upgrades ldap:// connections before anything is sent (RFC 4511
	// 4.14). TLS is used for that and for ldaps://; its ServerName defaults to
	// the host of the URL.
	StartTLS bool
	TLS      *tls.Config
	// BindDN and Password log in on connections that search; both empty:
	// anonymous.
	BindDN, Password string

	// Base is the top of the organization tree: domains are searched below it,
	// and no search goes outside of it and of the bases in Domains.
	Base string
	// DCRoot is the top of the DC tree, such as "o=internet", for the layouts
	// that have one.
	DCRoot string
	// DefaultDomain is the domain of logins without one. It need not be in
	// Domains.
	DefaultDomain string
	// Uplevel is a sum of UplevelParents, UplevelAddresses, UplevelCurrent.
	Uplevel int
	// Vanity searches domains that are nobody's as the vanity domain of a user:
	// a subtree search for every name in the world.
	Vanity bool
	// LookupURLs find the owners of an address, one after the other until one
	// has them; empty for the built-in search, which asks once.
	LookupURLs []string
	// LoginSeparators are characters that may stand between uid and domain in a
	// login besides "@", for domains that have them as their separator.
	LoginSeparators string
	// Master, when not empty, is asked again before an address or login is said
	// to be nobody's, because Servers may lag behind it. While it cannot be
	// asked such an answer is a failure.
	Master string
	// Fastest asks the healthy server that answered fastest lately, and not the
	// first one.
	Fastest bool
	// Domains are known without a search.
	Domains []Domain
	// NetgroupBase is a further name below which LDAP URLs may search; empty:
	// none. See Netgroups.
	NetgroupBase string
	// Schema names attributes and classes; its zero value is SunSchema2.
	Schema directory.Schema
	// URLHosts are hosts that an LDAP URL in an entry may name, as it names
	// them; the hosts of Servers always may.
	URLHosts []string

	Timeout        time.Duration // of one query; 5 s
	ConnectTimeout time.Duration // dial, TLS and bind; 3 s
	SearchConns    int           // multiplexed connections to a server; 2
	BindConns      int           // exclusive connections to a server, for each of logins, pages and changes; 8
	PageSize       int           // of paged searches; 500
	RetryMin       time.Duration // first pause before a failed server is probed; 500 ms
	RetryMax       time.Duration // longest pause; 30 s

	Log *slog.Logger
	// Dial is net.Dialer's by default.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Observe, when not nil, is told of every query that was sent: "search",
	// "page" or "bind", the server's number, how long it took and its error.
	Observe func(op string, server int, took time.Duration, err error)
}

// The bits of Config.Uplevel (directory.md 2.3).
const (
	UplevelParents   = 1 // an unknown name is looked for under its parent domains
	UplevelAddresses = 2 // and its addresses under the parent's name too
	UplevelCurrent   = 4 // the name used, not the canonical one, tells the default domain
)

// Domain is a hosted domain that the configuration gives. Its status and other
// attributes are read from the entry at Base.
type Domain struct {
	Name    string
	Base    string // DN of its users and groups
	Aliases []string
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) defaults() {
	setDefault(&c.Timeout, 5*time.Second)
	setDefault(&c.ConnectTimeout, 3*time.Second)
	setDefault(&c.SearchConns, 2)
	setDefault(&c.BindConns, 8)
	setDefault(&c.PageSize, 500)
	setDefault(&c.RetryMin, 500*time.Millisecond)
	setDefault(&c.RetryMax, 30*time.Second)
	if c.Schema.Name == "" && c.Schema.Mail == "" {
		c.Schema = directory.SunSchema2()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
}

// endpoint is a server's URL taken apart.
type endpoint struct {
	url     string
	network string // tcp or unix
	addr    string
	host    string // for TLS and for LDAP URLs
	tls     bool   // ldaps
}

func parseEndpoint(s string) (endpoint, error) {
	e := endpoint{url: s, network: "tcp"}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return e, fmt.Errorf("server %q: not a URL", s)
	}
	rest = strings.TrimSuffix(rest, "/")
	port := ldap.DefaultLdapPort
	switch strings.ToLower(scheme) {
	case "ldapi":
		path, err := url.PathUnescape(rest)
		if err != nil || path == "" {
			return e, fmt.Errorf("server %q: bad path", s)
		}
		e.network, e.addr = "unix", path
		return e, nil
	case "ldaps":
		e.tls, port = true, ldap.DefaultLdapsPort
	case "ldap":
	default:
		return e, fmt.Errorf("server %q: unknown scheme", s)
	}
	if strings.ContainsAny(rest, "/?@") || rest == "" {
		return e, fmt.Errorf("server %q: only scheme, host and port are allowed", s)
	}
	host, given, err := net.SplitHostPort(rest)
	if err != nil {
		host = strings.Trim(rest, "[]")
	} else if given != "" {
		port = given
	}
	e.host, e.addr = strings.ToLower(host), net.JoinHostPort(host, port)
	return e, nil
}

// bases are the parsed names below which searches may go.
func (c *Config) bases() ([]*ldap.DN, error) {
	var out []*ldap.DN
	for _, s := range append([]string{c.Base}, domainBases(c.Domains)...) {
		if s == "" {
			continue
		}
		dn, err := ldap.ParseDN(s)
		if err != nil {
			return nil, fmt.Errorf("base %q: %w", s, err)
		}
		out = append(out, dn)
	}
	if len(out) == 0 {
		return nil, errors.New("no base")
	}
	return out, nil
}

func domainBases(domains []Domain) []string {
	out := make([]string, 0, len(domains))
	for _, d := range domains {
		out = append(out, d.Base)
	}
	return out
}
