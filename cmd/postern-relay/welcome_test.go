package main

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/deliver/lmtp"
	"github.com/postern-mail/postern/relay/deliver/welcome"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/message"
)

// welcoming is the directory of a relay whose domain welcomes its users.
type welcoming struct{ text string }

func (x welcoming) Rcpt(_ context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	r.Channel, r.NextHop, r.Mailbox, r.Welcome = mail.ChannelLMTP, "pair1", r.Address.Key(), x.text
	return []mail.Recipient{r}, nil
}

// host is a relay up to its agents, whose queue the test runs.
type host struct {
	door  *transaction.Acceptor
	agent *welcome.Agent
	queue *queue.Queue
}

func newHost(t *testing.T, name string, routes *route.Table, text string) *host {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	q, err := queue.Open(queue.Config{Dir: filepath.Join(t.TempDir(), name)})
	must(err)
	l, err := lmtp.New(lmtp.Config{Hello: name, Routes: routes, Rounds: 1})
	must(err)
	a, err := welcome.New(welcome.Config{Pairs: l})
	must(err)
	d, err := transaction.New(transaction.Config{Hostname: name, Origin: name, Domain: "example.test", Expander: welcoming{text}, Queue: q, Pairs: a})
	must(err)
	a.Use(d)
	t.Cleanup(func() {
		d.Close()
		l.Close()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return &host{d, a, q}
}

func (h *host) send(t *testing.T, to, text string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	tx, err := h.door.Begin(ctx, mail.Envelope{ReversePath: mail.Address{Local: "ann", Domain: "example.net"}}, transaction.Source{Protocol: "ESMTP"})
	if err != nil {
		t.Error(err)
		return
	}
	if err := tx.Rcpt(ctx, mail.Recipient{Address: mail.Address{Local: to, Domain: "example.test"}}); err != nil {
		t.Error(err)
	}
	if reply := tx.Data(ctx, transaction.Content{Bytes: []byte("Subject: " + text + "\r\n\r\nbody\r\n")}); reply.Code != 250 {
		t.Error(reply)
	}
}

// run delivers what the queue holds, as often as times says, the removal of
// each message apart from the last time: a crash between delivery and removal.
func (h *host) run(t *testing.T, times int) (n int) {
	t.Helper()
	var items []*queue.Item
	if err := h.queue.Scan(t.Context(), func(it *queue.Item) error { items = append(items, it); return nil }); err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		body, err := h.queue.Body(it, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := deliver.Delivery{Envelope: &it.Envelope, Recipients: []mail.Recipient{it.Recipients[0].Recipient}, Body: [][]byte{body}}
		for range times {
			if res := h.agent.Deliver(t.Context(), &d); res[0].Outcome != deliver.Delivered {
				t.Errorf("%+v", res[0])
			}
		}
		if err := h.queue.Remove(it, false); err != nil {
			t.Error(err)
		}
		n++
	}
	return n
}

// TestWelcome: on the real store, a new mailbox gets its welcome once, whichever
// of two relays bring its first mail, at once and after each other, and however
// often the welcome is delivered.
func TestWelcome(t *testing.T) {
	routes, boxes, _ := servePair(t)
	const text = "Subject: Welcome to Example$$Hello."
	relays := []*host{newHost(t, "relay1", routes, text), newHost(t, "relay2", routes, text)}
	var wg sync.WaitGroup
	for _, h := range relays {
		for range 5 {
			wg.Go(func() { h.send(t, "bob", "hello") })
		}
	}
	wg.Wait()
	for _, h := range relays {
		if n := h.run(t, 3); n != 1 {
			t.Errorf("%d welcomes queued by one relay", n)
		}
	}
	for _, h := range relays {
		h.send(t, "bob", "later")
		if n := h.run(t, 1); n != 0 {
			t.Errorf("%d welcomes for a mailbox that has one", n)
		}
	}
	newHost(t, "relay3", routes, "").send(t, "eve", "no welcome in this domain")
	for name, want := range map[string]int{"bob@example.test": 13, "eve@example.test": 1} {
		acc, err := boxes.Account(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := acc.Open(t.Context(), "INBOX", true)
		if err != nil {
			t.Fatal(err)
		}
		if v.Len() != want {
			t.Errorf("%s has %d messages, want %d", name, v.Len(), want)
		}
		welcomes := 0
		for _, s := range subjects(t, v) {
			if strings.HasPrefix(s, "Welcome to Example") {
				welcomes++
			}
		}
		if welcomes != want/13 {
			t.Errorf("%s has %d welcomes", name, welcomes)
		}
		v.Close()
	}
}

// subjects are those of the messages of a mailbox.
func subjects(t *testing.T, v *mailbox.View) (out []string) {
	t.Helper()
	var seqs []int
	for i := range v.Len() {
		seqs = append(seqs, i+1)
	}
	err := v.Rows(t.Context(), seqs, func(_ int, row *mailbox.Row) error {
		c, err := v.Message(t.Context(), row)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := c.Bytes(t.Context(), 0, c.Size())
		if err != nil {
			return err
		}
		s, _ := message.Get(b[:message.HeaderLen(b)], "Subject")
		out = append(out, string(s))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
