/*
Package compact gives the space of deleted mail back. It decides which segments
of the log are rewritten, and which frames of them are still mail:

	Pass -> rows of one moment -> per segment: octets that no message needs
	     -> old and empty enough? -> Log.Compact, at the pace allowed

A segment is rewritten when raft asks for none of its entries any more, its
newest entry is older than Rules.Undelete, no kept checkpoint needs it to be
brought up to date, and more than Rules.Share of its octets are dead, or some of
them have been for Rules.Age. What deleted mail leaves on the disk is then gone
Age and one pass after its deletion at the latest, snapshots and backups apart.

What the package keeps true: a frame that holds octets of a stored message, as
of rows that are on the disk, is in the segment after a pass as it was before.
Everything else about a crash is the log's promise.

When octets were first found dead is noted in a file; without it a segment
counts as dead since its newest entry. Package compact removes no message and
does not read their octets.
*/
package compact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/pace"
	"github.com/postern-mail/postern/shared/fsx"
)

// Segment is a file of the log.
type Segment struct {
	Base, Last uint64
	Bytes      int64
	Compacted  bool      // once at least
	Newest     time.Time // when its newest entry was made; zero: not known
}

// Log is what compaction needs of the log.
type Log interface {
	// Segments lists the files whose entries raft does not ask for any more.
	Segments() []Segment
	// Sizes calls f with each entry in the file that begins at base.
	Sizes(base uint64, f func(index uint64, size int64)) error
	// Compact leaves the entries that keep wants in the file that begins at
	// base, and returns the octets that it gave back. ErrInUse: not now. pace is
	// asked before octets are read or written; its error ends the call.
	Compact(base uint64, keep func(index uint64) bool, pace func(octets int) error) (freed int64, err error)
}

// ErrInUse is what Log.Compact returns, wrapped, for a file that somebody reads.
var ErrInUse = errors.New("segment in use")

// Config is what New needs. Zero fields take the default named.
type Config struct {
	Log   Log
	Rows  *store.Store
	Notes string // file in which dead octets are noted
	FS    fsx.FS // of Notes; fsx.OS

	// Oldest is the index that the oldest kept checkpoint has applied: entries
	// above it are needed whole.
	Oldest func() (uint64, error)

	Rules Rules
	// Slower is how much slower it is to be, for the mail that comes in; nil: never.
	Slower func() int
	Logger *slog.Logger // silent
	Now    func() time.Time
}

// Rules say when a segment is rewritten, and how fast. Zero fields take the default
// named.
type Rules struct {
	Share    float64       // of dead octets, from which on it is worth it; 0.4
	Age      time.Duration // longest that dead octets stay; 30 days
	Undelete time.Duration // age of a segment before it is touched; 7 days, at least MinUndelete
	Rate     int64         // octets read and written a second; 20 MB
}

func (r Rules) filled() *Rules {
	if r.Share == 0 {
		r.Share = 0.4
	}
	if r.Age == 0 {
		r.Age = 30 * 24 * time.Hour
	}
	if r.Undelete == 0 {
		r.Undelete = 7 * 24 * time.Hour
	}
	r.Undelete = max(r.Undelete, MinUndelete)
	if r.Rate == 0 {
		r.Rate = 20 << 20
	}
	return &r
}

// MinUndelete is the least age of a segment. A delivery in several entries may
// refer to octets of the first that nobody had taken; it has long ended then.
const MinUndelete = time.Hour

// Result is what a pass did.
type Result struct {
	Looked   int   // segments
	Rewrote  int   // of them
	Freed    int64 // octets
	Dead     int64 // octets that are dead and still there
	InUse    int   // left alone because somebody reads
	Damaged  int   // left alone because of a damaged frame
	Finished time.Time
}

// Compactor compacts one log. Pass is for one goroutine.
type Compactor struct {
	cfg   Config
	rules atomic.Pointer[Rules]
	pace  *pace.Pace
	since map[uint64]int64 // segment -> when octets were first seen dead, Unix
	seen  map[uint64]count // what the last passes found
	fresh bool             // there were no notes
}

// New reads the notes.
func New(cfg Config) (*Compactor, error) {
	if cfg.FS == nil {
		cfg.FS = fsx.OS
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Compactor{
		cfg: cfg, pace: pace.New(cfg.Rules.filled().Rate, cfg.Slower),
		since: map[uint64]int64{}, seen: map[uint64]count{},
	}
	c.SetRules(cfg.Rules)
	data, err := fsx.ReadFile(cfg.FS, cfg.Notes)
	if errors.Is(err, fs.ErrNotExist) {
		c.fresh = true
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &c.since)
	}
	if err != nil { // it only makes compaction earlier
		cfg.Logger.Warn("notes of compaction are not readable", "file", cfg.Notes, "err", err)
		c.since, c.fresh = map[uint64]int64{}, true
	}
	return c, nil
}

// SetRules makes r hold from the next segment on, its rate at once. Any goroutine may
// call it.
func (c *Compactor) SetRules(r Rules) {
	rules := r.filled()
	c.rules.Store(rules)
	c.pace.Set(rules.Rate)
}

// Pass looks at every segment once and rewrites those that are due.
func (c *Compactor) Pass(ctx context.Context) (Result, error) {
	var r Result
	oldest, err := c.cfg.Oldest()
	if err != nil {
		return r, fmt.Errorf("compact: %w", err)
	}
	now, present := c.cfg.Now(), map[uint64]bool{}
	for _, s := range c.cfg.Log.Segments() {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		present[s.Base] = true
		if s.Last > oldest || !s.Compacted && (s.Newest.IsZero() || now.Sub(s.Newest) < c.rules.Load().Undelete) {
			continue
		}
		if err := c.segment(ctx, s, &r); err != nil {
			return r, err
		}
	}
	for base := range c.since {
		if !present[base] {
			delete(c.since, base)
			delete(c.seen, base)
		}
	}
	c.fresh = false
	r.Finished = c.cfg.Now()
	return r, c.save()
}

// segment rewrites one segment if it is due.
func (c *Compactor) segment(ctx context.Context, s Segment, r *Result) error {
	r.Looked++
	counted, live, err := c.count(s)
	if err != nil {
		return fmt.Errorf("compact: entries %d to %d: %w", s.Base, s.Last, err)
	}
	c.seen[s.Base] = counted
	if counted.dead == 0 {
		delete(c.since, s.Base)
		return nil
	}
	if c.since[s.Base] == 0 {
		since := c.cfg.Now()
		if c.fresh && !s.Newest.IsZero() {
			since = s.Newest
		}
		c.since[s.Base] = since.Unix()
	}
	if !c.due(s.Base, &counted) {
		r.Dead += counted.dead
		return nil
	}
	if live == nil { // nothing has changed but the time
		if counted, live, err = c.read(s); err != nil {
			return fmt.Errorf("compact: entries %d to %d: %w", s.Base, s.Last, err)
		}
	}
	// What the rows said must not be undone by a crash.
	if err := c.cfg.Rows.Flush(); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	freed, err := c.cfg.Log.Compact(s.Base, func(index uint64) bool { return live[index] }, func(n int) error { return c.pace.Wait(ctx, n) })
	switch {
	case errors.Is(err, ErrInUse):
		r.InUse++
		r.Dead += counted.dead
		return nil
	case errors.Is(err, ErrDamaged):
		r.Damaged++
		r.Dead += counted.dead
		c.cfg.Logger.Error("segment not compacted: it has a damaged frame", "from", s.Base, "to", s.Last, "err", err)
		return nil
	case err != nil:
		return fmt.Errorf("compact: entries %d to %d: %w", s.Base, s.Last, err)
	}
	delete(c.since, s.Base)
	delete(c.seen, s.Base)
	r.Rewrote++
	r.Freed += freed
	c.cfg.Logger.Info("segment compacted", "from", s.Base, "to", s.Last, "freed", freed, "kept", counted.total-counted.dead)
	return nil
}

// due reports whether a segment is worth rewriting now.
func (c *Compactor) due(base uint64, n *count) bool {
	rules := c.rules.Load()
	return float64(n.dead) > rules.Share*float64(n.total) ||
		c.cfg.Now().Sub(time.Unix(c.since[base], 0)) >= rules.Age
}

// ErrDamaged is what Log.Compact returns, wrapped, for a file that has a
// damaged frame with octets that are wanted.
var ErrDamaged = errors.New("damaged frame")

// count is what is known of a segment.
type count struct {
	rows        int64 // dead octets of messages as the rows count them, for this and its neighbours
	dead, total int64 // octets of the file
}

// count returns what is dead in a segment. Only when messages have died since
// the last time it looks at the entries, which it then returns.
func (c *Compactor) count(s Segment) (count, map[uint64]bool, error) {
	n, err := c.cfg.Rows.Snapshot()
	if err != nil {
		return count{}, nil, err
	}
	rows, err := n.DeadBytes(s.Base, s.Last)
	n.Close()
	if err != nil {
		return count{}, nil, err
	}
	if known, ok := c.seen[s.Base]; ok && known.rows == rows {
		return known, nil, nil
	}
	counted, live, err := c.read(s)
	counted.rows = rows
	return counted, live, err
}

// read looks at each entry of a segment.
func (c *Compactor) read(s Segment) (out count, live map[uint64]bool, err error) {
	n, err := c.cfg.Rows.Snapshot()
	if err != nil {
		return out, nil, err
	}
	defer n.Close()
	live = map[uint64]bool{}
	if err := n.LiveEntries(s.Base, s.Last, func(index uint64) { live[index] = true }); err != nil {
		return out, nil, err
	}
	err = c.cfg.Log.Sizes(s.Base, func(index uint64, size int64) {
		out.total += size
		if !live[index] {
			out.dead += size
		}
	})
	return out, live, err
}

func (c *Compactor) save() error {
	data, err := json.Marshal(c.since)
	if err == nil {
		err = fsx.WriteFileAtomic(c.cfg.FS, c.cfg.Notes, data)
	}
	if err != nil {
		return fmt.Errorf("compact: notes: %w", err)
	}
	return nil
}
