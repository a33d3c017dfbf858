/*
Command postern-backend is the tier-2 daemon: a replica of a pair. While its
replica serves, relays deliver to it by LMTP and open IMAP and POP3 sessions for
users who have logged in at the relay. It never connects to the Internet.

This release holds one replica a process.
*/
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/cmd/internal/journal"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

func main() {
	os.Exit(daemon.Program[config.Backend]{
		Name: "postern-backend", Role: "backend",
		Short:  "replica of a pair: mail store, LMTP, IMAP and POP3 for the relays",
		Tiers:  []*metrics.Tier{metrics.Backend},
		Common: func(c *config.Backend) *config.Common { return &c.Common },
		Start:  start,
		Create: create,
	}.Main())
}

// one returns the group of this node.
func one(c *config.Backend) (*config.Group, error) {
	if len(c.Groups) != 1 {
		return nil, fmt.Errorf("groups: this release holds one replica a process, %d are configured", len(c.Groups))
	}
	return &c.Groups[0], nil
}

// create makes the directory of a replica of a pair that is being created.
func create(c *config.Backend, log *slog.Logger) error {
	g, err := one(c)
	if err != nil {
		return err
	}
	m, err := group.Member(c.Node, g, &c.Raft, log)
	if err != nil {
		return err
	}
	m.OnFatal = func(err error) { log.Error("create", "pair", g.Pair, "err", err); os.Exit(1) }
	if err := group.MakeDir(g); err != nil {
		return err
	}
	if err := replica.Create(m); err != nil {
		return fmt.Errorf("pair %s: %w", g.Pair, err)
	}
	log.Info("replica created", "pair", g.Pair, "dir", g.Dir, "id", m.ID)
	return nil
}

// start opens the store below, then the replica, then the servers above; the
// list is worked off from the end when the daemon stops. The hand-over stands
// last, so that clients are sent to the other replica before anything closes.
func start(_ context.Context, n *daemon.Node[config.Backend]) error {
	c := n.Config
	g, err := one(c)
	if err != nil {
		return err
	}
	mailLog, err := journal.Open(c.Node, c.Journal, n.Log, nil)
	if err != nil {
		return err
	}
	n.OnClose("record of mail events", mailLog)
	journal.Handle(n.Admin, mailLog)

	hub := new(notify.Hub)
	log := new(pairLog)
	rows, err := store.Open(filepath.Join(g.Dir, "meta"), log, store.Options{
		CacheSize: int64(c.Store.Cache), MemTableSize: int(c.Store.Memtable), Log: n.Log, OnDiskFailure: n.Fatal,
	})
	if err != nil {
		return err
	}
	n.OnClose("rows", rows)
	machine, err := fsm.New(fsm.Config{
		Store: rows, Hub: hub, Fatal: n.Fatal,
		Mismatch: func(account string, _ command.Key) {
			metrics.LMTPKeyMismatch.Inc()
			n.Log.Error("delivery refused: its key was seen with another body", "account", account)
		},
	})
	if err != nil {
		return err
	}
	n.OnStop("state machine", func(context.Context) error { machine.Close(); return nil })

	m, err := group.Member(c.Node, g, &c.Raft, n.Log)
	if err != nil {
		return err
	}
	port, err := group.OpenPort(&c.Raft, n.TLS, n.Log)
	if err != nil {
		return err
	}
	n.OnClose("raft port", port)
	m.Port, m.Authorize, m.NodeOf, m.OnFatal = port, group.Authorize, group.NodeOf, n.Fatal
	m.ClientTLS = group.Client(n.TLS)
	r, err := replica.New(replica.Config{Config: m, FSM: &applier{FSM: machine}})
	if err != nil {
		return err
	}
	log.open(r, m.Peers)
	r.Observe(func(bool) {
		n.Changed()
		hub.WakeAll()
	})
	n.Go("replica of "+g.Pair, func(context.Context) error { return r.Run(context.Background()) })
	n.OnStop("replica of "+g.Pair, r.Shutdown)

	boxes, err := mailbox.New(mailbox.Config{
		Log: log, Store: rows, Hub: hub, MaxMessage: int64(c.Mail.MaxSize), InFlight: int64(c.Store.InFlight),
	})
	if err != nil {
		return err
	}
	if err := serve(n, boxes, mailLog); err != nil {
		return err
	}
	o := &operator{n: n, group: g, replica: r, machine: machine, boxes: boxes, log: log}
	o.handle()
	n.Self = func() gossip.Self { return o.self() }
	n.Status = o.status
	n.Drain = o.drain
	n.Check("pair "+g.Pair, func(context.Context) error {
		if _, _, ok := r.Leader(); !ok {
			return errors.New("no leader is known")
		}
		return nil
	})
	n.OnStop("hand-over", func(ctx context.Context) error {
		if !r.Serving() {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := r.Transfer(ctx, ""); err != nil { // it is alone: clients wait for the next one
			n.Log.Warn("no hand-over before the end", "err", err)
		}
		return nil
	})
	return nil
}
