package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// raising takes a queue from the level before to another one, with messages on
// both sides of that.
type raising struct {
	accepted map[string]string // body, by id
	raised   bool              // Raise returned nil
}

func (r *raising) run(disk *faultfs.FS) {
	q, err := Open(Config{Dir: "/q", FS: disk})
	if err != nil {
		return
	}
	defer func() { _ = q.Close() }() // fails on a dead disk
	submit := func(id string) *Item {
		it := &Item{Envelope: mail.Envelope{QueueID: id}, Recipients: []Recipient{{Recipient: mail.Recipient{Address: mail.Address{Local: "a", Domain: "b"}}}}}
		if q.Submit(context.Background(), nil, it, []byte("body of "+id)) == nil {
			r.accepted[id] = "body of " + id
		}
		return it
	}
	old := submit("0aaaaaaaaa")
	submit("vaaaaaaaaa")
	r.raised = q.Raise(2) == nil
	submit("0bbbbbbbbb")
	old.Notices = 1
	_ = q.Update(old, true)
}

// TestRaiseCrash ends the process, or the host, after each operation of the disk
// while a queue is taken to another level. It opens again with all that was
// accepted, on the level if Raise had said so, and can be taken there; and
// nothing is there in the new format that a release before would get to see: the
// barrier stands before it.
func TestRaiseCrash(t *testing.T) {
	whole := faultfs.New(1)
	r := &raising{accepted: map[string]string{}}
	if r.run(whole); !r.raised || len(r.accepted) != 3 {
		t.Fatalf("without a crash: %+v", r)
	}
	levels := map[int]int{}
	for n := 1; n <= whole.Ops(); n++ {
		for state := range uint64(9) {
			disk := faultfs.New(1)
			disk.CrashAfter(n)
			r := &raising{accepted: map[string]string{}}
			r.run(disk)
			if state > 0 { // else the process was killed, and all is there that was written
				disk = disk.Crash(state)
			}
			disk.CrashAfter(1 << 40)
			what := fmt.Sprintf("after operation %d, state %d", n, state)
			barred(t, what, disk)
			q, err := Open(Config{Dir: "/q", FS: disk})
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			levels[q.Level()]++
			if r.raised && q.Level() != 2 {
				t.Errorf("%s: level %d", what, q.Level())
			}
			if err := q.Raise(2); err != nil || q.Level() != 2 {
				t.Errorf("%s: again: %v, level %d", what, err, q.Level())
			}
			for id, body := range r.accepted {
				it, err := q.Load(id)
				if err == nil {
					var b []byte
					if b, err = q.Body(it, nil); err == nil && string(b) != body {
						err = fmt.Errorf("%q", b)
					}
				}
				if err != nil {
					t.Errorf("%s: %s: %v", what, id, err)
				}
			}
			if err := q.Close(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if levels[1] == 0 || levels[2] == 0 {
		t.Errorf("the test tests nothing: %v", levels)
	}
}

// barred checks that an older release ends at the barrier before it reads a
// format that it does not know.
func barred(t *testing.T, what string, disk *faultfs.FS) {
	t.Helper()
	keep, err := fsx.Open(disk, filepath.Join("/q", "0", barrier, "keep"))
	if err == nil {
		keep.Close()
	}
	stands := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := fsx.ReadFile(disk, filepath.Join("/q", levelName)); err == nil && !stands {
		t.Errorf("%s: the level without the barrier", what)
	}
	for _, dir := range []string{"/q/0", "/q/v"} {
		names, err := disk.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, name := range names {
			if filepath.Ext(name) != ".env" {
				continue
			}
			b, err := fsx.ReadFile(disk, filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.HasPrefix(b, []byte("postern-queue 3")) && !stands {
				t.Errorf("%s: %s is of the new format, without the barrier", what, name)
			}
		}
	}
}
