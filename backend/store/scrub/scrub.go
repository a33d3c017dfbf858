/*
Package scrub reads the whole store of a replica, so that damage is found while
the other replica still has what is needed to undo it.

	Pass -> each frame of the log: its CRC
	     -> each message: the hash in its row
	     -> bad and still needed -> Peer.Fetch -> compared -> Log.Repair -> read again

A frame is repaired with what the other replica has under the same index, and
only if every message with octets in it then has the hash that its row says: the
row was written when the message was accepted. A message that has not, though
all its frames read well, is reported: nothing shows which side is right. Damage
in frames that no message needs is counted and left to compaction.

A pass remembers how far it is, so that a restart does not begin it again. It is
paced, reads from the disk and not from memory, and changes nothing but damaged
frames.
*/
package scrub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/pace"
	"github.com/postern-mail/postern/shared/fsx"
)

// Segment is a file of the log.
type Segment struct {
	Base, Last uint64
	Needed     bool // raft may ask for its entries, whatever the rows say
}

// Log is what scrubbing needs of the log.
type Log interface {
	// Segments lists the files in the order of their entries.
	Segments() []Segment
	// ReadFile returns the data of an entry from its file, checked against its
	// CRC, in buf if it fits.
	ReadFile(index uint64, buf []byte) ([]byte, error)
	// Parse returns the data in what the peer's Fetch gave.
	Parse(fetched []byte) (data []byte, err error)
	// Repair puts what Fetch gave in the place of a damaged frame.
	Repair(index uint64, fetched []byte) error
	// Missing reports whether an error of ReadFile says that compaction has
	// removed the entry.
	Missing(err error) bool
}

// Peer is the other data replica.
type Peer interface {
	// Fetch returns the entry at index in the form that Log.Repair takes.
	Fetch(ctx context.Context, index uint64) ([]byte, error)
}

// Config is what New needs. Zero fields take the default named.
type Config struct {
	Log   Log
	Rows  *store.Store
	Peer  Peer   // nil: damage is found and not repaired
	Notes string // file that says how far a pass is
	FS    fsx.FS // of Notes; fsx.OS
	Rate  int64  // octets read a second; 20 MB
	// Slower is how much slower it is to be, for the mail that comes in; nil: never.
	Slower func() int
	Logger *slog.Logger
	Now    func() time.Time
}

// Report is what a pass has found, so far.
type Report struct {
	Begun    time.Time `json:"begun"`
	Finished time.Time `json:"finished,omitzero"` // zero: not yet
	Next     uint64    `json:"next"`              // entry to go on with
	Frames   int64     `json:"frames"`
	Messages int64     `json:"messages"`
	Octets   int64     `json:"octets"`
	Damaged  int64     `json:"damaged"`  // frames
	Repaired int64     `json:"repaired"` // of them
	Unneeded int64     `json:"unneeded"` // of them, no message has octets there
	Wrong    int64     `json:"wrong"`    // messages without their hash
}

// Lost is how many frames and messages are damaged and needed.
func (r *Report) Lost() int64 { return r.Damaged - r.Repaired - r.Unneeded + r.Wrong }

// Scrubber scrubs one store. Pass is for one goroutine.
type Scrubber struct {
	cfg    Config
	pace   *pace.Pace
	report Report
	buf    []byte

	rows map[uint64][]store.Message // of the entries from on, by entry
	from uint64
	asOf time.Time

	mu    sync.Mutex // guards shown
	shown Report
}

const (
	saveEach = 256 << 20 // octets after which the notes are written
	showEach = 128       // frames after which Last says more
)

// New reads the notes.
func New(cfg Config) *Scrubber {
	if cfg.FS == nil {
		cfg.FS = fsx.OS
	}
	if cfg.Rate == 0 {
		cfg.Rate = 20 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Scrubber{cfg: cfg, pace: pace.New(cfg.Rate, cfg.Slower)}
	data, err := fsx.ReadFile(cfg.FS, cfg.Notes)
	if err == nil {
		err = json.Unmarshal(data, &s.report)
	}
	if err != nil {
		s.report = Report{}
		if !errors.Is(err, fs.ErrNotExist) {
			cfg.Logger.Warn("notes of the scrub are not readable", "file", cfg.Notes, "err", err)
		}
	}
	s.show()
	return s
}

// Last returns the report of the last pass, which may not have ended. It may be
// called at any time.
func (s *Scrubber) Last() Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown
}

func (s *Scrubber) show() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown = s.report
}

// Pass reads everything once, or goes on with a pass that was not ended.
func (s *Scrubber) Pass(ctx context.Context) (Report, error) {
	if s.report.Begun.IsZero() || !s.report.Finished.IsZero() {
		s.report = Report{Begun: s.cfg.Now()}
	}
	s.rows, s.from = nil, 0
	saved := s.report.Octets
	for _, seg := range s.cfg.Log.Segments() {
		for index := max(seg.Base, s.report.Next); index <= seg.Last; index++ {
			err := s.entry(ctx, index, seg.Needed)
			if err == nil {
				s.report.Next = index + 1
			}
			if err != nil || s.report.Octets-saved > saveEach {
				saved = s.report.Octets
				err = errors.Join(err, s.save())
			}
			if err != nil {
				return s.report, err
			}
		}
	}
	s.report.Finished, s.report.Next = s.cfg.Now(), 0
	return s.report, s.save()
}

func (s *Scrubber) save() error {
	s.show()
	data, err := json.Marshal(&s.report)
	if err == nil {
		err = fsx.WriteFileAtomic(s.cfg.FS, s.cfg.Notes, data)
	}
	if err != nil {
		return fmt.Errorf("scrub: notes: %w", err)
	}
	return nil
}

// entry checks one entry and the messages that it brought in.
func (s *Scrubber) entry(ctx context.Context, index uint64, needed bool) error {
	data, err := s.cfg.Log.ReadFile(index, s.buf)
	if s.cfg.Log.Missing(err) {
		return nil
	}
	s.report.Frames++
	s.report.Octets += int64(len(data))
	if s.report.Frames%showEach == 0 {
		s.show()
	}
	if err := s.pace.Wait(ctx, len(data)); err != nil {
		return err
	}
	if err != nil {
		return s.damaged(ctx, index, needed, err)
	}
	s.buf = data
	return s.messages(index, data)
}

// chunk is how many entries' messages are looked up at once.
const chunk = 64

// messages compares the messages that came in with an entry with their hashes.
func (s *Scrubber) messages(index uint64, data []byte) error {
	if s.rows == nil || index < s.from || index >= s.from+chunk || s.cfg.Now().Sub(s.asOf) > time.Minute {
		if err := s.lookUp(index); err != nil {
			return fmt.Errorf("scrub: %w", err)
		}
	}
	for i := range s.rows[index] {
		m := &s.rows[index][i]
		s.report.Messages++
		err := s.check(m, index, data)
		if err == nil || s.frameError(m, index) {
			continue
		}
		if gone, gerr := s.gone(m.ID); gone || gerr != nil {
			if gerr != nil {
				return fmt.Errorf("scrub: %w", gerr)
			}
			continue
		}
		s.report.Wrong++
		s.cfg.Logger.Error("message does not have its hash, though its frames read well", "entry", index, "err", err)
	}
	return nil
}

// lookUp reads the rows of the messages that came in with some entries.
func (s *Scrubber) lookUp(from uint64) error {
	n, err := s.cfg.Rows.Snapshot()
	if err != nil {
		return err
	}
	defer n.Close()
	s.from, s.asOf, s.rows = from, s.cfg.Now(), map[uint64][]store.Message{}
	return n.Messages(from<<store.MessageBits, func(m *store.Message) bool {
		index := m.ID >> store.MessageBits
		if index >= from+chunk {
			return false
		}
		one := *m
		one.Meta, one.Body = nil, slices.Clone(m.Body)
		s.rows[index] = append(s.rows[index], one)
		return true
	})
}

// gone reports whether a message was deleted since its row was read.
func (s *Scrubber) gone(id uint64) (bool, error) {
	n, err := s.cfg.Rows.Snapshot()
	if err != nil {
		return false, err
	}
	defer n.Close()
	var m store.Message
	_, err = n.Message(id, &m)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// check compares a message with its hash; data is of the entry at index.
func (s *Scrubber) check(m *store.Message, index uint64, data []byte) error {
	return store.CheckMessage(m, bodies{s.cfg.Log, index, data})
}

// frameError reports whether another entry of m cannot be read: that one is
// counted when its turn comes, or was.
func (s *Scrubber) frameError(m *store.Message, index uint64) bool {
	for _, e := range m.Body {
		if e.Index == index {
			continue
		}
		if _, err := s.cfg.Log.ReadFile(e.Index, nil); err != nil {
			return true
		}
	}
	return false
}

// bodies reads entries from the files, one of them from memory.
type bodies struct {
	log   Log
	index uint64
	data  []byte
}

func (b bodies) ReadEntry(index uint64, buf []byte) ([]byte, error) {
	if index == b.index {
		return append(buf[:0], b.data...), nil
	}
	return b.log.ReadFile(index, buf)
}

// damaged has an entry that cannot be read repaired, if it is still needed.
func (s *Scrubber) damaged(ctx context.Context, index uint64, needed bool, cause error) error {
	s.report.Damaged++
	n, err := s.cfg.Rows.Snapshot()
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	defer n.Close()
	var ids []uint64
	if err := n.MessagesOf(index, func(id uint64) { ids = append(ids, id) }); err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	if len(ids) == 0 && !needed {
		s.report.Unneeded++
		return nil
	}
	log := s.cfg.Logger.With("entry", index, "messages", len(ids))
	if err := s.repair(ctx, n, index, ids); err != nil {
		log.Error("damaged log entry not repaired", "damage", cause, "err", err)
		return ctx.Err()
	}
	s.report.Repaired++
	log.Warn("damaged log entry repaired from the other replica", "damage", cause)
	return nil
}

// errNoPeer says that there is nobody to ask.
var errNoPeer = errors.New("no other replica to ask")

func (s *Scrubber) repair(ctx context.Context, n *store.Snapshot, index uint64, ids []uint64) error {
	if s.cfg.Peer == nil {
		return errNoPeer
	}
	fetched, err := s.cfg.Peer.Fetch(ctx, index)
	if err != nil {
		return err
	}
	data, err := s.cfg.Log.Parse(fetched)
	if err != nil {
		return err
	}
	for _, id := range ids {
		var m store.Message
		if _, err := n.Message(id, &m); err != nil {
			return err
		}
		if err := s.check(&m, index, data); err != nil && !s.frameError(&m, index) {
			return fmt.Errorf("what the other replica has does not fit the row: %w", err)
		}
	}
	if err := s.cfg.Log.Repair(index, fetched); err != nil {
		return err
	}
	_, err = s.cfg.Log.ReadFile(index, nil)
	return err
}

// SetRate makes n the octets that are read a second from now on. Any goroutine may
// call it.
func (s *Scrubber) SetRate(n int64) { s.pace.Set(n) }
