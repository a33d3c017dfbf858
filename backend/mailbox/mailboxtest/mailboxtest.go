// Package mailboxtest gives tests a real, single-node mail store.
package mailboxtest

import (
	"testing"

	"github.com/postern-mail/postern/backend/mailbox"
)

// New returns a service on a store in a temporary directory, closed when the
// test ends.
func New(t testing.TB) *mailbox.Service {
	t.Helper()
	s, err := mailbox.New(mailbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
