package fsm

import (
	"testing"

	"github.com/postern-mail/postern/backend/command"
)

// TestUIDsAreNew: whatever is removed, and whether all of it is, the next message
// gets a UID above every one that was given.
func TestUIDsAreNew(t *testing.T) {
	r := newReplica(t)
	account := func() *account {
		a, err := r.lookup("a@x")
		if err != nil || a == nil {
			t.Fatal(a, err)
		}
		return a
	}
	last := uint32(0)
	for round := range 6 {
		for n := range round % 3 * 2 { // two at a time, and none
			to := r.deliver(delivery(10*round+n, 10, t0, command.Recipient{Account: "a@x"}))[0]
			if to.UID != last+1 {
				t.Fatalf("round %d: UID %d after %d", round, to.UID, last)
			}
			last = to.UID
		}
		if last == 0 {
			continue
		}
		box := account().box(inbox)
		r.do(&command.Expunge{Head: command.Head{Time: t0}, Account: account().ID, Mailbox: box.ID, UIDs: everything, Force: true})
		if next := account().box(inbox).n; next.UIDNext != last+1 || next.Messages != 0 {
			t.Fatalf("round %d: UIDNEXT %d with %d messages, the last UID was %d", round, next.UIDNext, next.Messages, last)
		}
	}
	r.check()
}
