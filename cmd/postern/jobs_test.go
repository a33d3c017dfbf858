package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rcpt is the answer of a relay to a recipient.
func rcpt(t *testing.T, addr, recipient string) string {
	t.Helper()
	conn := dial(t, addr)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(conn)
	answer := func() string {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if len(line) > 3 && line[3] == ' ' {
				return strings.TrimSpace(line)
			}
		}
	}
	answer()
	last := ""
	for _, line := range []string{"EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<" + recipient + ">"} {
		fmt.Fprintf(conn, "%s\r\n", line)
		last = answer()
	}
	return last
}

// TestDirectoryJobs has the real programs stop a domain that is full, open it
// again, and purge a user who is deleted.
func TestDirectoryJobs(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: builds and runs every program")
	}
	bin, dir := programs(t), devDir(t)
	t.Setenv("POSTERN_RAFT_NEW_PAIR", "before") // no mailbox can be removed until all is finalized
	c := start(t, bin, dir, "--users", "2", "--pairs", "2")
	f := c.info()
	send := func(to string) {
		t.Helper()
		dialog(t, dial(t, f.Relays[0].SMTP), [][2]string{
			{"", "220 "},
			{"EHLO client.test", "250 "},
			{"MAIL FROM:<ann@client.test>", "250 "},
			{"RCPT TO:<" + to + ">", "250 "},
			{"DATA", "354 "},
			{"Subject: full\r\n\r\n" + strings.Repeat("hello\r\n", 200) + ".", "250 "},
			{"QUIT", "221 "},
		}...)
	}
	for _, u := range f.Users[:2] { // one on each pair
		send(u.Address)
	}
	_, domain, _ := strings.Cut(f.Users[0].Address, "@")
	if got := c.postern("directory", "quota"); !strings.Contains(got, domain) || !strings.Contains(got, "unlimited") {
		t.Errorf("quota:\n%s", got)
	}
	// More than either pair has of it, and less than both have.
	c.postern("directory", "domain", "set", domain, "--quota", "2K")
	if got := c.postern("directory", "quota", "--enforce", "--dry-run"); !strings.Contains(got, "overquota (not done)") {
		t.Errorf("dry run:\n%s", got)
	}
	if got := rcpt(t, f.Relays[0].SMTP, f.Users[0].Address); !strings.HasPrefix(got, "250 ") {
		t.Errorf("before the job: %s", got)
	}
	c.postern("directory", "quota", "--enforce", "--metrics", filepath.Join(dir, "quota.prom"))
	for _, r := range f.Relays {
		if got := rcpt(t, r.SMTP, f.Users[0].Address); !strings.HasPrefix(got, "552 5.2.2 ") {
			t.Errorf("%s, full: %s", r.Name, got)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "quota.prom")); err != nil || !strings.Contains(string(text), "\npostern_directory_quota_over 1\n") ||
		!strings.Contains(string(text), "\npostern_directory_quota_changed 1\n") {
		t.Errorf("%v\n%s", err, text)
	}

	// A pair that is away: nothing is cleared, and it is said.
	serving, others := "", ""
	for _, n := range f.Pairs[1].Nodes {
		others += " " + n.Name
		c.postern("node", "stop", "--kill", n.Name)
		serving = n.Name
	}
	c.postern("directory", "domain", "set", domain, "--quota", "1G")
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "postern"), "directory", "quota", "--enforce", "--dir", dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "stays overquota") || !strings.Contains(string(out), f.Pairs[1].Name) {
		t.Errorf("%s (%s, %s): %v\n%s", f.Pairs[1].Name, serving, others, err, out)
	}
	for _, n := range f.Pairs[1].Nodes {
		c.postern("node", "start", n.Name)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "postern"), "directory", "quota", "--enforce", "--dir", dir).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if got := rcpt(t, f.Relays[0].SMTP, f.Users[0].Address); !strings.HasPrefix(got, "250 ") {
		t.Errorf("open again: %s", got)
	}

	// A user's quota goes to the pair with the mail, and so does that there is none
	// any more.
	for _, tt := range [][2]string{{"10M", "of 10M,"}, {"", "of unlimited,"}, {"20M", "of 20M,"}, {"-2", "of unlimited,"}} {
		c.postern("directory", "user", "set", f.Users[0].Address, "--quota", tt[0])
		c.postern("directory", "flush", "--all")
		send(f.Users[0].Address)
		if got := c.postern("mailbox", "show", f.Users[0].Address); !strings.Contains(got, tt[1]) {
			t.Errorf("with a quota of %q:\n%s", tt[0], got)
		}
	}

	u := f.Users[1]
	c.postern("directory", "user", "set", u.Address, "--status", "deleted")
	if got := c.postern("directory", "purge"); !strings.Contains(got, "waits until") || !strings.Contains(c.postern("mailbox", "list"), u.Address) {
		t.Errorf("within the grace time:\n%s", got)
	}
	purge := func() (string, error) {
		out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "postern"), "directory", "purge", "--grace-days", "0", "--dir", dir).CombinedOutput()
		return string(out), err
	}
	if got, err := purge(); err == nil || !strings.Contains(got, "finalize the upgrade") || !strings.Contains(c.postern("mailbox", "list"), u.Address) {
		t.Errorf("on format 1: %v\n%s", err, got)
	}
	c.postern("upgrade", "finalize")
	got, err := purge()
	if err != nil || !strings.Contains(got, "done") {
		t.Errorf("%v\n%s", err, got)
	}
	if list := c.postern("mailbox", "list"); strings.Contains(list, u.Address) || !strings.Contains(list, f.Users[0].Address) {
		t.Errorf("after the purge:\n%s", list)
	}
	if shown := c.postern("directory", "user", "show", u.Address); !strings.Contains(shown, "removed") {
		t.Errorf("the entry:\n%s", shown)
	}
	if log, err := os.ReadFile(filepath.Join(dir, "directory", "audit.log")); err != nil || !strings.Contains(string(log), `"kind":"mailbox"`) {
		t.Errorf("audit log: %v\n%s", err, log)
	}
	if got := rcpt(t, f.Relays[0].SMTP, u.Address); !strings.HasPrefix(got, "550 5.1.6 ") {
		t.Errorf("who is removed: %s", got)
	}
	c.stop(syscall.SIGTERM, "<nil>")
}
