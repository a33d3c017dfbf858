package replica

import (
	"context"
	"errors"
	"testing"
)

// TestLeaseClosed: a read that comes while the replica stops asks nobody any
// more; Run has waited for the questions under way and the connections are closed.
func TestLeaseClosed(t *testing.T) {
	r := new(Replica)
	r.lease.close()
	if err := r.verify(context.Background()); !errors.As(err, &ErrNotServing{}) {
		t.Errorf("verify = %v, want not serving", err)
	}
	if r.lease.flight != nil {
		t.Error("a question was asked")
	}
}
