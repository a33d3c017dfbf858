package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/dns/responder"
	"github.com/postern-mail/postern/shared/metrics"
)

const (
	// maxPublic is the number of addresses that a relay tells of itself.
	maxPublic = 4
	// publicPort stands in gossip behind an address, where a port has to be.
	publicPort = 25
)

// publicService is the name in gossip of the public address with the number i.
func publicService(i int) string { return "public/" + strconv.Itoa(i) }

// checkPublic looks at the addresses that a relay tells of itself.
func checkPublic(c *config.Relay) error {
	if len(c.Public.Addresses) > maxPublic {
		return fmt.Errorf("public.addresses: %d of them, at most %d", len(c.Public.Addresses), maxPublic)
	}
	for _, a := range c.Public.Addresses {
		if ip, err := netip.ParseAddr(a); err != nil || ip.Zone() != "" {
			return fmt.Errorf("public.addresses: %q is no address", a)
		}
	}
	return nil
}

// serveDNS starts the responder, if the relay is to have one.
func (r *relay) serveDNS() error {
	c := &r.c.DNS.Serve
	if len(c.Listen) == 0 {
		return nil
	}
	if r.c.Gossip.Listen == "" {
		return errors.New("dns.serve: without gossip nobody says which relays are fit")
	}
	var err error
	if r.responder, err = responder.New(r.responderConfig(r.now())); err != nil {
		return fmt.Errorf("dns.serve: %w", err)
	}
	var udp []net.PacketConn
	var tcp []net.Listener
	for _, addr := range c.Listen {
		l, err := daemon.Listen(addr)
		if err == nil {
			tcp = append(tcp, l)
			var p net.PacketConn
			if p, err = daemon.ListenPacket(l.Addr().String()); err == nil {
				udp = append(udp, p)
				continue
			}
		}
		for _, l := range tcp {
			l.Close()
		}
		for _, p := range udp {
			p.Close()
		}
		return fmt.Errorf("dns.serve: %w", err)
	}
	for _, fit := range []bool{true, false} {
		r.n.Metrics.GaugeFunc(metrics.DNSRelays, "Relays that the DNS responder knows, by whether they are fit.", map[string]string{"fit": strconv.FormatBool(fit)}, func() float64 {
			n := 0
			for _, one := range relaysOf(r.n.Members()) {
				if one.Fit == fit {
					n++
				}
			}
			return float64(n)
		})
	}
	r.n.Go("dns", func(ctx context.Context) error { return r.responder.Serve(ctx, udp, tcp) })
	return nil
}

// responderConfig is what the responder answers.
func (r *relay) responderConfig(in *inside) responder.Config {
	c := &in.c.DNS.Serve
	return responder.Config{
		Zone: c.Zone, Names: c.Names, NS: c.NameServers, Contact: c.Contact, TTL: c.TTL, Rate: c.Rate,
		Relays: func() []responder.Relay { return relaysOf(r.n.Members()) },
		Count:  func(protocol, result string) { metrics.DNSAnswers.With(protocol, result).Inc() },
	}
}

// relaysOf are the relays among the members, with the addresses that they tell.
func relaysOf(members []gossip.Member) (out []responder.Relay) {
	for _, m := range members {
		if m.Role != "relay" || m.State == gossip.Left {
			continue
		}
		one := responder.Relay{Name: m.Name, Fit: m.State == gossip.Alive && !m.Unready}
		for i := range maxPublic {
			one.Addrs = appendAddr(one.Addrs, m.Services[publicService(i)])
		}
		if len(one.Addrs) == 0 {
			one.Addrs = appendAddr(one.Addrs, m.Services["smtp"])
		}
		out = append(out, one)
	}
	return out
}

func appendAddr(list []netip.Addr, hostPort string) []netip.Addr {
	a, err := netip.ParseAddrPort(hostPort)
	if err != nil || a.Addr().IsUnspecified() || a.Addr().Zone() != "" {
		return list
	}
	return append(list, a.Addr().Unmap())
}
