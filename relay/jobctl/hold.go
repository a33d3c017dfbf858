package jobctl

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// keep notes that a message has a recipient on the channel hold. The caller
// holds c.mu.
func (c *Controller) keep(id string) {
	switch {
	case c.cfg().OnHold == nil || c.kept[id]:
	case len(c.kept) < c.cfg().MaxTracked:
		c.kept[id] = true
	default:
		c.keptMore = true
	}
}

// checkHold calls releaseDue every HoldCheck, until ctx ends. A time that is shorter
// now counts from the last call too.
func (c *Controller) checkHold(ctx context.Context) {
	last := time.Now()
	for {
		var due <-chan time.Time
		var timer *time.Timer
		if pause := c.cfg().HoldCheck; pause > 0 {
			timer = time.NewTimer(time.Until(last.Add(pause)))
			due = timer.C
		}
		select {
		case <-ctx.Done():
		case <-c.ruled:
		case <-due:
			c.releaseDue(ctx)
			last = time.Now()
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// releaseDue lets held mail go when its recipients are no longer on hold.
func (c *Controller) releaseDue(ctx context.Context) {
	c.mu.Lock()
	more := c.keptMore
	c.keptMore = false
	ids := slices.Collect(maps.Keys(c.kept))
	c.mu.Unlock()
	if more {
		err := c.cfg().Queue.Scan(ctx, func(it *queue.Item) error {
			if slices.ContainsFunc(it.Recipients, onHold) {
				ids = append(ids, it.ID())
				c.mu.Lock()
				c.keep(it.ID()) // and so finds whether there are more still
				c.mu.Unlock()
			}
			return nil
		})
		if err != nil {
			c.mu.Lock()
			c.keptMore = true
			c.mu.Unlock()
			if ctx.Err() == nil {
				c.cfg().Log.Error("queue not read to the end", "error", err)
			}
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	asked := map[string]bool{} // answers of this round, by address
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		if err := c.releaseOne(ctx, id, asked); err != nil && ctx.Err() == nil {
			c.cfg().Log.Warn("held message not looked at", "queue_id", id, "error", err)
		}
	}
}

func onHold(r queue.Recipient) bool { return r.State == queue.Pending && r.Channel == mail.ChannelHold }

// maxAsked bounds the answers that are remembered for a round.
const maxAsked = 100_000

// releaseOne lets those recipients of a message go that are no longer on hold.
// What an operator holds stays.
func (c *Controller) releaseOne(ctx context.Context, id string, asked map[string]bool) error {
	it, err := c.cfg().Queue.Load(id)
	gone := errors.Is(err, queue.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	if gone || !slices.ContainsFunc(it.Recipients, onHold) {
		c.mu.Lock()
		delete(c.kept, id)
		c.mu.Unlock()
		return nil
	}
	if it.Held {
		return nil
	}
	free := map[mail.DeliveryKey]bool{}
	for i := range it.Recipients {
		r := &it.Recipients[i]
		if !onHold(*r) {
			continue
		}
		name := r.Address.Key()
		held, known := asked[name]
		if !known {
			if held = c.cfg().OnHold(ctx, &it.Envelope, r.Recipient); len(asked) < maxAsked {
				asked[name] = held
			}
		}
		if !held && ctx.Err() == nil {
			free[r.Key] = true
		}
	}
	if len(free) == 0 {
		return nil
	}
	it, err = c.change(id, func(it *queue.Item) {
		for i := range it.Recipients {
			if r := &it.Recipients[i]; free[r.Key] && onHold(*r) && !it.Held {
				lookUp(r)
			}
		}
	})
	if err != nil {
		return err
	}
	c.cfg().Mail.Released(c.event(it, "its recipients are no longer on hold"))
	c.reschedule(it)
	return nil
}

// lookUp makes a held recipient one that is looked up again, at once.
func lookUp(r *queue.Recipient) {
	r.Next, r.LastTry = time.Time{}, time.Time{}
	r.Channel, r.NextHop = mail.ChannelReprocess, ""
}
