//go:build !planted_ack

package lmtpd

import (
	"context"

	"github.com/postern-mail/postern/backend/mailbox"
)

// commit returns when the pair has stored the message of a transaction, or has
// not.
func (s *session) commit(ctx context.Context) ([]mailbox.DeliveryResult, error) {
	return s.srv.cfg.Mailboxes.Deliver(ctx, &s.d)
}
