package queue

import (
	"context"
	"errors"
	"path/filepath"
)

// Scan calls found for every message, one subdirectory after the other, without
// holding more than one envelope and the names of one subdirectory in memory.
// Messages submitted or removed meanwhile may or may not be seen. A damaged
// envelope, or one without its message file, is set aside; one of a newer
// version is left alone and logged. Scan ends early with the error that found
// returns, or ctx's.
func (q *Queue) Scan(ctx context.Context, found func(*Item) error) error {
	var bytes int64 // of messages that were there when the queue was opened
	for i := range q.dirs {
		d := &q.dirs[i]
		names, err := q.cfg.FS.ReadDir(d.name)
		if err != nil {
			return q.diskError("read directory", err)
		}
		for n, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			id, ext := splitName(name)
			if ext != ".env" {
				continue
			}
			size, err := q.scanned(id, hasBody(names[n:], id), found)
			if err != nil {
				return err
			}
			bytes += size
		}
	}
	q.mu.Lock()
	first := q.early != nil
	q.early = nil
	q.mu.Unlock()
	if first {
		q.room.use(0, bytes)
		for _, root := range q.given.seen() {
			q.dropGiven(root)
		}
	}
	return nil
}

// hasBody looks for ID.msg among the names that follow ID.env.
func hasBody(names []string, id string) bool {
	for _, name := range names[1:] {
		other, ext := splitName(name)
		switch {
		case other == id && ext == ".msg":
			return true
		case other != id && other != id+".env":
			return false
		}
	}
	return false
}

// scanned reports one message and returns its octets if they are not counted
// yet.
func (q *Queue) scanned(id string, body bool, found func(*Item) error) (int64, error) {
	it, err := q.Load(id)
	switch {
	case errors.Is(err, ErrNotFound): // finished since ReadDir
		return 0, nil
	case errors.Is(err, ErrVersion):
		q.cfg.Log.Error("message of a newer version left alone", "queue_id", id, "error", err)
		return 0, nil
	case errors.Is(err, ErrDamaged):
		return 0, q.SetAside(id, err)
	case err != nil:
		return 0, err
	case !body && !q.bodyThere(id):
		return 0, q.SetAside(id, errors.New("message file missing"))
	}
	q.given.note(it)
	q.mu.Lock()
	counted := q.early == nil || q.early[id]
	q.mu.Unlock()
	size := it.Size
	if counted {
		size = 0
	}
	return size, found(it)
}

// bodyThere looks again: a message submitted during ReadDir may show its
// envelope only.
func (q *Queue) bodyThere(id string) bool {
	f, err := q.cfg.FS.OpenFile(filepath.Join(q.dir(id).name, id+".msg"), 0, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
