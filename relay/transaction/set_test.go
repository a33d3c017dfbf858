package transaction_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/relay/transaction"
	"github.com/postern-mail/postern/shared/mail"
)

// silent is pairs that never answer, an expander to one of them for each local
// part, and a queue that takes everything.
type silent struct{ queued int }

func (*silent) Rcpt(_ context.Context, _ *mail.Envelope, r mail.Recipient) ([]mail.Recipient, error) {
	r.Channel, r.NextHop, r.Mailbox = mail.ChannelLMTP, r.Address.Local, r.Address.String()
	return []mail.Recipient{r}, nil
}

func (*silent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	<-ctx.Done()
	return deliver.All(d, deliver.Defer(mail.StatusNoAnswer, "no answer", ctx.Err()))
}

func (*silent) Probe(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func (*silent) Reserve(int64, int) (queue.Reservation, error) { return queue.Reservation{}, nil }

func (s *silent) Load(string) (*queue.Item, error) { return nil, queue.ErrNotFound }

func (s *silent) Submit(context.Context, *queue.Reservation, *queue.Item, ...[]byte) error {
	s.queued++
	return nil
}

// TestSet: settings hold for transactions from then on, the deadline of the pairs
// for all; wrong ones for none.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &silent{}
		cfg := transaction.Config{Hostname: "relay.example", Origin: "r1", Expander: s, Queue: s, Pairs: s, PairDeadline: 5 * time.Second, MaxRecipients: 1, MaxReceived: 1}
		a, err := transaction.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		begin := func() *transaction.Transaction {
			tx, err := a.Begin(t.Context(), mail.Envelope{ReversePath: address("ann@x.example")}, transaction.Source{})
			if err != nil {
				t.Fatal(err)
			}
			return tx
		}
		pair := 0
		takes := func(tx *transaction.Transaction, n int) {
			t.Helper()
			for i := range n + 1 {
				pair++
				err := tx.Rcpt(t.Context(), mail.Recipient{Address: address(fmt.Sprintf("p%d@us.example", pair))})
				if (err == nil) != (i < n) {
					t.Errorf("recipient %d of %d: %v", i+1, n, err)
				}
			}
		}
		const once, twice = "Received: a\r\n\r\nx\r\n", "Received: a\r\nReceived: b\r\n\r\nx\r\n"
		data := func(tx *transaction.Transaction, text string, code int, took time.Duration) {
			t.Helper()
			start := time.Now()
			if r := tx.Data(t.Context(), transaction.Content{Bytes: []byte(text)}); r.Code != code || time.Since(start) != took {
				t.Errorf("%v after %v, want %d after %v", r, time.Since(start), code, took)
			}
		}
		tx := begin()
		takes(tx, 1)
		data(tx, once, 250, 5*time.Second)

		before := begin()
		cfg.MaxRecipients, cfg.MaxReceived, cfg.PairDeadline = 3, 2, time.Second
		if err := a.Set(cfg); err != nil {
			t.Fatal(err)
		}
		bad := cfg
		bad.Expander, bad.MaxRecipients = nil, 7
		if a.Set(bad) == nil {
			t.Error("a configuration without an expander is taken")
		}
		tx = begin()
		takes(tx, 3)
		data(tx, twice, 250, time.Second)
		takes(before, 1)
		data(before, twice, 554, 0)
		if s.queued != 2 {
			t.Errorf("%d messages queued", s.queued)
		}
	})
}
