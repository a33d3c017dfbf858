package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
)

// Judge compares what is in mailboxes with what the ledger says was acknowledged.
type Judge struct {
	Access *mailbox.Access
	Book   *ledger.Ledger
	Run    string // the load's
	Size   int    // of a message's body, in octets
	users  []mailbox.User
	marks  []mailbox.Mark // where their inboxes stood
}

// Watch notes where a user's inbox stands. What comes later is judged.
func (j *Judge) Watch(t *testing.T, u mailbox.User) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m, err := j.Access.Mark(ctx, u)
	if err != nil {
		t.Fatal(err)
	}
	j.users, j.marks = append(j.users, u), append(j.marks, m)
}

// Mailboxes reads all inboxes: whatever was acknowledged and is not there once
// is an error of the test. It returns the ledger's counts.
func (j *Judge) Mailboxes(t *testing.T) (acknowledged, refused, unknown int) {
	t.Helper()
	found := map[ledger.Key]int{}
	for i, u := range j.users {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		in, err := j.Access.Read(ctx, u, j.marks[i], j.Run, j.Size)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range in.Faults {
			t.Errorf("%s: %s", u.Address, f)
		}
		for id, n := range in.Copies {
			found[ledger.Key{Recipient: u.Address, ID: id}] = n
		}
	}
	findings := ledger.Check(j.Book.Entries(), found)
	for i := range findings[:min(len(findings), 20)] {
		t.Error(findings[i].String())
	}
	acknowledged, refused, unknown = j.Book.Counts()
	t.Logf("%d acknowledged, %d refused %v, %d unknown, %d findings", acknowledged, refused, j.Book.Refusals(), unknown, len(findings))
	return acknowledged, refused, unknown
}
