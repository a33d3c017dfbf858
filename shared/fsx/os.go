package fsx

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// OS is the operating system's file system.
var OS FS = osFS{}

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, full(err)
	}
	return &osFile{File: f}, nil
}

func (osFS) Rename(oldname, newname string) error { return full(os.Rename(oldname, newname)) }
func (osFS) Link(oldname, newname string) error   { return full(os.Link(oldname, newname)) }
func (osFS) Remove(name string) error             { return os.Remove(name) }

func (osFS) MkdirAll(name string, perm fs.FileMode) error { return full(os.MkdirAll(name, perm)) }

func (osFS) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, full(err)
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

type osFile struct {
	*os.File
	mu  sync.Mutex // guards vec
	vec iovecs
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, full(err)
}

func (f *osFile) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	f.mu.Lock()
	n, err := f.vec.writeAt(f.File, bufs, off)
	f.mu.Unlock()
	return n, full(err)
}

func (f *osFile) Sync() error { return full(datasync(f.File)) }

func (f *osFile) Allocate(size int64) error {
	err := allocate(f.File, size)
	if errors.Is(err, errors.ErrUnsupported) {
		err = zeroFill(f.File, size)
	}
	if err != nil {
		return full(fmt.Errorf("allocate %s: %w", f.Name(), err))
	}
	return nil
}

func (f *osFile) Truncate(size int64) error { return full(f.File.Truncate(size)) }

func (f *osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// zeroFill reserves space on a file system that cannot do it otherwise.
func zeroFill(f *os.File, size int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	zero := make([]byte, min(1<<20, max(0, size-fi.Size())))
	for off := fi.Size(); off < size; off += int64(len(zero)) {
		n := min(int64(len(zero)), size-off)
		if _, err := f.WriteAt(zero[:n], off); err != nil {
			return err
		}
	}
	return nil
}
