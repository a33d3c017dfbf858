package seglog

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// ErrInUse: the segment cannot be compacted now: somebody reads the files by
// name, or raft may still ask for its entries.
var ErrInUse = errors.New("segment in use")

// Segment describes one file of the log.
type Segment struct {
	Base, Last uint64 // range of indexes; of a compacted one, not all are there
	Frames     int
	Bytes      int64 // header and frames
	Sealed     bool
	Generation uint64 // how often it was compacted
	Trimmed    bool   // below the first index and the floor: Compact takes it
}

// Segments lists the files in the order of their indexes.
func (l *Log) Segments() []Segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]Segment, 0, len(l.segs))
	for _, s := range l.segs {
		out = append(out, Segment{
			Base: s.base, Last: s.last(), Frames: s.count, Bytes: s.end, Sealed: s.sealed,
			Generation: s.gen, Trimmed: l.trimmed(s),
		})
	}
	return out
}

// trimmed reports whether raft asks for no entry of s any more. The caller
// holds mu.
func (l *Log) trimmed(s *segment) bool {
	return l.cfg.Trim == Keep && s.sealed && l.last != 0 && s.last() < min(l.first, l.floor)
}

// NewestTime returns when the newest entry of a segment was appended at its
// leader; zero if no entry near its end says so.
func (l *Log) NewestTime(s Segment) time.Time {
	for i := s.Last; i >= s.Base && i > 0 && s.Last-i < 64; i-- {
		var e raft.Log
		if l.Meta(i, &e) == nil && !e.AppendedAt.IsZero() {
			return e.AppendedAt
		}
	}
	return time.Time{}
}

// Sizes calls f with the index of each frame of a segment and the octets that
// it takes.
func (l *Log) Sizes(base uint64, f func(index uint64, size int64)) error {
	s, h, err := l.hold(base)
	if err != nil {
		return err
	}
	defer h.release()
	for i := range h.offs {
		end := s.end
		if i+1 < len(h.offs) {
			end = int64(h.offs[i+1])
		}
		f(s.indexOf(h, i), end-int64(h.offs[i]))
	}
	return nil
}

// indexOf returns the index of the i-th frame.
func (s *segment) indexOf(h *handle, i int) uint64 {
	if s.compacted() {
		return s.base + uint64(h.rel[i])
	}
	return s.base + uint64(i)
}

// hold returns the sealed segment that begins at base, with its handle open
// and referenced.
func (l *Log) hold(base uint64) (*segment, *handle, error) {
	for {
		l.mu.RLock()
		if err := l.usable(); err != nil {
			l.mu.RUnlock()
			return nil, nil, err
		}
		i := slices.IndexFunc(l.segs, func(s *segment) bool { return s.base == base })
		if i < 0 || !l.segs[i].sealed {
			l.mu.RUnlock()
			return nil, nil, fmt.Errorf("seglog: no sealed segment begins at %d: %w", base, ErrInUse)
		}
		s := l.segs[i]
		if h := s.h; h != nil {
			h.refs.Add(1)
			l.mu.RUnlock()
			return s, h, nil
		}
		l.mu.RUnlock()
		if err := l.load(s); err != nil {
			return nil, nil, err
		}
	}
}

// Compacted is what Compact did.
type Compacted struct {
	Kept, Dropped int   // frames
	Before, After int64 // octets of the file
}

// Hold keeps the files of the log as they are, for somebody who reads them by
// name or makes a copy of the rows that belong to them: until release no
// segment is replaced by a compacted one. Appending goes on.
func (l *Log) Hold() (release func()) {
	l.pmu.Lock()
	defer l.pmu.Unlock()
	l.pins++
	return sync.OnceFunc(func() {
		l.pmu.Lock()
		defer l.pmu.Unlock()
		l.pins--
	})
}

// Compact replaces the sealed segment that begins at base by one with the
// frames that keep wants, with the same indexes and octets. It must lie below
// the first index and the floor: ErrInUse otherwise, and while somebody holds the files.
// pace is told of the octets read and written and may wait; its error ends the
// call, which then has changed nothing.
//
// The new file is whole and durable before it gets its name, and the old one is
// removed after the name is durable: a crash leaves the old one, the new one or
// both, of which Open takes the new one. A frame that is wanted and damaged is
// ErrCorrupt: it is to be repaired first. One call at a time.
func (l *Log) Compact(base uint64, keep func(index uint64) bool, pace func(octets int) error) (Compacted, error) {
	if err := l.writable(); err != nil {
		return Compacted{}, err
	}
	l.cmu.Lock()
	defer l.cmu.Unlock()
	defer l.keep.settle()
	s, h, err := l.hold(base)
	if err != nil {
		return Compacted{}, err
	}
	defer h.release()
	if err := l.compactable(s); err != nil {
		return Compacted{}, err
	}
	w := compactor{l: l, old: s, pace: pace}
	w.new = &segment{header: s.header, seed: s.seed, end: headerSize, sealed: true}
	w.new.gen, w.new.until = s.gen+1, s.last()+1
	w.new.name = w.new.header.name()
	tmp := l.path(w.new.name) + ".tmp"
	err = w.write(tmp, h, keep)
	if err != nil {
		_ = l.fs.Remove(tmp) // best effort: Open removes it
		return Compacted{}, err
	}
	if err := w.publish(tmp); err != nil {
		return Compacted{}, err
	}
	return w.done, nil
}

// compactable returns why s cannot be replaced now.
func (l *Log) compactable(s *segment) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.trimmed(s) || !slices.Contains(l.segs, s) {
		return fmt.Errorf("seglog: entries %d to %d: %w", s.base, s.last(), ErrInUse)
	}
	return l.usable()
}

// compactor writes one compacted segment.
type compactor struct {
	l        *Log
	old, new *segment
	pace     func(int) error
	done     Compacted

	f    fsx.File
	buf  []byte // not yet written
	at   int64  // where it goes
	offs []uint32
	rel  []uint32
}

// write makes the file, durable, without its name.
func (w *compactor) write(tmp string, h *handle, keep func(uint64) bool) (err error) {
	w.f, err = w.l.fs.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("seglog: compact: %w", err)
	}
	defer func() {
		if cerr := w.f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("seglog: compact: %w", cerr)
		}
	}()
	w.buf = make([]byte, headerSize, windowSize+headerSize)
	w.new.put(w.buf)
	if err := w.copyFrames(h, keep); err != nil {
		return err
	}
	w.new.end, w.new.count = w.at+int64(len(w.buf)), len(w.offs)
	if err := w.flush(true); err != nil {
		return err
	}
	w.buf = append(w.buf, sealBytes(w.new, w.offs, w.rel, w.new.end)...)
	if err := w.flush(false); err != nil {
		return err
	}
	w.done.Before, w.done.After = w.old.end, w.at
	return nil
}

// copyFrames appends the frames to keep.
func (w *compactor) copyFrames(h *handle, keep func(uint64) bool) error {
	for i := range h.offs {
		index := w.old.indexOf(h, i)
		if index >= w.new.until {
			break
		}
		if !keep(index) {
			w.done.Dropped++
			continue
		}
		off, end := int64(h.offs[i]), w.old.end
		if i+1 < len(h.offs) {
			end = int64(h.offs[i+1])
		}
		n := len(w.buf)
		w.buf = slices.Grow(w.buf, int(end-off))[:n+int(end-off)]
		b := w.buf[n:]
		if got, err := h.f.ReadAt(b, off); got < len(b) {
			return fmt.Errorf("seglog: entry %d: %w", index, err)
		}
		fr, err := parseFrame(b, w.old.seed)
		if err != nil || fr.index != index || fr.len() != end-off || fr.check(b[frameSize:], w.old.seed) != nil {
			return place{h: h, off: off}.corrupt(index)
		}
		w.offs, w.rel = append(w.offs, uint32(w.at+int64(n))), append(w.rel, uint32(index-w.new.base))
		w.done.Kept++
		if len(w.buf) >= windowSize {
			if err := w.flush(true); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what is gathered, read and written once each.
func (w *compactor) flush(frames bool) error {
	if err := w.l.usable(); err != nil {
		return err
	}
	if w.pace != nil {
		if err := w.pace(2 * len(w.buf)); err != nil {
			return err
		}
	}
	if frames {
		w.new.fileCRC = crc32.Update(w.new.fileCRC, castagnoli, w.buf)
	}
	if _, err := w.f.WriteAt(w.buf, w.at); err != nil {
		return w.broken(err)
	}
	// Not all at the end: the log's own flushes would wait for it.
	if err := w.f.Sync(); err != nil {
		return w.broken(err)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// broken sorts out an error of writing: the log goes on without space only.
func (w *compactor) broken(err error) error {
	if errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("seglog: compact: %w", err)
	}
	return w.l.fail(err)
}

// publish gives the new file its name and takes it into use.
func (w *compactor) publish(tmp string) error {
	l := w.l
	l.pmu.Lock()
	defer l.pmu.Unlock()
	err := l.compactable(w.old)
	if err == nil && l.pins > 0 {
		err = fmt.Errorf("seglog: entries %d to %d are being read: %w", w.old.base, w.old.last(), ErrInUse)
	}
	if err != nil {
		_ = l.fs.Remove(tmp) // best effort
		return err
	}
	if err := l.fs.Rename(tmp, l.path(w.new.name)); err != nil {
		return l.fail(err)
	}
	if err := l.fs.SyncDir(l.cfg.Dir); err != nil {
		return l.fail(err)
	}
	l.mu.Lock()
	// It is still there: nothing below the floor is ever discarded.
	l.segs[slices.Index(l.segs, w.old)] = w.new
	l.mu.Unlock()
	l.keep.remove(w.old)
	return nil
}

// dropReplaced leaves out segments of which there is a newer generation. A
// crash may have kept the old file or brought it back.
func (l *Log) dropReplaced(files []found) ([]found, error) {
	newest := map[[2]uint64]found{}
	for _, f := range files {
		key := [2]uint64{f.seq, f.base}
		switch have, ok := newest[key]; {
		case !ok:
			newest[key] = f
		case have.salt != f.salt || have.gen == f.gen:
			return nil, fmt.Errorf("seglog: %s and %s have one sequence number: %w", have.name, f.name, ErrCorrupt)
		default:
			if have.gen > f.gen {
				have, f = f, have
			}
			newest[key] = f
			if !l.whole(f) {
				return nil, fmt.Errorf("seglog: %s is not whole, %s is there too: %w", f.name, have.name, ErrCorrupt)
			}
			l.keep.remove(&segment{header: have.header, name: have.name})
		}
	}
	return slices.DeleteFunc(files, func(f found) bool { return newest[[2]uint64{f.seq, f.base}].name != f.name }), nil
}

// whole reports whether a file has its seal and its table.
func (l *Log) whole(f found) bool {
	file, err := fsx.Open(l.fs, l.path(f.name))
	if err != nil {
		return false
	}
	defer file.Close()
	sl, ok := readSeal(file, f.header, f.size)
	if !ok {
		return false
	}
	_, _, err = readTable(file, f.header, sl)
	return err == nil
}

// scanCompacted finds the frames of a compacted segment from the start.
func scanCompacted(f fsx.File, h header, end int64) (offs, rel []uint32, err error) {
	w := window{f: f, size: end}
	seed, next := seedOf(h.salt), h.base
	for at := int64(headerSize); at < end; {
		fr, raw, err := w.frame(at, seed)
		if err != nil && !errors.Is(err, errFrame) {
			return nil, nil, err
		}
		if err != nil || fr.index < next || fr.index >= h.until {
			return offs, rel, fmt.Errorf("seglog: %s: bad frame at %d: %w", f.Name(), at, ErrCorrupt)
		}
		offs, rel = append(offs, uint32(at)), append(rel, uint32(fr.index-h.base))
		at, next = at+int64(len(raw)), fr.index+1
	}
	return offs, rel, nil
}
