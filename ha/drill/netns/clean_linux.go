package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// aliveFile is in the folder of a run, locked while its program lives, and has
// the run's id and the program's process.
const aliveFile = "alive"

// sigkill is SIGKILL in a set of signals as /proc has it.
const sigkill = 1 << (unix.SIGKILL - 1)

// claim locks the folder of this run until the program ends.
func (lab *Lab) claim() error {
	f, err := os.OpenFile(filepath.Join(lab.l.dir, aliveFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err := fmt.Fprintln(f, lab.f.id, os.Getpid()); err != nil {
		return errors.Join(err, f.Close())
	}
	lab.alive = f
	return nil
}

// Clean removes what runs that were killed have left: frozen file systems,
// namespaces, folders. It returns what it has removed. Runs that are alive are
// left alone.
func Clean(ctx context.Context) (removed []string, err error) {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, dir := range dirs {
		id, dead := deadRun(dir)
		if !dead {
			continue
		}
		f := &fabric{id: id}
		names, err := f.names(ctx)
		if err == nil {
			var thawed []string
			thawed, err = thawImages(ctx, dir)
			removed = append(removed, thawed...)
		}
		if err == nil {
			var groups []string
			groups, err = f.removeGroups()
			removed = append(removed, groups...)
		}
		if err == nil {
			err = f.remove(ctx)
		}
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(append(removed, names...), dir)
	}
	return removed, errors.Join(errs...)
}

// deadRun reports whether the program that made a folder has ended or was
// killed, and the id of its run.
func deadRun(dir string) (id string, dead bool) {
	f, err := os.Open(filepath.Join(dir, aliveFile))
	if err != nil {
		return "", false
	}
	defer f.Close()
	var pid int
	if _, err := fmt.Fscan(io.LimitReader(f, 64), &id, &pid); err != nil || pid < 1 {
		return "", false
	}
	if b := []byte(id); len(b) != idLength || slices.ContainsFunc(b, func(c byte) bool { return !strings.ContainsRune("0123456789abcdef", rune(c)) }) {
		return "", false
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil && !killed(pid) {
		return "", false
	}
	return id, true
}

// killed reports whether a process that still holds its files is one that was
// killed: it cannot end while it waits for a disk that is frozen, which Clean
// thaws.
func killed(pid int) bool {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "State":
			if strings.HasPrefix(value, "Z") {
				return true
			}
		case "SigPnd", "ShdPnd":
			if set, err := strconv.ParseUint(value, 16, 64); err == nil && set&sigkill != 0 {
				return true
			}
		}
	}
	return false
}

// thawImages thaws the disks of a run that is dead: one that is frozen outlives
// its last mount, and whoever waits for it cannot end. Mounted again, it is the
// same file system. One that is not frozen may go by itself meanwhile, with the last
// process of the run.
func thawImages(ctx context.Context, dir string) (thawed []string, err error) {
	images, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		return nil, err
	}
	for _, image := range images {
		devices, err := devicesOf(ctx, image)
		if err != nil {
			return nil, err
		}
		for until := time.Now().Add(goneWithin); len(devices) > 0; {
			err := thawDevice(ctx, devices[0], filepath.Join(dir, "thaw"))
			if err == nil {
				thawed, devices = append(thawed, devices[0]), devices[1:]
				continue
			}
			if ctx.Err() != nil || time.Now().After(until) {
				return nil, fmt.Errorf("%s: %w", image, err)
			}
			pause(ctx, goneWithin/50)
			if devices, err = devicesOf(ctx, image); err != nil {
				return nil, err
			}
		}
	}
	return thawed, nil
}

// goneWithin is how long a device may be about to go.
const goneWithin = 5 * time.Second

// devicesOf lists the devices that an image is the disk of.
func devicesOf(ctx context.Context, image string) ([]string, error) {
	out, err := command(ctx, "", "losetup", "-n", "-O", "NAME", "-j", image)
	return strings.Fields(out), err
}

func thawDevice(ctx context.Context, device, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if _, err := command(ctx, "", "mount", "-t", "ext4", device, at); err != nil {
		return err
	}
	f, err := os.Open(at)
	if err == nil {
		_ = unix.IoctlSetInt(int(f.Fd()), thaw, 0) // it may not be frozen
		err = f.Close()
	}
	return errors.Join(err, unix.Unmount(at, 0))
}
