package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/shared/fsx"
)

// Level is the newest level of formats that this release reads and writes. A
// queue is on level 1 until Raise.
const Level = 2

const (
	// levelName is the file that says on which level a queue is; level 1 has none.
	levelName  = "format"
	levelMagic = "postern-queue-format "
	// barrier is a folder in the first subdirectory of a queue above level 1.
	// Releases that know no levels take it for the rest of a file being written,
	// cannot remove it because it is not empty, and end at the start with its
	// name, before they have changed anything.
	barrier = "of-a-newer-format_an-older-release-must-not-open-this-queue.tmp"
)

// Level is the level that this queue is on.
func (q *Queue) Level() int { return int(q.level.Load()) }

// openLevel reads it.
func (q *Queue) openLevel() error {
	q.level.Store(1)
	name := filepath.Join(q.cfg.Dir, levelName)
	b, err := fsx.ReadFile(q.cfg.FS, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	level, err := parseLevel(b)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if level > Level {
		return fmt.Errorf("%w: %s says %d, this release reads queues up to %d", ErrVersion, name, level, Level)
	}
	q.level.Store(int32(level)) //nolint:gosec // small
	return nil
}

func parseLevel(b []byte) (int, error) {
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "\n"), levelMagic)
	level, err := strconv.ParseInt(text, 10, 31)
	if !ok || err != nil || level < 1 || strconv.FormatInt(level, 10) != text {
		return 0, fmt.Errorf("%w: %.40q is no level", ErrDamaged, b)
	}
	return int(level), nil
}

// Raise puts the queue on a level, for good: what is written from then on is of
// its format, and what is there already stays as it is until it is next written.
// When it returns nil, a release that does not know the level does not open the
// queue. A level that the queue has passed is nothing to do.
func (q *Queue) Raise(level int) error {
	q.raising.Lock()
	defer q.raising.Unlock()
	if level <= q.Level() {
		return nil
	}
	if level > Level {
		return fmt.Errorf("queue: %w: level %d, this release knows %d", ErrVersion, level, Level)
	}
	if err := q.broken(); err != nil {
		return err
	}
	if err := q.bar(); err != nil {
		return q.diskError("barrier", err)
	}
	text := levelMagic + strconv.Itoa(level) + "\n"
	if err := fsx.WriteFileAtomic(q.cfg.FS, filepath.Join(q.cfg.Dir, levelName), []byte(text)); err != nil {
		return q.diskError("format", err)
	}
	q.level.Store(int32(level)) //nolint:gosec // small
	return nil
}

// bar makes the barrier.
func (q *Queue) bar() error {
	dir := filepath.Join(q.cfg.Dir, alphabet[:1], barrier)
	if err := fsx.MkdirAllSync(q.cfg.FS, dir, 0o700); err != nil {
		return err
	}
	f, err := q.cfg.FS.OpenFile(filepath.Join(dir, "keep"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), q.cfg.FS.SyncDir(dir))
}
