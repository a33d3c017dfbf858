package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/shared/metrics"
)

const (
	retransmitMult = 4
	maxSignature   = 80 // ECDSA over P-256 in ASN.1 takes 72
	reclaim        = 30 * time.Second
	streamTimeout  = 5 * time.Second
)

// settings returns memberlist's settings for a LAN of busy machines. A probe
// has five rounds to be answered and a suspect five probes to object: routing
// lives with a stale hint, and a false death moves work about.
func (g *Gossip) settings() *memberlist.Config {
	mc := memberlist.DefaultLANConfig()
	mc.Name = g.cfg.Name
	mc.Label = g.cfg.Cluster
	mc.Keyring = g.ring
	mc.GossipInterval = g.cfg.Interval
	mc.GossipNodes = 3
	mc.RetransmitMult = retransmitMult
	mc.ProbeInterval = 10 * g.cfg.Interval
	mc.ProbeTimeout = 5 * g.cfg.Interval
	mc.SuspicionMult = 5
	mc.PushPullInterval = 100 * g.cfg.Interval
	mc.TCPTimeout = streamTimeout
	mc.GossipToTheDeadTime = reclaim
	mc.DeadNodeReclaimTime = reclaim
	mc.EnableCompression = false // certificates and signatures do not shrink
	mc.DNSConfigPath = ""        // names are resolved here
	mc.Logger = log.New(&logBridge{log: g.log, limit: rate.NewLimiter(5, 20)}, "", 0)
	d := delegate{g}
	mc.Delegate, mc.Events, mc.Alive = d, d, d
	if g.cfg.tune != nil {
		g.cfg.tune(mc)
	}
	return mc
}

// bind opens the listeners and finds the address that others gossip to.
func (g *Gossip) bind(mc *memberlist.Config) error {
	var advIP string
	var advPort int
	if g.cfg.Advertise != "" {
		ap, err := lookup(g.cfg.Advertise)
		if err != nil {
			return fmt.Errorf("advertised address: %w", err)
		}
		if ap.Addr().IsUnspecified() {
			return fmt.Errorf("advertised address %s: others cannot reach it", g.cfg.Advertise)
		}
		advIP, advPort = ap.Addr().String(), int(ap.Port())
	}
	if mc.Transport == nil {
		ap, err := lookup(g.cfg.Listen)
		if err != nil {
			return fmt.Errorf("listen address: %w", err)
		}
		if mc.Transport, err = newWire(ap, mc.Logger); err != nil {
			return err
		}
		mc.BindAddr, mc.BindPort = ap.Addr().String(), int(ap.Port())
	}
	g.wire = mc.Transport
	ip, port, err := g.wire.FinalAdvertiseAddr(advIP, advPort)
	if err == nil && (ip.IsUnspecified() || port == 0) {
		err = errors.New("give the address under which others reach this node")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("advertised address: %w", err), g.wire.Shutdown())
	}
	mc.AdvertiseAddr, mc.AdvertisePort = ip.String(), port
	g.addr = net.JoinHostPort(ip.String(), strconv.Itoa(port))
	return nil
}

// lookup resolves host:port; memberlist would take a host name for "listen
// everywhere". An empty host is every IPv4 address.
func lookup(hostport string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return netip.AddrPort{}, err
		}
		ip = ips[0]
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil //nolint:gosec // a port
}

// wire is memberlist's transport with dials and connections that end with it.
type wire struct {
	*memberlist.NetTransport
	ctx  context.Context
	stop context.CancelFunc
}

var _ memberlist.NodeAwareTransport = (*wire)(nil)

// bindTries is how often another free port is looked for, as one may be free
// for TCP and taken for UDP.
const bindTries = 10

func newWire(ap netip.AddrPort, log *log.Logger) (*wire, error) {
	nc := &memberlist.NetTransportConfig{BindAddrs: []string{ap.Addr().String()}, BindPort: int(ap.Port()), Logger: log}
	var err error
	for range bindTries {
		var nt *memberlist.NetTransport
		if nt, err = memberlist.NewNetTransport(nc); err == nil {
			w := &wire{NetTransport: nt}
			w.ctx, w.stop = context.WithCancel(context.Background())
			return w, nil
		}
		if ap.Port() != 0 {
			break
		}
	}
	return nil, fmt.Errorf("listen on %s: %w", ap, err)
}

func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (w *wire) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(w.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: conn, stop: context.AfterFunc(w.ctx, func() { _ = conn.Close() })}, nil
}

func (w *wire) Shutdown() error {
	w.stop()
	return w.NetTransport.Shutdown()
}

type wireConn struct {
	net.Conn
	stop func() bool
}

func (c *wireConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// logBridge passes memberlist's log on, a little at a time: anybody who reaches
// the port can make it write. What does not decrypt is counted.
type logBridge struct {
	log   *slog.Logger
	limit *rate.Limiter
}

func (b *logBridge) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	text := bytes.TrimSpace(p)
	switch {
	case bytes.HasPrefix(text, []byte("[ERR")), bytes.HasPrefix(text, []byte("[WARN]")):
		level = slog.LevelWarn
	case bytes.HasPrefix(text, []byte("[INFO]")):
		level = slog.LevelInfo
	}
	if bytes.Contains(text, []byte("no installed keys could decrypt")) {
		metrics.GossipRefused.With(errKey.Error()).Inc()
		level = slog.LevelInfo
	}
	if b.log.Enabled(context.Background(), level) && b.limit.Allow() {
		if _, rest, ok := bytes.Cut(text, []byte("memberlist: ")); ok {
			text = rest
		}
		b.log.Log(context.Background(), level, "memberlist", "text", string(text[:min(len(text), 512)]))
	}
	return len(p), nil
}
