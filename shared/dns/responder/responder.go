package responder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Relay is one relay as it is known now.
type Relay struct {
	Name  string // below the zone
	Addrs []netip.Addr
	Fit   bool
}

// Config describes a Responder.
type Config struct {
	Zone    string
	Names   []string // mail names below Zone, which is always one
	NS      []string // names of the name servers; empty: those of the relays
	Contact string   // mailbox of who looks after the zone; empty: hostmaster@ZONE
	// TTL is of every record, and of "no such name".
	TTL    time.Duration
	Relays func() []Relay // any number of calls at once
	// Rate is the answers a second by UDP to one network (/24, /56).
	Rate int
	// Count is told of each answer: by which protocol, and what it was. "dropped"
	// is none.
	Count func(protocol, result string)
}

// preference is that of every MX record: relays are equal.
const preference = 10

// maxUDP is the largest answer by UDP, one that no path cuts in pieces.
const maxUDP = 1232

// Responder answers.
type Responder struct {
	zone   atomic.Pointer[zone]
	limits limiter
}

// zone is what a configuration says. It is never changed.
type zone struct {
	cfg    Config
	apex   string // with the final dot, lower case
	names  map[string]bool
	serial uint32
}

// New checks cfg.
func New(cfg Config) (*Responder, error) {
	r := &Responder{}
	r.limits.init()
	if err := r.Set(cfg); err != nil {
		return nil, err
	}
	return r, nil
}

// Set makes cfg hold for questions from now on. It is not called twice at once. On an
// error nothing changes.
func (r *Responder) Set(cfg Config) error {
	z, err := newZone(cfg)
	if err != nil {
		return err
	}
	if before := r.zone.Load(); before != nil && z.serial <= before.serial {
		z.serial = before.serial + 1 // RFC 1982: a newer one
	}
	r.limits.setRate(cfg.Rate)
	r.zone.Store(z)
	return nil
}

func newZone(cfg Config) (*zone, error) {
	apex, err := host(cfg.Zone)
	if err != nil {
		return nil, fmt.Errorf("dns zone: %w", err)
	}
	if cfg.TTL < time.Second || cfg.TTL > 24*time.Hour || cfg.Rate < 1 || cfg.Relays == nil {
		return nil, errors.New("dns: TTL, rate or relays missing")
	}
	if cfg.Count == nil {
		cfg.Count = func(string, string) {}
	}
	z := &zone{cfg: cfg, apex: apex, names: map[string]bool{apex: true}, serial: uint32(time.Now().Unix())}
	for _, n := range cfg.Names {
		name, err := host(n)
		if err == nil && !dns.IsSubDomain(apex, name) {
			err = fmt.Errorf("%s is not below %s", n, cfg.Zone)
		}
		if err != nil {
			return nil, fmt.Errorf("dns name: %w", err)
		}
		z.names[name] = true
	}
	z.cfg.NS = make([]string, len(cfg.NS))
	for i, n := range cfg.NS {
		if z.cfg.NS[i], err = host(n); err != nil {
			return nil, fmt.Errorf("dns name server: %w", err)
		}
	}
	local, domain, ok := strings.Cut(cfg.Contact, "@")
	if !ok {
		local, domain = "hostmaster", apex
	}
	if domain, err = host(domain); err != nil || local == "" || strings.ContainsAny(local, " \\\"") {
		return nil, fmt.Errorf("dns contact %q is no address", cfg.Contact)
	}
	z.cfg.Contact = strings.ReplaceAll(local, ".", `\.`) + "." + domain
	return z, nil
}

// host is a host name in lower case with the final dot.
func host(s string) (string, error) {
	s = strings.ToLower(dns.Fqdn(s))
	if _, ok := dns.IsDomainName(s); !ok || s == "." || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return "", fmt.Errorf("%q is no host name", s)
	}
	return s, nil
}

// relay is a Relay with its name in the zone.
type relay struct {
	name  string
	addrs []netip.Addr
	fit   bool
}

// relays lists the relays that are to be named first, in another order each time,
// and all.
func (z *zone) relays() (named, all []relay) {
	for _, m := range z.cfg.Relays() {
		name, err := host(m.Name + "." + z.apex)
		if err == nil && len(m.Addrs) > 0 {
			all = append(all, relay{name, m.Addrs, m.Fit})
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, m := range all {
		if m.fit {
			named = append(named, m)
		}
	}
	if len(named) == 0 {
		named = all
	}
	return named, all
}

// answer makes the answer to a question that came by UDP or TCP.
func (z *zone) answer(q *dns.Msg, udp bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Compress = true
	size := dns.MaxMsgSize
	if udp {
		size = dns.MinMsgSize
	}
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(maxUDP, false)
		if udp {
			size = min(max(size, int(o.UDPSize())), maxUDP)
		}
		if o.Version() != 0 { // RFC 6891 6.1.3
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1:
		m.Rcode = dns.RcodeFormatError
	default:
		z.fill(m, q.Question[0])
	}
	m.Truncate(size)
	return m
}

// fill answers one question.
func (z *zone) fill(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	if q.Qclass != dns.ClassINET || !dns.IsSubDomain(z.apex, name) || q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	named, all := z.relays()
	one := slices.IndexFunc(all, func(m relay) bool { return m.name == name })
	switch {
	case z.names[name]:
		z.mailName(m, q, named, all)
	case one >= 0:
		m.Answer = z.addresses(q.Name, q.Qtype, all[one:one+1])
	case !z.above(name, all):
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 { // RFC 2308: for how long there is none
		m.Ns = []dns.RR{z.soa(z.apex)}
	}
}

// above reports whether a name that is known is below name, which then exists
// without records (RFC 8020).
func (z *zone) above(name string, all []relay) bool {
	for n := range z.names {
		if dns.IsSubDomain(name, n) {
			return true
		}
	}
	return slices.ContainsFunc(all, func(m relay) bool { return dns.IsSubDomain(name, m.name) })
}

func (z *zone) mailName(m *dns.Msg, q dns.Question, named, all []relay) {
	atApex := strings.EqualFold(q.Name, z.apex)
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA:
		m.Answer = z.addresses(q.Name, q.Qtype, named)
	case dns.TypeMX:
		for _, to := range named {
			m.Answer = append(m.Answer, &dns.MX{Hdr: z.header(q.Name, dns.TypeMX), Preference: preference, Mx: to.name})
		}
		z.glue(m, named)
	case dns.TypeSOA:
		if atApex {
			m.Answer = []dns.RR{z.soa(q.Name)}
		}
	case dns.TypeNS:
		if !atApex {
			return
		}
		for _, ns := range z.servers(all) {
			m.Answer = append(m.Answer, &dns.NS{Hdr: z.header(q.Name, dns.TypeNS), Ns: ns})
		}
		z.glue(m, all)
	case dns.TypeANY: // RFC 8482 4.2
		m.Answer = []dns.RR{&dns.HINFO{Hdr: z.header(q.Name, dns.TypeHINFO), Cpu: "RFC8482"}}
	}
}

// servers are the names of the name servers.
func (z *zone) servers(all []relay) []string {
	if len(z.cfg.NS) > 0 || len(all) == 0 {
		return z.cfg.NS
	}
	out := make([]string, len(all))
	for i, m := range all {
		out[i] = m.name
	}
	return out
}

// glue adds the addresses of relays that an answer names.
func (z *zone) glue(m *dns.Msg, of []relay) {
	for _, one := range of {
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
			m.Extra = append(m.Extra, z.addresses(one.name, t, []relay{one})...)
		}
	}
}

func (z *zone) addresses(name string, qtype uint16, of []relay) (rrs []dns.RR) {
	for _, one := range of {
		for _, a := range one.addrs {
			switch {
			case qtype == dns.TypeA && a.Is4():
				rrs = append(rrs, &dns.A{Hdr: z.header(name, qtype), A: a.AsSlice()})
			case qtype == dns.TypeAAAA && a.Is6():
				rrs = append(rrs, &dns.AAAA{Hdr: z.header(name, qtype), AAAA: a.AsSlice()})
			}
		}
	}
	return rrs
}

func (z *zone) header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: z.ttl()}
}

func (z *zone) ttl() uint32 { return uint32(z.cfg.TTL / time.Second) }

func (z *zone) soa(name string) dns.RR {
	_, all := z.relays()
	first := z.apex
	if ns := z.servers(all); len(ns) > 0 {
		first = slices.Min(ns)
	}
	return &dns.SOA{
		Hdr: z.header(name, dns.TypeSOA), Ns: first, Mbox: z.cfg.Contact, Serial: z.serial,
		Refresh: 3600, Retry: 600, Expire: 604800, Minttl: z.ttl(),
	}
}

// Serve answers on these sockets, which it closes, until ctx ends.
func (r *Responder) Serve(ctx context.Context, udp []net.PacketConn, tcp []net.Listener) error {
	var servers []*dns.Server
	for _, p := range udp {
		servers = append(servers, &dns.Server{PacketConn: p, Handler: dns.HandlerFunc(r.udp), UDPSize: maxUDP})
	}
	for _, l := range tcp {
		servers = append(servers, &dns.Server{
			Listener: &bounded{Listener: l, limits: &r.limits}, Handler: dns.HandlerFunc(r.tcp),
			MaxTCPQueries: perConnection, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
			IdleTimeout: func() time.Duration { return 5 * time.Second },
		})
	}
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		started, failed := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		wg.Go(func() {
			defer close(failed)
			errs[i] = s.ActivateAndServe()
		})
		select {
		case <-started:
		case <-failed:
		}
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	for _, s := range servers {
		_ = s.Shutdown() // those that have ended by themselves say so
	}
	<-ended
	return errors.Join(errs...)
}

func (r *Responder) udp(w dns.ResponseWriter, q *dns.Msg) {
	from := addrOf(w.RemoteAddr())
	if !r.limits.begin() {
		r.zone.Load().cfg.Count("udp", "dropped")
		return
	}
	defer r.limits.end()
	switch r.limits.allow(from, time.Now()) {
	case drop:
		r.zone.Load().cfg.Count("udp", "dropped")
		return
	case cut:
		m := new(dns.Msg)
		m.SetReply(q)
		m.Truncated = true
		r.write(w, "udp", "cut", m)
		return
	}
	m := r.zone.Load().answer(q, true)
	r.write(w, "udp", result(m), m)
}

func (r *Responder) tcp(w dns.ResponseWriter, q *dns.Msg) {
	m := r.zone.Load().answer(q, false)
	r.write(w, "tcp", result(m), m)
}

func (r *Responder) write(w dns.ResponseWriter, protocol, result string, m *dns.Msg) {
	if err := w.WriteMsg(m); err != nil {
		result = "dropped"
	}
	r.zone.Load().cfg.Count(protocol, result)
}

// result names an answer for Count.
func result(m *dns.Msg) string {
	switch {
	case m.Truncated:
		return "cut"
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0:
		return "nodata"
	}
	switch m.Rcode {
	case dns.RcodeSuccess:
		return "ok"
	case dns.RcodeNameError:
		return "nxdomain"
	case dns.RcodeRefused:
		return "refused"
	}
	return "error"
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
