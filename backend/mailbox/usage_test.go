package mailbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
)

func TestUsage(t *testing.T) {
	ctx := context.Background()
	s, log := mailboxtest.NewWithLog(t)
	for i := range 5 {
		a := account(t, s, fmt.Sprintf("u%d@example.test", i))
		add(t, a, "INBOX", i)
		add(t, a, "Sent", 1)
	}
	if _, err := s.Deliver(ctx, &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{
		{Account: "u3@example.test", Quota: &mail.Quota{Bytes: 1000, Messages: -1, Stamp: "1"}},
	}}); err != nil {
		t.Fatal(err)
	}
	var all []mailbox.Usage
	for after := ""; ; after = all[len(all)-1].Account {
		part, err := s.Usage(ctx, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			break
		}
		all = append(all, part...)
	}
	if len(all) != 5 {
		t.Fatalf("%+v", all)
	}
	for i, u := range all {
		n := int64(i + 1)
		limit := int64(-1)
		if i == 3 {
			n, limit = n+1, 1000
		}
		if u.Account != fmt.Sprintf("u%d@example.test", i) || u.Messages != n || u.Bytes != n*int64(len(text)) || u.Limit.Bytes != limit || u.Limit.Messages != -1 {
			t.Errorf("%+v", u)
		}
	}
	away := &mailbox.ErrNotServing{Leader: "b"}
	log.SetAway(away)
	if list, err := s.Usage(ctx, "", 10); !errors.Is(err, away) {
		t.Errorf("%+v, %v from a replica that does not serve", list, err)
	}
}

// TestRemove: an account goes whole, its sessions end, and one of the same name
// is another that no client takes for it.
func TestRemove(t *testing.T) {
	ctx := context.Background()
	level := uint32(1)
	s, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Level = func() uint32 { return level } })
	a := account(t, s, "ann@example.test")
	add(t, a, "INBOX", 3)
	if _, err := a.Create(ctx, "deep/er", nil); err != nil {
		t.Fatal(err)
	}
	v := open(t, a, "INBOX")
	old := v.Info()
	if _, err := s.Remove(ctx, "ann@example.test"); !errors.Is(err, mailbox.ErrLevel) {
		t.Fatalf("%v on level 1", err)
	}
	level = 2
	log.SetAway(&mailbox.ErrNotServing{})
	if _, err := s.Remove(ctx, "ann@example.test"); err == nil {
		t.Fatal("removed by a replica that does not serve")
	}
	log.SetAway(nil)
	if _, err := s.Remove(ctx, "nobody@example.test"); !errors.Is(err, mailbox.ErrNoAccount) {
		t.Fatal(err)
	}
	had, err := s.Remove(ctx, "ann@example.test")
	if err != nil || had.Messages != 3 || had.Bytes != 3*int64(len(text)) {
		t.Fatalf("%+v, %v", had, err)
	}
	if c, err := v.Sync(ctx, true); err != nil || !c.Gone {
		t.Errorf("the session sees %+v, %v", c, err)
	}
	if _, _, err := a.Append(ctx, "INBOX", []mailbox.AppendMessage{{Bytes: []byte(text)}}); err == nil {
		t.Error("something was put into an account that is gone")
	}
	if names, err := s.Accounts(ctx, "", 10); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := s.Remove(ctx, "ann@example.test"); !errors.Is(err, mailbox.ErrNoAccount) {
		t.Errorf("again: %v", err)
	}
	again := account(t, s, "ann@example.test")
	if now := open(t, again, "INBOX").Info(); again.ID() == a.ID() || now.Messages != 0 || now.UIDValidity < old.UIDValidity || now.ID == old.ID {
		t.Errorf("%+v, before %+v", now, old)
	}
}

// TestSetInFlight: other octets may be on their way from now on.
func TestSetInFlight(t *testing.T) {
	s, _ := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.InFlight = 1000 })
	give := func() error {
		r, err := s.Deliver(t.Context(), &mailbox.Delivery{
			Message: []byte("Subject: x\r\n\r\n" + strings.Repeat("x\r\n", 1000)), Recipients: []mailbox.DeliveryRecipient{{Account: "eva@example.test"}},
		})
		if err != nil {
			return err
		}
		return r[0].Err
	}
	if err := give(); !errors.Is(err, mailbox.ErrBusy) {
		t.Errorf("more than fits: %v", err)
	}
	s.SetInFlight(100_000)
	if err := give(); err != nil {
		t.Errorf("it would fit: %v", err)
	}
	s.SetInFlight(1000)
	if err := give(); !errors.Is(err, mailbox.ErrBusy) {
		t.Errorf("more than fits again: %v", err)
	}
}
