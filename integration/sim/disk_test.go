package sim

import (
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/postern-mail/postern/backend/store/storetest"
	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// disk is what a host stores: files of our own, and those of the rows.
type disk struct {
	files *faultfs.FS
	rows  *storetest.Disk
}

func newDisk(seed uint64) disk { return disk{faultfs.New(seed), storetest.NewDisk()} }

// How a process can end, as far as its disk is concerned.
const (
	loseNothing  = 1 // the process was killed: the system has what it wrote
	loseUnsynced = 0 // of faultfs: the power was cut, and nothing was written in time
)

// mount is a disk as one process sees it. Operations of fsx on it can be slow,
// or fail, for files of the log. It can be cut off at one moment.
type mount struct {
	disk disk
	gate sync.RWMutex // read: an operation; write: the moment of the end

	stall   atomic.Int64 // how long the next flushes of the log take, in nanoseconds
	failing atomic.Bool  // the next flush of the log fails
	failed  atomic.Bool  // one did
}

func newMount(d disk) *mount { return &mount{disk: d} }

var _ fsx.FS = (*mount)(nil)

// crash returns the disk as it is found later, by seed. Rows that are there
// have their entries in the log, and notes in files their rows: no operation on
// files runs while both are looked at.
func (m *mount) crash(seed uint64) disk {
	m.gate.Lock()
	defer m.gate.Unlock()
	percent := int(seed % 101)
	switch seed {
	case loseNothing:
		percent = 100
	case loseUnsynced:
		percent = 0
	}
	after := disk{files: m.disk.files.Crash(seed)}
	if m.disk.rows != nil { // a relay has none
		after.rows = m.disk.rows.Crash(percent, seed)
	}
	return after
}

// mountFile is an open file.
type mountFile struct {
	fsx.File
	m     *mount
	log   bool        // a segment of the log
	batch atomic.Bool // the last thing that was written is a batch of entries
}

func (m *mount) OpenFile(name string, flag int, perm fs.FileMode) (fsx.File, error) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	f, err := m.disk.files.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &mountFile{File: f, m: m, log: strings.Contains(name, "/log/")}, nil
}

func (m *mount) Rename(a, b string) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.Rename(a, b)
}

func (m *mount) Link(a, b string) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.Link(a, b)
}

func (m *mount) Remove(name string) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.Remove(name)
}

func (m *mount) ReadDir(name string) ([]string, error) { return m.disk.files.ReadDir(name) }

func (m *mount) MkdirAll(name string, perm fs.FileMode) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.MkdirAll(name, perm)
}

func (m *mount) SyncDir(name string) error {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.SyncDir(name)
}

func (m *mount) Lock(name string) (io.Closer, error) {
	m.gate.RLock()
	defer m.gate.RUnlock()
	return m.disk.files.Lock(name)
}

func (f *mountFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.gate.RLock()
	defer f.m.gate.RUnlock()
	f.batch.Store(false)
	return f.File.WriteAt(p, off)
}

func (f *mountFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	f.m.gate.RLock()
	defer f.m.gate.RUnlock()
	f.batch.Store(true)
	return f.File.WriteVecAt(bufs, off)
}

// Sync of a batch of entries is where a disk shows that it is slow or broken.
// Raft's one goroutine for its log waits here, with no lock that others want: in
// virtual time a goroutine that waits for a lock would stop the clock.
func (f *mountFile) Sync() error {
	if f.log && f.batch.Load() {
		for waited := int64(0); waited < f.m.stall.Load(); waited += int64(stallStep) {
			time.Sleep(stallStep)
		}
		if f.m.failing.CompareAndSwap(true, false) {
			f.m.failed.Store(true)
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: syscall.EIO}
		}
	}
	f.m.gate.RLock()
	defer f.m.gate.RUnlock()
	return f.File.Sync()
}

// stallStep is how often a flush that is held up looks whether it still is.
const stallStep = 10 * time.Millisecond

func (f *mountFile) Allocate(size int64) error {
	f.m.gate.RLock()
	defer f.m.gate.RUnlock()
	f.batch.Store(false)
	return f.File.Allocate(size)
}

func (f *mountFile) Truncate(size int64) error {
	f.m.gate.RLock()
	defer f.m.gate.RUnlock()
	return f.File.Truncate(size)
}
