/*
Command postern-witness is the log-only voter of many pairs: it keeps each
pair's log for a while, so that one of two data replicas can be away and nothing
is lost. It links no mail code and opens no mail port.
*/
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/witness"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

func main() {
	os.Exit(daemon.Program[config.Witness]{
		Name: "postern-witness", Role: "witness",
		Short:  "log-only voter of pairs",
		Tiers:  []*metrics.Tier{metrics.Witness},
		Common: func(c *config.Witness) *config.Common { return &c.Common },
		Start:  start,
		Create: create,
	}.Main())
}

// create makes the directories of the members of groups that are being created.
func create(c *config.Witness, log *slog.Logger) error {
	for i := range c.Groups {
		g := &c.Groups[i]
		m, err := group.Member(c.Node, g, &c.Raft, log)
		if err != nil {
			return err
		}
		m.OnFatal = func(err error) { log.Error("create", "pair", g.Pair, "err", err); os.Exit(1) }
		if err := group.MakeDir(g); err != nil {
			return err
		}
		if err := witness.Create(m); err != nil {
			return fmt.Errorf("pair %s: %w", g.Pair, err)
		}
		log.Info("member created", "pair", g.Pair, "dir", g.Dir, "id", m.ID)
	}
	return nil
}

func start(_ context.Context, n *daemon.Node[config.Witness]) error {
	c := n.Config
	port, err := group.OpenPort(&c.Raft, n.TLS, n.Log)
	if err != nil {
		return err
	}
	n.OnClose("raft port", port)
	all := make([]*witness.Witness, len(c.Groups))
	for i := range c.Groups {
		m, err := group.Member(c.Node, &c.Groups[i], &c.Raft, n.Log)
		if err != nil {
			return err
		}
		m.Port, m.Authorize, m.NodeOf, m.OnFatal = port, group.Authorize, group.NodeOf, n.Fatal
		m.ClientTLS = group.Client(n.TLS)
		w, err := witness.New(m)
		if err != nil {
			return err
		}
		all[i] = w
		run, stop := context.WithCancel(context.Background())
		n.Go("witness of "+m.Pair, func(context.Context) error { return w.Run(run) })
		n.OnStop("witness of "+m.Pair, func(context.Context) error { stop(); return w.Close() })
		n.Check("pair "+m.Pair, func(context.Context) error {
			if w.Status().Leader == "" {
				return fmt.Errorf("no leader is known")
			}
			return nil
		})
		gauges(n, m.Pair, m.Dir, w)
	}
	status := func(i int) admin.GroupStatus { return groupStatus(c, i, all[i]) }
	n.Status = func(s *admin.NodeStatus) {
		for i := range all {
			s.Groups = append(s.Groups, status(i))
		}
	}
	n.Self = func() gossip.Self { return gossip.Self{} }
	admin.Handle(n.Admin, admin.PairStatus, func(_ context.Context, in admin.PairName) (admin.GroupStatus, error) {
		for i := range c.Groups {
			if c.Groups[i].Pair == in.Pair || in.Pair == "" && len(all) == 1 {
				return status(i), nil
			}
		}
		return admin.GroupStatus{}, fmt.Errorf("%w: no member of pair %q here", admin.ErrNotFound, in.Pair)
	})
	return nil
}

func groupStatus(c *config.Witness, i int, w *witness.Witness) admin.GroupStatus {
	g, s := &c.Groups[i], w.Status()
	out := admin.GroupStatus{
		Pair: g.Pair, Node: c.Node, Witness: true, Leader: s.Leader, State: s.State, Term: s.Term,
		First: s.First, Last: s.Last, Commit: s.Committed, Applied: s.Committed, Floor: s.Floor,
		LogBytes: group.DirSize(filepath.Join(g.Dir, "log")),
	}
	for _, m := range g.Members {
		out.Voters = append(out.Voters, m.Node)
	}
	return out
}

func gauges(n *daemon.Node[config.Witness], pair, dir string, w *witness.Witness) {
	labels := map[string]string{"pair": pair}
	n.Metrics.GaugeFunc(metrics.GroupTerm, "Raft term.", labels, func() float64 { return float64(w.Status().Term) })
	n.Metrics.GaugeFunc(metrics.GroupCommit, "Last entry known to be committed.", labels, func() float64 { return float64(w.Status().Committed) })
	n.Metrics.GaugeFunc(metrics.LogBytes, "Octets of the log's files.", labels, func() float64 { return float64(group.DirSize(filepath.Join(dir, "log"))) })
}
