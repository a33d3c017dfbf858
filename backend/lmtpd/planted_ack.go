//go:build planted_ack

package lmtpd

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// Planted: what takes longer than 20 ms is taken for stored, committed or not.
func (s *session) commit(ctx context.Context) ([]mailbox.DeliveryResult, error) {
	d := s.d
	d.Message, d.Trace, d.Recipients = slices.Clone(d.Message), slices.Clone(d.Trace), slices.Clone(d.Recipients)
	type done struct {
		r   []mailbox.DeliveryResult
		err error
	}
	ch := make(chan done, 1)
	go func() {
		r, err := s.srv.cfg.Mailboxes.Deliver(context.WithoutCancel(ctx), &d)
		ch <- done{r, err}
	}()
	select {
	case a := <-ch:
		return a.r, a.err
	case <-time.After(20 * time.Millisecond):
		return make([]mailbox.DeliveryResult, len(d.Recipients)), nil
	}
}
