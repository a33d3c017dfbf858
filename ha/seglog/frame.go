package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// Frame header, little endian:
//
//	 0  magic      uint32
//	 4  data size  uint32
//	 8  index      uint64
//	16  term       uint64
//	24  time       int64   Unix nanoseconds at the leader, 0 for none
//	32  batch      uint32  offset of the batch's first frame; 0: with the segment header
//	36  previous   uint32  header CRC of the frame before; of the segment for the first
//	40  type       uint8   raft's, or typeMark
//	41  reserved   uint8
//	42  extensions uint16  size of raft's Extensions, which precede the data
//	44  data CRC   uint32  over extensions and data
//	48  header CRC uint32  over bytes 0 to 47
//	52  reserved   uint32
//
// Both are CRC32C seeded with the CRC of the segment's salt. The chain of header CRCs
// covers the data through the data CRC.
const (
	frameSize  = 56
	frameMagic = 0x46_4c_53_50 // "PSLF"

	// maxEntry bounds the data of one entry. Package command keeps far below.
	maxEntry = 64 << 20

	// typeMark is a frame that is no entry: all before it was flushed. The
	// next batch overwrites it.
	typeMark = 0xff
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFrame is what decoding a frame that is not one gives.
var errFrame = errors.New("no valid frame")

// frame is a decoded frame header.
type frame struct {
	size    uint32 // of the data
	index   uint64
	term    uint64
	time    int64
	batch   uint32
	prev    uint32
	typ     uint8
	ext     uint16
	dataCRC uint32
	crc     uint32
}

// seedOf turns a salt into the start value of a segment's CRCs.
func seedOf(salt uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], salt)
	return crc32.Checksum(b[:], castagnoli)
}

// align rounds up to the alignment of frames.
func align(n int64) int64 { return (n + 7) &^ 7 }

// frameLen returns the bytes that an entry takes in a segment.
func frameLen(data, ext int) int64 { return align(frameSize + int64(ext) + int64(data)) }

// len returns the bytes that the frame takes, padding included.
func (h *frame) len() int64 { return frameLen(int(h.size), int(h.ext)) }

// put encodes h into b and sets h.crc.
func (h *frame) put(b []byte, seed uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], frameMagic)
	le.PutUint32(b[4:], h.size)
	le.PutUint64(b[8:], h.index)
	le.PutUint64(b[16:], h.term)
	le.PutUint64(b[24:], uint64(h.time))
	le.PutUint32(b[32:], h.batch)
	le.PutUint32(b[36:], h.prev)
	b[40], b[41] = h.typ, 0
	le.PutUint16(b[42:], h.ext)
	le.PutUint32(b[44:], h.dataCRC)
	h.crc = crc32.Update(seed, castagnoli, b[:48])
	le.PutUint32(b[48:], h.crc)
	le.PutUint32(b[52:], 0)
}

// parseFrame decodes and checks a frame header.
func parseFrame(b []byte, seed uint32) (frame, error) {
	le := binary.LittleEndian
	if len(b) < frameSize || le.Uint32(b) != frameMagic {
		return frame{}, errFrame
	}
	h := frame{
		size:    le.Uint32(b[4:]),
		index:   le.Uint64(b[8:]),
		term:    le.Uint64(b[16:]),
		time:    int64(le.Uint64(b[24:])),
		batch:   le.Uint32(b[32:]),
		prev:    le.Uint32(b[36:]),
		typ:     b[40],
		ext:     le.Uint16(b[42:]),
		dataCRC: le.Uint32(b[44:]),
		crc:     le.Uint32(b[48:]),
	}
	if h.size > maxEntry || h.crc != crc32.Update(seed, castagnoli, b[:48]) {
		return frame{}, errFrame
	}
	return h, nil
}

// check verifies extensions and data, which follow the header.
func (h *frame) check(payload []byte, seed uint32) error {
	n := int(h.ext) + int(h.size)
	if len(payload) < n || crc32.Update(seed, castagnoli, payload[:n]) != h.dataCRC {
		return errFrame
	}
	return nil
}

// frameOf returns the header for an entry whose place in the chain is known.
func frameOf(e *raft.Log, seed uint32, batch int64, prev uint32) frame {
	h := frame{
		size: uint32(len(e.Data)), ext: uint16(len(e.Extensions)),
		index: e.Index, term: e.Term, typ: uint8(e.Type),
		batch: uint32(batch), prev: prev,
	}
	if !e.AppendedAt.IsZero() {
		h.time = e.AppendedAt.UnixNano()
	}
	h.dataCRC = crc32.Update(crc32.Update(seed, castagnoli, e.Extensions), castagnoli, e.Data)
	return h
}

// entry fills in a raft entry; it keeps slices of payload.
func (h *frame) entry(payload []byte, e *raft.Log) {
	*e = raft.Log{Index: h.index, Term: h.term, Type: raft.LogType(h.typ)}
	if h.ext > 0 {
		e.Extensions = payload[:h.ext:h.ext]
	}
	if h.size > 0 {
		e.Data = payload[h.ext : int(h.ext)+int(h.size)]
	}
	if h.time != 0 {
		e.AppendedAt = time.Unix(0, h.time)
	}
}

// checkEntry refuses what a frame cannot hold.
func checkEntry(e *raft.Log) error {
	if len(e.Data) > maxEntry || len(e.Extensions) > 0xffff {
		return fmt.Errorf("seglog: entry %d of %d bytes: %w", e.Index, len(e.Data), ErrTooLarge)
	}
	return nil
}
