package fsm

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store/storetest"
)

const day = int64(24 * time.Hour)

func (r *replica) deliver(c *command.Deliver) []command.DeliveredTo {
	r.t.Helper()
	ans, ok := r.do(c).(*command.Delivered)
	if !ok {
		r.t.Fatalf("no answer")
	}
	return ans.Recipients
}

func TestDeliveryKeys(t *testing.T) {
	var refused []command.Key
	r := start(t, storetest.NewDisk(), Config{Mismatch: func(_ string, k command.Key) { refused = append(refused, k) }})
	defer r.stop()
	ann := command.Recipient{Account: "ann@x", Key: key(1)}
	first := r.deliver(delivery(1, 100, t0, ann))[0]
	if first.Code != command.OK || first.Duplicate || first.UID != 1 || first.Mailbox != "INBOX" || first.UIDValidity != 1000 {
		t.Fatalf("first: %+v", first)
	}
	stored := r.State().Messages
	again := r.deliver(delivery(1, 100, t0+day, ann))[0]
	if !again.Duplicate || again.UID != 1 || again.UIDValidity != 1000 || again.Mailbox != "INBOX" || r.State().Messages != stored {
		t.Errorf("repeated: %+v", again)
	}
	if other := r.deliver(delivery(2, 100, t0+day, ann))[0]; other.Code != command.KeyMismatch || !slices.Equal(refused, []command.Key{key(1)}) {
		t.Errorf("other body: %+v, told of %v", other, refused)
	}
	// In one entry and in one batch.
	twice := r.deliver(delivery(3, 10, t0, command.Recipient{Account: "bob@x", Key: key(2)}, command.Recipient{Account: "bob@x", Key: key(2)}))
	if twice[0].Duplicate || !twice[1].Duplicate || twice[1].UID != twice[0].UID {
		t.Errorf("twice in one entry: %+v", twice)
	}
	at := r.Applied()
	var batch []Entry
	for i := range uint64(2) {
		batch = append(batch, Entry{Index: at + 1 + i, Term: 1, Data: command.Append(nil, delivery(4, 10, t0, command.Recipient{Account: "cat@x", Key: key(3)}))})
	}
	answers := r.Apply(batch)
	if a, b := answers[0].(*command.Delivered).Recipients[0], answers[1].(*command.Delivered).Recipients[0]; a.Duplicate || !b.Duplicate || a.UID != b.UID {
		t.Errorf("twice in one batch: %+v, %+v", a, b)
	}
	// Known after a restart, and after the message and the mailbox are gone.
	a, _ := r.lookup("ann@x")
	r.do(&command.Expunge{Head: command.Head{Time: t0}, Account: a.ID, Mailbox: a.box("INBOX").ID, UIDs: everything, Force: true})
	if _, err := r.Flush(); err != nil {
		t.Fatal(err)
	}
	r2 := start(t, r.disk.Crash(0, 1), Config{})
	defer r2.stop()
	if again := r2.deliver(delivery(1, 100, t0+2*day, ann))[0]; !again.Duplicate || again.UID != 1 {
		t.Errorf("after a crash: %+v", again)
	}
	r2.check()
}

// TestKeysExpire moves the clock of the entries, which moves at most an hour
// with each.
func TestKeysExpire(t *testing.T) {
	r := newReplica(t)
	ann := command.Recipient{Account: "ann@x", Key: key(1)}
	r.deliver(delivery(1, 10, t0, ann))
	expired := t0 + 8*day
	r.deliver(delivery(2, 10, expired+10*day, command.Recipient{Account: "ann@x"})) // one bad time
	if again := r.deliver(delivery(1, 10, t0+day, ann))[0]; !again.Duplicate {
		t.Errorf("a single wrong time made the key old: %+v", again)
	}
	for now := t0; now < expired; now += int64(time.Hour) {
		r.do(&command.Digest{Head: command.Head{Time: now}})
	}
	r.deliver(delivery(2, 10, expired-int64(time.Second), command.Recipient{Account: "ann@x"}))
	if again := r.deliver(delivery(1, 10, expired-1, ann))[0]; !again.Duplicate {
		t.Errorf("just before its time: %+v", again)
	}
	r.deliver(delivery(2, 10, expired+pruneSlack, command.Recipient{Account: "ann@x"}))
	if again := r.deliver(delivery(1, 10, expired+pruneSlack, ann))[0]; again.Duplicate {
		t.Errorf("after its time: %+v", again)
	}
	r.check()
}

func TestQuotaEdges(t *testing.T) {
	r := newReplica(t)
	limit := func(bytes, n int64, stamp string) *command.Limit {
		return &command.Limit{Bytes: bytes, Messages: n, Stamp: stamp}
	}
	for i, tt := range []struct {
		name  string
		size  int
		limit *command.Limit
		force bool
		want  command.Code
	}{
		{"no limit", 100, nil, false, command.OK},
		{"exactly full", 100, limit(200, -1, "2"), false, command.OK},
		{"one more octet", 1, nil, false, command.OverQuota},
		{"an empty message", 0, nil, false, command.OK},
		{"older stamp", 1, limit(-1, -1, "1"), false, command.OverQuota},
		{"no stamp", 1, limit(-1, -1, ""), false, command.OverQuota},
		{"guaranteed", 1, nil, true, command.OK},
		{"same stamp, other value", 1, limit(-1, 5, "2"), false, command.OK},
		{"count full", 0, nil, false, command.OverQuota},
		{"newer stamp", 0, limit(-1, 6, "3"), false, command.OK},
		{"zero", 0, limit(0, -1, "4"), false, command.QuotaZero},
		{"zero messages", 0, limit(-1, 0, "5"), false, command.QuotaZero},
		{"below -1", 1, limit(-7, math.MinInt64, "6"), false, command.OK},
		{"huge", 1, limit(math.MaxInt64, math.MaxInt64, "7"), false, command.OK},
	} {
		got := r.deliver(delivery(i, tt.size, t0, command.Recipient{Account: "q@x", Limit: tt.limit, Force: tt.force}))[0]
		if got.Code != tt.want {
			t.Errorf("%s: code %d, want %d", tt.name, got.Code, tt.want)
		}
	}
	r.check()
}

// TestQuotaOfCopy shows that no way around delivery passes the quota.
func TestQuotaOfCopy(t *testing.T) {
	r := newReplica(t)
	r.deliver(delivery(1, 100, t0, command.Recipient{Account: "q@x", Limit: &command.Limit{Bytes: 250, Messages: -1}}))
	a, _ := r.lookup("q@x")
	head := command.Head{Time: t0}
	c := &command.Copy{Head: head, Account: a.ID, Mailbox: a.box("INBOX").ID, UIDs: everything, To: "Trash"}
	if got := r.do(c).(*command.Copied); got.Code != command.OK || got.FirstUID != 1 {
		t.Errorf("copy that fits: %+v", got)
	}
	if got := r.do(c).(*command.Copied); got.Code != command.OverQuota {
		t.Errorf("copy that does not fit: %+v", got)
	}
	c.Move = true
	if got := r.do(c).(*command.Copied); got.Code != command.OK || got.FirstUID != 2 {
		t.Errorf("move of a full account: %+v", got)
	}
	app := &command.AppendMessages{Head: command.Head{Time: t0, Tail: make([]byte, 100)}, Account: a.ID, Name: "INBOX", Messages: []command.Appended{{Message: body(1, 40)}, {Message: body(2, 60)}}}
	app.Messages[1].Message.Body[0].Off = 40
	if got := r.do(app).(*command.AppendedTo); got.Code != command.OverQuota {
		t.Errorf("append: %+v", got)
	}
	if st := r.State(); st.Messages != 1 || st.Bytes != 100 {
		t.Errorf("%d messages, %d octets stored", st.Messages, st.Bytes)
	}
	r.check()
}

// TestDeadBytes follows octets from their entry to their end.
func TestDeadBytes(t *testing.T) {
	r := newReplica(t)
	dead := func() int64 {
		n, err := r.rows.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		sum, err := n.DeadBytes(0, math.MaxUint64)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	live := func(index uint64) bool {
		n, err := r.rows.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		ok, err := n.Live(index)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	part := &command.Part{Head: command.Head{Time: t0, Tail: make([]byte, 300)}}
	r.do(part)
	if dead() != 300 || live(1) {
		t.Errorf("a part nobody uses: %d dead, live %v", dead(), live(1))
	}
	entry := command.Append(nil, part)
	c := delivery(1, 0, t0, command.Recipient{Account: "a@x"}, command.Recipient{Account: "b@x"})
	c.Message.Size, c.Message.Body = 300, []command.Extent{{Index: 1, Off: uint32(len(entry) - 300), Len: 300}}
	r.do(c)
	if dead() != 0 || !live(1) {
		t.Errorf("a part in use: %d dead, live %v", dead(), live(1))
	}
	r.do(delivery(2, 50, t0, command.Recipient{Account: "c@x", Limit: &command.Limit{Bytes: 0, Messages: -1}}))
	if dead() != 50 || live(3) {
		t.Errorf("a message nobody took: %d dead", dead())
	}
	for i, want := range []int64{50, 350} {
		a, _ := r.lookup([]string{"a@x", "b@x"}[i])
		r.do(&command.Expunge{Head: command.Head{Time: t0}, Account: a.ID, Mailbox: a.box("INBOX").ID, UIDs: everything, Force: true})
		if dead() != want {
			t.Errorf("after %d expunges %d octets are dead, want %d", i+1, dead(), want)
		}
	}
	if live(1) {
		t.Error("the part is still in use")
	}
	r.check()
}

// TestLaterEntry delivers with further entries that name the first one's body.
func TestLaterEntry(t *testing.T) {
	for _, taken := range []bool{true, false} {
		r := newReplica(t)
		first := delivery(1, 80, t0, command.Recipient{Account: "a@x"})
		if !taken {
			first.Recipients[0].Limit = &command.Limit{Bytes: 0, Messages: -1}
		}
		entry := command.Append(nil, first)
		id := r.do(first).(*command.Delivered).Message
		for i := range 3 {
			c := delivery(1, 0, t0, command.Recipient{Account: fmt.Sprintf("b%d@x", i)}, command.Recipient{Account: fmt.Sprintf("c%d@x", i)})
			c.Message = first.Message
			c.Message.ID, c.Message.Body = id, []command.Extent{{Index: 1, Off: uint32(len(entry) - 80), Len: 80}}
			if got := r.deliver(c); got[1].Code != command.OK {
				t.Errorf("%+v", got)
			}
		}
		if st := r.State(); st.Messages != 1 || st.Bytes != 80 {
			t.Errorf("first taken %v: %d messages of %d octets", taken, st.Messages, st.Bytes)
		}
		r.check()
	}
}

func TestUnknownEntryStops(t *testing.T) {
	good := command.Append(nil, delivery(1, 10, t0, command.Recipient{Account: "a@x"}))
	future := slices.Clone(good)
	future[0] = command.Version + 1
	for name, bad := range map[string][]byte{"version": future, "operation": {command.Version, 200, 0, 0}, "empty": {}, "cut": good[:len(good)-1]} {
		var fatal error
		r := start(t, storetest.NewDisk(), Config{Fatal: func(err error) { fatal = err }})
		r.Apply([]Entry{{Index: 1, Term: 1, Data: good}})
		answers := r.Apply([]Entry{{Index: 2, Term: 1, Data: good}, {Index: 3, Term: 1, Data: bad}, {Index: 4, Term: 1, Data: good}})
		if fatal == nil || r.Applied() != 1 {
			t.Errorf("%s: fatal %v, applied %d", name, fatal, r.Applied())
		}
		if (name == "version" || name == "operation") != errors.Is(fatal, command.ErrUnknown) {
			t.Errorf("%s: %v", name, fatal)
		}
		for i, ans := range answers {
			if err, ok := ans.(error); !ok || !errors.Is(err, ErrStopped) {
				t.Errorf("%s: answer %d is %v", name, i, ans)
			}
		}
		if ans := r.Apply([]Entry{{Index: 5, Term: 1, Data: good}})[0]; !errors.Is(ans.(error), ErrStopped) {
			t.Errorf("%s: went on: %v", name, ans)
		}
		r.stop()
	}
}

func TestReplayIsIgnored(t *testing.T) {
	r := newReplica(t)
	e := Entry{Index: 1, Term: 1, Data: command.Append(nil, delivery(1, 10, t0, command.Recipient{Account: "a@x"}))}
	r.Apply([]Entry{e})
	before := r.State()
	if ans := r.Apply([]Entry{e}); ans[0] != nil || r.State() != before {
		t.Errorf("replayed: %v", ans[0])
	}
}

// TestUIDValidity shows that a name made again never has its old UIDVALIDITY.
func TestUIDValidity(t *testing.T) {
	r := newReplica(t)
	head := command.Head{Time: t0}
	id := r.do(&command.Account{Head: head, Name: "a@x", Seed: 5}).(*command.Done).Account
	var last uint32
	for range 5 {
		r.do(&command.Create{Head: head, Account: id, Name: "box"})
		a, _ := r.owner(id)
		if v := a.box("box").UIDValidity; v <= last {
			t.Fatalf("UIDVALIDITY %d after %d", v, last)
		} else {
			last = v
		}
		r.do(&command.Delete{Head: head, Account: id, Name: "box"})
	}
	r.check()
}

// TestJournalBound makes more changes than the journal keeps.
func TestJournalBound(t *testing.T) {
	// Many messages in turn: pebble steps over all versions of a row that are
	// in memory.
	const messages = 512
	r := newReplica(t)
	for i := range messages {
		r.deliver(delivery(i, 10, t0, command.Recipient{Account: "a@x"}))
	}
	a, _ := r.lookup("a@x")
	box := a.box("INBOX").ID
	for i := range 2*journalSpan + 100 {
		var one command.UIDSet
		r.do(&command.Store{
			Head: command.Head{Time: t0}, Account: a.ID, Mailbox: box, UIDs: one.Add(uint32(1 + i%messages)),
			Action: command.StoreOp(1 + i/messages%2), Flags: flagSeen,
		})
	}
	n, err := r.rows.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	c, err := n.Counters(a.ID, box)
	if err != nil {
		t.Fatal(err)
	}
	notes, lowest := 0, uint64(math.MaxUint64)
	if err := n.Journal(box, 0, func(modseq uint64, _ []byte) error {
		notes, lowest = notes+1, min(lowest, modseq)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if notes < journalSpan || notes > 2*journalSpan || c.Floor == 0 || lowest <= c.Floor {
		t.Errorf("%d notes from %d, floor %d, MODSEQ %d", notes, lowest, c.Floor, c.ModSeq)
	}
}

func TestWake(t *testing.T) {
	hub := new(notify.Hub)
	r := start(t, storetest.NewDisk(), Config{Hub: hub})
	defer r.stop()
	r.deliver(delivery(1, 10, t0, command.Recipient{Account: "a@x"}))
	a, _ := r.lookup("a@x")
	w, other := hub.Watch(a.box("INBOX").ID), hub.Watch(a.box("Trash").ID)
	defer w.Close()
	defer other.Close()
	r.deliver(delivery(2, 10, t0, command.Recipient{Account: "a@x"}))
	select {
	case <-w.C():
	default:
		t.Error("not told of a delivery")
	}
	select {
	case <-other.C():
		t.Error("told of another mailbox")
	default:
	}
}
