package jobctl

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// children are the messages that wait for those that they were made of: by the
// parent's id and their own, what of the parent they wait for. Controller.mu
// guards them.
type children struct {
	of map[string]map[string]queue.Parent
	n  int
}

// wait reports whether it has to wait for its parent, as far as is known without
// a look at that, and notes it. The caller holds c.mu.
func (c *Controller) wait(it *queue.Item) bool {
	p := it.Parent
	if p.ID == "" || c.messages[it.ID()] != nil {
		return false
	}
	of := c.children.of[p.ID]
	if _, known := of[it.ID()]; known {
		return true
	}
	if c.children.n >= c.cfg().MaxTracked {
		c.scanAgain()
		return true
	}
	if of == nil {
		of = map[string]queue.Parent{}
		c.children.of[p.ID] = of
	}
	of[it.ID()] = p
	c.children.n++
	return true
}

// scanAgain has the queue scanned before long. The caller holds c.mu.
func (c *Controller) scanAgain() {
	c.overflow, c.over[c.destination(destKey{channel: mail.ChannelReprocess})] = true, true
}

// closed lets those go on that waited for what now stands in it, on the disk.
func (c *Controller) closed(it *queue.Item) {
	c.mu.Lock()
	of := c.children.of[it.ID()]
	var ids []string
	for id, p := range of {
		if !p.Open(it) {
			ids = append(ids, id)
			delete(of, id)
		}
	}
	c.children.n -= len(ids)
	if len(of) == 0 {
		delete(c.children.of, it.ID())
	}
	c.mu.Unlock()
	for _, id := range ids {
		child, err := c.cfg().Queue.Load(id)
		c.mu.Lock()
		switch {
		case err == nil:
			c.track(child)
			c.pump()
		case !errors.Is(err, queue.ErrNotFound): // the next scan says what is wrong with it
			c.cfg().Log.Error("message not read", "queue_id", id, "error", err)
			c.scanAgain()
		}
		c.mu.Unlock()
	}
	if len(ids) > 0 {
		c.poke()
	}
}

// look lets the children of a parent go on if it has ended already. Nobody is
// changing it meanwhile: what is seen is on the disk for good.
func (c *Controller) look(parent string) {
	m := c.message(parent)
	m.mu.Lock()
	defer m.mu.Unlock()
	it, err := c.cfg().Queue.Load(parent)
	if errors.Is(err, queue.ErrNotFound) || errors.Is(err, queue.ErrDamaged) {
		it, err = &queue.Item{Envelope: mail.Envelope{QueueID: parent}}, nil
	}
	if err != nil {
		c.cfg().Log.Error("message not read, others wait for it", "queue_id", parent, "error", err)
		return
	}
	c.closed(it)
}

// lookAll looks at all parents: some are gone in a way that nobody told of, set
// aside for one.
func (c *Controller) lookAll(ctx context.Context) {
	c.mu.Lock()
	ids := slices.Collect(maps.Keys(c.children.of))
	c.mu.Unlock()
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		c.look(id)
	}
}
