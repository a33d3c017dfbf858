package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newItem is a message with n recipients and every field set.
func newItem(id string, n int) *Item {
	it := &Item{
		Envelope: mail.Envelope{
			ReversePath: mail.Address{Local: "ann o'hara", Domain: "example.net"}, EnvelopeID: "x=y", Ret: "HDRS",
			Body: mail.Body8BitMIME, SMTPUTF8: true, Size: 99, Priority: mail.Urgent, AuthUser: "ann",
			QueueID: id, RootID: "root" + id, Origin: "relay1", Arrival: time.Unix(1700000000, 123456789),
		},
		Client: "mx.example.net[192.0.2.1]", Notices: 2, Crashes: 1, Held: true, Reason: "a \"reason\"\nin two lines",
		HeldAt: time.Unix(1700000001, 0), Report: true,
	}
	for i := range n {
		it.Recipients = append(it.Recipients, Recipient{
			Recipient: mail.Recipient{
				Address: mail.Address{Local: fmt.Sprintf("bob%d", i), Domain: "example.org"}, OriginalRecipient: "rfc822;bob@example.org",
				Notify: mail.NotifySuccess | mail.NotifyDelay, Channel: mail.ChannelLMTP, NextHop: "pair1",
				Mailbox: fmt.Sprintf("bob%d@example.org", i), Folder: "Größe/☃", Key: mail.NewDeliveryKey("o", "r", fmt.Sprint(i)),
				Quota: &mail.Quota{Bytes: -1, Messages: 7, Stamp: "2026 \"x\""}, Via: []string{"list@example.org", "b"}, ListName: "list",
			},
			State: Failed, Attempts: 3, Step: 2, LastTry: time.Unix(1700000002, 0), Next: time.Unix(1700000003, 5),
			Busy: time.Unix(1700000004, 0), Unknown: true,
			Answer: Answer{Code: 550, Status: mail.Status{5, 1, 1}, Text: "no such\r\nuser", Relay: "node1"},
		})
	}
	return it
}

func open(t *testing.T, cfg Config) *Queue {
	t.Helper()
	q, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

func TestRoundTrip(t *testing.T) {
	q := open(t, Config{Dir: t.TempDir()})
	it := newItem(mail.NewQueueID(), 3)
	if err := q.Submit(t.Context(), nil, it, []byte("Received: x\r\n"), nil, []byte("\r\nhello\r\n")); err != nil {
		t.Fatal(err)
	}
	got, err := q.Load(it.ID())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, it) {
		t.Errorf("Load = %+v\nwant %+v", got, it)
	}
	body, err := q.Body(got, nil)
	if err != nil || string(body) != "Received: x\r\n\r\nhello\r\n" {
		t.Errorf("Body = %q, %v", body, err)
	}
	if err := q.Submit(t.Context(), nil, it, []byte("again")); !errors.Is(err, ErrExists) {
		t.Errorf("second Submit = %v, want ErrExists", err)
	}
	got.Leave(&got.Recipients[1])
	got.Notices = 3
	if err := q.Update(got, true); err != nil {
		t.Fatal(err)
	}
	again, err := q.Load(it.ID())
	if err != nil || !reflect.DeepEqual(again, got) || len(again.Recipients) != 2 {
		t.Errorf("after Update: %+v, %v", again, err)
	}
	if s := q.Stats(); s.Messages != 1 || s.Bytes != got.Size || s.Reserved != 0 {
		t.Errorf("Stats = %+v", s)
	}
	if err := q.Remove(again, false); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Load(it.ID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Load after Remove = %v", err)
	}
	if err := q.Remove(again, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("second Remove = %v", err)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	q, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir}); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("second Open = %v, want ErrLocked", err)
	}
	want := map[string]bool{}
	for range 50 {
		it := newItem(mail.NewQueueID(), 1)
		if err := q.Submit(t.Context(), nil, it, []byte("x")); err != nil {
			t.Fatal(err)
		}
		want[it.ID()] = true
	}
	for id := range want {
		it, _ := q.Load(id)
		if err := q.Remove(it, false); err != nil {
			t.Fatal(err)
		}
		delete(want, id)
		break
	}
	done := q.Mark("0123456789abcdef")
	q.Mark("v123456789abcdef")
	done()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	// What a crash can leave, and what an operator could have put there.
	for name, content := range map[string]string{
		"a/aaaaaaaaaaaaaaaaaaaaaaaaaa.msg": "half", "b/bbbbbbbbbbbbbbbbbbbbbbbbbb.env.tmp": "half",
		"c/cccccccccccccccccccccccccc.env": "garbage", "c/cccccccccccccccccccccccccc.msg": "kept",
		"d/dddddddddddddddddddddddddd.bad": "kept", "d/dddddddddddddddddddddddddd.msg": "kept",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	q = open(t, Config{Dir: dir})
	if s := q.Suspects(); len(s) != 1 || s[0] != "v123456789abcdef" {
		t.Errorf("Suspects = %v", s)
	}
	if err := q.ClearSuspects(); err != nil {
		t.Error(err)
	}
	got := map[string]bool{}
	if err := q.Scan(t.Context(), func(it *Item) error { got[it.ID()] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("found %d messages, want %d", len(got), len(want))
	}
	if s := q.Stats(); s.Messages != int64(len(want)) || s.Bytes != int64(len(want)) || s.Damaged != 2 {
		t.Errorf("Stats = %+v", s)
	}
	for name, there := range map[string]bool{
		"a/aaaaaaaaaaaaaaaaaaaaaaaaaa.msg": false, "b/bbbbbbbbbbbbbbbbbbbbbbbbbb.env.tmp": false,
		"c/cccccccccccccccccccccccccc.bad": true, "c/cccccccccccccccccccccccccc.msg": true, "d/dddddddddddddddddddddddddd.msg": true,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != there {
			t.Errorf("%s: there = %v, want %v", name, err == nil, there)
		}
	}
}

func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(msg string) error{
		"flipped":   func(msg string) error { return os.WriteFile(msg, []byte("hellO"), 0o600) },
		"shortened": func(msg string) error { return os.Truncate(msg, 3) },
		"missing":   os.Remove,
	} {
		dir := t.TempDir()
		q := open(t, Config{Dir: dir})
		it := newItem(mail.NewQueueID(), 1)
		if err := q.Submit(t.Context(), nil, it, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := damage(filepath.Join(dir, it.ID()[:1], it.ID()+".msg")); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Body(it, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Body = %v, want ErrDamaged", name, err)
		}
	}
}

func TestRoom(t *testing.T) {
	free := int64(1 << 20)
	now := time.Unix(0, 0)
	q := open(t, Config{
		Dir: t.TempDir(), Limits: Limits{MaxMessages: 2, MaxBytes: 100 << 10, MinFree: 900 << 10},
		Free: func() (int64, error) { return free, nil }, Now: func() time.Time { return now },
	})
	r, err := q.Reserve(50<<10, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Reserve(50<<10, 1); !errors.Is(err, ErrFull) {
		t.Errorf("over MaxBytes: %v, want ErrFull", err)
	}
	if err := q.Submit(t.Context(), &r, newItem(mail.NewQueueID(), 1), make([]byte, 50<<10)); err != nil {
		t.Fatal(err)
	}
	r.Release()
	r.Release()
	if s := q.Stats(); s.Reserved != 0 || s.Bytes != 50<<10 {
		t.Errorf("Stats = %+v", s)
	}
	free, now = 910<<10, now.Add(time.Second)
	if _, err := q.Reserve(10<<10, 1); !errors.Is(err, ErrFull) {
		t.Errorf("below MinFree: %v, want ErrFull", err)
	}
	free, now = 1<<20, now.Add(time.Second)
	second := newItem(mail.NewQueueID(), 1)
	if err := q.Submit(t.Context(), nil, second, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Reserve(1, 1); !errors.Is(err, ErrFull) {
		t.Errorf("over MaxMessages: %v, want ErrFull", err)
	}
	for _, tt := range []struct {
		limits Limits
		want   error
	}{
		{Limits{MaxMessages: 3}, nil},
		{Limits{MaxMessages: 3, MaxBytes: 100}, ErrFull},
		{Limits{MaxMessages: 3, MinFree: 1 << 20}, ErrFull},
		{Limits{MaxMessages: 2}, ErrFull},
	} {
		q.SetLimits(tt.limits)
		r, err := q.Reserve(1, 1)
		if !errors.Is(err, tt.want) {
			t.Errorf("with %+v: %v, want %v", tt.limits, err, tt.want)
		}
		r.Release()
	}
	if err := q.Remove(second, false); err != nil {
		t.Fatal(err)
	}
	r, err = q.Reserve(1, 1)
	if err != nil {
		t.Errorf("after Remove: %v", err)
	}
	r.Release()
}

func TestNoSpaceOnDisk(t *testing.T) {
	fs := faultfs.New(1)
	q := open(t, Config{Dir: "/q", FS: fs})
	fs.SetCapacity(20 << 10)
	err := q.Submit(t.Context(), nil, newItem(mail.NewQueueID(), 1), make([]byte, 40<<10))
	if !errors.Is(err, ErrFull) {
		t.Fatalf("Submit = %v, want ErrFull", err)
	}
	if err := q.Submit(t.Context(), nil, newItem(mail.NewQueueID(), 1), make([]byte, 1<<10)); err != nil {
		t.Errorf("a smaller one: %v", err)
	}
}

func TestFailedSync(t *testing.T) {
	for _, kind := range []faultfs.Kind{faultfs.Sync, faultfs.SyncDir} {
		fs := faultfs.New(1)
		var fatal []error
		q := open(t, Config{Dir: "/q", FS: fs, Fatal: func(err error) { fatal = append(fatal, err) }})
		fs.FailNext(kind, 1, errors.New("input/output error"))
		id := mail.NewQueueID()
		if err := q.Submit(t.Context(), nil, newItem(id, 1), []byte("x")); !errors.Is(err, ErrFailed) {
			t.Errorf("%v: Submit = %v, want ErrFailed", kind, err)
		}
		if err := q.Submit(t.Context(), nil, newItem(mail.NewQueueID(), 1), []byte("x")); !errors.Is(err, ErrFailed) {
			t.Errorf("%v: next Submit = %v, want ErrFailed", kind, err)
		}
		if _, err := q.Reserve(1, 1); !errors.Is(err, ErrFailed) {
			t.Errorf("%v: Reserve = %v, want ErrFailed", kind, err)
		}
		if len(fatal) != 1 {
			t.Errorf("%v: Fatal called %d times", kind, len(fatal))
		}
		if _, err := q.Load(id); !errors.Is(err, ErrNotFound) {
			t.Errorf("%v: refused message is there: %v", kind, err)
		}
	}
}

func TestVersions(t *testing.T) {
	it := newItem("0123456789", 1)
	text := string(appendItem(nil, it, 1))
	reseal := func(s string) []byte {
		b := []byte(s[:strings.LastIndex(s, "end ")])
		return fmt.Appendf(b, "end %08x\n", checksum(b))
	}
	newer := strings.Replace(text, "postern-queue 2 1\n", "postern-queue 3 1\nsparkle \"yes\"\n", 1)
	newer = strings.Replace(newer, "\n+hop", "\n+glitter 7\n+hop", 1)
	got, err := readItem(reseal(newer))
	if err != nil || !reflect.DeepEqual(got, it) {
		t.Errorf("newer version that may be read: %v", err)
	}
	if _, err := readItem(reseal(strings.Replace(text, "2 1\n", "5 4\n", 1))); !errors.Is(err, ErrVersion) {
		t.Errorf("newer version: %v, want ErrVersion", err)
	}
	for _, bad := range []string{"", "postern-queue 1 1\n", text[:len(text)-1], text + "x", strings.Replace(text, "bob0", "bob1", 1)} {
		if _, err := readItem([]byte(bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("readItem(%.40q...) = %v, want ErrDamaged", bad, err)
		}
	}
}

// TestGolden reads the envelope files of every released format.
func TestGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/v*.env")
	if err != nil || len(names) == 0 {
		t.Fatal("no golden files", err)
	}
	want := newItem("0123456789abcdefghijklmnop", 2)
	want.Size, want.Sum = 12, 0xdeadbeef
	hash := Hash{0xca, 0xfe, 15: 1}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readItem(b)
		want.Hash = Hash{}
		if strings.HasSuffix(name, "v3.env") {
			want.Hash = hash
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%+v", name, err, got)
		}
	}
	want.Hash = hash // which level 1 leaves out
	for level := 1; level <= Level; level++ {
		name := fmt.Sprintf("testdata/v%d.env", versions[level][0])
		if now, err := os.ReadFile(name); err != nil || !bytes.Equal(now, appendItem(nil, want, level)) {
			t.Errorf("this version writes something else than %s: %v\n%s", name, err, appendItem(nil, want, level))
		}
	}
}

func FuzzReadItem(f *testing.F) {
	f.Add(appendItem(nil, newItem("0123456789", 2), Level))
	f.Add(appendItem(nil, &Item{}, Level))
	f.Add([]byte("postern-queue 1 1\nid \"x\"\nend 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := readItem(b)
		if err != nil {
			// Past the checksum the lines themselves are read too.
			if at := bytes.LastIndex(b, []byte("end ")); at > 0 {
				it, err = readItem(fmt.Appendf(b[:at:at], "end %08x\n", checksum(b[:at])))
			}
			if err != nil {
				return
			}
		}
		again, err := readItem(appendItem(nil, it, Level))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if !bytes.Equal(appendItem(nil, again, Level), appendItem(nil, it, Level)) {
			t.Fatal("what was written reads differently")
		}
	})
}

func TestConcurrent(t *testing.T) {
	q := open(t, Config{Dir: t.TempDir()})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				it := newItem(mail.NewQueueID(), 1)
				if err := q.Submit(context.Background(), nil, it, []byte("x")); err != nil {
					t.Error(err)
				}
				it.Notices++
				if err := q.Update(it, rand.IntN(2) == 0); err != nil {
					t.Error(err)
				}
				if rand.IntN(2) == 0 {
					if err := q.Remove(it, false); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	n := int64(0)
	if err := q.Scan(t.Context(), func(*Item) error { n++; return nil }); err != nil || n != q.Stats().Messages {
		t.Errorf("Scan found %d of %d: %v", n, q.Stats().Messages, err)
	}
}
