package replica_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica"
)

func propose(n *node, text string, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _, err := n.r.Propose(ctx, item(text, size))
	return err
}

func TestBasics(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	for i := range 20 {
		res, index, err := n.r.Propose(context.Background(), item(fmt.Sprint(i), 1000))
		must(t, err)
		if res != i+1 {
			t.Errorf("result %v of proposal %d", res, i)
		}
		data, err := n.r.Log().ReadEntry(index, nil)
		if err != nil || len(data) != 1000 {
			t.Errorf("body of %d: %d bytes, %v", index, len(data), err)
		}
	}
	must(t, n.r.Confirm(context.Background()))
	o := c.other(n)
	c.eventually("the other replica has all", func() bool { return len(o.list.snapshot()) == 20 })
	if _, _, err := o.r.Propose(context.Background(), item("x", 0)); !errors.As(err, &replica.ErrNotServing{}) {
		t.Errorf("proposal to a follower: %v", err)
	}
	var e replica.ErrNotServing
	if err := o.r.Confirm(context.Background()); !errors.As(err, &e) || e.Name != n.name {
		t.Errorf("Confirm at a follower: %v", err)
	}
	if _, _, err := n.r.Propose(context.Background(), make([]byte, replica.MaxEntry+1)); !errors.Is(err, replica.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	s := n.r.Status()
	if s.State != "Leader" || !s.Serving || s.Leader != n.name || len(s.Peers) != 2 || !s.Peers[0].Alive || !s.Peers[1].Alive {
		t.Errorf("status %+v", s)
	}
}

func TestTransfer(t *testing.T) {
	c := newCluster(t, options{keep: true})
	n := c.serving()
	o := c.other(n)
	var mu sync.Mutex
	var changes []bool
	n.r.Observe(func(s bool) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, s)
	})
	must(t, propose(n, "one", 100))
	start := time.Now()
	must(t, n.r.Transfer(context.Background(), ""))
	c.eventually("the other serves", o.r.Serving)
	took := time.Since(start)
	must(t, propose(o, "two", 100))
	t.Logf("transfer to serving: %v", took)
	if took > time.Second {
		t.Errorf("a planned transfer took %v", took)
	}
	if n.r.Serving() {
		t.Error("both serve")
	}
	mu.Lock()
	if !slices.Equal(changes, []bool{false}) {
		t.Errorf("observed %v", changes)
	}
	mu.Unlock()
	// A target that is away is refused before anything is stopped.
	c.kill(n.name)
	if err := o.r.Transfer(context.Background(), ""); !errors.Is(err, replica.ErrBehind) {
		t.Errorf("transfer to a dead replica: %v", err)
	}
	must(t, propose(o, "three", 100))
}
