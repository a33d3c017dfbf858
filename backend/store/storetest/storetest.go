/*
Package storetest gives tests a file system for package store that loses what
was not synced, as a power cut does.

	disk := storetest.NewDisk()
	disk.Watch(func(op int) { ... disk.Crash(percent, seed) ... })
	store.Open("meta", nil, store.Options{FS: disk.FS()})

The names in a directory become durable with the sync of the directory, and
with that of a file in it: the journals of ext4, XFS and btrfs keep what was
done before a file's sync. Pebble relies on it when it replaces its manifest.
*/
package storetest

import (
	"hash/maphash"
	"io"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/postern-mail/postern/backend/store"
)

// Disk is a file system in memory.
type Disk struct {
	fs *vfs.MemFS

	mu    sync.Mutex // guards what follows, and held during watch
	ops   int
	watch func(op int)
}

// NewDisk returns an empty disk.
func NewDisk() *Disk { return &Disk{fs: vfs.NewCrashableMem()} }

// FS is for store.Options.
func (d *Disk) FS() store.FS { return errorfs.Wrap(d.fs, errorfs.InjectorFunc(d.before)) }

// Watch has f called before each operation that changes the disk or makes a
// change durable, one call at a time, with the number of operations so far.
// The store waits for it; f may call Crash. Nil ends it.
func (d *Disk) Watch(f func(op int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch = f
}

// before is asked by the file system before each operation.
func (d *Disk) before(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRemove, errorfs.OpRemoveAll, errorfs.OpRename, errorfs.OpReuseForWrite,
		errorfs.OpMkdirAll, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
	default:
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watch != nil {
		d.watch(d.ops)
	}
	d.ops++
	if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
		return d.syncNames(d.fs.PathDir(op.Path))
	}
	return nil
}

func (d *Disk) syncNames(dir string) error {
	f, err := d.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Crash returns the disk as it may be found after a power cut now: with
// everything that was synced, and of the rest each piece with a probability of
// percent, chosen by seed. The old disk goes on.
func (d *Disk) Crash(percent int, seed uint64) *Disk {
	rng := rand.New(rand.NewPCG(seed, 0))
	return &Disk{fs: d.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})}
}

var hashSeed = maphash.MakeSeed()

// Sum is a hash of all names and contents, to tell states of disks of one
// process apart.
func (d *Disk) Sum() (uint64, error) {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	err := d.sum(&h, "")
	return h.Sum64(), err
}

func (d *Disk) sum(h *maphash.Hash, dir string) error {
	names, err := d.fs.List(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		path := d.fs.PathJoin(dir, name)
		h.WriteString(path)
		h.WriteByte(0)
		info, err := d.fs.Stat(path)
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := d.sum(h, path); err != nil {
				return err
			}
			continue
		}
		f, err := d.fs.Open(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		h.WriteByte(1)
	}
	return nil
}
