package seglog

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// GetLog implements raft.LogStore. The entry's slices are shared with the
// cache: they are only read.
func (l *Log) GetLog(index uint64, e *raft.Log) error {
	l.mu.RLock()
	if err := l.usable(); err != nil {
		l.mu.RUnlock()
		return err
	}
	if index < l.first || index > l.last || l.last == 0 {
		l.mu.RUnlock()
		return raft.ErrLogNotFound
	}
	if c := l.cache.get(index); c != nil {
		*e = *c
		l.mu.RUnlock()
		return nil
	}
	l.mu.RUnlock()
	h, payload, err := l.readFrame(index, nil)
	if err != nil {
		return err
	}
	h.entry(payload, e)
	return nil
}

// Meta fills in an entry as GetLog does, without its data and extensions,
// whose CRC is not checked. It reads the frame's header only.
func (l *Log) Meta(index uint64, e *raft.Log) error {
	if err := l.usable(); err != nil {
		return err
	}
	p, err := l.locate(index)
	if err != nil {
		return err
	}
	defer p.h.release()
	var b [frameSize]byte
	if n, err := p.h.f.ReadAt(b[:], p.off); n < len(b) {
		return fmt.Errorf("seglog: entry %d: %w", index, err)
	}
	h, err := parseFrame(b[:], p.seed)
	if err != nil || h.index != index {
		return p.corrupt(index)
	}
	h.size, h.ext = 0, 0
	h.entry(nil, e)
	return nil
}

// ReadEntry returns the data of an entry whose frame is in a file, below the
// first index too, after checking the CRC of the whole frame. The result uses
// buf if it is large enough (data plus 64 bytes). An entry that is not there
// is raft.ErrLogNotFound.
func (l *Log) ReadEntry(index uint64, buf []byte) ([]byte, error) {
	l.mu.RLock()
	if err := l.usable(); err != nil {
		l.mu.RUnlock()
		return nil, err
	}
	if c := l.cache.get(index); c != nil {
		data := append(buf[:0], c.Data...)
		l.mu.RUnlock()
		return data, nil
	}
	l.mu.RUnlock()
	h, payload, err := l.readFrame(index, buf)
	if err != nil {
		return nil, err
	}
	return payload[h.ext:], nil
}

// readFrame reads and checks a frame from its file. The payload is extensions
// and data, in buf if they fit.
func (l *Log) readFrame(index uint64, buf []byte) (frame, []byte, error) {
	p, err := l.locate(index)
	if err != nil {
		return frame{}, nil, err
	}
	defer p.h.release()
	b := slices.Grow(buf[:0], int(p.size))[:p.size]
	if n, err := p.h.f.ReadAt(b, p.off); n < len(b) {
		return frame{}, nil, fmt.Errorf("seglog: entry %d: %w", index, err)
	}
	h, err := parseFrame(b, p.seed)
	if err != nil || h.index != index || h.len() != p.size || h.check(b[frameSize:], p.seed) != nil {
		return frame{}, nil, p.corrupt(index)
	}
	return h, b[frameSize:][:int(h.ext)+int(h.size)], nil
}

// place is where a frame is. Its handle is referenced.
type place struct {
	h    *handle
	seed uint32
	off  int64
	size int64
}

func (p place) corrupt(index uint64) error {
	return fmt.Errorf("seglog: entry %d at %d of %s: %w", index, p.off, p.h.f.Name(), ErrCorrupt)
}

// locate finds a frame, opening its segment if need be.
func (l *Log) locate(index uint64) (place, error) {
	for {
		l.mu.RLock()
		s := l.find(index)
		if s == nil {
			l.mu.RUnlock()
			return place{}, raft.ErrLogNotFound
		}
		if h := s.h; h != nil {
			p, ok := s.place(index)
			if !ok {
				l.mu.RUnlock()
				return place{}, raft.ErrLogNotFound
			}
			h.refs.Add(1)
			l.mu.RUnlock()
			return p, nil
		}
		l.mu.RUnlock()
		if err := l.load(s); err != nil {
			return place{}, err
		}
	}
}

// place returns where a frame of an open segment is, false if compaction has
// left it out. Log.mu is held.
func (s *segment) place(index uint64) (place, bool) {
	i, end := int(index-s.base), s.end
	if s.compacted() {
		var ok bool
		if i, ok = slices.BinarySearch(s.h.rel, uint32(index-s.base)); !ok {
			return place{}, false
		}
	}
	if i+1 < len(s.h.offs) {
		end = int64(s.h.offs[i+1])
	}
	off := int64(s.h.offs[i])
	return place{h: s.h, seed: s.seed, off: off, size: end - off}, true
}

// load opens a sealed segment, and closes the least recently loaded one if there are
// too many. When another one has taken its place meanwhile it does nothing: the
// caller looks again.
func (l *Log) load(s *segment) error {
	l.mu.RLock()
	name := l.path(s.name)
	l.mu.RUnlock()
	f, err := fsx.Open(l.fs, name)
	if errors.Is(err, fs.ErrNotExist) {
		l.mu.RLock()
		replaced := !slices.Contains(l.segs, s)
		l.mu.RUnlock()
		if replaced { // before its file was removed
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return fmt.Errorf("seglog: %w", err)
	}
	sl, ok := readSeal(f, s.header, size)
	if !ok || sl.count != s.count {
		f.Close()
		return fmt.Errorf("seglog: seal of %s: %w", name, ErrCorrupt)
	}
	offs, rel, err := readTable(f, s.header, sl)
	if errors.Is(err, ErrCorrupt) { // the frames say the same
		l.cfg.Logger.Warn("log segment has a damaged table", "file", name)
		offs, rel, err = s.readFrames(f, sl)
		if err == nil && len(offs) != s.count {
			err = fmt.Errorf("seglog: %s: %d of %d frames are good: %w", name, len(offs), s.count, ErrCorrupt)
		}
	}
	if err != nil {
		f.Close()
		return err
	}
	h := newHandle(f, offs)
	h.rel = rel
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.h != nil || l.closed.Load() || !slices.Contains(l.segs, s) {
		h.release()
		return nil
	}
	s.h = h
	l.evict(s)
	return nil
}

// readFrames finds the frames of a sealed segment without its table.
func (s *segment) readFrames(f fsx.File, sl seal) (offs, rel []uint32, err error) {
	if s.compacted() {
		return scanCompacted(f, s.header, sl.end)
	}
	r, err := scan(f, s.header, sl.end)
	return r.offs, nil, err
}

// evict notes that s has been opened and closes the one opened longest ago if
// there are too many. The caller holds mu.
func (l *Log) evict(s *segment) {
	l.open = append(l.open, s)
	if len(l.open) > l.cfg.OpenFiles {
		old := l.open[0]
		l.open = slices.Delete(l.open, 0, 1)
		if old.h != nil {
			old.h.release()
			old.h = nil
		}
	}
}

// Gone reports whether an error of a read says that there is no such entry: it
// was never stored, or compaction has left it out.
func Gone(err error) bool { return errors.Is(err, raft.ErrLogNotFound) }
