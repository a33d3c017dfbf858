package queue

import (
	"sync"
)

// dirSync syncs one directory for many at a time: who comes while a sync runs
// shares the next one.
type dirSync struct {
	name string
	q    *Queue

	mu      sync.Mutex // guards the fields below
	next    *syncRound // not started
	running bool
}

type syncRound struct {
	done chan struct{}
	err  error // valid after done is closed
}

func (d *dirSync) init(q *Queue, name string) { d.q, d.name = q, name }

// sync returns when a SyncDir that began after the call has ended.
func (d *dirSync) sync() error {
	d.mu.Lock()
	if d.next == nil {
		d.next = &syncRound{done: make(chan struct{})}
	}
	round := d.next
	if d.running {
		d.mu.Unlock()
		<-round.done
		return round.err
	}
	d.running, d.next = true, nil
	d.mu.Unlock()
	d.run(round)
	d.mu.Lock()
	if d.next != nil {
		go d.lead() // for those who came meanwhile: this caller is served
	} else {
		d.running = false
	}
	d.mu.Unlock()
	return round.err
}

func (d *dirSync) run(r *syncRound) {
	r.err = d.q.synced(d.q.cfg.FS.SyncDir(d.name))
	close(r.done)
}

// lead runs the rounds that are waited for.
func (d *dirSync) lead() {
	d.mu.Lock()
	for d.next != nil {
		r := d.next
		d.next = nil
		d.mu.Unlock()
		d.run(r)
		d.mu.Lock()
	}
	d.running = false
	d.mu.Unlock()
}

// reaper finishes removals: it makes the removal of envelopes durable, many at
// a time, and then removes the message files.
type reaper struct {
	q    *Queue
	wake chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards the fields below
	dead   map[*dirSync][]string
	closed bool
}

func startReaper(q *Queue) *reaper {
	r := &reaper{q: q, wake: make(chan struct{}, 1), done: make(chan struct{}), dead: map[*dirSync][]string{}}
	go r.run()
	return r
}

func (r *reaper) add(d *dirSync, id string) {
	r.mu.Lock()
	r.dead[d] = append(r.dead[d], id)
	r.mu.Unlock()
	r.poke()
}

func (r *reaper) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.poke()
	<-r.done
}

func (r *reaper) run() {
	defer close(r.done)
	for range r.wake {
		r.mu.Lock()
		dead, closed := r.dead, r.closed
		r.dead = map[*dirSync][]string{}
		r.mu.Unlock()
		for d, ids := range dead {
			if d.sync() != nil {
				continue // the message files stay until the next Open
			}
			for _, id := range ids {
				r.q.removeMessage(d, id)
			}
		}
		if closed {
			return
		}
	}
}
