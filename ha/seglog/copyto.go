package seglog

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/postern-mail/postern/shared/fsx"
)

// copyTries is how often CopyTo begins again because the keeper renamed or
// removed a file meanwhile.
const copyTries = 10

// CopyTo puts what the log holds at one moment into dir, an empty directory on
// the same file system, as files that Open takes: sealed segments as hard
// links, the flushed part of the others as copies. It returns the last index in
// them. Writing and trimming go on beside it.
func (l *Log) CopyTo(dir string) (last uint64, err error) {
	if err := fsx.MkdirAllSync(l.fs, dir, 0o700); err != nil {
		return 0, fmt.Errorf("seglog: copy: %w", err)
	}
	for range copyTries {
		if last, err = l.copyTo(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err := l.emptyDir(dir); err != nil {
			return 0, err
		}
	}
	if err != nil {
		return 0, fmt.Errorf("seglog: copy: %w", err)
	}
	return last, nil
}

// piece is a segment as it is copied.
type piece struct {
	from, name string
	end        int64
	h          *handle // referenced; nil: sealed, to be linked
}

func (l *Log) copyTo(dir string) (uint64, error) {
	parts, mark, last, err := l.pieces()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, p := range parts {
			if p.h != nil {
				p.h.release()
			}
		}
	}()
	for _, p := range parts {
		to := filepath.Join(dir, p.name)
		if p.h == nil {
			err = l.fs.Link(l.path(p.from), to)
		} else {
			err = l.copyPiece(p, to)
		}
		if err != nil {
			return 0, err
		}
	}
	if mark.index > 0 {
		if err := fsx.WriteFileAtomic(l.fs, filepath.Join(dir, firstName), mark.encode()); err != nil {
			return 0, err
		}
	}
	return last, l.fs.SyncDir(dir)
}

// pieces lists the segments as they are now.
func (l *Log) pieces() (parts []piece, mark firstMark, last uint64, err error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := l.usable(); err != nil {
		return nil, mark, 0, err
	}
	for _, s := range l.segs {
		if s.fresh {
			continue // its header is not on the disk yet
		}
		p := piece{from: s.name, name: s.name, end: s.end}
		if !isSegment(p.name) {
			p.name = s.header.name()
		}
		if !s.sealed {
			if s.h == nil {
				return nil, mark, 0, fmt.Errorf("segment %s is neither sealed nor open: %w", s.name, ErrCorrupt)
			}
			s.h.refs.Add(1)
			p.h = s.h
		}
		parts = append(parts, p)
	}
	return parts, firstMark{l.first, l.seq}, l.last, nil
}

// copyPiece copies the frames of a segment that is written to.
func (l *Log) copyPiece(p piece, to string) error {
	f, err := fsx.Create(l.fs, to)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, windowSize)
	for off := int64(0); off < p.end; {
		b := buf[:min(int64(len(buf)), p.end-off)]
		if n, err := p.h.f.ReadAt(b, off); n < len(b) {
			return err
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return f.Sync()
}

// emptyDir removes the files of a copy that is begun again.
func (l *Log) emptyDir(dir string) error {
	names, err := l.fs.ReadDir(dir)
	for _, name := range names {
		if err == nil {
			err = l.fs.Remove(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return fmt.Errorf("seglog: copy: %w", err)
	}
	return nil
}

// CheckFile reads a segment file from start to end and compares it with its
// checksums: that of the whole file if it is sealed, else those of its frames.
// It is for files that no Log has open for writing.
func CheckFile(fsys fsx.FS, name string) error {
	f, err := fsx.Open(fsys, name)
	if err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	w := window{f: f, size: size}
	b, err := w.peek(0, headerSize)
	if err == nil {
		_, _, err = parseHeader(b)
	}
	if err != nil {
		return fmt.Errorf("seglog: %s: %w: %w", name, ErrCorrupt, err)
	}
	h, _, _ := parseHeader(b)
	sl, ok := readSeal(f, h, size)
	if !ok {
		r, err := scan(f, h, size)
		if err == nil && r.end != size {
			err = fmt.Errorf("seglog: %s: %d of %d bytes are good: %w", name, r.end, size, ErrCorrupt)
		}
		if err != nil {
			return err
		}
		return w.padded(r.offs, seedOf(h.salt))
	}
	if _, _, err := readTable(f, h, sl); err != nil {
		return err
	}
	crc := uint32(0)
	for off := int64(0); off < sl.end; {
		n := int(min(windowSize, sl.end-off))
		b, err := w.peek(off, n)
		if err != nil {
			return fmt.Errorf("seglog: %s: %w", name, err)
		}
		crc = crc32.Update(crc, castagnoli, b)
		off += int64(n)
	}
	if crc != sl.fileCRC {
		return fmt.Errorf("seglog: %s: checksum of the whole file: %w", name, ErrCorrupt)
	}
	return nil
}

// padded checks that frames are filled up with zeros: the CRCs of frames do not
// cover the filling.
func (w *window) padded(offs []uint32, seed uint32) error {
	for _, off := range offs {
		h, raw, err := w.frame(int64(off), seed)
		if err != nil {
			return fmt.Errorf("seglog: %s: at %d: %w", w.f.Name(), off, err)
		}
		if used := frameSize + int64(h.ext) + int64(h.size); !bytes.Equal(raw[used:], padding[:len(raw)-int(used)]) {
			return fmt.Errorf("seglog: %s: the frame at %d is not filled up with zeros: %w", w.f.Name(), off, ErrCorrupt)
		}
	}
	return nil
}
