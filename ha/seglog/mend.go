package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// An exported entry, little endian: magic, data size (uint32 each), index,
// term, time (uint64 each), type (uint8), zero (uint8), extensions size
// (uint16), CRC32C of all the rest (uint32), extensions, data.
const (
	exportSize  = 40
	exportMagic = 0x58_4c_53_50 // "PSLX"
)

// ErrMend: what the peer gave is not what was acknowledged here.
var ErrMend = errors.New("frame cannot be mended")

// ExportEntry returns an entry whose frame is in a file in the form that Repair
// takes at the other replica. buf is used if it is large enough.
func (l *Log) ExportEntry(index uint64, buf []byte) ([]byte, error) {
	h, payload, err := l.readFrame(index, nil)
	if err != nil {
		return nil, err
	}
	b := append(append(buf[:0], make([]byte, exportSize)...), payload...)
	le := binary.LittleEndian
	le.PutUint32(b[0:], exportMagic)
	le.PutUint32(b[4:], h.size)
	le.PutUint64(b[8:], h.index)
	le.PutUint64(b[16:], h.term)
	le.PutUint64(b[24:], uint64(h.time))
	b[32] = h.typ
	le.PutUint16(b[34:], h.ext)
	le.PutUint32(b[36:], exportCRC(b))
	return b, nil
}

func exportCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:36], castagnoli), castagnoli, b[exportSize:])
}

// ParseEntry checks what ExportEntry returned and gives the entry, which refers
// to b.
func ParseEntry(b []byte) (*raft.Log, error) {
	le := binary.LittleEndian
	if len(b) < exportSize || le.Uint32(b) != exportMagic || le.Uint32(b[36:]) != exportCRC(b) {
		return nil, fmt.Errorf("seglog: not an exported entry: %w", ErrMend)
	}
	h := frame{
		size: le.Uint32(b[4:]), index: le.Uint64(b[8:]), term: le.Uint64(b[16:]), time: int64(le.Uint64(b[24:])),
		typ: b[32], ext: le.Uint16(b[34:]),
	}
	if int64(h.size)+int64(h.ext) != int64(len(b)-exportSize) {
		return nil, fmt.Errorf("seglog: exported entry of %d bytes: %w", len(b), ErrMend)
	}
	e := new(raft.Log)
	h.entry(b[exportSize:], e)
	return e, nil
}

// ReadFile is ReadEntry from the file, whatever is in memory.
func (l *Log) ReadFile(index uint64, buf []byte) ([]byte, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	h, payload, err := l.readFrame(index, buf)
	if err != nil {
		return nil, err
	}
	return payload[h.ext:], nil
}

// Command returns the term and the data of an entry that a state machine is
// given, below the first index too; no data for entries that are raft's own. It
// reads the file, and the data uses buf if it is large enough.
func (l *Log) Command(index uint64, buf []byte) (term uint64, data []byte, err error) {
	if err := l.usable(); err != nil {
		return 0, nil, err
	}
	h, payload, err := l.readFrame(index, buf)
	if err != nil || h.typ != uint8(raft.LogCommand) {
		return h.term, nil, err
	}
	return h.term, payload[h.ext:], nil
}

// Repair puts an exported entry in the place of one that cannot be read. It
// writes only what was acknowledged here: the frame's own header, or the frame
// after it, says what its CRC was. In a compacted segment, where neither may be
// left, the caller has compared the data with the hash in its row.
func (l *Log) Repair(index uint64, exported []byte) error {
	if err := l.writable(); err != nil {
		return err
	}
	e, err := ParseEntry(exported)
	if err != nil {
		return err
	}
	if e.Index != index {
		return fmt.Errorf("seglog: entry %d for %d: %w", e.Index, index, ErrMend)
	}
	l.cmu.Lock() // the file stays
	defer l.cmu.Unlock()
	p, err := l.locate(index)
	if err != nil {
		return err
	}
	defer p.h.release()
	if frameLen(len(e.Data), len(e.Extensions)) != p.size {
		return fmt.Errorf("seglog: entry %d has %d bytes here: %w", index, p.size, ErrMend)
	}
	raw, err := l.rebuild(p, e)
	if err != nil {
		return err
	}
	l.mu.RLock()
	s := l.find(index)
	name := l.path(s.name)
	l.mu.RUnlock()
	f, err := l.fs.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("seglog: repair: %w", err)
	}
	defer f.Close()
	return put(f, raw, p.off)
}

func put(f fsx.File, raw []byte, off int64) error {
	if _, err := f.WriteAt(raw, off); err != nil {
		return fmt.Errorf("seglog: repair: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("seglog: repair: %w", err)
	}
	return nil
}

// rebuild returns the bytes of a frame as they were.
func (l *Log) rebuild(p place, e *raft.Log) ([]byte, error) {
	head := make([]byte, frameSize)
	if n, _ := p.h.f.ReadAt(head, p.off); n == frameSize {
		if h, err := parseFrame(head, p.seed); err == nil && h.index == e.Index {
			raw := encodeFrame(e, p.seed, h.batch, h.prev)
			if again, err := parseFrame(raw, p.seed); err != nil || again != h {
				return nil, fmt.Errorf("seglog: entry %d is another one at the peer: %w", e.Index, ErrMend)
			}
			return raw, nil
		}
	}
	l.mu.RLock()
	s := l.find(e.Index)
	compacted := s.compacted()
	l.mu.RUnlock()
	if compacted {
		return encodeFrame(e, p.seed, 0, 0), nil
	}
	prev, prevBatch, err := l.before(p, e.Index, s)
	if err != nil {
		return nil, err
	}
	next, ok := l.headerAt(e.Index+1, p.seed)
	if !ok {
		return nil, fmt.Errorf("seglog: entry %d: nothing says what it was: %w", e.Index, ErrMend)
	}
	for _, batch := range []uint32{uint32(p.off), prevBatch, next.batch, 0} {
		raw := encodeFrame(e, p.seed, batch, prev)
		if h, _ := parseFrame(raw, p.seed); h.crc == next.prev {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("seglog: entry %d is another one at the peer: %w", e.Index, ErrMend)
}

// before returns what the frame at p refers to: the CRC of the one before.
func (l *Log) before(p place, index uint64, s *segment) (crc, batch uint32, err error) {
	if index == s.base {
		b := make([]byte, headerSize)
		if n, err := p.h.f.ReadAt(b, 0); n < len(b) {
			return 0, 0, fmt.Errorf("seglog: repair: %w", err)
		}
		_, crc, err := parseHeader(b)
		return crc, 0, err
	}
	h, ok := l.headerAt(index-1, p.seed)
	if !ok {
		return 0, 0, fmt.Errorf("seglog: entry %d before it is damaged too: %w", index-1, ErrMend)
	}
	return h.crc, h.batch, nil
}

// headerAt reads the header of a frame of a segment with this seed.
func (l *Log) headerAt(index uint64, seed uint32) (frame, bool) {
	p, err := l.locate(index)
	if err != nil {
		return frame{}, false
	}
	defer p.h.release()
	b := make([]byte, frameSize)
	if n, _ := p.h.f.ReadAt(b, p.off); n < len(b) || p.seed != seed {
		return frame{}, false
	}
	h, err := parseFrame(b, seed)
	return h, err == nil && h.index == index
}

// encodeFrame returns the whole frame of an entry.
func encodeFrame(e *raft.Log, seed, batch, prev uint32) []byte {
	h := frameOf(e, seed, int64(batch), prev)
	raw := make([]byte, h.len())
	h.put(raw, seed)
	copy(raw[frameSize+copy(raw[frameSize:], e.Extensions):], e.Data)
	return raw
}

// badFrame is what scan says of a frame that was flushed and is not good.
type badFrame struct {
	name  string
	off   int64
	index uint64
	next  int64 // where the next good frame is
	after frame // that frame

	proof   frame // a frame written when the bad one had been flushed
	proofAt int64
}

func (b *badFrame) Error() string {
	return fmt.Sprintf("seglog: %s: bad frame at %d, though frame %d at %d was written after it was flushed: %v",
		b.name, b.off, b.proof.index, b.proofAt, ErrCorrupt)
}

// Is makes it an ErrCorrupt.
func (b *badFrame) Is(target error) bool { return target == ErrCorrupt }

// maxMend bounds the frames in a row that Open mends, and maxMends those of one
// segment.
const (
	maxMend  = 6
	maxMends = 1000
)

// scanMend is scan, and has bad frames mended by the peer.
func (l *Log) scanMend(f fsx.File, h header, size int64) (scanResult, error) {
	for range maxMends {
		r, err := scan(f, h, size)
		var bad *badFrame
		if l.cfg.Fetch == nil || !errors.As(err, &bad) {
			return r, err
		}
		if merr := l.mend(f, h, r.chain, bad); merr != nil {
			return r, errors.Join(err, merr)
		}
		l.stats.mended.Add(1)
		l.cfg.Logger.Warn("damaged log entry fetched from the peer", "file", bad.name, "index", bad.index, "offset", bad.off)
	}
	return scanResult{}, fmt.Errorf("seglog: %s: too many bad frames: %w", f.Name(), ErrCorrupt)
}

// mend fills the space before the next good frame. That one says what the last
// CRC before it was, so that nothing else than what was there can be put in.
func (l *Log) mend(f fsx.File, h header, chain uint32, bad *badFrame) error {
	end := bad.after.index
	if bad.after.typ == typeMark {
		end++ // it names the last entry
	}
	if end <= bad.index || end-bad.index > maxMend {
		return fmt.Errorf("seglog: entries from %d on: %w", bad.index, ErrMend)
	}
	m := mender{seed: seedOf(h.salt), want: bad.after.prev, batches: []uint32{bad.after.batch}}
	size := int64(0)
	for i := bad.index; i < end; i++ {
		b, err := l.cfg.Fetch(i)
		if err != nil {
			return fmt.Errorf("seglog: fetch entry %d: %w", i, err)
		}
		e, err := ParseEntry(b)
		if err != nil {
			return err
		}
		m.entries = append(m.entries, e)
		size += frameLen(len(e.Data), len(e.Extensions))
	}
	if size != bad.next-bad.off {
		return fmt.Errorf("seglog: entries from %d on take %d bytes, not %d: %w", bad.index, bad.next-bad.off, size, ErrMend)
	}
	prevBatch := uint32(0)
	if r, err := scan(f, h, bad.off); err == nil && len(r.offs) > 0 {
		w := window{f: f, size: bad.off}
		if fr, _, err := w.frame(int64(r.offs[len(r.offs)-1]), m.seed); err == nil {
			prevBatch = fr.batch
		}
	}
	m.batches = append(m.batches, prevBatch)
	raw, ok := m.build(nil, 0, bad.off, chain)
	if !ok {
		return fmt.Errorf("seglog: entries from %d on are others at the peer: %w", bad.index, ErrMend)
	}
	return put(f, raw, bad.off)
}

// mender finds the bytes of some frames in a row from their entries. Only the
// batch that each names is not known: it begins with a frame before or with
// the frame itself.
type mender struct {
	entries []*raft.Log
	seed    uint32
	want    uint32 // CRC of the last one
	batches []uint32
}

func (m *mender) build(raw []byte, i int, off int64, chain uint32) ([]byte, bool) {
	if i == len(m.entries) {
		return raw, chain == m.want
	}
	m.batches = append(m.batches, uint32(off))
	defer func() { m.batches = m.batches[:len(m.batches)-1] }()
	for j := len(m.batches) - 1; j >= 0; j-- {
		if int64(m.batches[j]) > off {
			continue
		}
		b := encodeFrame(m.entries[i], m.seed, m.batches[j], chain)
		h, err := parseFrame(b, m.seed)
		if err != nil {
			continue
		}
		if out, ok := m.build(append(raw[:len(raw):len(raw)], b...), i+1, off+int64(len(b)), h.crc); ok {
			return out, true
		}
	}
	return nil, false
}
