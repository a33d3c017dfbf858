package imapd

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
)

// TestMillion uses a mailbox of a million messages, as a user does who has
// never removed one.
func TestMillion(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	}
	const total, batch = 1_000_000, 500
	f := start(t, nil)
	a, err := f.boxes.Account(context.Background(), "eva@example.test")
	if err != nil {
		t.Fatal(err)
	}
	msgs := make([]mailbox.AppendMessage, batch)
	for n := 0; n < total; n += batch {
		for i := range msgs {
			msgs[i].Bytes = fmt.Appendf(nil, "From: a@example.test\r\nSubject: %d\r\nMessage-ID: <%d@example.test>\r\n\r\ntext\r\n", n+i, n+i)
		}
		if _, _, err := a.Append(context.Background(), "INBOX", msgs); err != nil {
			t.Fatal(err)
		}
	}
	c := f.login("eva@example.test")
	c.conn.SetDeadline(noDeadline)
	// run returns when the first line of an answer came, and the last.
	run := func(command string, lines int) (first, last time.Duration) {
		t.Helper()
		began, n := time.Now(), 0
		c.send("m " + command + "\r\n")
		for {
			line, err := c.r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				first = time.Since(began)
			}
			if strings.HasPrefix(line, "m ") {
				if !strings.HasPrefix(line, "m OK") || lines >= 0 && n != lines {
					t.Fatalf("%s: %d lines, then %q", command, n, line)
				}
				return first, time.Since(began)
			}
			n++
		}
	}
	_, cold := run("SELECT INBOX", -1)
	run("UNSELECT", 0)
	_, warm := run("SELECT INBOX", -1)
	if warm > 500*time.Millisecond {
		t.Errorf("SELECT takes %v, warm", warm)
	}
	runtime.GC()
	before := inUse()
	first, all := run("FETCH 1:* FLAGS", total)
	if first > time.Second {
		t.Errorf("the first flags come after %v", first)
	}
	grown := inUse() - before
	if grown > 64<<20 {
		t.Errorf("FETCH of all flags leaves %d octets in use", grown)
	}
	_, search := run("SEARCH UID 499000:501000", 1)
	_, one := run("UID STORE 500000 +FLAGS (\\Flagged)", 1)
	_, many := run("STORE 1:10000 +FLAGS.SILENT (\\Seen)", 0)
	_, again := run("UID FETCH 999990:* (UID FLAGS)", 11)
	for what, took := range map[string]time.Duration{"SEARCH UID": search, "STORE of one": one, "FETCH of the last": again} {
		if took > time.Second {
			t.Errorf("%s takes %v", what, took)
		}
	}
	t.Logf("SELECT %v, warm %v; FETCH 1:* FLAGS %v, the first after %v; SEARCH UID %v; STORE of one %v, of 10,000 %v; the last ten %v",
		cold, warm, all, first, search, one, many, again)
}
