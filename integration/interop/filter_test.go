package interop

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2/imapclient"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

// pythonSend sends a message to several recipients in one transaction and prints
// the reply to DATA.
const pythonSend = `
import smtplib, sys
hp = lambda a: (a.rsplit(':', 1)[0], int(a.rsplit(':', 1)[1]))
s = smtplib.SMTP(*hp(sys.argv[1])); s.ehlo()
s.mail(sys.argv[2])
for to in sys.argv[3:]:
    code, text = s.rcpt(to); assert code == 250, (to, code, text)
code, text = s.data(sys.stdin.read()); print(code, text.decode()); s.quit()
`

// milters are filters of a cluster, each a program.
type milters struct {
	t   testing.TB
	dir string
	cmd map[string]*exec.Cmd
}

func (m *milters) socket(name string) string { return filepath.Join(m.dir, name+".sock") }

func (m *milters) start(name string) {
	m.t.Helper()
	cmd := peertest.MilterFilter(m.t, "testdata/filter.py", name, "unix:"+m.socket(name), filepath.Join(m.dir, name+".log"))
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.cmd[name] = cmd
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(m.socket(name)); err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("filter %s does not listen", name)
		}
	}
}

func (m *milters) stop(name string) {
	if cmd := m.cmd[name]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		delete(m.cmd, name)
		_ = os.Remove(m.socket(name))
	}
}

// heard are the recipients that a filter was told of since it was asked last.
func (m *milters) heard(name string) []string {
	m.t.Helper()
	file := filepath.Join(m.dir, name+".log")
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	_ = os.Remove(file)
	who := strings.Fields(string(text))
	slices.Sort(who)
	return slices.Compact(who)
}

// TestFilters: filters that people opt in to judge their mail and nobody else's,
// however it comes, and one of all mail everybody's, on a cluster, with programs on
// libmilter.
func TestFilters(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	peertest.Programs(t, "python3")
	const domain = "postern.test"
	dir := t.TempDir()
	m := &milters{t: t, dir: dir, cmd: map[string]*exec.Cmd{}}
	config := "filters:\n"
	for _, name := range []string{"all", "spam", "virus"} {
		m.start(name)
		defer m.stop(name)
		config += "  - name: " + name + "\n    address: unix:" + m.socket(name) + "\n"
		if name != "all" {
			config += "    opt_in: [" + name + "]\n"
		}
	}
	config += "    refused_for_some: hold\n" // of virus

	c := cluster.Start(t, "--users", "4", "--relays", "1")
	postern := func(args ...string) string {
		t.Helper()
		out, err := c.Postern(args...)
		if err != nil {
			t.Fatalf("postern %q: %v\n%s", args, err, out)
		}
		return out
	}
	users, byName := c.Info().Users, map[string]cluster.User{}
	address := func(i int) string { return fmt.Sprintf("u%04d@%s", i, domain) }
	for _, u := range users {
		byName[u.Address] = u
	}
	// u0001 asks for nothing, u0002 for spam, u0003 for virus, u0004 for both.
	for i, words := range map[int][]string{2: {"spam"}, 3: {"virus"}, 4: {"spam", "virus"}} {
		args := []string{"directory", "user", "set", address(i)}
		for _, w := range words {
			args = append(args, "--add", "filter="+w)
		}
		postern(args...)
	}
	everybody := []string{address(1), address(2), address(3), address(4)}
	args := []string{"directory", "group", "add", "circle@" + domain, "--defer", "yes"}
	for _, to := range everybody {
		args = append(args, "--member", to)
	}
	postern(args...)
	file, err := os.OpenFile(filepath.Join(c.Dir, "relay1", "relay1.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = file.WriteString(config); err != nil {
		t.Fatal(err)
	}
	if err = file.Close(); err != nil {
		t.Fatal(err)
	}
	postern("reload", "relay1")
	postern("directory", "flush", "--all")

	n := 0
	send := func(say string, to ...string) (reply, mark string) {
		t.Helper()
		n++
		mark = fmt.Sprintf("Subject: filtered message %03d\r\n", n)
		text := "From: <eve@elsewhere.test>\r\n" + mark
		for _, field := range strings.Fields(say) {
			name, word, _ := strings.Cut(field, "=")
			text += "X-Say-" + name + ": " + word + "\r\n"
		}
		return run(t, dir, text+"\r\nbody\r\n", "python3", append([]string{"-c", pythonSend, c.Info().Relays[0].SMTP, address(1)}, to...)...), mark
	}
	var sessions []*imapclient.Client
	for _, u := range users {
		sessions = append(sessions, imapLogin(t, c.Info().Relays[0].IMAP, u.Login, u.Password))
	}
	// got are the filters that changed the copy of each user who has one.
	got := func(mark string) map[string]string {
		t.Helper()
		out := map[string]string{}
		for i, u := range users {
			for _, msg := range fetchAll(t, sessions[i], "INBOX") {
				if head, _, _ := bytes.Cut(msg, []byte("\r\n\r\n")); bytes.Contains(head, []byte(mark)) {
					by := []string{}
					for line := range strings.Lines(string(msg)) {
						if who, ok := strings.CutPrefix(line, "X-By: "); ok {
							by = append(by, strings.TrimSpace(who))
						}
					}
					if _, twice := out[u.Address]; twice {
						t.Errorf("%s has two copies of %q", u.Address, mark)
					}
					out[u.Address] = strings.Join(by, " ")
				}
			}
		}
		return out
	}
	expect := func(what, mark string, want map[int]string) {
		t.Helper()
		expected := map[string]string{}
		for i, by := range want {
			expected[address(i)] = by
		}
		var have map[string]string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			if have = got(mark); maps.Equal(have, expected) {
				return
			}
		}
		t.Errorf("%s: %v, want %v", what, have, expected)
	}
	reply, mark := send("all=add spam=add virus=add", everybody...)
	if !strings.HasPrefix(reply, "250") {
		t.Fatal(reply)
	}
	expect("all of them", mark, map[int]string{1: "all", 2: "all spam", 3: "all virus", 4: "all spam virus"})
	for name, want := range map[string][]string{"all": everybody, "spam": {address(2), address(4)}, "virus": {address(3), address(4)}} {
		if who := m.heard(name); !slices.Equal(who, want) {
			t.Errorf("%s hears of %q", name, who)
		}
	}
	queue := func() string { return postern("queue", "list") }
	var never []string // marks of messages that nobody is to get
	reply, mark = send("spam=reject", address(2), address(4))
	if !strings.HasPrefix(reply, "550 5.7.9 Refused by spam") {
		t.Errorf("refused for all: %s", reply)
	}
	never = append(never, mark)

	reply, mark = send("spam=reject", everybody[:2]...)
	if !strings.HasPrefix(reply, "250") {
		t.Errorf("refused for some: %s", reply)
	}
	await(t, c, byName[address(1)], "Refused by spam", 1)
	expect("refused for some", mark, map[int]string{1: ""})

	reply, mark = send("virus=reject", everybody[:3]...)
	if !strings.HasPrefix(reply, "250") || !strings.Contains(postern("queue", "list", "--state", "held"), "refused by filter virus") {
		t.Errorf("held for some: %s\n%s", reply, queue())
	}
	expect("held for some", mark, map[int]string{1: "", 2: ""})

	if reply, mark = send("spam=tempfail", everybody...); !strings.HasPrefix(reply, "4") {
		t.Errorf("refused for now: %s", reply)
	}
	never = append(never, mark)
	if reply, mark = send("spam=discard", everybody...); !strings.HasPrefix(reply, "250") {
		t.Errorf("discarded: %s", reply)
	}
	expect("discarded", mark, map[int]string{1: "", 3: ""})

	reply, mark = send("spam=hold virus=add", everybody...)
	expect("quarantine", mark, map[int]string{1: "", 3: "virus"})
	held := postern("queue", "list", "--state", "held")
	if !strings.HasPrefix(reply, "250") || strings.Count(held, "looks odd to spam") != 2 {
		t.Errorf("quarantine: %s\n%s", reply, held)
	}
	for line := range strings.Lines(held) {
		if strings.Contains(line, "looks odd to spam") {
			postern("queue", "release", strings.Fields(line)[1])
		}
	}
	expect("released", mark, map[int]string{1: "", 2: "", 3: "virus", 4: "virus"})

	m.heard("spam")
	if reply, mark = send("all=add spam=add virus=add", "circle@"+domain); !strings.HasPrefix(reply, "250") {
		t.Errorf("list: %s", reply)
	}
	expect("by a list, later", mark, map[int]string{1: "all", 2: "all spam", 3: "all virus", 4: "all spam virus"})
	if who := m.heard("spam"); !slices.Equal(who, []string{address(2), address(4)}) {
		t.Errorf("by a list spam hears of %q", who)
	}

	out := postern("test", "address", address(4))
	if !strings.Contains(out, "spam, virus") || !strings.Contains(out, "5/12") {
		t.Errorf("explained:\n%s", out)
	}
	// A filter that is away is a matter of those who asked for it.
	m.stop("virus")
	if reply, _ = send("", address(2)); !strings.HasPrefix(reply, "250") {
		t.Errorf("others, filter away: %s", reply)
	}
	if reply, _ = send("", address(3)); !strings.HasPrefix(reply, "451 4.7.1") {
		t.Errorf("filter away: %s", reply)
	}
	for _, mark := range never {
		if have := got(mark); len(have) > 0 {
			t.Errorf("%q: %v", mark, have)
		}
	}
}
