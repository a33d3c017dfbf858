package mailbox_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
)

// asked is a delivery of msg to ann, with the question whether to answer.
func asked(n byte, msg []byte, only bool) *mailbox.Delivery {
	return &mailbox.Delivery{Message: msg, Recipients: []mailbox.DeliveryRecipient{{
		Account: "ann@example.test", Key: mail.DeliveryKey{n},
		Autoreply: &mail.AutoreplyQuery{Hash: [16]byte{1}, Period: time.Hour, Only: only},
	}}}
}

func one(t *testing.T, s *mailbox.Service, d *mailbox.Delivery) mailbox.DeliveryResult {
	t.Helper()
	res, err := s.Deliver(context.Background(), d)
	if err != nil || len(res) != 1 || res[0].Err != nil {
		t.Fatal(res, err)
	}
	return res[0]
}

func TestAutoreply(t *testing.T) {
	s := mailboxtest.New(t)
	for i, tt := range []struct {
		key               byte
		answer, duplicate bool
	}{{1, true, false}, {2, false, false}, {1, true, true}, {2, false, true}} {
		if r := one(t, s, asked(tt.key, []byte(text), false)); r.Answer != tt.answer || r.Duplicate != tt.duplicate || r.UID == 0 {
			t.Errorf("%d: %+v", i, r)
		}
	}
}

// TestAutoreplyOnly: the octets of a message that nobody stores do not travel.
func TestAutoreplyOnly(t *testing.T) {
	s, log := mailboxtest.NewWithLog(t)
	large := bytes.Repeat([]byte("0123456789abcdef0123456789abcde\r\n"), 40_000)
	for _, dup := range []bool{false, true} {
		if r := one(t, s, asked(1, large, true)); !r.Answer || r.Duplicate != dup || r.UID != 0 || r.Mailbox != "" {
			t.Errorf("%+v", r)
		}
	}
	size := 0
	for i := uint64(1); ; i++ {
		b, err := log.ReadEntry(i, nil)
		if err != nil {
			break
		}
		size += len(b)
	}
	if size == 0 || size > 1000 {
		t.Errorf("%d octets in the log", size)
	}
	// Who stores it has all of it, also beside one who does not.
	d := asked(2, large, true)
	d.Recipients = append(d.Recipients, mailbox.DeliveryRecipient{Account: "bob@example.test"})
	if res, err := s.Deliver(context.Background(), d); err != nil || res[0].UID != 0 || res[1].UID != 1 {
		t.Fatal(res, err)
	}
	if got := bodyOf(t, open(t, account(t, s, "bob@example.test"), "INBOX"), 1); !bytes.Equal(got, large) {
		t.Errorf("%d octets stored", len(got))
	}
}

// TestAutoreplyBeforeUpgrade: while a replica of the release before is in the
// pair, nothing is proposed that it cannot read.
func TestAutoreplyBeforeUpgrade(t *testing.T) {
	ready := false
	s, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Answers = func() bool { return ready } })
	if r := one(t, s, asked(1, []byte(text), false)); r.Answer || r.UID == 0 {
		t.Errorf("stored: %+v", r)
	}
	if r := one(t, s, asked(2, []byte(text), true)); r.Answer || r.UID != 0 {
		t.Errorf("not stored: %+v", r)
	}
	for i := uint64(1); ; i++ {
		b, err := log.ReadEntry(i, nil)
		if err != nil {
			break
		}
		if b[0] != 1 {
			t.Errorf("entry %d has version %d", i, b[0])
		}
	}
	ready = true
	if r := one(t, s, asked(3, []byte(text), false)); !r.Answer {
		t.Errorf("afterwards: %+v", r)
	}
}
