package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// slotSize is the size of one of the two slots of a stable file. A slot is
// magic, sequence (uint64), number of keys and then each key and value with
// its length before it (uint16 each), and the CRC32C of all that at the end.
const slotSize = 4096

var slotMagic = [8]byte{'P', 'S', 'T', 'N', 's', 't', 'b', '1'}

// ErrNoKey is what Get and GetUint64 return for a key never set. Its text is
// the one that raft compares with.
var ErrNoKey = errors.New("not found")

// Stable holds a few small values, raft's term and vote, in one file of two
// slots that are written in turn. After Set returns nil the value is durable;
// a crash during Set leaves the old values or the new ones. It implements
// raft.StableStore and may be used by several goroutines.
type Stable struct {
	onFailure func(error)

	mu     sync.Mutex // guards what follows
	f      fsx.File
	seq    uint64
	keys   []string // sorted
	values map[string][]byte
	failed error
	syncs  int
}

var _ raft.StableStore = (*Stable)(nil)

// OpenStable opens or creates a stable file in a directory that exists.
// onFailure, which may be nil, is told once about a failed write or flush.
func OpenStable(fsys fsx.FS, name string, onFailure func(error)) (*Stable, error) {
	f, err := fsys.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = createStable(fsys, name); err != nil {
			return nil, fmt.Errorf("stable: %w", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("stable: %w", err)
	}
	s := &Stable{onFailure: onFailure, f: f, values: map[string][]byte{}}
	if err := s.read(); err != nil {
		f.Close()
		return nil, err
	}
	// A process that was killed may have written what was read, and flushed
	// nothing of it, the file's name included.
	if err = f.Sync(); err == nil {
		err = fsys.SyncDir(filepath.Dir(name))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("stable: %w", err)
	}
	return s, nil
}

// createStable makes a file whose first slot is valid and empty, so that a
// file with no valid slot is always damage.
func createStable(fsys fsx.FS, name string) (fsx.File, error) {
	empty := Stable{values: map[string][]byte{}}
	data := make([]byte, 2*slotSize)
	copy(data, empty.encode())
	if err := fsx.WriteFileAtomic(fsys, name, data); err != nil {
		return nil, err
	}
	if err := fsys.SyncDir(filepath.Dir(name)); err != nil {
		return nil, err
	}
	return fsys.OpenFile(name, os.O_RDWR, 0)
}

// read takes the valid slot with the higher sequence.
func (s *Stable) read() error {
	var b [2 * slotSize]byte
	if n, err := s.f.ReadAt(b[:], 0); n < len(b) {
		return fmt.Errorf("stable: %s has %d bytes: %w: %w", s.f.Name(), n, ErrCorrupt, err)
	}
	found := false
	for i := range 2 {
		seq, values, err := parseSlot(b[i*slotSize:][:slotSize])
		if err == nil && (!found || seq > s.seq) {
			s.seq, s.values, found = seq, values, true
		}
	}
	if !found {
		return fmt.Errorf("stable: %s: no valid slot: %w", s.f.Name(), ErrCorrupt)
	}
	for k := range s.values {
		s.keys = append(s.keys, k)
	}
	slices.Sort(s.keys)
	return nil
}

func (s *Stable) encode() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, slotSize), slotMagic[:]...)
	b = le.AppendUint64(b, s.seq)
	b = le.AppendUint16(b, uint16(len(s.keys)))
	for _, k := range s.keys {
		b = le.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
		b = le.AppendUint16(b, uint16(len(s.values[k])))
		b = append(b, s.values[k]...)
	}
	if len(b) > slotSize-4 {
		return nil
	}
	b = b[:slotSize-4]
	return le.AppendUint32(b, crcOf(b))
}

func parseSlot(b []byte) (seq uint64, values map[string][]byte, err error) {
	le := binary.LittleEndian
	if len(b) != slotSize || [8]byte(b[:8]) != slotMagic || le.Uint32(b[slotSize-4:]) != crcOf(b[:slotSize-4]) {
		return 0, nil, errFrame
	}
	seq = le.Uint64(b[8:])
	n, b := int(le.Uint16(b[16:])), b[18:slotSize-4]
	field := func() (v []byte) {
		if len(b) < 2 || len(b)-2 < int(le.Uint16(b)) {
			err = errFrame
			return nil
		}
		v, b = b[2:][:le.Uint16(b)], b[2+le.Uint16(b):]
		return slices.Clone(v)
	}
	values = map[string][]byte{}
	for range n {
		k := field()
		v := field()
		if err != nil {
			return 0, nil, err
		}
		values[string(k)] = v
	}
	return seq, values, nil
}

// Set implements raft.StableStore. Setting the value that a key has already
// writes nothing.
func (s *Stable) Set(key, val []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return fmt.Errorf("stable: %w: %w", ErrFailed, s.failed)
	}
	old, had := s.values[string(key)]
	if had && string(old) == string(val) {
		return nil
	}
	keys := s.keys
	if !had {
		s.keys = append(slices.Clone(keys), string(key))
		slices.Sort(s.keys)
	}
	s.values[string(key)] = slices.Clone(val)
	s.seq++
	b := s.encode()
	if b == nil {
		s.keys, s.values[string(key)] = keys, old
		s.seq--
		if !had {
			delete(s.values, string(key))
		}
		return fmt.Errorf("stable: %s: %w", key, ErrTooLarge)
	}
	_, err := s.f.WriteAt(b, int64(s.seq%2)*slotSize)
	if err == nil {
		err = s.f.Sync()
	}
	s.syncs++
	if err == nil {
		return nil
	}
	s.failed = err
	if s.onFailure != nil {
		s.onFailure(err)
	}
	return fmt.Errorf("stable: %w: %w", ErrFailed, err)
}

// Get implements raft.StableStore.
func (s *Stable) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.values[string(key)]; ok {
		return slices.Clone(v), nil
	}
	return nil, ErrNoKey
}

// SetUint64 implements raft.StableStore.
func (s *Stable) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.LittleEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	v, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("stable: %s has %d bytes: %w", key, len(v), ErrCorrupt)
	}
	return binary.LittleEndian.Uint64(v), nil
}

// Syncs returns the number of flushes since the file was opened.
func (s *Stable) Syncs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.syncs
}

// Close closes the file.
func (s *Stable) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = ErrClosed
	}
	return s.f.Close()
}
