package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

// announceEvery is how often gossip is told of this node when nothing has
// changed at once: load and applied indexes.
const announceEvery = time.Second

// readyWithin is the time that the conditions of being ready have to answer before
// gossip is told that this node is not.
const readyWithin = 500 * time.Millisecond

// serveAdmin answers the admin API, metrics and health.
func (n *Node[T]) serveAdmin() error {
	n.methods()
	n.pki()
	n.figureFormat()
	n.figures()
	health := n.Metrics.Handler(append(n.checks, metrics.Check{Name: "node", Ready: n.isReady})...)
	for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
		n.Admin.HandleHTTP(path, health)
	}
	// The authorisation of the admin API holds for these too.
	n.Admin.HandleHTTP("/debug/pprof/", http.HandlerFunc(pprof.Index))
	n.Admin.HandleHTTP("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
	n.Admin.HandleHTTP("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	var listeners []net.Listener
	l, err := admin.ListenUnix(n.common.Admin.Socket)
	if err != nil {
		return err
	}
	listeners = append(listeners, l)
	if addr := n.common.Admin.Listen; addr != "" {
		l, err := admin.ListenTLS(addr, n.TLS)
		if err != nil {
			return errors.Join(err, listeners[0].Close())
		}
		listeners = append(listeners, l)
	}
	if addr := n.common.Metrics.Listen; addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			for _, o := range listeners {
				o.Close()
			}
			return fmt.Errorf("metrics: %w", err)
		}
		n.Go("metrics", func(ctx context.Context) error { return serveHTTP(ctx, l, health) })
	}
	n.Go("admin", func(ctx context.Context) error { return n.Admin.Serve(ctx, listeners...) })
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (n *Node[T]) isReady(context.Context) error {
	if s := n.state(); s != "ready" {
		return errors.New(s)
	}
	return nil
}

func (n *Node[T]) state() string {
	switch {
	case n.stopping.Load():
		return "stopping"
	case n.draining.Load():
		return "draining"
	case !n.ready.Load():
		return "starting"
	}
	return "ready"
}

// unready is the first condition of being ready that is not met.
func (n *Node[T]) unready(ctx context.Context) error {
	for _, c := range n.checks {
		if err := c.Ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// methods answers what every daemon answers.
func (n *Node[T]) methods() {
	admin.Handle(n.Admin, admin.GetStatus, func(ctx context.Context, _ admin.None) (admin.NodeStatus, error) {
		s := admin.NodeStatus{
			Name: n.common.Node, Cluster: n.common.Cluster, Role: n.program.Role, State: n.state(),
			Version: version.String(), PID: os.Getpid(), Started: n.started, CertEnds: n.TLS.NotAfter(), Clock: time.Now(),
			Formats: admin.FormatLevels{Known: version.Format, Used: n.format()},
		}
		if s.State == "ready" {
			if err := n.unready(ctx); err != nil {
				s.State = err.Error()
			}
		}
		if n.Status != nil {
			n.Status(&s)
		}
		return s, nil
	})
	admin.Handle(n.Admin, admin.GetCluster, func(context.Context, admin.None) (admin.Cluster, error) { return n.cluster(), nil })
	admin.Handle(n.Admin, admin.GetConfig, func(context.Context, admin.None) (admin.Config, error) {
		return n.configuration(), nil
	})
	admin.Handle(n.Admin, admin.CompareConfig, func(_ context.Context, in admin.ConfigText) (admin.ConfigDifferences, error) {
		return n.compareConfig(in)
	})
	admin.Handle(n.Admin, admin.GossipKeys, func(context.Context, admin.None) (admin.KeyRing, error) { return n.keyRing() })
	admin.Handle(n.Admin, admin.ChangeGossipKeys, func(_ context.Context, in admin.KeyChange) (admin.KeyRing, error) {
		return n.changeKeys(in)
	})
	admin.Handle(n.Admin, admin.Reload, func(context.Context, admin.None) (admin.ReloadResult, error) {
		ch, err := n.reload()
		if err != nil {
			return admin.ReloadResult{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
		}
		return admin.ReloadResult{Changed: ch.Applied, NeedsRestart: ch.Restart}, nil
	})
	admin.Handle(n.Admin, admin.Drain, func(ctx context.Context, in admin.DrainRequest) (admin.None, error) {
		n.draining.Store(in.On)
		n.Changed()
		// Asked again, it tries again: what was not handed over then may be now.
		if n.Drain != nil {
			if err := n.Drain(ctx, in.On); err != nil {
				return admin.None{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
			}
		}
		n.Changed()
		return admin.None{}, nil
	})
}

// cluster is what gossip shows.
func (n *Node[T]) cluster() admin.Cluster {
	if n.gossip == nil {
		return admin.Cluster{}
	}
	return clusterOf(n.gossip.Members())
}

// clusterOf finds in what the members say who serves each pair: of those that
// live, the one with the newest term.
func clusterOf(members []gossip.Member) admin.Cluster {
	var c admin.Cluster
	pairs := map[string]admin.Pair{}
	var order []string
	for _, m := range members {
		out := admin.Member{Name: m.Name, Role: m.Role, State: m.State, Version: m.Version, Load: m.Load, Services: m.Services}
		out.Formats = admin.FormatLevels{Known: m.Known, Used: m.Format}
		for _, g := range m.Groups {
			out.Pair = g.Pair
			p, known := pairs[g.Pair]
			if !known {
				order = append(order, g.Pair)
				p.Name = g.Pair
			}
			if g.Serving && g.Term >= p.Term && m.State != "dead" && m.State != "left" {
				p.Serving, p.Term, p.Applied = m.Name, g.Term, g.Applied
			}
			pairs[g.Pair] = p
		}
		c.Nodes = append(c.Nodes, out)
	}
	for _, name := range order {
		c.Pairs = append(c.Pairs, pairs[name])
	}
	return c
}

// hangups reloads the configuration at SIGHUP.
func (n *Node[T]) hangups(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			_, _ = n.reload() // it has been logged
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node[T]) reload() (config.Change, error) {
	load := func(file string) (*T, error) { return config.Load[T](file, config.Flags(n.Config)) }
	n.keysMu.Lock()
	defer n.keysMu.Unlock()
	ch, err := n.Live.Reload(load, func(old, next *T) error {
		// All that can refuse comes before anything is changed.
		common := n.program.Common(next)
		var keys [][]byte
		if n.gossip != nil {
			var err error
			if keys, err = gossip.ReadKeys(common.Gossip.KeyFile); err != nil {
				return err
			}
		}
		if n.Reload != nil {
			if err := n.Reload(old, next); err != nil {
				return err
			}
		}
		if n.gossip != nil {
			// It refuses no keys that ReadKeys has accepted.
			if err := n.setKeys(keys); err != nil {
				return err
			}
			n.gossip.SetJoin(common.Gossip.Join)
		}
		n.style.set(common)
		n.gc.set(common.Runtime, n.program.heapGrowth(next))
		return nil
	})
	if err != nil {
		metrics.ConfigReloads.With("refused").Inc()
		n.Log.Error("the configuration was not reloaded, the old one stays in use", "err", err)
		return ch, err
	}
	metrics.ConfigReloads.With("ok").Inc()
	n.Log.Info("configuration reloaded", "changed", ch.Applied, "needs_restart", ch.Restart)
	return ch, nil
}

// newGossip joins nothing yet; nil without an address to listen on.
func (n *Node[T]) newGossip() (*gossip.Gossip, error) {
	g := n.common.Gossip
	if g.Listen == "" {
		return nil, nil
	}
	keys, err := gossip.ReadKeys(g.KeyFile)
	if err != nil {
		return nil, err
	}
	n.keys = keys
	return gossip.New(gossip.Config{
		Cluster: n.common.Cluster, Name: n.common.Node, Role: n.program.Role, Version: version.String(), Known: version.Format,
		Listen: g.Listen, Advertise: g.Advertise, Join: g.Join, Keys: keys, Interval: g.Interval,
		Identity: n.TLS, Table: n.Routes, Log: n.Log,
	})
}

// announce tells gossip about this node.
func (n *Node[T]) announce(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	for {
		var self gossip.Self
		if n.Self != nil {
			self = n.Self()
		}
		self.Draining = n.Draining()
		self.Unready = !n.ready.Load() || n.unreadySoon(ctx)
		self.Services = reachable(self.Services, n.common)
		self.Format = n.format()
		n.gossip.Announce(self)
		select {
		case <-n.changed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// unreadySoon reports whether this node cannot say at once that it is ready.
func (n *Node[T]) unreadySoon(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	return n.unready(ctx) != nil
}

// reachable adds the admin port to the services of a node, and names the node's
// own host where a listener has all addresses: the others cannot dial those.
func reachable(services map[string]string, c *config.Common) map[string]string {
	own := c.Gossip.Advertise
	if own == "" {
		own = c.Gossip.Listen
	}
	ownHost, _, _ := net.SplitHostPort(own)
	out := map[string]string{}
	add := func(name, addr string) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return
		}
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			host = ownHost
		}
		out[name] = net.JoinHostPort(host, port)
	}
	for name, addr := range services {
		add(name, addr)
	}
	add("admin", c.Admin.Listen)
	return out
}
