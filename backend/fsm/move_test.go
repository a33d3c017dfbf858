package fsm

import (
	"fmt"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store"
)

// moving is a step of a move, or an import, of an account of the generator's:
// often one that is refused.
func (g *generator) moving(head command.Head) command.Command {
	name, token := fmt.Sprintf("u%d@x", g.pick(6)), command.Key{byte(1 + g.pick(2))}
	if g.pick(2) == 0 {
		return &command.Move{Head: head, Step: command.MoveStep(1 + g.pick(int(command.MoveDrop))), Account: name, Peer: "pair2", Token: token, Limit: uint32(g.pick(20))}
	}
	c := &command.Import{Head: head, Account: name, Token: token, KeyLife: int64(g.pick(9)) * int64(24*time.Hour)}
	if g.pick(3) == 0 {
		c.Self = &command.ImportSelf{UIDValidity: 100, Limit: command.Limit{Bytes: -1, Messages: int64(g.pick(50))}, Subscriptions: []string{g.name()}}
		for v := range uint32(4) {
			if g.pick(2) == 0 {
				c.Self.Mailboxes = append(c.Self.Mailboxes, v+1)
			}
		}
		c.Keys = []command.ImportKey{{Key: key(g.n), Mailbox: uint32(g.pick(4)), UID: 3}}
		c.Answered = []command.ImportAnswered{{Hash: command.Hash{byte(g.pick(8))}, Until: g.now + int64(g.pick(3))*int64(24*time.Hour), Open: g.pick(2) == 0}}
		return c
	}
	c.Mailbox = &command.ImportMailbox{Name: g.name(), UIDValidity: uint32(1 + g.pick(4)), UIDNext: 30, ModSeq: 90, Keywords: []string{"$a"}}
	if c.Mailbox.Listed = g.pick(3) == 0; c.Mailbox.Listed && g.pick(2) == 0 {
		c.Mailbox.Grants = []command.Grant{{Identifier: "team@x", Rights: command.RightPost}}
	}
	c.First, c.Last = uint32(1+g.pick(10)), uint32(5+g.pick(20))
	for uid := c.First; uid <= c.Last; uid++ {
		if g.pick(3) == 0 {
			continue
		}
		w := command.ImportRow{UID: uid, Flags: uint64(g.pick(64)), ModSeq: uint64(20 + g.pick(70)), Created: uint64(g.pick(20)), InternalDate: g.now, SaveDate: g.now}
		if g.pick(2) == 0 {
			m := body(g.n, g.pick(200))
			for i := range m.Body {
				m.Body[i].Off = uint32(len(c.Tail))
			}
			c.Tail = append(c.Tail, make([]byte, m.Size)...)
			w.Message = &m
		}
		c.Rows = append(c.Rows, w)
	}
	return c
}

func (r *replica) step(want command.Code, step command.MoveStep, token byte, at int64) {
	r.t.Helper()
	c := &command.Move{Head: command.Head{Time: at}, Step: step, Account: "ann@x", Peer: "pair2", Token: command.Key{token}, Limit: 2}
	if got := r.do(c).(*command.Done).Code; got != want {
		r.t.Errorf("step %d of %d: code %d, want %d", step, token, got, want)
	}
}

func (r *replica) to(account string, k command.Key, at int64) command.DeliveredTo {
	return r.do(delivery(int(k[0]), 100, at, command.Recipient{Account: account, Key: k})).(*command.Delivered).Recipients[0]
}

// TestMoveSource: the source of a move takes mail until the fence and after a
// fence that nobody took further, and then names the other pair; a delivery that
// it has stored it answers as such for ever.
func TestMoveSource(t *testing.T) {
	r := newReplica(t)
	r.do(&command.Format{Head: command.Head{Time: t0}, Level: 2})
	first := r.to("ann@x", command.Key{1}, t0)
	r.step(command.Moving, command.MoveDrop, 1, t0) // it is open: not for the taking
	r.step(command.Moving, command.MoveFence, 1, t0)
	r.step(command.OK, command.MoveAnnounce, 1, t0)
	if to := r.to("ann@x", command.Key{2}, t0); to.UID == 0 {
		t.Errorf("while it is copied: %+v", to)
	}
	r.step(command.Moving, command.MoveGone, 1, t0) // not fenced
	r.step(command.OK, command.MoveFence, 1, t0)
	if to := r.to("ann@x", command.Key{3}, t0); to.Code != command.Moving || to.Peer != "" {
		t.Errorf("behind the fence: %+v", to)
	}
	if to := r.to("ann@x", command.Key{1}, t0); !to.Duplicate || to.UID != first.UID {
		t.Errorf("again: %+v", to)
	}
	a, _ := r.lookup("ann@x")
	box := a.box(inbox)
	for what, c := range map[string]command.Command{
		"store":     &command.Store{Account: a.ID, Mailbox: box.ID, UIDs: everything, Flags: 1},
		"expunge":   &command.Expunge{Account: a.ID, Mailbox: box.ID, UIDs: everything, Force: true},
		"copy":      &command.Copy{Account: a.ID, Mailbox: box.ID, UIDs: everything, To: "Trash"},
		"create":    &command.Create{Account: a.ID, Name: "new"},
		"delete":    &command.Delete{Account: a.ID, Name: "Trash"},
		"rename":    &command.Rename{Account: a.ID, From: "Trash", To: "new"},
		"rights":    &command.Rights{Account: a.ID, Name: "Trash", Identifier: command.Anyone},
		"subscribe": &command.Subscribe{Account: a.ID, Name: "new", On: true},
		"append":    &command.AppendMessages{Account: a.ID, Name: inbox},
		"quota":     &command.Quota{Account: "ann@x", Limit: command.Limit{Bytes: 1, Stamp: "z"}},
		"account":   &command.Account{Name: "ann@x"},
		"remove":    &command.Remove{Account: a.ID, Limit: 9},
	} {
		before := r.sum()
		ans := r.do(c)
		if code := codeOf(ans); code != command.Moving {
			t.Errorf("%s: %+v", what, ans)
		}
		if r.sum() != before {
			t.Errorf("%s changed something", what)
		}
	}

	// The fence falls by itself, and whoever set it can then no longer go on.
	late := t0 + int64(store.FenceLife)
	if to := r.to("ann@x", command.Key{3}, late); to.UID == 0 {
		t.Errorf("after the fence: %+v", to)
	}
	r.step(command.Moving, command.MoveGone, 1, late)
	r.step(command.OK, command.MoveFence, 1, late)
	// Somebody else takes over: the first is out.
	r.step(command.OK, command.MoveAnnounce, 2, late)
	r.step(command.Moving, command.MoveGone, 1, late)
	r.step(command.Moving, command.MoveStay, 1, late)
	r.step(command.OK, command.MoveStay, 2, late)
	r.step(command.OK, command.MoveAnnounce, 3, late)
	r.step(command.OK, command.MoveFence, 3, late)
	r.step(command.OK, command.MoveGone, 3, late)
	r.step(command.OK, command.MoveGone, 3, late)
	r.step(command.Moving, command.MoveAnnounce, 4, late)
	r.step(command.Moving, command.MoveStay, 3, late)
	for range 2 {
		if to := r.to("ann@x", command.Key{4}, late); to.Code != command.Moving || to.Peer != "pair2" || to.Epoch != late {
			t.Errorf("gone: %+v", to)
		}
		r.check()
		for {
			done := r.do(&command.Move{Head: command.Head{Time: late}, Step: command.MoveDrop, Account: "ann@x", Limit: 1}).(*command.Done)
			if done.Code != command.Again {
				break
			}
		}
		if a, err := r.lookup("ann@x"); a != nil || err != nil {
			t.Errorf("%+v, %v", a, err)
		}
		r.check()
	}
	if to := r.to("ann@x", command.Key{1}, late); !to.Duplicate || to.UID != first.UID {
		t.Errorf("again, after all is gone: %+v", to)
	}
	// In the end nothing is told of it any more.
	end := late
	for end < late+int64(store.GoneLife) { // an entry moves the clock by an hour at most
		end += int64(time.Hour)
		r.do(&command.Digest{Head: command.Head{Time: end}})
	}
	if to := r.to("ann@x", command.Key{5}, end); to.UID == 0 {
		t.Errorf("long after: %+v", to)
	}
	r.step(command.OK, command.MoveAnnounce, 5, end)
	r.check()
}

// sum is the digest of the rows.
func (r *replica) sum() store.Sum {
	_, sum := r.Digest()
	return sum
}

func codeOf(ans any) command.Code {
	switch a := ans.(type) {
	case *command.Done:
		return a.Code
	case *command.Stored:
		return a.Code
	case *command.Expunged:
		return a.Code
	case *command.Copied:
		return a.Code
	case *command.AppendedTo:
		return a.Code
	}
	return command.OK
}

// TestMoveTarget: an account that arrives takes nothing until it is open, and is
// then what was given; one that does not come after all is where it was.
func TestMoveTarget(t *testing.T) {
	r := newReplica(t)
	r.do(&command.Format{Head: command.Head{Time: t0}, Level: 2})
	c := &command.Import{
		Head: command.Head{Time: t0, Tail: make([]byte, 30)}, Account: "ann@x", Token: command.Key{1}, First: 1, Last: 9,
		Mailbox: &command.ImportMailbox{Name: "INBOX", UIDValidity: 70, UIDNext: 10, ModSeq: 40, Keywords: []string{"$a"}},
	}
	for i, uid := range []uint32{2, 5, 7} {
		m := body(i+1, 10)
		m.Body[0].Off = uint32(10 * i)
		c.Rows = append(c.Rows, command.ImportRow{UID: uid, Flags: 33, ModSeq: 40, Created: uint64(uid), InternalDate: 8, SaveDate: 9, Message: &m})
	}
	do := func(want command.Code, c command.Command) {
		t.Helper()
		if done := r.do(c).(*command.Done); done.Code != want {
			t.Errorf("%+v, want %d", done, want)
		}
		r.check()
	}
	do(command.Moving, c) // nobody has announced it
	r.step(command.OK, command.MoveArrive, 1, t0)
	r.step(command.Moving, command.MoveArrive, 2, t0)
	r.step(command.Moving, command.MoveOpen, 1, t0) // nothing there
	do(command.OK, c)
	do(command.OK, c) // again: the same
	if to := r.to("ann@x", command.Key{9}, t0); to.Code != command.Moving || to.Peer != "" {
		t.Errorf("while it arrives: %+v", to)
	}
	// One is gone, one changed, one is new; and two mailboxes change names.
	c.Tail, c.Mailbox.Name, c.Mailbox.ModSeq = make([]byte, 10), "a", 50
	m := body(9, 10)
	c.Rows = []command.ImportRow{{UID: 2, Flags: 1, ModSeq: 50, Created: 2, InternalDate: 8, SaveDate: 9}, {UID: 7, Flags: 33, ModSeq: 40, Created: 7, InternalDate: 8, SaveDate: 9}, {UID: 8, ModSeq: 45, Created: 45, Message: &m}}
	do(command.OK, c)
	do(command.OK, &command.Import{Head: command.Head{Time: t0}, Account: "ann@x", Token: command.Key{1}, Mailbox: &command.ImportMailbox{Name: "a", UIDValidity: 71, UIDNext: 1, ModSeq: 1}})
	c.Mailbox.Name, c.Rows, c.First, c.Last, c.Tail = "INBOX", nil, 0, 0, nil
	do(command.OK, c)
	do(command.OK, &command.Import{
		Head: command.Head{Time: t0}, Account: "ann@x", Token: command.Key{1}, KeyLife: int64(time.Hour),
		Self:     &command.ImportSelf{UIDValidity: 80, Limit: command.Limit{Bytes: 5000, Messages: -1, Stamp: "s"}, Mailboxes: []uint32{70}, Subscriptions: []string{"INBOX", "b"}},
		Keys:     []command.ImportKey{{Key: command.Key{3}, Hash: body(3, 100).Hash, Mailbox: 70, UIDValidity: 70, UID: 7}},
		Answered: []command.ImportAnswered{{Hash: command.Hash{4}, Until: t0 + int64(time.Hour)}},
	})
	r.step(command.OK, command.MoveOpen, 1, t0)
	r.step(command.OK, command.MoveOpen, 1, t0)
	r.step(command.Moving, command.MoveDrop, 1, t0) // it is open: not for the taking
	a, err := r.lookup("ann@x")
	if err != nil || a.UIDValidity != 80 || a.LimitBytes != 5000 || len(a.boxes) != 1 || !a.names["b"] {
		t.Fatalf("%+v, %v", a, err)
	}
	box := a.box(inbox)
	if box.UIDValidity != 70 || box.n.UIDNext != 10 || box.n.ModSeq != 50 || box.n.Messages != 3 || box.n.Floor != 50 {
		t.Errorf("%+v", box)
	}
	if to := r.to("ann@x", command.Key{3}, t0); !to.Duplicate || to.UID != 7 || to.Mailbox != inbox {
		t.Errorf("a delivery from before the move: %+v", to)
	}
	if to := r.to("ann@x", command.Key{9}, t0); to.UID != 10 || to.UIDValidity != 70 {
		t.Errorf("%+v", to)
	}
	r.check()

	// Another one does not come: it is still at the other pair.
	bob := &command.Move{Head: command.Head{Time: t0}, Step: command.MoveArrive, Account: "bob@x", Peer: "pair2", Token: command.Key{1}}
	do(command.OK, bob)
	bob.Step = command.MoveDrop
	do(command.OK, bob)
	if to := r.to("bob@x", command.Key{7}, t0); to.Code != command.Moving || to.Peer != "pair2" {
		t.Errorf("%+v", to)
	}
}
