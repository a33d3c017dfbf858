package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/ha/pair"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
)

// place is where this node holds a replica of one pair.
type place struct {
	n     *daemon.Node[config.Backend]
	group *config.Group
	slot  *group.Slot
	mail  *maillog.Log
	live  atomic.Pointer[live] // while a replica runs

	mu      sync.Mutex // guards options; held while live is told of them
	options options
}

func newPlace(n *daemon.Node[config.Backend], g *config.Group, port *raftnet.Port, mail *maillog.Log) *place {
	p := &place{n: n, group: g, mail: mail, options: optionsOf(n.Config)}
	p.slot = group.NewSlot(group.SlotConfig{
		Node: n.Config.Node, Group: g, Raft: &n.Config.Raft, Port: port, TLS: n.TLS, Log: n.Log,
		Open: p.open, Check: checkState, Applied: appliedOf, Changed: n.Changed,
		Renew: func() bool { return n.Live.Current().Raft.Reseed == "automatic" },
	})
	return p
}

// checkState reads a state that was fetched and compares it with its digest.
func checkState(dir string) error {
	var failed error
	s, err := store.Open(dir, nil, store.Options{OnDiskFailure: func(err error) { failed = err }})
	if err != nil {
		return err
	}
	_, err = s.Verify()
	return errors.Join(err, s.Close(), failed)
}

// appliedOf reads the last entry applied in the state of a replica that does not
// run.
func appliedOf(dir string) (uint64, error) {
	s, err := store.Open(dir, nil, store.Options{OnDiskFailure: func(error) {}})
	if err != nil {
		return 0, err
	}
	st, err := s.State()
	return st.Applied, errors.Join(err, s.Close())
}

// ready reports why the pair is not to be had from here.
func (p *place) ready(context.Context) error {
	if err := p.slot.Why(); err != nil {
		return err
	}
	l := p.live.Load()
	if l == nil {
		return errors.New("stopped")
	}
	if _, _, ok := l.replica.Leader(); !ok {
		if l.replica.Local().Expelled {
			return errors.New("this member was taken out of the pair: have it replaced")
		}
		return errors.New("no leader is known")
	}
	return nil
}

// live is a replica that runs, with all that stands on it.
type live struct {
	place   *place
	log     *pairLog
	hub     *notify.Hub
	rows    *store.Store
	machine *fsm.FSM
	replica *replica.Replica
	boxes   *mailbox.Service
	source  atomic.Pointer[pair.Source]
	upkeep  *upkeep

	mu      sync.Mutex // guards recheck
	recheck []func()   // told when the replica begins or ends to serve

	sessions []func(int) // told how many sessions there may be

	stops []func(context.Context) error // in the order of the starts
	wg    sync.WaitGroup
	over  atomic.Bool // Stop was called
	ended chan error
}

// Ended implements group.Running.
func (l *live) Ended() <-chan error { return l.ended }

// Stop implements group.Running: everything in the reverse order of its start.
func (l *live) Stop(ctx context.Context) error {
	l.over.Store(true)
	l.place.live.CompareAndSwap(l, nil)
	var errs []error
	for i := len(l.stops) - 1; i >= 0; i-- {
		errs = append(errs, l.stops[i](ctx))
	}
	l.wg.Wait()
	close(l.ended)
	return errors.Join(errs...)
}

func (l *live) onStop(f func(context.Context) error) { l.stops = append(l.stops, f) }

// run runs a service of the replica; one that ends by itself ends the replica,
// and with it the daemon.
func (l *live) run(f func() error) {
	l.wg.Go(func() {
		err := f()
		if l.over.Load() {
			return
		}
		if err == nil {
			err = errors.New("ended by itself")
		}
		select {
		case l.ended <- err:
		default:
		}
	})
}

// open opens the store below, then the replica, then the servers above.
func (p *place) open(m voter.Config) (_ group.Running, err error) {
	c := p.n.Config
	l := &live{place: p, hub: new(notify.Hub), log: new(pairLog), ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			err = errors.Join(err, l.Stop(ctx))
		}
	}()
	l.rows, err = p.openRows(l.log)
	if err != nil {
		return nil, err
	}
	l.onStop(func(context.Context) error { return l.rows.Close() })
	metrics.LMTPKeyMismatch.With(p.group.Pair).Add(0) // an alert sees the first one
	l.machine, err = fsm.New(fsm.Config{
		Store: l.rows, Hub: l.hub, Fatal: p.fatal, Raise: p.raise,
		Mismatch: func(account string, _ command.Key) {
			metrics.LMTPKeyMismatch.With(p.group.Pair).Inc()
			p.n.Log.Error("delivery refused: its key was seen with another body", "account", account)
		},
	})
	if err != nil {
		return nil, err
	}
	l.onStop(func(context.Context) error { l.machine.Close(); return nil })
	if err := l.join(m); err != nil {
		return nil, err
	}
	l.boxes, err = mailbox.New(mailbox.Config{
		Log: l.log, Store: l.rows, Hub: l.hub, MaxMessage: int64(c.Mail.MaxSize), InFlight: int64(c.Store.InFlight),
		Level:   func() uint32 { return l.machine.Level() },
		Answers: func() bool { return l.place.n.Live.Current().Mail.Answers },
		Owners:  func() bool { return l.place.n.Live.Current().Mail.Folders == "listed" },
	})
	if err != nil {
		return nil, err
	}
	if err := l.maintain(); err != nil {
		return nil, err
	}
	if err := l.serve(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	p.adopt(l)
	return l, nil
}

// join opens the replica and has it take part.
func (l *live) join(m voter.Config) error {
	p := l.place
	m.OnFatal = p.n.Fatal
	m.Stream = l.give
	m.Mark = func() (uint64, [16]byte) { return markOf(l.machine) }
	seen := &memberFigures{pair: p.group.Pair}
	r, err := replica.New(replica.Config{Config: m, FSM: &applier{FSM: l.machine}, OnMembers: seen.set, Draining: p.n.Draining, Low: l.rows.Low})
	if err != nil {
		return err
	}
	l.onStop(func(context.Context) error { seen.set(nil); return nil })
	metrics.OpenMended.With(p.group.Pair).Add(float64(r.Log().Stats().Mended))
	l.replica = r
	l.log.open(r, l.rows)
	source := pair.NewSource(pair.SourceConfig{
		Dir: p.group.Dir, Checkpoint: l.rows.Checkpoint, Applied: l.machine.Applied, CopyLog: r.Log().CopyTo, Base: r.Base,
		Renew: l.renew, Rate: int64(p.n.Config.Raft.SeedRate), Log: p.n.Log,
	})
	l.source.Store(source)
	r.Observe(func(bool) {
		p.n.Changed()
		l.hub.WakeAll()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, f := range l.recheck {
			f()
		}
	})
	l.run(func() error { return r.Run(context.Background()) })
	l.onStop(func(ctx context.Context) error { return errors.Join(r.Shutdown(ctx), source.Close()) })
	return nil
}

// give answers a member that is being seeded.
func (l *live) give(ctx context.Context, from string, s *raftnet.Stream) error {
	source := l.source.Load()
	if source == nil {
		return s.Refuse(errors.New("the replica starts"))
	}
	if l.log.barred.Load() {
		return s.Refuse(errors.New("the replica is quarantined: its state is in doubt"))
	}
	return source.Serve(ctx, from, s)
}
