package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// maxLDIF bounds the tree that a directory of our own begins with.
const maxLDIF = 256 << 20

// serveDirectory serves a directory of our own, for sites that have no other.
// Relays reach it over LDAP like any other.
func (r *relay) serveDirectory() error {
	if r.c.Directory.Serve.File == "" {
		return nil
	}
	cfg, err := r.ownDirectory()
	if err != nil {
		return fmt.Errorf("directory.serve: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Journal), 0o700); err != nil {
		return fmt.Errorf("directory.serve: %w", err)
	}
	listeners, err := listenDirectory(&r.c.Directory.Serve)
	if err != nil {
		return fmt.Errorf("directory.serve: %w", err)
	}
	s, err := embedded.New(cfg)
	if err != nil {
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		return err
	}
	r.n.Go("directory of our own", func(ctx context.Context) error {
		var wg sync.WaitGroup
		errs := make([]error, len(listeners))
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for i, l := range listeners {
			wg.Go(func() {
				defer cancel()
				errs[i] = s.Serve(ctx, l)
			})
		}
		wg.Wait()
		return errors.Join(errors.Join(errs...), s.Close())
	})
	return nil
}

// ownDirectory is what the configuration says of it.
func (r *relay) ownDirectory() (embedded.Config, error) {
	d, own := &r.c.Directory, &r.c.Directory.Serve
	cfg := embedded.Config{Journal: own.File, RootDN: own.RootDN, RequireTLS: true, Peers: map[int]string{}, Log: r.n.Log}
	for _, top := range []string{d.Base, d.DCRoot} {
		if top != "" {
			cfg.Suffixes = append(cfg.Suffixes, top)
		}
	}
	schema, err := schemaOf(d)
	if err != nil {
		return cfg, err
	}
	cfg.Rules = rulesFor(schema.AuthPassword, d.BindDN)
	for _, p := range own.Peers {
		cfg.Peers[p.UID] = p.Name
	}
	password, err := config.SecretOf("", own.RootPasswordFile)
	if err != nil {
		return cfg, err
	}
	cfg.RootPassword = password.Reveal()
	if own.LDIF != "" {
		fi, err := os.Stat(own.LDIF)
		if err != nil {
			return cfg, err
		}
		if fi.Size() > maxLDIF {
			return cfg, fmt.Errorf("%s: %d octets are more than the %d that are taken", own.LDIF, fi.Size(), maxLDIF)
		}
		if cfg.LDIF, err = os.ReadFile(own.LDIF); err != nil {
			return cfg, err
		}
	}
	if len(own.Listen) == 0 {
		return cfg, nil
	}
	public, err := tlsconf.LoadPublic(r.c.Public.Cert, r.c.Public.Key)
	if err != nil {
		return cfg, err
	}
	cas, _, err := pool(own.ClientCA)
	if err != nil {
		return cfg, err
	}
	r.n.Go("certificate of the directory", func(ctx context.Context) error { public.Watch(ctx, 10*time.Second, r.n.Log); return nil })
	cfg.TLS = public.Server(cas)
	return cfg, nil
}

// rulesFor are the rights of others than the root DN: who has logged in reads
// everything but passwords and may change the own one. The passwords of lists
// are for relays only, which would take a list for open without seeing them.
func rulesFor(listPassword, relay string) []embedded.Rule {
	rules := []embedded.Rule{
		{Attributes: []string{"userPassword"}, Who: "self", Access: embedded.WriteOnly},
		{Attributes: []string{"userPassword"}, Who: "*", Access: embedded.Auth},
	}
	if listPassword != "" {
		if relay != "" {
			rules = append(rules, embedded.Rule{Attributes: []string{listPassword}, Who: "dn:" + relay, Access: embedded.Read})
		}
		rules = append(rules, embedded.Rule{Attributes: []string{listPassword}, Who: "*", Access: embedded.None})
	}
	return append(rules, embedded.Rule{Who: "users", Access: embedded.Read})
}

// listenDirectory opens the socket and the addresses.
func listenDirectory(own *config.DirectoryServer) (listeners []net.Listener, err error) {
	defer func() {
		for i := range listeners {
			if err != nil {
				err = errors.Join(err, listeners[i].Close())
			}
		}
	}()
	if own.Socket != "" {
		l, err := listenSocket(own.Socket)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
	}
	for _, addr := range own.Listen {
		l, err := daemon.Listen(addr)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil, errors.New("neither a socket nor an address to serve it on")
	}
	return listeners, nil
}

// listenSocket listens on a Unix socket that every user of the host may open:
// who they are is asked of the kernel, or they have a password. What a process
// that is gone has left is removed.
func listenSocket(path string) (net.Listener, error) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&fs.ModeSocket != 0 {
		nc, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			nc.Close()
			return nil, fmt.Errorf("%s: somebody listens there", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
