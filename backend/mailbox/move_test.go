package mailbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/mailbox/mailboxtest"
	"github.com/postern-mail/postern/shared/mail"
)

// pairOf is a pair that is on the level of moves.
func pairOf(t *testing.T) *mailbox.Service {
	s, log := mailboxtest.NewWithLog(t, func(c *mailbox.Config) { c.Level = func() uint32 { return 2 } })
	raise := &command.Format{Head: command.Head{Time: time.Now().UnixNano()}, Level: 2}
	if _, _, err := log.Propose(context.Background(), command.Append(nil, raise)); err != nil {
		t.Fatal(err)
	}
	return s
}

// carry gives all of an account to another pair, as a tool would.
func carry(t *testing.T, from, to *mailbox.Service, name string, token command.Key, since int64) (clock int64) {
	t.Helper()
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	x, err := from.Export(ctx, name)
	check(err)
	for i := range x.Mailboxes {
		for after := uint32(0); ; {
			r, err := from.ExportRows(ctx, name, x.Mailboxes[i].UIDValidity, after, 2)
			check(err)
			brought := map[int]mailbox.Brought{}
			for k, id := range r.IDs {
				var b mailbox.Brought
				for off := int64(0); off < r.Sizes[k]; off += command.MaxPart {
					octets, err := from.ExportBody(ctx, id, off, command.MaxPart)
					check(err)
					if r.Sizes[k] <= command.MaxPart {
						b.Octets = octets
						break
					}
					at, err := to.ImportPart(ctx, octets)
					check(err)
					b.Parts = append(b.Parts, at)
				}
				brought[k] = b
			}
			r.Token = token
			check(to.Import(ctx, &r.Import, brought))
			if after = r.Last; !r.More {
				break
			}
		}
	}
	check(to.Import(ctx, &command.Import{Account: name, Token: token, Self: &x.Self, Answered: x.Answered}, nil))
	keys, clock, err := from.ExportKeys(ctx, name, since)
	check(err)
	check(to.Import(ctx, &command.Import{Account: name, Token: token, Keys: keys}, nil))
	return clock
}

// TestMove: an account is at the other pair what it was, to its user and to relays
// that repeat a delivery; and at its old one nobody gets in any more.
func TestMove(t *testing.T) {
	ctx := context.Background()
	here, there := pairOf(t), pairOf(t)
	const ann = "ann@example.test"
	a := account(t, here, ann)
	add(t, a, "INBOX", 5)
	if _, err := a.Create(ctx, "deep/er", nil); err != nil {
		t.Fatal(err)
	}
	grant(t, a, "deep/er", "eva@example.net", mailbox.StoreAdd, "p")
	large := strings.Repeat("0123456789abcde\r\n", 60_000) // a megabyte
	if _, _, err := a.Append(ctx, "deep/er", []mailbox.AppendMessage{{Bytes: []byte("Subject: large\r\n\r\n" + large), Keywords: []string{"$Big"}, InternalDate: time.Unix(5, 0)}}); err != nil {
		t.Fatal(err)
	}
	key := mail.DeliveryKey{7}
	d := &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{
		Account: ann, Key: key, Quota: &mail.Quota{Bytes: 1 << 30, Messages: -1, Stamp: "1"},
		Autoreply: &mail.AutoreplyQuery{Hash: [16]byte{9}, Period: time.Hour},
	}}}
	first, err := here.Deliver(ctx, d)
	if err != nil || first[0].Err != nil || !first[0].Answer {
		t.Fatal(first, err)
	}
	v := open(t, a, "INBOX")
	if _, err := v.Store(ctx, []uint32{1, 3}, mailbox.StoreAdd, mailbox.FlagFlagged, []string{"$Work"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Expunge(ctx, []uint32{2}, true); err != nil {
		t.Fatal(err)
	}

	token := command.Key{1}
	step := func(s *mailbox.Service, step command.MoveStep, peer string) {
		t.Helper()
		if err := s.Move(ctx, command.Move{Step: step, Account: ann, Peer: peer, Token: token}); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
	}
	step(here, command.MoveAnnounce, "there")
	step(there, command.MoveArrive, "here")
	clock := carry(t, here, there, ann, token, 0)
	// The user works on, and mail comes.
	if _, err := v.Store(ctx, []uint32{3}, mailbox.StoreReplace, mailbox.FlagSeen, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Rename(ctx, "deep/er", "Trash/er"); err != nil {
		t.Fatal(err)
	}
	withLine, err := here.Sum(ctx, ann)
	if err != nil {
		t.Fatal(err)
	}
	grant(t, a, "Trash/er", mailbox.Anyone, mailbox.StoreReplace, "")
	if sum, err := here.Sum(ctx, ann); err != nil || sum == withLine {
		t.Errorf("the digest does not see rights: %v", err)
	}
	late := mail.DeliveryKey{8}
	d2 := &mailbox.Delivery{Message: []byte(text + "late\r\n"), Recipients: []mailbox.DeliveryRecipient{{Account: ann, Key: late}}}
	second, err := here.Deliver(ctx, d2)
	if err != nil || second[0].Err != nil {
		t.Fatal(second, err)
	}
	step(here, command.MoveFence, "")
	var moved *mailbox.ErrMoved
	if _, err := v.Sync(ctx, true); !errors.As(err, &moved) || moved.Pair != "" {
		t.Errorf("a session behind the fence: %v", err)
	}
	if _, _, err := a.Append(ctx, "INBOX", []mailbox.AppendMessage{{Bytes: []byte(text)}}); !errors.As(err, &moved) {
		t.Errorf("APPEND behind the fence: %v", err)
	}
	carry(t, here, there, ann, token, clock)
	want, err := here.Sum(ctx, ann)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := there.Sum(ctx, ann); err != nil || got != want {
		t.Fatalf("%x, %v; want %x", got, err, want)
	}
	if _, err := there.Account(ctx, ann); !errors.As(err, &moved) || moved.Pair != "" {
		t.Errorf("a login where it is not open: %v", err)
	}
	step(here, command.MoveGone, "")
	step(there, command.MoveOpen, "")
	step(here, command.MoveDrop, "")

	if _, err := here.Account(ctx, ann); !errors.As(err, &moved) || moved.Pair != "there" || moved.Epoch == 0 {
		t.Errorf("a login where it was: %v", err)
	}
	b := account(t, there, ann)
	if got := lines(t, b, "Trash/er"); !slices.Equal(got, []string{"eva@example.net p"}) {
		t.Errorf("%q may post", got)
	}
	if got := open(t, b, "INBOX"); got.Info().HighestModSeq < v.Info().HighestModSeq || got.Info().UIDValidity != v.Info().UIDValidity {
		t.Errorf("%+v, was %+v", got.Info(), v.Info())
	}
	for what, s := range map[string]*mailbox.Service{"here": here, "there": there} {
		for i, again := range []*mailbox.Delivery{d, d2} {
			again.Recipients[0].Autoreply = nil
			res, err := s.Deliver(ctx, again)
			if err != nil || res[0].Err != nil || !res[0].Duplicate || res[0].UID != [][]mailbox.DeliveryResult{first, second}[i][0].UID {
				t.Errorf("%s, delivery %d again: %+v, %v", what, i, res, err)
			}
		}
	}
	d3 := &mailbox.Delivery{Message: []byte(text), Recipients: []mailbox.DeliveryRecipient{{
		Account: ann, Key: mail.DeliveryKey{10}, Autoreply: &mail.AutoreplyQuery{Hash: [16]byte{9}, Period: time.Hour},
	}}}
	if res, err := here.Deliver(ctx, d3); err != nil || !errors.As(res[0].Err, &moved) || moved.Pair != "there" {
		t.Errorf("a new delivery where it was: %+v, %v", res, err)
	}
	if res, err := there.Deliver(ctx, d3); err != nil || res[0].Err != nil || res[0].Answer {
		t.Errorf("a sender who had an answer: %+v, %v", res, err)
	}
	if names, err := here.Accounts(ctx, "", 10); err != nil || len(names) != 0 {
		t.Errorf("%v, %v are left", names, err)
	}
}

// TestMoveLevel: nothing moves before the pair knows it.
func TestMoveLevel(t *testing.T) {
	ctx := context.Background()
	s := mailboxtest.New(t)
	account(t, s, "ann@example.test")
	if err := s.Move(ctx, command.Move{Step: command.MoveAnnounce, Account: "ann@example.test", Peer: "there", Token: command.Key{1}}); !errors.Is(err, mailbox.ErrLevel) {
		t.Error(err)
	}
	if err := s.Import(ctx, &command.Import{Account: "ann@example.test", Token: command.Key{1}}, nil); !errors.Is(err, mailbox.ErrLevel) {
		t.Error(err)
	}
}
