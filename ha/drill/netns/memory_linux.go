package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memory is a place in the kernel's tree of control groups that limits memory, of
// version 2 or, where its controllers are still used that way, 1.
type memory struct {
	root     string
	limit    string // file of the limit
	none     string // that is no limit
	swap     string // file that takes a 0 for no swapping
	resident string // key in memory.stat of what cannot be given back
	events   string // file with the number of kills
}

// memories are where such a tree is mounted.
var memories = []memory{
	{"/sys/fs/cgroup", "memory.max", "max", "memory.swap.max", "anon", "memory.events"},
	{"/sys/fs/cgroup/unified", "memory.max", "max", "memory.swap.max", "anon", "memory.events"},
	{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "-1", "memory.swappiness", "rss", "memory.oom_control"},
}

// groupOf is the control group of a host.
func (m *memory) groupOf(f *fabric, host string) string {
	return filepath.Join(m.root, f.ns(host))
}

// findMemory returns the tree in which this process can limit memory.
func findMemory() (*memory, error) {
	why := errors.New("the kernel has no control groups that limit memory")
	for _, m := range memories {
		dir := filepath.Join(m.root, prefix+"try-"+newID())
		if m.limit == "memory.max" {
			if have, err := os.ReadFile(filepath.Join(m.root, "cgroup.controllers")); err != nil || !strings.Contains(string(have), "memory") {
				continue
			}
			if err := os.WriteFile(filepath.Join(m.root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
				why = err
				continue
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				why = err
			}
			continue
		}
		err := errors.Join(os.WriteFile(filepath.Join(dir, m.limit), []byte(m.none), 0), os.Remove(dir))
		if err == nil {
			return &m, nil
		}
		why = err
	}
	return nil, fmt.Errorf("memory cannot be limited here: %w", why)
}

// makeGroups gives each node a control group of its own from its start on, so that
// all of its memory counts there.
func (lab *Lab) makeGroups() (err error) {
	if !lab.o.Memory {
		return nil
	}
	if lab.memory, err = findMemory(); err != nil {
		return err
	}
	for _, h := range lab.l.hosts() {
		if err := lab.memory.make(lab.memory.groupOf(lab.f, h)); err != nil {
			return err
		}
	}
	return nil
}

// make makes a control group whose processes are not swapped out.
func (m *memory) make(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(dir, m.swap), []byte("0"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel that does not swap
	}
	return err
}

// removeGroups removes the control groups of a run whose processes have ended.
func (f *fabric) removeGroups() (removed []string, err error) {
	var errs []error
	for _, m := range memories {
		dirs, err := filepath.Glob(filepath.Join(m.root, f.ns("*")))
		errs = append(errs, err)
		for _, dir := range dirs {
			err := os.Remove(dir)
			for deadline := time.Now().Add(closeWithin); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); err = os.Remove(dir) {
				time.Sleep(50 * time.Millisecond) // the last process is ending
			}
			if err == nil {
				removed = append(removed, dir)
			}
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// put moves a process that has just begun into the group in dir.
func put(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// number finds the number behind a key in a file of lines "key number".
func number(file, key string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s says nothing of %s", file, key)
}

// limitMemory leaves a node the memory that it has now and could not give back, and
// no more: the kernel ends it when it wants some, and again after each start.
func (lab *Lab) limitMemory(ctx context.Context, host string) error {
	dir := lab.memory.groupOf(lab.f, host)
	has, err := number(filepath.Join(dir, "memory.stat"), lab.memory.resident)
	if err != nil {
		return err
	}
	if lab.killed, err = lab.kills(host); err != nil {
		return err
	}
	const more = 1 << 20 // version 1 takes no limit that it cannot reach at once
	for limit := has; ; limit += more {
		err := os.WriteFile(filepath.Join(dir, lab.memory.limit), []byte(strconv.FormatInt(limit, 10)), 0)
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return err
		}
	}
}

func (lab *Lab) freeMemory(host string) error {
	return os.WriteFile(filepath.Join(lab.memory.groupOf(lab.f, host), lab.memory.limit), []byte(lab.memory.none), 0)
}

// kills is how often the kernel has ended a node for want of memory.
func (lab *Lab) kills(host string) (int64, error) {
	return number(filepath.Join(lab.memory.groupOf(lab.f, host), lab.memory.events), "oom_kill")
}

func (lab *Lab) seeMemory(host string) (string, error) {
	n, err := lab.kills(host)
	if err != nil {
		return "", err
	}
	if n -= lab.killed; n < 1 {
		return "", fmt.Errorf("the kernel has not ended %s", host)
	}
	return fmt.Sprintf("the kernel's OOM killer has ended %s", host), nil
}
