/*
Command postern-backend is the tier-2 daemon: replicas of one or more pairs.
While a replica serves, relays deliver to it by LMTP and open IMAP and POP3
sessions for users who have logged in at the relay. It never connects to the
Internet.

A node holds a place for each pair of its configuration. There is a replica in
it, or one that is being seeded, or none: then the node runs all the same, and
waits for an operator to have one made.
*/
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/cmd/internal/journal"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

func main() {
	os.Exit(daemon.Program[config.Backend]{
		Name: "postern-backend", Role: "backend",
		Short:  "replicas of pairs: mail store, LMTP, IMAP and POP3 for the relays",
		Tiers:  []*metrics.Tier{metrics.Backend},
		Common: func(c *config.Backend) *config.Common { return &c.Common },
		Check:  check,
		Start:  start,
		Create: create,
	}.Main())
}

// addresses returns where a group is served.
func addresses(c *config.Backend, g *config.Group) (config.Serve, error) {
	s := g.Serve
	if len(c.Groups) == 1 {
		for _, a := range []struct{ have, want *string }{
			{&s.LMTP, &c.Serve.LMTP}, {&s.IMAP, &c.Serve.IMAP}, {&s.POP3, &c.Serve.POP3},
		} {
			if *a.have == "" {
				*a.have = *a.want
			}
		}
	}
	if s.LMTP == "" || s.IMAP == "" || s.POP3 == "" {
		return s, fmt.Errorf("pair %s: serve.lmtp, serve.imap and serve.pop3 must be given, for each group if there is more than one", g.Pair)
	}
	return s, nil
}

// check refuses groups that get in each other's way, and what else is only understood
// at the start.
func check(c *config.Backend) error {
	if err := journal.Check(c.Tracing); err != nil {
		return err
	}
	seen := map[string]string{}
	for i := range c.Groups {
		g := &c.Groups[i]
		s, err := addresses(c, g)
		if err != nil {
			return err
		}
		for _, what := range []string{"pair " + g.Pair, "directory " + g.Dir, "address " + s.LMTP, "address " + s.IMAP, "address " + s.POP3} {
			if other, twice := seen[what]; twice {
				return fmt.Errorf("groups: %s is of %s and of %s", what, other, g.Pair)
			}
			seen[what] = g.Pair
		}
	}
	return nil
}

// create makes the directories of replicas of pairs that are being created.
func create(c *config.Backend, log *slog.Logger) error {
	if err := check(c); err != nil {
		return err
	}
	return group.Create(c.Node, c.TLS, c.Groups, &c.Raft, log, replica.Create)
}

// start opens what all groups share, then each group's place; the list is worked
// off from the end when the daemon stops. The hand-overs stand last, so that
// clients are sent to the other replicas before anything closes.
func start(_ context.Context, n *daemon.Node[config.Backend]) error {
	c := n.Config
	if err := check(c); err != nil {
		return err
	}
	record, err := journal.Open(journal.Config{Service: "postern-backend", Node: c.Node, Journal: c.Journal, Tracing: c.Tracing, Log: n.Log}, n.OnClose)
	if err != nil {
		return err
	}
	record.Handle(n.Admin)
	port, err := group.OpenPort(&c.Raft, n.TLS, n.Log)
	if err != nil {
		return err
	}
	n.OnClose("raft port", port)

	o := &operator{n: n}
	for i := range c.Groups {
		p := newPlace(n, &c.Groups[i], port, record.Log)
		if err := p.slot.Start(); err != nil {
			return err
		}
		o.places = append(o.places, p)
		n.Go("replica of "+p.group.Pair, p.slot.Run)
		n.OnStop("replica of "+p.group.Pair, p.slot.Stop)
		n.Check("pair "+p.group.Pair, p.ready)
	}
	o.handle()
	n.Self, n.Status, n.Drain = o.self, o.status, o.drain
	n.Reload = func(_, next *config.Backend) error {
		if err := record.Set(next.Journal, next.Tracing); err != nil {
			return err
		}
		for _, p := range o.places {
			p.use(optionsOf(next))
		}
		return nil
	}
	n.OnStop("hand-over", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := o.handOver(ctx, (*replica.Replica).Leave); err != nil { // it is alone: clients wait for the next one
			n.Log.Warn("no hand-over before the end", "err", err)
		}
		return nil
	})
	return nil
}
