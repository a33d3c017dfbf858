package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// ServicesOptions are what a cluster needs and does not bring along: a directory
// and a DNS, for examples.
type ServicesOptions struct {
	LDAP      string // address; "": none
	LDIF      string // file; "": people made up of the fields below
	Domain    string
	Users     int
	Pairs     int
	Cert, Key string // for StartTLS, which passwords then need

	DNS    string // address; "": none
	Zone   string // master file
	Origin string // for relative names in it

	Ready func() // called when everything listens; may be nil
}

// maxZone bounds a master file.
const maxZone = 16 << 20

// Services serves until ctx ends.
func Services(ctx context.Context, o ServicesOptions) error {
	if o.LDAP == "" && o.DNS == "" {
		return errors.New("nothing to serve: give an address for LDAP or DNS")
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var ended error
	serve := func(what string, f func(context.Context) error) {
		wg.Go(func() {
			defer cancel()
			if err := f(ctx); err != nil {
				mu.Lock()
				ended = errors.Join(ended, fmt.Errorf("%s: %w", what, err))
				mu.Unlock()
			}
		})
	}
	err := o.start(serve)
	if err != nil {
		cancel()
	} else if o.Ready != nil {
		o.Ready()
	}
	wg.Wait()
	cancel()
	return errors.Join(err, ended)
}

func (o *ServicesOptions) start(serve func(string, func(context.Context) error)) error {
	if o.DNS != "" {
		text, err := readFile(o.Zone, maxZone)
		if err != nil {
			return err
		}
		zone, err := dns.ParseZone(o.Origin, string(text))
		if err != nil {
			return fmt.Errorf("%s: %w", o.Zone, err)
		}
		d, err := dns.Listen(o.DNS, zone)
		if err != nil {
			return err
		}
		serve("DNS", d.Run)
	}
	if o.LDAP == "" {
		return nil
	}
	cfg := embedded.Config{LDIF: fixture.Tree(o.Domain, o.Users, o.Pairs), AnonymousRead: true, SelfWrite: embedded.SelfService}
	if o.LDIF != "" {
		var err error
		if cfg.LDIF, err = readLDIF(o.LDIF); err != nil {
			return err
		}
	}
	if o.Cert != "" {
		cert, err := tlsconf.LoadPublic(o.Cert, o.Key)
		if err != nil {
			return err
		}
		cfg.TLS, cfg.RequireTLS = cert.Server(nil), true
	}
	l, err := net.Listen("tcp", o.LDAP)
	if err != nil {
		return err
	}
	s, err := embedded.New(cfg)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	serve("LDAP", func(ctx context.Context) error { return errors.Join(s.Serve(ctx, l), s.Close()) })
	return nil
}

func readFile(name string, most int64) ([]byte, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > most {
		return nil, fmt.Errorf("%s: %d octets are more than the %d that are taken", name, fi.Size(), most)
	}
	return os.ReadFile(name)
}
