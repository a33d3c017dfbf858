package main

import (
	"context"
	"encoding/json"

	"github.com/postern-mail/postern/shared/admin"
)

// maintain begins the upkeep of a replica that runs.
func (l *live) maintain() error {
	p := l.place
	c := p.n.Config
	u, err := newUpkeep(upkeepConfig{
		Pair: p.group.Pair, Node: c.Node, Dir: p.group.Dir, Settings: c.Upkeep, Snapshots: c.Snapshots,
		Log: l.replica.Log(), Rows: l.rows, Machine: l.machine, Boxes: l.boxes, Logger: p.n.Log,
		Propose: func(ctx context.Context, data []byte) error { _, _, err := l.log.Propose(ctx, data); return err },
		Serving: l.replica.Serving,
		Low:     l.replica.Low,
		Trim:    l.replica.Trim,
		Base: func() (json.RawMessage, error) {
			b, err := l.replica.Base(false)
			if err != nil {
				return nil, err
			}
			return json.Marshal(b)
		},
		Yield: func(ctx context.Context) error { return l.replica.StepAside(ctx) },
		Bar:   func(on bool) { l.log.barred.Store(on); l.replica.Bar(on); p.n.Changed(); l.hub.WakeAll() },
		Peer:  other{l.replica},
	})
	if err != nil {
		return err
	}
	l.upkeep = u
	l.run(u.serve)
	l.onStop(func(context.Context) error { u.stop(); return nil })
	return nil
}

// handleUpkeep registers the methods for snapshots and the store.
func (o *operator) handleUpkeep() {
	s := o.n.Admin
	admin.Handle(s, admin.BackupList, func(_ context.Context, in admin.PairName) (admin.BackupListing, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.BackupListing{}, err
		}
		return l.upkeep.list()
	})
	admin.Handle(s, admin.BackupShow, func(_ context.Context, in admin.BackupQuery) (admin.BackupContent, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.BackupContent{}, err
		}
		return l.upkeep.content(&in)
	})
	admin.Handle(s, admin.UpkeepRun, func(_ context.Context, in admin.UpkeepTask) (admin.UpkeepJob, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.UpkeepJob{}, err
		}
		return l.upkeep.start(in)
	})
	admin.Handle(s, admin.UpkeepPoll, func(_ context.Context, in admin.UpkeepQuery) (admin.UpkeepJob, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.UpkeepJob{}, err
		}
		return l.upkeep.poll(in.Task), nil
	})
	admin.Handle(s, admin.PairRelease, func(_ context.Context, in admin.PairName) (admin.GroupStatus, error) {
		l, err := o.running(in.Pair)
		if err == nil {
			err = l.upkeep.release()
		}
		if err != nil {
			return admin.GroupStatus{}, err
		}
		return l.place.status(), nil
	})
}

// list lists the snapshots of the replica.
func (u *upkeep) list() (admin.BackupListing, error) {
	out := admin.BackupListing{Pair: u.cfg.Pair, Node: u.cfg.Node, Snapshots: []admin.Backup{}}
	list, err := u.keeper.List()
	for _, i := range list {
		dir, _ := u.keeper.Path(i.Name)
		out.Snapshots = append(out.Snapshots, admin.Backup{
			Name: i.Name, Dir: dir, Created: i.Created, Kept: i.Kept, Applied: i.Applied, Last: i.Last,
			Messages: i.Messages, Bytes: i.Bytes, Digest: i.Digest,
		})
	}
	return out, err
}
