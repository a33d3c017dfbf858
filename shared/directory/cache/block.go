package cache

import (
	"runtime"
	"syscall"
)

// block is room for keys and packed answers outside of the heap, which the
// collector neither looks through nor counts: what is remembered does not make
// the heap grow by a multiple of it. A block is only appended to; its pages take
// memory once they are written to.
type block struct {
	b      []byte
	mapped runtime.Cleanup
}

// newBlock returns an empty block of n octets or a little more.
func newBlock(n int) *block {
	page := syscall.Getpagesize()
	n = max(n+page-1, page) / page * page
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil { // no more mappings, perhaps: the heap is as good, and larger
		return &block{b: make([]byte, 0, n)}
	}
	k := &block{b: b[:0]}
	k.mapped = runtime.AddCleanup(k, unmap, b) // of a cache that nobody has any more
	return k
}

func unmap(b []byte) { _ = syscall.Munmap(b) }

// room is how many octets can be appended.
func (k *block) room() int { return cap(k.b) - len(k.b) }

// free gives the memory back. The block is not used after it.
func (k *block) free() {
	if k == nil || k.mapped == (runtime.Cleanup{}) {
		return
	}
	k.mapped.Stop()
	unmap(k.b[:cap(k.b)])
}
