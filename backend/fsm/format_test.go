package fsm

import (
	"errors"
	"reflect"
	"testing"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// TestRaise: the level goes up with the entry, on disk before the entry has an
// effect, stays over a start, counts in no digest, and never falls. A compact
// delivery does what the plain one does.
func TestRaise(t *testing.T) {
	disk := storetest.NewDisk()
	var raised []uint32
	var r *replica
	cfg := Config{Raise: func(level uint32) error {
		if r != nil && r.Level() >= level {
			t.Errorf("level %d is in use before the directory says so", level)
		}
		raised = append(raised, level)
		return nil
	}}
	r = start(t, disk, cfg)
	plain := start(t, storetest.NewDisk(), Config{})
	defer plain.stop()
	if r.Level() != 1 {
		t.Fatalf("a new pair is on level %d", r.Level())
	}
	deliver := func(n int, compact bool) {
		c := &command.Deliver{
			Head: command.Head{Time: t0, Tail: make([]byte, 10)}, KeyLife: 1 << 40, Message: body(n, 10), Compact: compact,
			Recipients: []command.Recipient{{Account: "ann@example.test", Key: key(n)}, {Account: "bob@example.test", Key: key(n + 1000)}},
		}
		got := r.do(c)
		c.Compact = false
		if want := plain.do(c); !reflect.DeepEqual(got, want) {
			t.Errorf("delivery %d: %+v, want %+v", n, got, want)
		}
	}
	deliver(1, false)
	before := r.check()
	for range 2 {
		if done, ok := r.do(&command.Format{Head: command.Head{Time: t0}, Level: 2}).(*command.Done); !ok || done.Code != command.OK || r.Level() != 2 {
			t.Fatalf("level %d after the entry", r.Level())
		}
		plain.do(&command.Digest{Head: command.Head{Time: t0}})
	}
	if after := r.check(); after != before {
		t.Errorf("digest %v, %v before", after, before)
	}
	deliver(2, true)
	r.check()
	plain.check()
	r.stop()
	r = nil
	again := start(t, disk, cfg)
	defer again.stop()
	if again.Level() != 2 || !reflect.DeepEqual(raised, []uint32{2, 2}) {
		t.Errorf("after the next start: level %d, raised %v", again.Level(), raised)
	}
}

// TestRaiseFails: a replica that cannot say on disk that it goes to a level stops
// before the entry.
func TestRaiseFails(t *testing.T) {
	var fatal error
	full := errors.New("disk full")
	r := start(t, storetest.NewDisk(), Config{Raise: func(uint32) error { return full }, Fatal: func(err error) { fatal = err }})
	defer r.stop()
	answer := r.do(&command.Format{Head: command.Head{Time: t0}, Level: 2})
	if err, ok := answer.(error); !ok || !errors.Is(err, full) || !errors.Is(fatal, full) || r.Applied() != 0 || r.Level() != 1 {
		t.Errorf("answer %v, fatal %v, applied %d, level %d", answer, fatal, r.Applied(), r.Level())
	}
}
