package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

const rootID = "0root000000000000000000000"

// ofRoot is a message of the root: addresses outside, and lists to be expanded.
func ofRoot(id string, parent Parent, to ...string) *Item {
	it := &Item{Envelope: mail.Envelope{QueueID: id, RootID: rootID, Origin: "r1"}, Parent: parent}
	for _, name := range to {
		r := Recipient{Recipient: mail.Recipient{Address: mail.Address{Local: name, Domain: "x.test"}, Channel: mail.ChannelSMTP, Key: mail.NewDeliveryKey("r1", rootID, name)}}
		if name[0] == 'l' {
			r.Channel = mail.ChannelReprocess
		}
		it.Recipients = append(it.Recipients, r)
	}
	return it
}

func names(it *Item) (out []string) {
	for i := range it.Recipients {
		out = append(out, it.Recipients[i].Address.Local)
	}
	return out
}

// lists is what lists have. The directory may change after a crash.
type lists map[string][]string

// step does what a relay does with a queue until nothing is left in it, or the
// disk dies: lists become messages, under ids made of where they come from, and
// messages go out once what they came of has ended. out says by which messages
// an address was sent to.
func step(q *Queue, l lists, out map[string]map[string]bool) error {
	for {
		items := map[string]*Item{}
		if err := q.Scan(context.Background(), func(it *Item) error { items[it.ID()] = it; return nil }); err != nil {
			return err
		}
		if len(items) == 0 {
			return nil
		}
		for _, id := range slices.Sorted(maps.Keys(items)) {
			it := items[id]
			if p := items[it.Parent.ID]; p != nil && it.Parent.Open(p) {
				continue
			}
			for _, r := range slices.Clone(it.Recipients) {
				if r.Channel != mail.ChannelReprocess {
					sent := out[r.Address.Local]
					if sent == nil {
						sent = map[string]bool{}
						out[r.Address.Local] = sent
					}
					sent[id] = true
				} else {
					child := ofRoot("0"+r.Address.Local+id[:20], Parent{ID: id, Key: r.Key}, l[r.Address.Local]...)
					if err := q.Submit(context.Background(), nil, child, []byte("m")); err != nil && !errors.Is(err, ErrExists) {
						return err
					}
				}
				it.Leave(it.Find(r.Key))
				if len(it.Recipients) > 0 {
					if err := q.Update(it, true); err != nil {
						return err
					}
				} else if err := q.Remove(it, true); err != nil {
					return err
				}
				items[id] = it
			}
		}
	}
}

// files counts what is left of recipients in the queue's directory.
func files(t *testing.T, fsys fsx.FS) (n int) {
	t.Helper()
	names, err := fsys.ReadDir("/q/" + rootID[:1])
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, ext := splitName(name); ext == givenExt {
			n++
		}
	}
	return n
}

// One address outside, reached by the message itself, by two lists, by a list in
// one of them and by what continues it, gets one copy, whenever the power is cut;
// and one although the directory is another one after it.
func TestOutsideOnce(t *testing.T) {
	before := lists{"la": {"x", "y", "lc", "ld"}, "lb": {"x", "y", "z"}, "lc": {"x", "w"}, "ld": {"z", "w"}}
	after := maps.Clone(before)
	after["la"] = []string{"y", "lc", "ld"} // x has left two of them
	after["lc"] = []string{"w"}
	start := func(fs *faultfs.FS, out map[string]map[string]bool) (accepted bool) {
		q, err := Open(Config{Dir: "/q", FS: fs})
		if err != nil {
			return false
		}
		defer q.Close()
		if q.Scan(context.Background(), func(*Item) error { return nil }) != nil {
			return false
		}
		if q.Submit(context.Background(), nil, ofRoot(rootID, Parent{}, "v", "la", "lb"), []byte("m")) != nil {
			return false
		}
		_ = step(q, before, out)
		return true
	}
	whole := faultfs.New(1)
	if out := map[string]map[string]bool{}; !start(whole, out) || len(out) != 5 || files(t, whole) != 0 {
		t.Fatalf("%v, %d files", out, files(t, whole))
	}
	states := 0
	for at := 1; at <= whole.Ops(); at++ {
		for seed := range uint64(4) {
			fs, out := faultfs.New(1), map[string]map[string]bool{}
			fs.CrashAfter(at)
			accepted := start(fs, out)
			disk := fs.Crash(seed)
			states++
			q, err := Open(Config{Dir: "/q", FS: disk})
			if err != nil {
				t.Fatal(err)
			}
			l := []lists{before, after}[seed%2]
			if err := step(q, l, out); err != nil {
				t.Fatalf("cut after %d, state %d: %v", at, seed, err)
			}
			q.Close()
			for _, name := range []string{"v", "w", "x", "y", "z"} {
				if n := len(out[name]); n > 1 || accepted && n == 0 {
					t.Errorf("cut after %d, state %d: %s was sent to by %v", at, seed, name, out[name])
				}
			}
			if n := files(t, disk); n != 0 {
				t.Errorf("cut after %d, state %d: %d files are left", at, seed, n)
			}
		}
	}
	t.Logf("%d states", states)
}

// A message whose recipients get different octets is several, of which one may have
// lists that lead to a recipient of another.
func TestOutsideBeside(t *testing.T) {
	q := open(t, Config{Dir: "/q", FS: faultfs.New(1)})
	if err := q.Scan(t.Context(), func(*Item) error { return nil }); err != nil {
		t.Fatal(err)
	}
	submit := func(it *Item) []string {
		t.Helper()
		if err := q.Submit(t.Context(), nil, it, []byte("m")); err != nil {
			t.Fatal(err)
		}
		return names(it)
	}
	root := ofRoot(rootID, Parent{}, "la")
	submit(root)
	other := ofRoot("0beside0000000", Parent{}, "x", "y")
	other.Beside = true
	if got := submit(other); len(got) != 2 {
		t.Errorf("beside: %v", got)
	}
	if got := submit(ofRoot("0child00000000", Parent{ID: rootID, Key: root.Recipients[0].Key}, "z", "y", "x")); !slices.Equal(got, []string{"z"}) {
		t.Errorf("by the list: %v", got)
	}
}

// What is the last that can come of its root needs no file: ordinary mail, a
// forward, a report.
func TestOutsideAlone(t *testing.T) {
	fs := faultfs.New(1)
	q := open(t, Config{Dir: "/q", FS: fs})
	if err := q.Scan(t.Context(), func(*Item) error { return nil }); err != nil {
		t.Fatal(err)
	}
	submit := func(it *Item, want int) {
		t.Helper()
		if err := q.Submit(t.Context(), nil, it, []byte("m")); err != nil {
			t.Fatal(err)
		}
		if n := files(t, fs); n != want {
			t.Errorf("%s: %d files, want %d", it.ID(), n, want)
		}
	}
	submit(ofRoot("0plain00000000", Parent{}, "x"), 0)
	root := ofRoot(rootID, Parent{}, "la")
	submit(root, 0)
	submit(ofRoot("0child00000000", Parent{ID: rootID, Key: root.Recipients[0].Key}, "x"), 0)
	if err := q.Remove(root, true); err != nil {
		t.Fatal(err)
	}
	submit(ofRoot("0report0000000", Parent{ID: "0child00000000"}, "x"), 0)
	// With a second list it does.
	root = ofRoot(rootID, Parent{}, "la", "lb")
	submit(root, 0)
	submit(ofRoot("0second0000000", Parent{ID: rootID, Key: root.Recipients[0].Key}, "x", "y"), 1)
	third := ofRoot("0third00000000", Parent{ID: rootID, Key: root.Recipients[1].Key}, "z", "y", "x")
	submit(third, 1)
	if got := names(third); !slices.Equal(got, []string{"z"}) {
		t.Errorf("%v", got)
	}
	none := ofRoot("0fourth0000000", Parent{ID: rootID, Key: root.Recipients[1].Key}, "z", "y", "x")
	submit(none, 1)
	if _, err := q.Load(none.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a message without recipients: %v", err)
	}
	if err := q.Remove(root, true); err != nil || files(t, fs) != 0 {
		t.Errorf("%v, %d files are left", err, files(t, fs))
	}
}

// A message that could not be queued takes nobody's copy away.
func TestOutsideUnqueued(t *testing.T) {
	fs := faultfs.New(1)
	q := open(t, Config{Dir: "/q", FS: fs})
	root := ofRoot(rootID, Parent{}, "la", "lb")
	if err := q.Submit(t.Context(), nil, root, []byte("m")); err != nil {
		t.Fatal(err)
	}
	p := Parent{ID: rootID, Key: root.Recipients[0].Key}
	fs.FailNext(faultfs.Rename, 1, errors.New("cannot rename"))
	if err := q.Submit(t.Context(), nil, ofRoot("0child00000000", p, "x"), []byte("m")); err == nil {
		t.Fatal("queued")
	}
	p.Key = root.Recipients[1].Key
	other := ofRoot("0other00000000", p, "x")
	if err := q.Submit(t.Context(), nil, other, []byte("m")); err != nil || len(other.Recipients) != 1 {
		t.Errorf("%v, %v", err, names(other))
	}
	p.Key = root.Recipients[0].Key
	again := ofRoot("0child00000000", p, "x", "y")
	if err := q.Submit(t.Context(), nil, again, []byte("m")); err != nil || !slices.Equal(names(again), []string{"y"}) {
		t.Errorf("%v, %v", err, names(again))
	}
}

// FuzzGiven: whatever the file of recipients holds, reading it ends, and what
// was written before is found.
func FuzzGiven(f *testing.F) {
	whole := func(tb testing.TB) []byte {
		fsys := faultfs.New(1)
		q, err := Open(Config{Dir: "/q", FS: fsys})
		if err != nil {
			tb.Fatal(err)
		}
		defer q.Close()
		for i := range 3 {
			it := ofRoot(fmt.Sprintf("0child%08d", i), Parent{ID: rootID}, fmt.Sprint("x", i), "y", "la")
			if err := q.Submit(context.Background(), nil, it, []byte("m")); err != nil {
				tb.Fatal(err)
			}
		}
		b, err := fsx.ReadFile(fsys, "/q/0/"+rootID+givenExt)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	good := whole(f)
	f.Add([]byte{})
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Fuzz(func(t *testing.T, tail []byte) {
		fsys := faultfs.New(1)
		if err := fsx.MkdirAllSync(fsys, "/q/0", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := fsx.WriteFileAtomic(fsys, "/q/0/"+rootID+givenExt, append(bytes.Clone(good), tail...)); err != nil {
			t.Fatal(err)
		}
		q, err := Open(Config{Dir: "/q", FS: fsys})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		it := ofRoot("0again00000000", Parent{ID: rootID}, "x0", "x1", "x2", "y")
		c, err := q.claim(it)
		if err != nil {
			t.Fatal(err)
		}
		c.done(false)
		// 'q' stands behind each of the three, unless the tail says otherwise.
		if !bytes.Contains(tail, []byte{blockClaims}) && len(it.Recipients) != 0 {
			t.Errorf("%v", names(it))
		}
	})
}
