/*
Command postern-witness is the log-only voter of many pairs: it keeps each
pair's log for a while, so that one of two data replicas can be away and nothing
is lost. It links no mail code and opens no mail port.
*/
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/replica/voter"
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
	return group.Create(c.Node, c.TLS, c.Groups, &c.Raft, log, witness.Create)
}

// seat is where this node holds the witness of one pair.
type seat struct {
	n     *daemon.Node[config.Witness]
	group *config.Group
	slot  *group.Slot
	room  func() (used, most int64)
	live  atomic.Pointer[live]
	alarm atomic.Int32 // the last share of the room that was reported, in percent

	mu    sync.Mutex // guards cache; held while live is told of it
	cache int64      // octets of memory for recent entries
}

// setCache makes n hold for the witness that runs, and for those that run later.
func (s *seat) setCache(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache = n
	if l := s.live.Load(); l != nil {
		l.w.SetCache(n)
	}
}

// live is a witness that runs.
type live struct {
	seat   *seat
	w      *witness.Witness
	cancel context.CancelFunc
	over   atomic.Bool
	done   chan struct{}
	ended  chan error
}

// Ended implements group.Running.
func (l *live) Ended() <-chan error { return l.ended }

// Stop implements group.Running.
func (l *live) Stop(context.Context) error {
	l.over.Store(true)
	l.seat.live.CompareAndSwap(l, nil)
	l.cancel()
	<-l.done
	close(l.ended)
	return nil
}

func (s *seat) open(m voter.Config) (group.Running, error) {
	m.OnFatal, m.Room = s.n.Fatal, s.room
	w, err := witness.New(m)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	l := &live{seat: s, w: w, cancel: cancel, done: make(chan struct{}), ended: make(chan error, 1)}
	go func() {
		defer close(l.done)
		err := w.Run(run)
		if l.over.Load() {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		l.ended <- err
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	w.SetCache(s.cache)
	s.live.Store(l)
	return l, nil
}

func (s *seat) ready(context.Context) error {
	if err := s.slot.Why(); err != nil {
		return err
	}
	if l := s.live.Load(); l == nil || l.w.Status().Leader == "" {
		return errors.New("no leader is known")
	}
	return nil
}

// start opens the port and then each group's place.
func start(_ context.Context, n *daemon.Node[config.Witness]) error {
	c := n.Config
	port, err := group.OpenPort(&c.Raft, n.TLS, n.Log)
	if err != nil {
		return err
	}
	n.OnClose("raft port", port)
	var seats []*seat
	for i := range c.Groups {
		g := &c.Groups[i]
		s := &seat{n: n, group: g, cache: int64(c.Raft.EntryCache), room: group.Room(filepath.Join(g.Dir, "log"), func() int64 { return int64(n.Live.Current().Retain.MaxLog) })}
		s.slot = group.NewSlot(group.SlotConfig{
			Node: c.Node, Group: g, Raft: &c.Raft, Witness: true, Port: port, TLS: n.TLS, Log: n.Log, Open: s.open, Changed: n.Changed,
		})
		if err := s.slot.Start(); err != nil {
			return err
		}
		seats = append(seats, s)
		n.Go("witness of "+g.Pair, s.slot.Run)
		n.OnStop("witness of "+g.Pair, s.slot.Stop)
		n.Check("pair "+g.Pair, s.ready)
		s.figures()
	}
	n.Go("room of the logs", func(ctx context.Context) error { watchRoom(ctx, seats); return nil })
	n.Reload = func(_, next *config.Witness) error {
		for _, s := range seats {
			s.setCache(int64(next.Raft.EntryCache))
		}
		return nil
	}
	n.Status = func(out *admin.NodeStatus) {
		for _, s := range seats {
			out.Groups = append(out.Groups, s.status())
		}
	}
	n.Self = func() gossip.Self { return gossip.Self{} }
	of := func(pair string) (*seat, error) {
		for _, s := range seats {
			if s.group.Pair == pair || pair == "" && len(seats) == 1 {
				return s, nil
			}
		}
		return nil, fmt.Errorf("%w: no member of pair %q here", admin.ErrNotFound, pair)
	}
	admin.Handle(n.Admin, admin.PairStatus, func(_ context.Context, in admin.PairName) (admin.GroupStatus, error) {
		s, err := of(in.Pair)
		if err != nil {
			return admin.GroupStatus{}, err
		}
		return s.status(), nil
	})
	n.Format = func() uint32 { return formatOf(seats) }
	admin.Handle(n.Admin, admin.Finalize, func(_ context.Context, in admin.FinalizeRequest) (admin.FormatLevels, error) {
		s, err := of(in.Pair)
		if err != nil {
			return admin.FormatLevels{}, err
		}
		return s.finalize(in)
	})
	admin.Handle(n.Admin, admin.PairJoin, func(ctx context.Context, in admin.JoinRequest) (admin.GroupMember, error) {
		s, err := of(in.Pair)
		if err != nil {
			return admin.GroupMember{}, err
		}
		in.Pair = s.group.Pair
		return s.slot.Join(ctx, in)
	})
	return nil
}

// Shares of a log's room, in percent, at which an alarm is raised, and at which
// the serving replica holds writes back.
const (
	alarmShare = 50
	holdShare  = 90
)

// share is the part of the room that the log takes, in percent.
func (s *seat) share() int64 {
	used, most := s.room()
	if most <= 0 {
		return 0
	}
	return 100 * used / most
}

// alarms are what an operator has to know.
func (s *seat) alarms() []string {
	share := s.share()
	switch {
	case share >= holdShare:
		return []string{fmt.Sprintf("the log takes %d %% of its room: writes are held back until the data replica that is away is back or evicted", share)}
	case share >= alarmShare:
		return []string{fmt.Sprintf("the log takes %d %% of its room, since a data replica is away", share)}
	}
	return nil
}

// watchRoom logs when a log reaches a part of its room, and when it has left it.
func watchRoom(ctx context.Context, seats []*seat) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		for _, s := range seats {
			now := int32(0)
			for _, at := range []int32{alarmShare, holdShare} {
				if s.share() >= int64(at) {
					now = at
				}
			}
			if was := s.alarm.Swap(now); was != now {
				s.n.Log.Warn("room of the log", "pair", s.group.Pair, "percent", s.share(), "was_over", was, "is_over", now)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *seat) status() admin.GroupStatus {
	var out admin.GroupStatus
	if l := s.live.Load(); l != nil {
		st := l.w.Status()
		out = admin.GroupStatus{
			Leader: st.Leader, State: st.State, Term: st.Term, First: st.First, Last: st.Last, Commit: st.Committed,
			Applied: st.Committed, Floor: st.Floor, Members: group.Members(st.Members), Alarms: s.alarms(),
		}
		for _, m := range st.Members {
			if m.Voter {
				out.Voters = append(out.Voters, m.Name)
			}
		}
	}
	s.slot.Describe(&out)
	out.Format = s.format()
	out.LogBytes = group.DirSize(filepath.Join(s.group.Dir, "log"))
	_, out.LogLimit = s.room()
	return out
}

// figures registers what is read when it is scraped.
func (s *seat) figures() {
	labels := map[string]string{"pair": s.group.Pair}
	gauge := func(name, help string, f func(witness.Status) float64) {
		s.n.Metrics.GaugeFunc(name, help, labels, func() float64 {
			l := s.live.Load()
			if l == nil {
				return 0
			}
			return f(l.w.Status())
		})
	}
	gauge(metrics.GroupTerm, "Raft term.", func(st witness.Status) float64 { return float64(st.Term) })
	gauge(metrics.GroupCommit, "Last entry known to be committed.", func(st witness.Status) float64 { return float64(st.Committed) })
	reg := s.n.Metrics
	reg.GaugeFunc(metrics.LogBytes, "Octets of the log's files.", labels, func() float64 {
		return float64(group.DirSize(filepath.Join(s.group.Dir, "log")))
	})
	reg.GaugeFunc("postern_log_room_ratio", "Part of its room that the log takes; writes are held back at 0.9.", labels, func() float64 {
		return float64(s.share()) / 100
	})
}
