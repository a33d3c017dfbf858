package route

import (
	"context"
	"errors"
	"strings"
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

// TestAssume: a list holds for nodes of which nobody tells, until another list does.
func TestAssume(t *testing.T) {
	var table Table
	node := func(name, addr string) Node {
		return Node{Name: name, Pair: "p", Alive: true, Addr: map[Service]string{LMTP: addr}}
	}
	want := func(what, nodes string) {
		t.Helper()
		var got []string
		for _, n := range table.Candidates("p") {
			s := n.Name + "=" + n.Addr[LMTP]
			if n.Serving {
				s += "*"
			}
			got = append(got, s)
		}
		if got := strings.Join(got, " "); got != nodes {
			t.Errorf("%s: %s, want %s", what, got, nodes)
		}
	}
	table.Assume([]Node{node("a", "1"), node("b", "2"), node("c", "3")})
	want("a list", "a=1 b=2 c=3")
	table.Redirect("p", "b")
	told := node("c", "33")
	table.Update(told)
	changed := table.Changed()
	table.Assume([]Node{node("b", "22"), node("c", "4"), node("d", "5")})
	want("another list", "b=22* c=33 d=5")
	select {
	case <-changed:
	default:
		t.Error("nobody hears of it")
	}
	table.Assume(nil)
	want("no list", "c=33")
	if _, ok := table.Pair("p"); !ok {
		t.Error("the pair of a node that is known is forgotten")
	}
	other := node("x", "1")
	other.Pair = "q"
	table.Assume([]Node{other})
	table.Assume(nil)
	if _, ok := table.Pair("q"); ok {
		t.Error("a pair without nodes is known")
	}
}
