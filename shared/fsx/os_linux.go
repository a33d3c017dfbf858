package fsx

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxVec is the kernel's limit of buffers in one call (IOV_MAX).
const maxVec = 1024

// iovecs is the scratch space of vectored writes to one file.
type iovecs struct{ vec []unix.Iovec }

// writeAt writes all of bufs from off on.
func (v *iovecs) writeAt(f *os.File, bufs [][]byte, off int64) (int, error) {
	v.vec = v.vec[:0]
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		iov := unix.Iovec{Base: unsafe.SliceData(b)}
		iov.SetLen(len(b))
		v.vec = append(v.vec, iov)
	}
	defer clear(v.vec) // keep no caller's buffer alive
	fd, total, rest := f.Fd(), 0, v.vec
	for len(rest) > 0 {
		// Linux takes the offset in two halves and ignores the high one on
		// 64-bit machines, where the low one has all of it.
		pos := uint64(off) + uint64(total)
		n, _, errno := unix.Syscall6(unix.SYS_PWRITEV, fd, uintptr(unsafe.Pointer(&rest[0])),
			uintptr(min(len(rest), maxVec)), uintptr(pos), uintptr(pos>>32), 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return total, &os.PathError{Op: "pwritev", Path: f.Name(), Err: errno}
		case n == 0:
			return total, &os.PathError{Op: "pwritev", Path: f.Name(), Err: io.ErrUnexpectedEOF}
		}
		total += int(n)
		rest = advance(rest, uint64(n))
	}
	return total, nil
}

// advance drops the first n bytes of vec.
func advance(vec []unix.Iovec, n uint64) []unix.Iovec {
	for len(vec) > 0 && n >= vec[0].Len {
		n -= vec[0].Len
		vec = vec[1:]
	}
	if n > 0 {
		vec[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(vec[0].Base), n))
		vec[0].Len -= n
	}
	return vec
}

func datasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return wrapPath("fdatasync", f, err)
		}
	}
}

func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if err != unix.EINTR {
			return wrapPath("fallocate", f, err)
		}
	}
}

func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return ErrLocked
	}
	return err
}

func wrapPath(op string, f *os.File, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.Name(), Err: err}
}

// full marks an error that means a full device or quota with ErrNoSpace.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
