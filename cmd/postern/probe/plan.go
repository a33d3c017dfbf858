package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// usual are ports that people forget to close, tried besides those of the matrix.
var usual = []int{22, 23, 53, 80, 111, 389, 443, 636, 2049, 4190, 6060, 8080, 9090, 9100}

// target is a host to be probed: one address, with all that stands there.
type target struct {
	name  string
	addr  netip.Addr
	nodes []*Node
}

// Probe is one port of one host, tried from one vantage point.
type Probe struct {
	From     string     `json:"from"`
	To       string     `json:"to"`
	Address  netip.Addr `json:"address"`
	Protocol string     `json:"protocol"`
	Port     int        `json:"port"`
	Rule     string     `json:"rule,omitempty"` // that allows it
	State    State      `json:"state"`

	role string // whose certificate has to be shown
	any  bool   // the way is open; who listens there is not ours
}

// Vantages are the names from which something can be tried: the groups that hosts
// stand for, and all nodes.
func (m *Matrix) Vantages() []string {
	var out []string
	for _, g := range []string{Internet, Management, Directory} {
		if len(m.single[g]) > 0 {
			out = append(out, g)
		}
	}
	for i := range m.Nodes {
		out = append(out, m.Nodes[i].Name)
	}
	return out
}

// stands are the groups in which an address and its nodes are.
func (m *Matrix) stands(a netip.Addr) []string {
	var out []string
	for _, g := range m.groups {
		if m.in(g, a) {
			out = append(out, g)
		}
	}
	return out
}

// targets lists every host once.
func (m *Matrix) targets() []target {
	var out []target
	add := func(name string, a netip.Addr) {
		if i := slices.IndexFunc(out, func(t target) bool { return t.addr == a }); i >= 0 {
			if !slices.Contains(strings.Split(out[i].name, ","), name) {
				out[i].name += "," + name
			}
			return
		}
		out = append(out, target{name: name, addr: a, nodes: m.at[a]})
	}
	for i := range m.Nodes {
		add(m.Nodes[i].Name, m.Nodes[i].Address)
	}
	for _, g := range m.groups {
		for _, a := range m.single[g] {
			add(g, a)
		}
	}
	return out
}

// ports are all that are tried on every host.
func (m *Matrix) ports(more []int) []int {
	out := append(slices.Clone(usual), more...)
	for i := range m.Nodes {
		for _, list := range m.Nodes[i].Services {
			out = append(out, list...)
		}
	}
	for i := range m.Rules {
		out = append(out, m.Rules[i].Ports...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Plan lists the probes of a vantage point, the name of a node or a group. The
// ports of more are tried besides those of the matrix.
func (m *Matrix) Plan(from string, more []int) ([]Probe, error) {
	if err := checkPorts(more); err != nil {
		return nil, err
	}
	if !slices.Contains(m.Vantages(), from) {
		return nil, fmt.Errorf("nothing stands for %q: want one of %s", from, strings.Join(m.Vantages(), ", "))
	}
	var here []netip.Addr // not probed from themselves
	if n := m.index[from]; n != nil {
		here = []netip.Addr{n.Address}
	} else {
		here = m.single[from]
	}
	ports, targets := m.ports(more), m.targets()
	if 2*len(ports)*len(targets) > maxProbes {
		return nil, fmt.Errorf("%d ports of %d hosts are more than %d probes", len(ports), len(targets), maxProbes)
	}
	udp := m.udpPorts()
	var out []Probe
	for _, t := range targets {
		if slices.Contains(here, t.addr) {
			continue
		}
		for _, protocol := range []string{"tcp", "udp"} {
			allowed := m.allowed(from, &t, protocol)
			for _, port := range ports {
				p := Probe{From: from, To: t.name, Address: t.addr, Protocol: protocol, Port: port}
				if a, ok := allowed[port]; ok {
					p.Rule, p.role, p.any = a.rule.ID, a.rule.role(), a.any
				} else if protocol == "udp" && !udp[port] {
					continue // nobody here uses it
				}
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// udpPorts are those that a rule knows with UDP.
func (m *Matrix) udpPorts() map[int]bool {
	out := map[int]bool{}
	for i := range m.Rules {
		r := &m.Rules[i]
		if !slices.Contains(r.Protocols, "udp") {
			continue
		}
		list := slices.Clone(r.Ports)
		for k := range m.Nodes {
			for _, s := range r.Services {
				list = append(list, m.Nodes[k].Services[s]...)
			}
		}
		for _, p := range list {
			out[p] = true
		}
	}
	return out
}

// grant is a port with the rule that allows it.
type grant struct {
	rule *Rule
	any  bool
}

// allowed are the ports of a host that a vantage point may reach.
func (m *Matrix) allowed(from string, t *target, protocol string) map[int]grant {
	out := map[int]grant{}
	var selves []*Node // a machine's nodes have one address, and with it the same rights
	if n := m.index[from]; n != nil {
		selves = m.at[n.Address]
	}
	stands := m.stands(t.addr)
	for i := range m.Rules {
		r := &m.Rules[i]
		if !slices.Contains(r.Protocols, protocol) || !m.comesFrom(from, selves, r) {
			continue
		}
		if slices.Contains(stands, r.To) {
			for _, p := range r.Ports {
				// Who on the Internet listens is not ours.
				put(out, p, grant{r, r.To == Internet})
			}
		}
		for _, n := range t.nodes {
			if n.Tier != r.To || r.Within == "pair" && !share(selves, r.From, n) {
				continue
			}
			for _, s := range r.Services {
				for _, p := range n.Services[s] {
					put(out, p, grant{r, false})
				}
			}
		}
	}
	return out
}

// put keeps the strictest of the rules of a port.
func put(out map[int]grant, port int, g grant) {
	if was, ok := out[port]; !ok || was.any && !g.any {
		out[port] = g
	}
}

// comesFrom reports whether a vantage point is in the group that a rule begins at.
func (m *Matrix) comesFrom(from string, selves []*Node, r *Rule) bool {
	if selves != nil {
		return slices.ContainsFunc(selves, func(n *Node) bool { return n.Tier == r.From })
	}
	if from == r.From {
		return true
	}
	return slices.ContainsFunc(m.single[from], func(a netip.Addr) bool { return slices.Contains(m.stands(a), r.From) })
}

// share reports whether one of the nodes of a tier is in a pair with n.
func share(selves []*Node, tier string, n *Node) bool {
	return slices.ContainsFunc(selves, func(s *Node) bool {
		return s.Tier == tier && slices.ContainsFunc(s.Pairs, func(p string) bool { return slices.Contains(n.Pairs, p) })
	})
}
