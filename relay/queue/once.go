package queue

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"
)

// doneExt ends the name of what a message with Once leaves behind.
const doneExt = ".done"

// memory is the ids of messages with Once that have left, the oldest first.
type memory struct {
	mu   sync.Mutex // guards the fields below
	ids  map[string]bool
	left []departure
}

type departure struct {
	id string
	at time.Time // or of Open, when it left before
}

func (m *memory) has(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ids[id]
}

func (m *memory) add(id string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ids == nil {
		m.ids = map[string]bool{}
	}
	if !m.ids[id] {
		m.ids[id] = true
		m.left = append(m.left, departure{id, now})
	}
}

// forget takes out what is older than before, and the oldest beyond most.
func (m *memory) forget(before time.Time, most int) (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.left) > 0 && (len(m.left) > most || m.left[0].at.Before(before)) {
		id := m.left[0].id
		delete(m.ids, id)
		ids, m.left = append(ids, id), m.left[1:]
	}
	return ids
}

// takeAway ends the envelope file of a message. Of one with Once it stays under
// another name, by one rename: after a crash it is there under either, and so the
// message is never made again.
func (q *Queue) takeAway(d *dirSync, it *Item) error {
	name := filepath.Join(d.name, it.ID())
	if !it.Once {
		return q.cfg.FS.Remove(name + ".env")
	}
	if err := q.cfg.FS.Rename(name+".env", name+doneExt); err != nil {
		return err
	}
	now := q.cfg.Now()
	q.memory.add(it.ID(), now)
	for _, id := range q.memory.forget(now.Add(-q.cfg.Remember), q.cfg.MaxRemembered) {
		err := q.cfg.FS.Remove(filepath.Join(q.dir(id).name, id+doneExt))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			q.cfg.Log.Warn("id of a message that has left not forgotten", "queue_id", id, "error", err)
		}
	}
	return nil
}
