package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/postern-mail/postern/shared/fsx"
)

type file struct {
	fs     *FS
	node   *node
	name   string
	write  bool
	closed bool
}

var _ fsx.File = (*file)(nil)

func (h *file) Name() string { return h.name }

func (h *file) usable() error {
	switch {
	case h.closed:
		return &fs.PathError{Op: "use", Path: h.name, Err: fs.ErrClosed}
	case h.fs.crashed():
		return ErrCrashed
	}
	return nil
}

// change prepares an operation that needs write access.
func (h *file) change(k Kind) error {
	if h.closed || !h.write {
		return &fs.PathError{Op: k.String(), Path: h.name, Err: fs.ErrClosed}
	}
	return h.fs.begin(k)
}

func (h *file) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.usable(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, errors.New("faultfs: negative offset")
	}
	if off >= int64(len(h.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(p []byte, off int64) (int, error) {
	return h.WriteVecAt([][]byte{p}, off)
}

func (h *file) WriteVecAt(bufs [][]byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	data := slices.Concat(bufs...)
	if len(data) == 0 {
		return 0, h.usable()
	}
	err := h.change(Write)
	if err == nil {
		err = h.fs.room(h.node, off+int64(len(data)))
	} else if !errors.Is(err, ErrCrashed) {
		data = data[:h.fs.rng.IntN(len(data)+1)] // a failing write gets somewhere
		h.node.update(update{off: off, data: data})
	}
	if err != nil {
		return 0, err
	}
	h.node.update(update{off: off, data: data})
	h.fs.written += int64(len(data))
	return len(data), nil
}

func (h *file) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	err := h.change(Sync)
	if errors.Is(err, ErrCrashed) {
		return err
	}
	if err == nil {
		for _, u := range h.node.pending {
			h.node.stable = u.apply(h.node.stable)
		}
	}
	h.node.pending = nil
	return err
}

func (h *file) Allocate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	err := h.change(Allocate)
	if err == nil {
		err = h.fs.room(h.node, size)
	}
	if err == nil {
		h.node.update(update{off: size, grow: true})
	}
	return err
}

func (h *file) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	err := h.change(Truncate)
	if err == nil {
		h.node.update(update{off: size})
	}
	return err
}

func (h *file) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.node.data)), h.usable()
}

func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return &fs.PathError{Op: "close", Path: h.name, Err: fs.ErrClosed}
	}
	h.closed = true
	return nil
}

// room checks that n may be size bytes long.
func (f *FS) room(n *node, size int64) error {
	if f.capacity == 0 || size <= int64(len(n.data)) {
		return nil
	}
	if used := usage(f.root); used+size-int64(len(n.data)) > f.capacity {
		return fmt.Errorf("faultfs: %d of %d bytes used: %w", used, f.capacity, fsx.ErrNoSpace)
	}
	return nil
}

func usage(n *node) int64 {
	total := int64(len(n.data))
	for _, e := range n.entries {
		total += usage(e)
	}
	return total
}

func (n *node) update(u update) {
	n.data = u.apply(n.data)
	n.pending = append(n.pending, u)
}

func (u update) apply(data []byte) []byte {
	if u.data == nil {
		if u.off < int64(len(data)) && !u.grow {
			clear(data[u.off:]) // so that growing again shows zeros
			return data[:u.off]
		}
		return extend(data, u.off)
	}
	data = extend(data, u.off+int64(len(u.data)))
	copy(data[u.off:], u.data)
	return data
}

func extend(data []byte, size int64) []byte {
	if n := int(size) - len(data); n > 0 {
		data = slices.Grow(data, n)
		old := len(data)
		data = data[:size]
		clear(data[old:])
	}
	return data
}
