package queue

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/shared/mail"
)

// TestRaise: before Raise version 2 is written, after it version 3, what was
// there is read as ever and goes over when it is next written, and the level is
// there after the next start.
func TestRaise(t *testing.T) {
	dir := t.TempDir()
	q := open(t, Config{Dir: dir})
	file := func(it *Item, ext string) string { return filepath.Join(q.dir(it.ID()).name, it.ID()+ext) }
	version := func(it *Item) string {
		b, err := os.ReadFile(file(it, ".env"))
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		return line
	}
	submit := func() *Item {
		it := newItem(mail.NewQueueID(), 2)
		if err := q.Submit(t.Context(), nil, it, []byte("one"), []byte("two")); err != nil {
			t.Fatal(err)
		}
		return it
	}
	before := submit()
	if err := q.Raise(Level + 1); !errors.Is(err, ErrVersion) || q.Level() != 1 {
		t.Fatalf("an unknown level: %v, now %d", err, q.Level())
	}
	for range 2 {
		if err := q.Raise(2); err != nil || q.Level() != 2 {
			t.Fatalf("%v, level %d", err, q.Level())
		}
	}
	after := submit()
	if v, w := version(before), version(after); v != "postern-queue 2 1" || w != "postern-queue 3 3" {
		t.Errorf("written: %q before, %q after", v, w)
	}
	if err := q.Update(before, true); err != nil || version(before) != "postern-queue 3 3" {
		t.Errorf("updated: %v, %q", err, version(before))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = open(t, Config{Dir: dir})
	if q.Level() != 2 {
		t.Errorf("after the next start: level %d", q.Level())
	}
	for _, it := range []*Item{before, after} {
		got, err := q.Load(it.ID())
		if err != nil || !reflect.DeepEqual(got, it) {
			t.Errorf("%v: %+v", err, got)
		}
		if _, err := q.Body(got, nil); err != nil {
			t.Error(err)
		}
	}
	// A change that the CRC does not see: it is that of the changed message.
	if err := os.WriteFile(file(after, ".msg"), []byte("onetw0"), 0o600); err != nil {
		t.Fatal(err)
	}
	after.Sum = checksum([]byte("onetw0"))
	if _, err := q.Body(after, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("changed message: %v", err)
	}
}

// TestRefused: a queue of a level that is not known is not opened, and nothing
// in it changes. The release before, which knows no levels, fails at the barrier.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	q, err := Open(Config{Dir: dir})
	if err == nil {
		err = errors.Join(q.Raise(2), q.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "0", barrier)); err == nil {
		t.Error("the barrier could be removed as a file")
	}
	orphan := filepath.Join(dir, "5", "5aaaaaaaaa.msg")
	if err := errors.Join(os.WriteFile(orphan, nil, 0o600), os.WriteFile(filepath.Join(dir, levelName), []byte(levelMagic+"3\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if q, err := Open(Config{Dir: dir}); !errors.Is(err, ErrVersion) {
		t.Errorf("level 3: %v", err)
		if err == nil {
			q.Close()
		}
	}
	if _, err := os.Stat(orphan); err != nil {
		t.Errorf("a queue that was refused was cleaned: %v", err)
	}
	for _, text := range []string{"", "x", levelMagic, levelMagic + "0", levelMagic + "02", levelMagic + "-1", levelMagic + "99999999999999999999"} {
		if _, err := parseLevel([]byte(text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSeal: version 3 is refused with a seal that is missing, moved or wrong
// although the CRC is right, and by releases that know no seal as too new.
func TestSeal(t *testing.T) {
	it := newItem("0123456789", 1)
	it.Hash = Hash{1}
	text := string(appendItem(nil, it, 2))
	reseal := func(s string) []byte {
		b := []byte(s[:strings.LastIndex(s, "end ")])
		return fmt.Appendf(b, "end %08x\n", checksum(b))
	}
	at := strings.Index(text, "seal ")
	for name, bad := range map[string]string{
		"another recipient": strings.Replace(text, "bob0", "bob1", 1),
		"no seal":           text[:at] + text[at+len("seal \n")+32:],
		"a line behind":     strings.Replace(text, "end ", "+text \"x\"\nend ", 1),
		"no version":        strings.Replace(text, "hash 01", "hash 00", 1),
		"half a hash":       strings.Replace(text, "hash 0100", "hash 01", 1),
	} {
		if _, err := readItem(reseal(bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := readItem([]byte(text)); err != nil || !bytes.Equal(appendItem(nil, got, 2), []byte(text)) {
		t.Errorf("%v: %+v", err, got)
	}
}

// FuzzLevel: the file of a queue's level is refused, or says what is written.
func FuzzLevel(f *testing.F) {
	f.Add([]byte(levelMagic + "2\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		level, err := parseLevel(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		if want := fmt.Sprint(levelMagic, level); strings.TrimSuffix(string(b), "\n") != want {
			t.Errorf("%q is read as %d", b, level)
		}
	})
}
