package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/fsx"
)

var (
	// ErrFull says that there is no room for another message now.
	ErrFull = errors.New("queue full")
	// ErrFailed says that a sync failed and the queue takes nothing more until
	// it is opened again.
	ErrFailed = errors.New("queue disk failed")
	// ErrExists says that the queue already holds a message of this id.
	ErrExists = errors.New("queue id exists")
	// ErrNotFound says that the queue holds no message of this id.
	ErrNotFound = errors.New("no such message in the queue")
)

// Limits bound a queue; 0 is none. MinFree octets of the disk are left alone.
type Limits struct {
	MaxMessages int64
	MaxBytes    int64
	MinFree     int64
}

// Config describes a queue.
type Config struct {
	Dir string
	FS  fsx.FS // default fsx.OS

	Limits // at first
	// Free tells the free octets of the disk; it is asked at most once in FreeEvery
	// (250 ms).
	Free      func() (int64, error)
	FreeEvery time.Duration

	// Fatal is called once, with the reason, when a sync has failed. The
	// process should end: what is on the disk is found at the next start.
	Fatal func(error)
	Log   *slog.Logger
	Now   func() time.Time
}

// Queue is an open queue. One process has it open at a time.
type Queue struct {
	cfg     Config
	lock    io.Closer
	dirs    [len(alphabet)]dirSync
	room    room
	level   atomic.Int32
	damaged atomic.Int64
	failed  atomic.Pointer[error]
	reaper  *reaper

	active   activeFile
	given    given
	suspects []string // of the process before; set by Open

	raising sync.Mutex // held by Raise

	mu       sync.Mutex // guards the fields below
	onSubmit func(*Item)
	early    map[string]bool // submitted before the first whole Scan; nil after it
}

// alphabet is the characters of a queue id; each names a subdirectory.
const alphabet = "0123456789abcdefghijklmnopqrstuv"

// Open opens the queue in cfg.Dir, making it if need be, and removes what a
// crash left of messages that never became ours. It reads names only; see Scan.
func Open(cfg Config) (*Queue, error) {
	if cfg.FS == nil {
		cfg.FS = fsx.OS
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FreeEvery <= 0 {
		cfg.FreeEvery = 250 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{cfg: cfg, early: map[string]bool{}}
	q.given.open, q.given.files, q.given.gone = map[string][]string{}, map[string]bool{}, map[string]bool{}
	q.room.limits = cfg.Limits
	if err := fsx.MkdirAllSync(cfg.FS, cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q.lock = lock
	err = q.openLevel()
	if err == nil {
		err = q.openDirs()
	}
	if err == nil {
		err = q.openActive()
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("queue: %w", err)
	}
	q.reaper = startReaper(q)
	return q, nil
}

func (q *Queue) openDirs() error {
	for i := range q.dirs {
		dir := filepath.Join(q.cfg.Dir, alphabet[i:i+1])
		q.dirs[i].init(q, dir)
		names, err := q.cfg.FS.ReadDir(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if err := q.cfg.FS.MkdirAll(dir, 0o700); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			// The process before may have died before what it did here was
			// durable: what is seen from here on is what a power cut leaves.
			if err := q.cfg.FS.SyncDir(dir); err != nil {
				return err
			}
			if err := q.clean(dir, names); err != nil {
				return err
			}
		}
	}
	return q.cfg.FS.SyncDir(q.cfg.Dir)
}

// clean removes the files of messages that are not ours: temporary ones, and
// ID.msg without ID.env or ID.bad. Names come sorted, so .bad and .env stand
// before .msg.
func (q *Queue) clean(dir string, names []string) error {
	ours := ""
	for _, name := range names {
		id, ext := splitName(name)
		switch {
		case name == barrier:
		case ext == ".env":
			ours = id
			q.room.messages++
		case ext == ".bad":
			ours = id
			q.damaged.Add(1)
		case ext == givenExt:
			q.given.files[id] = true
		case fsx.IsTemp(name), ext == ".msg" && id != ours:
			if err := q.cfg.FS.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

func splitName(name string) (id, ext string) {
	ext = filepath.Ext(name)
	return strings.TrimSuffix(name, ext), ext
}

// Close waits for removals that are under way and closes the queue.
func (q *Queue) Close() error {
	q.reaper.stop()
	return errors.Join(q.active.f.Close(), q.lock.Close())
}

// OnSubmit sets the function that is told of every message that became ours.
// It is called in the goroutine of Submit and must be quick; it must not keep
// or change the item.
func (q *Queue) OnSubmit(f func(*Item)) {
	q.mu.Lock()
	q.onSubmit = f
	q.mu.Unlock()
}

// dir returns the subdirectory of id, or nil if id is no queue id.
func (q *Queue) dir(id string) *dirSync {
	if len(id) < 8 || len(id) > 64 {
		return nil
	}
	for i := range len(id) {
		if strings.IndexByte(alphabet, id[i]) < 0 {
			return nil
		}
	}
	return &q.dirs[strings.IndexByte(alphabet, id[0])]
}

// ValidID reports whether id can be the name of a message of a queue.
func ValidID(id string) bool { return new(Queue).dir(id) != nil }

// Submit makes a message ours: when it returns nil, the message and its
// envelope are durable, names included. The octets of body are those of the
// message, in order; Size, Sum and Hash of it are set here. Recipients outside that
// another message of its root has already are taken out of it (see given); with
// none left nothing is kept. ErrExists: the queue holds
// this id already; ErrFull: no room; after any error the message is not ours.
//
// Room comes from r if that holds any, else it is found now.
func (q *Queue) Submit(ctx context.Context, r *Reservation, it *Item, body ...[]byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d := q.dir(it.ID())
	if d == nil {
		return fmt.Errorf("queue: bad id %q", it.ID())
	}
	it.Size, it.Sum, it.Hash = 0, 0, Hash{}
	for _, b := range body {
		it.Size += int64(len(b))
		it.Sum = crc32.Update(it.Sum, castagnoli, b)
	}
	if q.Level() >= 2 {
		it.Hash = hashOf(body...)
	}
	if r == nil || r.q == nil {
		own, err := q.Reserve(it.Size, len(it.Recipients))
		if err != nil {
			return err
		}
		defer own.Release()
	}
	if err := q.broken(); err != nil {
		return err
	}
	c, err := q.claim(it)
	if err != nil {
		return err
	}
	if len(it.Recipients) == 0 {
		c.done(false)
		return nil
	}
	q.given.added(it)
	err = q.submit(d, it, body)
	there := err == nil || errors.Is(err, ErrExists)
	if !there && q.given.ended(it) {
		q.dropGiven(it.Envelope.RootID)
	}
	c.done(there)
	if err != nil {
		return err
	}
	q.room.use(1, it.Size)
	q.mu.Lock()
	told := q.onSubmit
	if q.early != nil {
		q.early[it.ID()] = true
	}
	q.mu.Unlock()
	if told != nil {
		told(it)
	}
	return nil
}

// submit writes the two files of it.
func (q *Queue) submit(d *dirSync, it *Item, body [][]byte) error {
	buf := envelopes.Get().(*[]byte)
	defer keepBuffer(buf)
	env, err := q.encode(it, *buf)
	*buf = env
	if err != nil {
		return err
	}
	return q.write(d, it.ID(), env, body)
}

// envelopes keeps buffers of envelope files, which are as long as a message has
// recipients.
var envelopes = sync.Pool{New: func() any { return new([]byte) }}

// maxPooled is the longest buffer that is kept: a file of some 10,000 recipients.
const maxPooled = 4 << 20

func keepBuffer(buf *[]byte) {
	if cap(*buf) <= maxPooled {
		envelopes.Put(buf)
	}
}

// encode makes the envelope file in buf and reads it back: what Submit promises
// to keep must be readable.
func (q *Queue) encode(it *Item, buf []byte) ([]byte, error) {
	env := appendItem(slices.Grow(buf[:0], 512+300*len(it.Recipients)), it, q.Level())
	if err := checkItem(env); err != nil {
		return env, fmt.Errorf("queue: envelope of %s does not read back: %w", it.ID(), err)
	}
	return env, nil
}

// write puts both files in place, the envelope last.
func (q *Queue) write(d *dirSync, id string, env []byte, body [][]byte) error {
	msg := filepath.Join(d.name, id+".msg")
	f, err := fsx.Create(q.cfg.FS, msg)
	if errors.Is(err, fs.ErrExist) {
		return q.taken(d, id)
	}
	if err != nil {
		return q.diskError("create", err)
	}
	bufs := make([][]byte, 0, len(body))
	for _, b := range body {
		if len(b) > 0 {
			bufs = append(bufs, b)
		}
	}
	if _, err = f.WriteVecAt(bufs, 0); err != nil {
		err = q.diskError("write", err)
	} else {
		err = q.synced(f.Sync())
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = q.diskError("close", cerr)
	}
	if err == nil {
		// The name ID.msg is made durable before ID.env can be: an envelope
		// without its message is then damage and nothing else. On journalling
		// file systems the sync of the file has done it already.
		err = d.sync()
	}
	if err == nil {
		err = q.replace(d, id, env, true)
	}
	if err != nil {
		q.forget(d, id)
	}
	return err
}

// taken tells why ID.msg could not be created.
func (q *Queue) taken(d *dirSync, id string) error {
	f, err := fsx.Open(q.cfg.FS, filepath.Join(d.name, id+".env"))
	if err == nil {
		f.Close()
		return ErrExists
	}
	// Removal of an earlier message of this id is not finished.
	return fmt.Errorf("queue: %s is being removed", id)
}

// forget removes what a failed Submit wrote, as well as it can: Open does the
// rest.
func (q *Queue) forget(d *dirSync, id string) {
	for _, ext := range []string{".env", ".env.tmp", ".msg"} {
		_ = q.cfg.FS.Remove(filepath.Join(d.name, id+ext))
	}
}

// replace writes an envelope file beside the old one and renames it. With sync
// the new name is durable on return, without it either version may be found
// after a crash.
func (q *Queue) replace(d *dirSync, id string, env []byte, sync bool) error {
	name := filepath.Join(d.name, id+".env")
	f, err := q.cfg.FS.OpenFile(name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return q.diskError("create", err)
	}
	if _, err = f.WriteAt(env, 0); err != nil {
		err = q.diskError("write", err)
	} else {
		err = q.synced(f.Sync())
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = q.diskError("close", cerr)
	}
	if err == nil {
		if rerr := q.cfg.FS.Rename(name+".tmp", name); rerr != nil {
			err = q.diskError("rename", rerr)
		}
	}
	if err != nil {
		_ = q.cfg.FS.Remove(name + ".tmp")
		return err
	}
	if !sync {
		return nil
	}
	return d.sync()
}

// Update replaces the envelope of a message. With durable the change survives
// a crash once Update has returned nil; without it a crash may bring back the
// envelope before, never a mixture.
func (q *Queue) Update(it *Item, durable bool) error {
	d := q.dir(it.ID())
	if d == nil {
		return ErrNotFound
	}
	if err := q.broken(); err != nil {
		return err
	}
	buf := envelopes.Get().(*[]byte)
	defer keepBuffer(buf)
	env, err := q.encode(it, *buf)
	*buf = env
	if err != nil {
		return err
	}
	q.given.note(it)
	return q.replace(d, it.ID(), env, durable)
}

// Remove ends a message: all its deliveries are done. It returns when the name
// of the envelope is gone, with durable when that survives a crash; the rest
// follows in the background (see the package doc), within moments.
func (q *Queue) Remove(it *Item, durable bool) error {
	d := q.dir(it.ID())
	if d == nil {
		return ErrNotFound
	}
	if err := q.broken(); err != nil {
		return err
	}
	if err := q.cfg.FS.Remove(filepath.Join(d.name, it.ID()+".env")); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNotFound
		}
		return q.diskError("remove", err)
	}
	q.room.use(-1, -it.Size)
	if q.given.ended(it) {
		defer q.dropGiven(it.Envelope.RootID)
	}
	if !durable {
		q.reaper.add(d, it.ID())
		return nil
	}
	if err := d.sync(); err != nil {
		return err
	}
	q.removeMessage(d, it.ID())
	return nil
}

// removeMessage removes the message file of a message whose envelope is gone for
// good.
func (q *Queue) removeMessage(d *dirSync, id string) {
	if err := q.cfg.FS.Remove(filepath.Join(d.name, id+".msg")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		q.cfg.Log.Warn("message file not removed", "queue_id", id, "error", err)
	}
}

// Load reads the envelope of a message.
func (q *Queue) Load(id string) (*Item, error) {
	d := q.dir(id)
	if d == nil {
		return nil, ErrNotFound
	}
	buf := envelopes.Get().(*[]byte)
	defer keepBuffer(buf)
	b, err := fsx.ReadFileInto(q.cfg.FS, filepath.Join(d.name, id+".env"), *buf)
	*buf = b
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	it, err := readItem(b)
	if err == nil && it.ID() != id {
		err = fmt.Errorf("%w: holds %s", ErrDamaged, it.ID())
	}
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", id, err)
	}
	return it, nil
}

// Body reads the octets of a message into buf, which grows if need be, and
// checks them against the envelope. ErrDamaged when they differ.
func (q *Queue) Body(it *Item, buf []byte) ([]byte, error) {
	d := q.dir(it.ID())
	if d == nil {
		return buf, ErrNotFound
	}
	f, err := fsx.Open(q.cfg.FS, filepath.Join(d.name, it.ID()+".msg"))
	if errors.Is(err, fs.ErrNotExist) {
		return buf, fmt.Errorf("queue %s: %w: message file missing", it.ID(), ErrDamaged)
	}
	if err != nil {
		return buf, fmt.Errorf("queue: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return buf, fmt.Errorf("queue: %w", err)
	}
	if size != it.Size {
		return buf, fmt.Errorf("queue %s: %w: %d octets of %d", it.ID(), ErrDamaged, size, it.Size)
	}
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if n, err := f.ReadAt(buf, 0); err != nil && (err != io.EOF || int64(n) != size) {
		return buf, fmt.Errorf("queue: %w", err)
	}
	if crc32.Checksum(buf, castagnoli) != it.Sum {
		return buf, fmt.Errorf("queue %s: %w: checksum of the message", it.ID(), ErrDamaged)
	}
	if it.Hash != (Hash{}) && hashOf(buf) != it.Hash {
		return buf, fmt.Errorf("queue %s: %w: hash of the message", it.ID(), ErrDamaged)
	}
	return buf, nil
}

// SetAside takes a damaged message out of the queue without deleting anything:
// ID.env becomes ID.bad, for the operator.
func (q *Queue) SetAside(id string, why error) error {
	d := q.dir(id)
	if d == nil {
		return ErrNotFound
	}
	name := filepath.Join(d.name, id)
	if err := q.cfg.FS.Rename(name+".env", name+".bad"); err != nil {
		return q.diskError("rename", err)
	}
	q.damaged.Add(1)
	q.room.use(-1, 0)
	q.cfg.Log.Error("damaged message set aside", "queue_id", id, "file", name+".bad", "error", why)
	return d.sync()
}

// broken returns ErrFailed after a failed sync.
func (q *Queue) broken() error {
	if p := q.failed.Load(); p != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *p)
	}
	return nil
}

// synced ends the queue if a sync has failed.
func (q *Queue) synced(err error) error {
	if err == nil {
		return nil
	}
	if q.failed.CompareAndSwap(nil, &err) {
		q.cfg.Log.Error("queue sync failed, the queue takes nothing more", "error", err)
		if q.cfg.Fatal != nil {
			q.cfg.Fatal(fmt.Errorf("%w: %w", ErrFailed, err))
		}
	}
	return fmt.Errorf("%w: %w", ErrFailed, err)
}

// diskError names the step and makes "no space" ErrFull.
func (q *Queue) diskError(step string, err error) error {
	if errors.Is(err, fsx.ErrNoSpace) {
		return fmt.Errorf("%w: %s: %w", ErrFull, step, err)
	}
	return fmt.Errorf("queue: %s: %w", step, err)
}
