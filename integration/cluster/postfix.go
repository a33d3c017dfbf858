package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/peertest"
)

// Postfix is a Postfix of a test's own: configuration, queue, data and log are
// in a folder of the test, and the system's Postfix is not touched.
type Postfix struct {
	Dir  string
	Addr string // of its SMTP server
	cmd  *exec.Cmd
	done chan struct{}
}

// PostfixConfig says how it differs from a Postfix that relays for loopback and
// knows no domain of its own.
type PostfixConfig struct {
	Hostname string
	Main     []string // lines of main.cf, "name = value"
	Master   []string // more lines of master.cf
}

// master.cf with everything outside of chroot; the first line is the server's
// address.
const postfixMaster = `%s inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

// What every Postfix of ours is told. It changes nothing in a message but its
// trace fields, tries again soon and asks no DNS.
const postfixMain = `compatibility_level = 3.6
queue_directory = %[1]s/queue
data_directory = %[1]s/data
maillog_file = %[1]s/maillog
maillog_file_prefixes = %[1]s
myhostname = %[2]s
mydestination =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
notify_classes =
smtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_host_lookup = native
local_header_rewrite_clients =
message_drop_headers =
enable_original_recipient = no
smtp_line_length_limit = 0
lmtp_line_length_limit = 0
queue_run_delay = 2s
minimal_backoff_time = 1s
maximal_backoff_time = 4s
smtp_tls_loglevel = 1
lmtp_tls_loglevel = 1
smtpd_tls_loglevel = 1
`

// chatter is what a Postfix with debug_peer_list logs besides the dialogue.
var chatter = regexp.MustCompile(`(?m)^.*(?:smtp_stream_setup|send attr|wanted attribute|input attribute).*\n`)

// StartPostfix runs a Postfix, which ends with the test. It needs root: Postfix
// gives each of its processes a user of its own.
func StartPostfix(t testing.TB, cfg PostfixConfig) *Postfix {
	t.Helper()
	peertest.Programs(t, "postfix", "postconf")
	peertest.Root(t, "Postfix")
	dir := t.TempDir()
	p := &Postfix{Dir: dir, Addr: FreeAddr(t), done: make(chan struct{})}
	owner, err := user.Lookup("postfix")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(owner.Uid)
	// The folder that holds the test's folders is private otherwise.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"etc", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "data"), uid, -1); err != nil {
		t.Fatal(err)
	}
	main := fmt.Sprintf(postfixMain, dir, cfg.Hostname) + strings.Join(cfg.Main, "\n") + "\n"
	master := fmt.Sprintf(postfixMaster, p.Addr) + strings.Join(cfg.Master, "\n") + "\n"
	for name, text := range map[string]string{"main.cf": main, "master.cf": master} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, "postfix", "check") // makes the queue's folders
	daemons := strings.TrimSpace(p.run(t, "postconf", "-h", "daemon_directory"))
	// In the foreground and in a process group of its own, which it ends with
	// itself.
	p.cmd = exec.Command(filepath.Join(daemons, "master"), "-c", p.etc(), "-d")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		if p.stop(t); t.Failed() {
			t.Logf("%s, its log:\n%s", cfg.Hostname, tail(chatter.ReplaceAllString(p.Log(t), ""), 80))
		}
	})
	AwaitPort(t, p.Addr)
	return p
}

func (p *Postfix) etc() string { return filepath.Join(p.Dir, "etc") }

// stop ends the processes that StartPostfix started.
func (p *Postfix) stop(t testing.TB) {
	pid := p.cmd.Process.Pid
	syscall.Kill(pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		t.Errorf("Postfix did not end within 10 s of SIGTERM")
	}
	for range 50 { // whoever of its group is left
		if syscall.Kill(-pid, syscall.SIGKILL) != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	<-p.done
}

// run starts one of Postfix's commands on this instance.
func (p *Postfix) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return p.runWith(t, "", name, append([]string{"-c", p.etc()}, args...)...)
}

func (p *Postfix) runWith(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := exec.LookPath(name); err != nil {
		name = "/usr/sbin/" + name
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// PID is its master process, the parent of all others.
func (p *Postfix) PID() int { return p.cmd.Process.Pid }

// Sendmail submits a message as a program on the same host does.
func (p *Postfix) Sendmail(t testing.TB, msg string, args ...string) {
	t.Helper()
	p.runWith(t, msg, "sendmail", append([]string{"-C", p.etc()}, args...)...)
}

// Set changes main.cf, "name = value", and makes the running Postfix read it.
func (p *Postfix) Set(t testing.TB, lines ...string) {
	t.Helper()
	p.run(t, "postconf", append([]string{"-e"}, lines...)...)
	p.run(t, "postfix", "reload")
}

// Flush tries everything in the queue now.
func (p *Postfix) Flush(t testing.TB) {
	t.Helper()
	p.run(t, "postqueue", "-f")
}

// Queue lists the queue, one JSON object a message.
func (p *Postfix) Queue(t testing.TB) string {
	t.Helper()
	return p.run(t, "postqueue", "-j")
}

// Log is what it has logged so far.
func (p *Postfix) Log(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.Dir, "maillog"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// AwaitLog waits until pattern has matched n times in the log and returns the
// matches with their groups.
func (p *Postfix) AwaitLog(t testing.TB, pattern string, n int, within time.Duration) [][]string {
	t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	var got [][]string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = re.FindAllStringSubmatch(p.Log(t), -1); len(got) >= n {
			return got
		}
	}
	t.Fatalf("%q stands %d times in Postfix's log after %v, want %d", pattern, len(got), within, n)
	return nil
}
