package dns

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Zone is a DNS in memory: it answers without a network, for tests and as the
// data of a Server. The zero Zone is empty. Any number of goroutines may use it.
type Zone struct {
	mu   sync.RWMutex // guards the fields below
	rrs  map[question][]dns.RR
	name map[string]bool
	fail map[string]error
}

var _ Resolver = (*Zone)(nil)

// ParseZone reads master file text (RFC 1035 section 5). Names are absolute or
// relative to origin; the default TTL is an hour.
func ParseZone(origin, text string) (*Zone, error) {
	z := &Zone{}
	p := dns.NewZoneParser(strings.NewReader(text), dns.Fqdn(origin), "zone")
	p.SetDefaultTTL(3600)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		z.add(rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	return z, nil
}

// Add adds one record in master file form, "example.com. MX 10 mail.example.com."
func (z *Zone) Add(record string) error {
	rr, err := dns.NewRR(record)
	if err != nil || rr == nil {
		return fmt.Errorf("dns: bad record %q: %w", record, err)
	}
	z.add(rr)
	return nil
}

func (z *Zone) add(rr dns.RR) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.rrs == nil {
		z.rrs, z.name = map[question][]dns.RR{}, map[string]bool{}
	}
	n := canonical(rr.Header().Name)
	z.rrs[question{n, rr.Header().Rrtype}] = append(z.rrs[question{n, rr.Header().Rrtype}], rr)
	z.name[n] = true
}

// Fail makes every question about name fail with err, for a while or, with a
// nil err, no longer. A Server then answers SERVFAIL.
func (z *Zone) Fail(name string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.fail == nil {
		z.fail = map[string]error{}
	}
	if err == nil {
		delete(z.fail, canonical(name))
	} else {
		z.fail[canonical(name)] = err
	}
}

// find returns the records of name, over aliases, with the aliases before them.
func (z *Zone) find(name string, qtype uint16) (rrs []dns.RR, exists bool, err error) {
	z.mu.RLock()
	defer z.mu.RUnlock()
	name = canonical(name)
	for range 10 {
		if err := z.fail[name]; err != nil {
			return nil, true, err
		}
		exists = exists || z.name[name]
		if found := z.rrs[question{name, qtype}]; len(found) > 0 {
			return append(rrs, found...), true, nil
		}
		cname := z.rrs[question{name, dns.TypeCNAME}]
		if len(cname) == 0 {
			break
		}
		rrs = append(rrs, cname[0])
		name = canonical(cname[0].(*dns.CNAME).Target)
	}
	return rrs, exists, nil
}

// lookup is find for a Resolver.
func (z *Zone) lookup(ctx context.Context, name string, qtype uint16) ([]dns.RR, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rrs, _, err := z.find(name, qtype)
	if err != nil {
		return nil, err
	}
	rrs = slices.DeleteFunc(slices.Clone(rrs), func(rr dns.RR) bool { return rr.Header().Rrtype != qtype })
	if len(rrs) == 0 {
		return nil, fmt.Errorf("%w: %s %s", ErrNotFound, name, dns.TypeToString[qtype])
	}
	return rrs, nil
}

// MX implements Resolver.
func (z *Zone) MX(ctx context.Context, domain string) ([]MX, error) {
	rrs, err := z.lookup(ctx, domain, dns.TypeMX)
	if err != nil {
		return nil, err
	}
	out := make([]MX, len(rrs))
	for i, rr := range rrs {
		mx := rr.(*dns.MX)
		out[i] = MX{canonical(mx.Mx), mx.Preference}
	}
	slices.SortStableFunc(out, func(a, b MX) int { return cmp.Compare(a.Preference, b.Preference) })
	return out, nil
}

// Addrs implements Resolver.
func (z *Zone) Addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	a, err := z.lookup(ctx, host, dns.TypeA)
	aaaa, err6 := z.lookup(ctx, host, dns.TypeAAAA)
	var out []netip.Addr
	for _, rr := range a {
		if addr, ok := netip.AddrFromSlice(rr.(*dns.A).A); ok {
			out = append(out, addr.Unmap())
		}
	}
	for _, rr := range aaaa {
		if addr, ok := netip.AddrFromSlice(rr.(*dns.AAAA).AAAA); ok {
			out = append(out, addr)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, cmp.Or(err, err6)
}

// TXT implements Resolver.
func (z *Zone) TXT(ctx context.Context, name string) ([]string, error) {
	rrs, err := z.lookup(ctx, name, dns.TypeTXT)
	out := make([]string, len(rrs))
	for i, rr := range rrs {
		out[i] = strings.Join(rr.(*dns.TXT).Txt, "")
	}
	return out, err
}

// PTR implements Resolver.
func (z *Zone) PTR(ctx context.Context, addr netip.Addr) ([]string, error) {
	name, err := dns.ReverseAddr(addr.Unmap().String())
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	rrs, err := z.lookup(ctx, name, dns.TypePTR)
	out := make([]string, len(rrs))
	for i, rr := range rrs {
		out[i] = canonical(rr.(*dns.PTR).Ptr)
	}
	return out, err
}
