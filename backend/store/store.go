package store

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Bodies reads entries of the log. Any number of calls may run at once.
type Bodies interface {
	// ReadEntry returns the data of the entry at index after checking its
	// checksum, in buf when it is large enough.
	ReadEntry(index uint64, buf []byte) ([]byte, error)
}

// Damaged reports whether an error of a store says that its files, or its rows,
// are not as they were written.
func Damaged(err error) bool {
	return errors.Is(err, pebble.ErrCorruption) || errors.Is(err, errFiles) || errors.Is(err, ErrInconsistent) || errors.Is(err, errRow)
}

var errFiles = errors.New("files damaged")

// FS is the file system under the rows.
type FS = vfs.FS

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("store: not found")

// Options of Open. Zero fields take the defaults named.
type Options struct {
	FS            FS           // the operating system's
	CacheSize     int64        // octets of blocks kept in memory, 64 MB
	MemTableSize  int          // octets gathered before they are written, 64 MB; three times as many at most
	MaxOpenFiles  int          // 1000
	Log           *slog.Logger // none
	OnDiskFailure func(error)  // told of writes that failed in the background; nil panics
	ReadOnly      bool         // dir is a checkpoint, and stays as it is; batches fail
}

// Store is the rows of one replica. Its methods may be called at any time
// from any goroutine until Close.
type Store struct {
	db     *pebble.DB
	bodies Bodies
	keys   keyFilter // used by the batch only

	readOnly bool
	room     *room         // nil: nothing is written
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the keys are loaded
}

// Open opens the store in dir, or makes it. Bodies may be nil for a store
// whose messages are not read.
func Open(dir string, bodies Bodies, o Options) (*Store, error) {
	if o.CacheSize == 0 {
		o.CacheSize = 64 << 20
	}
	if o.MemTableSize == 0 {
		o.MemTableSize = 64 << 20
	}
	if o.MaxOpenFiles == 0 {
		o.MaxOpenFiles = 1000
	}
	if o.OnDiskFailure == nil {
		o.OnDiskFailure = func(err error) { panic(fmt.Sprintf("store: write in the background: %v", err)) }
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	s := &Store{bodies: bodies, readOnly: o.ReadOnly, stop: make(chan struct{}), done: make(chan struct{})}
	if !o.ReadOnly {
		s.room = newRoom(o.FS, dir, reserveTables*int64(o.MemTableSize))
		s.room.kept = true // of the run before, perhaps
		o.FS = s.room
	}
	po := &pebble.Options{
		FS:                          o.FS,
		CacheSize:                   o.CacheSize,
		MemTableSize:                uint64(o.MemTableSize),
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                o.MaxOpenFiles,
		DisableWAL:                  true,
		ReadOnly:                    o.ReadOnly,
		FormatMajorVersion:          formatMajorVersion,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       32,
		LBaseMaxBytes:               128 << 20,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      logger{o.Log, o.OnDiskFailure},
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			if !noRoom(err) { // a compaction, which comes again
				o.OnDiskFailure(err)
			}
		}},
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		po.Levels[i].BlockSize = 16 << 10
		po.Levels[i].IndexBlockSize = 64 << 10
	}
	db, err := pebble.Open(dir, po)
	if err != nil {
		// What the system does not refuse, the files do; one that is missing too.
		var refused syscall.Errno
		if !errors.As(err, &refused) || refused == syscall.ENOENT {
			err = fmt.Errorf("%w: %w", errFiles, err)
		}
		return nil, fmt.Errorf("store: open: %w", err)
	}
	s.db = db
	if s.room != nil {
		s.room.keep()
	}
	s.keys.loading, s.keys.unsure = true, forever
	go func() {
		defer close(s.done)
		s.keys.load(s, s.stop)
	}()
	return s, nil
}

// memTables is how many memtables there may be before writes wait.
const memTables = 3

// formatMajorVersion is the version of pebble's files. It is raised by a
// release only after the one before it reads the new version.
const formatMajorVersion = pebble.FormatValueSeparation

// Close writes what is in memory and closes the store. Readers must be closed.
// On a full disk it is ErrNoRoom: everything is as after a crash, but that the
// files are let go of only when the process ends.
func (s *Store) Close() error {
	close(s.stop)
	<-s.done
	var ferr error
	if !s.readOnly {
		ferr = s.Flush()
		close(s.room.stop)
		s.room.done.Wait()
	}
	if errors.Is(ferr, ErrNoRoom) {
		return fmt.Errorf("store: close: %w", ferr)
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	if ferr != nil {
		return fmt.Errorf("store: flush at close: %w", ferr)
	}
	return nil
}

// Flush returns once everything committed before the call is on disk. When the
// disk is full and stays so, it is ErrNoRoom.
func (s *Store) Flush() error {
	if s.readOnly {
		return fmt.Errorf("store: flush: %w", pebble.ErrReadOnly)
	}
	if s.room.isStuck() { // another memtable in the queue helps nobody
		return fmt.Errorf("store: flush: %w", ErrNoRoom)
	}
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("store: flush: %w", err)
	}
	tick := time.NewTicker(s.room.retry)
	defer tick.Stop()
	for {
		select {
		case <-flushed:
			return nil
		case <-tick.C:
			if s.room.isStuck() {
				return fmt.Errorf("store: flush: %w", ErrNoRoom)
			}
		}
	}
}

// Checkpoint makes a consistent copy of the store in dir, which must not
// exist, by hard links where the file system allows it.
func (s *Store) Checkpoint(dir string) error {
	if err := s.Flush(); err != nil { // there is no other log of what is in memory
		return fmt.Errorf("store: checkpoint: %w", err)
	}
	if err := s.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("store: checkpoint: %w", err)
	}
	return nil
}

// logger sends pebble's words to slog. Pebble calls Fatalf when it cannot go
// on, and expects that it does not return.
type logger struct {
	log  *slog.Logger
	fail func(error)
}

func (l logger) Infof(format string, args ...any) {
	if l.log != nil {
		l.log.Debug("store", "event", fmt.Sprintf(format, args...))
	}
}

func (l logger) Errorf(format string, args ...any) {
	if l.log != nil {
		l.log.Error("store", "event", fmt.Sprintf(format, args...))
	}
}

func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("store: "+format, args...)
	l.fail(err)
	panic(err)
}

// get copies the value of key into buf.
func (s *Store) get(key, buf []byte) ([]byte, error) {
	v, closer, err := s.db.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, ErrNotFound
		}
		return nil, fmt.Errorf("store: %w", err)
	}
	buf = append(buf[:0], v...)
	closer.Close()
	return buf, nil
}

// State returns what the store has of itself; the zero State when it is new.
func (s *Store) State() (State, error) {
	var st State
	v, err := s.get([]byte{kindState}, nil)
	if errors.Is(err, ErrNotFound) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := st.decode(v); err != nil {
		return st, err
	}
	if v, err = s.get([]byte{kindFormat}, v); errors.Is(err, ErrNotFound) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	r := fields{b: v}
	st.Format = r.uint32()
	return st, r.end()
}
