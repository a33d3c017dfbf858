/*
Package snapshot makes, keeps, checks and opens snapshots of a replica: its rows
and its log at one moment. A backup is a snapshot with another purpose.

	<dir>/<name>/
	    meta/          a checkpoint of the rows, as of entry Applied; octets of its own
	    log/           the log up to entry Last: sealed segments are hard links
	    snapshot.json  what it holds; written last, so that it says the rest is there

What the package keeps true:

  - A snapshot with its snapshot.json is complete and durable, and never changes.
    One without is what a crash left, and is removed.
  - The octets of every message in meta are in log: no segment is replaced from
    before the checkpoint is made until the files have their second name.
  - As long as a segment is also in the log it takes no space here, and none is
    copied but the one being written.

Rows are brought up to date from a checkpoint and the log after it (Rebuild),
which is how a replica with damaged rows comes back, and how one finds out
whether its rows are what its own log says. So compaction spares all entries
after the oldest snapshot kept.

Package snapshot decides nothing about raft: what a whole pair needs to begin
again from a snapshot it keeps for others as Info.Raft.
*/
package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/fsx"
)

// Errors that callers test for. They come wrapped.
var (
	ErrNotFound = errors.New("no such snapshot")
	ErrExists   = errors.New("snapshot exists")
	ErrName     = errors.New("not a name for a snapshot")
	ErrDamaged  = errors.New("snapshot is damaged")
)

// Log is the log of the replica, as far as snapshots need it.
type Log interface {
	// Hold keeps files from being replaced until release.
	Hold() (release func())
	// CopyTo puts the files of the log into an empty directory, by hard links
	// where it can, and returns the last entry in them.
	CopyTo(dir string) (last uint64, err error)
}

// Info describes a snapshot.
type Info struct {
	Version  int             `json:"version"`
	Name     string          `json:"name"`
	Pair     string          `json:"pair"`
	Node     string          `json:"node"`
	Created  time.Time       `json:"created"`
	Kept     bool            `json:"kept,omitempty"` // made by hand: the schedule does not remove it
	Applied  uint64          `json:"applied"`
	Term     uint64          `json:"term"`
	Last     uint64          `json:"last"`
	Digest   string          `json:"digest"`
	Messages uint64          `json:"messages"`
	Bytes    uint64          `json:"bytes"`
	Files    []File          `json:"files"`
	Raft     json.RawMessage `json:"raft,omitempty"`
}

// File is one file of a snapshot.
type File struct {
	Name string `json:"name"` // below the snapshot
	Size int64  `json:"size"`
}

const (
	version  = 2 // newest; 1 for pairs on level 1 of the format
	lowest   = 1
	infoName = "snapshot.json"
	metaName = "meta"
	logName  = "log"
)

// Keeper keeps the snapshots of one replica in one directory, which is on the
// file system of the log. Its methods may be called from several goroutines;
// snapshots are made one at a time.
type Keeper struct {
	Dir  string
	Pair string
	Node string
	Log  Log
	Rows *store.Store
	// Raft returns what another member would begin with; it is asked before
	// the rows are copied. Nil: nothing is kept.
	Raft func() (json.RawMessage, error)
	Now  func() time.Time // time.Now

	mu    sync.Mutex // held while snapshots are made or removed
	users sync.Map   // name -> struct{}: open, not to be removed
}

// nameForm is how snapshots made by the schedule are called, in UTC.
const nameForm = "20060102T150405Z"

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Create makes a snapshot. Without a name it is called by the time; with kept
// set only Remove takes it away again.
func (k *Keeper) Create(name string, kept bool) (*Info, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.Now != nil {
		now = k.Now()
	}
	if name == "" {
		name = now.UTC().Format(nameForm)
	}
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("snapshot %q: %w", name, ErrName)
	}
	dir := filepath.Join(k.Dir, name)
	if _, err := os.Stat(dir); err == nil {
		return nil, fmt.Errorf("snapshot %s: %w", name, ErrExists)
	}
	if err := fsx.MkdirAllSync(fsx.OS, dir, 0o700); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	info := &Info{Version: lowest, Name: name, Pair: k.Pair, Node: k.Node, Created: now.UTC(), Kept: kept}
	if err := k.fill(dir, info); err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", name, err), os.RemoveAll(dir))
	}
	return info, nil
}

// fill writes everything, the description last.
func (k *Keeper) fill(dir string, info *Info) (err error) {
	release := k.Log.Hold()
	defer release()
	if k.Raft != nil {
		if info.Raft, err = k.Raft(); err != nil {
			return err
		}
	}
	meta := filepath.Join(dir, metaName)
	if err := k.Rows.Checkpoint(meta); err != nil {
		return err
	}
	if info.Last, err = k.Log.CopyTo(filepath.Join(dir, logName)); err != nil {
		return err
	}
	release()
	if err := unshare(meta); err != nil {
		return err
	}
	st, err := stateOf(meta)
	if err != nil {
		return err
	}
	if st.Format > 1 { // a release before could read the rows and not the log
		info.Version = version
	}
	if info.Last < st.Applied {
		return fmt.Errorf("the log ends at entry %d, the rows at %d", info.Last, st.Applied)
	}
	info.Applied, info.Term, info.Digest = st.Applied, st.Term, st.Digest.String()
	info.Messages, info.Bytes = st.Messages, st.Bytes
	if info.Files, err = files(dir); err != nil {
		return err
	}
	for _, d := range []string{meta, filepath.Join(dir, logName), dir} {
		if err := fsx.OS.SyncDir(d); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	return fsx.WriteFileAtomic(fsx.OS, filepath.Join(dir, infoName), append(data, '\n'))
}

// unshare gives the checkpoint octets of its own: what damages the rows must not
// damage that from which they are made anew. Segments stay shared, since the
// other replica has the same.
func unshare(meta string) error {
	names, err := os.ReadDir(meta)
	if err != nil {
		return err
	}
	for _, d := range names {
		if !d.Type().IsRegular() {
			continue
		}
		name := filepath.Join(meta, d.Name())
		if err := copyFile(name, name+".own"); err != nil {
			return err
		}
		if err := os.Rename(name+".own", name); err != nil {
			return err
		}
	}
	return nil
}

// stateOf reads what a checkpoint says of itself.
func stateOf(meta string) (store.State, error) {
	rows, err := store.Open(meta, nil, readOptions())
	if err != nil {
		return store.State{}, err
	}
	st, err := rows.State()
	return st, errors.Join(err, rows.Close())
}

// readOptions are for checkpoints: small, and nothing is written.
func readOptions() store.Options {
	return store.Options{ReadOnly: true, CacheSize: 8 << 20, MemTableSize: 1 << 20}
}

// files lists the files of a snapshot.
func files(dir string) (out []File, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == infoName {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		out = append(out, File{Name: filepath.ToSlash(name), Size: info.Size()})
		return err
	})
	return out, err
}

// Read returns the description of the snapshot in a directory.
func Read(dir string) (*Info, error) {
	data, err := os.ReadFile(filepath.Join(dir, infoName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("snapshot %s: %w", dir, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	info := new(Info)
	if err := json.Unmarshal(data, info); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w: %w", dir, ErrDamaged, err)
	}
	if info.Version < lowest || info.Version > version {
		return nil, fmt.Errorf("snapshot %s: version %d, this program reads %d to %d", dir, info.Version, lowest, version)
	}
	return info, nil
}

// List returns the complete snapshots, the oldest first.
func (k *Keeper) List() ([]*Info, error) { return List(k.Dir) }

// List returns the complete snapshots in a directory, the oldest first.
func List(dir string) ([]*Info, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	var out []*Info
	for _, d := range names {
		info, err := Read(filepath.Join(dir, d.Name()))
		if errors.Is(err, ErrNotFound) || !d.IsDir() {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b *Info) int {
		if a.Applied != b.Applied {
			return int(int64(a.Applied - b.Applied))
		}
		return a.Created.Compare(b.Created)
	})
	return out, nil
}

// Oldest returns the entry from which on the log is needed whole to bring the
// oldest snapshot up to date, 0 if there is none.
func (k *Keeper) Oldest() (uint64, error) {
	list, err := k.List()
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Applied, nil
}

// Prune removes what a crash left and, of the snapshots that the schedule made,
// all but the newest keep. One that is open stays until the next time.
func (k *Keeper) Prune(keep int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	names, err := os.ReadDir(k.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	for _, d := range names {
		if _, err := Read(filepath.Join(k.Dir, d.Name())); d.IsDir() && errors.Is(err, ErrNotFound) {
			if err := os.RemoveAll(filepath.Join(k.Dir, d.Name())); err != nil {
				return fmt.Errorf("snapshot: %w", err)
			}
		}
	}
	list, err := List(k.Dir)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i *Info) bool { return i.Kept })
	for len(list) > max(keep, 1) {
		if _, open := k.users.Load(list[0].Name); !open {
			if err := remove(k.Dir, list[0].Name); err != nil {
				return err
			}
		}
		list = list[1:]
	}
	return nil
}

// Remove removes a snapshot.
func (k *Keeper) Remove(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	dir, err := k.Path(name)
	if err != nil {
		return err
	}
	if _, err := Read(dir); err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	if _, open := k.users.Load(name); open {
		return fmt.Errorf("snapshot %s is being read", name)
	}
	return remove(k.Dir, name)
}

// remove takes the description away first, so that a crash leaves a remnant
// and not half a snapshot.
func remove(dir, name string) error {
	dir = filepath.Join(dir, name)
	err := os.Remove(filepath.Join(dir, infoName))
	if err == nil {
		err = fsx.OS.SyncDir(dir)
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("snapshot: remove %s: %w", name, err)
	}
	return nil
}

// Path returns the directory of a snapshot of this replica.
func (k *Keeper) Path(name string) (string, error) {
	if !validName.MatchString(name) || strings.Contains(name, "..") {
		return "", fmt.Errorf("snapshot %q: %w", name, ErrName)
	}
	return filepath.Join(k.Dir, name), nil
}
