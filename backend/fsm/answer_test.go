package fsm

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/store/storetest"
)

// asking is a recipient whose mail may be answered.
func asking(account string, k int, hash byte, seconds uint32) command.Recipient {
	return command.Recipient{Account: account, Key: key(k), Autoreply: &command.Autoreply{Hash: command.Hash{hash}, Seconds: seconds}}
}

const dayOf = 86_400 // seconds

// wait moves the clock of the entries, which moves at most an hour with each.
func (r *replica) wait(from, to int64) {
	for now := from; now < to; now += int64(time.Hour) {
		r.do(&command.Digest{Head: command.Head{Time: now}})
	}
	r.do(&command.Digest{Head: command.Head{Time: to}})
}

func TestAnswerOncePerPeriod(t *testing.T) {
	r := newReplica(t)
	for i, tt := range []struct {
		name string
		rcpt command.Recipient
		want bool
	}{
		{"the first", asking("ann@x", 1, 1, dayOf), true},
		{"the second from this sender", asking("ann@x", 2, 1, dayOf), false},
		{"another sender or another text", asking("ann@x", 3, 2, dayOf), true},
		{"another account", asking("bob@x", 4, 1, dayOf), true},
		{"every message", asking("ann@x", 5, 3, 0), true},
		{"every message, again", asking("ann@x", 6, 3, 0), true},
		{"a repeated key that was answered", asking("ann@x", 1, 1, dayOf), true},
		{"a repeated key that was not", asking("ann@x", 2, 1, dayOf), false},
		{"nobody asks", command.Recipient{Account: "ann@x", Key: key(7)}, false},
		{"asked only the second time", asking("ann@x", 7, 9, dayOf), false},
		{"no key", command.Recipient{Account: "ann@x", Autoreply: &command.Autoreply{Hash: command.Hash{10}, Seconds: 1}}, true},
	} {
		to := r.deliver(delivery(1, 10, t0+int64(i), tt.rcpt))[0]
		if to.Code != command.OK || to.UID == 0 || to.Answer != tt.want {
			t.Errorf("%s: %+v, want answer %v", tt.name, to, tt.want)
		}
		r.check()
	}
}

// TestAnswerOnly: the decision is made and kept, and no message is stored.
func TestAnswerOnly(t *testing.T) {
	r := newReplica(t)
	only := asking("ann@x", 1, 1, dayOf)
	only.Autoreply.Only = true
	only.Limit = &command.Limit{Bytes: 0, Messages: 0, Stamp: "1"} // what is not stored needs no room
	for i, dup := range []bool{false, true} {
		to := r.deliver(delivery(1, 100, t0+int64(i), only))[0]
		if to.Code != command.OK || !to.Answer || to.UID != 0 || to.Mailbox != "" || to.Duplicate != dup {
			t.Errorf("%d: %+v", i, to)
		}
	}
	if to := r.deliver(delivery(2, 100, t0, only))[0]; to.Code != command.KeyMismatch || to.Answer {
		t.Errorf("another body: %+v", to)
	}
	if n := r.State().Messages; n != 0 {
		t.Errorf("%d messages stored", n)
	}
	// Beside somebody who keeps it, the message is there once.
	only.Key = key(2)
	both := r.deliver(delivery(3, 100, t0, only, command.Recipient{Account: "bob@x", Key: key(3)}))
	if both[0].Answer || both[1].UID != 1 || r.State().Messages != 1 {
		t.Errorf("%+v, %d messages", both, r.State().Messages)
	}
	r.check()
}

// TestAnswerRefused: a delivery that is refused is not answered, and the next
// attempt is.
func TestAnswerRefused(t *testing.T) {
	r := newReplica(t)
	full := asking("ann@x", 1, 1, dayOf)
	full.Limit = &command.Limit{Bytes: 5, Messages: -1, Stamp: "1"}
	if to := r.deliver(delivery(1, 10, t0, full))[0]; to.Code != command.OverQuota || to.Answer {
		t.Errorf("full: %+v", to)
	}
	full.Limit = &command.Limit{Bytes: 50, Messages: -1, Stamp: "2"}
	if to := r.deliver(delivery(1, 10, t0+1, full))[0]; to.Code != command.OK || !to.Answer {
		t.Errorf("room again: %+v", to)
	}
}

// TestAnswerAgain: the period ends by the time of the entries, to the
// nanosecond, also while the memory still holds what has passed, and across a
// restart.
func TestAnswerAgain(t *testing.T) {
	r := start(t, storetest.NewDisk(), Config{})
	r.deliver(delivery(1, 10, t0, asking("ann@x", 1, 1, dayOf)))
	r.wait(t0, t0+day-int64(time.Minute))
	if to := r.deliver(delivery(2, 10, t0+day-1, asking("ann@x", 2, 1, dayOf)))[0]; to.Answer {
		t.Error("answered before the period ended")
	}
	if _, err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	after := r.disk.Crash(0, 1)
	r.stop()
	r = start(t, after, Config{})
	t.Cleanup(r.stop)
	if to := r.deliver(delivery(3, 10, t0+day, asking("ann@x", 3, 1, dayOf)))[0]; !to.Answer {
		t.Error("not answered when the period had ended")
	}
	r.check()
	r.wait(t0+day, t0+2*day+2*pruneSlack)
	for i, want := range []int64{1, 0} { // the first delivery notices that it is time, and adds no row
		if i == 1 {
			r.deliver(delivery(4, 10, t0+2*day+2*pruneSlack, command.Recipient{Account: "ann@x"}))
		}
		a, _ := r.lookup("ann@x")
		if n, err := r.batch.AnsweredCount(a.ID); err != nil || n != want {
			t.Errorf("%d senders remembered, want %d: %v", n, want, err)
		}
		r.check()
	}
	// Forgotten and answered by one entry, which must not count twice.
	r.deliver(delivery(5, 10, t0+2*day+3*pruneSlack, asking("ann@x", 5, 1, dayOf)))
	r.wait(t0+2*day, t0+3*day+9*pruneSlack)
	if to := r.deliver(delivery(6, 10, t0+3*day+9*pruneSlack, asking("ann@x", 6, 1, dayOf)))[0]; !to.Answer {
		t.Error("not answered after it was forgotten")
	}
	r.check()
}

// TestAnswerBound fills the memory of one account.
func TestAnswerBound(t *testing.T) {
	const most = 1000
	r := newReplica(t)
	r.maxAnswered = most
	n := 0
	ask := func(count int, now int64) (answered int) {
		c := delivery(1, 10, now)
		for range count {
			rc := command.Recipient{Account: "ann@x", Autoreply: &command.Autoreply{Seconds: dayOf, Only: true}}
			binary.BigEndian.PutUint32(rc.Autoreply.Hash[:], uint32(n))
			c.Recipients = append(c.Recipients, rc)
			n++
		}
		for _, to := range r.deliver(c) {
			if to.Answer {
				answered++
			}
		}
		return answered
	}
	for n+300 <= most {
		if got := ask(300, t0); got != 300 {
			t.Fatalf("%d of 300 answered", got)
		}
	}
	if left := most - n; ask(300, t0) != left {
		t.Errorf("not the last %d were answered", left)
	}
	a, _ := r.lookup("ann@x")
	if c, err := r.batch.AnsweredCount(a.ID); err != nil || c != most {
		t.Errorf("%d remembered: %v", c, err)
	}
	r.wait(t0, t0+day+2*pruneSlack)
	if got := ask(300, t0+day+2*pruneSlack); got != 300 {
		t.Errorf("%d of 300 answered later", got)
	}
	if c, err := r.batch.AnsweredCount(a.ID); err != nil || c != 300 {
		t.Errorf("%d remembered later: %v", c, err)
	}
	r.check()
}

// TestAnswerFailover gives half of a log to one replica and all of it to
// another that takes over: the repeated deliveries are decided as the first
// replica did, the new ones as it would have.
func TestAnswerFailover(t *testing.T) {
	first, second := newReplica(t), newReplica(t)
	var log []Entry
	propose := func(r *replica, c command.Command) *command.Delivered {
		e := Entry{Index: uint64(len(log) + 1), Term: 1, Data: command.Append(nil, c)}
		log = append(log, e)
		return r.Apply([]Entry{e})[0].(*command.Delivered)
	}
	var want []bool
	for i := range 50 {
		to := propose(first, delivery(i, 10, t0+int64(i), asking("ann@x", i, byte(i%7), dayOf))).Recipients[0]
		if to.Answer != (i < 7) {
			t.Errorf("message %d: %+v", i, to)
		}
		want = append(want, to.Answer)
	}
	second.Apply(log) // in one batch
	for i, w := range want {
		if to := propose(second, delivery(i, 10, t0+100, asking("ann@x", i, byte(i%7), dayOf))).Recipients[0]; !to.Duplicate || to.Answer != w {
			t.Errorf("message %d repeated: %+v, want answer %v", i, to, w)
		}
		if to := propose(second, delivery(100+i, 10, t0+100, asking("ann@x", 100+i, byte(i%7), dayOf))).Recipients[0]; to.Answer {
			t.Errorf("message %d: answered a second time", 100+i)
		}
	}
	// What is due with the one is due with the other, and so is a claim.
	ask := func(r *replica, k int) bool {
		c := delivery(500+k, 10, t0+200, asking("ann@x", 500+k, byte(50+k%3), dayOf))
		c.Compact, c.Recipients[0].Autoreply.Later = true, true
		return propose(r, c).Recipients[0].Answer
	}
	claim := func(r *replica, hash, by byte) bool {
		c := delivery(1, 10, t0+200, command.Recipient{Account: "ann@x", Autoreply: &command.Autoreply{
			Hash: command.Hash{50 + hash}, Seconds: dayOf, Only: true, By: command.Key{by},
		}})
		c.Compact = true
		return propose(r, c).Recipients[0].Answer
	}
	seen := len(log)
	first.Apply(log)
	for k := range 6 {
		if !ask(first, k) {
			t.Errorf("message %d is not answered", k)
		}
	}
	if !claim(first, 0, 1) {
		t.Error("no answer for the first claim")
	}
	second.Apply(log[seen:])
	for k := range 9 { // three of them new
		if got := ask(second, k); got != (k%3 != 0) {
			t.Errorf("message %d: due %v after the failover", k, got)
		}
	}
	for _, tt := range []struct {
		hash, by byte
		want     bool
	}{{0, 1, true}, {0, 2, false}, {1, 2, true}, {1, 1, false}} {
		if got := claim(second, tt.hash, tt.by); got != tt.want {
			t.Errorf("claim of %d by %d: %v", tt.hash, tt.by, got)
		}
	}
	first.Apply(log)
	if a, b := first.check(), second.check(); a != b {
		t.Errorf("digests %v and %v", a, b)
	}
}

// TestClaim: an answer is due until it is claimed; the claim that comes first
// has it for the period, and has it again.
func TestClaim(t *testing.T) {
	r := newReplica(t)
	n := 0
	for i, tt := range []struct {
		name string
		key  int // of the delivery, 0 for a claim
		hash byte
		by   byte // who claims
		at   int64
		want bool
	}{
		{"the first", 1, 1, 0, 0, true},
		{"repeated", 1, 1, 0, 0, true},
		{"the next message", 2, 1, 0, 0, true},
		{"another answer", 3, 2, 0, 0, true},
		{"a claim", 0, 1, 7, 0, true},
		{"the same claim", 0, 1, 7, 0, true},
		{"another claim", 0, 1, 8, 0, false},
		{"the first, repeated after the claim", 1, 1, 0, 0, false},
		{"the second, repeated after the claim", 2, 1, 0, 0, false},
		{"a message after the claim", 4, 1, 0, 0, false},
		{"the other answer is still due", 3, 2, 0, 0, true},
		{"at the end of the period", 4, 1, 0, day - 1, false},
		{"the period is over", 5, 1, 0, day, true},
		{"what was due in it is not", 3, 2, 0, day, false},
		{"a claim in the next", 0, 1, 8, day, true},
		{"one of the time before comes back", 0, 1, 7, day, false},
		{"a claim that nobody was told of", 0, 9, 7, day, true},
		{"and nobody else has it", 6, 9, 0, day, false},
	} {
		if last := t0 + tt.at; last > t0 && r.now < last-int64(time.Hour) {
			r.wait(t0, last-int64(time.Minute))
		}
		rc := asking("ann@x", tt.key, tt.hash, dayOf)
		if tt.key == 0 {
			rc.Key, rc.Autoreply.By, rc.Autoreply.Only = command.Key{}, command.Key{tt.by}, true
		} else {
			rc.Autoreply.Later = true
		}
		c := delivery(1, 10, t0+tt.at, rc)
		c.Compact = true
		to := r.deliver(c)[0]
		if to.Code != command.OK || to.Answer != tt.want || (to.UID == 0) != (tt.key == 0) {
			t.Errorf("%d, %s: %+v, want answer %v", i, tt.name, to, tt.want)
		}
		if tt.key != 0 && !to.Duplicate {
			n++
		}
		r.check()
	}
	if got := r.State().Messages; got != uint64(n) {
		t.Errorf("%d messages, want %d", got, n)
	}
}

// TestClaimAfterUpgrade: what was decided when nothing could be claimed is given
// to whoever claims it first, and who is gone answers nobody.
func TestClaimAfterUpgrade(t *testing.T) {
	r := newReplica(t)
	ask := func(k int, later bool) bool {
		rc := asking("ann@x", k, 1, dayOf)
		rc.Autoreply.Later = later
		c := delivery(1, 10, t0, rc)
		c.Compact = later
		return r.deliver(c)[0].Answer
	}
	claim := func(account string, by byte) bool {
		c := delivery(1, 10, t0, command.Recipient{Account: account, Autoreply: &command.Autoreply{
			Hash: command.Hash{1}, Seconds: dayOf, Only: true, By: command.Key{by},
		}})
		c.Compact = true
		return r.deliver(c)[0].Answer
	}
	for i, got := range []bool{ask(1, false), !ask(2, false), !ask(3, true), ask(1, true), claim("ann@x", 5), claim("ann@x", 5), !claim("ann@x", 6), !ask(1, true), !claim("nobody@x", 5)} {
		if !got {
			t.Errorf("step %d", i)
		}
	}
	if a, err := r.lookup("nobody@x"); a != nil || err != nil {
		t.Errorf("a claim made an account: %v", err)
	}
	r.check()
}
