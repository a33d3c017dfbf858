package reprocess

import (
	"context"
	"errors"
	"testing"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
)

type door map[string]string // queue id to recipient

func (d door) Reenter(_ context.Context, x *deliver.Delivery, id string) error {
	switch to := x.Recipients[0].Address.Local; to {
	case "gone":
		return &mail.Error{Op: "expand", Status: mail.StatusBadMailbox, Reply: "No such list"}
	case "down":
		return errors.New("directory down")
	default:
		d[id] = to
	}
	return nil
}

func TestDeliver(t *testing.T) {
	in := door{}
	d := &deliver.Delivery{Envelope: &mail.Envelope{QueueID: "parent"}}
	for _, to := range []string{"list", "gone", "down", "other"} {
		d.Recipients = append(d.Recipients, mail.Recipient{Address: mail.Address{Local: to, Domain: "x"}})
	}
	for range 2 { // again after a crash: the same ids
		results := New(in).Deliver(t.Context(), d)
		for i, want := range []deliver.Outcome{deliver.Passed, deliver.Failed, deliver.Deferred, deliver.Passed} {
			if results[i].Outcome != want {
				t.Errorf("recipient %d: %+v, want %v", i, results[i], want)
			}
		}
	}
	if len(in) != 2 {
		t.Errorf("%v", in)
	}
	for id := range in {
		if !queue.ValidID(id) {
			t.Errorf("id %q", id)
		}
	}
}
