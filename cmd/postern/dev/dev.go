package dev

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/dns"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// Options are what `postern dev` is told.
type Options struct {
	Dir          string // "": a temporary folder, removed at the end
	Relays       int
	Pairs        int
	Users        int
	LDIF         string
	Directory    string // URL of an outside LDAP server; "" runs our own
	Base         string
	BindDN       string
	BindPassword string
	Domain       string
	PairPrefix   string
	Quiet        bool
	BenchPorts   bool
	NoRestart    bool
	Responder    bool   // relays answer DNS, and have addresses of their own
	Binaries     string // folder of the daemons; "": that of this program

	// Given reports whether an option was given, by the name of its flag.
	Given func(flag string) bool
	// Out is told what happens.
	Out io.Writer
}

// Check refuses options that do not go together.
func (o *Options) Check() error {
	if o.Given == nil {
		o.Given = func(string) bool { return false }
	}
	switch {
	case o.Relays < 1 || o.Relays > maxRelays:
		return fmt.Errorf("--relays %d: want 1 to %d", o.Relays, maxRelays)
	case o.Pairs < 1 || o.Pairs > maxPairs:
		return fmt.Errorf("--pairs %d: want 1 to %d", o.Pairs, maxPairs)
	case o.Users < 0 || o.Users > maxUsers:
		return fmt.Errorf("--users %d: want 0 to %d", o.Users, maxUsers)
	case o.LDIF != "" && o.Directory != "":
		return errors.New("--ldif fills a directory of our own: leave --directory out")
	case o.Directory != "" && o.Base == "":
		return errors.New("--directory needs --base, the name below which everything is searched")
	case o.Directory == "" && (o.BindDN != "" || o.BindPassword != ""):
		return errors.New("--bind-dn and --bind-password are for --directory")
	case o.Directory == "" && o.LDIF == "" && o.Base != "":
		return errors.New("--base is for --directory or --ldif")
	case !validLabel(o.PairPrefix):
		return fmt.Errorf("--pair-prefix %q: want up to 40 letters and digits in lower case, beginning with a letter", o.PairPrefix)
	}
	return nil
}

// keep takes the options that a cluster was made with.
func (o *Options) keep(s *settings) {
	o.Domain, o.Relays, o.Pairs, o.PairPrefix, o.Users = s.Domain, s.Relays, s.Pairs, s.PairPrefix, s.Users
}

func validLabel(s string) bool {
	if s == "" || len(s) > 40 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// The times that tiers have to stop before they are killed.
const (
	stopRelays    = 7 * time.Second
	stopBackends  = 8 * time.Second
	stopWitnesses = 5 * time.Second
)

// cluster is a running development cluster.
type cluster struct {
	o      *Options
	dir    string
	bin    string
	layout *layout

	spawn      *spawner
	processes  map[string]*process
	supervised sync.WaitGroup // their run
	clients    map[string]*admin.Client
	died       chan death    // ends before the cluster was ready
	operator   chan struct{} // holds a token while the operator starts or stops a node

	ctx      context.Context         // ends when the cluster is to stop
	fail     context.CancelCauseFunc // of ctx
	inner    context.Context         // of the services in this process, which end last
	services sync.WaitGroup

	mu        sync.Mutex // guards published and the writing of cluster.json
	published bool

	outMu sync.Mutex // guards o.Out
}

type death struct{ name, how string }

// Run starts the cluster and keeps it until ctx ends; then it returns nil. It
// returns an error when the cluster does not come up or cannot go on.
func Run(ctx context.Context, o Options) error {
	if err := o.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotStarted, err)
	}
	c := &cluster{o: &o, died: make(chan death, 64), operator: make(chan struct{}, 1)}
	err := c.folder()
	if o.Dir == "" && c.dir != "" {
		defer os.RemoveAll(c.dir)
	}
	if err != nil {
		return notStarted(ctx, err)
	}
	held, err := lock(c.dir)
	if err != nil {
		return notStarted(ctx, err)
	}
	defer held.Close()
	c.ctx, c.fail = context.WithCancelCause(ctx)
	defer c.fail(nil)
	inner, end := context.WithCancel(context.WithoutCancel(ctx))
	c.inner = inner
	defer c.services.Wait()
	defer end()
	if err := c.prepare(); err != nil {
		return notStarted(ctx, err)
	}
	c.startAll()
	defer c.stopAll()
	serving, err := c.awaitReady(c.ctx)
	if err != nil {
		return notStarted(ctx, err)
	}
	if err := c.control(); err != nil {
		return notStarted(ctx, err)
	}
	if err := c.publish(); err != nil {
		return notStarted(ctx, err)
	}
	if !o.Quiet {
		c.outMu.Lock()
		greet(o.Out, c.describe(), c.dir, serving)
		c.outMu.Unlock()
	}
	<-c.ctx.Done()
	if ctx.Err() != nil {
		return nil // the operator wants it so
	}
	return context.Cause(c.ctx)
}

// ErrNotStarted marks the error of a cluster that never became ready.
var ErrNotStarted = errors.New("the cluster did not start")

// notStarted is nil when the operator ended the start.
func notStarted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotStarted, err)
}

// folder finds or makes the cluster's folder.
func (c *cluster) folder() error {
	var err error
	if c.o.Dir == "" {
		if c.dir, err = os.MkdirTemp("", "postern-dev-"); err != nil {
			return err
		}
	} else {
		if c.dir, err = filepath.Abs(c.o.Dir); err != nil {
			return err
		}
		if err = os.MkdirAll(c.dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes everything that the nodes need before they start.
func (c *cluster) prepare() error {
	if err := os.Remove(filepath.Join(c.dir, clusterfile.Name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var err error
	if c.layout, err = openLayout(c.dir, c.o); err != nil {
		return err
	}
	c.o.keep(&c.layout.Settings)
	if n := c.layout.known(); n > 0 {
		c.say("%d users have a mailHost that is no pair of this cluster", n)
	}
	if err := c.layout.busy(c.o); err != nil {
		return err
	}
	if c.o.Binaries != "" {
		c.bin, err = c.given(c.o.Binaries)
	} else {
		c.bin, err = findPrograms(c.ctx, c.dir, c.say)
	}
	if err != nil {
		return err
	}
	if err := c.layout.secrets(c.dir, time.Now()); err != nil {
		return err
	}
	if err := c.layout.outside(c.ctx, c.o); err != nil {
		return err
	}
	if err := c.layout.configs(c.dir, c.o); err != nil {
		return err
	}
	if err := c.dns(); err != nil {
		return err
	}
	if err := c.directory(); err != nil {
		return err
	}
	return c.create(c.ctx)
}

// dns answers for the cluster's domains, and that no other name exists.
func (c *cluster) dns() error {
	zone := new(dns.Zone)
	records := []string{"localhost. A 127.0.0.1", "1.0.0.127.in-addr.arpa. PTR localhost."}
	for _, r := range c.layout.of(relayTier) {
		records = append(records, c.layout.hostname(r)+". A 127.0.0.1")
		for _, d := range c.layout.Domains {
			records = append(records, fmt.Sprintf("%s. MX 10 %s.", d, c.layout.hostname(r)))
		}
	}
	for _, r := range records {
		if err := zone.Add(r); err != nil {
			return err
		}
	}
	s, err := dns.Listen(c.layout.DNS, zone)
	if err != nil {
		return err
	}
	c.serve("DNS", s.Run)
	return nil
}

// directory runs our own LDAP server, which keeps changes in a journal.
func (c *cluster) directory() error {
	if c.o.Directory != "" {
		return nil
	}
	s, listeners, err := c.layout.openDirectory(c.dir, c.o)
	if err != nil {
		return err
	}
	c.serve("directory", func(ctx context.Context) error { return serveDirectory(ctx, s, listeners) })
	return nil
}

// openDirectory opens the tree of our own directory, and listens for clients who
// begin in the clear, and may ask for TLS, and for those who begin with it.
func (l *layout) openDirectory(dir string, o *Options) (s *embedded.Server, listeners []net.Listener, err error) {
	text := tree(o, l.Settings.Domain)
	if o.LDIF != "" {
		if text, err = readLDIF(o.LDIF); err != nil {
			return nil, nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "directory"), 0o700); err != nil {
		return nil, nil, err
	}
	cert, err := tlsconf.LoadPublic(filepath.Join(dir, directoryCert+".pem"), filepath.Join(dir, directoryCert+"-key.pem"))
	if err != nil {
		return nil, nil, fmt.Errorf("directory: %w", err)
	}
	s, err = embedded.New(embedded.Config{
		LDIF: text, Journal: filepath.Join(dir, "directory", "journal.ldif"), Suffixes: []string{l.Base},
		RootDN: l.RootDN, RootPassword: l.RootPass, AnonymousRead: true, SelfWrite: embedded.SelfService, TLS: cert.Server(nil),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("directory: %w", err)
	}
	plain, err := net.Listen("tcp", l.LDAP)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	secure, err := tls.Listen("tcp", l.LDAPS, cert.Server(nil))
	if err != nil {
		return nil, nil, errors.Join(err, plain.Close(), s.Close())
	}
	return s, []net.Listener{plain, secure}, nil
}

// serveDirectory answers on all listeners until ctx ends.
func serveDirectory(ctx context.Context, s *embedded.Server, listeners []net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(listeners))
	var wg sync.WaitGroup
	for i, l := range listeners {
		wg.Go(func() {
			defer cancel()
			errs[i] = s.Serve(ctx, l)
		})
	}
	wg.Wait()
	return errors.Join(append(errs, s.Close())...)
}

// serve runs a service of this process until the end; one that ends before
// that ends the cluster.
func (c *cluster) serve(name string, run func(context.Context) error) {
	c.services.Go(func() {
		err := run(c.inner)
		if c.inner.Err() == nil {
			c.fail(fmt.Errorf("%s has ended: %w", name, err))
		}
	})
}

// startAll makes a process for each node and starts them.
func (c *cluster) startAll() {
	c.spawn = newSpawner()
	c.processes, c.clients = map[string]*process{}, map[string]*admin.Client{}
	for _, n := range c.layout.Nodes {
		p := &process{
			name: n.Name, bin: c.program(n), args: []string{"--config", configFile(c.dir, n)}, dir: filepath.Join(c.dir, n.Name),
			spawn: c.spawn, restart: c.restarts, say: c.say, want: true,
			changed: func() { c.update() },
			ended: func(name, how string) {
				select {
				case c.died <- death{name, how}:
				default: // nobody asks any more
				}
			},
		}
		p.init()
		c.processes[n.Name] = p
		c.clients[n.Name] = admin.NewUnixClient(socket(c.dir, n))
	}
	for _, p := range c.processes {
		c.supervised.Go(p.run)
	}
}

// restarts reports whether nodes that end are started again: once the cluster
// was ready, unless the operator does not want it.
func (c *cluster) restarts() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.published && !c.o.NoRestart
}

// stopAll stops the tiers one after the other, the nodes of a tier at the same
// time, and returns when every process has ended.
func (c *cluster) stopAll() {
	c.operator <- struct{}{} // forever: nobody starts a node again
	for _, tier := range []struct {
		name  string
		grace time.Duration
	}{{relayTier, stopRelays}, {backendTier, stopBackends}, {witnessTier, stopWitnesses}} {
		var wg sync.WaitGroup
		for _, n := range c.layout.of(tier.name) {
			wg.Go(func() {
				if !c.processes[n.Name].stop(context.Background(), tier.grace) {
					c.say("%s did not stop within %v and was killed", n.Name, tier.grace)
				}
			})
		}
		wg.Wait()
	}
	for _, p := range c.processes {
		close(p.quit)
	}
	c.supervised.Wait()
	c.spawn.close()
	for _, cl := range c.clients {
		cl.Close()
	}
}

func (c *cluster) find(name string) (*node, *process) {
	for _, n := range c.layout.Nodes {
		if n.Name == name {
			return n, c.processes[name]
		}
	}
	return nil, nil
}

func (c *cluster) describe() *clusterfile.File {
	return c.layout.describe(c.dir, c.o, func(name string) int { return c.processes[name].pid() })
}

// publish writes cluster.json for the first time.
func (c *cluster) publish() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published = true
	return c.describe().Write(c.dir)
}

// update writes cluster.json again after a change.
func (c *cluster) update() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.published {
		return
	}
	if err := c.describe().Write(c.dir); err != nil {
		c.say("%v", err)
	}
}

// say tells the operator a line, unless --quiet.
func (c *cluster) say(format string, args ...any) {
	if c.o.Quiet {
		return
	}
	c.outMu.Lock()
	defer c.outMu.Unlock()
	fmt.Fprintf(c.o.Out, "postern dev: "+format+"\n", args...)
}
