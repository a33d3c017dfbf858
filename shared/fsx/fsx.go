package fsx

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoSpace is returned, wrapped, when a device or a quota is full.
var ErrNoSpace = errors.New("no space left")

// ErrLocked is returned, wrapped, when another process holds a lock file.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Its methods may be called at the same time from several
// goroutines. Errors about names wrap fs.ErrNotExist and fs.ErrExist.
type FS interface {
	// OpenFile opens or creates a file with the flags of package os. O_APPEND
	// is not supported: all writing is by offset.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// Rename gives a file a new name, replacing what had it.
	Rename(oldname, newname string) error
	// Link gives a file a second name; it fails if newname exists.
	Link(oldname, newname string) error
	// Remove removes a name, or an empty directory.
	Remove(name string) error
	// ReadDir lists the names in a directory in ascending order.
	ReadDir(name string) ([]string, error)
	// MkdirAll makes a directory and those above it. The new names are durable
	// after SyncDir of the directories that hold them.
	MkdirAll(name string, perm fs.FileMode) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Lock creates name if need be and takes an exclusive lock on it that ends
	// with Close or with the process. It does not wait: ErrLocked.
	Lock(name string) (io.Closer, error)
}

// File is an open file. ReadAt may be called during any other method; writers
// to one file keep out of each other's way themselves.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// WriteVecAt writes bufs one after the other from off on, with one system
	// call where the system can. It may change the elements of bufs.
	WriteVecAt(bufs [][]byte, off int64) (int, error)
	// Sync makes all data written, and the size, durable.
	Sync() error
	// Allocate reserves the first size bytes and makes the file at least that
	// long; bytes never written read as zero. A full disk is ErrNoSpace.
	Allocate(size int64) error
	// Truncate sets the size.
	Truncate(size int64) error
	// Size returns the present size in bytes.
	Size() (int64, error)
	// Name returns the name that the file was opened with.
	Name() string
}

// Create makes a new file for reading and writing. It fails with fs.ErrExist
// if the name is taken.
func Create(fsys FS, name string) (File, error) {
	return fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// Open opens an existing file for reading.
func Open(fsys FS, name string) (File, error) {
	return fsys.OpenFile(name, os.O_RDONLY, 0)
}

// ReadFile returns the whole of a file.
func ReadFile(fsys FS, name string) ([]byte, error) { return ReadFileInto(fsys, name, nil) }

// ReadFileInto is ReadFile into buf, whose octets are lost; it grows if need be.
func ReadFileInto(fsys FS, name string, buf []byte) ([]byte, error) {
	f, err := Open(fsys, name)
	if err != nil {
		return buf[:0], err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return buf[:0], err
	}
	if int64(cap(buf)) < size || buf == nil {
		buf = make([]byte, size)
	}
	n, err := f.ReadAt(buf[:size], 0)
	if err == io.EOF {
		err = nil
	}
	return buf[:n], err
}

// tempSuffix marks the file that WriteFileAtomic has not renamed yet.
const tempSuffix = ".tmp"

// IsTemp reports whether name is one that a crash during WriteFileAtomic can
// leave behind. Such a file holds nothing that was promised; remove it.
func IsTemp(name string) bool { return filepath.Ext(name) == tempSuffix }

// WriteFileAtomic replaces the content of name. After nil the new content is
// durable; after an error or a crash name has either the old or the new
// content, whole. There is one writer to a name at a time.
func WriteFileAtomic(fsys FS, name string, data []byte) error {
	return WriteAtomic(fsys, name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteAtomic is WriteFileAtomic of what write writes, in pieces as they come.
// An error of write ends it.
func WriteAtomic(fsys FS, name string, write func(io.Writer) error) error {
	tmp := name + tempSuffix
	f, err := fsys.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = write(&appender{f: f})
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		_ = fsys.Remove(tmp) // best effort: IsTemp finds it later
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// appender writes to a file one piece behind the other.
type appender struct {
	f  File
	at int64
}

func (a *appender) Write(b []byte) (int, error) {
	n, err := a.f.WriteAt(b, a.at)
	a.at += int64(n)
	return n, err
}

// MkdirAllSync makes a directory and those above it and makes the names
// durable. A directory that a killed process made last may exist and not be
// durable; so the name of the lowest one that exists is made durable too.
func MkdirAllSync(fsys FS, name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	missing := []string{}
	dir := name
	for dir != filepath.Dir(dir) {
		if _, err := fsys.ReadDir(dir); err == nil {
			break
		}
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err // what is not ours to read was not made by us
	}
	for _, dir := range slices.Backward(missing) {
		if err := fsys.MkdirAll(dir, perm); err != nil {
			return err
		}
		if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}
