package queue

import (
	"errors"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// TestOnce: the id of a message with Once is taken for good when the message has
// left, also by a process that starts later, until it is forgotten; any other id
// is free again.
func TestOnce(t *testing.T) {
	fs := faultfs.New(1)
	now := time.Unix(1_700_000_000, 0)
	open := func() *Queue {
		t.Helper()
		q, err := Open(Config{Dir: "/q", FS: fs, Remember: time.Hour, MaxRemembered: 2, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	item := func(id string, once bool) *Item {
		it := newItem(id, 1)
		it.Once = once
		return it
	}
	pass := func(q *Queue, id string, once bool) error {
		t.Helper()
		it := item(id, once)
		if err := q.Submit(t.Context(), nil, it, []byte("x")); err != nil {
			return err
		}
		read, err := q.Load(id)
		if err != nil || read.Once != once {
			t.Fatalf("%+v, %v", read, err)
		}
		if err := q.Remove(read); err != nil {
			t.Fatal(err)
		}
		return nil
	}
	const a, b, c, plain = "0000000a", "0000000b", "0000000c", "0000000d"
	steps := func(name string, q *Queue, want map[string]bool) {
		t.Helper()
		for id, free := range want {
			if err := pass(q, id, id != plain); (err == nil) != free || err != nil && !errors.Is(err, ErrExists) {
				t.Errorf("%s: %s: %v, want free %v", name, id, err, free)
			}
		}
	}
	q := open()
	steps("new", q, map[string]bool{a: true, plain: true})
	q.Close()
	q = open()
	steps("open again", q, map[string]bool{a: false})
	now = now.Add(30 * time.Minute)
	steps("two", q, map[string]bool{b: true})
	steps("both known", q, map[string]bool{a: false, b: false})
	now = now.Add(31 * time.Minute)
	steps("the first is too old", q, map[string]bool{c: true})
	steps("and free", q, map[string]bool{a: true})
	steps("the oldest of three is forgotten", q, map[string]bool{c: false, a: false})
	q.Close()
	q = open()
	defer q.Close()
	names := 0
	for i := range q.dirs {
		ns, err := fs.ReadDir(q.dirs[i].name)
		if err != nil {
			t.Fatal(err)
		}
		names += len(ns)
	}
	if names != 2 {
		t.Errorf("%d files left", names)
	}
}
