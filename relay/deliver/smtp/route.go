package smtp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/mail"
)

// target is one address to try.
type target struct {
	host string // its name, for TLS and logs
	addr string // host:port or address:port
}

func (t target) String() string {
	if t.host == "" {
		return t.addr
	}
	return t.host + "[" + t.addr + "]"
}

func failed(status mail.Status, text string, err error) *deliver.Result {
	return &deliver.Result{Outcome: deliver.Failed, Status: status, Text: text, Err: err}
}

func deferred(status mail.Status, text string, err error) *deliver.Result {
	r := deliver.Defer(status, text, err)
	return &r
}

// targets lists the addresses to try for domain, in order, or says why there
// are none.
func (a *Agent) targets(ctx context.Context, domain string) ([]target, *deliver.Result) {
	if server, ok := a.fixed(domain); ok {
		return a.server(ctx, server)
	}
	if strings.HasPrefix(domain, "[") {
		return a.literal(domain)
	}
	name, err := toASCII(domain)
	if err != nil {
		return nil, failed(mail.StatusBadDomain, "Domain name is not valid", err)
	}
	hosts, fail := a.exchangers(ctx, name)
	if fail != nil {
		return nil, fail
	}
	return a.addresses(ctx, domain, hosts)
}

// fixed is the server that the configuration names for domain.
func (a *Agent) fixed(domain string) (server string, ok bool) {
	if server, ok = a.cfg().Routes[domain]; ok {
		return server, true
	}
	if server, ok = a.cfg().Routes["*"]; ok {
		return server, true
	}
	return a.cfg().Smarthost, a.cfg().Smarthost != ""
}

// server resolves host:port from the configuration. Its host may be this one.
func (a *Agent) server(ctx context.Context, server string) ([]target, *deliver.Result) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = server, a.cfg().Port
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err == nil || a.cfg().Resolver == nil {
		return []target{{host, net.JoinHostPort(host, port)}}, nil
	}
	addrs, err := a.cfg().Resolver.Addrs(ctx, host)
	if err != nil {
		return nil, deferred(mail.StatusDirectoryFailure, "Address of the next host not found", err)
	}
	var out []target
	for _, ip := range spread(addrs) {
		out = append(out, target{host, net.JoinHostPort(ip.String(), port)})
	}
	return out, nil
}

// literal reads a domain that is an address (RFC 5321 4.1.3).
func (a *Agent) literal(domain string) ([]target, *deliver.Result) {
	text := strings.TrimSuffix(strings.TrimPrefix(domain, "["), "]")
	if rest, ok := strings.CutPrefix(text, "ipv6:"); ok {
		text = rest
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return nil, failed(mail.StatusBadDomain, "Address literal is not valid", err)
	}
	if a.isSelf(ip) {
		return nil, failed(mail.StatusLoop, "Mail for "+domain+" loops back to this host", nil)
	}
	return []target{{"", net.JoinHostPort(ip.String(), a.cfg().Port)}}, nil
}

// exchangers returns the mail exchangers of a domain: its MX records, the most
// preferred first and those of equal preference in random order, or the domain
// itself (RFC 5321 5.1).
func (a *Agent) exchangers(ctx context.Context, domain string) ([]dns.MX, *deliver.Result) {
	mxs, err := a.cfg().Resolver.MX(ctx, domain)
	switch {
	case errors.Is(err, dns.ErrNotFound), err == nil && len(mxs) == 0:
		return []dns.MX{{Host: domain}}, nil
	case err != nil:
		return nil, deferred(mail.StatusDirectoryFailure, "Name server does not answer", err)
	}
	if len(mxs) == 1 && mxs[0].Host == "" { // RFC 7505
		return nil, &deliver.Result{Outcome: deliver.Failed, Code: 556, Status: mail.Status{5, 1, 10}, Text: "Domain does not accept mail"}
	}
	rand.Shuffle(len(mxs), func(i, j int) { mxs[i], mxs[j] = mxs[j], mxs[i] })
	slices.SortStableFunc(mxs, func(x, y dns.MX) int { return int(x.Preference) - int(y.Preference) })
	for i, mx := range mxs {
		if a.self[mx.Host] { // RFC 5321 5.1: ours and all that are worse
			mxs = slices.DeleteFunc(mxs[:i:i], func(o dns.MX) bool { return o.Preference >= mx.Preference })
			break
		}
	}
	if len(mxs) == 0 {
		return nil, failed(mail.StatusLoop, "Mail for "+domain+" loops back to this host", nil)
	}
	return mxs, nil
}

// addresses resolves exchangers until there are enough addresses to try.
func (a *Agent) addresses(ctx context.Context, domain string, hosts []dns.MX) ([]target, *deliver.Result) {
	var out []target
	var trouble error
	missing := error(nil)
	for i, mx := range hosts {
		if len(out) >= a.cfg().MaxHosts || i >= 20 {
			break
		}
		addrs, err := a.cfg().Resolver.Addrs(ctx, mx.Host)
		switch {
		case errors.Is(err, dns.ErrNotFound):
			missing = err
			continue
		case err != nil:
			trouble = err
			continue
		}
		if slices.ContainsFunc(addrs, a.isSelf) {
			if len(out) == 0 && trouble == nil {
				return nil, failed(mail.StatusLoop, "Mail for "+domain+" loops back to this host", nil)
			}
			break
		}
		for _, ip := range spread(addrs) {
			out = append(out, target{mx.Host, net.JoinHostPort(ip.String(), a.cfg().Port)})
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case trouble != nil:
		return nil, deferred(mail.StatusDirectoryFailure, "Name server does not answer", trouble)
	case len(hosts) == 1 && hosts[0].Host == domain && hosts[0].Preference == 0:
		return nil, failed(mail.StatusBadDomain, "Domain not found", missing)
	}
	return nil, failed(mail.Status{5, 4, 4}, "No mail exchanger of the domain has an address", missing)
}

func (a *Agent) isSelf(ip netip.Addr) bool {
	return slices.Contains(a.cfg().SelfAddrs, ip.Unmap()) || ip.IsUnspecified()
}

// spread puts the addresses of one host in random order.
func spread(addrs []netip.Addr) []netip.Addr {
	out := slices.Clone(addrs)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// toASCII is the A-label form of a domain (RFC 5891).
func toASCII(domain string) (string, error) {
	for i := range len(domain) {
		if domain[i] >= 0x80 {
			s, err := idnaProfile.ToASCII(domain)
			if err != nil {
				return "", fmt.Errorf("smtp: %q: %w", domain, err)
			}
			return s, nil
		}
	}
	return domain, nil
}
