package fsm

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/backend/command"
	"github.com/postern-mail/postern/backend/notify"
	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/backend/store/storetest"
)

var seedsFlag = flag.Uint64("seeds", 0, "histories of each kind to try, instead of 2, or 16 in a nightly run")

func seeds() uint64 {
	switch {
	case *seedsFlag > 0:
		return *seedsFlag
	case nightly():
		return 16
	}
	return 2
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is one state machine on a disk in memory.
type replica struct {
	t    testing.TB
	disk *storetest.Disk
	rows *store.Store
	*FSM
}

func start(t testing.TB, disk *storetest.Disk, cfg Config) *replica {
	t.Helper()
	return startSized(t, disk, cfg, 256<<10)
}

func startSized(t testing.TB, disk *storetest.Disk, cfg Config, memTable int) *replica {
	t.Helper()
	rows, err := store.Open("meta", nil, store.Options{FS: disk.FS(), MemTableSize: memTable, OnDiskFailure: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Store = rows
	if cfg.Fatal == nil {
		cfg.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &replica{t, disk, rows, f}
}

func (r *replica) stop() {
	r.t.Helper()
	r.FSM.Close()
	if err := r.rows.Close(); err != nil {
		r.t.Error(err)
	}
}

// newReplica is one whose rows stay in memory: with the race detector pebble
// records the stack of each reader of a file.
func newReplica(t testing.TB) *replica {
	r := startSized(t, storetest.NewDisk(), Config{Hub: new(notify.Hub)}, 32<<20)
	t.Cleanup(r.stop)
	return r
}

// do applies one command as the next entry.
func (r *replica) do(c command.Command) any {
	r.t.Helper()
	return r.Apply([]Entry{{Index: r.Applied() + 1, Term: 1, Data: command.Append(nil, c)}})[0]
}

// check verifies the rows and returns the digest.
func (r *replica) check() store.Sum {
	r.t.Helper()
	sum, err := r.rows.Verify()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, digest := r.Digest(); digest != sum {
		r.t.Fatalf("digest %v, of the rows %v", digest, sum)
	}
	return sum
}

const t0 = int64(1_700_000_000_000_000_000)

func body(n, size int) command.Message {
	m := command.Message{Size: int64(size), Meta: fmt.Appendf(nil, "meta of %d", n)}
	m.Hash[0], m.Hash[1] = byte(n), byte(n>>8)
	if size > 0 {
		m.Body = []command.Extent{{Len: uint32(size)}}
	}
	return m
}

func key(n int) command.Key { return command.Key{0xff, byte(n), byte(n >> 8), byte(n >> 16)} }

// delivery is a Deliver of message n to accounts.
func delivery(n, size int, now int64, to ...command.Recipient) *command.Deliver {
	return &command.Deliver{
		Head: command.Head{Time: now, Tail: make([]byte, size)}, Seed: 1000, KeyLife: int64(8 * 24 * time.Hour),
		InternalDate: now - 5, Message: body(n, size), Recipients: to,
	}
}

// history is a run of entries of every kind, made by applying them.
func history(t testing.TB, seed uint64, n int) []Entry {
	g := &generator{rng: rand.New(rand.NewPCG(seed, 1)), r: start(t, storetest.NewDisk(), Config{}), now: t0}
	defer g.r.stop()
	var entries []Entry
	for len(entries) < n {
		e := Entry{Index: uint64(len(entries) + 1), Term: 1, Data: command.Append(nil, g.next())}
		entries = append(entries, e)
		ans := g.r.Apply([]Entry{e})[0]
		if err, ok := ans.(error); ok {
			t.Fatal(err)
		}
		g.learn(e, ans)
	}
	g.r.check()
	return entries
}

// generator makes commands that mostly make sense.
type generator struct {
	rng    *rand.Rand
	r      *replica
	now    int64
	n      int
	parts  []command.Extent
	openID uint64 // message that another entry may name
	open   command.Message
}

func (g *generator) pick(n int) int { return g.rng.IntN(n) }

func (g *generator) account() *account {
	for range 50 {
		a, err := g.r.lookup(fmt.Sprintf("u%d@x", g.pick(4)))
		if err != nil {
			g.r.t.Fatal(err)
		}
		if a != nil {
			return a
		}
	}
	return &account{Account: store.Account{ID: 99}, boxes: []*mailbox{{Mailbox: store.Mailbox{Name: inbox}}}}
}

var boxNames = []string{"INBOX", "Archive", "Trash", "a", "a/b", "a/b/c", "d", "e/f", "Sent"}

func (g *generator) name() string { return boxNames[g.pick(len(boxNames))] }

func (g *generator) box(a *account) *mailbox {
	for range 20 {
		if m := a.box(g.name()); m != nil && (m.n.Messages > 0 || g.pick(4) == 0) {
			return m
		}
	}
	return &mailbox{Mailbox: store.Mailbox{ID: 12345}}
}

func (g *generator) uids(m *mailbox) command.UIDSet {
	if g.pick(6) == 0 {
		return everything
	}
	var set command.UIDSet
	for uid := uint32(1); uid < m.n.UIDNext+2; uid++ {
		if g.pick(3) == 0 {
			set = set.Add(uid)
		}
	}
	return set
}

func (g *generator) keywords() []string {
	var list []string
	for range g.pick(3) {
		list = append(list, fmt.Sprintf("$K%d", g.pick(70)))
	}
	return list
}

func (g *generator) recipient() command.Recipient {
	rc := command.Recipient{Account: fmt.Sprintf("u%d@x", g.pick(4)), Flags: uint64(g.pick(32)), Force: g.pick(10) == 0}
	if g.pick(3) == 0 {
		rc.Folder, rc.Create = g.name(), g.pick(2) == 0
		if g.pick(2) == 0 {
			rc.Poster = []string{fmt.Sprintf("u%d@x", g.pick(4)), "team@x"}[:1+g.pick(2)]
		}
	}
	if g.pick(2) == 0 {
		rc.Key = key(g.n - g.pick(5)*g.pick(2))
		rc.Key[4] = rc.Account[1]
	}
	if g.pick(8) == 0 {
		rc.Limit = &command.Limit{Bytes: int64(g.pick(20_000)), Messages: -1, Stamp: fmt.Sprint(g.pick(9))}
	}
	rc.Keywords = g.keywords()
	if g.pick(3) == 0 {
		rc.Autoreply = &command.Autoreply{Hash: command.Hash{byte(g.pick(8))}, Seconds: uint32(g.pick(4)) * 86_400, Only: g.pick(4) == 0}
		switch a := rc.Autoreply; {
		case g.pick(2) == 0:
			a.Later = true
		case g.pick(2) == 0:
			a.Only, a.By = true, command.Key{byte(1 + g.pick(3))}
		}
	}
	return rc
}

func (g *generator) next() command.Command {
	g.n++
	g.now += int64(g.pick(1000)) * int64(time.Millisecond)
	if g.pick(20) == 0 {
		g.now += int64(g.pick(5)) * int64(24*time.Hour)
	}
	head := command.Head{Time: g.now}
	a := g.account()
	m := g.box(a)
	if g.pick(16) == 0 {
		return g.moving(head)
	}
	if g.pick(20) == 0 {
		ids := []string{command.Anyone, "u0@x", "u1@x", "team@x", "-u2@x", "-team@x"}
		return &command.Rights{
			Head: head, Account: a.ID, Name: g.name(), Identifier: ids[g.pick(len(ids))], Action: command.StoreOp(g.pick(3)),
			Rights: command.RightPost * command.Right(g.pick(2)), Owners: g.pick(2) == 0,
		}
	}
	switch op := g.pick(100); {
	case op < 35:
		c := delivery(g.n-g.pick(2), g.pick(500), g.now)
		for range 1 + g.pick(3) {
			rc := g.recipient()
			c.Recipients = append(c.Recipients, rc)
			c.Compact = c.Compact || rc.Poster != nil || rc.Autoreply != nil && (rc.Autoreply.Later || rc.Autoreply.Only)
		}
		c.Owners = c.Compact && g.pick(4) == 0
		if g.openID != 0 && g.pick(2) == 0 {
			c.Message, c.Tail = g.open, nil
		}
		return c
	case op < 40:
		head.Tail = make([]byte, 1+g.pick(300))
		return &command.Part{Head: head}
	case op < 50:
		c := &command.AppendMessages{Head: head, Account: a.ID, Name: g.name()}
		for range g.pick(4) {
			in := command.Appended{Message: body(g.n, g.pick(200)), InternalDate: g.now, Flags: uint64(g.pick(32)), Keywords: g.keywords()}
			for i := range in.Message.Body {
				in.Message.Body[i].Off = uint32(len(c.Tail))
			}
			c.Tail = append(c.Tail, make([]byte, in.Message.Size)...)
			if len(g.parts) > 0 && g.pick(2) == 0 {
				in.Message.Body = append(in.Message.Body, g.parts...)
				for _, x := range g.parts {
					in.Message.Size += int64(x.Len)
				}
				g.parts = nil
			}
			c.Messages = append(c.Messages, in)
		}
		return c
	case op < 65:
		return &command.Store{
			Head: head, Account: a.ID, Mailbox: m.ID, UIDs: g.uids(m), Action: command.StoreOp(g.pick(3)), Flags: uint64(g.pick(32)),
			Keywords: g.keywords(), Conditional: g.pick(4) == 0, Unchanged: uint64(g.pick(30)),
		}
	case op < 73:
		return &command.Expunge{Head: head, Account: a.ID, Mailbox: m.ID, UIDs: g.uids(m), Force: g.pick(4) == 0}
	case op < 83:
		return &command.Copy{Head: head, Account: a.ID, Mailbox: m.ID, UIDs: g.uids(m), To: g.name(), Move: g.pick(2) == 0}
	case op < 87:
		return &command.Create{Head: head, Account: a.ID, Name: g.name(), SpecialUse: command.Use(g.pick(8))}
	case op < 90:
		return &command.Delete{Head: head, Account: a.ID, Name: g.name(), Limit: uint32(g.pick(20))}
	case op < 93:
		return &command.Rename{Head: head, Account: a.ID, From: g.name(), To: g.name()}
	case op < 95:
		return &command.Subscribe{Head: head, Account: a.ID, Name: g.name(), On: g.pick(2) == 0}
	case op < 97:
		return &command.Quota{Head: head, Account: fmt.Sprintf("u%d@x", g.pick(4)), Limit: command.Limit{Bytes: int64(g.pick(50_000)) - 1, Messages: int64(g.pick(100)) - 1, Stamp: fmt.Sprint(g.pick(9))}}
	case op < 98 && g.pick(2) == 0:
		return &command.Remove{Head: head, Account: a.ID, Limit: uint32(g.pick(40))}
	case op < 98:
		return &command.Account{Head: head, Name: fmt.Sprintf("u%d@x", g.pick(4)), Seed: uint32(g.pick(1000))}
	}
	return &command.Digest{Head: head}
}

// learn keeps what later commands can refer to.
func (g *generator) learn(e Entry, ans any) {
	switch ans := ans.(type) {
	case *command.Done:
		if command.Peek(e.Data) == command.OpPart && len(g.parts) < 3 {
			c, _ := command.Decode(e.Data)
			n := len(c.(*command.Part).Tail)
			g.parts = append(g.parts, command.Extent{Index: e.Index, Off: uint32(len(e.Data) - n), Len: uint32(n)})
		}
	case *command.Delivered:
		c, _ := command.Decode(e.Data)
		d := c.(*command.Deliver)
		if d.Message.ID != 0 {
			g.openID = 0
			return
		}
		g.open, g.openID = d.Message, ans.Message
		g.open.ID = ans.Message
		for i := range g.open.Body {
			g.open.Body[i].Index, g.open.Body[i].Off = e.Index, uint32(len(e.Data)-len(d.Tail))
		}
	}
}

// TestReplicasAgree feeds the same entries in different batches: the digest
// after each entry is the same.
func TestReplicasAgree(t *testing.T) {
	for seed := range seeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			entries := history(t, seed, 1500)
			digests := make(map[uint64]store.Sum)
			one := newReplica(t)
			for _, e := range entries {
				one.Apply([]Entry{e})
				index, sum := one.Digest()
				digests[index] = sum
			}
			one.check()
			rng := rand.New(rand.NewPCG(seed, 2))
			// A small cache forgets accounts all the time.
			two := start(t, storetest.NewDisk(), Config{Accounts: 2})
			defer two.stop()
			for at := 0; at < len(entries); {
				n := min(1+rng.IntN(64), len(entries)-at)
				two.Apply(entries[at : at+n])
				at += n
				if index, sum := two.Digest(); sum != digests[index] {
					t.Fatalf("digest at %d differs with another batching", index)
				}
			}
			if two.check() != digests[uint64(len(entries))] {
				t.Error("digests differ")
			}
			if one.State() != two.State() {
				t.Errorf("states differ:\n%+v\n%+v", one.State(), two.State())
			}
		})
	}
}

// TestCrash cuts the power at many places, replays the log from the applied
// index that is found, and compares with a replica that never crashed.
func TestCrash(t *testing.T) {
	for seed := range seeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			entries := history(t, 100+seed, 1200)
			digests := make(map[uint64]store.Sum)
			whole := newReplica(t)
			for _, e := range entries {
				whole.Apply([]Entry{e})
				index, sum := whole.Digest()
				digests[index] = sum
			}
			rng := rand.New(rand.NewPCG(seed, 3))
			r := start(t, storetest.NewDisk(), Config{})
			crashes, lost, seen := 0, 0, 0
			for at := 0; at < len(entries); {
				n := min(1+rng.IntN(32), len(entries)-at)
				r.Apply(entries[at : at+n])
				at += n
				seen = max(seen, at)
				if rng.IntN(4) == 0 {
					if index, err := r.Flush(); err != nil || index != uint64(seen) {
						t.Fatal(index, err)
					}
				}
				if rng.IntN(3) > 0 {
					continue
				}
				after := r.disk.Crash(rng.IntN(101), rng.Uint64())
				r.stop() // what it still writes does not reach the disk of the clone
				r = start(t, after, Config{})
				crashes++
				index, sum := r.Digest()
				if index > uint64(seen) || sum != digests[index] {
					t.Fatalf("crash %d: found index %d of %d with a digest that was never there", crashes, index, at)
				}
				r.check()
				lost += seen - int(index)
				at, seen = int(index), int(index)
				if rng.IntN(3) == 0 { // the log may begin before what is lost
					at = rng.IntN(at + 1)
				}
			}
			if r.check() != digests[uint64(len(entries))] {
				t.Error("the digest differs from that of a replica that did not crash")
			}
			r.stop()
			if crashes < 5 || lost == 0 {
				t.Errorf("%d crashes lost %d entries: the test tests nothing", crashes, lost)
			}
		})
	}
}
