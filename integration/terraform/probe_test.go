package terraform

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/ha/drill/netns"
)

// specified is the matrix once more, written by hand from the specification's table
// of ports and not from the module, so that both would have to be wrong alike: what a
// kind of host may reach of another, with the ports of the example.
var specified = map[[2]string]string{
	{"internet", "relay"}:     "25 110 143 465 587 993 995",
	{"management", "relay"}:   "25 110 143 465 587 993 995 8443 9154",
	{"management", "backend"}: "8443 9155",
	{"management", "witness"}: "8443 9156",
	{"relay", "internet"}:     "53", // and 25, where nobody listens in the example
	{"relay", "directory"}:    "389",
	{"relay", "relay"}:        "7946",
	{"relay", "backend"}:      "1100 1430 2424 7946",
	{"relay", "witness"}:      "7946",
	{"backend", "relay"}:      "7946",
	{"backend", "backend"}:    "7946 8300",
	{"backend", "witness"}:    "7946 8300",
	{"witness", "relay"}:      "7946",
	{"witness", "backend"}:    "7946 8300",
}

// kind is what a host is in the table.
func kind(name string) string {
	name, _, _ = strings.Cut(name, ",") // one that stands for several groups
	switch {
	case strings.HasPrefix(name, "relay"):
		return "relay"
	case strings.HasPrefix(name, "pair"):
		return "backend"
	case strings.HasPrefix(name, "witness"):
		return "witness"
	}
	return name
}

// report is what postern probe says.
type report struct {
	From     []string
	Findings []struct {
		From, To, Protocol, What string
		Port                     int
	}
	Open, Closed, Silent int
	Probes               []struct {
		From, To, Protocol, State, Rule string
		Port                            int
	}
}

// ask runs postern probe from places, by default all.
func (l *local) ask(release string, from ...string) (*report, error) {
	l.t.Helper()
	args := []string{
		"probe", "--matrix", filepath.Join(l.state, "probe.json"), "-o", "json",
		"--enter", `exec nsenter --net="/run/netns/` + l.prefix + `-$POSTERN_FROM" "$@"`,
	}
	if len(from) > 0 {
		args = append(args, "--from", strings.Join(from, ","))
	}
	text, err := l.tool(release, args...)
	r := new(report)
	if bad := json.Unmarshal([]byte(text), r); bad != nil {
		l.t.Fatalf("%v: %v\n%s", err, bad, text)
	}
	return r, err
}

// probe: the tool has no finding, and what it saw open is what the table says.
func (l *local) probe(release string, from ...string) {
	t := l.t
	t.Helper()
	r, err := l.ask(release, from...)
	if err != nil {
		t.Errorf("the network is not as the matrix says: %+v", r.Findings)
	}
	if len(from) == 0 && len(r.From) != 8 {
		t.Errorf("probed from %v", r.From)
	}
	open := map[[2]string][]int{}
	for _, p := range r.Probes {
		way := [2]string{p.From, p.To}
		if _, ok := open[way]; !ok {
			open[way] = nil
		}
		if p.Protocol == "tcp" && p.State == "open" {
			open[way] = append(open[way], p.Port)
		}
		// Firewalls here answer what they refuse, so that UDP is silent only where a
		// rule lets it through, and only the example's DNS answers.
		if p.State == "silent" && p.Rule == "" {
			t.Errorf("%s to %s: UDP port %d is not refused, and no rule allows it", p.From, p.To, p.Port)
		}
		names := kind(p.From) == "relay" && kind(p.To) == "internet" || l.answers() && kind(p.From) == "internet" && kind(p.To) == "relay"
		if p.Protocol == "udp" && (p.State == "open") != (p.Port == 53 && names) {
			t.Errorf("%s to %s: UDP port %d is %s", p.From, p.To, p.Port, p.State)
		}
	}
	if len(open) < 6*len(r.From) {
		t.Errorf("only %d ways were tried from %v", len(open), r.From)
	}
	for way, ports := range open {
		slices.Sort(ports)
		var got []string
		for _, p := range ports {
			got = append(got, strconv.Itoa(p))
		}
		want := specified[[2]string{kind(way[0]), kind(way[1])}]
		if l.answers() && kind(way[0]) == "internet" && kind(way[1]) == "relay" {
			want = strings.Replace(want, "25 ", "25 53 ", 1)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s to %s: open are %v, the specification says %q", way[0], way[1], got, want)
		}
	}
	t.Logf("probed from %v: %d open, %d closed, %d silent (UDP)", r.From, r.Open, r.Closed, r.Silent)
}

// answers reports whether the relays answer for a zone.
func (l *local) answers() bool { return l.vars["dns_zone"] != nil }

// names asks each relay, from the Internet, by UDP and by TCP, for the zone that they
// answer for: it leads to the relays, all of them fit.
func (l *local) names(zone string, relays ...string) {
	t := l.t
	t.Helper()
	for _, at := range relays {
		for _, network := range []string{"udp", "tcp"} {
			r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return netns.Dial(ctx, l.prefix+"-internet", network, net.JoinHostPort(at, "53"))
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var hosts, addresses []string
			mx, err := r.LookupMX(ctx, zone+".")
			for _, m := range mx {
				hosts = append(hosts, m.Host)
				var a []string
				if err == nil {
					a, err = r.LookupHost(ctx, m.Host)
				}
				addresses = append(addresses, a...)
			}
			all, failed := r.LookupHost(ctx, zone+".")
			slices.Sort(hosts)
			slices.Sort(addresses)
			slices.Sort(all)
			var wantHosts, wantAddresses []string
			for i, relay := range relays {
				wantHosts = append(wantHosts, fmt.Sprintf("relay%d.%s.", i+1, zone))
				wantAddresses = append(wantAddresses, relay, fmt.Sprintf("2001:db8:0:2::%x", 11+i))
			}
			slices.Sort(wantAddresses)
			if err := errors.Join(err, failed); err != nil || !slices.Equal(hosts, wantHosts) || !slices.Equal(addresses, wantAddresses) || !slices.Equal(all, wantAddresses) {
				t.Errorf("%s by %s: MX %v, at %v, A and AAAA of %s %v: %v; want %v at %v", at, network, hosts, addresses, zone, all, err, wantHosts, wantAddresses)
			}
		}
	}
}

// holes: the probe sees a port that firewalls let through too much, and one that
// they do not let through.
func (l *local) holes() {
	t := l.t
	t.Helper()
	nft := func(host string, args ...string) string {
		t.Helper()
		out, err := exec.Command("nsenter", append([]string{"--net=/run/netns/" + l.prefix + "-" + host, "nft"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("nft %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	// A hole needs both ends: every machine has rules of its own.
	rules := []struct{ host, chain, rule string }{
		{"pair1-a", "incoming", "tcp dport 2424 accept"},
		{"directory", "outgoing", "tcp dport 2424 accept"},
		{"pair1-a", "incoming", "ip saddr 10.77.2.11 tcp dport 8300 drop"},
	}
	for i, r := range rules {
		out := nft(r.host, append([]string{"--handle", "--echo", "insert", "rule", "inet", "postern", r.chain}, strings.Fields(r.rule)...)...)
		_, handle, ok := strings.Cut(strings.TrimSpace(out), "# handle ")
		if !ok {
			t.Fatalf("nft does not say the handle of %s: %s", r.rule, out)
		}
		handle, _, _ = strings.Cut(handle, "\n")
		defer nft(rules[i].host, "delete", "rule", "inet", "postern", r.chain, "handle", handle)
	}
	r, err := l.ask(oldRelease, "directory", "pair1-b")
	var seen []string
	for _, f := range r.Findings {
		seen = append(seen, f.From+" "+f.To+" "+strconv.Itoa(f.Port)+" "+f.What)
	}
	want := []string{
		"directory pair1-a 2424 is open, and no rule allows it",
		"pair1-b pair1-a 8300 is allowed, but does not get through",
	}
	slices.Sort(seen)
	if err == nil || !slices.Equal(seen, want) {
		t.Errorf("found %q, want %q", seen, want)
	}
}

// ipv6: over IPv6 the relays are open to the Internet where they are over IPv4, refuse
// the rest, and greet with a certificate for that address; the zones behind have none.
func (l *local) ipv6() {
	t := l.t
	t.Helper()
	const relay1 = "2001:db8:0:2::b"
	dial := func(from string, port int) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return netns.Dial(ctx, l.prefix+"-"+from, "tcp", net.JoinHostPort(relay1, strconv.Itoa(port)))
	}
	var open []string
	for _, port := range []int{22, 25, 53, 110, 143, 443, 465, 587, 993, 995, 1100, 1430, 2424, 7946, 8300, 8443, 9154} {
		c, err := dial("internet", port)
		switch {
		case err == nil:
			open = append(open, strconv.Itoa(port))
			c.Close()
		case !errors.Is(err, unix.EACCES):
			t.Errorf("port %d over IPv6: %v, want a refusal by the firewall", port, err)
		}
	}
	if got, want := strings.Join(open, " "), specified[[2]string{"internet", "relay"}]; got != want {
		t.Errorf("over IPv6 the Internet reaches %s of a relay, want %s", got, want)
	}
	pem, err := os.ReadFile(filepath.Join(l.state, "operator", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := dial("internet", 993)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := tls.Client(c, &tls.Config{RootCAs: roots, ServerName: relay1, MinVersion: tls.VersionTLS12})
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "* OK ") {
		t.Errorf("IMAP over IPv6: %q %v", line, err)
	}
	for _, from := range []string{"management", "pair1-a", "witness1", "directory"} {
		if c, err := dial(from, 25); err == nil {
			c.Close()
			t.Errorf("%s reaches a relay over IPv6", from)
		}
	}
}
