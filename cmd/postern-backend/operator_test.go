package main

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// elected is what a replica knows.
type elected struct {
	leader  string
	serving bool
}

// knowing is a replica that learns who is elected.
type knowing struct{ atomic.Pointer[elected] }

func (k *knowing) Serving() bool { return k.Load().serving }

func (k *knowing) Leader() (id, name string, ok bool) {
	e := k.Load()
	return "id-" + e.leader, e.leader, e.leader != ""
}

// TestHandedOver: a hand-over is done when another replica leads, and not when this
// one does again.
func TestHandedOver(t *testing.T) {
	for name, c := range map[string]struct {
		later elected
		want  string // part of the error
	}{
		"done":          {later: elected{leader: "b"}},
		"back":          {later: elected{leader: "a", serving: true}, want: "came to nothing"},
		"nobody":        {later: elected{}, want: "nobody was elected"},
		"not served by": {later: elected{leader: "a"}, want: "nobody was elected"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				r := new(knowing)
				r.Store(new(elected))
				done := make(chan error, 1)
				go func() { done <- handedOver(ctx, r, "a") }()
				synctest.Wait()
				r.Store(&c.later)
				err := <-done
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%v, want %q", err, c.want)
				}
			})
		})
	}
}
