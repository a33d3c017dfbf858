package main

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/cmd/internal/reconstruct"
)

// openRows opens the rows of a replica. If they are damaged or gone they are
// made anew from the newest snapshot and the log, and the old ones kept beside
// them: they are this replica's own, so that nothing is taken from elsewhere.
func (p *place) openRows(bodies store.Bodies) (*store.Store, error) {
	c, dir := p.n.Config, p.group.Dir
	open := func() (*store.Store, error) {
		return store.Open(filepath.Join(dir, "meta"), bodies, store.Options{
			CacheSize: int64(c.Store.Cache), MemTableSize: int(c.Store.Memtable), Log: p.n.Log, OnDiskFailure: p.fatal,
		})
	}
	why, err := reconstruct.Needed(dir, nil)
	if err != nil {
		return nil, err
	}
	if why == "" {
		rows, oerr := open()
		if oerr == nil {
			if why, err = reconstruct.Behind(dir, rows); why == "" && err == nil {
				return rows, nil
			}
			err = errors.Join(err, rows.Close())
		} else {
			why, err = reconstruct.Needed(dir, oerr)
		}
		if err != nil {
			return nil, err
		}
	}
	p.n.Log.Error("the rows are made anew from snapshot and log", "pair", p.group.Pair, "why", why)
	r, err := reconstruct.Run(context.Background(), reconstruct.Options{Dir: dir, Snapshots: p.snapshots(), Repair: true})
	if err != nil {
		return nil, errors.Join(errors.New(why), err)
	}
	p.n.Log.Warn("the rows are made anew", "pair", p.group.Pair, "snapshot", r.Snapshot, "entries", r.Entries, "to", r.Target, "old rows", r.Aside)
	return open()
}

// snapshots is the directory of the replica's snapshots.
func (p *place) snapshots() string {
	if d := p.n.Config.Snapshots.Dir; d != "" {
		return filepath.Join(d, p.group.Pair)
	}
	return filepath.Join(p.group.Dir, "snapshots")
}

// fatal ends the process; what it says of the rows is heeded at the next start.
func (p *place) fatal(err error) {
	reconstruct.NoteDamage(p.group.Dir, err)
	p.n.Fatal(err)
}
