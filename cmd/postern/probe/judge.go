package probe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Finding is a port that is not as the matrix says.
type Finding struct {
	Probe
	What string `json:"what"`
}

// Report is the comparison.
type Report struct {
	Cluster  string    `json:"cluster"`
	From     []string  `json:"from"`
	Findings []Finding `json:"findings"`
	Open     int       `json:"open"`   // as allowed
	Closed   int       `json:"closed"` // as not allowed
	Silent   int       `json:"silent"` // UDP, of which nothing can be said
	Probes   []Probe   `json:"probes"`
}

// Add takes in the probes of one vantage point, which have been run. A reset on a
// port that is not allowed counts as closed when resets says that firewalls answer
// so.
func (r *Report) Add(from string, probes []Probe, resets bool) {
	r.From = append(r.From, from)
	r.Probes = append(r.Probes, probes...)
	for i := range probes {
		p := &probes[i]
		what := p.judge(resets)
		switch {
		case what != "":
			r.Findings = append(r.Findings, Finding{*p, what})
		case p.State == Silent:
			r.Silent++
		case p.Rule != "":
			r.Open++
		default:
			r.Closed++
		}
	}
}

// Merge takes in the report of another vantage point.
func (r *Report) Merge(o *Report) {
	r.From = append(r.From, o.From...)
	r.Findings = append(r.Findings, o.Findings...)
	r.Probes = append(r.Probes, o.Probes...)
	r.Open, r.Closed, r.Silent = r.Open+o.Open, r.Closed+o.Closed, r.Silent+o.Silent
}

// judge says what is wrong, "" for nothing.
func (p *Probe) judge(resets bool) string {
	allowed := p.Rule != ""
	switch {
	case p.State == Unclear || p.State == "":
		return "could not be tried"
	case p.State == Talks:
		return "talks to a peer that shows no certificate"
	case p.State == Silent:
		return ""
	case allowed && p.State == Open, allowed && p.any && p.State == Reset, !allowed && p.State == Filtered:
		return ""
	case allowed && p.State == Reset:
		return "is allowed, but nobody listens"
	case allowed:
		return "is allowed, but does not get through"
	case p.State == Open:
		return "is open, and no rule allows it"
	case resets:
		return ""
	}
	return "gets through to the host, and no rule allows it"
}

// Line is the open ports of one host from one vantage point.
type Line struct {
	From, To, TCP, UDP string
}

// Lines sums up what is open, in the order of the probes.
func (r *Report) Lines() []Line {
	type way struct{ from, to, protocol string }
	ports := map[way][]int{}
	var order []way
	for i := range r.Probes {
		p := &r.Probes[i]
		if p.State != Open && p.State != Talks {
			continue
		}
		w := way{p.From, p.To, p.Protocol}
		if w.protocol = "tcp"; ports[w] == nil && ports[way{p.From, p.To, "udp"}] == nil {
			order = append(order, w)
		}
		w.protocol = p.Protocol
		ports[w] = append(ports[w], p.Port)
	}
	out := make([]Line, 0, len(order))
	for _, w := range order {
		l := Line{From: w.from, To: w.to, TCP: list(ports[w])}
		w.protocol = "udp"
		l.UDP = list(ports[w])
		out = append(out, l)
	}
	return out
}

func list(ports []int) string {
	slices.Sort(ports)
	var s []string
	for _, p := range ports {
		s = append(s, strconv.Itoa(p))
	}
	return strings.Join(s, " ")
}

func (f *Finding) String() string {
	rule := ""
	if f.Rule != "" {
		rule = fmt.Sprintf(" (rule %s)", f.Rule)
	}
	return fmt.Sprintf("%s to %s: %s port %d of %s %s%s", f.From, f.To, f.Protocol, f.Port, f.Address, f.What, rule)
}
