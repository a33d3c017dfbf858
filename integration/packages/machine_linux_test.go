package packages

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/shared/peertest"
)

// machine is a Debian 12 that has been booted in a container, as its installer
// leaves it: a name, an address, and nobody but root.
type machine struct {
	*console
	name, address, root string
	cmd                 *exec.Cmd
	ended               chan struct{}
}

// boot starts a machine.
func (s *site) boot(name, address, root string) *machine {
	t := s.t
	t.Helper()
	for file, text := range map[string]string{
		"etc/hostname":                 name + "\n",
		"etc/hosts":                    "127.0.0.1 localhost\n127.0.1.1 " + name + "\n",
		"etc/resolv.conf":              "nameserver " + elsewhere + "\n",
		"etc/apt/apt.conf.d/00archive": fmt.Sprintf("Acquire::http::Proxy %q;\n", "http://"+archive),
	} {
		put(t, root, file, text)
	}
	s.host(name, address)
	m := &machine{name: name, address: address, root: root, ended: make(chan struct{})}
	args := []string{
		"--quiet", "--boot", "--directory", root, "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--machine", s.prefix + "-" + name, "--hostname", name, "--network-namespace-path=" + s.path(name), "--capability=CAP_NET_ADMIN",
	}
	// Each manager wants groups of processes that no other one uses.
	m.cmd = exec.Command("sh", append([]string{
		"-c", `for g in $0; do echo $$ >"$g/cgroup.procs"; done; exec systemd-nspawn "$@"`,
		strings.Join(groups(t, s.prefix+"-"+name), " "),
	}, args...)...)
	said, err := os.Create(root + ".console")
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	m.cmd.Stdout, m.cmd.Stderr = said, said
	if s.routes {
		m.cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM} // it shuts down then
	if err := lasting(m.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() { m.off(t) })
	return m
}

// lasts is a thread that no other work gets: a signal at the death of a parent is one
// at the death of its thread, and those that have been in another network die.
var lasts = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for f := range lasts {
			f()
		}
	}()
}

// lasting runs f on a thread that ends with the process.
func lasting(f func() error) error {
	done := make(chan error)
	lasts <- func() { done <- f() }
	return <-done
}

// login waits until the machine is up and begins a shell there.
func (m *machine) login(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if first := m.first(); first != 0 {
			state, _ := try("nsenter", append(into(first), "systemctl", "is-system-running")...)
			if s := firstLine(state); s == "running" || s == "degraded" {
				m.console = newConsole(t, m.name, "/root", into(first))
				return
			}
		}
		select {
		case <-m.ended:
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		text, _ := os.ReadFile(m.root + ".console")
		peertest.Lacks(t, "no machine boots here: %s", text)
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// put writes a file of a machine.
func put(t *testing.T, root, name, text string) {
	t.Helper()
	name = filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// groups makes a control group of its own in each hierarchy that there is.
func groups(t *testing.T, name string) (dirs []string) {
	t.Helper()
	for line := range strings.Lines(string(read(t, "/proc/self/cgroup"))) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] == "cpuset" { // which takes nobody before it is set up
			continue
		}
		below := strings.TrimPrefix(parts[1], "name=")
		if below == "" {
			below = "unified"
			if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
				below = ""
			}
		}
		dir := filepath.Join("/sys/fs/cgroup", below, parts[2])
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
			continue
		}
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
		t.Cleanup(func() { removeGroup(t, dir) })
	}
	return dirs
}

// removeGroup removes a group with those below it, innermost first.
func removeGroup(t *testing.T, dir string) {
	var below []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			below = append(below, path)
		}
		return err
	})
	for i := len(below) - 1; i >= 0 && err == nil; i-- {
		err = syscall.Rmdir(below[i])
	}
	if err != nil {
		t.Errorf("%s: %v", dir, err)
	}
}

// first is the process on the host that is the first one of the machine, or 0.
func (m *machine) first() int {
	pid := strconv.Itoa(m.cmd.Process.Pid)
	children, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	for child := range strings.FieldsSeq(string(children)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		if _, ids, ok := strings.Cut(string(status), "\nNSpid:"); ok && strings.HasSuffix(firstLine(ids), "\t1") {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	return 0
}

// into are the arguments of nsenter for root's login on a machine.
func into(first int) []string {
	return []string{
		"--target", strconv.Itoa(first), "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--",
		"env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", "TERM=dumb", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
}

// off shuts the machine down, and cuts its power if it does not end.
func (m *machine) off(t *testing.T) {
	first := m.first()
	if t.Failed() {
		text, _ := try("nsenter", append(into(first), "journalctl", "--no-pager", "-n", "40")...)
		t.Logf("journal of %s:\n%s", m.name, text)
	}
	// A process that came from outside would be waited for.
	if m.console != nil {
		m.close()
	}
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("%s does not shut down", m.name)
		if first != 0 {
			_ = syscall.Kill(first, syscall.SIGKILL)
		}
		_ = m.cmd.Process.Kill()
		<-m.ended
	}
}

// console is a shell at which lines are typed. It keeps what they set. What a program
// asks at it is answered by answers or nobody.
type console struct {
	place, dir string
	cmd        *exec.Cmd
	files      []*os.File // both ends of all pipes
	lines      *os.File
	answers    *os.File // to what is asked
	said       *os.File
	text       *bufio.Reader
}

// typed runs what comes as one command after the other.
const typed = `cd "$0"; while IFS= read -r -d '' -u 3 line; do eval "$line" 3<&-; printf '\0%d\n' $?; done`

// newConsole starts a shell in a folder, through nsenter.
func newConsole(t *testing.T, place, dir string, args []string) *console {
	t.Helper()
	c := &console{place: place, dir: dir}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.files = append(c.files, r, w)
		return r, w
	}
	keyboard, answers := pipe()
	lines, toLines := pipe()
	said, toSaid := pipe()
	c.lines, c.answers, c.said, c.text = toLines, answers, said, bufio.NewReader(said)
	c.cmd = exec.Command("nsenter", append(args, "bash", "-c", typed, dir)...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr, c.cmd.ExtraFiles = keyboard, toSaid, toSaid, []*os.File{lines}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// enter types a command and waits for its end.
func (c *console) enter(command string, limit time.Duration) (said string, status int, err error) {
	if _, err := c.lines.WriteString(command + "\x00"); err != nil {
		return "", 0, err
	}
	if err := c.said.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", 0, err
	}
	said, err = c.text.ReadString(0)
	if err == nil {
		var end string
		if end, err = c.text.ReadString('\n'); err == nil {
			status, err = strconv.Atoi(strings.TrimSpace(end))
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("has not ended after %v", limit)
	}
	return strings.TrimSuffix(said, "\x00"), status, err
}

// run types a command that has to succeed.
func (c *console) run(command string) (string, error) {
	said, status, err := c.enter(command, 5*time.Minute)
	if err == nil && status != 0 {
		err = fmt.Errorf("status %d", status)
	}
	if err != nil {
		err = fmt.Errorf("%s# %s\n%s%w", c.place, command, said, err)
	}
	return said, err
}

// close ends the shell: nothing more is typed.
func (c *console) close() {
	c.lines.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.cmd.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second): // something that was typed has not ended
		_ = c.cmd.Process.Kill()
		<-ended
	}
	for _, f := range c.files {
		f.Close()
	}
}
