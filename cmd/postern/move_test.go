package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// offer gives one message to a relay, and reports whether the relay took it.
func offer(addr, recipient, subject string) (bool, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	last := ""
	for _, line := range []string{
		"", "EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<" + recipient + ">", "DATA",
		"From: ann@client.test\r\nSubject: " + subject + "\r\n\r\nhello\r\n.",
	} {
		if line != "" {
			if _, err := fmt.Fprintf(conn, "%s\r\n", line); err != nil {
				return false, err
			}
		}
		for {
			if last, err = r.ReadString('\n'); err != nil {
				return false, err
			}
			if len(last) > 3 && last[3] == ' ' {
				break
			}
		}
		if last[0] != '2' && last[0] != '3' {
			return false, nil
		}
	}
	return true, nil
}

// TestUserMove moves a user to the other pair and back while mail comes, and asks
// a relay that still believes the old directory: everything that was taken is
// there once, under UIDs that stay.
func TestUserMove(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: builds and runs every program")
	}
	bin, dir := programs(t), devDir(t)
	c := start(t, bin, dir, "--users", "2", "--pairs", "2")
	f := c.info()
	u := f.Users[0]
	here, there := u.Pair, f.Pairs[0].Name
	if there == here {
		there = f.Pairs[1].Name
	}
	c.postern("upgrade", "finalize") // a new pair does so by itself, but not at once
	taken := map[string]bool{}       // subjects that a relay took
	send := func(subject string) {
		if ok, err := offer(f.Relays[len(taken)%len(f.Relays)].SMTP, u.Address, subject); ok && err == nil {
			taken[subject] = true
		}
	}
	for i := range 5 {
		send(fmt.Sprintf("before-%d-", i))
	}
	dialog(t, dialTLS(t, f.Relays[0].IMAPS, f.CA), [][2]string{
		{"", "* OK"},
		{fmt.Sprintf("a LOGIN %q %q", u.Login, u.Password), "a OK"},
		{"b SETACL Junk eva@example.net p", "b OK"},
		{"c DELETEACL Junk anyone", "c OK"},
		{"d LOGOUT", "d OK"},
	}...)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { // mail all the time
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				send(fmt.Sprintf("during-%d-", i))
			}
		}
	}()
	move := func(to string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "postern"), "directory", "user", "move", u.Address, "--to", to, "--dir", dir).CombinedOutput()
		if err != nil {
			t.Errorf("move to %s: %v\n%s", to, err, out)
		}
		return string(out)
	}
	t.Logf("%s", move(there))
	close(stop)
	<-done
	if got := c.postern("mailbox", "show", u.Address); !strings.Contains(got, " on "+there) || !strings.Contains(got, " eva@example.net ") {
		t.Errorf("%s", got)
	}
	// The directory says the old pair again: relays are answered by it, and ask
	// the other.
	c.postern("directory", "user", "set", u.Address, "--mail-host", here)
	c.postern("directory", "flush", "--all")
	send("stale-")
	if !taken["stale-"] {
		t.Error("a relay that believes the old directory did not deliver")
	}
	imap := func() string {
		return dialog(t, dialTLS(t, f.Relays[0].IMAPS, f.CA), [][2]string{
			{"", "* OK"},
			{fmt.Sprintf("a LOGIN %q %q", u.Login, u.Password), "a OK"},
			{"b SELECT INBOX", "b OK"},
			{"c UID FETCH 1:* (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])", "c OK"},
			{"d LOGOUT", "d OK"},
		}...)
	}
	check := func() string {
		t.Helper()
		var got string
		for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) { // what a relay has queued comes later
			got = imap()
			missing := ""
			for subject := range taken {
				if n := strings.Count(got, "Subject: "+subject); n > 1 {
					t.Fatalf("%s is there %d times", subject, n)
				} else if n == 0 {
					missing = subject
				}
			}
			if missing == "" {
				return got
			}
			if time.Now().After(end) {
				t.Fatalf("%s is missing, of %d", missing, len(taken))
			}
		}
	}
	before := check()
	c.postern("directory", "user", "set", u.Address, "--mail-host", there)
	c.postern("directory", "flush", "--all")
	move(here)
	if after := check(); uids(after) != uids(before) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	t.Logf("%d messages", len(taken))
	c.stop(os.Interrupt, "<nil>")
}

// uids are the lines of a session that say what the mailbox is and what is in it.
func uids(session string) string {
	var out []string
	for line := range strings.Lines(session) {
		for _, word := range []string{"UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ", "UID ", "Subject:"} {
			if strings.Contains(line, word) {
				out = append(out, line)
				break
			}
		}
	}
	return strings.Join(out, "")
}
