package jobctl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// maker makes a message of each recipient, as the channel reprocess does, and
// answers after a while.
type maker struct {
	h     *house
	takes time.Duration

	mu     sync.Mutex // guards answer
	answer deliver.Result
}

func (m *maker) will(answer deliver.Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = answer
}

func childOf(it *mail.Envelope, key mail.DeliveryKey) string {
	return fmt.Sprintf("%s%x", it.QueueID[:8], key[:4])
}

func (m *maker) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	for _, r := range d.Recipients {
		child := &queue.Item{Envelope: *d.Envelope, Parent: queue.Parent{ID: d.Envelope.QueueID, Key: r.Key}}
		child.Envelope.QueueID = childOf(d.Envelope, r.Key)
		r.Channel, r.NextHop = mail.ChannelSMTP, "out.example"
		child.Recipients = []queue.Recipient{{Recipient: r}}
		if err := m.h.q.Submit(ctx, nil, child, []byte("child\r\n")); err != nil && !errors.Is(err, queue.ErrExists) {
			m.h.t.Error(err)
		}
	}
	select {
	case <-time.After(m.takes):
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return deliver.All(d, m.answer)
}

var passed = deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK}

func family(t *testing.T, change func(*Config), f func(h *house, m *maker)) {
	m := &maker{takes: 5 * time.Minute, answer: passed}
	in(t, func(c *Config) {
		c.Agents[mail.ChannelReprocess] = m
		if change != nil {
			change(c)
		}
	}, func(h *house) {
		m.h = h
		f(h, m)
	})
}

// list submits a message of which n are made.
func (h *house) list(n int) string {
	return h.submit(func(it *queue.Item) {
		for i := range it.Recipients {
			it.Recipients[i].Channel, it.Recipients[i].NextHop = mail.ChannelReprocess, ""
		}
	}, slices.Repeat([]string{"list@all.example"}, n)...)
}

// waiting are the messages that wait for a parent.
func (h *house) waiting() (ids []string) {
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	for _, of := range h.c.children.of {
		ids = slices.AppendSeq(ids, maps.Keys(of))
	}
	if len(ids) != h.c.children.n || (len(ids) == 0) != (len(h.c.children.of) == 0) {
		h.t.Errorf("%d wait, counted as %d", len(ids), h.c.children.n)
	}
	return ids
}

// TestParent: what is made of a message is not tried before that is over for
// good, whatever happens meanwhile.
func TestParent(t *testing.T) {
	sent := func(h *house, n int) {
		t.Helper()
		synctest.Wait()
		if got := len(h.a.attempts()); got != n {
			t.Errorf("%d sent, not %d", got, n)
		}
	}
	t.Run("in one life", func(t *testing.T) {
		family(t, nil, func(h *house, _ *maker) {
			h.list(2)
			time.Sleep(time.Minute)
			sent(h, 0)
			for _, child := range h.waiting() { // an operator's order changes nothing
				if err := h.c.Retry(child); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(3 * time.Minute)
			sent(h, 0)
			time.Sleep(2 * time.Minute)
			sent(h, 2)
			if s := h.q.Stats(); s.Messages != 0 || len(h.waiting()) != 0 || h.c.Status().Tracked != 0 {
				t.Errorf("left: %+v, %v", s, h.waiting())
			}
		})
	})
	for name, tt := range map[string]struct {
		then func(h *house, m *maker, parent string) error
		wait time.Duration
	}{
		"made again":     {func(_ *house, m *maker, _ string) error { m.will(passed); return nil }, 2 * time.Hour},
		"refused now":    {func(_ *house, m *maker, _ string) error { m.will(refuse(nil, nil)); return nil }, 2 * time.Hour},
		"deleted":        {func(h *house, _ *maker, id string) error { return h.c.Delete(id) }, 0},
		"set aside":      {func(h *house, _ *maker, id string) error { return h.q.SetAside(id, errors.New("damaged")) }, 2 * time.Minute},
		"parent retried": {func(h *house, m *maker, id string) error { m.will(passed); return h.c.Retry(id) }, 6 * time.Minute},
	} {
		t.Run("over a crash, "+name, func(t *testing.T) {
			family(t, nil, func(h *house, m *maker) {
				id := h.list(1)
				time.Sleep(time.Minute)
				crashed := h.fs.Crash(1)
				h.end()
				h.fs = crashed
				m.will(later(nil, nil))
				h.start()
				time.Sleep(10 * time.Minute)
				sent(h, 0)
				if err := tt.then(h, m, id); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tt.wait)
				sent(h, 1)
				if h.q.Stats().Messages != 0 || len(h.waiting()) != 0 {
					t.Errorf("left: %+v, %v", h.q.Stats(), h.waiting())
				}
			})
		})
	}
	t.Run("parent over before the crash", func(t *testing.T) {
		family(t, nil, func(h *house, _ *maker) {
			h.a.answer = later
			h.list(20)
			time.Sleep(6 * time.Minute)
			sent(h, 20)
			h.end()
			h.start()
			time.Sleep(2 * time.Hour)
			sent(h, 40)
		})
	})
	t.Run("more than memory is for", func(t *testing.T) {
		family(t, func(c *Config) { c.MaxTracked = 4 }, func(h *house, _ *maker) {
			h.list(20)
			time.Sleep(time.Minute)
			if n := len(h.waiting()); n != 4 {
				t.Errorf("%d in memory", n)
			}
			sent(h, 0)
			time.Sleep(2 * time.Hour)
			sent(h, 20)
		})
	})
}
