package jobctl

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

// statuses is who is on hold, by local part.
type statuses struct {
	mu    sync.Mutex
	held  map[string]bool
	asked int
}

func (s *statuses) onHold(_ context.Context, _ *mail.Envelope, r mail.Recipient) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.held[r.Address.Local]
}

func (s *statuses) set(local string, held bool) (asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[local] = held
	asked, s.asked = s.asked, 0
	return asked
}

// TestReleased: mail goes on within a round after its recipient has left the
// status hold, by itself, each recipient alone, over a restart and when there
// are more than memory keeps; what an operator holds stays.
func TestReleased(t *testing.T) {
	for _, tracked := range []int{0, 2} {
		s := &statuses{held: map[string]bool{"a": true, "b": true, "c": true}}
		back := &agent{answer: func(*deliver.Delivery, *mail.Recipient) deliver.Result {
			return deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK}
		}}
		change := func(c *Config) {
			c.OnHold, c.HoldCheck, c.MaxTracked = s.onHold, time.Minute, tracked
			c.Agents[mail.ChannelReprocess] = back
		}
		in(t, change, func(h *house) {
			hold := func(it *queue.Item) {
				for i := range it.Recipients {
					it.Recipients[i].Channel, it.Recipients[i].NextHop = mail.ChannelHold, ""
				}
			}
			both := h.submit(hold, "a@one.example", "b@one.example")
			var more []string
			for range 5 {
				more = append(more, h.submit(hold, "c@one.example"))
			}
			kept := h.submit(hold, "a@one.example")
			if err := h.c.Hold(kept, "evidence"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10*time.Minute + 30*time.Second)
			if got := back.attempts(); len(got) > 0 {
				t.Fatalf("released on hold: %+v", got)
			}
			if asked := s.set("a", false); asked != 30 { // three people, ten rounds
				t.Errorf("asked %d times", asked)
			}
			time.Sleep(time.Minute + time.Second)
			if got := back.attempts(); len(got) != 1 || !slices.Equal(got[0].to, []string{"a"}) {
				t.Errorf("a is released: %+v", got)
			}
			if it, err := h.q.Load(both); err != nil || len(it.Recipients) != 1 || it.Recipients[0].Address.Local != "b" {
				t.Errorf("what is left: %+v, %v", it, err)
			}
			h.end()
			h.start()
			s.set("c", false)
			time.Sleep(2 * time.Minute)
			for _, id := range more {
				if !h.gone(id) {
					t.Errorf("%s is still held", id)
				}
			}
			if it, err := h.q.Load(kept); err != nil || !it.Held {
				t.Errorf("held by the operator: %+v, %v", it, err)
			}
			if err := h.c.Release(kept); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.set("b", false)
			time.Sleep(time.Minute + time.Second)
			if !h.gone(both) || !h.gone(kept) {
				t.Error("not all are released")
			}
			time.Sleep(time.Minute)
			h.c.mu.Lock()
			defer h.c.mu.Unlock()
			if len(h.c.kept) > 0 {
				t.Errorf("still in memory: %v", h.c.kept)
			}
		})
	}
}

// TestHoldCheckChanges: the time between two questions is another one while mail is
// held, and mail that nobody was to be asked about is asked about.
func TestHoldCheckChanges(t *testing.T) {
	s := &statuses{held: map[string]bool{"a": true}}
	in(t, func(c *Config) {
		c.OnHold, c.HoldCheck = s.onHold, -1
		c.Agents[mail.ChannelReprocess] = &agent{answer: func(*deliver.Delivery, *mail.Recipient) deliver.Result {
			return deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK}
		}}
	}, func(h *house) {
		id := h.submit(func(it *queue.Item) { it.Recipients[0].Channel, it.Recipients[0].NextHop = mail.ChannelHold, "" }, "a@one.example")
		for _, step := range []struct {
			check, pass time.Duration
			asked       int
		}{{-1, 3 * time.Hour, 0}, {time.Hour, 4*time.Hour + time.Minute, 5}, {10 * time.Minute, time.Hour, 6}, {-1, 3 * time.Hour, 0}} {
			h.c.SetRules(Rules{HoldCheck: step.check})
			time.Sleep(step.pass)
			if asked := s.set("a", true); asked != step.asked {
				t.Errorf("asked %d times in %v with a question every %v, want %d", asked, step.pass, step.check, step.asked)
			}
		}
		s.set("a", false)
		h.c.SetRules(Rules{HoldCheck: time.Minute})
		time.Sleep(time.Minute)
		if !h.gone(id) {
			t.Error("held still")
		}
	})
}

// TestReleasedCrash: the power fails after any operation of a release; the mail
// goes on after the next start, or has gone.
func TestReleasedCrash(t *testing.T) {
	for at := 1; at <= 12; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			s := &statuses{held: map[string]bool{"a": true}}
			back := &agent{answer: func(*deliver.Delivery, *mail.Recipient) deliver.Result {
				return deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK}
			}}
			in(t, func(c *Config) {
				c.OnHold, c.HoldCheck = s.onHold, time.Minute
				c.Agents[mail.ChannelReprocess] = back
			}, func(h *house) {
				id := h.submit(func(it *queue.Item) { it.Recipients[0].Channel, it.Recipients[0].NextHop = mail.ChannelHold, "" }, "a@one.example")
				h.fs.CrashAfter(h.fs.Ops() + at)
				s.set("a", false)
				time.Sleep(2 * time.Minute)
				h.end()
				h.fs = h.fs.Crash(uint64(at))
				h.start()
				time.Sleep(10 * time.Minute)
				if !h.gone(id) || len(back.attempts()) == 0 {
					t.Errorf("gone %v, attempts %+v", h.gone(id), back.attempts())
				}
			})
		})
	}
}
