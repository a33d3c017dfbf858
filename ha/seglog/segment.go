package seglog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"
	"sync/atomic"

	"github.com/postern-mail/postern/shared/fsx"
)

// Segment header, little endian: magic (8 bytes), version, flags (uint32 each),
// salt, sequence, base (uint64 each), zeros, CRC32C of the first 60 bytes.
//
// Seal, at the end of the file: the offset of each frame (uint32), then 64
// bytes: magic (8), base, count, end of the frames, place of the offsets
// (uint64 each), CRC32C of the file up to the end of the frames, CRC32C of the
// offsets (uint32 each), zeros, CRC32C of the first 60 bytes seeded with the
// salt.
//
// A compacted segment has version 2, a generation and the end of its range
// (uint64 each) after the base, another magic in its seal, and before each
// offset the distance of the frame's index from the base (uint32).
const (
	headerSize     = 64
	sealSize       = 64
	version        = 1
	versionCompact = 2

	flagGap = 1 // indexes between the segment before and this one were never stored here

	segSuffix = ".seg"
	preSuffix = ".pre"
)

var (
	headerMagic = [8]byte{'P', 'S', 'T', 'N', 's', 'e', 'g', '1'}
	sealMagic   = [8]byte{'P', 'S', 'T', 'N', 'e', 'n', 'd', '1'}
	sealCompact = [8]byte{'P', 'S', 'T', 'N', 'c', 'm', 'p', '1'}
)

// header identifies a segment.
type header struct {
	salt, seq, base uint64
	gap             bool

	gen   uint64 // how often it was compacted, 0: never
	until uint64 // of a compacted one: the first index behind its range
}

// compacted reports whether only some frames are left.
func (h *header) compacted() bool { return h.gen > 0 }

func (h *header) put(b []byte) (crc uint32) {
	clear(b[:headerSize])
	le := binary.LittleEndian
	copy(b, headerMagic[:])
	le.PutUint32(b[8:], version)
	if h.gap {
		le.PutUint32(b[12:], flagGap)
	}
	le.PutUint64(b[16:], h.salt)
	le.PutUint64(b[24:], h.seq)
	le.PutUint64(b[32:], h.base)
	if h.compacted() {
		le.PutUint32(b[8:], versionCompact)
		le.PutUint64(b[40:], h.gen)
		le.PutUint64(b[48:], h.until)
	}
	crc = crc32.Checksum(b[:60], castagnoli)
	le.PutUint32(b[60:], crc)
	return crc
}

func parseHeader(b []byte) (h header, crc uint32, err error) {
	le := binary.LittleEndian
	if len(b) < headerSize || [8]byte(b[:8]) != headerMagic || le.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
		return h, 0, errors.New("no segment header")
	}
	v := le.Uint32(b[8:])
	if v != version && v != versionCompact {
		return h, 0, fmt.Errorf("segment version %d, this program reads up to %d", v, versionCompact)
	}
	h = header{salt: le.Uint64(b[16:]), seq: le.Uint64(b[24:]), base: le.Uint64(b[32:]), gap: le.Uint32(b[12:])&flagGap != 0}
	if v == versionCompact {
		h.gen, h.until = le.Uint64(b[40:]), le.Uint64(b[48:])
		if h.gen == 0 || h.until <= h.base || h.until-h.base > math.MaxUint32 {
			return h, 0, fmt.Errorf("compacted segment of generation %d, entries %d to %d", h.gen, h.base, h.until)
		}
	}
	return h, le.Uint32(b[60:]), nil
}

func (h *header) name() string {
	if h.compacted() {
		return fmt.Sprintf("c%016x-%08x%s", h.base, h.gen, segSuffix)
	}
	return fmt.Sprintf("%016x-%016x%s", h.base, h.salt, segSuffix)
}

// segment is one file of the log. Its identity does not change; the other
// fields are guarded by Log.mu, except those of the writer, guarded by Log.wmu.
type segment struct {
	header
	seed uint32

	name   string // in the directory; changes when a prepared file becomes a segment
	count  int    // frames in the file
	limit  uint64 // entries from here on are superseded; 0: none
	end    int64  // end of the frames
	sealed bool
	h      *handle // nil: not open

	// Writer's.
	room    int64  // reserved size
	fresh   bool   // the header is not written yet
	chain   uint32 // CRC that the next frame refers to
	fileCRC uint32 // of all bytes up to end

	replaces []*segment // to be removed when the header is durable
}

// last returns the highest index that counts, base-1 if there is none.
func (s *segment) last() uint64 {
	end := s.base + uint64(s.count)
	if s.compacted() {
		end = s.until
	}
	if s.limit != 0 {
		end = min(end, max(s.limit, s.base))
	}
	return end - 1
}

// handle is an open segment. Reads hold a reference, so that the file is
// closed after the last of them.
type handle struct {
	f    fsx.File
	offs []uint32 // offset of each frame; grows under Log.mu
	rel  []uint32 // of a compacted segment: index of each frame less the base
	refs atomic.Int32
}

func newHandle(f fsx.File, offs []uint32) *handle {
	h := &handle{f: f, offs: offs}
	h.refs.Store(1)
	return h
}

func (h *handle) release() {
	if h.refs.Add(-1) == 0 {
		_ = h.f.Close() // nothing was written through it that Sync did not cover
	}
}

// sealLen returns the size of the seal of a segment of n frames.
func sealLen(n int) int64 { return 4*int64(n) + sealSize }

// tableLen returns the size of the table of offsets before the seal.
func (h *header) tableLen(n int) int64 {
	if h.compacted() {
		return 8 * int64(n)
	}
	return 4 * int64(n)
}

// sealBytes returns the seal of a segment, to be written at offset at.
func sealBytes(s *segment, offs, rel []uint32, at int64) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, s.tableLen(len(offs))+sealSize)
	for i, off := range offs {
		if s.compacted() {
			b = le.AppendUint32(b, rel[i])
		}
		b = le.AppendUint32(b, off)
	}
	n := len(b)
	b = b[:n+sealSize]
	table, t := b[:n], b[n:]
	copy(t, s.sealMagic())
	le.PutUint64(t[8:], s.base)
	le.PutUint64(t[16:], uint64(len(offs)))
	le.PutUint64(t[24:], uint64(s.end))
	le.PutUint64(t[32:], uint64(at))
	le.PutUint32(t[40:], s.fileCRC)
	le.PutUint32(t[44:], crc32.Checksum(table, castagnoli))
	le.PutUint32(t[60:], crc32.Update(s.seed, castagnoli, t[:60]))
	return b
}

func (h *header) sealMagic() []byte {
	if h.compacted() {
		return sealCompact[:]
	}
	return sealMagic[:]
}

// seal is a decoded seal.
type seal struct {
	count    int
	end      int64
	table    int64
	fileCRC  uint32
	tableCRC uint32
}

// readSeal returns the seal of a segment file of the given size, or false if
// it has none that is valid.
func readSeal(f fsx.File, h header, size int64) (seal, bool) {
	var t [sealSize]byte
	if size < headerSize+sealSize {
		return seal{}, false
	}
	if _, err := f.ReadAt(t[:], size-sealSize); err != nil {
		return seal{}, false
	}
	le := binary.LittleEndian
	if !bytes.Equal(t[:8], h.sealMagic()) || le.Uint32(t[60:]) != crc32.Update(seedOf(h.salt), castagnoli, t[:60]) || le.Uint64(t[8:]) != h.base {
		return seal{}, false
	}
	s := seal{
		count: int(le.Uint64(t[16:])), end: int64(le.Uint64(t[24:])), table: int64(le.Uint64(t[32:])),
		fileCRC: le.Uint32(t[40:]), tableCRC: le.Uint32(t[44:]),
	}
	ok := s.count >= 0 && int64(s.count) < size && s.end >= headerSize && s.end <= s.table && s.table+h.tableLen(s.count)+sealSize == size
	return s, ok
}

// readTable loads the offsets of a sealed segment, and of a compacted one which
// frames they are of.
func readTable(f fsx.File, h header, s seal) (offs, rel []uint32, err error) {
	b := make([]byte, h.tableLen(s.count))
	if n, err := f.ReadAt(b, s.table); n < len(b) {
		return nil, nil, fmt.Errorf("seglog: offsets of %s: %w", f.Name(), err)
	}
	if crc32.Checksum(b, castagnoli) != s.tableCRC {
		return nil, nil, fmt.Errorf("seglog: offsets of %s: %w", f.Name(), ErrCorrupt)
	}
	le := binary.LittleEndian
	offs = make([]uint32, s.count)
	if !h.compacted() {
		for i := range offs {
			offs[i] = le.Uint32(b[4*i:])
		}
		return offs, nil, nil
	}
	rel = make([]uint32, s.count)
	for i := range offs {
		rel[i], offs[i] = le.Uint32(b[8*i:]), le.Uint32(b[8*i+4:])
	}
	return offs, rel, nil
}

// scanResult is what reading a segment from its start found.
type scanResult struct {
	offs    []uint32
	end     int64  // of the last good frame
	chain   uint32 // its CRC
	fileCRC uint32 // of the bytes before end
	stale   bool   // valid frames follow that do not belong to the log
}

// scan reads all frames of a segment. A tail that was never flushed is left
// out; damage to anything that was flushed is ErrCorrupt.
func scan(f fsx.File, h header, size int64) (scanResult, error) {
	w := window{f: f, size: size}
	b, err := w.peek(0, headerSize)
	if err != nil {
		return scanResult{}, err
	}
	_, chain, err := parseHeader(b)
	if err != nil {
		return scanResult{}, fmt.Errorf("seglog: %s: %w: %w", f.Name(), ErrCorrupt, err)
	}
	seed := seedOf(h.salt)
	r := scanResult{end: headerSize, chain: chain, fileCRC: crc32.Checksum(b, castagnoli)}
	for {
		fr, raw, err := w.frame(r.end, seed)
		if err != nil && !errors.Is(err, errFrame) {
			return r, err
		}
		if err != nil || fr.prev != r.chain || fr.typ != typeMark && fr.index != h.base+uint64(len(r.offs)) {
			break
		}
		if fr.typ == typeMark {
			break // overwritten by the next batch
		}
		r.offs = append(r.offs, uint32(r.end))
		r.fileCRC = crc32.Update(r.fileCRC, castagnoli, raw)
		r.end, r.chain = r.end+int64(len(raw)), fr.crc
	}
	// What follows decides whether this is a torn tail.
	bad := &badFrame{name: f.Name(), off: r.end, index: h.base + uint64(len(r.offs)), next: -1}
	for off := r.end; off+frameSize <= size; off += 8 {
		next, err := w.magic(off)
		if err != nil {
			return r, err
		}
		if next < 0 {
			break
		}
		off = next
		fr, _, err := w.frame(off, seed)
		if errors.Is(err, errFrame) {
			continue
		}
		if err != nil {
			return r, err
		}
		if off == r.end && fr.typ == typeMark {
			continue
		}
		if bad.next < 0 {
			bad.next, bad.after = off, fr
		}
		if int64(fr.batch) > r.end {
			bad.proof, bad.proofAt = fr, off
			return r, bad
		}
		r.stale = true
	}
	return r, nil
}

// window reads a file front to back in large pieces.
type window struct {
	f    fsx.File
	size int64
	buf  []byte
	off  int64 // of buf
}

const windowSize = 1 << 20

// peek returns n bytes at off; fewer bytes than that are errFrame.
func (w *window) peek(off int64, n int) ([]byte, error) {
	if off+int64(n) > w.size {
		return nil, errFrame
	}
	if off < w.off || off+int64(n) > w.off+int64(len(w.buf)) {
		want := max(n, int(min(windowSize, w.size-off)))
		if cap(w.buf) < want {
			w.buf = make([]byte, want)
		}
		w.buf, w.off = w.buf[:want], off
		got, err := w.f.ReadAt(w.buf, off)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("seglog: read %s: %w", w.f.Name(), err)
		}
		if w.buf = w.buf[:got]; got < n {
			return nil, errFrame
		}
	}
	return w.buf[off-w.off:][:n], nil
}

// frame returns the checked frame at off with all its bytes.
func (w *window) frame(off int64, seed uint32) (frame, []byte, error) {
	b, err := w.peek(off, frameSize)
	if err != nil {
		return frame{}, nil, err
	}
	h, err := parseFrame(b, seed)
	if err != nil {
		return h, nil, err
	}
	b, err = w.peek(off, int(h.len()))
	if err != nil {
		return h, nil, err
	}
	return h, b, h.check(b[frameSize:], seed)
}

// magic returns the next aligned offset from off on that has the frame magic,
// or -1.
func (w *window) magic(off int64) (int64, error) {
	for off+frameSize <= w.size {
		n := int(min(windowSize, w.size-off))
		b, err := w.peek(off, n)
		if err != nil {
			return -1, ignoreFrame(err)
		}
		for i := 0; i+frameSize <= n; i += 8 {
			if binary.LittleEndian.Uint32(b[i:]) == frameMagic {
				return off + int64(i), nil
			}
		}
		off += max(8, int64(n-frameSize)&^7)
	}
	return -1, nil
}

func ignoreFrame(err error) error {
	if errors.Is(err, errFrame) {
		return nil
	}
	return err
}

// isSegment and isPrepared tell file names apart.
func isSegment(name string) bool  { return strings.HasSuffix(name, segSuffix) }
func isPrepared(name string) bool { return strings.HasSuffix(name, preSuffix) }
