package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/shared/fsx"
)

// ErrCrashed is returned by every operation after the crash point.
var ErrCrashed = errors.New("faultfs: crashed")

// Kind is a kind of operation.
type Kind int

// The kinds of operation that are counted.
const (
	Create Kind = iota
	Write
	Sync
	Allocate
	Truncate
	Rename
	Link
	Remove
	Mkdir
	SyncDir
	kinds
)

var kindNames = [kinds]string{"create", "write", "sync", "allocate", "truncate", "rename", "link", "remove", "mkdir", "syncdir"}

func (k Kind) String() string { return kindNames[k] }

// FS is a file system in memory. Its methods may be called from several
// goroutines.
type FS struct {
	mu       sync.Mutex // guards everything below and all nodes
	root     *node
	journal  []change // changes of names that no SyncDir has covered
	rng      *rand.Rand
	ops      int
	byKind   [kinds]int
	crashAt  int // 0: never
	failures map[int]error
	kindFail [kinds]map[int]error
	capacity int64 // 0: unlimited
	written  int64
}

var _ fsx.FS = (*FS)(nil)

// node is a file or a directory.
type node struct {
	dir     bool
	entries map[string]*node // as seen by the program
	onDisk  map[string]*node // as synced

	data    []byte // as seen by the program
	stable  []byte // as synced
	pending []update
	locked  bool
}

// update is an unsynced change of a file's content: a write, or if data is nil
// a change of size.
type update struct {
	off  int64
	data []byte
	grow bool // a size change that never shrinks
}

// change is an unsynced change of names; its parts happen together.
type change []entry

type entry struct {
	dir  *node
	name string
	to   *node // nil: removed
}

// New returns an empty file system. The seed decides how far a failing write
// gets.
func New(seed uint64) *FS {
	return &FS{root: newDir(), rng: rand.New(rand.NewPCG(seed, 0)), failures: map[int]error{}}
}

func newDir() *node {
	return &node{dir: true, entries: map[string]*node{}, onDisk: map[string]*node{}}
}

// Ops returns the number of operations so far.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Count returns the number of operations of one kind so far.
func (f *FS) Count(k Kind) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byKind[k]
}

// Written returns the number of bytes written so far.
func (f *FS) Written() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.written
}

// CrashAfter lets n operations happen, counted from New, and fails everything
// after them with ErrCrashed.
func (f *FS) CrashAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = n
	if n == 0 {
		f.crashAt = -1
	}
}

// FailAt makes the n-th operation, counted from New, fail with err. A failing
// write may have been done in part.
func (f *FS) FailAt(n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[n] = err
}

// FailNext makes the n-th operation of one kind from now on fail with err;
// n = 1 is the next one.
func (f *FS) FailNext(k Kind, n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kindFail[k] == nil {
		f.kindFail[k] = map[int]error{}
	}
	f.kindFail[k][f.byKind[k]+n] = err
}

// SetCapacity limits the sum of the file sizes, in bytes. Beyond it writes and
// Allocate fail with fsx.ErrNoSpace; writes inside an allocated size do not.
func (f *FS) SetCapacity(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = n
}

// begin counts an operation and returns the failure arranged for it.
func (f *FS) begin(k Kind) error {
	if f.crashed() {
		return ErrCrashed
	}
	f.ops++
	f.byKind[k]++
	if err := f.failures[f.ops]; err != nil {
		return err
	}
	return f.kindFail[k][f.byKind[k]]
}

func (f *FS) crashed() bool {
	return f.crashAt < 0 || f.crashAt > 0 && f.ops >= f.crashAt
}

// walk finds a node; split finds the directory of a name.
func (f *FS) walk(name string) (*node, error) {
	n := f.root
	for _, part := range strings.Split(path.Clean("/"+filepath.ToSlash(name)), "/") {
		if part == "" {
			continue
		}
		next := n.entries[part]
		if !n.dir || next == nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		n = next
	}
	return n, nil
}

func (f *FS) split(name string) (*node, string, error) {
	clean := path.Clean("/" + filepath.ToSlash(name))
	dir, err := f.walk(path.Dir(clean))
	if err == nil && !dir.dir {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a directory")}
	}
	return dir, path.Base(clean), err
}

// commit makes a change of names visible and remembers it as unsynced.
func (f *FS) commit(c change) {
	for _, e := range c {
		set(e.dir.entries, e)
	}
	f.journal = append(f.journal, c)
}

func set(entries map[string]*node, e entry) {
	if e.to == nil {
		delete(entries, e.name)
	} else {
		entries[e.name] = e.to
	}
}

// OpenFile implements fsx.FS.
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (fsx.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed() {
		return nil, ErrCrashed
	}
	dir, base, err := f.split(name)
	if err != nil {
		return nil, err
	}
	n := dir.entries[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case n == nil:
		if err := f.begin(Create); err != nil {
			return nil, err
		}
		n = &node{}
		f.commit(change{{dir, base, n}})
	case flag&(os.O_CREATE|os.O_EXCL) == os.O_CREATE|os.O_EXCL:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case n.dir:
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("is a directory")}
	case flag&os.O_TRUNC != 0:
		if err := f.begin(Truncate); err != nil {
			return nil, err
		}
		n.update(update{})
	}
	return &file{fs: f, node: n, name: name, write: flag&(os.O_WRONLY|os.O_RDWR) != 0}, nil
}

// Rename implements fsx.FS.
func (f *FS) Rename(oldname, newname string) error {
	return f.move(Rename, oldname, newname)
}

// Link implements fsx.FS.
func (f *FS) Link(oldname, newname string) error {
	return f.move(Link, oldname, newname)
}

func (f *FS) move(k Kind, oldname, newname string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(k); err != nil {
		return err
	}
	from, oldbase, err := f.split(oldname)
	if err != nil {
		return err
	}
	to, newbase, err := f.split(newname)
	if err != nil {
		return err
	}
	n := from.entries[oldbase]
	if n == nil {
		return &fs.PathError{Op: k.String(), Path: oldname, Err: fs.ErrNotExist}
	}
	if k == Rename {
		f.commit(change{{from, oldbase, nil}, {to, newbase, n}})
		return nil
	}
	if to.entries[newbase] != nil {
		return &fs.PathError{Op: k.String(), Path: newname, Err: fs.ErrExist}
	}
	f.commit(change{{to, newbase, n}})
	return nil
}

// Remove implements fsx.FS.
func (f *FS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(Remove); err != nil {
		return err
	}
	dir, base, err := f.split(name)
	if err != nil {
		return err
	}
	n := dir.entries[base]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if n.dir && len(n.entries) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: errors.New("directory not empty")}
	}
	f.commit(change{{dir, base, nil}})
	return nil
}

// ReadDir implements fsx.FS.
func (f *FS) ReadDir(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed() {
		return nil, ErrCrashed
	}
	n, err := f.walk(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(n.entries))
	for base := range n.entries {
		names = append(names, base)
	}
	slices.Sort(names)
	return names, nil
}

// MkdirAll implements fsx.FS.
func (f *FS) MkdirAll(name string, _ fs.FileMode) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(Mkdir); err != nil {
		return err
	}
	n := f.root
	for _, part := range strings.Split(path.Clean("/"+filepath.ToSlash(name)), "/") {
		if part == "" {
			continue
		}
		next := n.entries[part]
		if next == nil {
			next = newDir()
			f.commit(change{{n, part, next}})
		}
		if !next.dir {
			return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
		}
		n = next
	}
	return nil
}

// SyncDir implements fsx.FS.
func (f *FS) SyncDir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(SyncDir); err != nil {
		return err
	}
	dir, err := f.walk(name)
	if err != nil {
		return err
	}
	keep := make([]bool, len(f.journal))
	for i, c := range f.journal {
		keep[i] = slices.ContainsFunc(c, func(e entry) bool { return e.dir == dir })
	}
	f.journal = settle(f.journal, keep)
	return nil
}

// settle makes the chosen changes durable, and those before them that concern
// the same names, and returns the others.
func settle(journal []change, keep []bool) []change {
	type key struct {
		dir  *node
		name string
	}
	names := map[key]bool{}
	for i := len(journal) - 1; i >= 0; i-- {
		for _, e := range journal[i] {
			keep[i] = keep[i] || names[key{e.dir, e.name}]
		}
		if keep[i] {
			for _, e := range journal[i] {
				names[key{e.dir, e.name}] = true
			}
		}
	}
	var rest []change
	for i, c := range journal {
		if !keep[i] {
			rest = append(rest, c)
			continue
		}
		for _, e := range c {
			set(e.dir.onDisk, e)
		}
	}
	return rest
}

// Lock implements fsx.FS. Locks do not survive a crash.
func (f *FS) Lock(name string) (io.Closer, error) {
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := h.(*file).node
	if n.locked {
		return nil, fmt.Errorf("lock %s: %w", name, fsx.ErrLocked)
	}
	n.locked = true
	return unlocker{f, n}, nil
}

type unlocker struct {
	fs   *FS
	node *node
}

func (u unlocker) Close() error {
	u.fs.mu.Lock()
	defer u.fs.mu.Unlock()
	u.node.locked = false
	return nil
}
