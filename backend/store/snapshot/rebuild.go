package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/shared/fsx"
)

// Rebuilt is what Rebuild has made.
type Rebuilt struct {
	From    string // snapshot
	Entries uint64 // entries applied after it
	State   store.State
}

// applyBatch is how many entries are applied at once.
const applyBatch = 256

// Rebuild makes rows in the directory into, which must not exist, out of the
// checkpoint in a snapshot and the entries of a log after it, up to entry upto.
// It checks the rows that it begins with and those that it ends with. The result
// is durable.
func Rebuild(ctx context.Context, snap, into string, log Reader, upto uint64) (r Rebuilt, err error) {
	info, err := Read(snap)
	if err != nil {
		return r, err
	}
	r.From = info.Name
	if upto < info.Applied {
		return r, fmt.Errorf("snapshot %s is of entry %d, later than %d", info.Name, info.Applied, upto)
	}
	if err := cloneMeta(filepath.Join(snap, metaName), into); err != nil {
		return r, fmt.Errorf("snapshot %s: %w", info.Name, errors.Join(err, os.RemoveAll(into)))
	}
	if err := rebuild(ctx, info, into, log, upto, &r); err != nil {
		return r, fmt.Errorf("snapshot %s: %w", info.Name, err)
	}
	return r, nil
}

// FromStart is Rebuild without a snapshot, from the first entry of a log that
// nothing was ever removed from.
func FromStart(ctx context.Context, into string, log Reader, upto uint64) (r Rebuilt, err error) {
	if err := os.Mkdir(into, 0o700); err != nil {
		return r, err
	}
	return r, rebuild(ctx, &Info{Digest: store.Sum{}.String()}, into, log, upto, &r)
}

// rebuild brings the rows in a directory up to date, or removes it.
func rebuild(ctx context.Context, info *Info, into string, log Reader, upto uint64, r *Rebuilt) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(into))
		}
	}()
	var failed error
	rows, err := store.Open(into, nil, store.Options{OnDiskFailure: func(err error) { failed = errors.Join(failed, err) }})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, rows.Close(), failed)
		if err == nil {
			err = fsx.OS.SyncDir(filepath.Dir(into))
		}
	}()
	if sum, err := rows.Verify(); err != nil || sum.String() != info.Digest {
		return errors.Join(fmt.Errorf("its rows have the digest %v, not %s: %w", sum, info.Digest, ErrDamaged), err)
	}
	if err := replay(ctx, rows, log, info.Applied, upto, r); err != nil {
		return err
	}
	if _, err := rows.Verify(); err != nil {
		return err
	}
	if r.State, err = rows.State(); err != nil {
		return err
	}
	return rows.Flush()
}

// replay applies the entries after one up to another.
func replay(ctx context.Context, rows *store.Store, log Reader, after, upto uint64, r *Rebuilt) error {
	var fatal error
	machine, err := fsm.New(fsm.Config{Store: rows, Fatal: func(err error) { fatal = err }})
	if err != nil {
		return err
	}
	defer machine.Close()
	batch := make([]fsm.Entry, 0, applyBatch)
	for index := after + 1; index <= upto; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		term, data, err := log.Command(index, nil)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if len(data) > 0 {
			batch = append(batch, fsm.Entry{Index: index, Term: term, Data: data})
			r.Entries++
		}
		if len(batch) == cap(batch) || index == upto {
			machine.Apply(batch)
			clear(batch)
			batch = batch[:0]
		}
		if fatal != nil {
			return fatal
		}
	}
	return nil
}

// cloneMeta makes a directory of rows that may be written to out of one that
// must stay. Nothing is shared: damage to one must not be damage to the other.
func cloneMeta(from, into string) error {
	if err := os.Mkdir(into, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, d := range names {
		if !d.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(from, d.Name()), filepath.Join(into, d.Name())); err != nil {
			return err
		}
	}
	return fsx.OS.SyncDir(into)
}

// copyFile copies a file, durable but for its name.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}

// Newest rebuilds rows from the newest of the snapshots in dir that is of entry
// from or an earlier one. Older ones are tried when a newer one is damaged.
func Newest(ctx context.Context, dir, into string, log Reader, from, upto uint64) (Rebuilt, error) {
	list, err := List(dir)
	if err != nil {
		return Rebuilt{}, err
	}
	var tried error
	for _, info := range slices.Backward(list) {
		if info.Applied > from {
			continue
		}
		r, err := Rebuild(ctx, filepath.Join(dir, info.Name), into, log, upto)
		if err == nil || ctx.Err() != nil {
			return r, err
		}
		tried = errors.Join(tried, err)
	}
	if tried == nil {
		tried = fmt.Errorf("of entry %d or before: %w", from, ErrNotFound)
	}
	return Rebuilt{}, tried
}

// CopyOut copies the snapshot in a directory to another place, complete and
// durable, with every octet its own. The place must not exist.
func CopyOut(ctx context.Context, from, to string) error {
	info, err := Read(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return fmt.Errorf("snapshot %s: %w", info.Name, err)
	}
	err = copyTree(ctx, info, from, to)
	if err == nil {
		err = copyFile(filepath.Join(from, infoName), filepath.Join(to, infoName))
	}
	if err == nil {
		err = errors.Join(fsx.OS.SyncDir(to), fsx.OS.SyncDir(filepath.Dir(to)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("snapshot %s: copy: %w", info.Name, err), os.RemoveAll(to))
	}
	return nil
}

func copyTree(ctx context.Context, info *Info, from, to string) error {
	for _, sub := range []string{metaName, logName} {
		if err := os.Mkdir(filepath.Join(to, sub), 0o700); err != nil {
			return err
		}
	}
	for _, f := range info.Files {
		name := filepath.FromSlash(f.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file name %q: %w", f.Name, ErrDamaged)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return errors.Join(fsx.OS.SyncDir(filepath.Join(to, metaName)), fsx.OS.SyncDir(filepath.Join(to, logName)))
}

// Unpack puts rows and log of a snapshot into the directory of a replica, where
// neither may be. What raft needs is the caller's business.
func Unpack(ctx context.Context, snap, dir string) (*Info, error) {
	info, err := Read(snap)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{metaName, logName} {
		if _, err := os.Lstat(filepath.Join(dir, sub)); err == nil {
			return nil, fmt.Errorf("%s is there already: %w", filepath.Join(dir, sub), ErrExists)
		}
	}
	if err := fsx.MkdirAllSync(fsx.OS, dir, 0o700); err != nil {
		return nil, err
	}
	if err := copyTree(ctx, info, snap, dir); err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", info.Name, err)
	}
	return info, fsx.OS.SyncDir(dir)
}
