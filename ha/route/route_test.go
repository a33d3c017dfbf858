package route

import (
	"context"
	"errors"
	"testing"
)

func TestWhile(t *testing.T) {
	var table Table
	say := func(name string, serving bool, term uint64) {
		table.Update(Node{Name: name, Pair: "p", Alive: true, Serving: serving, Term: term})
	}
	if table.While("p", "a") != context.Background() {
		t.Error("there is news of a pair that is not known")
	}
	say("a", false, 0)
	say("b", false, 0)
	var onA, onB, any context.Context
	watch := func() {
		onA, onB, any = table.While("p", "a"), table.While("p", "b"), table.While("p", "")
	}
	want := func(what string, a, b, news bool) {
		t.Helper()
		for _, s := range []struct {
			name string
			ctx  context.Context
			want bool
		}{{"a", onA, a}, {"b", onB, b}, {"no name", any, news}} {
			if got := errors.Is(context.Cause(s.ctx), ErrMoved); got != s.want {
				t.Errorf("%s: %s ended: %v, want %v", what, s.name, got, s.want)
			}
		}
	}
	watch()
	say("a", true, 3)
	want("a serves", false, true, true)
	watch()
	say("a", true, 3)
	say("b", true, 2)
	say("b", false, 3)
	table.Redirect("p", "b")
	table.Update(Node{Name: "c", Pair: "other", Serving: true, Term: 9})
	want("nothing newer is said by a node of the pair", false, false, false)
	say("b", true, 4)
	want("b serves", true, false, true)
	if table.While("p", "a").Err() != nil {
		t.Error("what is asked after the news is over at once")
	}
}
