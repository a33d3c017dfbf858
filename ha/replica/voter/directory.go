package voter

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
)

// takeDir locks the directory and checks whose it is.
func (v *Voter) takeDir() error {
	c := &v.cfg
	if _, err := fsx.ReadFile(c.FS, filepath.Join(c.Dir, SeedingName)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("voter: %s: %w", c.Dir, ErrSeeding), err)
	}
	have, err := readID(c.FS, c.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !c.Bootstrap {
			return fmt.Errorf("voter: %s: %w", c.Dir, ErrNoDirectory)
		}
		if err := v.checkEmpty(); err != nil {
			return err
		}
	case err != nil:
		return err
	case have.Pair != c.Pair || have.ID != c.ID:
		return fmt.Errorf("voter: %s is of %q, not %q: %w", c.Dir, have.Pair+" "+have.ID, c.Pair+" "+c.ID, ErrIdentity)
	}
	if v.lost, err = readGivenUp(c.FS, c.Dir); err != nil {
		return err
	}
	if v.givenUp(c.ID) {
		return fmt.Errorf("voter: %s: %w", c.Dir, ErrGivenUp)
	}
	if err := fsx.MkdirAllSync(c.FS, filepath.Join(c.Dir, "raft"), 0o700); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	if v.lock, err = c.FS.Lock(filepath.Join(c.Dir, "lock")); err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	if have.ID == "" {
		if err := writeID(c.FS, c.Dir, identity{Format: max(c.Format, 1), Pair: c.Pair, ID: c.ID}); err != nil {
			return err
		}
	}
	return nil
}

// checkEmpty refuses a directory that has a log but no id.
func (v *Voter) checkEmpty() error {
	names, err := v.cfg.FS.ReadDir(filepath.Join(v.cfg.Dir, "log"))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("voter: %w", err)
	}
	return fmt.Errorf("voter: %s has a log and no id: %w", v.cfg.Dir, ErrIdentity)
}

func (v *Voter) openStores() (err error) {
	c := &v.cfg
	if v.Stable, err = seglog.OpenStable(c.FS, filepath.Join(c.Dir, "raft", "stable"), v.Fatal); err != nil {
		return err
	}
	trim := seglog.Keep
	if v.role.Kind == manifest.Witness {
		trim = seglog.Recycle
	}
	var fetch func(uint64) ([]byte, error)
	if v.role.Kind == manifest.Data && c.ClientTLS != nil {
		fetch = v.fetchAtOpen
	}
	v.log, err = seglog.Open(seglog.Config{
		Dir: filepath.Join(c.Dir, "log"), FS: c.FS, SegmentSize: c.SegmentSize, CacheBytes: c.CacheBytes,
		Trim: trim, OnFailure: v.Fatal, Logger: c.Log, Fetch: fetch,
	})
	if err != nil {
		return err
	}
	v.store = &store{Log: v.log}
	v.Manifests, err = manifest.Open(c.FS, filepath.Join(c.Dir, "raft", "snapshots"), v.role.Kind, c.ID, v.Fatal)
	if err != nil {
		return err
	}
	if err := v.checkLog(); err != nil {
		return err
	}
	return v.finishNote()
}

// finishNote empties a witness's log that ends before its newest note: the leader
// gave it that note in the place of entries which it does not have any more, and
// the process ended before raft had made room for what comes after it. raft would
// have to leave a gap. On a data replica the own state is the newest note.
func (v *Voter) finishNote() error {
	if v.role.Kind != manifest.Witness {
		return nil
	}
	_, meta, has, err := v.Manifests.Newest()
	if err != nil || !has {
		return err
	}
	last, err := v.log.LastIndex()
	if err != nil || last == 0 || last >= meta.Index {
		return err
	}
	first, err := v.log.FirstIndex()
	if err != nil {
		return err
	}
	v.cfg.Log.Warn("the log ends before the newest note, and begins again after it", "last", last, "note", meta.Index)
	return v.log.DeleteRange(first, last)
}

// checkLog refuses a directory without a log, unless it is being made: a
// member that does not remember what it acknowledged must not vote.
func (v *Voter) checkLog() error {
	blank, err := v.blank()
	if err != nil || !blank {
		return err
	}
	lost := fmt.Errorf("voter: %s: %w", v.cfg.Dir, ErrNoLog)
	if !v.cfg.Bootstrap {
		return lost
	}
	// Making it sets the first term before the first entry.
	term, err := v.Stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, seglog.ErrNoKey) {
		return fmt.Errorf("voter: %w", err)
	}
	if _, err := v.Stable.Get([]byte("LastVoteTerm")); err == nil || term > 1 {
		return lost
	}
	if _, _, has, err := v.Manifests.Newest(); err != nil || has {
		return errors.Join(lost, err)
	}
	return nil
}

// blank reports whether nothing was ever stored in the log. One that is empty
// because a snapshot took its place has a segment that says so.
func (v *Voter) blank() (bool, error) {
	last, err := v.log.LastIndex()
	if err != nil || last > 0 {
		return false, err
	}
	_, _, has, err := v.Manifests.Newest()
	return !has || v.log.Stats().Segments == 0, err
}

// Create makes the directory of a member of a group that is being created, and
// writes the group's first configuration to its log. Doing it again changes
// nothing. Members whose directories were made so run without
// Config.Bootstrap, so that one which has lost its directory does not start.
func Create(cfg Config, kind manifest.Kind) error {
	cfg.Bootstrap = true
	if err := cfg.check(); err != nil {
		return err
	}
	v := &Voter{cfg: cfg, role: Role{Kind: kind}}
	err := v.takeDir()
	if err == nil {
		err = v.openStores()
	}
	if err == nil {
		conf := raft.DefaultConfig()
		conf.LocalID = raft.ServerID(cfg.ID)
		conf.Logger = bridge{log: cfg.Log.With("part", "raft")}
		_, trans := raft.NewInmemTransport("") // raft wants one to spell addresses with
		err = v.bootstrap(conf, trans)
	}
	return errors.Join(err, v.release())
}
