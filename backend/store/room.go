package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/shared/fsx"
)

// ReserveName is the file that keeps room for rows. Pebble does not know it, and
// a checkpoint does not have it.
const ReserveName = "reserve"

// reserveTables is the room kept, in memtables: one that is being written and the
// one that has filled meanwhile.
const reserveTables = 2

// times are how long what waits for room waits. Tests have shorter ones.
type times struct {
	retry   time.Duration // until a write that found no room is tried again
	compact time.Duration // until a compaction that found none begins again
	stuck   time.Duration // after which Flush and Close do not wait for such a write
}

var waitTimes = times{retry: 100 * time.Millisecond, compact: 10 * time.Second, stuck: time.Second}

// room is a file system whose writes wait for room instead of failing. Pebble
// takes a full disk for the end: it panics when the manifest cannot be written,
// and repeats everything else at once, without an end.
//
// A file that is called reserve keeps room for what is in memory. It is given up
// by the first write of rows, or of the manifest, that finds the disk full, and
// made again as soon as there is room for it. If that was not enough, the write
// waits. A compaction never waits with what it has written so far: it fails, which
// gives its room back, and is begun again later.
//
// Only the directory of the store is concerned. Other errors than "full" go to
// pebble as they come, and so does that of a flush to the disk: after it nobody
// knows what is there.
type room struct {
	vfs.FS
	dir  string
	size int64
	times
	stop chan struct{} // closed when the store is
	done sync.WaitGroup

	gathered atomic.Int64 // octets committed since the first of them waits

	mu        sync.Mutex // guards what follows
	opened    bool       // before, nothing waits
	kept      bool       // the reserve is there
	waiting   int        // writes
	since     time.Time  // when the first of them began to wait
	compacted time.Time  // when a compaction found no room
}

func newRoom(inner vfs.FS, dir string, size int64) *room {
	return &room{FS: inner, dir: filepath.Clean(dir), size: size, times: waitTimes, stop: make(chan struct{})}
}

// Unwrap is how pebble finds the file system of the system.
func (r *room) Unwrap() vfs.FS { return r.FS }

// keep makes the reserve, or finds that there is no room for it.
func (r *room) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened = true
	if !r.reserve() {
		r.regain()
	}
}

// reserve makes the reserve and reports whether it is there. The caller holds mu.
func (r *room) reserve() bool {
	name := r.path(ReserveName)
	f, err := r.FS.Create(name, vfs.WriteCategoryUnspecified)
	if err == nil {
		err = errors.Join(f.Preallocate(0, r.size), f.Close())
	}
	// A file system that cannot reserve has its writes wait, that is all.
	if r.kept = err == nil || !noRoom(err); err != nil {
		_ = r.FS.Remove(name) // best effort: it would be made again
	}
	return r.kept
}

// regain makes the reserve again once there is room for it and nobody waits for
// some. The caller holds mu.
func (r *room) regain() {
	r.done.Go(func() {
		tick := time.NewTicker(10 * r.retry)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-r.stop:
				return
			}
			r.mu.Lock()
			kept := r.waiting == 0 && r.reserve()
			r.mu.Unlock()
			if kept {
				return
			}
		}
	})
}

// low reports whether rows have less room than they should.
func (r *room) low() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.kept || !r.compacted.IsZero() && time.Since(r.compacted) < 3*r.compact
}

// isStuck reports whether a write has waited for room for some time.
func (r *room) isStuck() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting > 0 && time.Since(r.since) >= r.stuck
}

// noRoom reports whether an error means a full disk or quota.
func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, fsx.ErrNoSpace)
}

// patiently does something until it does not find the disk full.
func (r *room) patiently(do func() error) error {
	err := do()
	if err == nil || !noRoom(err) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting++; r.waiting == 1 {
		r.since = time.Now()
		r.gathered.Store(0)
	}
	defer func() { r.waiting-- }()
	for {
		switch {
		case r.kept:
			r.kept = false
			if err := r.FS.Remove(r.path(ReserveName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if r.opened {
				r.regain()
			}
		case !r.opened:
			return err
		default:
			r.mu.Unlock()
			time.Sleep(r.retry)
			r.mu.Lock()
		}
		r.mu.Unlock()
		err = do()
		r.mu.Lock()
		if err == nil || !noRoom(err) {
			return err
		}
	}
}

// compaction does something for one, which is not to wait.
func (r *room) compaction(do func() error) error {
	err := do()
	if err != nil && noRoom(err) {
		r.mu.Lock()
		r.compacted = time.Now()
		r.mu.Unlock()
	}
	return err
}

// begin waits until a compaction may begin to write.
func (r *room) begin() {
	r.mu.Lock()
	wait := time.Duration(0)
	if !r.compacted.IsZero() {
		wait = r.compact - time.Since(r.compacted)
	}
	r.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-r.stop:
		}
	}
}

func (r *room) path(name string) string { return r.FS.PathJoin(r.dir, name) }

// ours reports whether a file is the store's.
func (r *room) ours(name string) bool {
	dir := filepath.Dir(filepath.Clean(name))
	return dir == r.dir || name == r.dir
}

// compacts are the categories of files that are made of other files.
func compacts(c vfs.DiskWriteCategory) bool {
	return c == "pebble-compaction" || c == "pebble-blob-file-rewrite"
}

func (r *room) create(name string, c vfs.DiskWriteCategory, do func() (vfs.File, error)) (f vfs.File, err error) {
	if !r.ours(name) {
		return do()
	}
	how := r.patiently
	if compacts(c) {
		r.begin()
		how = r.compaction
	}
	err = how(func() (err error) { f, err = do(); return err })
	if err != nil {
		return nil, err
	}
	return roomFile{f, how}, nil
}

// Create implements vfs.FS.
func (r *room) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return r.create(name, c, func() (vfs.File, error) { return r.FS.Create(name, c) })
}

// OpenReadWrite implements vfs.FS.
func (r *room) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return r.create(name, c, func() (vfs.File, error) { return r.FS.OpenReadWrite(name, c, o...) })
}

// ReuseForWrite implements vfs.FS.
func (r *room) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return r.create(to, c, func() (vfs.File, error) { return r.FS.ReuseForWrite(from, to, c) })
}

// Link implements vfs.FS.
func (r *room) Link(from, to string) error {
	return r.change(to, func() error { return r.FS.Link(from, to) })
}

// Rename implements vfs.FS.
func (r *room) Rename(from, to string) error {
	return r.change(to, func() error { return r.FS.Rename(from, to) })
}

func (r *room) change(name string, do func() error) error {
	if !r.ours(name) {
		return do()
	}
	return r.patiently(do)
}

// roomFile is a file that is written how the file system says.
type roomFile struct {
	vfs.File
	how func(func() error) error
}

// Write implements vfs.File.
func (f roomFile) Write(p []byte) (n int, err error) {
	err = f.how(func() error {
		k, err := f.File.Write(p[n:])
		n += k
		return err
	})
	return n, err
}

// WriteAt implements vfs.File.
func (f roomFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.how(func() error {
		k, err := f.File.WriteAt(p[n:], off+int64(n))
		n += k
		return err
	})
	return n, err
}

// Preallocate implements vfs.File. It is a favour to the file system.
func (f roomFile) Preallocate(off, length int64) error {
	if err := f.File.Preallocate(off, length); err != nil && !noRoom(err) {
		return err
	}
	return nil
}

// ErrNoRoom says that rows cannot be written to the disk until there is room.
// Nothing is lost: what is in memory is in the log.
var ErrNoRoom = fmt.Errorf("no room for rows: %w", fsx.ErrNoSpace)

// Low reports whether the disk has so little room left that no mail should be
// taken: what there is keeps reading, deleting and the flush of what is in memory
// going.
func (s *Store) Low() bool { return s.room != nil && s.room.low() }

// Full reports whether no change should be taken at all: rows cannot be written,
// and since then half of a memtable has come in. Pebble is not asked: while the
// manifest waits, so do its figures.
func (s *Store) Full() bool {
	return s.room != nil && s.room.isStuck() && s.room.gathered.Load() >= s.room.size/(2*reserveTables)
}
