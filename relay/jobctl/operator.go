package jobctl

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// What an operator can do with a queue. Methods that take an id return
// queue.ErrNotFound when the queue holds no such message. A change waits for
// an attempt that is being written down, not for one that is under way.

// Query selects messages for List. Empty fields select all.
type Query struct {
	Address string // reverse-path or recipient, without case
	State   string // "queued", "deferred" or "held"
	After   string // only ids after this one
	Limit   int    // 0 is 1,000
}

// StateOf is how an operator sees a message: held, deferred (tried and to be
// tried again) or queued.
func StateOf(it *queue.Item) string {
	held := it.Held
	attempts, pending := 0, 0
	for i := range it.Recipients {
		r := &it.Recipients[i]
		attempts = max(attempts, r.Attempts)
		if r.State == queue.Pending && r.Channel != mail.ChannelHold {
			pending++
		}
	}
	switch {
	case held || pending == 0 && len(it.Recipients) > 0 && it.Recipients[0].Channel == mail.ChannelHold:
		return "held"
	case attempts > 0:
		return "deferred"
	}
	return "queued"
}

var errEnough = errors.New("enough")

// List returns messages in the order of their ids, and whether there are more.
func (c *Controller) List(ctx context.Context, q Query) (items []*queue.Item, more bool, err error) {
	if q.Limit <= 0 {
		q.Limit = 1000
	}
	err = c.cfg().Queue.Scan(ctx, func(it *queue.Item) error {
		if it.ID() <= q.After || q.State != "" && StateOf(it) != q.State || q.Address != "" && !names(it, q.Address) {
			return nil
		}
		if len(items) == q.Limit {
			more = true
			return errEnough
		}
		items = append(items, it)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return items, more, err
}

// names reports whether address is the reverse-path or a recipient of it.
func names(it *queue.Item, address string) bool {
	if strings.EqualFold(it.Envelope.ReversePath.String(), address) {
		return true
	}
	for i := range it.Recipients {
		r := &it.Recipients[i]
		if strings.EqualFold(r.Address.String(), address) || strings.EqualFold(r.Mailbox, address) {
			return true
		}
	}
	return false
}

// Show returns one message.
func (c *Controller) Show(id string) (*queue.Item, error) { return c.cfg().Queue.Load(id) }

// Next is when a message is tried next; zero when it is held, or now.
func (c *Controller) Next(it *queue.Item) time.Time {
	var next time.Time
	if it.Held {
		return next
	}
	now := c.now()
	for i := range it.Recipients {
		if r := &it.Recipients[i]; r.State == queue.Pending && r.Channel != mail.ChannelHold {
			if at := c.cfg().due(r, it.Envelope.Priority, now); next.IsZero() || at.Before(next) {
				next = at
			}
		}
	}
	return next
}

// message returns the message of id, in memory or not.
func (c *Controller) message(id string) *message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.messages[id]; m != nil {
		return m
	}
	return c.newMessage(id)
}

// change loads a message, lets f change it and writes it. When f leaves no
// recipients the message is removed.
func (c *Controller) change(id string, f func(it *queue.Item)) (*queue.Item, error) {
	m := c.message(id)
	m.mu.Lock()
	defer m.mu.Unlock()
	it, err := c.cfg().Queue.Load(id)
	if err != nil {
		return nil, err
	}
	f(it)
	return it, c.store(it, true)
}

// Hold keeps a message from being tried until Release.
func (c *Controller) Hold(id, reason string) error {
	if reason == "" {
		reason = "by the operator"
	}
	it, err := c.change(id, func(it *queue.Item) {
		if !it.Held {
			c.hold(it, reason)
		}
	})
	if err != nil {
		return err
	}
	c.dropWaiting(it.ID())
	return nil
}

// dropWaiting forgets the jobs of a message that are not under way.
func (c *Controller) dropWaiting(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.messages[id]; m != nil {
		for i := len(m.jobs) - 1; i >= 0; i-- {
			if j := m.jobs[i]; j.where != running {
				c.drop(j)
			}
		}
	}
}

// Release lets a held message go on, at once. Recipients on the hold channel
// are looked up again.
func (c *Controller) Release(id string) error {
	it, err := c.change(id, func(it *queue.Item) {
		it.Held, it.Reason, it.HeldAt, it.Crashes = false, "", time.Time{}, 0
		for i := range it.Recipients {
			r := &it.Recipients[i]
			r.Next, r.LastTry = time.Time{}, time.Time{}
			if r.Channel == mail.ChannelHold {
				lookUp(r)
			}
		}
	})
	if err != nil {
		return err
	}
	c.cfg().Mail.Released(c.event(it, ""))
	c.reschedule(it)
	return nil
}

// Retry tries a message now, whatever its schedule says.
func (c *Controller) Retry(id string) error {
	it, err := c.change(id, func(it *queue.Item) {
		now := c.now()
		for i := range it.Recipients {
			it.Recipients[i].Next = now
		}
	})
	if err != nil {
		return err
	}
	c.reschedule(it)
	return nil
}

// reschedule puts the jobs of a changed message where they now belong, and lets
// their destinations be tried.
func (c *Controller) reschedule(it *queue.Item) {
	c.mu.Lock()
	if c.wait(it) {
		c.mu.Unlock()
		c.look(it.Parent.ID)
		return
	}
	c.track(it)
	if m := c.messages[it.ID()]; m != nil {
		m.crash = it.Crashes
		for _, j := range m.jobs {
			c.rest(j.dest, 0)
		}
	}
	c.pump()
	c.mu.Unlock()
	c.poke()
}

// Delete ends a message without telling anybody but the log.
func (c *Controller) Delete(id string) error {
	var gone []queue.Recipient
	it, err := c.change(id, func(it *queue.Item) {
		gone = it.Recipients
		it.Recipients = nil
	})
	if err != nil {
		return err
	}
	c.dropWaiting(id)
	for i := range gone {
		e := c.event(it, "deleted by the operator")
		e.Recipient, e.Channel = gone[i].Address, gone[i].Channel
		c.cfg().Mail.Discarded(e)
	}
	return nil
}

// Return gives a message up now and tells the sender.
func (c *Controller) Return(id string) error {
	it, err := c.change(id, func(it *queue.Item) {
		it.Held, it.Reason, it.HeldAt = false, "", time.Time{}
		for i := 0; i < len(it.Recipients); i++ {
			r := &it.Recipients[i]
			if r.State != queue.Pending {
				continue
			}
			e := c.event(it, "returned by the operator")
			e.Recipient, e.Channel, e.Status = r.Address, r.Channel, mail.Status{5, 0, 0}
			c.cfg().Mail.Bounced(e)
			n := len(it.Recipients)
			if c.finish(it, r, queue.Returned); len(it.Recipients) < n {
				i--
			}
		}
	})
	if err != nil {
		return err
	}
	c.reschedule(it)
	return nil
}

// Pause stops starting deliveries of a channel, or with a next hop of one
// destination; those under way end. Resume takes it back.
func (c *Controller) Pause(ch mail.Channel, nextHop string) { c.setPaused(ch, nextHop, true) }

// Resume starts deliveries again.
func (c *Controller) Resume(ch mail.Channel, nextHop string) { c.setPaused(ch, nextHop, false) }

func (c *Controller) setPaused(ch mail.Channel, nextHop string, paused bool) {
	c.mu.Lock()
	d := c.destination(destKey{ch, nextHop})
	if nextHop == "" {
		d.ch.paused = paused
	} else {
		d.paused = paused
	}
	c.ring(d)
	c.forget(d)
	c.pump()
	c.mu.Unlock()
	c.poke()
}

// Wake tries the jobs of a destination that wait on the short list now: it
// answers again.
func (c *Controller) Wake(ch mail.Channel, nextHop string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.dests[destKey{ch, nextHop}]
	if d == nil {
		return
	}
	d.failures = 0
	now := c.nanos(c.now())
	var busy []*job
	for _, j := range c.waiting {
		if j.dest == d && j.busy {
			busy = append(busy, j)
		}
	}
	for _, j := range busy {
		j.next, j.forced = now, true
		c.put(j, now)
	}
	c.rest(d, 0)
	c.pump()
	c.poke()
}

// Destination is the state of one next hop.
type Destination struct {
	Channel  mail.Channel
	NextHop  string
	Jobs     int // tracked
	Active   int
	Failures int       // attempts in a row without an answer
	Until    time.Time // when it is probed next, zero if it answers
	Paused   bool
}

// Status is the state of the controller.
type Status struct {
	Tracked      int // jobs in memory
	Active       int
	Overflow     bool // the disk holds more than memory
	Oldest       time.Time
	Destinations []Destination
}

// Status returns what the controller knows now.
func (c *Controller) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Tracked: c.tracked, Overflow: c.overflow}
	oldest := int64(0)
	for _, m := range c.messages {
		if len(m.jobs) > 0 && (oldest == 0 || m.jobs[0].arrival < oldest) {
			oldest = m.jobs[0].arrival
		}
	}
	if oldest != 0 {
		s.Oldest = time.Unix(0, oldest)
	}
	for _, d := range c.dests {
		s.Active += d.active
		if d.key.channel == chores {
			continue
		}
		o := Destination{
			Channel: d.key.channel, NextHop: d.key.hop, Jobs: d.tracked, Active: d.active, Failures: d.failures,
			Paused: d.paused || d.ch.paused,
		}
		if d.until != 0 {
			o.Until = time.Unix(0, d.until)
		}
		s.Destinations = append(s.Destinations, o)
	}
	return s
}

// Oldest returns when the oldest message of each channel arrived that has one.
// What only the disk holds, in an overflow, is not among them.
func (c *Controller) Oldest() map[mail.Channel]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	nanos := map[mail.Channel]int64{}
	for _, m := range c.messages {
		for _, j := range m.jobs {
			if at, ok := nanos[j.dest.key.channel]; j.dest.key.channel != chores && (!ok || j.arrival < at) {
				nanos[j.dest.key.channel] = j.arrival
			}
		}
	}
	out := make(map[mail.Channel]time.Time, len(nanos))
	for channel, at := range nanos {
		out[channel] = time.Unix(0, at)
	}
	return out
}
