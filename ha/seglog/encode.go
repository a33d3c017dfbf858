package seglog

import (
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// inlineMax is the size up to which data is copied next to its header. Larger
// data goes to the kernel from where it is.
const inlineMax = 1024

// encoder turns batches into what is written. Its memory is used again.
type encoder struct {
	scratch []byte   // headers, padding and small data
	bufs    [][]byte // what to write, in order
	chain   uint32   // after the batch
	fileCRC uint32
}

var padding [8]byte

// encode prepares bufs for a batch at the end of s and returns its size.
func (c *encoder) encode(s *segment, batch []*raft.Log) int64 {
	need := headerSize
	for _, e := range batch {
		need += frameSize + len(e.Extensions) + 8
		if len(e.Data) <= inlineMax {
			need += len(e.Data)
		}
	}
	if cap(c.scratch) < need || cap(c.scratch) > 1<<20 && need < 1<<18 {
		c.scratch = make([]byte, 0, need)
	}
	c.bufs = c.bufs[:0]
	b, from := c.scratch[:0], 0
	c.chain, c.fileCRC = s.chain, s.fileCRC
	at := s.end // of the batch, as frames name it
	if s.fresh {
		at = 0
		b = b[:headerSize]
		c.chain = s.put(b)
		c.fileCRC = 0
	}
	for _, e := range batch {
		h := frameOf(e, s.seed, at, c.chain)
		b = b[:len(b)+frameSize]
		h.put(b[len(b)-frameSize:], s.seed)
		c.chain = h.crc
		b = append(b, e.Extensions...)
		if len(e.Data) <= inlineMax {
			b = append(b, e.Data...)
		} else {
			c.bufs = append(c.bufs, b[from:], e.Data)
			from = len(b)
		}
		pad := h.len() - frameSize - int64(len(e.Extensions)) - int64(len(e.Data))
		b = append(b, padding[:pad]...)
	}
	c.bufs = append(c.bufs, b[from:])
	n := int64(0)
	for _, p := range c.bufs {
		c.fileCRC = crc32.Update(c.fileCRC, castagnoli, p)
		n += int64(len(p))
	}
	return n
}

// release drops references to the entries' data.
func (c *encoder) release() {
	clear(c.bufs)
	c.bufs = c.bufs[:0]
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// newSalt returns the random salt of a segment.
func newSalt() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}
