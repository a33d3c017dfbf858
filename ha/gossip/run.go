package gossip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	leaveTimeout  = 2 * time.Second
	cardTimeout   = 2 * time.Second
	lookupTimeout = 5 * time.Second

	joinRounds    = 5   // rounds until the second try to join, doubled each time
	maxJoinRounds = 50  // while alone
	healRounds    = 150 // while others are there: looks for the other half of a split
)

// Run joins the others, tries again while alone, and takes part until ctx ends.
// Then it says goodbye, which takes seconds at most, and closes the listeners.
func (g *Gossip) Run(ctx context.Context) error {
	if !g.started.CompareAndSwap(false, true) {
		return errors.New("gossip: Run was called twice")
	}
	working, stop := context.WithCancel(context.Background())
	defer stop()
	var worker, helpers sync.WaitGroup
	worker.Go(func() { g.work(working) })
	helpers.Go(func() { g.join(ctx) })
	helpers.Go(func() { g.doChores(ctx) })
	<-ctx.Done()
	stop()
	worker.Wait()
	g.goodbye()
	if err := g.list.Leave(leaveTimeout); err != nil {
		g.log.Info("left without an answer", "err", err)
	}
	err := g.list.Shutdown() // also ends the dials of the helpers
	helpers.Wait()
	return err
}

// goodbye makes the last statement: to memberlist a member that leaves and one
// that dies look the same.
func (g *Gossip) goodbye() {
	g.mu.Lock()
	g.leaving = true
	msgs, err := g.sealLocked(g.self, nil)
	g.mu.Unlock()
	if err != nil {
		g.log.Error("cannot say goodbye", "err", err)
		return
	}
	for _, b := range msgs {
		g.queue.QueueBroadcast(b)
	}
	g.tell(msgs)
}

// ask is a request for the chain of a node. The zero ask renews the metadata
// of this node. Both wait for the network, which work must not.
type ask struct{ name, addr string }

// ask asks for the chain of name, at most once in a while.
func (g *Gossip) ask(name string) {
	g.mu.Lock()
	n := g.nodes[name]
	ok := n != nil && n.up && name != g.cfg.Name
	addr := ""
	if ok {
		addr = n.addr
	}
	g.mu.Unlock()
	now := time.Now()
	if !ok || now.Sub(g.lastAsk[name]) < askRounds*g.cfg.Interval {
		return
	}
	g.lastAsk[name] = now
	g.chore(ask{name, addr})
}

func (g *Gossip) chore(a ask) {
	select {
	case g.asks <- a:
	default: // a later statement asks again
	}
}

func (g *Gossip) doChores(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-g.asks:
			if a == (ask{}) {
				if err := g.list.UpdateNode(cardTimeout); err != nil {
					g.log.Debug("metadata", "err", err)
				}
				continue
			}
			if _, err := g.list.Join([]string{a.name + "/" + a.addr}); err != nil {
				g.log.Debug("chain not received", "node", a.name, "err", err)
			}
		}
	}
}

// join exchanges state with the configured addresses until others are there,
// and later with those that are missing, so that a split heals.
func (g *Gossip) join(ctx context.Context) {
	rounds := time.Duration(joinRounds)
	for {
		for _, addr := range g.missing(ctx) {
			if ctx.Err() != nil {
				return
			}
			if _, err := g.list.Join([]string{addr}); err != nil {
				g.log.Debug("not joined", "addr", addr, "err", err)
			}
		}
		wait := rounds * g.cfg.Interval
		if g.list.NumMembers() > 1 {
			wait, rounds = healRounds*g.cfg.Interval, joinRounds
		} else {
			rounds = min(2*rounds, maxJoinRounds)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-g.rejoin:
		}
	}
}

// SetJoin makes addrs the members to join, at once and again while they are missing.
func (g *Gossip) SetJoin(addrs []string) {
	g.joins.Store(&addrs)
	select {
	case g.rejoin <- struct{}{}:
	default: // a round is to come anyway
	}
}

// missing lists the addresses that ought to be members and are not: those of
// the configuration, and those of the dead.
func (g *Gossip) missing(ctx context.Context) []string {
	here := []string{g.addr}
	var want []string
	for _, hostport := range *g.joins.Load() {
		want = append(want, g.resolve(ctx, hostport)...)
	}
	g.mu.Lock()
	for _, n := range g.nodes {
		if n.up {
			here = append(here, n.addr)
		}
		if n.st != nil && n.state() == Dead {
			want = append(want, n.st.addr)
		}
	}
	g.mu.Unlock()
	want = slices.DeleteFunc(want, func(a string) bool {
		return slices.ContainsFunc(here, func(b string) bool { return sameAddr(a, b) })
	})
	slices.Sort(want)
	return slices.Compact(want)
}

// resolve returns the addresses of hostport. Without a port, ours is meant.
func (g *Gossip) resolve(ctx context.Context, hostport string) []string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		_, own, _ := net.SplitHostPort(g.addr)
		host, port = hostport, own
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return []string{net.JoinHostPort(ip.String(), port)}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		g.log.Warn("address to join", "addr", hostport, "err", err)
		return nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		g.log.Warn("address to join", "addr", hostport, "err", err)
		return nil
	}
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = net.JoinHostPort(ip.Unmap().String(), strconv.Itoa(n))
	}
	return out
}
