package netns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/directory/embedded"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/dns"
)

const (
	witness       = drill.RoleWitness
	directoryHost = "dir"
	worldHost     = "world"
	baseDN        = fixture.Root
	rootDN        = "cn=admin," + baseDN
	// readyWithin is the time of all nodes to become ready.
	readyWithin = 60 * time.Second
	// maxDials is how many connections are made at once: each takes a thread.
	maxDials = 256
	// idLength is that of the id of a run.
	idLength = 6
	// closeWithin bounds the removal of everything.
	closeWithin = 60 * time.Second
)

// Options are the size of the cluster. Zero fields have defaults.
type Options struct {
	Relays int    // 2
	Pairs  int    // 1
	Users  int    // 12, all of the first pair
	Bin    string // folder with the daemons; "": that of this program
	Disk   Disk
	Memory bool // that of each node can be limited
	// Before has the pair begin with the formats of the release before, whose
	// programs could not read the newest.
	Before bool
}

// Possible returns nil or why this machine cannot do it.
func Possible() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	return have("ip", "nft")
}

// have returns which of the tools is missing.
func have(tools ...string) error {
	for _, name := range tools {
		if _, err := tool(name); err != nil {
			return fmt.Errorf("network namespaces: %w", err)
		}
	}
	return nil
}

// Can returns nil or why a scenario is not possible here.
func Can(s *drill.Scenario) error {
	if slices.Contains(s.Needs, drill.LimitMemory) {
		_, err := findMemory()
		return err
	}
	if DiskFor(s) != OwnDisk {
		return nil
	}
	return haveDiskTools()
}

// Lab is the cluster.
type Lab struct {
	o       Options
	l       *layout
	f       *fabric
	nodes   []drill.Node
	users   []drill.User
	tls     *tls.Config
	spawner *spawner
	procs   map[string]*process
	disks   []*disk
	memory  *memory  // nil: that of nodes is the host's
	killed  int64    // kills of the node whose memory is limited, before it was
	inbox   inbox    // elsewhere
	root    string   // password of the directory's rootDN
	alive   *os.File // locked
	dials   chan struct{}
	end     context.CancelFunc
	servers sync.WaitGroup

	mu   sync.Mutex
	cuts map[string]bool // hosts with rules
}

var _ drill.Target = (*Lab)(nil)

// Start makes the cluster and waits until it is ready. On error everything is
// removed again.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if o.Relays == 0 {
		o.Relays = 2
	}
	if o.Pairs == 0 {
		o.Pairs = 1
	}
	if o.Users == 0 {
		o.Users = 12
	}
	if err := Possible(); err != nil {
		return nil, err
	}
	if o.Bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.Bin = filepath.Dir(exe)
	}
	for _, p := range []string{"postern-relay", "postern-backend", "postern-witness"} {
		if _, err := os.Stat(filepath.Join(o.Bin, p)); err != nil {
			return nil, fmt.Errorf("%s is not beside this program: %w", p, err)
		}
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, err
	}
	lab := &Lab{
		root: newID(), o: o, l: &layout{dir: dir}, f: &fabric{id: newID()[:idLength], hosts: map[string]string{}},
		spawner: newSpawner(), dials: make(chan struct{}, maxDials), procs: map[string]*process{}, cuts: map[string]bool{}, end: func() {},
	}
	if err := lab.claim(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := lab.build(ctx); err != nil {
		return nil, errors.Join(err, lab.Close())
	}
	return lab, nil
}

func (lab *Lab) build(ctx context.Context) error {
	l := lab.l
	if err := lab.f.build(ctx); err != nil {
		return err
	}
	for i := range lab.o.Relays {
		l.relays = append(l.relays, fmt.Sprintf("relay%d", i+1))
		if err := lab.f.add(ctx, dmz, l.relays[i], 11+i); err != nil {
			return err
		}
	}
	for n := range lab.o.Pairs {
		p := pairName(n)
		for i, m := range []member{{p + "-a", newID(), drill.RoleData, p}, {p + "-b", newID(), drill.RoleData, p}, {p + "-w", newID(), witness, p}} {
			l.voters = append(l.voters, m)
			if err := lab.f.add(ctx, data, m.host, 11+10*n+i); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(lab.f.add(ctx, mgmt, directoryHost, 11), lab.f.add(ctx, dmz, worldHost, 200)); err != nil {
		return err
	}
	l.addr = lab.f.hosts
	for _, h := range l.hosts() {
		if err := os.MkdirAll(l.nodeDir(h), 0o700); err != nil {
			return err
		}
	}
	if err := errors.Join(lab.makeDisks(ctx), lab.makeGroups()); err != nil {
		return err
	}
	if err := l.write(time.Now()); err != nil {
		return err
	}
	if err := lab.trust(); err != nil {
		return err
	}
	if err := lab.serve(); err != nil {
		return err
	}
	if err := lab.startNodes(); err != nil {
		return err
	}
	if err := lab.awaitReady(ctx); err != nil {
		return err
	}
	return lab.flushDisks()
}

func (lab *Lab) trust() error {
	pem, err := os.ReadFile(filepath.Join(lab.l.dir, "ca", "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return errors.New("the CA that was just made holds no certificate")
	}
	lab.tls = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	return nil
}

// serve runs directory and DNS in their namespace.
func (lab *Lab) serve() error {
	tree := fixture.Tree(mailDomain, lab.o.Users, 1)
	s, err := embedded.New(embedded.Config{LDIF: tree, Suffixes: []string{baseDN}, RootDN: rootDN, RootPassword: lab.root, AnonymousRead: true})
	if err != nil {
		return err
	}
	addr := lab.l.addr[directoryHost]
	zone := new(dns.Zone)
	for _, r := range lab.l.relays {
		for _, rec := range []string{r + "." + mailDomain + ". A " + lab.l.addr[r], mailDomain + ". MX 10 " + r + "." + mailDomain + "."} {
			if err := zone.Add(rec); err != nil {
				return err
			}
		}
	}
	for _, rec := range []string{elsewhereDomain + ". MX 10 mx." + elsewhereDomain + ".", "mx." + elsewhereDomain + ". A " + lab.l.addr[worldHost]} {
		if err := zone.Add(rec); err != nil {
			return err
		}
	}
	var l net.Listener
	var d *dns.Server
	if err := within(lab.f.ns(directoryHost), func() (err error) {
		if l, err = net.Listen("tcp", at(addr, portLDAP)); err != nil {
			return err
		}
		d, err = dns.Listen(at(addr, portDNS), zone)
		return err
	}); err != nil {
		return errors.Join(err, s.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	lab.end = cancel
	lab.servers.Go(func() { _ = errors.Join(s.Serve(ctx, l), s.Close()) }) // its end is seen as a directory that is away
	lab.servers.Go(func() { _ = d.Run(ctx) })
	if err := lab.serveElsewhere(ctx); err != nil {
		return err
	}
	for i := range lab.o.Users {
		uid := fixture.UID(i + 1)
		lab.users = append(lab.users, drill.User{Login: uid, Password: fixture.Password, Address: uid + "@" + mailDomain, Pair: pairName(0)})
	}
	return nil
}

func (lab *Lab) startNodes() error {
	add := func(host, program string) *process {
		p := &process{
			host: host, ns: lab.f.ns(host), bin: filepath.Join(lab.o.Bin, program), config: lab.l.configFile(host),
			log: filepath.Join(lab.l.dir, host+".log"), clock: lab.l.clockFile(host), spawn: lab.spawner.start,
		}
		if lab.memory != nil {
			p.group = lab.memory.groupOf(lab.f, host)
		}
		lab.procs[host] = p
		return p
	}
	client := func(host string) *admin.Client { return admin.NewUnixClient(lab.Socket(host)) }
	newPair := "newest"
	if lab.o.Before {
		newPair = "before"
	}
	for _, m := range lab.l.voters {
		program := "postern-backend"
		if m.role == witness {
			program = "postern-witness"
		}
		p := add(m.host, program)
		if err := p.create(newPair); err != nil {
			return err
		}
		if err := p.start(); err != nil {
			return err
		}
		lab.nodes = append(lab.nodes, drill.Node{Name: m.host, Role: m.role, Pair: m.pair, Admin: client(m.host)})
	}
	for _, r := range lab.l.relays {
		if err := add(r, "postern-relay").start(); err != nil {
			return err
		}
		a := lab.l.addr[r]
		lab.nodes = append(lab.nodes, drill.Node{Name: r, Role: drill.RoleRelay, SMTP: at(a, portSMTP), IMAPS: at(a, portIMAPS), Admin: client(r)})
	}
	return nil
}

func (lab *Lab) awaitReady(whole context.Context) error {
	ctx, cancel := context.WithTimeout(whole, readyWithin)
	defer cancel()
	for {
		why := ""
		for _, n := range lab.nodes {
			c, cancel := context.WithTimeout(ctx, time.Second)
			s, err := admin.Call(c, n.Admin, admin.GetStatus, admin.None{})
			cancel()
			if err != nil {
				why = n.Name + ": " + err.Error()
			} else if s.State != "ready" {
				why = n.Name + ": " + s.State
			}
		}
		if why == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			if whole.Err() != nil {
				return context.Cause(whole)
			}
			host, _, _ := strings.Cut(why, ":")
			return fmt.Errorf("the cluster in namespaces is not ready: %s\n%s", why, lab.tail(host))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// tail is the end of a node's log.
func (lab *Lab) tail(host string) string {
	p := lab.procs[host]
	if p == nil {
		return ""
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 600
	return string(text[max(0, len(text)-most):])
}

// SaveLogs copies the logs of all nodes into a folder.
func (lab *Lab) SaveLogs(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for host, p := range lab.procs {
		text, err := os.ReadFile(p.log)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, host+".log"), text, 0o644)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Close ends the nodes and removes what was made.
func (lab *Lab) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	lab.thaw()
	var wg sync.WaitGroup
	for _, p := range lab.procs {
		wg.Go(p.close)
	}
	wg.Wait()
	lab.spawner.close() // and with it the mounts
	lab.end()
	lab.servers.Wait()
	for _, n := range lab.nodes {
		n.Admin.Close()
	}
	_, err := lab.f.removeGroups()
	return errors.Join(err, lab.f.remove(ctx), os.RemoveAll(lab.l.dir), lab.alive.Close())
}

// Title says what it is.
func (lab *Lab) Title() string {
	pairs := "a pair and a witness"
	if n := lab.o.Pairs; n > 1 {
		pairs = fmt.Sprintf("%d pairs with a witness each", n)
	}
	return fmt.Sprintf("%d relays, %s in network namespaces %s%s-*", lab.o.Relays, pairs, prefix, lab.f.id)
}

// Nodes are the relays and the pair.
func (lab *Lab) Nodes() []drill.Node { return lab.nodes }

// Users have a mailbox each.
func (lab *Lab) Users() []drill.User { return lab.users }

// TLS trusts the CA of this run.
func (lab *Lab) TLS() *tls.Config { return lab.tls }

// Dial connects from outside the firewall.
func (lab *Lab) Dial(ctx context.Context, addr string) (net.Conn, error) {
	select {
	case lab.dials <- struct{}{}:
		defer func() { <-lab.dials }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return dial(ctx, lab.f.ns(worldHost), "tcp4", addr)
}
