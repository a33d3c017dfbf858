/*
Package reprocess is the channel back to the door: lists too large to expand
while a client waits, and recipients that must be looked up again, are resolved
here and queued as a new message under the same root queue id.

The new message's id is made from the old one's and the recipient, and its
octets are the same, so doing it again after a crash adds nothing: the queue
knows the id, or the pairs know the delivery keys.

Package reprocess expands nothing itself and delivers nothing.
*/
package reprocess

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
)

// Door takes mail back. transaction.Acceptor is one.
type Door interface {
	// Reenter queues d under queueID for what its recipient stands for now. A
	// mail.Permanent error means that the recipient is refused for good.
	Reenter(ctx context.Context, d *deliver.Delivery, queueID string) error
}

// Agent is the channel's program.
type Agent struct{ door Door }

var _ deliver.Agent = (*Agent)(nil)

// New returns an Agent that gives mail back to door.
func New(door Door) *Agent { return &Agent{door} }

// Deliver gives each recipient back to the door by itself, so that a refusal
// of one is no other's.
func (a *Agent) Deliver(ctx context.Context, d *deliver.Delivery) []deliver.Result {
	results := make([]deliver.Result, len(d.Recipients))
	for i := range d.Recipients {
		one := *d
		one.Recipients = d.Recipients[i : i+1]
		results[i] = a.one(ctx, &one)
	}
	return results
}

func (a *Agent) one(ctx context.Context, d *deliver.Delivery) deliver.Result {
	r := &d.Recipients[0]
	id := childID(d.Envelope.QueueID, r)
	err := a.door.Reenter(ctx, d, id)
	if err != nil {
		return deliver.FromError("reprocess", err)
	}
	return deliver.Result{Outcome: deliver.Passed, Status: mail.StatusOK, Text: "expanded as " + id}
}

// childID is the queue id of what parent becomes for r.
func childID(parent string, r *mail.Recipient) string {
	h := sha256.New()
	h.Write([]byte("reprocess\x00" + parent + "\x00" + r.Address.Key() + "\x00"))
	h.Write(r.Key[:])
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}
