package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/mail"
)

// answeredItem is a message whose first recipient's mail is answered.
func answeredItem(id string) *Item {
	it := newItem(id, 2)
	it.Recipients[0].Autoreply = &mail.Autoreply{
		Mode: mail.AutoreplyEcho, Only: true, From: mail.Address{Local: "bob", Domain: "example.org"},
		Me:      []mail.Address{{Local: "bob", Domain: "example.org"}, {Local: "röb", Domain: "example.org"}},
		Subject: "Größe \"x\"", Text: "Away.\nBack on Monday.\n", Timeout: 7*24*time.Hour + 1,
	}
	it.Recipients[1].Autoreply = &mail.Autoreply{}
	return it
}

const autoreplyGolden = "testdata/autoreply-v2.env"

func TestAutoreplyFormat(t *testing.T) {
	want := answeredItem("0123456789abcdefghijklmnop")
	written := appendItem(nil, want, 1)
	golden, err := os.ReadFile(autoreplyGolden)
	if err != nil || !bytes.Equal(golden, written) {
		t.Errorf("this version writes something else than %s: %v\n%s", autoreplyGolden, err, written)
	}
	if got, err := readItem(golden); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n%+v", err, got)
	}
	// What version 1 reads: every line that it knows.
	var old []string
	for line := range strings.Lines(string(written)) {
		if !strings.HasPrefix(line, "+reply") && !strings.HasPrefix(line, "end ") {
			old = append(old, line)
		}
	}
	body := strings.Join(old, "")
	want.Recipients[0].Autoreply, want.Recipients[1].Autoreply = nil, nil
	if got, err := readItem(fmt.Appendf([]byte(body), "end %08x\n", checksum([]byte(body)))); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("as version 1 reads it: %v\n%+v", err, got)
	}
}

func TestAutoreplyDamaged(t *testing.T) {
	text := string(appendItem(nil, answeredItem("0123456789"), 1))
	for name, tt := range map[string]struct{ old, now string }{
		"a part before its head":   {"+reply \"echo\"\n+replyonly\n", "+replyonly\n+reply \"echo\"\n"},
		"a flag with a value":      {"+replyonly\n", "+replyonly 1\n"},
		"no address":               {"+replyfrom \"bob@example.org\"", "+replyfrom \"bob@\""},
		"too many addresses":       {"+replyme \"bob@example.org\"\n", strings.Repeat("+replyme \"bob@example.org\"\n", maxNames)},
		"a time that is no number": {"+replytimeout 6", "+replytimeout x"},
	} {
		bad := strings.Replace(text, tt.old, tt.now, 1)
		if bad == text {
			t.Fatalf("%s: nothing replaced", name)
		}
		b := []byte(bad[:strings.LastIndex(bad, "end ")])
		if _, err := readItem(fmt.Appendf(b, "end %08x\n", checksum(b))); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want ErrDamaged", name, err)
		}
	}
}

func FuzzReadAutoreply(f *testing.F) {
	f.Add("+reply \"echo\"\n+replyonly\n+replyfrom \"a@b.example\"\n+replyme \"a@b.example\"\n+replysubject \"s\"\n+replytext \"t\\n\"\n+replytimeout 5")
	f.Add("+reply \"\"\n+reply \"x\"")
	f.Add("+replytext \"lonely\"")
	f.Add("claim 00112233445566778899aabbccddeeff\nclaimpair \"p\"\nclaimmailbox \"m\"\nclaimtime 5")
	f.Add("claimpair \"lonely\"")
	f.Fuzz(func(t *testing.T, lines string) {
		b := fmt.Appendf(nil, "postern-queue 2 1\nid \"x\"\nrcpt \"a@b.example\"\n%s\n", lines)
		it, err := readItem(fmt.Appendf(b, "end %08x\n", checksum(b)))
		if err != nil {
			return
		}
		first := appendItem(nil, it, 1)
		again, err := readItem(first)
		if err != nil || !bytes.Equal(appendItem(nil, again, 1), first) {
			t.Errorf("what was read is written and read differently: %v\n%s", err, first)
		}
	})
}

// TestAutoreplyCrash cuts the power after every operation of accepting a
// message and changing it: what is found is either state, whole, with the
// recipient's autoreply.
func TestAutoreplyCrash(t *testing.T) {
	const id = "0123456789abcdefghijklmnop"
	use := func(fs *faultfs.FS) (accepted, changed bool) {
		q, err := Open(Config{Dir: "/q", FS: fs})
		if err != nil {
			return false, false
		}
		defer q.Close()
		it := answeredItem(id)
		if q.Submit(context.Background(), nil, it, []byte("message")) != nil {
			return false, false
		}
		it.Recipients = it.Recipients[:1]
		it.Recipients[0].Attempts++
		return true, q.Update(it, true) == nil
	}
	whole := faultfs.New(1)
	if a, c := use(whole); !a || !c {
		t.Fatal("the script does not work without a crash")
	}
	found := 0
	for at := 1; at <= whole.Ops()+1; at++ {
		fs := faultfs.New(1)
		fs.CrashAfter(at)
		accepted, changed := use(fs)
		for seed := range uint64(4) {
			q, err := Open(Config{Dir: "/q", FS: fs.Crash(seed)})
			if err != nil {
				t.Fatal(err)
			}
			got, err := q.Load(id)
			switch {
			case errors.Is(err, ErrNotFound) && !accepted:
			case err != nil:
				t.Errorf("after operation %d: %v", at, err)
			default:
				found++
				want := answeredItem(id)
				if len(got.Recipients) == 1 {
					want.Recipients = want.Recipients[:1]
					want.Recipients[0].Attempts++
				} else if changed {
					t.Errorf("after operation %d: a durable change is lost", at)
				}
				if !reflect.DeepEqual(got.Recipients, want.Recipients) {
					t.Errorf("after operation %d: %+v", at, got.Recipients)
				}
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if found < 10 {
		t.Errorf("found in %d states: the test tests nothing", found)
	}
}

// TestClaimFormat: an autoreply keeps where it is claimed, and who skips that
// reads the rest.
func TestClaimFormat(t *testing.T) {
	it := newItem("0123456789abcdefghijklmnop", 1)
	it.Envelope.Claim = &mail.AutoreplyClaim{Pair: "pair \"1\"", Mailbox: "bob@example.org", Hash: [16]byte{1, 15: 2}, Period: time.Hour}
	for level := 1; level <= Level; level++ {
		text := appendItem(nil, it, level)
		if got, err := readItem(text); err != nil || !reflect.DeepEqual(got.Envelope, it.Envelope) {
			t.Errorf("level %d: %v\n%+v", level, err, got)
		}
	}
	lines := string(appendItem(nil, it, 1))
	for name, tt := range map[string]struct {
		old, now string
		bad      bool
	}{
		"a key that is not known": {"claim", "unheard", false},
		"no hash":                 {"claim 01", "claim ", true},
		"a part before its head":  {"claim 01", "unheard 01", true},
		"a time that is none":     {"claimtime 3", "claimtime x", true},
	} {
		bad := strings.Replace(lines, tt.old, tt.now, map[bool]int{true: 1, false: -1}[tt.bad])
		b := []byte(bad[:strings.LastIndex(bad, "end ")])
		got, err := readItem(fmt.Appendf(b, "end %08x\n", checksum(b)))
		if tt.bad != errors.Is(err, ErrDamaged) || !tt.bad && got.Envelope.Claim != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
