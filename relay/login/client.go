package login

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/smtp"
)

// where is what a service knows of a client.
type where struct {
	addr netip.Addr
	tls  bool
}

type whereKey struct{}

func at(ctx context.Context, addr netip.Addr, tls bool) context.Context {
	return context.WithValue(ctx, whereKey{}, where{addr, tls})
}

// Sessions wraps the sessions that f makes, so that Password and Certificate
// know which client logs in and whether under TLS.
func Sessions(f func(context.Context, *smtp.ConnInfo) (smtp.Session, error)) func(context.Context, *smtp.ConnInfo) (smtp.Session, error) {
	return func(ctx context.Context, c *smtp.ConnInfo) (smtp.Session, error) {
		s, err := f(ctx, c)
		if err != nil {
			return nil, err
		}
		return &session{s, c}, nil
	}
}

type session struct {
	smtp.Session
	c *smtp.ConnInfo
}

// Hello notes the connection as it is now.
func (s *session) Hello(ctx context.Context, c *smtp.ConnInfo) error {
	s.c = c
	return s.Session.Hello(ctx, c)
}

// Auth tells who is asking.
func (s *session) Auth(ctx context.Context, mech, authz, user, password string) (string, error) {
	return s.Session.Auth(at(ctx, s.c.Remote.Addr(), s.c.TLS != nil), mech, authz, user, password)
}

// access checks the access filters of e's domain and of e: both must allow the
// service. A filter that cannot be read allows nothing.
func (c *Checker) access(ctx context.Context, e *directory.Entry, service string) error {
	domain := ""
	if e.Domain != nil {
		domain = e.Domain.ServiceAccess
	}
	if domain == "" && e.ServiceAccess == "" {
		return nil
	}
	w, _ := ctx.Value(whereKey{}).(where)
	client := &Client{Addr: w.addr, TLS: w.tls}
	if c.Host != nil && w.addr.IsValid() {
		client.Name = func() (string, bool) { return c.Host(ctx, w.addr) }
	}
	if c.Netgroups != nil {
		client.Netgroup = func(name string) (bool, error) { return c.Netgroups.has(ctx, name, e.UID, client) }
	}
	for _, value := range [...]string{domain, e.ServiceAccess} {
		f, err := ParseFilter(value)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", errRefused, e.DN, err)
		}
		if name := f.netgroup(); name != "" && c.Netgroups == nil {
			return fmt.Errorf("%w: %s: netgroup %s: there are none here", errRefused, e.DN, name)
		}
		allowed, err := f.Allows(service, client)
		if err != nil {
			return fmt.Errorf("access of %s: %w", e.DN, err)
		}
		if !allowed {
			return fmt.Errorf("%w: %s may not use %s from %s", errRefused, e.DN, service, w.addr)
		}
	}
	return nil
}

// Names is what HostOf needs of the DNS.
type Names interface {
	PTR(ctx context.Context, addr netip.Addr) ([]string, error)
	Addrs(ctx context.Context, host string) ([]netip.Addr, error)
}

// HostOf returns a function for Checker.Host that asks the DNS for the name of
// an address, and whether that name has the address.
func HostOf(dns Names) func(ctx context.Context, addr netip.Addr) (string, bool) {
	return func(ctx context.Context, addr netip.Addr) (string, bool) {
		names, err := dns.PTR(ctx, addr)
		if err != nil {
			return "", false
		}
		first := ""
		for _, n := range names[:min(len(names), 4)] {
			if first == "" {
				first = n
			}
			back, err := dns.Addrs(ctx, n)
			if err != nil {
				continue
			}
			for _, a := range back {
				if a.Unmap() == addr.Unmap() {
					return n, true
				}
			}
		}
		return first, false
	}
}
