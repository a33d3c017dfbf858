package seglog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// Errors that callers test for. They come wrapped.
var (
	// ErrCorrupt: flushed data cannot be read back.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrFailed: a write or a flush failed earlier; the process has to end.
	ErrFailed = errors.New("log has failed")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log is closed")
	// ErrTooLarge: an entry does not fit a frame. Nothing was written.
	ErrTooLarge = errors.New("entry too large")
	// ErrGap: the entries do not follow the last one. Nothing was written.
	ErrGap = errors.New("entries out of order")
	// ErrNoSpace: no segment could be reserved. Nothing was written.
	ErrNoSpace = fsx.ErrNoSpace
)

// TrimMode says what becomes of segments below the first index.
type TrimMode int

const (
	// Keep leaves them: their frames are mail.
	Keep TrimMode = iota
	// Recycle uses them again; entries below the first index are gone.
	Recycle
)

// Defaults of Config.
const (
	DefaultSegmentSize = 64 << 20
	DefaultCacheBytes  = 32 << 20
	DefaultOpenFiles   = 512
)

// Config is what Open needs to know. Dir alone is enough.
type Config struct {
	Dir string // the log's own directory; made if it is not there
	FS  fsx.FS // fsx.OS if nil

	SegmentSize int64 // bytes reserved at a time; DefaultSegmentSize
	CacheBytes  int64 // memory for recent entries; DefaultCacheBytes, negative for none
	OpenFiles   int   // sealed segments kept open for reading; DefaultOpenFiles
	Trim        TrimMode

	// OnFailure is called once, from the goroutine that met it, when a write
	// or flush has failed. It may end the process. It must not call the log.
	OnFailure func(error)
	Logger    *slog.Logger // nil: silent

	// ReadOnly opens the files of a copy and changes nothing. The log then takes
	// no entries. Files that a process still writes to look damaged: what came
	// after the read of one place is found at the next.
	ReadOnly bool

	// Fetch returns what ExportEntry of the other replica's log returns for an
	// entry. Open uses it to mend frames that it cannot read; nil: it refuses.
	Fetch func(index uint64) ([]byte, error)

	inline bool          // tests: no goroutine, background work is done on the spot
	salt   func() uint64 // tests: not random
}

// Log is the log. Readers may call it at any time; there is one writer, which
// is raft. It implements raft.LogStore and raft.MonotonicLogStore.
type Log struct {
	cfg  Config
	fs   fsx.FS
	wmu  sync.Mutex // held by the writer: StoreLogs, suffix DeleteRange, Close
	enc  encoder    // guarded by wmu
	keep *keeper
	cmu  sync.Mutex // held by Compact, and by Close at its end
	pmu  sync.Mutex // guards pins, and is held while Compact replaces a file
	pins int        // while above 0 no segment is replaced

	failed atomic.Pointer[error]
	closed atomic.Bool
	stats  counters

	mu     sync.RWMutex // guards what follows and the segments' shared fields
	segs   []*segment   // ascending, none superseded as a whole
	active *segment     // the last of segs if it takes more frames, else nil
	first  uint64       // logical; 0 in an empty log
	last   uint64       // 0 in an empty log
	next   uint64       // base for the next segment of an emptied log
	seq    uint64       // highest used
	floor  uint64
	open   []*segment // sealed segments with a handle
	cache  cache
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

type counters struct {
	syncs, batches, entries, bytes, payload, busy, mended atomic.Int64
}

// Stats are totals since Open, except Segments and Low.
type Stats struct {
	Batches  int64         // successful StoreLogs
	Entries  int64         // stored
	Syncs    int64         // flushes of segment data
	Bytes    int64         // written to segments, frames and padding included
	Payload  int64         // of that, data of entries
	Busy     time.Duration // spent writing and flushing batches
	Segments int           // files now
	Mended   int64         // damaged places that the peer mended when the log was opened
	Low      bool          // the next segment could not be reserved
}

// SetCache makes n the memory for recent entries, in octets; none unless it is above 0.
func (l *Log) SetCache(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cache.bound(n)
}

// Stats returns the counters.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	n := len(l.segs)
	l.mu.RUnlock()
	return Stats{
		Batches: l.stats.batches.Load(), Entries: l.stats.entries.Load(), Syncs: l.stats.syncs.Load(),
		Bytes: l.stats.bytes.Load(), Payload: l.stats.payload.Load(), Busy: time.Duration(l.stats.busy.Load()), Segments: n, Mended: l.stats.mended.Load(), Low: l.Low(),
	}
}

// Low reports that the disk had no room for the segment after this one. What
// is left of the present one is for small entries, such as deletes.
func (l *Log) Low() bool { return l.keep.low.Load() }

func (c *Config) setDefaults() {
	if c.FS == nil {
		c.FS = fsx.OS
	}
	if c.SegmentSize <= 0 {
		c.SegmentSize = DefaultSegmentSize
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.OpenFiles <= 0 {
		c.OpenFiles = DefaultOpenFiles
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.salt == nil {
		c.salt = newSalt
	}
}

// usable returns why the log takes no more calls, nil if it does.
func (l *Log) usable() error {
	if err := l.failed.Load(); err != nil {
		return fmt.Errorf("seglog: %w: %w", ErrFailed, *err)
	}
	if l.closed.Load() {
		return fmt.Errorf("seglog: %w", ErrClosed)
	}
	return nil
}

// writable is usable for calls that change something.
func (l *Log) writable() error {
	if l.cfg.ReadOnly {
		return fmt.Errorf("seglog: %s is open for reading: %w", l.cfg.Dir, fs.ErrPermission)
	}
	return l.usable()
}

// fail makes the log refuse everything from now on.
func (l *Log) fail(err error) error {
	if l.failed.CompareAndSwap(nil, &err) {
		l.cfg.Logger.Error("log failed; it is not used any more", "dir", l.cfg.Dir, "err", err)
		if l.cfg.OnFailure != nil {
			l.cfg.OnFailure(err)
		}
	}
	return fmt.Errorf("seglog: %w: %w", ErrFailed, err)
}

// IsMonotonic implements raft.MonotonicLogStore: entries have no gaps.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex returns the logical first index, 0 for an empty log.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, l.usable()
}

// LastIndex returns the index of the last durable entry, 0 for an empty log.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, l.usable()
}

// SetFloor sets the lowest entry that DeleteRange of a prefix must keep. It
// only grows. Until it is set nothing is trimmed.
func (l *Log) SetFloor(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.floor = max(l.floor, index)
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs appends a batch. After nil it is durable. The log keeps the data
// slices in its cache: the caller must not change them any more.
func (l *Log) StoreLogs(batch []*raft.Log) error {
	if len(batch) == 0 {
		return nil
	}
	defer l.keep.settle()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	for i, e := range batch {
		if err := checkEntry(e); err != nil {
			return err
		}
		if e.Index != batch[0].Index+uint64(i) || l.last != 0 && i == 0 && e.Index != l.last+1 || e.Index == 0 {
			return fmt.Errorf("seglog: entry %d after %d: %w", e.Index, l.last, ErrGap)
		}
	}
	s, err := l.segmentFor(batch)
	if err != nil {
		return err
	}
	if err := l.write(s, batch); err != nil {
		return l.fail(err)
	}
	l.publish(s, batch)
	return nil
}

// segmentFor returns the segment that the batch goes to, a new one if need be.
func (l *Log) segmentFor(batch []*raft.Log) (*segment, error) {
	size := int64(0)
	for _, e := range batch {
		size += frameLen(len(e.Data), len(e.Extensions))
	}
	base := batch[0].Index
	if s := l.active; s != nil && base == s.base+uint64(s.count) {
		if s.end+size+sealLen(s.count+len(batch)) <= s.room {
			return s, nil
		}
	}
	gap := l.last == 0 && base != max(l.next, 1)
	return l.roll(base, gap, headerSize+size+sealLen(len(batch)))
}

// write puts the batch at the end of s and flushes it. It is the only flush
// that a commit waits for on this node.
func (l *Log) write(s *segment, batch []*raft.Log) error {
	n := l.enc.encode(s, batch)
	start := time.Now()
	off := s.end
	if s.fresh {
		off = 0
	}
	if _, err := s.h.f.WriteVecAt(l.enc.bufs, off); err != nil {
		return err
	}
	l.enc.release()
	if err := flush(s.h.f); err != nil {
		return err
	}
	l.stats.syncs.Add(1)
	l.stats.bytes.Add(n)
	l.stats.busy.Add(int64(time.Since(start)))
	return nil
}

// publish lets readers see a durable batch.
func (l *Log) publish(s *segment, batch []*raft.Log) {
	payload, first := int64(0), s.fresh
	l.mu.Lock()
	off := s.end
	for _, e := range batch {
		s.h.offs = append(s.h.offs, uint32(off))
		off += frameLen(len(e.Data), len(e.Extensions))
		payload += int64(len(e.Data))
		l.cache.push(e)
	}
	s.end, s.count, s.fresh = off, s.count+len(batch), false
	s.chain, s.fileCRC = l.enc.chain, l.enc.fileCRC
	if l.first == 0 {
		l.first = batch[0].Index
	}
	l.last = batch[len(batch)-1].Index
	l.mu.Unlock()
	if first {
		l.named(s)
	}
	l.stats.batches.Add(1)
	l.stats.entries.Add(int64(len(batch)))
	l.stats.payload.Add(payload)
}

// roll makes a new segment the active one. The old one is sealed in the
// background. The new header is not written yet.
func (l *Log) roll(base uint64, gap bool, need int64) (*segment, error) {
	p, err := l.keep.take(need)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.seq++
	s := &segment{
		header: header{salt: l.cfg.salt(), seq: l.seq, base: base, gap: gap},
		name:   p.name, room: p.size, end: headerSize, fresh: true,
		h: newHandle(p.f, nil),
	}
	s.seed = seedOf(s.salt)
	old := l.active
	s.replaces = l.supersede(base)
	if n := len(l.segs); n > 0 && base > l.segs[n-1].last()+1 {
		s.gap = true // takes the place of a segment that said so
	}
	l.segs = append(l.segs, s)
	l.active = s
	l.mu.Unlock()
	if old != nil && old.base < base {
		l.keep.seal(old)
	}
	l.keep.prepare()
	return s, nil
}

// supersede takes out of the index all entries from base on, and returns the
// segments that hold no others. Their files stay until the segment with that
// base, which the caller adds, is durable: without both, entries discarded
// earlier would be back. The caller holds mu.
func (l *Log) supersede(base uint64) (whole []*segment) {
	for len(l.segs) > 0 {
		s := l.segs[len(l.segs)-1]
		if s.base < base {
			if s.last() >= base {
				s.limit = base
			}
			break
		}
		l.segs = l.segs[:len(l.segs)-1]
		whole = append(whole, s)
	}
	return whole
}

// named is called when the header of a new segment is durable.
func (l *Log) named(s *segment) {
	l.keep.rename(s)
	for _, old := range s.replaces {
		l.keep.remove(old)
	}
	s.replaces = nil
}

// DeleteRange implements raft.LogStore. A range that ends before the last
// entry is a prefix: the first index moves to max+1 or to the floor, whichever
// is lower. A range up to the last entry is discarded, durably.
func (l *Log) DeleteRange(minIndex, maxIndex uint64) error {
	if err := l.writable(); err != nil {
		return err
	}
	defer l.keep.settle()
	l.mu.Lock()
	if l.last == 0 || minIndex > maxIndex || maxIndex < l.first || minIndex > l.last {
		l.mu.Unlock()
		return nil
	}
	if maxIndex < l.last {
		defer l.mu.Unlock()
		if minIndex > l.first {
			return fmt.Errorf("seglog: delete %d to %d of %d to %d: %w", minIndex, maxIndex, l.first, l.last, ErrGap)
		}
		l.trim(maxIndex + 1)
		return nil
	}
	l.mu.Unlock()
	return l.discard(minIndex)
}

// trim moves the first index. The caller holds mu.
func (l *Log) trim(to uint64) {
	to = min(to, l.floor)
	if to <= l.first {
		return
	}
	l.first = to
	l.cache.dropBefore(to)
	var dead []*segment
	if l.cfg.Trim == Recycle {
		for len(l.segs) > 1 && l.segs[0].last() < to {
			dead = append(dead, l.segs[0])
			l.segs = l.segs[1:]
		}
	}
	l.keep.trimmed(firstMark{to, l.seq}, dead)
}

// discard drops all entries from index on.
func (l *Log) discard(index uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.RLock()
	index = max(index, l.first)
	whole := index == l.first // then the log restarts wherever the next entry is
	l.mu.RUnlock()
	s, err := l.roll(index, whole, headerSize+sealSize)
	if err != nil {
		return err
	}
	var b [headerSize]byte
	s.chain = s.put(b[:])
	s.fileCRC = crcOf(b[:])
	if _, err := s.h.f.WriteAt(b[:], 0); err != nil {
		return l.fail(err)
	}
	if err := s.h.f.Sync(); err != nil {
		return l.fail(err)
	}
	l.stats.syncs.Add(1)
	l.named(s)
	l.mu.Lock()
	defer l.mu.Unlock()
	s.fresh = false
	l.cache.dropFrom(index)
	l.last = index - 1
	if whole {
		l.first, l.last, l.next = 0, 0, index
	}
	return nil
}

// Close writes that all was flushed, and closes the files. The log is not to be used any
// more; calls that are still running finish.
func (l *Log) Close() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if !l.closed.CompareAndSwap(false, true) {
		return nil
	}
	l.cmu.Lock() // a compaction under way gives up
	defer l.cmu.Unlock()
	l.keep.stop()
	var err error
	if l.failed.Load() == nil && !l.cfg.ReadOnly {
		err = l.mark()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		if s.h != nil {
			s.h.release()
			s.h = nil
		}
	}
	l.cache = cache{}
	return err
}

// mark notes after the last frame that all of them were flushed, so that
// damage to the last batch is not taken for a torn write.
func (l *Log) mark() error {
	s := l.active
	if s == nil || s.fresh || s.end+frameSize > s.room {
		return nil
	}
	var b [frameSize]byte
	m := frame{typ: typeMark, index: l.last, batch: uint32(s.end), prev: s.chain}
	m.dataCRC = s.seed // of nothing
	m.put(b[:], s.seed)
	if _, err := s.h.f.WriteAt(b[:], s.end); err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	if err := s.h.f.Sync(); err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	return nil
}

// find returns the segment with an entry that is in a file, nil if there is
// none. The caller holds mu.
func (l *Log) find(index uint64) *segment {
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].base > index }) - 1
	if i < 0 || l.segs[i].last() < index || l.segs[i].count == 0 {
		return nil
	}
	return l.segs[i]
}

func (l *Log) path(name string) string { return filepath.Join(l.cfg.Dir, name) }
