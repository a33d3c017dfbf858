package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/ha/seglog"
	"github.com/postern-mail/postern/ha/seglog/seglogtest"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
)

func TestMain(m *testing.M) {
	// Pebble watches the disk from goroutines that outlive a store that was
	// opened for reading.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

// node is a replica without raft: the real log, rows, state machine and
// mailboxes, and upkeep on them.
type node struct {
	t     testing.TB
	dir   string
	clock time.Time
	peer  peer
	seg   int64

	mu      sync.Mutex // held by Propose
	log     *seglog.Log
	rows    *store.Store
	machine *fsm.FSM
	boxes   *mailbox.Service
	upkeep  *upkeep
	barred  bool
	follows bool
	level   uint32 // of the format; 0 is 1
	group   bool   // proposals that wait are stored together
	rate    config.Size
	waiting []*waiter // guarded by queue
	queue   sync.Mutex
}

func newNode(t testing.TB, dir string) *node {
	n := &node{t: t, dir: dir, clock: time.Now(), seg: 64 << 10, rate: 1 << 30}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) check(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// start opens everything and brings the rows up to date, as raft does.
func (n *node) start() {
	n.t.Helper()
	var err error
	n.log, err = seglog.Open(seglog.Config{Dir: filepath.Join(n.dir, "log"), SegmentSize: n.seg, CacheBytes: -1})
	n.check(err)
	n.rows, err = store.Open(filepath.Join(n.dir, "meta"), n.log, store.Options{MemTableSize: 256 << 10, OnDiskFailure: func(err error) { n.t.Error(err) }})
	n.check(err)
	hub := new(notify.Hub)
	n.machine, err = fsm.New(fsm.Config{Store: n.rows, Hub: hub, Fatal: func(err error) { n.t.Errorf("fatal: %v", err) }})
	n.check(err)
	n.replay()
	n.boxes, err = mailbox.New(mailbox.Config{Log: n, Store: n.rows, Hub: hub, Now: func() time.Time { return n.clock }, Level: func() uint32 { return n.level }})
	n.check(err)
	n.upkeep, err = newUpkeep(upkeepConfig{
		Pair: "pair1", Node: "a", Dir: n.dir, Log: n.log, Rows: n.rows, Machine: n.machine, Boxes: n.boxes,
		Logger:    slog.New(slog.DiscardHandler),
		Settings:  config.Upkeep{Rate: n.rate, CompactShare: 40, CompactAge: 30 * 24 * time.Hour, Undelete: time.Hour, DigestEvery: 10 * time.Minute},
		Snapshots: config.Snapshots{Every: 24 * time.Hour, Keep: 3},
		Propose:   func(ctx context.Context, data []byte) error { _, _, err := n.Propose(ctx, data); return err },
		Serving:   func() bool { return !n.barred && !n.follows }, Trim: func() error { return seglogtest.Trim(n.log, 2) },
		Bar: func(on bool) { n.barred = on }, Yield: func(context.Context) error { return nil },
		Peer: n.peer, Now: func() time.Time { return n.clock },
	})
	n.check(err)
}

func (n *node) replay() {
	last, err := n.log.LastIndex()
	n.check(err)
	for i := n.machine.Applied() + 1; i <= last; i++ {
		term, data, err := n.log.Command(i, nil)
		n.check(err)
		n.machine.Apply([]fsm.Entry{{Index: i, Term: term, Data: data}})
	}
}

func (n *node) stop() {
	n.upkeep.stop()
	n.machine.Close()
	n.check(n.rows.Close())
	n.check(n.log.Close())
}

// Propose implements mailbox.Log.
func (n *node) Propose(_ context.Context, data []byte) (any, uint64, error) {
	if n.group {
		return n.proposeTogether(data)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	index, err := seglogtest.Append(n.log, 1, n.clock, data)
	if err != nil {
		return nil, 0, err
	}
	return n.machine.Apply([]fsm.Entry{{Index: index, Term: 1, Data: data}})[0], index, nil
}

// waiter is a proposal on its way.
type waiter struct {
	data   []byte
	answer any
	index  uint64
	err    error
}

// proposeTogether stores all that waits in one batch, as a leader does.
func (n *node) proposeTogether(data []byte) (any, uint64, error) {
	w := &waiter{data: data}
	n.queue.Lock()
	n.waiting = append(n.waiting, w)
	n.queue.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue.Lock()
	batch := n.waiting
	n.waiting = nil
	n.queue.Unlock()
	if len(batch) == 0 { // another one took it along
		return w.answer, w.index, w.err
	}
	octets, entries := make([][]byte, len(batch)), make([]fsm.Entry, len(batch))
	for i, x := range batch {
		octets[i] = x.data
	}
	first, err := seglogtest.Append(n.log, 1, n.clock, octets...)
	for i, x := range batch {
		entries[i] = fsm.Entry{Index: first + uint64(i), Term: 1, Data: x.data}
		x.index, x.err = entries[i].Index, err
	}
	if err == nil {
		for i, answer := range n.machine.Apply(entries) {
			batch[i].answer = answer
		}
	}
	return w.answer, w.index, w.err
}

// Confirm implements mailbox.Log.
func (n *node) Confirm(context.Context) error { return nil }

// Fetch implements peer.
func (n *node) Fetch(_ context.Context, index uint64) ([]byte, error) {
	return n.log.ExportEntry(index, nil)
}

// Mark implements peer.
func (n *node) Mark(context.Context) (uint64, store.Sum, error) {
	index, sum := n.machine.Mark()
	return index, sum, nil
}

// mirror gives n all entries of another node.
func (n *node) mirror(from *node) {
	n.t.Helper()
	last, err := from.log.LastIndex()
	n.check(err)
	have, err := n.log.LastIndex()
	n.check(err)
	for i := have + 1; i <= last; i++ {
		b, err := from.log.ExportEntry(i, nil)
		n.check(err)
		e, err := seglog.ParseEntry(b)
		n.check(err)
		n.clock = e.AppendedAt
		_, _, err = n.Propose(context.Background(), e.Data)
		n.check(err)
	}
}

// text is a message of about a size that no other one equals.
func text(i, size int) []byte {
	return fmt.Appendf(nil, "From: ann@example.net\r\nSubject: message %d\r\n\r\n%s", i, strings.Repeat(fmt.Sprintf("body of %d. ", i), size/12+1))
}

func (n *node) deliver(account string, i, size int) {
	n.t.Helper()
	n.clock = n.clock.Add(time.Second)
	res, err := n.boxes.Deliver(context.Background(), &mailbox.Delivery{
		Message: text(i, size), Arrival: n.clock, Recipients: []mailbox.DeliveryRecipient{{Account: account}},
	})
	n.check(err)
	n.check(res[0].Err)
}

func (n *node) view(account, folder string) *mailbox.View {
	n.t.Helper()
	a, err := n.boxes.Account(context.Background(), account)
	n.check(err)
	v, err := a.Open(context.Background(), folder, false)
	n.check(err)
	return v
}

// expunge removes messages by their sequence numbers.
func (n *node) expunge(account string, drop func(uid uint32) bool) {
	n.t.Helper()
	v := n.view(account, "INBOX")
	defer v.Close()
	var uids []uint32
	for i := 1; i <= v.Len(); i++ {
		if drop(v.UID(i)) {
			uids = append(uids, v.UID(i))
		}
	}
	_, err := v.Expunge(context.Background(), uids, true)
	n.check(err)
}

// bodies reads every message of a folder, by UID.
func (n *node) bodies(account, folder string) map[uint32]string {
	n.t.Helper()
	v := n.view(account, folder)
	defer v.Close()
	out := map[uint32]string{}
	for i := 1; i <= v.Len(); i++ {
		n.check(v.Rows(context.Background(), []int{i}, func(_ int, w *mailbox.Row) error {
			c, err := v.Message(context.Background(), w)
			if err != nil {
				return err
			}
			defer c.Close()
			b, err := c.Bytes(context.Background(), 0, c.Size())
			out[w.UID] = string(b)
			return err
		}))
	}
	return out
}

func (n *node) logBytes() (sum int64) {
	for _, s := range n.log.Segments() {
		sum += s.Bytes
	}
	return sum
}

// do runs a task of an operator to its end.
func (n *node) do(in admin.UpkeepTask) admin.UpkeepJob {
	n.t.Helper()
	_, err := n.upkeep.start(in)
	n.check(err)
	n.upkeep.jobs.Wait()
	return n.upkeep.poll(in.Task)
}

func (n *node) mustDo(in admin.UpkeepTask) {
	n.t.Helper()
	if job := n.do(in); job.State != jobDone {
		n.t.Fatalf("%s: %+v", in.Task, job)
	}
}

const eva = "eva@example.org"

// filled is a node with n messages of 3 KB for eva, all in segments that are
// old.
func filled(t testing.TB, messages int) *node {
	n := newNode(t, t.TempDir())
	for i := range messages {
		n.deliver(eva, i, 3000)
	}
	return n
}

func TestCompactionGivesSpaceBack(t *testing.T) {
	n := filled(t, 200)
	if r, err := n.upkeep.compact(t.Context()); err != nil || r.Looked != 0 {
		t.Fatalf("compacted without a snapshot: %+v, %v", r, err)
	}
	_, err := n.upkeep.snapshot("", false)
	n.check(err)
	n.expunge(eva, func(uid uint32) bool { return uid%4 != 0 })
	n.clock = n.clock.Add(2 * time.Hour)
	for i := range 20 {
		n.deliver(eva, 1000+i, 3000)
	}
	want := n.bodies(eva, "INBOX")
	before := n.logBytes()
	if r, err := n.upkeep.compact(t.Context()); err != nil || r.Rewrote < 5 || r.Freed < before/3 {
		t.Fatalf("%+v of %d, %v", r, before, err)
	}
	for range 2 {
		got := n.bodies(eva, "INBOX")
		if len(got) != 70 {
			t.Errorf("%d messages", len(got))
		}
		for uid, body := range want {
			if got[uid] != body {
				t.Errorf("message %d differs", uid)
			}
		}
		n.stop()
		n.start()
	}
	// What the expunge made dead is there in the snapshot.
	n.mustDo(admin.UpkeepTask{Task: admin.TaskVerify, Name: n.snapshots()[0]})
}

// TestBusy: the more commands a replica applies, the slower is its upkeep, unless
// the disk is short of room.
func TestBusy(t *testing.T) {
	at, applied, short := time.Unix(1000, 0), uint64(500), false
	b := business{applied: func() uint64 { return applied }, short: func() bool { return short }, now: func() time.Time { return at }}
	for i, step := range []struct {
		after    time.Duration
		commands uint64
		short    bool
		want     int
	}{
		{0, 0, false, 1}, // the first look has nothing to compare with
		{time.Second, 49, false, 1},
		{time.Second, 51, false, 2},
		{busyOver / 2, 0, false, 2}, // not counted again so soon
		{busyOver / 2, 0, false, 1}, // both together are long enough
		{time.Minute, 2999, false, 1},
		{time.Minute, 30_000, false, 11},
		{time.Second, 749, false, mostSlower - 1},
		{time.Second, 100_000, false, mostSlower},
		{time.Second, 100_000, true, 1},
		{time.Second, 100, false, 3},
		{time.Hour, 0, false, 1},
	} {
		at, applied, short = at.Add(step.after), applied+step.commands, step.short
		if got := b.look(); got != step.want {
			t.Errorf("look %d: %d times slower, want %d", i, got, step.want)
		}
	}
}

// TestTasksBeside has a scrub under way that takes long: a second one is refused,
// a backup and a compaction are not.
func TestTasksBeside(t *testing.T) {
	n := &node{t: t, dir: t.TempDir(), clock: time.Now(), seg: 64 << 10, rate: 1}
	n.start()
	for i := range 3 {
		n.deliver(eva, i, 3<<20) // beyond what may be read at once, the rest takes weeks
	}
	_, err := n.upkeep.start(admin.UpkeepTask{Task: admin.TaskScrub})
	n.check(err)
	if _, err := n.upkeep.start(admin.UpkeepTask{Task: admin.TaskScrub}); !errors.Is(err, admin.ErrConflict) {
		t.Errorf("a second scrub: %v", err)
	}
	for _, task := range []string{admin.TaskSnapshot, admin.TaskCompact} {
		_, err := n.upkeep.start(admin.UpkeepTask{Task: task})
		n.check(err)
		if j := n.upkeep.poll(""); j.Task != task {
			t.Errorf("the newest task is %+v", j)
		}
		for n.upkeep.poll(task).State == jobRuns {
			time.Sleep(time.Millisecond)
		}
		if j := n.upkeep.poll(task); j.Task != task || j.State != jobDone {
			t.Errorf("%+v", j)
		}
	}
	if j := n.upkeep.poll(admin.TaskScrub); j.Task != admin.TaskScrub || j.State != jobRuns {
		t.Errorf("%+v", j)
	}
	n.stop()
}

func (n *node) snapshots() (names []string) {
	n.t.Helper()
	list, err := n.upkeep.list()
	n.check(err)
	for _, s := range list.Snapshots {
		names = append(names, s.Name)
	}
	return names
}

// TestCompactionByAge has one deleted message in a full segment go after a month.
func TestCompactionByAge(t *testing.T) {
	n := filled(t, 100)
	_, err := n.upkeep.snapshot("", false)
	n.check(err)
	n.expunge(eva, func(uid uint32) bool { return uid == 5 })
	secret := []byte("body of 4. body of 4.")
	n.clock = n.clock.Add(2 * time.Hour)
	n.deliver(eva, 500, 70_000)
	for day := range 33 {
		if day == 25 { // a restart does not begin the month again
			n.stop()
			n.start()
		}
		r, err := n.upkeep.compact(t.Context())
		n.check(err)
		if found := n.onDisk(secret); found != (day < 30) {
			t.Fatalf("day %d: deleted octets on the disk: %v; %+v", day, found, r)
		}
		n.clock = n.clock.Add(24 * time.Hour)
	}
}

func (n *node) onDisk(octets []byte) bool {
	names, err := filepath.Glob(filepath.Join(n.dir, "log", "*.seg"))
	n.check(err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		n.check(err)
		if strings.Contains(string(data), string(octets)) {
			return true
		}
	}
	return false
}

func TestScrubRepairsFromPeer(t *testing.T) {
	a := filled(t, 60)
	b := newNode(t, t.TempDir())
	b.seg = 100 << 10
	b.mirror(a)
	if _, err := a.upkeep.scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{7, 33} {
		a.check(seglogtest.Flip(filepath.Join(a.dir, "log"), fmt.Appendf(nil, "body of %d. body of %d. ", i, i)))
	}
	job := a.do(admin.UpkeepTask{Task: admin.TaskScrub})
	var st admin.GroupStatus
	a.upkeep.status(&st)
	if job.State != jobFailed || st.Upkeep.Scrub.Damaged != 2 || st.Upkeep.Scrub.Lost != 2 || len(st.Alarms) == 0 {
		t.Fatalf("without a peer: %+v, %+v", job, st.Upkeep)
	}
	a.stop()
	a.peer = b
	a.start()
	job = a.do(admin.UpkeepTask{Task: admin.TaskScrub})
	st = admin.GroupStatus{}
	a.upkeep.status(&st)
	if job.State != jobDone || st.Upkeep.Scrub.Repaired != 2 || len(st.Alarms) != 0 {
		t.Fatalf("with a peer: %+v, %+v, %v", job, st.Upkeep, st.Alarms)
	}
	for uid, body := range a.bodies(eva, "INBOX") {
		if body != string(text(int(uid)-1, 3000)) {
			t.Errorf("message %d differs", uid)
		}
	}
}

// liar gives other octets than the replica has, in a form that is well made.
type liar struct{ *node }

func (l liar) Fetch(_ context.Context, index uint64) ([]byte, error) {
	return l.log.ExportEntry(index-1, nil)
}

func TestScrubTakesNothingWrong(t *testing.T) {
	a := filled(t, 30)
	b := newNode(t, t.TempDir())
	b.mirror(a)
	a.check(seglogtest.Flip(filepath.Join(a.dir, "log"), []byte("body of 9. body of 9. ")))
	a.stop()
	a.peer = liar{b}
	a.start()
	if job := a.do(admin.UpkeepTask{Task: admin.TaskScrub}); job.State != jobFailed {
		t.Errorf("%+v", job)
	}
}

func TestBackupAndRestore(t *testing.T) {
	n := filled(t, 20)
	v := n.view(eva, "INBOX")
	_, err := v.Store(t.Context(), []uint32{3}, mailbox.StoreReplace, mailbox.FlagSeen|mailbox.FlagFlagged, []string{"$Forwarded", "work"}, nil)
	n.check(err)
	v.Close()
	big := t.TempDir()
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "monday", CopyTo: big})
	n.mustDo(admin.UpkeepTask{Task: admin.TaskVerify, Name: "monday"})
	n.expunge(eva, func(uint32) bool { return true })
	for name, bad := range map[string]admin.UpkeepTask{
		"no name": {Task: admin.TaskRestore}, "no account": {Task: admin.TaskRestore, Name: "monday", Restore: &admin.Restore{}},
		"messages of no folder": {Task: admin.TaskRestore, Name: "monday", Restore: &admin.Restore{Account: eva, UIDs: []uint32{1}}},
		"unknown":               {Task: "dance"}, "relative": {Task: admin.TaskSnapshot, CopyTo: "here"},
	} {
		if _, err := n.upkeep.start(bad); !errors.Is(err, admin.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, missing := range map[string]*admin.Restore{
		"account": {Account: "nobody@example.org"}, "folder": {Account: eva, Folder: "None"},
		"message": {Account: eva, Folder: "INBOX", UIDs: []uint32{3, 99}, To: "Partly"},
	} {
		if job := n.do(admin.UpkeepTask{Task: admin.TaskRestore, Name: "monday", Restore: missing}); job.State != jobFailed {
			t.Errorf("%s that is not there: %+v", name, job)
		}
	}

	n.mustDo(admin.UpkeepTask{Task: admin.TaskRestore, Name: "monday", Restore: &admin.Restore{Account: eva, Folder: "INBOX", UIDs: []uint32{3}, To: "Found"}})
	found := n.view(eva, "Found")
	defer found.Close()
	n.check(found.Rows(t.Context(), []int{1}, func(_ int, w *mailbox.Row) error {
		want := mailbox.FlagSeen | mailbox.FlagFlagged
		if w.Flags&31 != want || !time.Unix(0, w.InternalDate).Before(n.clock.Add(-10*time.Second)) {
			t.Errorf("row %+v", w)
		}
		return nil
	}))
	if found.Len() != 1 || strings.Join(found.Keywords(), " ") != "$Forwarded work" {
		t.Errorf("%d messages with keywords %v", found.Len(), found.Keywords())
	}
	n.mustDo(admin.UpkeepTask{Task: admin.TaskRestore, Name: "monday", Restore: &admin.Restore{Account: eva}})
	if got := n.bodies(eva, "Restored/INBOX"); len(got) != 20 || got[1] != string(text(0, 3000)) {
		t.Errorf("%d messages restored", len(got))
	}
	n.mustDo(admin.UpkeepTask{Task: admin.TaskRestore, Name: "monday", Restore: &admin.Restore{Account: eva, Folder: "INBOX", Into: "ann@example.org", To: "From eva"}})
	if got := n.bodies("ann@example.org", "From eva"); len(got) != 20 {
		t.Errorf("%d messages restored to another account", len(got))
	}
	c, err := n.upkeep.content(&admin.BackupQuery{Name: "monday", Account: eva, Folder: "INBOX", After: 2, Limit: 3})
	n.check(err)
	if len(c.Messages) != 3 || c.Messages[0].Subject != "message 2" || c.Messages[0].From != "ann@example.net" || !c.More {
		t.Errorf("content %+v", c)
	}
	if c, err = n.upkeep.content(&admin.BackupQuery{Name: "monday", Account: eva}); err != nil || len(c.Mailboxes) == 0 || c.Mailboxes[0].Messages != 20 {
		t.Errorf("folders %+v, %v", c, err)
	}
	n.mustDo(admin.UpkeepTask{Task: admin.TaskRemove, Name: "monday"})
	if len(n.snapshots()) != 0 {
		t.Error("the snapshot is still there")
	}
	// The copy elsewhere has octets of its own.
	restored := filepath.Join(t.TempDir(), "again")
	n.check(restoreWhole(t.Context(), filepath.Join(big, "monday"), restored))
	again := newNode(t, restored)
	if got := again.bodies(eva, "INBOX"); len(got) != 20 || got[20] != string(text(19, 3000)) {
		t.Errorf("%d messages in the pair that was restored", len(got))
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"a body": func(dir string) error {
			return seglogtest.Flip(filepath.Join(dir, "log"), []byte("body of 3. body of 3."))
		},
		"a row": func(dir string) error {
			names, err := filepath.Glob(filepath.Join(dir, "meta", "*.sst"))
			if err != nil || len(names) == 0 {
				return errors.Join(err, errors.New("no tables"))
			}
			return os.Truncate(names[0], 100)
		},
		"a file": func(dir string) error {
			names, err := filepath.Glob(filepath.Join(dir, "log", "*.seg"))
			if err == nil {
				err = os.Remove(names[0])
			}
			return err
		},
		"the description": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "snapshot.json"), []byte(`{"version":1,"name":`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := filled(t, 10)
			out := t.TempDir()
			n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "s", CopyTo: out})
			dir := filepath.Join(n.dir, "snapshots", "s")
			n.check(os.RemoveAll(dir))
			n.check(os.Rename(filepath.Join(out, "s"), dir))
			n.check(harm(dir))
			if job := n.do(admin.UpkeepTask{Task: admin.TaskVerify, Name: "s"}); job.State != jobFailed {
				t.Errorf("%+v", job)
			}
		})
	}
}

func TestSnapshotsArePruned(t *testing.T) {
	n := filled(t, 3)
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "mine"})
	for i := range 6 {
		n.deliver(eva, 100+i, 10)
		_, err := n.upkeep.snapshot("", false)
		n.check(err)
	}
	n.check(os.MkdirAll(filepath.Join(n.dir, "snapshots", "half", "meta"), 0o700))
	n.check(n.upkeep.keeper.Prune(3))
	if names := n.snapshots(); len(names) != 4 || names[0] != "mine" {
		t.Errorf("snapshots %v", names)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "snapshots", "half")); !errors.Is(err, os.ErrNotExist) {
		t.Error("what a crash left is still there")
	}
	for _, bad := range []string{"..", "a/b", "", ".x", strings.Repeat("x", 70)} {
		if err := n.upkeep.keeper.Remove(bad); err == nil {
			t.Errorf("removed %q", bad)
		}
	}
}
