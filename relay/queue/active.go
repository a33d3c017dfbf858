package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/postern-mail/postern/shared/fsx"
)

// slotSize is the room of one id in the file of active messages.
const slotSize = 32

// activeFile remembers which messages are being worked on, in slots that are
// written and blanked without sync: it is for a crash of the process, which
// loses no write, not for one of the host.
type activeFile struct {
	mu   sync.Mutex // guards the fields below
	f    fsx.File
	free []int
	next int
}

// openActive reads the ids that the process before left behind.
func (q *Queue) openActive() error {
	name := filepath.Join(q.cfg.Dir, "active")
	b, err := fsx.ReadFile(q.cfg.FS, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for len(b) >= slotSize {
		if id := strings.TrimRight(string(b[:slotSize]), " \n\x00"); q.dir(id) != nil {
			q.suspects = append(q.suspects, id)
		}
		b = b[slotSize:]
	}
	q.active.f, err = q.cfg.FS.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	q.active.next = len(q.suspects) // their slots stay until ClearSuspects
	return err
}

// Suspects lists the messages that were being worked on when the process
// before this one died. They are listed again at the next start unless
// ClearSuspects is called.
func (q *Queue) Suspects() []string { return q.suspects }

// ClearSuspects forgets the list, once its messages have been counted.
func (q *Queue) ClearSuspects() error {
	q.active.mu.Lock()
	defer q.active.mu.Unlock()
	blank := make([]byte, slotSize*len(q.suspects))
	for i := range blank {
		blank[i] = ' '
	}
	if len(blank) > 0 {
		if _, err := q.active.f.WriteAt(blank, 0); err != nil {
			return fmt.Errorf("queue: active: %w", err)
		}
	}
	for i := range q.suspects {
		q.active.free = append(q.active.free, i)
	}
	q.suspects = nil
	return nil
}

// Mark notes that id is being worked on until done is called. It cannot fail
// loudly: without the note a crash is not counted, and nothing else.
func (q *Queue) Mark(id string) (done func()) {
	a := &q.active
	var slot [slotSize]byte
	copy(slot[:], "                               \n")
	blank := slot
	copy(slot[:], id)
	a.mu.Lock()
	n := a.next
	if len(a.free) > 0 {
		n = a.free[len(a.free)-1]
		a.free = a.free[:len(a.free)-1]
	} else {
		a.next++
	}
	a.mu.Unlock()
	_, _ = a.f.WriteAt(slot[:], int64(n)*slotSize)
	return func() {
		_, _ = a.f.WriteAt(blank[:], int64(n)*slotSize)
		a.mu.Lock()
		a.free = append(a.free, n)
		a.mu.Unlock()
	}
}
