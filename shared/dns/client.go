package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Config describes a Client.
type Config struct {
	Servers []string // host:port, asked in order; empty: those of /etc/resolv.conf
	Timeout time.Duration
	// Timeout is of one question to one server (default 3 s); every server is
	// asked Tries times (default 2) before the question fails.
	Tries      int
	Entries    int           // answers kept (default 50,000)
	MaxTTL     time.Duration // default 1 h
	MaxMissTTL time.Duration // of "not found" (default 5 min)
	// IPv4Only leaves AAAA out, for hosts without IPv6.
	IPv4Only bool
}

// Client asks name servers.
type Client struct {
	cfg   Config
	cache cache
	udp   dns.Client
	tcp   dns.Client
}

var _ Resolver = (*Client)(nil)

// NewClient returns a Client. It fails when no server is known.
func NewClient(cfg Config) (*Client, error) {
	if len(cfg.Servers) == 0 {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("dns: %w", err)
		}
		for _, s := range conf.Servers {
			cfg.Servers = append(cfg.Servers, net.JoinHostPort(s, conf.Port))
		}
	}
	if len(cfg.Servers) == 0 {
		return nil, errors.New("dns: no servers")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.Tries <= 0 {
		cfg.Tries = 2
	}
	if cfg.Entries <= 0 {
		cfg.Entries = 50_000
	}
	if cfg.MaxTTL <= 0 {
		cfg.MaxTTL = time.Hour
	}
	if cfg.MaxMissTTL <= 0 {
		cfg.MaxMissTTL = 5 * time.Minute
	}
	c := &Client{cfg: cfg, udp: dns.Client{Net: "udp", Timeout: cfg.Timeout, UDPSize: 1232}, tcp: dns.Client{Net: "tcp", Timeout: cfg.Timeout}}
	c.cache.init(cfg.Entries)
	return c, nil
}

// MX implements Resolver.
func (c *Client) MX(ctx context.Context, domain string) ([]MX, error) {
	rrs, err := c.lookup(ctx, domain, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	var out []MX
	for _, rr := range rrs {
		if mx, ok := rr.(*dns.MX); ok {
			out = append(out, MX{Host: canonical(mx.Mx), Preference: mx.Preference})
		}
	}
	slices.SortStableFunc(out, func(a, b MX) int { return cmp.Compare(a.Preference, b.Preference) })
	return out, nil
}

// Addrs implements Resolver. A and AAAA are asked for at once; one of them
// failing does not hide the other.
func (c *Client) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	types := []uint16{dns.TypeA, dns.TypeAAAA}
	if c.cfg.IPv4Only {
		types = types[:1]
	}
	type answer struct {
		rrs []dns.RR
		err error
	}
	answers := make([]answer, len(types))
	done := make(chan struct{})
	if len(types) > 1 {
		go func() {
			defer close(done)
			answers[1].rrs, answers[1].err = c.lookup(ctx, host, types[1])
		}()
	} else {
		close(done)
	}
	answers[0].rrs, answers[0].err = c.lookup(ctx, host, types[0])
	<-done
	var out []netip.Addr
	var failed error
	for _, a := range answers {
		if a.err != nil && !errors.Is(a.err, ErrNotFound) {
			failed = a.err
		}
		for _, rr := range a.rrs {
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if addr, ok := netip.AddrFromSlice(ip); ok {
				out = append(out, addr.Unmap())
			}
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case failed != nil:
		return nil, failed
	}
	return nil, fmt.Errorf("%w: addresses of %s", ErrNotFound, host)
}

// TXT implements Resolver.
func (c *Client) TXT(ctx context.Context, name string) ([]string, error) {
	rrs, err := c.lookup(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range rrs {
		if t, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(t.Txt, ""))
		}
	}
	return out, nil
}

// PTR implements Resolver.
func (c *Client) PTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	name, err := dns.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	rrs, err := c.lookup(ctx, name, dns.TypePTR)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range rrs {
		if p, ok := rr.(*dns.PTR); ok {
			out = append(out, canonical(p.Ptr))
		}
	}
	return out, nil
}

// lookup answers one question from the cache or the servers. The result is
// shared: it must not be changed. It is never empty with a nil error.
func (c *Client) lookup(ctx context.Context, name string, qtype uint16) ([]dns.RR, error) {
	name = canonical(name)
	if !validName(name) {
		return nil, fmt.Errorf("%w: %q is no name", ErrNotFound, name)
	}
	return c.cache.get(ctx, question{name, qtype}, time.Now(), func(ctx context.Context) ([]dns.RR, time.Duration, error) {
		return c.ask(ctx, name, qtype)
	})
}

// ask puts one question to the servers in turn.
func (c *Client) ask(ctx context.Context, name string, qtype uint16) ([]dns.RR, time.Duration, error) {
	var m dns.Msg
	m.SetQuestion(dns.Fqdn(name), qtype)
	m.SetEdns0(1232, false)
	m.AuthenticatedData = true
	var last error
	for range c.cfg.Tries {
		for _, server := range c.cfg.Servers {
			if err := ctx.Err(); err != nil {
				return nil, 0, errors.Join(err, last)
			}
			answer, err := c.exchange(ctx, &m, server)
			if err == nil {
				rrs, ttl, err := c.read(answer, name, qtype)
				if err == nil || errors.Is(err, ErrNotFound) {
					return rrs, ttl, err
				}
				last = err
				continue
			}
			last = fmt.Errorf("dns: %s %s at %s: %w", name, dns.TypeToString[qtype], server, err)
		}
	}
	return nil, 0, last
}

// exchange asks one server, again by TCP when the answer was cut short.
func (c *Client) exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	m = m.Copy()
	m.Id = dns.Id()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	answer, _, err := c.udp.ExchangeContext(ctx, m, server)
	if err == nil && answer.Truncated {
		answer, _, err = c.tcp.ExchangeContext(ctx, m, server)
	}
	if err != nil {
		return nil, err
	}
	if len(answer.Question) != 1 || !strings.EqualFold(answer.Question[0].Name, m.Question[0].Name) || answer.Question[0].Qtype != m.Question[0].Qtype {
		return nil, errors.New("answer to another question")
	}
	return answer, nil
}

// read takes the records of the question, over aliases, from an answer.
func (c *Client) read(m *dns.Msg, name string, qtype uint16) ([]dns.RR, time.Duration, error) {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, 0, fmt.Errorf("dns: %s %s: %s", name, dns.TypeToString[qtype], dns.RcodeToString[m.Rcode])
	}
	ttl := uint32(c.cfg.MaxTTL / time.Second)
	var rrs []dns.RR
	at := name
	for range 10 { // aliases in order, at most so many
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if canonical(h.Name) != at {
				continue
			}
			if h.Rrtype == qtype {
				rrs = append(rrs, rr)
				ttl = min(ttl, h.Ttl)
			} else if cn, ok := rr.(*dns.CNAME); ok && qtype != dns.TypeCNAME {
				alias = canonical(cn.Target)
				ttl = min(ttl, h.Ttl)
			}
		}
		if len(rrs) > 0 || alias == "" {
			break
		}
		at = alias
	}
	if len(rrs) > 0 {
		return rrs, time.Duration(ttl) * time.Second, nil
	}
	miss := c.cfg.MaxMissTTL
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok { // RFC 2308 section 5
			miss = min(miss, time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second)
		}
	}
	return nil, miss, fmt.Errorf("%w: %s %s", ErrNotFound, name, dns.TypeToString[qtype])
}
