package netns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartAfter is the pause before a node that ended by itself starts
	// again, as a supervisor would have it.
	restartAfter = time.Second
	// stopWithin is the time of a node to end by SIGTERM.
	stopWithin = 25 * time.Second
)

// process is a node under supervision.
type process struct {
	host, ns, bin, config, log, clock string
	group                             string // control group; "": that of this process
	spawn                             func(*exec.Cmd) error

	mu     sync.Mutex
	want   bool
	cmd    *exec.Cmd
	done   chan struct{} // closed when cmd has ended
	lastID int
	closed bool
	wg     sync.WaitGroup
}

// spawner starts processes from one thread that lives as long as it does: the
// kernel takes the death of the thread that started a process for the death of
// the parent.
type spawner struct {
	work chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{make(chan func()), make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error { return s.do(cmd.Start) }

// do runs f on the thread.
func (s *spawner) do(f func() error) error {
	err := make(chan error, 1)
	s.work <- func() { err <- f() }
	return <-err
}

// leave gives the thread mounts of its own, which all that it starts share. They
// are gone with the last of these, whatever happens to this process. The folder
// that is returned is the root of files as the thread sees them.
func (s *spawner) leave() (root string, err error) {
	err = s.do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		root = fmt.Sprintf("/proc/self/task/%d/root", unix.Gettid())
		return unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	})
	if err != nil {
		return "", fmt.Errorf("mounts of our own: %w", err)
	}
	return root, nil
}

func (s *spawner) close() {
	close(s.work)
	<-s.done
}

// command is the program in its namespace. ip replaces itself by it, so the pid
// is the node's.
func (p *process) command(args ...string) (*exec.Cmd, error) {
	ip, err := tool("ip")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(ip, append([]string{"netns", "exec", p.ns, p.bin, "--config", p.config}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TZ=UTC", "GOTRACEBACK=all", clockEnv + "=" + p.clock}
	cmd.Dir = filepath.Dir(p.config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// create makes the directory of a replica; its pair begins with the formats that
// raft.new_pair says. It is no line of the file, which another release reads too.
func (p *process) create(newPair string) error {
	cmd, err := p.command("--create")
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, "POSTERN_RAFT_NEW_PAIR="+newPair)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.spawn(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s --create: %w: %s", p.host, err, strings.TrimSpace(out.String()))
	}
	return nil
}

// start runs the node, and again after each end that nobody asked for.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = true
	if p.cmd != nil || p.closed {
		return nil
	}
	return p.startLocked()
}

func (p *process) startLocked() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd, err := p.command()
	if err == nil {
		cmd.Stdout, cmd.Stderr = log, log
		err = p.spawn(cmd)
	}
	log.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", p.host, err)
	}
	if p.group != "" {
		if err := put(p.group, cmd.Process.Pid); err != nil {
			return fmt.Errorf("%s: %w", p.host, errors.Join(err, cmd.Process.Kill(), cmd.Wait()))
		}
	}
	done := make(chan struct{})
	p.cmd, p.done, p.lastID = cmd, done, cmd.Process.Pid
	p.wg.Go(func() {
		_ = cmd.Wait() // how it ended stands in its log
		p.mu.Lock()
		p.cmd = nil
		p.mu.Unlock()
		close(done)
		time.Sleep(restartAfter)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.want && p.cmd == nil && !p.closed {
			_ = p.startLocked() // seen as a node that does not answer
		}
	})
	return nil
}

// stop ends the node by sig, and by SIGKILL when that takes too long.
func (p *process) stop(sig syscall.Signal) error {
	p.mu.Lock()
	p.want = false
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	t := time.NewTimer(stopWithin)
	defer t.Stop()
	select {
	case <-done:
		return nil
	case <-t.C:
	}
	_ = cmd.Process.Kill() // it has ended: that is what is wanted
	<-done
	return fmt.Errorf("%s did not end within %v of %v and was killed", p.host, stopWithin, sig)
}

// close ends the node for good.
func (p *process) close() {
	p.mu.Lock()
	p.closed, p.want = true, false
	cmd := p.cmd
	p.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
	}
	p.wg.Wait()
}

func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("%s does not run", p.host)
	}
	return p.cmd.Process.Signal(sig)
}

// pid is that of the last start.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastID
}
