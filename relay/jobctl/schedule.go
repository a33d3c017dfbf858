package jobctl

import (
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// short is the next interval of the short list for a recipient that has been
// busy for so long; ok is false when the list is used up.
func (c *Config) short(since time.Duration) (d time.Duration, ok bool) {
	if since >= c.ShortFor {
		return 0, false
	}
	var sum time.Duration
	for _, d := range c.Short {
		if since < sum+d {
			return d, true
		}
		sum += d
	}
	return c.Short[len(c.Short)-1], true
}

// backoff is the interval before attempt step+1 of the normal schedule.
func (c *Config) backoff(p mail.Priority, step int) time.Duration {
	list := c.Backoff[p]
	return list[min(max(step, 0), len(list)-1)]
}

// deferred sets when r is tried next after an attempt at now. busy asks for
// the short list.
func (c *Config) deferred(r *queue.Recipient, p mail.Priority, now time.Time, busy bool) {
	if busy {
		if r.Busy.IsZero() || r.Busy.After(now) {
			r.Busy = now
		}
		if d, ok := c.short(now.Sub(r.Busy)); ok {
			r.Next = now.Add(d)
			return
		}
	} else {
		r.Busy = time.Time{}
	}
	r.Next = now.Add(c.backoff(p, r.Step))
	r.Step++
}

// due is when r is to be tried, seen at now. A time further away than any
// interval was written by a clock that was wrong, and means now.
func (c *Config) due(r *queue.Recipient, p mail.Priority, now time.Time) time.Time {
	next := r.Next
	if next.IsZero() && r.Attempts > 0 {
		probe := *r
		at := r.LastTry
		if at.After(now) {
			at = now
		}
		c.deferred(&probe, p, at, !r.Busy.IsZero())
		next = probe.Next
	}
	list := c.Backoff[p]
	if next.After(now.Add(list[len(list)-1])) {
		return now
	}
	return next
}

// expired reports whether a pending recipient of a message of this age is to be
// given up.
func (c *Config) expired(age time.Duration, attempts int) bool {
	return age >= c.Lifetime && attempts >= c.MinAttempts
}

// graced is res, and a refusal for good once a mailbox is full for longer than a
// message may wait for that (two-tier.md 3).
func (c *Config) graced(it *queue.Item, r *queue.Recipient, res *deliver.Result, now time.Time) *deliver.Result {
	if res.Outcome != deliver.Deferred || res.Status != mail.StatusOverQuota || r.Channel != mail.ChannelLMTP || now.Sub(it.Envelope.Arrival) < c.QuotaGrace {
		return res
	}
	full := *res
	full.Outcome, full.Code, full.Status = deliver.Failed, 552, mail.Status{5, 2, 2}
	return &full
}

// noticesDue is how many warnings should have been sent at this age.
func (c *Config) noticesDue(age time.Duration) int {
	n := 0
	for _, d := range c.Notices {
		if age >= d {
			n++
		}
	}
	return n
}
