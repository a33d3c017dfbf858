package notify

import (
	"sync"
	"sync/atomic"
)

// Hub knows who watches which mailbox. The zero Hub is ready, and its methods
// may be called from any goroutine.
type Hub struct {
	count atomic.Int64

	mu    sync.Mutex // guards what follows and the links of every watcher
	boxes map[uint64]*Watcher
}

// Watcher is one session's interest in one mailbox.
type Watcher struct {
	c          chan struct{}
	hub        *Hub
	mailbox    uint64
	next, prev *Watcher // of the same mailbox; the first has no prev
	closed     bool
}

// Watch begins watching a mailbox, by id.
func (h *Hub) Watch(mailbox uint64) *Watcher {
	w := &Watcher{c: make(chan struct{}, 1), hub: h, mailbox: mailbox}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.boxes == nil {
		h.boxes = make(map[uint64]*Watcher)
	}
	if first := h.boxes[mailbox]; first != nil {
		w.next, first.prev = first, w
	}
	h.boxes[mailbox] = w
	h.count.Add(1)
	return w
}

// C has a token when the mailbox changed since the last one was taken.
func (w *Watcher) C() <-chan struct{} { return w.c }

// Close ends the watch. A second call does nothing.
func (w *Watcher) Close() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	if w.next != nil {
		w.next.prev = w.prev
	}
	switch {
	case w.prev != nil:
		w.prev.next = w.next
	case w.next != nil:
		h.boxes[w.mailbox] = w.next
	default:
		delete(h.boxes, w.mailbox)
	}
	w.next, w.prev = nil, nil
	h.count.Add(-1)
}

func (w *Watcher) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Wake tells the watchers of these mailboxes. It never blocks.
func (h *Hub) Wake(mailboxes ...uint64) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range mailboxes {
		for w := h.boxes[id]; w != nil; w = w.next {
			w.wake()
		}
	}
}

// WakeAll tells every watcher, as when this replica stops serving.
func (h *Hub) WakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, first := range h.boxes {
		for w := first; w != nil; w = w.next {
			w.wake()
		}
	}
}

// Count is how many watchers there are.
func (h *Hub) Count() int { return int(h.count.Load()) }
