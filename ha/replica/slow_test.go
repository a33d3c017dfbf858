package replica

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// TestSlow lets a replica be slow in several ways.
func TestSlow(t *testing.T) {
	for name, tt := range map[string]struct {
		median, own, peer time.Duration
		group             string
		left              time.Duration // since a replica last left, as the peer says
		looks             int
		want              bool
	}{
		"quick":               {20 * ms, 10 * ms, 2 * ms, "a b w", 0, 10, false},
		"slow":                {600 * ms, 400 * ms, 5 * ms, "a b w", 0, 3, true},
		"slow for a moment":   {600 * ms, 400 * ms, 5 * ms, "a b w", 0, 2, false},
		"both slow":           {600 * ms, 400 * ms, 350 * ms, "a b w", 0, 10, false},
		"network slow":        {600 * ms, 5 * ms, 5 * ms, "a b w", 0, 10, false},
		"the peer left first": {600 * ms, 400 * ms, 5 * ms, "a b w", 30 * time.Second, 10, false},
		"it did long ago":     {600 * ms, 400 * ms, 5 * ms, "a b w", 61 * time.Second, 3, true},
		"peer away":           {600 * ms, 400 * ms, 5 * ms, "a b! w", 0, 10, false},
		"peer behind":         {600 * ms, 400 * ms, 5 * ms, "a b~ w", 0, 10, false},
		"only the witness":    {600 * ms, 400 * ms, 5 * ms, "a w", 0, 10, false},
		"peer never stored":   {600 * ms, 400 * ms, 0, "a b w", 0, 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			list := tell(tt.group)
			for i := range list {
				list[i].StoreTime = tt.peer
			}
			now := time.Now()
			var s slowness
			s.judge(now, 7, 0, tt.own, list, "a")
			left := 0
			for range tt.looks {
				now = now.Add(tendEvery)
				if tt.left > 0 && len(list) > 1 {
					list[1].SlowLeft = tt.left
				}
				if p, leave := s.judge(now, 7, tt.median, tt.own, list, "a"); leave {
					left++
					if p.ID != "b" {
						t.Errorf("hands over to %s", p.ID)
					}
					s.lastLeft.Store(&now)
				}
			}
			if left > 1 || left == 1 != tt.want {
				t.Errorf("left %d times, want %t", left, tt.want)
			}
		})
	}
}

// slowPair is a pair in virtual time whose replicas hand over because of their
// disks.
type slowPair struct {
	now     time.Time
	term    uint64
	serving int
	memory  [2]slowness
	disk    [2]time.Duration // what a batch takes now
}

// second lets the serving replica look once, and reports whether it left.
func (p *slowPair) second() bool {
	p.now = p.now.Add(tendEvery)
	list, names := tell("a b w"), []string{"a", "b"}
	for i := range p.memory {
		list[i].StoreTime, list[i].SlowLeft = p.disk[i], p.memory[i].since(p.now)
	}
	me := p.serving
	to, leave := p.memory[me].judge(p.now, p.term, 3*p.disk[me], p.disk[me], list, names[me])
	if leave {
		at := p.now
		p.memory[me].lastLeft.Store(&at)
		p.serving = slices.Index(names, to.ID)
		p.term++
	}
	return leave
}

func newSlowPair(a, b time.Duration) *slowPair {
	return &slowPair{now: time.Now(), term: 1, disk: [2]time.Duration{a, b}}
}

// TestSlowAtOnce has a replica whose disk is slow when it begins to serve.
func TestSlowAtOnce(t *testing.T) {
	const goal = 10
	p := newSlowPair(400*ms, 5*ms)
	for n := 1; ; n++ {
		if p.second() {
			return
		}
		if n == goal {
			t.Fatalf("it has not left after %d looks", n)
		}
	}
}

// TestSlowBoth has disks that are slow in turn, each at the worst moment: when
// its replica serves. The pair moves once a minute, and not at all while both
// are slow.
func TestSlowBoth(t *testing.T) {
	p := newSlowPair(400*ms, 5*ms)
	var moves []time.Time
	for range 600 {
		p.disk = [2]time.Duration{5 * ms, 5 * ms}
		p.disk[p.serving] = 400 * ms
		if p.second() {
			moves = append(moves, p.now)
		}
	}
	if len(moves) < 9 || len(moves) > 11 {
		t.Errorf("%d moves in ten minutes", len(moves))
	}
	for i := 1; i < len(moves); i++ {
		if gap := moves[i].Sub(moves[i-1]); gap < leaveAtMost {
			t.Errorf("a move %v after another", gap)
		}
	}
	p = newSlowPair(400*ms, 300*ms)
	for range 600 {
		if p.second() {
			t.Fatal("a move from one slow disk to another")
		}
	}
}

// TestSlowForgotten has the replica that left start anew: the other one knows
// that it did.
func TestSlowForgotten(t *testing.T) {
	p := newSlowPair(400*ms, 5*ms)
	for !p.second() {
	}
	moved := p.now
	p.second()
	p.memory[0] = slowness{}
	p.disk = [2]time.Duration{5 * ms, 400 * ms}
	for !p.second() {
	}
	if gap := p.now.Sub(moved); gap < leaveAtMost || gap > leaveAtMost+10*time.Second {
		t.Errorf("it moved back %v after", gap)
	}
}

// TestSlowFailed has an attempt to leave fail: the next one is made soon, though
// not at once.
func TestSlowFailed(t *testing.T) {
	list := tell("a b w")
	list[1].StoreTime = 5 * ms
	var s slowness
	now, last, n := time.Now(), time.Time{}, 0
	for range 60 {
		now = now.Add(tendEvery)
		if _, leave := s.judge(now, 7, 600*ms, 400*ms, list, "a"); !leave {
			continue
		}
		if gap := now.Sub(last); n > 0 && gap < leaveAgain {
			t.Errorf("another attempt %v later", gap)
		}
		s.failed, last = now, now
		n++
	}
	if n < 5 {
		t.Errorf("%d attempts in a minute", n)
	}
}

func TestCommitTimes(t *testing.T) {
	var c commitTimes
	if c.look(0) != 0 {
		t.Error("a median of nothing")
	}
	for i := range 200 {
		c.add(time.Duration(i))
	}
	if got := c.look(0); got != 200-64/2 {
		t.Errorf("median %d", got)
	}
	if c.look(3) != 0 {
		t.Error("a median without new commits")
	}
	c.add(7)
	if got := c.look(3); got != 7 {
		t.Errorf("median %d, want that of the new one", got)
	}
	if got := c.look(3); got != tendEvery {
		t.Errorf("commits that do not end: %v", got)
	}
	if got := c.look(0); got != 0 {
		t.Errorf("nothing waits any more: %v", got)
	}
}
