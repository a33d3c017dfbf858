package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/store"
	"github.com/postern-mail/postern/cmd/internal/reconstruct"
	"github.com/postern-mail/postern/ha/replica/voter"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/fsx"
)

const memberID = "0123456789abcdef"

// TestReconstruct damages the rows of a replica that has a snapshot, or none,
// in different ways and has them made anew.
func TestReconstruct(t *testing.T) {
	harms := map[string]func(meta string) error{
		"nothing":  func(string) error { return nil },
		"the rows": os.RemoveAll,
		"a table": func(meta string) error {
			return eachFile(meta, "*.sst", func(f string) error { return os.Truncate(f, 50) })
		},
		"the list of them": func(meta string) error {
			return eachFile(meta, "MANIFEST-*", func(f string) error { return os.Truncate(f, 10) })
		},
	}
	for name, harm := range harms {
		for _, snapshots := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, snapshots %v", name, snapshots), func(t *testing.T) {
				n := filled(t, 30)
				n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
				if snapshots {
					n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot})
				}
				n.expunge(eva, func(uid uint32) bool { return uid%2 == 0 })
				for i := range 10 {
					n.deliver(eva, 100+i, 500)
				}
				want := n.bodies(eva, "INBOX")
				index, digest := n.machine.Digest()
				n.stop()
				defer n.start()
				n.check(harm(filepath.Join(n.dir, "meta")))

				o := reconstruct.Options{Dir: n.dir}
				r, err := reconstruct.Run(t.Context(), o)
				n.check(err)
				broken := name != "nothing"
				if snapshots != (r.Snapshot != "") {
					t.Fatalf("made from another source: %+v", r)
				}
				if (r.Fault != "") != broken || r.Repaired || !broken && r.New != digest.String() {
					t.Fatalf("check: %+v", r)
				}
				o.Repair = true
				if r, err = reconstruct.Run(t.Context(), o); err != nil || r.Repaired != broken {
					t.Fatalf("repair: %+v, %v", r, err)
				}
				if r, err = reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir}); err != nil || r.Fault != "" {
					t.Fatalf("check after the repair: %+v, %v", r, err)
				}
				n.start()
				if at, sum := n.machine.Digest(); at != index || sum != digest {
					t.Errorf("digest %v at %d, was %v at %d", sum, at, digest, index)
				}
				if got := n.bodies(eva, "INBOX"); len(got) != len(want) {
					t.Errorf("%d messages, want %d", len(got), len(want))
				}
				n.stop()
			})
		}
	}
}

// TestReconstructCompacted loses the rows of a replica whose log has been
// compacted: they are made anew from a snapshot that is older than the compaction,
// and from one that is newer. The last snapshot of such a log cannot be removed.
func TestReconstructCompacted(t *testing.T) {
	n := filled(t, 200)
	n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "older"})
	n.expunge(eva, func(uid uint32) bool { return uid%4 != 0 })
	n.clock = n.clock.Add(2 * time.Hour)
	for i := range 20 {
		n.deliver(eva, 1000+i, 3000)
	}
	if r, err := n.upkeep.compact(t.Context()); err != nil || r.Rewrote < 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	lose := func(from string) {
		t.Helper()
		want := n.bodies(eva, "INBOX")
		index, digest := n.machine.Digest()
		n.stop()
		n.check(os.RemoveAll(filepath.Join(n.dir, "meta")))
		r, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir, Repair: true})
		if err != nil || !r.Repaired || r.Snapshot != from {
			t.Fatalf("%+v, %v", r, err)
		}
		n.start()
		if at, sum := n.machine.Digest(); at != index || sum != digest {
			t.Errorf("from %s: digest %v at %d, was %v at %d", from, sum, at, digest, index)
		}
		if got := n.bodies(eva, "INBOX"); !maps.Equal(got, want) {
			t.Errorf("from %s: %d messages, want %d", from, len(got), len(want))
		}
	}
	lose("older")
	if job := n.do(admin.UpkeepTask{Task: admin.TaskRemove, Name: "older"}); job.State != jobFailed || !strings.Contains(job.Error, "last snapshot") {
		t.Errorf("the last snapshot is removed: %+v", job)
	}
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot, Name: "newer"})
	n.mustDo(admin.UpkeepTask{Task: admin.TaskRemove, Name: "older"})
	if _, err := n.upkeep.compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.deliver(eva, 5000, 3000)
	lose("newer")
}

func eachFile(dir, pattern string, f func(string) error) error {
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if len(names) == 0 {
		err = errors.Join(err, errors.New("no "+pattern))
	}
	for _, name := range names {
		err = errors.Join(err, f(name))
	}
	return err
}

// TestReconstructSaysWhatDiffers gives a replica rows that are consistent and
// not its own.
func TestReconstructSaysWhatDiffers(t *testing.T) {
	a := filled(t, 10)
	a.check(voter.WriteID(fsx.OS, a.dir, "pair1", memberID))
	a.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot})
	a.deliver("ann@example.org", 77, 100)
	b := newNode(t, t.TempDir())
	b.mirror(a)
	a.deliver(eva, 50, 100)
	b.expunge(eva, func(uid uint32) bool { return uid == 3 })
	a.stop()
	b.stop()
	defer b.start()
	defer a.start()
	a.check(os.Rename(filepath.Join(a.dir, "meta"), filepath.Join(a.dir, "own")))
	a.check(os.CopyFS(filepath.Join(a.dir, "meta"), os.DirFS(filepath.Join(b.dir, "meta"))))
	r, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: a.dir})
	a.check(err)
	if len(r.Changes) != 1 || r.Changes[0].Account != eva || r.Changes[0].Mailbox != "INBOX" ||
		!strings.HasPrefix(r.Changes[0].Is, "9 messages") || !strings.HasPrefix(r.Changes[0].Becomes, "11 messages") {
		t.Errorf("%+v", r)
	}
	a.check(os.RemoveAll(filepath.Join(a.dir, "meta")))
	a.check(os.Rename(filepath.Join(a.dir, "own"), filepath.Join(a.dir, "meta")))
}

// TestReconstructRefuses a directory in use, and one that is nobody's.
func TestReconstructRefuses(t *testing.T) {
	n := filled(t, 3)
	if _, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody's directory: %v", err)
	}
	n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
	lock, err := fsx.OS.Lock(filepath.Join(n.dir, "lock"))
	n.check(err)
	defer lock.Close()
	if _, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir, Repair: true}); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("a directory in use: %v", err)
	}
}

// TestRecoveryIsFast makes the rows of many messages anew within the time that a
// pair may be away.
func TestRecoveryIsFast(t *testing.T) {
	n := newNode(t, t.TempDir())
	n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
	for i := range 300 {
		n.deliver(eva, i, 200)
	}
	n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot})
	for i := range 700 {
		n.deliver(eva, 1000+i, 200)
	}
	n.stop()
	n.check(os.RemoveAll(filepath.Join(n.dir, "meta")))
	began := time.Now()
	r, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir, Repair: true})
	n.check(err)
	n.start()
	if took := time.Since(began); took > 20*time.Second || !r.Repaired {
		t.Errorf("took %v: %+v", took, r)
	}
	if got := len(n.bodies(eva, "INBOX")); got != 1000 {
		t.Errorf("%d messages", got)
	}
}

// rebuildRows throws the rows away and has them made anew.
func (n *node) rebuildRows(rt interface{ Fatalf(string, ...any) }) {
	n.stop()
	if err := voter.WriteID(fsx.OS, n.dir, "pair1", memberID); err != nil {
		rt.Fatalf("%v", err)
	}
	if err := os.RemoveAll(filepath.Join(n.dir, "meta")); err != nil {
		rt.Fatalf("%v", err)
	}
	if r, err := reconstruct.Run(context.Background(), reconstruct.Options{Dir: n.dir, Repair: true}); err != nil || !r.Repaired {
		rt.Fatalf("%+v, %v", r, err)
	}
	n.start()
}

// TestReconstructCrash repairs again after each step of putting the new rows in
// place.
func TestReconstructCrash(t *testing.T) {
	for step := range 3 {
		n := filled(t, 10)
		n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
		n.mustDo(admin.UpkeepTask{Task: admin.TaskSnapshot})
		index, digest := n.machine.Digest()
		n.stop()
		meta := filepath.Join(n.dir, "meta")
		if step >= 1 { // half of the new rows
			n.check(os.MkdirAll(filepath.Join(n.dir, "meta.new"), 0o700))
			n.check(os.WriteFile(filepath.Join(n.dir, "meta.new", "MANIFEST-000001"), []byte("x"), 0o600))
		}
		if step >= 2 { // the old rows put aside, the new ones not there yet
			n.check(os.Rename(meta, meta+".aside"))
		} else {
			n.check(eachFile(meta, "*.sst", func(f string) error { return os.Truncate(f, 50) }))
		}
		r, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir, Repair: true})
		if err != nil || !r.Repaired {
			t.Fatalf("step %d: %+v, %v", step, r, err)
		}
		n.start()
		if at, sum := n.machine.Digest(); at != index || sum != digest {
			t.Errorf("step %d: digest %v at %d", step, sum, at)
		}
	}
}

// TestDamageIsSeen tells damaged rows from those that cannot be opened now.
func TestDamageIsSeen(t *testing.T) {
	n := filled(t, 20)
	n.check(voter.WriteID(fsx.OS, n.dir, "pair1", memberID))
	meta := filepath.Join(n.dir, "meta")
	n.stop()
	defer n.start()
	open := func() (string, error) {
		rows, err := store.Open(meta, nil, store.Options{OnDiskFailure: func(error) {}})
		if err == nil {
			n.check(rows.Close())
		}
		return reconstruct.Needed(n.dir, err)
	}
	if why, err := open(); why != "" || err != nil {
		t.Errorf("good rows: %q, %v", why, err)
	}
	reconstruct.NoteDamage(n.dir, errors.New("no space"))
	if why, err := open(); why != "" || err != nil {
		t.Errorf("after another error: %q, %v", why, err)
	}
	reconstruct.NoteDamage(n.dir, fmt.Errorf("read: %w", store.ErrInconsistent))
	if why, err := open(); why == "" || err != nil {
		t.Errorf("after damage was read: %q, %v", why, err)
	}
	r, err := reconstruct.Run(t.Context(), reconstruct.Options{Dir: n.dir, Repair: true})
	if err != nil || !r.Repaired {
		t.Fatalf("%+v, %v", r, err)
	}
	if why, err := open(); why != "" || err != nil {
		t.Errorf("after the repair: %q, %v", why, err)
	}
	n.check(eachFile(meta, "*.sst", func(f string) error { return os.Truncate(f, 40) }))
	if why, err := open(); why == "" || err != nil {
		t.Errorf("a table cut short: %q, %v", why, err)
	}
	n.check(eachFile(meta, "*.sst", os.Remove))
	if why, err := open(); why == "" || err != nil {
		t.Errorf("a table missing: %q, %v", why, err)
	}
	n.check(os.RemoveAll(meta))
	n.check(os.WriteFile(meta, nil, 0o600))
	if why, err := open(); why != "" || err == nil {
		t.Errorf("what the system refuses: %q, %v", why, err)
	}
	n.check(os.Remove(meta))
}
