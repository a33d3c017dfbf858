/*
Package reconstruct gives a replica that does not run its rows back: it makes
them anew from the newest good snapshot and the log after it, says how they
differ from those that are there, and puts them in their place if asked.

	rows as they are      -> readable? consistent? digest
	snapshot + log        -> rows as they should be -> digest
	differ, and to repair -> meta is put aside, the new rows become meta

The rows are brought up to the last entry that is known to be applied: the one
that the rows themselves name, or if they cannot be read that of raft's newest
note or of the newest snapshot.
The entries after it are raft's to apply when the replica runs again. Nothing is
erased: the old rows stay beside the new ones, for an operator to remove.

It also makes the directory of the first replica of a pair out of a snapshot,
when the pair is lost.
*/
package reconstruct

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/snapshot"
	"github.com/postern-mail/postern/cmd/internal/logcopy"
	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/shared/fsx"
)

// Options say what to do with which directory.
type Options struct {
	Dir       string // of the replica
	Snapshots string // "": snapshots below Dir
	Repair    bool
	Now       func() time.Time // time.Now
}

// Report says what was found and done.
type Report struct {
	Dir      string `json:"dir"`
	Pair     string `json:"pair"`
	ID       string `json:"id"`
	Fault    string `json:"fault,omitempty"` // of the rows that are there; "" when they are as they should be
	Applied  uint64 `json:"applied_index"`   // by the rows that are there, 0 if they cannot be read
	Digest   string `json:"digest,omitempty"`
	Target   uint64 `json:"target_index"` // that the new rows are brought up to
	Snapshot string `json:"snapshot"`     // "" when all of the log was replayed
	Entries  uint64 `json:"entries"`      // replayed after it
	New      string `json:"new_digest"`

	Changes  []Change `json:"changes,omitempty"` // that repairing makes, at most MaxChanges
	More     bool     `json:"more_changes,omitempty"`
	Repaired bool     `json:"repaired,omitempty"`
	Aside    string   `json:"aside,omitempty"` // where the old rows are
}

// Change is one mailbox that becomes another one.
type Change struct {
	Account string `json:"account"`
	Mailbox string `json:"mailbox,omitempty"` // "": the account
	Is      string `json:"is"`                // "" when it is not there
	Becomes string `json:"becomes"`           // likewise
}

// MaxChanges bounds the list of a report.
const MaxChanges = 1000

const newName = "meta.new"

// Run checks a directory, and repairs it if asked and needed.
func Run(ctx context.Context, o Options) (r Report, err error) {
	if o.Snapshots == "" {
		o.Snapshots = filepath.Join(o.Dir, "snapshots")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r.Dir = o.Dir
	if r.Pair, r.ID, err = voter.ReadID(fsx.OS, o.Dir); err != nil {
		return r, err
	}
	lock, err := fsx.OS.Lock(filepath.Join(o.Dir, "lock"))
	if err != nil {
		return r, fmt.Errorf("is the replica running? %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	log, err := seglog.Open(seglog.Config{Dir: filepath.Join(o.Dir, "log"), CacheBytes: -1, ReadOnly: true})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	last, err := log.LastIndex()
	if err != nil {
		return r, err
	}
	noted, err := noteOf(o.Dir, r.ID)
	if err != nil {
		return r, err
	}
	if list, err := snapshot.List(o.Snapshots); err == nil && len(list) > 0 {
		noted = max(noted, list[len(list)-1].Applied) // it was in the rows then
	}
	meta := filepath.Join(o.Dir, "meta")
	have, fault := examine(meta)
	r.Applied, r.Target = have.Applied, noted
	if fault == nil && have.Applied > last {
		fault = fmt.Errorf("the rows are of entry %d, the log ends at %d", have.Applied, last)
	}
	if fault == nil && have.Applied < noted {
		fault = fmt.Errorf("the rows are of entry %d, they were once of %d", have.Applied, noted)
	}
	if have.Applied <= last {
		r.Target = max(noted, have.Applied)
	}
	if have.Applied > 0 || fault == nil {
		r.Digest = have.Digest.String()
	}
	built, err := build(ctx, o, log, r.Target)
	if err != nil {
		return r, err
	}
	r.Snapshot, r.Entries, r.New = built.From, built.Entries, built.State.Digest.String()
	if fault == nil && r.New != r.Digest {
		fault = errors.New("the rows are not what the log makes of the snapshot")
	}
	if why, err := os.ReadFile(filepath.Join(o.Dir, damagedName)); err == nil && fault == nil {
		fault = errors.New(string(why))
	}
	fresh := filepath.Join(o.Dir, newName)
	if fault == nil {
		return r, os.RemoveAll(fresh)
	}
	r.Fault = fault.Error()
	if err := r.compare(meta, fresh); err != nil {
		return r, err
	}
	if !o.Repair {
		return r, os.RemoveAll(fresh)
	}
	return r, r.replace(meta, fresh, o.Now())
}

// noteOf returns the entry up to which the rows were once known to be durable.
func noteOf(dir, id string) (uint64, error) {
	notes, err := manifest.Open(fsx.OS, filepath.Join(dir, "raft", "snapshots"), manifest.Data, id, nil)
	if err != nil {
		return 0, err
	}
	note, _, ok, err := notes.Newest()
	if err != nil || !ok {
		return 0, err
	}
	return note.Applied, nil
}

// examine returns what rows say of themselves and what is wrong with them.
func examine(meta string) (st store.State, fault error) {
	if _, err := os.Stat(meta); err != nil {
		return st, errors.New("there are no rows")
	}
	rows, err := store.Open(meta, nil, store.Options{ReadOnly: true})
	if err != nil {
		return st, err
	}
	defer func() { fault = errors.Join(fault, rows.Close()) }()
	if st, err = rows.State(); err != nil {
		return store.State{}, err
	}
	_, err = rows.Verify()
	return st, err
}

// build makes the new rows.
func build(ctx context.Context, o Options, log *seglog.Log, target uint64) (snapshot.Rebuilt, error) {
	fresh := filepath.Join(o.Dir, newName)
	if err := os.RemoveAll(fresh); err != nil {
		return snapshot.Rebuilt{}, err
	}
	r, err := snapshot.Newest(ctx, o.Snapshots, fresh, log, target, target)
	if err == nil || ctx.Err() != nil {
		return r, err
	}
	first := log.Segments()
	if len(first) == 0 || first[0].Base > 1 || first[0].Generation > 0 {
		return r, err
	}
	whole, werr := snapshot.FromStart(ctx, fresh, log, target)
	if werr != nil {
		return r, errors.Join(err, werr)
	}
	return whole, nil
}

// replace puts the new rows in the place of the old ones. A crash in between
// leaves a replica without rows, which does not start, and is repaired again.
func (r *Report) replace(meta, fresh string, now time.Time) error {
	aside := meta + "." + now.UTC().Format("20060102T150405Z")
	err := os.Rename(meta, aside)
	if err == nil {
		r.Aside = aside
		_ = os.Remove(filepath.Join(aside, store.ReserveName)) // room for rows that nobody writes
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = os.Rename(fresh, meta)
	}
	if err == nil {
		err = fsx.OS.SyncDir(filepath.Dir(meta))
	}
	if err == nil {
		if err = os.Remove(filepath.Join(r.Dir, damagedName)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	r.Repaired = err == nil
	return err
}

// compare lists the mailboxes that differ. Rows that cannot be read count as
// not there.
func (r *Report) compare(meta, fresh string) error {
	is, err := contents(meta)
	if err != nil {
		is = map[[2]string]string{}
	}
	becomes, err := contents(fresh)
	if err != nil {
		return err
	}
	for key := range is {
		if _, ok := becomes[key]; !ok {
			becomes[key] = ""
		}
	}
	for _, key := range sorted(becomes) {
		if is[key] == becomes[key] {
			continue
		}
		if len(r.Changes) == MaxChanges {
			r.More = true
			return nil
		}
		r.Changes = append(r.Changes, Change{Account: key[0], Mailbox: key[1], Is: is[key], Becomes: becomes[key]})
	}
	return nil
}

// contents describes each mailbox of rows, by account and name.
func contents(meta string) (map[[2]string]string, error) {
	rows, err := store.Open(meta, nil, store.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	n, err := rows.Snapshot()
	if err != nil {
		return nil, err
	}
	defer n.Close()
	var names []string
	if err := n.Accounts("", func(name string) bool { names = append(names, name); return true }); err != nil {
		return nil, err
	}
	out := map[[2]string]string{}
	for _, name := range names {
		id, err := rows.AccountID(name)
		if err != nil {
			return nil, err
		}
		err = n.Mailboxes(id, func(m *store.Mailbox, c *store.Counters) bool {
			out[[2]string{name, m.Name}] = fmt.Sprintf("%d messages, %d octets, UIDNEXT %d, MODSEQ %d, digest %.12s",
				c.Messages, c.Size, c.UIDNext, c.ModSeq, c.Rows)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sorted returns the keys of m in order.
func sorted(m map[[2]string]string) [][2]string {
	return slices.SortedFunc(maps.Keys(m), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	})
}

// damagedName is a file that says that reading rows has found them damaged.
const damagedName = "meta.damaged"

// NoteDamage remembers, when err says that rows are damaged, that they have to
// be made anew before the replica runs again.
func NoteDamage(dir string, err error) {
	if store.Damaged(err) {
		_ = fsx.WriteFileAtomic(fsx.OS, filepath.Join(dir, damagedName), []byte(err.Error())) // else it is found again
	}
}

// Needed returns why the rows of a replica have to be made anew before it runs,
// "" if they do not have to. open is the error of opening them.
func Needed(dir string, open error) (string, error) {
	if open != nil {
		if store.Damaged(open) {
			return open.Error(), nil
		}
		return "", open
	}
	why, err := os.ReadFile(filepath.Join(dir, damagedName))
	if err == nil {
		return string(why), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return "", nil
}

// Behind returns why rows that were opened have to be made anew: they have less
// than was once known to be in them. "" if they do not.
func Behind(dir string, rows *store.Store) (string, error) {
	st, err := rows.State()
	if store.Damaged(err) {
		return err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	_, id, err := voter.ReadID(fsx.OS, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it is being made
	}
	if err != nil {
		return "", err
	}
	noted, err := noteOf(dir, id)
	if err != nil || noted <= st.Applied {
		return "", err
	}
	return fmt.Sprintf("the rows are of entry %d, raft noted %d", st.Applied, noted), nil
}

// Whole is what Pair has made.
type Whole struct {
	Dir     string `json:"dir"`
	Pair    string `json:"pair"`
	ID      string `json:"id"`
	Applied uint64 `json:"applied_index"`
	Last    uint64 `json:"last_index"`
}

// Pair makes a directory, which must not be there, that of the first replica of
// a pair, out of a snapshot. The group is this replica alone, under a new id; the
// others are added when it runs. No replica of the pair as it was may run again:
// it would not know that it is lost. node and addr are where this one runs.
func Pair(ctx context.Context, snap, dir, pair, node, addr string) (w Whole, err error) {
	if names, err := os.ReadDir(dir); err == nil && len(names) > 0 {
		return w, fmt.Errorf("%s is not empty", dir)
	}
	info, err := snapshot.Read(snap)
	if err != nil {
		return w, err
	}
	var base voter.Base
	if err := json.Unmarshal(info.Raft, &base); err != nil {
		return w, fmt.Errorf("snapshot %s does not say how raft begins: %w", info.Name, err)
	}
	if _, err := snapshot.Verify(ctx, snap, logcopy.Open, logcopy.Check); err != nil {
		return w, err
	}
	if _, err := snapshot.Unpack(ctx, snap, dir); err != nil {
		return w, err
	}
	self := voter.Peer{ID: voter.NewID(), Name: node, Addr: addr}
	if err := voter.Plant(fsx.OS, dir, self.ID, manifest.Data, base); err != nil {
		return w, err
	}
	if err := voter.WriteID(fsx.OS, dir, pair, self.ID); err != nil {
		return w, err
	}
	rec, err := voter.RecoverAlone(voter.Config{
		Dir: dir, Pair: pair, ID: self.ID, Peers: []voter.Peer{self}, OnFatal: func(error) {},
	}, manifest.Data, info.Applied)
	return Whole{Dir: dir, Pair: pair, ID: self.ID, Applied: info.Applied, Last: rec.Last}, err
}
