package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the name of everything that is made.
const prefix = "pst-"

// commandWithin bounds one call of ip or nft.
const commandWithin = 20 * time.Second

// zone is a bridge of the firewall. The last octet of its own address is 1.
type zone struct {
	name string
	net  string // first three octets
}

var (
	dmz  = zone{"dmz", "10.77.1"}
	data = zone{"data", "10.77.2"}
	mgmt = zone{"mgmt", "10.77.3"}
)

// fabric is the namespaces of one run and what connects them.
type fabric struct {
	id    string
	hosts map[string]string // name to address
}

func (f *fabric) ns(host string) string { return prefix + f.id + "-" + host }

// tool finds a program that may stand outside the PATH of a user.
func tool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}

// command runs ip or nft with text on its standard input.
func command(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	path, err := tool(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// batch runs lines of ip, in a namespace unless ns is "".
func batch(ctx context.Context, ns string, lines []string) error {
	args := []string{"-batch", "-"}
	if ns != "" {
		args = append([]string{"-netns", ns}, args...)
	}
	_, err := command(ctx, strings.Join(lines, "\n")+"\n", "ip", args...)
	return err
}

// nft loads rules into a namespace.
func nft(ctx context.Context, ns, rules string) error {
	path, err := tool("nft")
	if err != nil {
		return err
	}
	_, err = command(ctx, rules, "ip", "netns", "exec", ns, path, "-f", "-")
	return err
}

// build makes the firewall with its bridges.
func (f *fabric) build(ctx context.Context) error {
	fw := f.ns("fw")
	if err := batch(ctx, "", []string{"netns add " + fw}); err != nil {
		return err
	}
	lines := []string{"link set lo up"}
	for _, z := range []zone{dmz, data, mgmt} {
		lines = append(lines,
			"link add "+z.name+" type bridge",
			"addr add "+z.net+".1/24 dev "+z.name,
			"link set "+z.name+" up")
	}
	if err := batch(ctx, fw, lines); err != nil {
		return err
	}
	if err := within(fw, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1\n"), 0o644) }); err != nil {
		return fmt.Errorf("forwarding in %s: %w", fw, err)
	}
	return nft(ctx, fw, firewall)
}

// firewall is the matrix of ports between the zones. Hosts whose bridges hand
// frames to the firewall need the rules for neighbours.
var firewall = fmt.Sprintf(`table inet zones {
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		iifname "dmz" oifname "dmz" accept
		iifname "data" oifname "data" accept
		iifname "dmz" oifname "data" tcp dport { %[1]d, %[2]d, %[3]d, %[4]d } accept
		iifname "dmz" oifname "data" udp dport %[4]d accept
		iifname "data" oifname "dmz" tcp dport %[4]d accept
		iifname "data" oifname "dmz" udp dport %[4]d accept
		iifname "dmz" oifname "mgmt" tcp dport { %[5]d, %[6]d } accept
		iifname "dmz" oifname "mgmt" udp dport %[6]d accept
		counter reject with icmpx type admin-prohibited
	}
}
`, portLMTP, portIMAP, portPOP, portGossip, portLDAP, portDNS)

// add makes a host with an address in a zone.
func (f *fabric) add(ctx context.Context, z zone, host string, last int) error {
	ns, fw := f.ns(host), f.ns("fw")
	addr := fmt.Sprintf("%s.%d", z.net, last)
	port := fmt.Sprintf("%s%d", z.name, last)
	if err := batch(ctx, "", []string{
		"netns add " + ns,
		"link add eth0 netns " + ns + " type veth peer name " + port + " netns " + fw,
	}); err != nil {
		return err
	}
	if err := batch(ctx, fw, []string{"link set " + port + " master " + z.name, "link set " + port + " up"}); err != nil {
		return err
	}
	f.hosts[host] = addr
	return batch(ctx, ns, []string{
		"link set lo up", "addr add " + addr + "/24 dev eth0", "link set eth0 up", "route add default via " + z.net + ".1",
	})
}

// names are the namespaces of this run.
func (f *fabric) names(ctx context.Context) (names []string, err error) {
	out, err := command(ctx, "", "ip", "netns", "list")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, f.ns("")) {
			names = append(names, name)
		}
	}
	return names, nil
}

// remove deletes every namespace of this run, and with them links and rules.
func (f *fabric) remove(ctx context.Context) error {
	names, err := f.names(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, batch(ctx, "", []string{"netns del " + name}))
	}
	return errors.Join(errs...)
}

// within runs f on a thread that has entered a namespace. The thread ends with
// it, so nothing else of this process is ever inside.
func within(ns string, f func() error) error {
	done := make(chan error, 1)
	onOwnThread(func() { done <- enter(ns, f) })
	return <-done
}

// onOwnThread runs f on a thread that ends with it. The first thread of a
// process cannot end: when f would get that one, it is held until another one
// has done the work.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			f()
		}()
		<-done
	}()
}

func enter(ns string, f func() error) error {
	file, err := os.Open(filepath.Join("/run/netns", ns))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", ns, err)
	}
	return f()
}

// dial connects from a namespace. The address is numeric, so that the socket is
// made on the thread that is inside.
func dial(ctx context.Context, ns, network, addr string) (c net.Conn, err error) {
	if host, _, err := net.SplitHostPort(addr); err != nil || net.ParseIP(host) == nil {
		return nil, fmt.Errorf("%s is not numeric", addr)
	}
	err = within(ns, func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

const (
	cutTable = "drillcut"
	// counted is what a rule of a cut says before what it has dropped.
	counted = "counter packets "
)

// from matches what other hosts send.
func (f *fabric) from(hosts ...string) string {
	var addrs []string
	for _, h := range hosts {
		addrs = append(addrs, f.hosts[h])
	}
	return "ip saddr { " + strings.Join(addrs, ", ") + " }"
}

// cut loses packets that arrive at host and match, also those of connections
// that other rules let live.
func (f *fabric) cut(ctx context.Context, host string, match []string) error {
	if _, ok := f.hosts[host]; !ok {
		return fmt.Errorf("no host %q", host)
	}
	rules := fmt.Sprintf(`table inet %s {
	chain in {
		type filter hook input priority -300; policy accept;
	}
}
`, cutTable)
	for _, m := range match {
		rules += fmt.Sprintf("add rule inet %s in %s counter drop\n", cutTable, m)
	}
	return nft(ctx, f.ns(host), rules)
}

// mend ends every cut at host.
func (f *fabric) mend(ctx context.Context, host string) error {
	return nft(ctx, f.ns(host), fmt.Sprintf("table inet %[1]s {\n}\ndelete table inet %[1]s\n", cutTable))
}

// dropped is the number of packets that cuts at host have lost.
func (f *fabric) dropped(ctx context.Context, host string) (n int, err error) {
	path, err := tool("nft")
	if err != nil {
		return 0, err
	}
	out, err := command(ctx, "", "ip", "netns", "exec", f.ns(host), path, "list", "table", "inet", cutTable)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if _, after, ok := strings.Cut(line, counted); ok {
			var k int
			if _, err := fmt.Sscan(after, &k); err != nil {
				return 0, fmt.Errorf("nft says %q", line)
			}
			n += k
		}
	}
	return n, nil
}

// reaches reports whether a datagram sent by one host arrives at another. The
// port is one that no node uses.
func (f *fabric) reaches(ctx context.Context, from, to string) (bool, error) {
	var p net.PacketConn
	err := within(f.ns(to), func() (err error) {
		p, err = net.ListenPacket("udp4", f.hosts[to]+":0")
		return err
	})
	if err != nil {
		return false, err
	}
	defer p.Close()
	c, err := dial(ctx, f.ns(from), "udp4", p.LocalAddr().String())
	if err != nil {
		return false, err
	}
	defer c.Close()
	for range 3 {
		if _, err := c.Write([]byte("drill")); err != nil {
			return false, nil // it does not even leave
		}
		if err := p.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return false, err
		}
		if n, _, err := p.ReadFrom(make([]byte, 16)); err == nil && n > 0 {
			return true, nil
		}
	}
	return false, nil
}
