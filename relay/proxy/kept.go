package proxy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync/atomic"
)

// What is kept of commands to send them again, in octets: in memory of each and of
// all sessions, and in files.
const (
	maxKept      = 8 << 20
	maxKeptAll   = 64 << 20
	maxSpooled   = 256 << 20
	maxSpooledIn = 1 << 30 // of all sessions
)

// store counts what the commands of all sessions keep.
type store struct {
	memory, files atomic.Int64
}

// kept is what was sent of a command: its beginning in memory, and the rest, where
// there is no room, in a file without a name. An error drops all of it.
type kept struct {
	st   *store
	head []byte
	file *os.File
	size int64 // of the file
}

var errRoom = errors.New("no room to keep a command")

// add keeps octets; dir is for the file.
func (k *kept) add(b []byte, dir string) error {
	n := int64(len(b))
	if k.file == nil {
		if len(k.head)+len(b) <= maxKept {
			if k.st.memory.Add(n) <= maxKeptAll {
				k.head = append(k.head, b...)
				return nil
			}
			k.st.memory.Add(-n)
		}
		f, err := os.CreateTemp(dir, ".command-*")
		if err != nil {
			return err
		}
		k.file = f
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
	}
	if k.st.files.Add(n); k.st.files.Load() > maxSpooledIn || k.size+n > maxSpooled {
		k.st.files.Add(-n)
		return errRoom
	}
	k.size += n
	_, err := k.file.WriteAt(b, k.size-n)
	return err
}

// unsync turns the literal that the text ends with, which has leave to be sent, into
// one that needs none (RFC 7888).
func (k *kept) unsync() error {
	if k.file == nil {
		n := bytes.LastIndexByte(k.head, '}')
		if n < 0 {
			return nil
		}
		k.st.memory.Add(1)
		k.head = append(slices.Clip(k.head[:n]), "+}\r\n"...) // a reader may have the old one
		return nil
	}
	end := make([]byte, min(k.size, int64(len("}\r\n"))))
	if _, err := k.file.ReadAt(end, k.size-int64(len(end))); err != nil {
		return err
	}
	n := bytes.LastIndexByte(end, '}')
	if n < 0 {
		return nil
	}
	if _, err := k.file.WriteAt([]byte("+}\r\n"), k.size-int64(len(end)-n)); err != nil {
		return err
	}
	k.size++
	k.st.files.Add(1)
	return nil
}

// reader gives what is kept, as of now.
func (k *kept) reader() io.Reader {
	if k.file == nil {
		return bytes.NewReader(k.head)
	}
	return io.MultiReader(bytes.NewReader(k.head), io.NewSectionReader(k.file, 0, k.size))
}

// drop forgets all.
func (k *kept) drop() {
	k.st.memory.Add(-int64(len(k.head)))
	k.st.files.Add(-k.size)
	if k.file != nil {
		k.file.Close()
	}
	*k = kept{st: k.st}
}
