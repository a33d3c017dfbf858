package queue

import (
	"sync"
	"time"
)

// envelopeRoom is what an envelope file is taken to need, and recipientRoom
// what each of its recipients adds, in octets.
const (
	envelopeRoom  = 4 << 10
	recipientRoom = 512
)

// room counts what the queue uses and what was promised.
type room struct {
	mu       sync.Mutex // guards everything below
	limits   Limits
	messages int64
	bytes    int64
	promised int64
	free     int64     // of the file system, when last asked
	since    int64     // written since then
	asked    time.Time // zero: not yet
}

// Reservation is room promised to one message. Release is called exactly once,
// after Submit or instead of it.
type Reservation struct {
	q *Queue
	n int64
}

// Reserve promises room for a message of n octets and some recipients. It
// returns ErrFull when the queue, or its disk, has none to give.
func (q *Queue) Reserve(n int64, recipients int) (Reservation, error) {
	n += envelopeRoom + int64(recipients)*recipientRoom
	r := &q.room
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.failed.Load() != nil {
		return Reservation{}, ErrFailed
	}
	if r.limits.MaxMessages > 0 && r.messages >= r.limits.MaxMessages {
		return Reservation{}, ErrFull
	}
	if r.limits.MaxBytes > 0 && r.bytes+r.promised+n > r.limits.MaxBytes {
		return Reservation{}, ErrFull
	}
	if q.cfg.Free != nil {
		if now := q.cfg.Now(); r.asked.IsZero() || now.Sub(r.asked) > q.cfg.FreeEvery || now.Before(r.asked) {
			free, err := q.cfg.Free()
			if err != nil {
				return Reservation{}, err
			}
			r.free, r.since, r.asked = free, 0, now
		}
		if r.free-r.since-r.promised-n < r.limits.MinFree {
			return Reservation{}, ErrFull
		}
	}
	r.promised += n
	return Reservation{q, n}, nil
}

// SetLimits makes other limits hold for messages from now on.
func (q *Queue) SetLimits(l Limits) {
	q.room.mu.Lock()
	defer q.room.mu.Unlock()
	q.room.limits = l
}

// Release gives back the room that Submit did not use. Releasing the zero
// Reservation does nothing.
func (r *Reservation) Release() {
	if r.q == nil {
		return
	}
	r.q.room.mu.Lock()
	r.q.room.promised -= r.n
	r.q.room.mu.Unlock()
	r.q = nil
}

// use counts a message that is now in the queue.
func (r *room) use(messages, n int64) {
	r.mu.Lock()
	r.messages = max(0, r.messages+messages)
	r.bytes += n // below zero until the first Scan has counted what Open found
	if n > 0 {
		r.since += n
	}
	r.mu.Unlock()
}

// Stats is what the queue holds.
type Stats struct {
	Messages int64 // with an envelope file
	Bytes    int64 // of messages seen so far, exact after the first Scan
	Reserved int64
	Damaged  int64 // set aside as ID.bad
}

// Stats counts what the queue holds now.
func (q *Queue) Stats() Stats {
	q.room.mu.Lock()
	defer q.room.mu.Unlock()
	return Stats{Messages: q.room.messages, Bytes: max(0, q.room.bytes), Reserved: q.room.promised, Damaged: q.damaged.Load()}
}
