package fsm

import (
	"testing"

	"github.com/postern-mail/postern/backend/command"
)

// TestRemove: an account leaves nothing behind, not even for entries of the same
// batch, and one of the same name is another.
func TestRemove(t *testing.T) {
	r := newReplica(t)
	ann := command.Recipient{Account: "ann@x", Autoreply: &command.Autoreply{Hash: command.Hash{1}, Seconds: 86_400}}
	bob := command.Recipient{Account: "bob@x"}
	r.do(delivery(1, 100, t0, bob))
	r.do(delivery(2, 100, t0, ann))
	first, err := r.lookup("ann@x")
	if err != nil || first == nil {
		t.Fatal(err)
	}
	r.do(&command.Subscribe{Account: first.ID, Name: "elsewhere", On: true})
	r.do(delivery(3, 100, t0, ann))
	r.check()

	if done := r.do(&command.Remove{Account: first.ID, Limit: 1}).(*command.Done); done.Code != command.Again || done.Mailbox != first.box(inbox).ID {
		t.Fatalf("%+v", done)
	}
	if done := r.do(&command.Remove{Account: 999, Limit: 1}).(*command.Done); done.Code != command.NoAccount {
		t.Errorf("%+v", done)
	}
	r.check()
	// A delivery waits in the batch before the removal, and comes behind it.
	answers := r.Apply([]Entry{
		{Index: r.Applied() + 1, Term: 1, Data: command.Append(nil, delivery(4, 100, t0, ann, bob))},
		{Index: r.Applied() + 2, Term: 1, Data: command.Append(nil, &command.Remove{Account: first.ID, Limit: 3})},
		{Index: r.Applied() + 3, Term: 1, Data: command.Append(nil, delivery(5, 100, t0, ann))},
	})
	if done := answers[1].(*command.Done); done.Code != command.OK {
		t.Fatalf("%+v", done)
	}
	again, err := r.lookup("ann@x")
	if err != nil || again == nil || again.ID == first.ID || again.count != 1 {
		t.Fatalf("%+v, %v", again, err)
	}
	if to := answers[2].(*command.Delivered).Recipients[0]; to.UID != 1 || to.Code != command.OK {
		t.Errorf("%+v", to)
	}
	r.check()
	r.do(&command.Remove{Account: again.ID, Limit: 1})
	if gone, err := r.lookup("ann@x"); err != nil || gone != nil {
		t.Errorf("%+v, %v", gone, err)
	}
	bobs, err := r.lookup("bob@x")
	if err != nil || bobs.count != 2 {
		t.Fatalf("%+v, %v", bobs, err)
	}
	// What is left is what there was, but for bob's second message.
	r.do(&command.Expunge{Account: bobs.ID, Mailbox: bobs.box(inbox).ID, UIDs: command.UIDSet{{First: 2, Last: 2}}, Force: true})
	r.check()
	if st := r.State(); st.Messages != 1 {
		t.Errorf("%d messages are stored", st.Messages)
	}
}
