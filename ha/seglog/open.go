package seglog

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/postern-mail/postern/shared/fsx"
)

// Open opens the log in cfg.Dir, after a crash too. It returns ErrCorrupt if
// data that had been flushed is damaged or missing. One process opens a log at
// a time; keeping others away is up to the caller.
func Open(cfg Config) (*Log, error) {
	cfg.setDefaults()
	l := &Log{cfg: cfg, fs: cfg.FS, cache: cache{limit: cfg.CacheBytes}}
	l.keep = newKeeper(l)
	if !cfg.ReadOnly {
		if err := fsx.MkdirAllSync(l.fs, cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("seglog: %w", err)
		}
	}
	if err := l.recover(); err != nil {
		for _, s := range l.segs {
			if s.h != nil {
				s.h.release()
			}
		}
		for _, p := range l.keep.ready {
			_ = p.f.Close()
		}
		return nil, err
	}
	l.keep.start()
	l.keep.prepare()
	l.keep.settle()
	return l, nil
}

// found is a file with a valid segment header.
type found struct {
	header
	name string
	size int64
}

func (l *Log) recover() error {
	files, err := l.list()
	if err != nil {
		return err
	}
	first, err := l.readFirst()
	if err != nil {
		return err
	}
	files, err = l.dropReplaced(files)
	if err != nil {
		return err
	}
	files = l.dropSuperseded(files)
	for i, f := range files {
		if err := l.recoverSegment(f, len(files)-1-i, first); err != nil {
			return err
		}
	}
	return l.conclude(first)
}

// dropSuperseded leaves out segments that a later one supersedes as a whole.
// Some of them may be gone already, in any order.
func (l *Log) dropSuperseded(files []found) []found {
	kept, lowest := files[:0:0], uint64(math.MaxUint64)
	for _, f := range slices.Backward(files) {
		if f.base >= lowest {
			l.keep.remove(&segment{header: f.header, name: f.name})
			continue
		}
		kept, lowest = append(kept, f), f.base
	}
	slices.Reverse(kept)
	return kept
}

// list returns the segments in sequence. It removes what a crash left that
// holds nothing, and takes over a prepared file.
func (l *Log) list() ([]found, error) {
	names, err := l.fs.ReadDir(l.cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("seglog: %w", err)
	}
	var segs, pres []found
	var blanks []string
	for _, name := range names {
		switch {
		case l.cfg.ReadOnly && !isSegment(name):
		case fsx.IsTemp(name):
			if err := l.fs.Remove(l.path(name)); err != nil {
				return nil, fmt.Errorf("seglog: %w", err)
			}
		case isSegment(name), isPrepared(name):
			f, err := l.readHeader(name)
			switch {
			case err == nil && isSegment(name):
				segs = append(segs, f)
			case err == nil:
				pres = append(pres, f)
			case isSegment(name):
				return nil, fmt.Errorf("seglog: %s: %w: %w", name, ErrCorrupt, err)
			default:
				blanks = append(blanks, name)
			}
		}
	}
	bySeq := func(a, b found) int { return int(int64(a.seq - b.seq)) }
	slices.SortFunc(segs, bySeq)
	slices.SortFunc(pres, bySeq)
	highest := uint64(0)
	if len(segs) > 0 {
		highest = segs[len(segs)-1].seq
	}
	for _, p := range pres {
		// A prepared file with a header newer than all segments is one whose
		// rename was not finished; an older one is being recycled.
		if p.seq <= highest {
			blanks = append(blanks, p.name)
			continue
		}
		if err := l.sync(p.name); err != nil {
			return nil, err
		}
		name := p.header.name()
		if err := l.fs.Rename(l.path(p.name), l.path(name)); err != nil {
			return nil, fmt.Errorf("seglog: %w", err)
		}
		if err := l.fs.SyncDir(l.cfg.Dir); err != nil {
			return nil, fmt.Errorf("seglog: %w", err)
		}
		p.name = name
		segs = append(segs, p)
	}
	return segs, l.adopt(blanks)
}

// sync makes a file durable as it was found.
func (l *Log) sync(name string) error {
	f, err := l.fs.OpenFile(l.path(name), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	return nil
}

// adopt uses prepared files that an earlier run left, and removes too many.
func (l *Log) adopt(names []string) error {
	for _, name := range names {
		if len(l.keep.ready) < l.keep.spares() {
			p, err := l.keep.reserve(name, l.cfg.SegmentSize, 0)
			if err == nil {
				if err = blank(p.f); err != nil {
					p.f.Close()
				}
			}
			if err == nil {
				l.keep.ready = append(l.keep.ready, p)
				continue
			}
			if !errors.Is(err, ErrNoSpace) {
				return fmt.Errorf("seglog: %w", err)
			}
		}
		if err := l.fs.Remove(l.path(name)); err != nil {
			return fmt.Errorf("seglog: %w", err)
		}
	}
	return nil
}

func (l *Log) readHeader(name string) (found, error) {
	f, err := fsx.Open(l.fs, l.path(name))
	if err != nil {
		return found{}, err
	}
	defer f.Close()
	r := found{name: name}
	if r.size, err = f.Size(); err != nil {
		return r, err
	}
	var b [headerSize]byte
	if n, err := f.ReadAt(b[:], 0); n < len(b) {
		return r, err
	}
	r.header, _, err = parseHeader(b[:])
	return r, err
}

func (l *Log) readFirst() (firstMark, error) {
	data, err := fsx.ReadFile(l.fs, l.path(firstName))
	if errors.Is(err, fs.ErrNotExist) {
		return firstMark{}, nil
	}
	if err != nil {
		return firstMark{}, fmt.Errorf("seglog: %w", err)
	}
	return parseFirst(data)
}

// newest is the number of segments whose seal may have been being written.
const newest = 3

// recoverSegment adds a segment, which has later ones after it, to the index.
func (l *Log) recoverSegment(f found, later int, first firstMark) error {
	l.seq = max(l.seq, f.seq)
	if err := l.checkOrder(f, first); err != nil {
		return err
	}
	for _, old := range l.supersede(f.base) {
		l.keep.remove(old)
	}
	s := &segment{header: f.header, seed: seedOf(f.salt), name: f.name, room: f.size}
	flag := os.O_RDWR
	if l.cfg.ReadOnly {
		flag = os.O_RDONLY
	}
	file, err := l.fs.OpenFile(l.path(f.name), flag, 0)
	if err != nil {
		return fmt.Errorf("seglog: %w", err)
	}
	sl, ok := readSeal(file, f.header, f.size)
	if ok && later < newest {
		_, _, err := readTable(file, f.header, sl)
		ok = err == nil || f.compacted() // else the seal is written again
	}
	if ok {
		s.count, s.end, s.sealed = sl.count, sl.end, true
		s.fileCRC = sl.fileCRC
		l.segs = append(l.segs, s)
		return file.Close()
	}
	if f.compacted() { // it was complete before it had its name
		file.Close()
		return fmt.Errorf("seglog: %s has no seal: %w", f.name, ErrCorrupt)
	}
	r, err := l.scanMend(file, f.header, f.size)
	if err == nil && !l.cfg.ReadOnly {
		// A process that was killed may have written what was found, and
		// flushed nothing of it.
		if err = file.Sync(); err != nil {
			err = fmt.Errorf("seglog: %w", err)
		}
	}
	if err != nil {
		file.Close()
		return err
	}
	s.count, s.end, s.chain, s.fileCRC = len(r.offs), r.end, r.chain, r.fileCRC
	s.h = newHandle(file, r.offs)
	l.segs = append(l.segs, s)
	if later == 0 && !r.stale {
		l.active = s
		return nil
	}
	// A crash left it without a seal.
	s.room = max(s.room, align(s.end)+sealLen(s.count))
	l.keep.seal(s)
	return nil
}

// checkOrder compares a segment with the one before it: none of the entries
// in between may be missing.
func (l *Log) checkOrder(f found, first firstMark) error {
	if len(l.segs) == 0 {
		return nil
	}
	prev := l.segs[len(l.segs)-1]
	if prev.seq == f.seq {
		return fmt.Errorf("seglog: %s and %s have one sequence number: %w", prev.name, f.name, ErrCorrupt)
	}
	if f.base > prev.last()+1 && !f.gap && f.base > first.index {
		return fmt.Errorf("seglog: entries %d to %d, between %s and %s, are missing: %w",
			prev.last()+1, f.base-1, prev.name, f.name, ErrCorrupt)
	}
	return nil
}

// conclude derives the logical range from the segments.
func (l *Log) conclude(first firstMark) error {
	for i := len(l.segs) - 1; i >= 0; i-- {
		s := l.segs[i]
		if i == len(l.segs)-1 {
			l.last = s.last()
		}
		// The range does not reach back over a gap.
		if i == 0 || s.gap || s.base > l.segs[i-1].last()+1 {
			l.first = s.base
			if first.seq >= s.seq {
				l.first = max(first.index, s.base)
			}
			break
		}
	}
	for _, s := range l.segs {
		if s.compacted() && l.last != 0 {
			l.first = max(l.first, s.until) // some entries up to there are gone
		}
	}
	if l.last < l.first || len(l.segs) == 0 {
		l.next = l.last + 1
		if len(l.segs) == 0 {
			l.next = 0
		}
		l.first, l.last = 0, 0
	}
	if l.cfg.Trim != Recycle {
		return nil
	}
	var dead []*segment
	for len(l.segs) > 1 && l.last != 0 && l.segs[0].last() < l.first {
		dead = append(dead, l.segs[0])
		l.segs = l.segs[1:]
	}
	if len(dead) > 0 {
		l.keep.trimmed(firstMark{l.first, l.seq}, dead)
	}
	return nil
}
