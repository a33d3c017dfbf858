package dev

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/postern-mail/postern/cmd/postern/clusterfile"
)

// The programs of the nodes.
const (
	relayTier   = "relay"
	backendTier = "backend"
	witnessTier = "witness"
)

// layoutName is the file that keeps a layout in the cluster's folder.
const layoutName = "dev.json"

// layoutVersion is the version of its format.
const layoutVersion = 1

// Limits of what one machine is asked to run.
const (
	maxRelays = 16
	maxPairs  = 16
	maxUsers  = 100_000
)

// layout is what is decided when a cluster is first made and stays the same at
// each later start: names, addresses, replica ids, people.
type layout struct {
	Version int `json:"version"`
	// Settings are the options it was made with.
	Settings settings `json:"settings"`
	Nodes    []*node  `json:"nodes"`
	LDAP     string   `json:"ldap,omitempty"`  // address of our own directory
	LDAPS    string   `json:"ldaps,omitempty"` // the same, TLS from the start
	DNS      string   `json:"dns"`
	Base     string   `json:"base"`
	RootDN   string   `json:"root_dn,omitempty"`
	RootPass string   `json:"root_password,omitempty"`
	Domains  []string `json:"domains"`
	// Unlisted: the directory has no entry for the domain.
	Unlisted bool `json:"unlisted_domain,omitempty"`

	Users []clusterfile.User `json:"users"`
	Lists []clusterfile.List `json:"lists"`
}

// settings are the options that a cluster keeps for its life.
type settings struct {
	Domain     string `json:"domain"`
	Relays     int    `json:"relays"`
	Pairs      int    `json:"pairs"`
	PairPrefix string `json:"pair_prefix"`
	Users      int    `json:"users"`
	Outside    bool   `json:"outside_directory"`
}

// node is one process. Addr maps the names of its listeners to addresses.
type node struct {
	Name    string            `json:"name"`
	Tier    string            `json:"tier"`
	Pair    string            `json:"pair,omitempty"`
	ID      string            `json:"id,omitempty"`       // of the replica
	Created bool              `json:"created,omitempty"`  // its replica directories exist
	Bin     string            `json:"binaries,omitempty"` // folder of its program, "" that of the cluster
	Addr    map[string]string `json:"addr"`
}

// services lists the listeners of a tier.
var services = map[string][]string{
	relayTier:   {"smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s", "gossip", "admin", "metrics"},
	backendTier: {"lmtp", "imap", "pop3", "raft", "gossip", "admin", "metrics", "bench_lmtp", "bench_imap"},
	witnessTier: {"raft", "gossip", "admin", "metrics"},
}

// newLayout decides everything that Options leave open.
func newLayout(o *Options) (*layout, error) {
	l := &layout{Version: layoutVersion}
	var text []byte
	if o.LDIF != "" {
		var err error
		if text, err = readLDIF(o.LDIF); err != nil {
			return nil, err
		}
		if err := loads(text); err != nil {
			return nil, fmt.Errorf("%s: %w", o.LDIF, err)
		}
	}
	if err := l.people(o, text); err != nil {
		return nil, err
	}
	for i := range o.Relays {
		l.Nodes = append(l.Nodes, &node{Name: fmt.Sprintf("relay%d", i+1), Tier: relayTier})
	}
	for i := range o.Pairs {
		pair := fmt.Sprintf("%s%d", o.PairPrefix, i+1)
		l.Nodes = append(l.Nodes,
			&node{Name: pair + "-a", Tier: backendTier, Pair: pair, ID: newID()},
			&node{Name: pair + "-b", Tier: backendTier, Pair: pair, ID: newID()},
			&node{Name: pair + "-w", Tier: witnessTier, Pair: pair, ID: newID()})
	}
	l.Settings = settings{
		Domain: l.Domains[0], Relays: o.Relays, Pairs: o.Pairs, PairPrefix: o.PairPrefix, Users: o.Users,
		Outside: o.Directory != "",
	}
	return l, l.assignPorts()
}

func (l *layout) assignPorts() error {
	count := 3
	for _, n := range l.Nodes {
		count += len(services[n.Tier])
	}
	addrs, err := freeAddrs(count)
	if err != nil {
		return err
	}
	next := func() string {
		a := addrs[0]
		addrs = addrs[1:]
		return a
	}
	l.LDAP, l.LDAPS, l.DNS = next(), next(), next()
	for _, n := range l.Nodes {
		n.Addr = map[string]string{}
		for _, s := range services[n.Tier] {
			n.Addr[s] = next()
		}
	}
	return nil
}

// newID is a replica id: 16 hexadecimal digits.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// openLayout reads the layout of dir, or makes one when there is none.
func openLayout(dir string, o *Options) (*layout, error) {
	name := filepath.Join(dir, layoutName)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := onlyOurs(dir); err != nil {
			return nil, err
		}
		l, err := newLayout(o)
		if err == nil {
			err = l.fits(dir)
		}
		if err != nil {
			return nil, err
		}
		return l, l.save(dir)
	}
	if err != nil {
		return nil, err
	}
	l := new(layout)
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if l.Version != layoutVersion {
		return nil, fmt.Errorf("%s: version %d, this program knows version %d", name, l.Version, layoutVersion)
	}
	for _, n := range l.Nodes {
		for _, s := range services[n.Tier] {
			if n.Addr[s] == "" {
				return nil, fmt.Errorf("%s: node %s has no address for %s", name, n.Name, s)
			}
		}
	}
	if err := l.fits(dir); err != nil {
		return nil, err
	}
	if err := l.agrees(o); err != nil || l.LDAPS != "" {
		return l, err
	}
	addrs, err := freeAddrs(1) // made by a release without
	if err != nil {
		return nil, err
	}
	l.LDAPS = addrs[0]
	return l, l.save(dir)
}

// maxSocketPath is what every system allows for the name of a unix socket.
const maxSocketPath = 103

// fits refuses a folder whose name leaves no room for the nodes' sockets.
func (l *layout) fits(dir string) error {
	for _, n := range l.Nodes {
		if path := socket(dir, n); len(path) > maxSocketPath {
			return fmt.Errorf("%s is too long a name: %s passes the %d octets of a unix socket; take a shorter --dir", dir, path, maxSocketPath)
		}
	}
	return nil
}

// onlyOurs refuses a folder that holds something else, so that nobody's files
// come between a cluster's.
func onlyOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); name != lockName && name != binDir {
			return fmt.Errorf("%s holds %s and no development cluster: give an empty or a new folder", dir, name)
		}
	}
	return nil
}

// agrees refuses options that say something else than the layout.
func (l *layout) agrees(o *Options) error {
	s := l.Settings
	for _, c := range []struct {
		flag      string
		was, want any
	}{
		{"domain", s.Domain, o.Domain},
		{"relays", s.Relays, o.Relays},
		{"pairs", s.Pairs, o.Pairs},
		{"pair-prefix", s.PairPrefix, o.PairPrefix},
		{"users", s.Users, o.Users},
		{"base", l.Base, o.Base},
	} {
		if o.Given(c.flag) && c.was != c.want {
			return fmt.Errorf("--%s %v: the cluster in %s was made with %v, which cannot be changed; take another --dir", c.flag, c.want, o.Dir, c.was)
		}
	}
	switch {
	case s.Outside && o.Directory == "":
		return fmt.Errorf("the cluster in %s uses an outside directory: give --directory and --base", o.Dir)
	case !s.Outside && o.Directory != "":
		return fmt.Errorf("the cluster in %s has a directory of its own, which --directory cannot replace", o.Dir)
	}
	return nil
}

// save replaces the layout's file.
func (l *layout) save(dir string) error {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return clusterfile.Replace(filepath.Join(dir, layoutName), append(data, '\n'), 0o600)
}

// pairNames lists the pairs in the order of their nodes.
func (l *layout) pairNames() []string {
	var names []string
	for _, n := range l.Nodes {
		if n.Pair != "" && !slices.Contains(names, n.Pair) {
			names = append(names, n.Pair)
		}
	}
	return names
}

// of lists the nodes of a tier.
func (l *layout) of(tier string) (nodes []*node) {
	for _, n := range l.Nodes {
		if n.Tier == tier {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// voters lists the nodes of a pair.
func (l *layout) voters(pair string) (nodes []*node) {
	for _, n := range l.Nodes {
		if n.Pair == pair {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// busy names the first address of the layout that another program has taken.
func (l *layout) busy(o *Options) error {
	check := func(what, addr string) error {
		if !free(addr) {
			return fmt.Errorf("%s (%s) is taken by another program: end it, or take another --dir", addr, what)
		}
		return nil
	}
	if o.Directory == "" {
		for _, addr := range []string{l.LDAP, l.LDAPS} {
			if err := check("directory", addr); err != nil {
				return err
			}
		}
	}
	for _, n := range l.Nodes {
		for _, s := range slices.Sorted(maps.Keys(n.Addr)) {
			if err := check(n.Name+" "+s, n.Addr[s]); err != nil {
				return err
			}
		}
	}
	return nil
}
