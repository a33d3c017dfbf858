/*
Package probe compares a network with the ports matrix: every port of every
host, tried from where the program runs, is open exactly where a rule says so.

	Parse  -> Matrix: nodes, groups, rules, as the topology module puts it out
	Plan   -> the probes of one vantage point, each with the rule that allows it
	Run    -> what the network answers
	Judge  -> Findings: what is open and should not be, and the reverse

What no rule allows has to be closed, that is silent or refused by a firewall on
the way. A reset on such a port is a finding too: the packet has reached the
host, and only the lack of a program kept it out. For a rule that asks for a
certificate of a role, an open port must not talk to a peer without one.

UDP tells less: a port that is open and drops what it does not understand is
silent, like a firewall. Such ports are counted as silent and judged only when
something answers.

It knows nothing of nft or security groups, sends nothing but connections, a TLS
handshake, a DNS question and a few octets by UDP, and tries no password. Input
is bounded: maxFile octets, maxNodes nodes, maxProbes probes of a vantage point.
*/
package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/postern-mail/postern/shared/tlsconf"
)

// Version of the matrix that is understood.
const Version = 1

// Bounds of what is read and done.
const (
	MaxFile   = 4 << 20
	maxNodes  = 1000
	maxRules  = 1000
	maxPorts  = 1 << 16
	maxProbes = 2_000_000
)

// Groups of which a host can be a place to probe from. A matrix may have further
// groups, of servers that nodes ask.
const (
	Internet   = "internet" // whatever Inside does not hold
	Management = "management"
	Directory  = "directory"
)

var tiers = []string{"relay", "backend", "witness"}

// Matrix says who may talk to whom. What no rule allows is refused.
type Matrix struct {
	Version int                       `json:"version"`
	Cluster string                    `json:"cluster"`
	Inside  []netip.Prefix            `json:"inside"` // what is not the Internet
	Groups  map[string][]string       `json:"groups"` // addresses or networks
	Hosts   map[string][]netip.Addr   `json:"hosts"`  // that stand for the groups internet and management; optional
	Nodes   []Node                    `json:"nodes"`
	Rules   []Rule                    `json:"rules"`
	groups  []string                  // all their names
	single  map[string][]netip.Addr   // hosts of groups, from Groups and Hosts
	index   map[string]*Node          // by name
	at      map[netip.Addr][]*Node    // by address
	blocks  map[string][]netip.Prefix // networks of groups
}

// Node is a node of the cluster.
type Node struct {
	Name     string           `json:"name"`
	Tier     string           `json:"tier"`
	Zone     string           `json:"zone"`
	Address  netip.Addr       `json:"address"`
	Pairs    []string         `json:"pairs"`
	Services map[string][]int `json:"services"`
}

// Rule allows one group to reach another.
type Rule struct {
	ID        string   `json:"id"`
	From      string   `json:"from"`
	To        string   `json:"to"`
	Protocols []string `json:"protocols"`
	Ports     []int    `json:"ports"`    // where to is no tier
	Services  []string `json:"services"` // of the nodes of to
	Within    string   `json:"within"`   // "pair": members of the same pair only
	Secret    string   `json:"secret"`   // what a peer has to show besides
}

// Parse reads a matrix and refuses one that does not fit together.
func Parse(data []byte) (*Matrix, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("the matrix has %d octets, more than %d", len(data), MaxFile)
	}
	m := new(Matrix)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("the matrix is no JSON as expected: %w", err)
	}
	if m.Version != Version {
		return nil, fmt.Errorf("the matrix has version %d, this program knows %d", m.Version, Version)
	}
	if len(m.Nodes) == 0 || len(m.Nodes) > maxNodes || len(m.Rules) > maxRules {
		return nil, fmt.Errorf("the matrix has %d nodes and %d rules; want 1 to %d, and up to %d", len(m.Nodes), len(m.Rules), maxNodes, maxRules)
	}
	if err := errors.Join(m.readGroups(), m.readNodes()); err != nil {
		return nil, err
	}
	for i := range m.Rules {
		if err := m.check(&m.Rules[i]); err != nil {
			return nil, fmt.Errorf("rule %d, %q: %w", i+1, m.Rules[i].ID, err)
		}
	}
	return m, nil
}

func (m *Matrix) readNodes() error {
	m.index, m.at = map[string]*Node{}, map[netip.Addr][]*Node{}
	ports := 0
	for i := range m.Nodes {
		n := &m.Nodes[i]
		switch {
		case n.Name == "" || slices.Contains(m.groups, n.Name) || m.index[n.Name] != nil:
			return fmt.Errorf("node %d: the name %q is empty, that of a group, or there twice", i+1, n.Name)
		case !slices.Contains(tiers, n.Tier):
			return fmt.Errorf("node %s: tier %q: want one of %v", n.Name, n.Tier, tiers)
		case !n.Address.IsValid():
			return fmt.Errorf("node %s has no address", n.Name)
		}
		for s, list := range n.Services {
			if err := checkPorts(list); err != nil {
				return fmt.Errorf("node %s, service %q: %w", n.Name, s, err)
			}
			ports += len(list)
		}
		m.index[n.Name] = n
		m.at[n.Address] = append(m.at[n.Address], n)
	}
	if ports > maxPorts {
		return fmt.Errorf("the nodes have %d ports, more than %d", ports, maxPorts)
	}
	return nil
}

func (m *Matrix) readGroups() error {
	m.single, m.blocks = map[string][]netip.Addr{}, map[string][]netip.Prefix{}
	m.groups = []string{Internet}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(m.Groups)) {
		if name == "" || name == Internet || slices.Contains(tiers, name) {
			return fmt.Errorf("groups: a group cannot have the name %q", name)
		}
		m.groups = append(m.groups, name)
		list := m.Groups[name]
		for _, s := range list {
			if a, err := netip.ParseAddr(s); err == nil {
				m.single[name] = append(m.single[name], a)
				continue
			}
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return fmt.Errorf("groups: %s: %q is neither an address nor a network", name, s)
			}
			m.blocks[name] = append(m.blocks[name], p.Masked())
		}
		total += len(list)
	}
	for name, list := range m.Hosts {
		if !slices.Contains(m.groups, name) {
			return fmt.Errorf("hosts: %q: want some of %v", name, m.groups)
		}
		for _, a := range list {
			if !a.IsValid() {
				return fmt.Errorf("hosts: %s: an address is empty", name)
			}
			if !m.in(name, a) {
				return fmt.Errorf("hosts: %s is not in the group %s", a, name)
			}
			if !slices.Contains(m.single[name], a) {
				m.single[name] = append(m.single[name], a)
			}
		}
		total += len(list)
	}
	if total > maxNodes {
		return fmt.Errorf("the groups have %d addresses, more than %d", total, maxNodes)
	}
	return nil
}

// in reports whether an address is one of a group.
func (m *Matrix) in(group string, a netip.Addr) bool {
	if group == Internet {
		return !slices.ContainsFunc(m.Inside, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return slices.Contains(m.single[group], a) || slices.ContainsFunc(m.blocks[group], func(p netip.Prefix) bool { return p.Contains(a) })
}

func (m *Matrix) check(r *Rule) error {
	known := func(s string) bool { return slices.Contains(tiers, s) || slices.Contains(m.groups, s) }
	switch {
	case !known(r.From) || !known(r.To):
		return fmt.Errorf("from %q to %q: want some of %v or %v", r.From, r.To, tiers, m.groups)
	case len(r.Protocols) == 0 || slices.ContainsFunc(r.Protocols, func(p string) bool { return p != "tcp" && p != "udp" }):
		return fmt.Errorf("protocols %q: want tcp, udp or both", r.Protocols)
	case len(r.Protocols) > 2:
		return fmt.Errorf("protocols %q: each once", r.Protocols)
	case r.Within != "" && r.Within != "pair":
		return fmt.Errorf("within %q: want pair or nothing", r.Within)
	case r.Within == "pair" && (!slices.Contains(tiers, r.From) || !slices.Contains(tiers, r.To)):
		return errors.New("within a pair are tiers only")
	case len(r.Ports) > maxNodes || len(r.Services) > maxNodes:
		return fmt.Errorf("more than %d ports or services", maxNodes)
	}
	return checkPorts(r.Ports)
}

// role is the role whose certificate the rule asks for, "" for none.
func (r *Rule) role() string {
	if slices.ContainsFunc(tlsconf.Roles, func(role tlsconf.Role) bool { return string(role) == r.Secret }) {
		return r.Secret
	}
	return ""
}

func checkPorts(list []int) error {
	for _, p := range list {
		if p < 1 || p > 65535 {
			return fmt.Errorf("port %d: want 1 to 65535", p)
		}
	}
	return nil
}
