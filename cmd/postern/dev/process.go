package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// restartAfter is the pause before a node that ended is started again.
	restartAfter = time.Second
	// maxLog is the size from which a node's log is put aside as log.1 when
	// the node starts.
	maxLog = 32 << 20
	// logName is the log in a node's folder.
	logName = "log"
)

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
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s.work <- func() { err <- cmd.Start() }
	return <-err
}

// close ends the thread; what it started must have ended.
func (s *spawner) close() {
	close(s.work)
	<-s.done
}

// process is one node under supervision.
type process struct {
	name string
	args []string
	dir  string

	spawn   *spawner
	restart func() bool // whether to start it again when it ends
	say     func(format string, args ...any)
	changed func()                 // after each start and end
	ended   func(name, how string) // after an end that nobody asked for
	quit    chan struct{}          // closed: run returns when the process has ended
	wake    chan struct{}          // one token: look at want again

	mu       sync.Mutex // guards the fields below
	bin      string     // of the next start
	want     bool
	starting bool          // between the look at want and cmd or err
	cmd      *exec.Cmd     // nil while it does not run
	err      error         // of the last start
	turned   chan struct{} // closed and replaced at each change of the three above
}

func (p *process) init() {
	p.quit, p.wake, p.turned = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
}

// run keeps the process as want says, until quit. Whoever closes quit stops the
// process first.
func (p *process) run() {
	for {
		p.mu.Lock()
		p.starting = p.want
		want := p.want
		p.mu.Unlock()
		if !want {
			select {
			case <-p.wake:
				continue
			case <-p.quit:
				return
			}
		}
		how, err := p.once()
		unasked, again := p.end(err)
		if !unasked {
			continue
		}
		p.ended(p.name, how)
		if !again {
			p.say("%s has ended (%s)", p.name, how)
			continue
		}
		p.say("%s has ended (%s), it starts again in %v", p.name, how, restartAfter)
		select {
		case <-time.After(restartAfter):
		case <-p.wake:
		case <-p.quit:
			return
		}
	}
}

// once runs the process from start to end and says how it ended. err is that of
// a start that failed.
func (p *process) once() (how string, err error) {
	log, err := openLog(filepath.Join(p.dir, logName))
	if err != nil {
		return err.Error(), err
	}
	defer log.Close()
	p.mu.Lock()
	bin := p.bin
	p.mu.Unlock()
	cmd := exec.Command(bin, p.args...)
	cmd.Env = nodeEnv(os.Environ())
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = sysProcAttr()
	if err := p.spawn.start(cmd); err != nil {
		return err.Error(), err
	}
	p.mu.Lock()
	p.cmd = cmd
	p.turnLocked()
	p.mu.Unlock()
	p.changed()
	if err := cmd.Wait(); err != nil {
		return err.Error(), nil
	}
	return "exit status 0", nil
}

// end notes that the process has ended and decides whether it runs again.
func (p *process) end(err error) (unasked, again bool) {
	restart := p.restart()
	p.mu.Lock()
	unasked = p.want
	p.want = unasked && restart
	again = p.want
	p.cmd, p.err = nil, err
	p.turnLocked()
	select {
	case <-p.wake: // of a start while it ran
	default:
	}
	p.mu.Unlock()
	p.changed()
	return unasked, again
}

func (p *process) turnLocked() {
	p.starting = false
	close(p.turned)
	p.turned = make(chan struct{})
}

// pid is 0 while the process does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// use sets the program of the next start.
func (p *process) use(bin string) {
	p.mu.Lock()
	p.bin = bin
	p.mu.Unlock()
}

// start wants the process to run and waits until it does.
func (p *process) start(ctx context.Context) error {
	p.mu.Lock()
	p.want, p.err = true, nil
	select {
	case p.wake <- struct{}{}:
	default:
	}
	p.mu.Unlock()
	return p.wait(ctx, func() (bool, error) { return p.cmd != nil || p.err != nil, p.err })
}

// stop ends the process: by SIGTERM, by SIGKILL when that takes longer than
// grace, at once when grace is 0. It reports whether grace was enough.
func (p *process) stop(ctx context.Context, grace time.Duration) (clean bool) {
	p.mu.Lock()
	p.want = false
	p.mu.Unlock()
	sure := context.WithoutCancel(ctx)
	_ = p.wait(sure, func() (bool, error) { return !p.starting, nil })
	down := func() (bool, error) { return p.cmd == nil, nil }
	if grace > 0 {
		p.signal(syscall.SIGTERM)
		soft, cancel := context.WithTimeout(ctx, grace)
		defer cancel()
		if p.wait(soft, down) == nil {
			return true
		}
	}
	p.signal(syscall.SIGKILL)
	_ = p.wait(sure, down) // nothing survives it
	return grace == 0
}

func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig) // it has ended: that is what is wanted
	}
}

// wait blocks until cond, which is called under the lock, says so.
func (p *process) wait(ctx context.Context, cond func() (bool, error)) error {
	for {
		p.mu.Lock()
		ok, err := cond()
		turned := p.turned
		p.mu.Unlock()
		if ok {
			return err
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func openLog(name string) (*os.File, error) {
	if fi, err := os.Stat(name); err == nil && fi.Size() > maxLog {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// passed are the options of all nodes that may be given to dev in its environment.
var passed = []string{"POSTERN_DRILL_CLOCK", "POSTERN_LOG_LEVEL", "POSTERN_RAFT_NEW_PAIR", "POSTERN_TRACING_ENDPOINT", "POSTERN_TRACING_SAMPLE"}

// nodeEnv is env without the options of a node that was started by hand: a
// node of a development cluster has them from its file.
func nodeEnv(env []string) (out []string) {
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "POSTERN_") || slices.Contains(passed, name) {
			out = append(out, kv)
		}
	}
	return out
}

// lastLines returns the end of a node's log for an error message.
func lastLines(dir string, lines int) string {
	f, err := os.Open(filepath.Join(dir, logName))
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 8 << 10
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(most, fi.Size()))
	if _, err := f.ReadAt(b, fi.Size()-int64(len(b))); err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// create makes the replica directories of the store nodes that have none yet,
// and notes it in the layout.
func (c *cluster) create(ctx context.Context) error {
	for _, n := range c.layout.Nodes {
		if n.Tier == relayTier || n.Created {
			continue
		}
		cmd := exec.CommandContext(ctx, c.program(n), "--config", configFile(c.dir, n), "--create")
		cmd.Env, cmd.Dir, cmd.SysProcAttr = nodeEnv(os.Environ()), filepath.Join(c.dir, n.Name), sysProcAttr()
		runtime.LockOSThread() // see spawner
		out, err := cmd.CombinedOutput()
		runtime.UnlockOSThread()
		if err != nil {
			return errors.Join(fmt.Errorf("%s --create: %w", n.Name, err), errors.New(strings.TrimSpace(string(out))))
		}
		n.Created = true
		if err := c.layout.save(c.dir); err != nil {
			return err
		}
	}
	return nil
}
