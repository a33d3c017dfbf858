package jobctl

import (
	"context"
	"errors"
	"time"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// finish ends the delivery to r in state s: it stays for its report, or leaves.
func (c *Controller) finish(it *queue.Item, r *queue.Recipient, s queue.State) {
	if queue.Owed(&it.Envelope, it.Report, &r.Recipient, s) {
		r.State = s
		return
	}
	it.Leave(r)
}

// age does what the age of m and the state of its recipients call for: it
// gives up what is too old, warns, reports and removes. failures are failed
// attempts at its destination that count as its own.
func (c *Controller) age(ctx context.Context, m *message, failures int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	it, err := c.cfg().Queue.Load(m.id)
	if err != nil {
		return err
	}
	return c.ageLocked(ctx, m, it, failures)
}

// ageLocked is age with m.mu held and it read.
func (c *Controller) ageLocked(ctx context.Context, m *message, it *queue.Item, failures int) error {
	if it.Held || len(it.Recipients) == 0 {
		return nil
	}
	age := c.now().Sub(it.Envelope.Arrival)
	if c.expire(it, failures) {
		// On disk before anybody is told: the report made after a crash is
		// then the same one.
		if err := c.store(it, true); err != nil || len(it.Recipients) == 0 {
			return err
		}
	}
	var final, late []queue.Recipient
	due := c.cfg().noticesDue(age)
	for i := range it.Recipients {
		r := &it.Recipients[i]
		switch {
		case r.State != queue.Pending:
			final = append(final, *r)
		case due > it.Notices && r.Channel != mail.ChannelHold && c.wantsDelay(it, r):
			late = append(late, *r)
		}
	}
	if len(final) == 0 && due <= it.Notices {
		return nil
	}
	if len(final)+len(late) > 0 {
		err := c.withBody(ctx, it, func(msg []byte) error {
			if len(final) > 0 {
				if err := c.cfg().Reporter.Report(ctx, it, final, msg); err != nil {
					return err
				}
			}
			if len(late) > 0 {
				return c.cfg().Reporter.Report(ctx, it, late, msg)
			}
			return nil
		})
		if err != nil {
			return c.chore(m, it, err)
		}
	}
	for i := range final {
		if r := it.Find(final[i].Key); r != nil {
			it.Leave(r)
		}
	}
	it.Notices = max(it.Notices, due)
	c.mu.Lock()
	m.notices = it.Notices
	c.mu.Unlock()
	return c.store(it, true)
}

// chore lets a report that could not be made be tried again.
func (c *Controller) chore(m *message, it *queue.Item, err error) error {
	if errors.Is(err, queue.ErrDamaged) {
		return err
	}
	c.cfg().Log.Warn("report put off", "queue_id", m.id, "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := m.job(destKey{chores, ""}); j != nil && j.where == running {
		return err // its own end decides when
	}
	c.addChore(m, c.nanos(it.Envelope.Arrival), c.nanos(c.now().Add(trouble)))
	return nil
}

// addChore makes a job that looks at the age and the reports of m. The caller
// holds c.mu.
func (c *Controller) addChore(m *message, arrival, next int64) {
	j := m.job(destKey{chores, ""})
	switch {
	case j == nil:
		if c.messages[m.id] == nil {
			c.messages[m.id] = m
		}
		j = &job{m: m, dest: c.destination(destKey{chores, ""}), arrival: arrival}
		m.jobs = append(m.jobs, j)
		c.tracked++
		j.dest.tracked++
	case j.where == running:
		return
	}
	j.next = next
	c.put(j, c.nanos(c.now()))
}

// maxChores bounds the chores that one look at a destination makes.
const maxChores = 1000

// sweep makes chores of the ready jobs of a destination that is only probed:
// they are not tried, but they grow old. The caller holds c.mu.
func (c *Controller) sweep(d *destination) {
	now, n := c.now(), 0
	for _, j := range d.ready {
		age := now.Sub(time.Unix(0, j.arrival))
		if n < maxChores && (c.cfg().noticesDue(age) > j.m.notices || c.cfg().expired(age, d.failures)) {
			j.m.failures = d.failures
			c.addChore(j.m, j.arrival, c.nanos(now))
			n++
		}
	}
}

// wantsDelay reports whether the sender wants to know that r is late.
func (c *Controller) wantsDelay(it *queue.Item, r *queue.Recipient) bool {
	return !it.Envelope.ReversePath.IsNull() && !it.Report && r.Notify.Wants(mail.NotifyDelay)
}

// expire gives up recipients that are too old and reports whether any were.
func (c *Controller) expire(it *queue.Item, failures int) bool {
	age := c.now().Sub(it.Envelope.Arrival)
	any := false
	for i := 0; i < len(it.Recipients); i++ {
		r := &it.Recipients[i]
		if r.State != queue.Pending || r.Channel == mail.ChannelHold || !c.cfg().expired(age, max(r.Attempts, failures)) {
			continue
		}
		e := c.event(it, "time limit reached: "+r.Answer.Text)
		e.Recipient, e.Channel, e.Relay, e.Status = r.Address, r.Channel, r.Answer.Relay, mail.Status{5, 4, 7}
		c.cfg().Mail.Bounced(e)
		n := len(it.Recipients)
		c.finish(it, r, queue.TimedOut)
		if len(it.Recipients) < n {
			i--
		}
		any = true
	}
	return any
}
