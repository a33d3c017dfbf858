package seglog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/fsx"
)

// retryLow is how often a reservation is tried again while the disk is full.
const retryLow = time.Second

// keeper does what StoreLogs must not wait for, in order: it reserves
// segments ahead, gives them their names, seals, removes and recycles them,
// and writes the first index.
type keeper struct {
	l   *Log
	low atomic.Bool

	mu    sync.Mutex // guards queue and ended
	queue []func() error
	ended bool
	wake  chan struct{} // buffered
	done  chan struct{}

	pmu   sync.Mutex // guards what follows
	ready []*prepared
}

// prepared is a file with reserved space and a durable name.
type prepared struct {
	name string
	f    fsx.File
	size int64
}

// spares is the number of prepared files to keep: one ahead of need, and one
// more when segments are recycled anyway.
func (k *keeper) spares() int {
	if k.l.cfg.Trim == Recycle {
		return 2
	}
	return 1
}

func newKeeper(l *Log) *keeper {
	return &keeper{l: l, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

func (k *keeper) start() {
	if k.l.cfg.inline || k.l.cfg.ReadOnly {
		close(k.done)
		return
	}
	go k.run()
}

func (k *keeper) run() {
	defer close(k.done)
	for {
		k.drain()
		k.mu.Lock()
		ended := k.ended && len(k.queue) == 0
		k.mu.Unlock()
		if ended {
			return
		}
		var retry <-chan time.Time
		if k.low.Load() {
			retry = time.After(retryLow)
		}
		select {
		case <-k.wake:
		case <-retry:
			k.prepare()
		}
	}
}

// drain does all that is queued.
func (k *keeper) drain() {
	for {
		k.mu.Lock()
		if len(k.queue) == 0 {
			k.mu.Unlock()
			return
		}
		task := k.queue[0]
		k.queue = k.queue[1:]
		k.mu.Unlock()
		if k.l.failed.Load() != nil {
			continue
		}
		if err := task(); err != nil {
			_ = k.l.fail(err)
		}
	}
}

// later queues a task. An error of the task is the end of the log.
func (k *keeper) later(task func() error) {
	if k.l.cfg.ReadOnly {
		return
	}
	k.mu.Lock()
	k.queue = append(k.queue, task)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// settle does the queued work on the spot where tests want that.
func (k *keeper) settle() {
	if k.l.cfg.inline {
		k.drain()
	}
}

// stop does what is still queued and ends the goroutine.
func (k *keeper) stop() {
	k.mu.Lock()
	k.ended = true
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
	<-k.done
	k.drain()
	k.pmu.Lock()
	defer k.pmu.Unlock()
	for _, p := range k.ready {
		_ = p.f.Close() // holds nothing yet
	}
	k.ready = nil
}

// take returns a prepared file with room for need bytes.
func (k *keeper) take(need int64) (*prepared, error) {
	k.pmu.Lock()
	defer k.pmu.Unlock()
	if n := len(k.ready); n > 0 && need <= k.ready[0].size {
		p := k.ready[0]
		k.ready = k.ready[1:]
		return p, nil
	}
	size := k.l.cfg.SegmentSize
	if need > size {
		size = (need + 4095) &^ 4095
	}
	p, err := k.create(size)
	if errors.Is(err, ErrNoSpace) {
		return nil, err
	}
	if err != nil {
		return nil, k.l.fail(err)
	}
	return p, nil
}

// create reserves a new file. The caller holds pmu.
func (k *keeper) create(size int64) (*prepared, error) {
	name := fmt.Sprintf("%016x%s", k.l.cfg.salt(), preSuffix)
	p, err := k.reserve(name, size, os.O_CREATE|os.O_EXCL)
	k.low.Store(errors.Is(err, ErrNoSpace))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		_ = k.l.fs.Remove(k.l.path(name)) // best effort: Open removes it
	}
	return p, err
}

func (k *keeper) reserve(name string, size int64, flag int) (*prepared, error) {
	f, err := k.l.fs.OpenFile(k.l.path(name), os.O_RDWR|flag, 0o600)
	if err != nil {
		return nil, fmt.Errorf("seglog: %w", err)
	}
	p := &prepared{name: name, f: f, size: size}
	if err = f.Allocate(size); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = k.named()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("seglog: reserve %d bytes: %w", size, err)
	}
	return p, nil
}

// prepare reserves the next segment ahead of need.
func (k *keeper) prepare() {
	k.later(func() error {
		k.pmu.Lock()
		defer k.pmu.Unlock()
		if len(k.ready) > 0 {
			return nil
		}
		p, err := k.create(k.l.cfg.SegmentSize)
		if errors.Is(err, ErrNoSpace) {
			k.l.cfg.Logger.Warn("no space for the next log segment", "dir", k.l.cfg.Dir, "err", err)
			return nil
		}
		if err == nil {
			k.ready = append(k.ready, p)
		}
		return err
	})
}

// rename gives a segment, whose header is durable, its name. Open finds it
// under the old one too.
func (k *keeper) rename(s *segment) {
	k.later(func() error {
		l := k.l
		l.mu.RLock()
		old, name := s.name, s.header.name()
		l.mu.RUnlock()
		if err := l.fs.Rename(l.path(old), l.path(name)); err != nil {
			return fmt.Errorf("seglog: %w", err)
		}
		l.mu.Lock()
		s.name = name
		l.mu.Unlock()
		return l.fs.SyncDir(l.cfg.Dir)
	})
}

// seal finishes a segment that takes no more frames.
func (k *keeper) seal(s *segment) {
	k.later(func() error {
		l := k.l
		l.mu.RLock()
		h := s.h
		l.mu.RUnlock()
		if h == nil {
			return nil // superseded meanwhile
		}
		at := s.room - sealLen(s.count)
		if l.cfg.Trim == Keep {
			at = align(s.end)
			if err := h.f.Truncate(at + sealLen(s.count)); err != nil {
				return fmt.Errorf("seglog: seal: %w", err)
			}
		}
		if _, err := h.f.WriteAt(sealBytes(s, h.offs, nil, at), at); err != nil {
			return fmt.Errorf("seglog: seal: %w", err)
		}
		if err := h.f.Sync(); err != nil {
			return fmt.Errorf("seglog: seal: %w", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		s.sealed = true
		if s.h != nil {
			l.evict(s)
		}
		return nil
	})
}

// remove deletes a superseded segment. Were the file to come back after a
// crash, it would be superseded again.
func (k *keeper) remove(s *segment) {
	k.later(func() error {
		name := k.drop(s)
		if err := k.l.fs.Remove(k.l.path(name)); err != nil {
			return fmt.Errorf("seglog: %w", err)
		}
		return nil
	})
}

// drop closes a segment's file and returns its name.
func (k *keeper) drop(s *segment) string {
	k.l.mu.Lock()
	defer k.l.mu.Unlock()
	if s.h != nil {
		s.h.release()
		s.h = nil
	}
	return s.name
}

// trimmed makes the first index durable and then uses dead segments again.
func (k *keeper) trimmed(first firstMark, dead []*segment) {
	k.later(func() error {
		l := k.l
		if err := fsx.WriteFileAtomic(l.fs, l.path(firstName), first.encode()); errors.Is(err, ErrNoSpace) {
			l.cfg.Logger.Warn("first index not written", "dir", l.cfg.Dir, "err", err)
		} else if err != nil {
			return fmt.Errorf("seglog: %w", err)
		} else {
			for _, s := range dead {
				if err := k.recycle(s); err != nil {
					return fmt.Errorf("seglog: recycle: %w", err)
				}
			}
			return nil
		}
		for _, s := range dead { // stays on the disk; Open tries again
			k.drop(s)
		}
		return nil
	})
}

// recycle turns a segment that no one needs into a prepared file, or removes
// it if there are enough of those.
func (k *keeper) recycle(s *segment) error {
	l := k.l
	name := k.drop(s)
	k.pmu.Lock()
	defer k.pmu.Unlock()
	if len(k.ready) >= k.spares() || s.room != l.cfg.SegmentSize {
		return l.fs.Remove(l.path(name))
	}
	pre := fmt.Sprintf("%016x%s", l.cfg.salt(), preSuffix)
	if err := l.fs.Rename(l.path(name), l.path(pre)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.cfg.Dir); err != nil {
		return err
	}
	f, err := l.fs.OpenFile(l.path(pre), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := blank(f); err != nil {
		f.Close()
		return err
	}
	k.ready = append(k.ready, &prepared{name: pre, f: f, size: s.room})
	return nil
}

// blank removes the header of a file that is to be used again.
func blank(f fsx.File) error {
	if _, err := f.WriteAt(make([]byte, headerSize), 0); err != nil {
		return err
	}
	return f.Sync()
}

// firstMark is the content of the file of the first index: a line of text with
// its CRC. It does not concern a log restarted in a segment after seq.
type firstMark struct {
	index uint64
	seq   uint64 // of the newest segment at the time
}

const firstName = "first"

func (m firstMark) encode() []byte {
	s := fmt.Sprintf("1 %d %d", m.index, m.seq)
	return fmt.Appendf(nil, "%s %08x\n", s, crcOf([]byte(s)))
}

func parseFirst(data []byte) (m firstMark, err error) {
	var v, crc uint32
	if _, err := fmt.Sscanf(string(data), "%d %d %d %x\n", &v, &m.index, &m.seq, &crc); err != nil {
		return m, fmt.Errorf("seglog: first index: %w: %w", ErrCorrupt, err)
	}
	if v != 1 || string(m.encode()) != string(data) {
		return m, fmt.Errorf("seglog: first index %q: %w", data, ErrCorrupt)
	}
	return m, nil
}
