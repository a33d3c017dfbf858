package jobctl

import (
	"container/heap"
	"hash/maphash"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// message is a queued message that has jobs in memory.
type message struct {
	id    string
	jobs  []*job // guarded by Controller.mu, as are the next four
	crash int    // times the process died on it; above 0 it runs alone
	// failures are attempts at its destination, without an answer, that count
	// as its own when it is asked whether it is too old.
	failures int
	notices  int // warnings sent, as far as known
	rcpts    int // recipients, when it was seen first

	mu *sync.Mutex // held while its envelope is read, changed and written; by id
}

// newMessage returns a message that is not in the map yet.
func (c *Controller) newMessage(id string) *message {
	return &message{id: id, mu: &c.stripes[maphash.String(c.seed, id)%uint64(len(c.stripes))]}
}

// place says where a job is.
type place uint8

const (
	nowhere place = iota
	waiting       // in Controller.waiting
	ready         // in its destination's ready
	running
)

// job is one message for one destination. Controller.mu guards it.
type job struct {
	m        *message
	dest     *destination
	next     int64 // when, in nanoseconds of the controller's clock
	arrival  int64
	priority mail.Priority
	busy     bool // waits on the short list
	forced   bool // to be tried whatever the envelope's schedule says
	where    place
	pos      int32 // in its heap
}

// destKey names a destination. The channel chores stands for reports.
type destKey struct {
	channel mail.Channel
	hop     string
}

// chores is the channel of jobs that deliver nothing: reports that are due.
const chores mail.Channel = "\x00chores"

// destination is one next hop. Controller.mu guards it.
type destination struct {
	key      destKey
	ch       *channel
	ready    readyHeap
	active   int
	load     int // recipients of the messages of its active jobs
	tracked  int
	failures int // attempts in a row without an answer
	until    int64
	inRing   bool // in ch.turns
	paused   bool
}

// channel counts what runs on one channel. Controller.mu guards it.
type channel struct {
	limit  Limit
	active int
	paused bool
	turns  []*destination // those with ready jobs, in the order of their turns
}

// readyHeap orders by priority, then age.
type readyHeap []*job

func (h readyHeap) Len() int { return len(h) }
func (h readyHeap) Less(i, j int) bool {
	if h[i].priority != h[j].priority {
		return h[i].priority > h[j].priority
	}
	return h[i].arrival < h[j].arrival
}

func (h readyHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = int32(i), int32(j)
}

func (h *readyHeap) Push(x any) {
	j := x.(*job)
	j.pos = int32(len(*h))
	*h = append(*h, j)
}

func (h *readyHeap) Pop() any { return pop((*[]*job)(h)) }

// waitHeap orders by the time to run.
type waitHeap []*job

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].next < h[j].next }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = int32(i), int32(j)
}

func (h *waitHeap) Push(x any) {
	j := x.(*job)
	j.pos = int32(len(*h))
	*h = append(*h, j)
}

func (h *waitHeap) Pop() any { return pop((*[]*job)(h)) }

func pop(h *[]*job) *job {
	old := *h
	j := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return j
}

// put places j where its time says. The caller holds c.mu.
func (c *Controller) put(j *job, now int64) {
	c.take(j)
	if j.next > now {
		j.where = waiting
		heap.Push(&c.waiting, j)
		return
	}
	j.where = ready
	heap.Push(&j.dest.ready, j)
	c.ring(j.dest)
}

// take removes j from where it is. The caller holds c.mu.
func (c *Controller) take(j *job) {
	switch j.where {
	case waiting:
		heap.Remove(&c.waiting, int(j.pos))
	case ready:
		heap.Remove(&j.dest.ready, int(j.pos))
	}
	j.where = nowhere
}

// ring lets a destination take its turn. The caller holds c.mu.
func (c *Controller) ring(d *destination) {
	if !d.inRing && len(d.ready) > 0 {
		d.inRing = true
		d.ch.turns = append(d.ch.turns, d)
	}
}

// drop forgets j. The caller holds c.mu.
func (c *Controller) drop(j *job) {
	c.take(j)
	m := j.m
	for i, o := range m.jobs {
		if o == j {
			m.jobs[i] = m.jobs[len(m.jobs)-1]
			m.jobs = m.jobs[:len(m.jobs)-1]
			break
		}
	}
	if len(m.jobs) == 0 {
		delete(c.messages, m.id)
	}
	c.tracked--
	j.dest.tracked--
	c.forget(j.dest)
}

// forget drops a destination that has nothing to remember.
func (c *Controller) forget(d *destination) {
	if d.tracked == 0 && d.active == 0 && d.failures == 0 && !d.paused && !d.inRing && !c.over[d] {
		delete(c.dests, d.key)
		delete(c.silent, d)
	}
}

// rest lets a destination alone until the given time; 0 ends that. The caller
// holds c.mu.
func (c *Controller) rest(d *destination, until int64) {
	d.until = until
	if until == 0 {
		delete(c.silent, d)
		c.ring(d)
	} else {
		c.silent[d] = true
	}
}

// destination returns the destination of key. The caller holds c.mu.
func (c *Controller) destination(key destKey) *destination {
	d := c.dests[key]
	if d == nil {
		ch := c.channels[key.channel]
		if ch == nil {
			ch = &channel{limit: c.cfg().limit(key.channel)}
			c.channels[key.channel] = ch
		}
		d = &destination{key: key, ch: ch}
		c.dests[key] = d
	}
	return d
}

// nanos is t on the controller's clock, which does not jump.
func (c *Controller) nanos(t time.Time) int64 { return t.UnixNano() }
