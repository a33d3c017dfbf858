package mailbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
)

const text = "From: <a@x.test>\r\nSubject: hello\r\n\r\nbody\r\n"

func account(t testing.TB, s *mailbox.Service, name string) *mailbox.Account {
	t.Helper()
	a, err := s.Account(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func open(t testing.TB, a *mailbox.Account, name string) *mailbox.View {
	t.Helper()
	v, err := a.Open(context.Background(), name, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func add(t testing.TB, a *mailbox.Account, box string, n int) {
	t.Helper()
	for range n {
		if _, _, err := a.Append(context.Background(), box, []mailbox.AppendMessage{{Bytes: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
	}
}

func bodyOf(t testing.TB, v *mailbox.View, seq int) []byte {
	t.Helper()
	var out []byte
	err := v.Rows(context.Background(), []int{seq}, func(_ int, row *mailbox.Row) error {
		c, err := v.Message(context.Background(), row)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Stream(context.Background(), 0, c.Size(), func(p []byte) error { out = append(out, p...); return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDeliver(t *testing.T) {
	ctx := context.Background()
	s := mailboxtest.New(t)
	key := mail.NewDeliveryKey("relay1", "q1", "ann@example.test")
	large := []byte("Subject: large\r\n\r\n" + strings.Repeat("0123456789abcdef0123456789abcde\r\n", 40_000))
	for name, msg := range map[string][]byte{"small": []byte(text), "in parts": large, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			who := strings.ReplaceAll(name, " ", "") + "@example.test"
			d := &mailbox.Delivery{Message: msg, Recipients: []mailbox.DeliveryRecipient{
				{Account: who, Key: mail.NewDeliveryKey("relay1", name, who)},
				{Account: who, Folder: "nowhere"},
				{Account: who, Folder: "made", Create: true},
			}}
			res, err := s.Deliver(ctx, d)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []string{"INBOX", "INBOX", "made"} {
				if res[i].Err != nil || res[i].Mailbox != want {
					t.Errorf("recipient %d: %+v, want %s", i, res[i], want)
				}
			}
			v := open(t, account(t, s, who), "INBOX")
			if v.Len() != 2 {
				t.Fatalf("%d messages, want 2", v.Len())
			}
			if !bytes.Equal(bodyOf(t, v, 1), msg) {
				t.Error("the message came back changed")
			}
			// The same key again: the same answer, no second copy.
			again, err := s.Deliver(ctx, &mailbox.Delivery{Message: msg, Recipients: d.Recipients[:1]})
			if err != nil || !again[0].Duplicate || again[0].UID != res[0].UID || again[0].Err != nil {
				t.Errorf("repeated: %+v %v", again, err)
			}
		})
	}
	one := []mailbox.DeliveryRecipient{{Account: "ann@example.test", Key: key}}
	if _, err := s.Deliver(ctx, &mailbox.Delivery{Message: []byte(text), Recipients: one}); err != nil {
		t.Fatal(err)
	}
	res, err := s.Deliver(ctx, &mailbox.Delivery{Message: []byte("other"), Recipients: one})
	if err != nil || !errors.Is(res[0].Err, mailbox.ErrKeyMismatch) || mail.Permanent(res[0].Err) {
		t.Errorf("same key, other body: %+v %v", res, err)
	}
}

func TestDeliverToMany(t *testing.T) {
	s := mailboxtest.New(t)
	d := &mailbox.Delivery{Message: []byte(text)}
	for i := range 1200 {
		d.Recipients = append(d.Recipients, mailbox.DeliveryRecipient{Account: fmt.Sprintf("u%d@example.test", i)})
	}
	res, err := s.Deliver(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	ids := map[uint64]bool{}
	for i, r := range res {
		if r.Err != nil || r.UID != 1 {
			t.Fatalf("recipient %d: %+v", i, r)
		}
		if i%400 == 0 {
			v := open(t, account(t, s, d.Recipients[i].Account), "INBOX")
			if !bytes.Equal(bodyOf(t, v, 1), d.Message) {
				t.Errorf("recipient %d: message changed", i)
			}
			v.Rows(context.Background(), []int{1}, func(_ int, row *mailbox.Row) error { ids[row.MessageID] = true; return nil })
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d stored messages for one delivery", len(ids))
	}
}

func TestQuota(t *testing.T) {
	s := mailboxtest.New(t)
	size := int64(len(text))
	to := func(q mail.Quota, force bool) error {
		res, err := s.Deliver(context.Background(), &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{Account: "q@example.test", Quota: &q, Force: force}}})
		if err != nil {
			t.Fatal(err)
		}
		return res[0].Err
	}
	limit := mail.Quota{Bytes: 2 * size, Messages: -1, Stamp: "20260101"}
	for i := range 2 {
		if err := to(limit, false); err != nil {
			t.Fatalf("message %d: %v", i+1, err)
		}
	}
	if err := to(limit, false); !errors.Is(err, mailbox.ErrOverQuota) || mail.Permanent(err) {
		t.Errorf("over quota: %v", err)
	}
	if err := to(mail.Quota{Bytes: -1, Messages: -1, Stamp: "20250101"}, false); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Errorf("an older stamp overwrote a newer one: %v", err)
	}
	if err := to(limit, true); err != nil {
		t.Errorf("guaranteed delivery: %v", err)
	}
	if err := to(mail.Quota{Bytes: 0, Messages: -1, Stamp: "20260201"}, false); !mail.Permanent(err) {
		t.Errorf("quota of nothing: %v", err)
	}
	used, n, got, err := account(t, s, "q@example.test").Quota(context.Background())
	if err != nil || used != 3*size || n != 3 || got.Bytes != 0 {
		t.Errorf("quota: %d octets, %d messages, %+v, %v", used, n, got, err)
	}
}

func TestTwoViews(t *testing.T) {
	ctx := context.Background()
	a := account(t, mailboxtest.New(t), "ann@example.test")
	add(t, a, "INBOX", 5)
	one, two := open(t, a, "INBOX"), open(t, a, "inbox")
	before := two.Info().HighestModSeq
	res, err := one.Store(ctx, []uint32{2, 4}, mailbox.StoreAdd, mailbox.FlagSeen|mailbox.FlagDeleted, []string{"$Work"}, nil)
	if err != nil || !slices.Equal(res.Changed, []uint32{2, 4}) {
		t.Fatalf("store: %+v %v", res, err)
	}
	<-two.Changed()
	if gone, err := one.Expunge(ctx, nil, false); err != nil || !slices.Equal(gone, []uint32{2, 4}) {
		t.Fatalf("expunge: %v %v", gone, err)
	}
	add(t, a, "INBOX", 1)
	if _, err := one.Store(ctx, []uint32{3}, mailbox.StoreAdd, mailbox.FlagFlagged, nil, nil); err != nil {
		t.Fatal(err)
	}
	// Without expunge the numbers stay.
	ch, err := two.Sync(ctx, false)
	if err != nil || len(ch.Expunged) != 0 || ch.Exists != 6 || !ch.Grown || !slices.Equal(ch.Flagged, []int{3}) || !ch.Keywords {
		t.Errorf("sync without expunge: %+v %v", ch, err)
	}
	if err := two.Rows(ctx, []int{1, 2, 3}, func(int, *mailbox.Row) error { return nil }); !errors.Is(err, mailbox.ErrExpunged) {
		t.Errorf("rows of a removed message: %v", err)
	}
	ch, err = two.Sync(ctx, true)
	if err != nil || !slices.Equal(ch.Expunged, []int{2, 3}) || !slices.Equal(ch.ExpungedUIDs, []uint32{2, 4}) || ch.Exists != 4 {
		t.Errorf("sync: %+v %v", ch, err)
	}
	if seq, ok := two.Seq(6); seq != 4 || !ok {
		t.Errorf("UID 6 has number %d, %v", seq, ok)
	}
	changed, vanished, complete, err := two.ChangedSince(ctx, before)
	if err != nil || !complete || !slices.Equal(changed, []uint32{3, 6}) || !slices.Equal(vanished, []uint32{2, 4}) {
		t.Errorf("changed %v, vanished %v, %v, %v", changed, vanished, complete, err)
	}
	if ch, err = two.Sync(ctx, true); err != nil || len(ch.Expunged)+len(ch.Flagged) != 0 || ch.Grown {
		t.Errorf("nothing happened: %+v %v", ch, err)
	}
	cond := before
	res, err = one.Store(ctx, []uint32{1, 3}, mailbox.StoreReplace, mailbox.FlagSeen, nil, &cond)
	if err != nil || !slices.Equal(res.Modified, []uint32{3}) || !slices.Equal(res.Changed, []uint32{1}) {
		t.Errorf("conditional store: %+v %v", res, err)
	}
}

func TestMailboxes(t *testing.T) {
	ctx := context.Background()
	a := account(t, mailboxtest.New(t), "ann@example.test")
	for _, bad := range []string{"", "a//b", "/a", "a/", "a\x00b", "a\nb", strings.Repeat("x", 600), strings.Repeat("a/", 60) + "a", "\xff"} {
		if _, err := a.Create(ctx, bad, nil); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("create %q: %v", bad, err)
		}
	}
	if _, err := a.Create(ctx, "work/2026/plans", []string{`\Important`}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(ctx, "Sent", nil); !errors.Is(err, mailbox.ErrExists) {
		t.Errorf("create Sent: %v", err)
	}
	add(t, a, "INBOX", 3)
	v := open(t, a, "INBOX")
	res, err := v.Copy(ctx, []uint32{1, 3}, "work/2026/plans")
	if err != nil || !slices.Equal(res.Target, []uint32{1, 2}) {
		t.Errorf("copy: %+v %v", res, err)
	}
	if res, err = v.Move(ctx, []uint32{2}, "Trash"); err != nil || len(res.Source) != 1 {
		t.Errorf("move: %+v %v", res, err)
	}
	if err := a.Rename(ctx, "work", "Work"); err != nil {
		t.Fatal(err)
	}
	if err := a.Rename(ctx, "INBOX", "old"); err != nil {
		t.Fatal(err)
	}
	if err := a.Subscribe(ctx, "elsewhere", true); err != nil {
		t.Fatal(err)
	}
	list, err := a.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range list {
		names = append(names, fmt.Sprintf("%s:%d:%v:%v", b.Name, b.Messages, b.NonExistent, b.HasChildren))
	}
	want := []string{
		"INBOX:0:false:false", "Archive:0:false:false", "Drafts:0:false:false", "Junk:0:false:false", "Sent:0:false:false",
		"Trash:1:false:false", "Work:0:true:true", "Work/2026:0:true:true", "Work/2026/plans:2:false:false", "elsewhere:0:true:false", "old:2:false:false",
	}
	if !slices.Equal(names, want) {
		t.Errorf("list:\n%v\nwant\n%v", names, want)
	}
	if err := a.Delete(ctx, "INBOX"); err == nil {
		t.Error("INBOX was deleted")
	}
	w := open(t, a, "old")
	if err := a.Delete(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	<-w.Changed()
	if ch, err := w.Sync(ctx, true); err != nil || !ch.Gone {
		t.Errorf("a session in a deleted mailbox: %+v %v", ch, err)
	}
}

func TestNotServing(t *testing.T) {
	ctx := context.Background()
	s, log := mailboxtest.NewWithLog(t)
	a := account(t, s, "ann@example.test")
	add(t, a, "INBOX", 1)
	v := open(t, a, "INBOX")
	away := &mailbox.ErrNotServing{Leader: "b"}
	log.SetAway(away)
	_, list := a.List(ctx)
	_, status := a.Status(ctx, "INBOX")
	_, sync := v.Sync(ctx, true)
	_, _, _, since := v.ChangedSince(ctx, 0)
	_, deliver := s.Deliver(ctx, &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{Account: "ann@example.test"}}})
	_, missing := a.Open(ctx, "nowhere", false)
	for name, err := range map[string]error{
		"list": list, "status": status, "sync": sync, "changed since": since, "deliver": deliver, "open": missing,
		"rows": v.Rows(ctx, []int{1}, func(int, *mailbox.Row) error { return nil }),
	} {
		var ns *mailbox.ErrNotServing
		if !errors.As(err, &ns) || ns.Leader != "b" {
			t.Errorf("%s answered %v from a replica that does not serve", name, err)
		}
	}
}

func BenchmarkDeliver(b *testing.B) {
	s := mailboxtest.New(b)
	msg := []byte("From: <a@x.test>\r\nSubject: hello\r\n\r\n" + strings.Repeat("0123456789abcdef0123456789abcde\r\n", 300))
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d := &mailbox.Delivery{Message: msg, Recipients: []mailbox.DeliveryRecipient{{Account: fmt.Sprintf("u%d@example.test", i%100)}}}
		if _, err := s.Deliver(context.Background(), d); err != nil {
			b.Fatal(err)
		}
	}
}
