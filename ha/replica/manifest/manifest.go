/*
Package manifest is raft's snapshot store for groups whose log is their store:
a snapshot is a note of under 1 KB and never data. It says up to which entry a
replica's state is durable, with the group's configuration at that point.

A note carries a marker, data or witness, and the id of its maker. raft
publishes a snapshot that it received before it asks the state machine, and on
the next start takes its index for applied; so this store looks before it
publishes. On a data replica a witness's note is refused with ErrWitness, and
a note of another data replica, which means that the log no longer reaches
back to what this replica needs, marks the directory with ErrReseed and is
refused too. A witness takes a data replica's note, since it has no state, and
never gives one out (ErrNotSent): it would pass for a state that it is not.

What is to be done about ErrReseed is decided elsewhere; this package fetches
nothing.
*/
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// Errors of a store; they come wrapped.
var (
	// ErrWitness: a witness offered a snapshot.
	ErrWitness = errors.New("a witness's snapshot holds no data")
	// ErrReseed: this replica's state cannot be completed from the log.
	ErrReseed = errors.New("replica must be seeded again")
	// ErrNotSent: a witness's snapshot is not for sending.
	ErrNotSent = errors.New("a witness does not send its snapshot")
	// ErrCorrupt: a note is damaged.
	ErrCorrupt = errors.New("manifest is corrupt")
)

// Kind is the marker of a note.
type Kind string

// The kinds of members.
const (
	Data    Kind = "data"
	Witness Kind = "witness"
)

// Note is what a member writes as its snapshot.
type Note struct {
	Kind    Kind   `json:"kind"`
	Origin  string `json:"origin"`  // id of the member
	Applied uint64 `json:"applied"` // last entry in the durable state
}

// maxNote bounds a note that is received.
const maxNote = 1 << 10

// file is the format on disk: this as JSON, a line with its CRC32C.
type file struct {
	Version            int      `json:"version"`
	Index              uint64   `json:"index"`
	Term               uint64   `json:"term"`
	ConfigurationIndex uint64   `json:"configuration_index"`
	Configuration      []server `json:"configuration"`
	Note               Note     `json:"note"`
}

type server struct {
	ID       string `json:"id"`
	Addr     string `json:"addr"`
	Suffrage int    `json:"suffrage"`
}

const (
	suffix     = ".manifest"
	reseedName = "reseed-needed"
	keep       = 2 // notes on disk
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Store implements raft.SnapshotStore in one directory.
type Store struct {
	fs       fsx.FS
	dir      string
	self     Note // kind and origin of ours
	onReseed func(error)

	mu       sync.Mutex      // guards what follows and the directory
	received map[string]bool // may be opened once, by raft's restore
}

var _ raft.SnapshotStore = (*Store)(nil)

// Open returns the store in dir, which it makes if need be. onReseed is told
// after the directory has been marked; it ends the process.
func Open(fsys fsx.FS, dir string, kind Kind, id string, onReseed func(error)) (*Store, error) {
	if err := fsx.MkdirAllSync(fsys, dir, 0o700); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	s := &Store{fs: fsys, dir: dir, self: Note{Kind: kind, Origin: id}, onReseed: onReseed, received: map[string]bool{}}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	for _, name := range names {
		if fsx.IsTemp(name) {
			if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
				return nil, fmt.Errorf("manifest: %w", err)
			}
		}
	}
	if slices.Contains(names, reseedName) {
		why, _ := fsx.ReadFile(fsys, filepath.Join(dir, reseedName)) // only for the text
		return nil, fmt.Errorf("manifest: %s: %w", bytes.TrimSpace(why), ErrReseed)
	}
	return s, nil
}

// Encode returns the content of a note, as written to a sink.
func (n Note) Encode() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// Newest returns the newest note, false if there is none.
func (s *Store) Newest() (Note, *raft.SnapshotMeta, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names()
	if err != nil || len(names) == 0 {
		return Note{}, nil, false, err
	}
	meta, note, err := s.load(names[0])
	return note, meta, err == nil, err
}

// AppliedOf returns the last entry that the note with this id vouches for.
func (s *Store) AppliedOf(id string) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, note, err := s.load(id + suffix)
	return note.Applied, err
}

// names lists the notes, newest first. The caller holds mu.
func (s *Store) names() ([]string, error) {
	all, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	names := slices.DeleteFunc(all, func(n string) bool { return !strings.HasSuffix(n, suffix) })
	slices.Reverse(names)
	return names, nil
}

func (s *Store) load(name string) (*raft.SnapshotMeta, Note, error) {
	data, err := fsx.ReadFile(s.fs, filepath.Join(s.dir, name))
	if err != nil {
		return nil, Note{}, fmt.Errorf("manifest: %w", err)
	}
	f, err := parse(data)
	if err != nil {
		return nil, Note{}, fmt.Errorf("manifest: %s: %w", name, err)
	}
	m := &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: strings.TrimSuffix(name, suffix), Index: f.Index, Term: f.Term,
		ConfigurationIndex: f.ConfigurationIndex, Size: int64(len(f.Note.Encode())),
	}
	for _, v := range f.Configuration {
		m.Configuration.Servers = append(m.Configuration.Servers, raft.Server{
			ID: raft.ServerID(v.ID), Address: raft.ServerAddress(v.Addr), Suffrage: raft.ServerSuffrage(v.Suffrage),
		})
	}
	return m, f.Note, nil
}

func (f *file) encode() ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b, "\n%08x\n", crc32.Checksum(b, castagnoli)), nil
}

func parse(data []byte) (f file, err error) {
	b, line, ok := bytes.Cut(data, []byte("\n"))
	if !ok || string(line) != fmt.Sprintf("%08x\n", crc32.Checksum(b, castagnoli)) {
		return f, ErrCorrupt
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if f.Version != 1 {
		return f, fmt.Errorf("version %d, this program reads 1", f.Version)
	}
	return f, nil
}

// List implements raft.SnapshotStore.
func (s *Store) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var list []*raft.SnapshotMeta
	for _, name := range names {
		m, _, err := s.load(name)
		if err != nil {
			return nil, err // an older one would move the state back
		}
		list = append(list, m)
	}
	return list, nil
}

// Open implements raft.SnapshotStore. raft opens a snapshot to send it, and
// once to restore one that it received.
func (s *Store) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.self.Kind == Witness && !s.received[id] {
		return nil, nil, fmt.Errorf("manifest: %s: %w", id, ErrNotSent)
	}
	delete(s.received, id)
	m, note, err := s.load(id + suffix)
	if err != nil {
		return nil, nil, err
	}
	return m, io.NopCloser(bytes.NewReader(note.Encode())), nil
}

// Create implements raft.SnapshotStore.
func (s *Store) Create(_ raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	f := file{Version: 1, Index: index, Term: term, ConfigurationIndex: ci}
	for _, v := range c.Servers {
		f.Configuration = append(f.Configuration, server{string(v.ID), string(v.Address), int(v.Suffrage)})
	}
	return &sink{store: s, file: f, id: fmt.Sprintf("%020d-%020d", index, term)}, nil
}

// sink takes a note, from this member's state machine or from the leader.
type sink struct {
	store *Store
	file  file
	id    string
	buf   bytes.Buffer
	ended bool
}

func (k *sink) ID() string { return k.id }

func (k *sink) Write(p []byte) (int, error) {
	if k.buf.Len()+len(p) > maxNote {
		return 0, fmt.Errorf("manifest: note over %d bytes: %w", maxNote, ErrCorrupt)
	}
	return k.buf.Write(p)
}

func (k *sink) Cancel() error {
	k.ended = true
	return nil
}

// Close publishes the note, or refuses it.
func (k *sink) Close() error {
	if k.ended {
		return nil
	}
	k.ended = true
	s := k.store
	if err := json.Unmarshal(k.buf.Bytes(), &k.file.Note); err != nil {
		return fmt.Errorf("manifest: %w: %w", ErrCorrupt, err)
	}
	own := k.file.Note.Kind == s.self.Kind && k.file.Note.Origin == s.self.Origin
	if err := s.admit(&k.file, own); err != nil {
		return err
	}
	data, err := k.file.encode()
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := fsx.WriteFileAtomic(s.fs, filepath.Join(s.dir, k.id+suffix), data); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if !own {
		s.received[k.id] = true
	}
	return s.prune()
}

// prune removes all but the newest notes. The caller holds mu.
func (s *Store) prune() error {
	names, err := s.names()
	if err != nil {
		return err
	}
	for _, name := range names[min(keep, len(names)):] {
		if err := s.fs.Remove(filepath.Join(s.dir, name)); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	return nil
}
