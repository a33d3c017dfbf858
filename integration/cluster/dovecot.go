package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/peertest"
)

// Dovecot is a mail store of a test's own, which takes mail for everybody by
// LMTP into maildirs.
type Dovecot struct {
	Dir  string
	Addr string // of its LMTP server
	PID  int
}

// mailOwner owns the maildirs.
const mailOwner = 65534

// What Debian's Dovecot does by itself, but for the users, who need no look-up.
const dovecotConf = `base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = lmtp
listen = 127.0.0.1
ssl = no
mail_uid = %[2]d
mail_gid = %[2]d
first_valid_uid = 1
first_valid_gid = 1
mail_home = %[1]s/mail/%%2Hn/%%n
mail_location = maildir:~/Maildir
namespace inbox {
  inbox = yes
}
passdb {
  driver = static
  args = nopassword
}
userdb {
  driver = static
  args = allow_all_users=yes
}
service lmtp {
  inet_listener lmtp {
    address = 127.0.0.1
    port = %[3]s
  }
}
`

// StartDovecot runs a Dovecot 2.3, which ends with the test. It needs root.
func StartDovecot(t testing.TB) *Dovecot {
	t.Helper()
	peertest.Programs(t, "dovecot")
	peertest.Root(t, "Dovecot")
	d := &Dovecot{Dir: t.TempDir(), Addr: FreeAddr(t)}
	for _, dir := range []string{filepath.Dir(d.Dir), d.Dir} { // private to root otherwise
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"run", "state", "mail"} {
		if err := os.Mkdir(filepath.Join(d.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(d.Dir, "mail"), mailOwner, mailOwner); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(d.Dir, "dovecot.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, dovecotConf, d.Dir, mailOwner, Port(d.Addr)), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/dovecot", "-F", "-c", conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.PID = cmd.Process.Pid
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Dovecot did not end within 10 s of SIGTERM")
		}
		for range 50 { // whoever of its group is left
			if syscall.Kill(-d.PID, syscall.SIGKILL) != nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		<-done
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(d.Dir, "log"))
			t.Logf("Dovecot's log:\n%s", tail(string(log), 20))
		}
	})
	AwaitPort(t, d.Addr)
	return d
}
