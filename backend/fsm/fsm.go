package fsm

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
)

// Entry is one committed entry of the log.
type Entry struct {
	Index, Term uint64
	Data        []byte // not kept after Apply returns
}

// Config is what New needs. Fields that are nil or zero take the default.
type Config struct {
	Store *store.Store
	Hub   *notify.Hub // told of mailboxes that changed; nil: nobody

	// Fatal is called once, when this replica cannot go on: an entry that it
	// does not know, or a store that fails. It should end the process. Nothing
	// is applied afterwards. Nil panics.
	Fatal func(error)

	// Mismatch is told of deliveries refused because their key was seen with
	// another body. It must not block.
	Mismatch func(account string, key command.Key)

	// Compared is told what the replica that proposed a Digest command and this
	// one had noted at the one before. It must not block.
	Compared func(Comparison)

	// Raise is told that the pair goes to a level of the format, before the
	// first entry of it is applied, and again for the level of a store that is
	// opened. When it returns, a program that does not know the level must no
	// longer open this replica. An error stops the replica.
	Raise func(level uint32) error

	// Accounts bounds the accounts kept in memory, each about 2 KB with the
	// usual mailboxes; 50,000.
	Accounts int
}

// ErrStopped says that the replica stopped at an earlier entry.
var ErrStopped = errors.New("fsm: stopped")

// FSM is the state machine of one replica. Apply is for one goroutine, the
// other methods for any.
type FSM struct {
	cfg     Config
	store   *store.Store
	applied atomic.Uint64
	level   atomic.Uint32

	mu      sync.Mutex // guards what follows
	st      store.State
	batch   *store.Batch
	failed  error
	byID    map[uint64]*account
	byName  map[string]*account
	keys    map[command.Key]store.Delivered // of this batch
	now     int64                           // of the entry being applied
	due     int64                           // when the first key is to be forgotten
	settled bool                            // the entry being applied is to be committed before the next
	boxes   []*mailbox                      // counters changed in this batch
	owners  []*account                      // rows changed in this batch
	wake    []uint64                        // mailboxes to tell after the commit
	scratch []byte
	expiry  []byte // keys of the entry being applied

	maxAnswered int64 // MaxAnswered, but in tests
}

// New continues from what the store holds.
func New(cfg Config) (*FSM, error) {
	if cfg.Accounts <= 0 {
		cfg.Accounts = 50_000
	}
	if cfg.Fatal == nil {
		cfg.Fatal = func(err error) { panic(err) }
	}
	f := &FSM{
		cfg: cfg, store: cfg.Store,
		byID: make(map[uint64]*account), byName: make(map[string]*account),
		keys: make(map[command.Key]store.Delivered), maxAnswered: MaxAnswered,
	}
	var err error
	if f.st, err = f.store.State(); err != nil {
		return nil, fmt.Errorf("fsm: %w", err)
	}
	if f.st.Format > command.Level {
		return nil, fmt.Errorf("fsm: the store is on format %d, this release knows %d: %w", f.st.Format, command.Level, command.ErrUnknown)
	}
	if f.st.Format > 1 && cfg.Raise != nil {
		if err := cfg.Raise(f.st.Format); err != nil {
			return nil, fmt.Errorf("fsm: %w", err)
		}
	}
	f.level.Store(max(f.st.Format, 1))
	f.batch = f.store.NewBatch(&f.st)
	if f.due, err = f.batch.Expire(math.MinInt64); err != nil {
		return nil, fmt.Errorf("fsm: %w", err)
	}
	f.applied.Store(f.st.Applied)
	return f, nil
}

// Close lets go of the store, which the caller closes.
func (f *FSM) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = ErrStopped
	}
	f.batch.Close()
}

// Applied is the index of the last entry whose effect readers can see.
func (f *FSM) Applied() uint64 { return f.applied.Load() }

// Digest returns the digest of the state and the index it belongs to. Two
// replicas with the same index have the same digest.
func (f *FSM) Digest() (index uint64, digest store.Sum) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st.Applied, f.st.Digest
}

// State returns what the store has of itself, as of the last Apply.
func (f *FSM) State() store.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.st
}

// Flush returns once the effect of every entry up to the index it returns is
// on disk.
func (f *FSM) Flush() (uint64, error) {
	index := f.Applied()
	if err := f.store.Flush(); err != nil {
		return 0, fmt.Errorf("fsm: %w", err)
	}
	return index, nil
}

// Apply applies entries in the order of the log and returns an answer for each:
// one of the results of package command, nil for an entry that was applied
// before, or an error after the replica has stopped.
func (f *FSM) Apply(entries []Entry) []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	answers := make([]any, len(entries))
	for i := range entries {
		if f.failed == nil {
			answers[i] = f.step(&entries[i])
		}
		if f.failed != nil {
			answers[i] = f.failed
		}
	}
	if f.failed == nil {
		f.commit()
	}
	if f.failed != nil { // nothing since the last commit happened
		for i := range entries {
			if entries[i].Index > f.Applied() {
				answers[i] = f.failed
			}
		}
		return answers
	}
	f.evict()
	return answers
}

// fail stops the replica.
func (f *FSM) fail(err error) {
	if f.failed == nil {
		f.failed = fmt.Errorf("%w: %w", ErrStopped, err)
		f.cfg.Fatal(err)
	}
}

const (
	// maxStep bounds how far one entry moves the clock, so that one bad time
	// does not make every delivery key old.
	maxStep = int64(time.Hour)
	// pruneSlack is how long keys are kept beyond their time, so that they go
	// many at once.
	pruneSlack = int64(time.Minute)
)

// step applies one entry. What it changes is committed with its index or not
// at all: a commit inside it comes before its first change.
func (f *FSM) step(e *Entry) any {
	if e.Index <= f.st.Applied {
		return nil
	}
	c, err := command.Decode(e.Data)
	if err != nil {
		f.fail(fmt.Errorf("fsm: entry %d of term %d: %w", e.Index, e.Term, err))
		return nil
	}
	f.now = f.st.Clock
	switch when := c.When(); {
	case f.now == 0:
		f.now = max(when, 0)
	case when > f.now:
		f.now = min(when, f.now+maxStep)
	}
	answer, err := f.apply(e, c)
	if err != nil {
		f.fail(fmt.Errorf("fsm: entry %d of term %d: %w", e.Index, e.Term, err))
		return nil
	}
	f.st.Applied, f.st.Term, f.st.Clock = e.Index, e.Term, f.now
	if f.settled { // later entries must not see the rows that are gone
		f.settled = false
		f.commit()
	}
	return answer
}

// prune forgets delivery keys that are due. It is called by entries that need
// no rows to be settled.
func (f *FSM) prune() error {
	if f.due > f.now-pruneSlack {
		return nil
	}
	f.commit()
	if f.failed != nil {
		return f.failed
	}
	var err error
	f.due, err = f.batch.Expire(f.now)
	f.settled = true
	return err
}

func (f *FSM) apply(e *Entry, c command.Command) (any, error) {
	switch c := c.(type) {
	case *command.Deliver:
		return f.deliver(e, c)
	case *command.Part:
		f.batch.AddDead(e.Index, int64(len(c.Tail)))
		return &command.Done{}, nil
	case *command.AppendMessages:
		return f.append(e, c)
	case *command.Store:
		return f.setFlags(c)
	case *command.Expunge:
		return f.expunge(c)
	case *command.Copy:
		return f.copy(c)
	case *command.Account:
		if code, _, err := f.elsewhere(c.Name); code != command.OK || err != nil {
			return &command.Done{Code: code}, err
		}
		a, err := f.openAccount(c.Name, c.Seed)
		if err != nil {
			return nil, err
		}
		return &command.Done{Account: a.ID}, nil
	case *command.Create:
		return f.create(c)
	case *command.Delete:
		return f.deleteMailbox(c)
	case *command.Remove:
		return f.removeAccount(c)
	case *command.Move:
		return f.move(c)
	case *command.Import:
		return f.importInto(e, c)
	case *command.Rename:
		return f.rename(c)
	case *command.Rights:
		return f.grant(c)
	case *command.Subscribe:
		return f.subscribe(c)
	case *command.Quota:
		return f.quota(c)
	case *command.Digest:
		return f.mark(e, c)
	case *command.Format:
		return f.raise(c)
	}
	return nil, fmt.Errorf("%w: %v", command.ErrUnknown, c.Op())
}

// commit makes visible what the entries up to st.Applied did.
func (f *FSM) commit() {
	if f.st.Applied == f.Applied() && f.batch.Empty() && len(f.boxes) == 0 {
		return
	}
	for _, m := range f.boxes {
		m.dirty = false
		if !m.gone {
			f.batch.PutCounters(&m.Mailbox, &m.n)
		}
	}
	for _, a := range f.owners {
		a.dirty = false
		f.batch.PutAccount(&a.Account)
	}
	f.boxes, f.owners = f.boxes[:0], f.owners[:0]
	clear(f.keys)
	if err := f.batch.Commit(); err != nil {
		f.fail(err)
		return
	}
	f.applied.Store(f.st.Applied)
	if len(f.wake) > 0 && f.cfg.Hub != nil {
		f.cfg.Hub.Wake(f.wake...)
	}
	f.wake = f.wake[:0]
}

// settle commits when rows of m wait in the batch, so that they can be read.
// It must come before anything that the entry changes.
func (f *FSM) settle(m *mailbox) error {
	if m.dirty {
		f.commit()
	}
	return f.failed
}
