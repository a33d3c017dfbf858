package maillog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func event(id string) Event {
	return Event{
		Time: time.Unix(1700000000, 123456000).UTC(), QueueID: id, TraceID: "root-" + id,
		ReversePath: mail.Address{Local: "ann", Domain: "example.net"}, Recipient: mail.Address{Local: "o dd", Domain: "example.org"},
		Channel: mail.ChannelLMTP, Relay: "pair1-a", Delay: 1500 * time.Millisecond, Status: mail.StatusDelivered, Code: 250,
		Reply: "OK \"quoted\" \\ grüße \x01\r\n", Client: "mx[192.0.2.1]", User: "ann", MessageID: "<1@x>", Size: 1234, Recipients: 2,
	}
}

func TestRoundTrip(t *testing.T) {
	e := event("q1")
	e.Kind, e.Node = KindDelivered, "relay1"
	for _, e := range []Event{e, {Time: e.Time, Kind: KindRejected, NullSender: true}, {Time: e.Time, Kind: KindHeld}} {
		b, err := json.Marshal(e)
		if err != nil || !json.Valid(b) {
			t.Fatal(err, string(b))
		}
		var got Event
		if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%v\n%+v\n%+v", err, got, e)
		}
	}
}

func FuzzAppendJSON(f *testing.F) {
	f.Add("a\"b\\\x00\x7fü\xff", "\u2028")
	f.Fuzz(func(t *testing.T, reply, id string) {
		e := Event{Kind: KindHeld, Reply: reply, QueueID: id}
		b := e.appendJSON(nil)
		if !json.Valid(b) || bytes.Count(b, []byte("\n")) != 1 {
			t.Fatalf("%q", b)
		}
		var got Event
		if err := json.Unmarshal(b, &got); err != nil || got.Reply != strings.ToValidUTF8(reply, "") && !strings.ContainsRune(got.Reply, '\uFFFD') {
			t.Errorf("%v: %q from %q", err, got.Reply, reply)
		}
	})
}

// TestKeys: every event has the same keys in the same order.
func TestKeys(t *testing.T) {
	var out bytes.Buffer
	l, err := Open(Config{Node: "n", Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []func(Event){l.Accepted, l.Rejected, l.Queued, l.Delivered, l.Relayed, l.Deferred, l.Bounced, l.Discarded, l.Held, l.Released, l.Expanded, l.Notified, l.Removed, l.Connection, l.Stored} {
		out.Reset()
		f(event("q1"))
		at := 0
		for _, key := range []string{"msg=", "queue_id=", "reverse_path=", "recipient=", "channel=", "relay=", "delay=", "status=", "trace_id="} {
			i := strings.Index(out.String(), key)
			if i < at {
				t.Errorf("%s is not in its place: %s", key, out.String())
			}
			at = i
		}
	}
	var none *Log
	none.Delivered(event("q1")) // takes and drops
}

func open(t *testing.T, dir string, change ...func(*Config)) *Log {
	t.Helper()
	cfg := Config{Node: "relay1", Dir: dir, Flush: 10 * time.Millisecond}
	for _, c := range change {
		c(&cfg)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTrace(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	for i := range 20 {
		e := event(fmt.Sprintf("q%02d", i))
		e.MessageID = fmt.Sprintf("<m%02d@x>", i)
		e.Recipient.Local = fmt.Sprintf("user%02d", i)
		l.Accepted(e)
		l.Delivered(Event{TraceID: e.TraceID, Relay: "pair1-a"})           // knows the trace id only
		l.Removed(Event{QueueID: e.QueueID, TraceID: "root-" + e.QueueID}) // and this one no address
	}
	check := func(l *Log) {
		t.Helper()
		for query, want := range map[string]int{
			"q07": 3, "root-q07": 3, "<m07@x>": 3, "m07@x": 3, "USER07@example.org": 3, "<user07@example.org>": 3, "ann@example.net": 60, "q": 0, "nobody@x": 0, "": 0,
		} {
			got, err := l.Trace(query)
			if err != nil || len(got) != want {
				t.Errorf("Trace(%q): %d events, want %d: %v", query, len(got), want, err)
			}
			for _, e := range got {
				if e.Node != "relay1" || e.Time.IsZero() {
					t.Errorf("Trace(%q): %+v", query, e)
				}
			}
		}
	}
	check(l) // partly in memory
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A crash in the middle of a line.
	name := filepath.Join(dir, "mail.0.jsonl")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"time":"2026`)
	f.Close()
	l = open(t, dir)
	check(l)
	l.Held(Event{QueueID: "q07"})
	if got, err := l.Trace("q07"); err != nil || len(got) != 4 || got[3].Kind != KindHeld {
		t.Errorf("after a crash: %v %v", got, err)
	}
}

// TestTraceWhileWritten: what was in memory when a trace began is told once, also
// when it is written before the files are read.
func TestTraceWhileWritten(t *testing.T) {
	l := open(t, t.TempDir())
	var got int
	count := func(*Event) {
		if got++; got == 1 {
			l.Held(Event{QueueID: "q1"})
			l.journal.flush(nil)
		}
	}
	l.Held(Event{QueueID: "q1"})
	l.journal.flush(nil)
	l.Held(Event{QueueID: "q1"})
	if err := l.journal.each([]string{"q1"}, count); err != nil || got != 2 {
		t.Errorf("%d events, want the 2 of the beginning: %v", got, err)
	}
}

// TestSetSizes: a journal that is written to has other sizes, and what is too much
// is gone at once.
func TestSetSizes(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, func(c *Config) { c.FileBytes, c.Files = 1, 4 })
	write := func(id string, want int) {
		t.Helper()
		l.Accepted(event(id))
		l.journal.flush(nil)
		if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != want {
			t.Errorf("after %s there are %d files, want %d", id, len(files), want)
		}
	}
	for i, want := range []int{2, 3, 4, 4} {
		write(fmt.Sprint("q", i), want)
	}
	if err := l.SetSizes(1, 2); err != nil {
		t.Fatal(err)
	}
	write("q4", 2)
	if got, err := l.Trace("q2"); err != nil || len(got) != 0 {
		t.Errorf("an event of a file that is too much: %v %v", got, err)
	}
	if err := l.SetSizes(1<<20, 3); err != nil {
		t.Fatal(err)
	}
	write("q5", 2)
	write("q6", 2)
	if got, err := l.Trace("q5"); err != nil || len(got) != 1 {
		t.Errorf("an event of a large file: %v %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRing(t *testing.T) { synctest.Test(t, testRing) }

func testRing(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, func(c *Config) { c.FileBytes, c.Files, c.Flush = 10_000, 3, time.Millisecond })
	for i := range 2000 {
		l.Accepted(event(fmt.Sprintf("q%04d", i)))
		if i%20 == 0 {
			time.Sleep(2 * time.Millisecond)
			synctest.Wait() // the batch is written, however busy the machine is
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	total := int64(0)
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if len(files) != 3 || total > 3*(10_000+40_000) {
		t.Errorf("%d files of %d octets", len(files), total)
	}
	l = open(t, dir, func(c *Config) { c.Files = 3 })
	if got, err := l.Trace("q1999"); err != nil || len(got) != 1 {
		t.Errorf("newest event: %v %v", got, err)
	}
	if got, err := l.Trace("q0000"); err != nil || len(got) != 0 {
		t.Errorf("oldest event: %v %v", got, err)
	}
}

func TestConcurrent(t *testing.T) {
	l := open(t, t.TempDir())
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				l.Delivered(event(fmt.Sprintf("g%d-%d", g, i)))
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := l.journal.each([]string{"event"}, func(*Event) { n++ }); err != nil || n != 4000 || l.Dropped() != 0 {
		t.Errorf("%d events, %d dropped: %v", n, l.Dropped(), err)
	}
	l.Delivered(event("late")) // after Close: dropped, no panic
	if l.Dropped() != 1 {
		t.Errorf("%d dropped", l.Dropped())
	}
}

func BenchmarkJournal(b *testing.B) {
	l, err := Open(Config{Node: "relay1", Dir: b.TempDir(), FileBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := event("0123456789abcdefghijklmnop")
	b.ReportAllocs()
	for b.Loop() {
		l.Delivered(e)
	}
}

func BenchmarkSlog(b *testing.B) {
	l, err := Open(Config{Node: "relay1", Logger: slog.New(slog.NewJSONHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	e := event("0123456789abcdefghijklmnop")
	b.ReportAllocs()
	for b.Loop() {
		l.Delivered(e)
	}
}
