//go:build !linux

package fsx

import (
	"errors"
	"os"
)

// iovecs has no state here: the buffers are written one by one.
type iovecs struct{}

func (iovecs) writeAt(f *os.File, bufs [][]byte, off int64) (int, error) {
	total := 0
	for _, b := range bufs {
		n, err := f.WriteAt(b, off+int64(total))
		total += n
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func datasync(f *os.File) error             { return f.Sync() }
func allocate(f *os.File, size int64) error { return errors.ErrUnsupported }
func lock(f *os.File) error                 { return nil }
func full(err error) error                  { return err }
