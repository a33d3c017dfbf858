package netns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/ha/drill"
)

// The file systems of nodes with disks of their own: ext4 on a loop device. A
// device mapper is not needed: ext4 itself can be frozen, made read-only as after
// an error, and shut down without its journal.
const (
	ownDisk     = 2 << 30 // a file with holes
	ownOptions  = "loop,errors=remount-ro"
	gooff       = 0x8004587D // EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	noLogFlush  = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	freeze      = 0xC0045877 // FIFREEZE, _IOWR('X', 119, int)
	thaw        = 0xC0045878 // FITHAW
	frozenFor   = 1900 * time.Millisecond
	thawedFor   = 50 * time.Millisecond
	slowerThan  = 500 * time.Millisecond // that a probe must take on a slow disk
	hungFor     = 3 * time.Second        // that one must wait at least on one that hangs
	unmountIn   = 10 * time.Second
	probeOctets = 4096
)

// A small disk has segments to match: space that is reserved ahead must not
// hide for long that the disk is full.
const (
	smallDisk    = "512m"
	smallSegment = "4MB"
)

// diskTools are needed for disks of nodes.
var diskTools = []string{"mkfs.ext4", "e2fsck", "mount", "umount", "losetup"}

func haveDiskTools() error { return have(diskTools...) }

// diskKinds can be done to disks of nodes.
var diskKinds = []drill.Kind{drill.SlowDisk, drill.ReadOnlyDisk, drill.FailDisk, drill.HangDisk, drill.PowerCut, drill.MendDisk}

// disk is the file system of a node.
type disk struct {
	host, dir string
	seen      string // dir, from this process
	image     string // "" for one in memory

	mu   sync.Mutex // guards slow; held while the disk is changed
	slow *slowness
}

// slowness freezes and thaws a file system in turn.
type slowness struct {
	dir  *os.File
	end  context.CancelFunc
	done chan struct{}
}

// makeDisks gives nodes the disks that were asked for, where only they see them:
// whatever else this host starts would keep them from being unmounted. The folder
// becomes a mount whose changes reach the nodes, each of which has a namespace of
// mounts: what is unmounted by the spawner is then unmounted there.
func (lab *Lab) makeDisks(ctx context.Context) error {
	if lab.o.Disk == HostDisk {
		return nil
	}
	lab.l.segment = smallSegment
	var err error
	if lab.l.root, err = lab.spawner.leave(); err != nil {
		return err
	}
	return lab.spawner.do(func() error { return lab.mountDisks(ctx) })
}

func (lab *Lab) mountDisks(ctx context.Context) error {
	dir := lab.l.dir
	if err := errors.Join(unix.Mount(dir, dir, "", unix.MS_BIND, ""), unix.Mount("", dir, "", unix.MS_SHARED, "")); err != nil {
		return fmt.Errorf("mounting %s on itself: %w", dir, err)
	}
	roles := map[string]string{}
	for _, m := range lab.l.voters {
		roles[m.host] = m.role
	}
	for _, h := range lab.l.hosts() {
		d := &disk{host: h, dir: lab.l.nodeDir(h), seen: lab.l.file(h)}
		var err error
		switch {
		case lab.o.Disk == SmallDisk && roles[h] != drill.RoleData:
			continue
		case lab.o.Disk == SmallDisk:
			err = unix.Mount("tmpfs", d.dir, "tmpfs", 0, "mode=0700,size="+smallDisk)
		default:
			d.image = d.dir + ".img"
			err = d.format(ctx)
		}
		if err != nil {
			return fmt.Errorf("disk of %s: %w", h, err)
		}
		lab.disks = append(lab.disks, d)
	}
	return nil
}

func (d *disk) format(ctx context.Context) error {
	f, err := os.OpenFile(d.image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(ownDisk), f.Close()); err != nil {
		return err
	}
	if _, err := command(ctx, "", "mkfs.ext4", "-q", "-m", "0", "-J", "size=16", d.image); err != nil {
		return err
	}
	return d.mount(ctx)
}

func (d *disk) mount(ctx context.Context) error {
	_, err := command(ctx, "", "mount", "-t", "ext4", "-o", ownOptions, d.image, d.dir)
	return err
}

// flushDisks makes what stands on the disks of nodes outlive a loss of power.
func (lab *Lab) flushDisks() error {
	for _, d := range lab.disks {
		f, err := os.Open(d.seen)
		if err != nil {
			return err
		}
		err = unix.Syncfs(int(f.Fd()))
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("flushing the disk of %s: %w", d.host, err)
		}
	}
	return nil
}

func (lab *Lab) diskOf(host string) (*disk, error) {
	for _, d := range lab.disks {
		if d.host == host && d.image != "" {
			return d, nil
		}
	}
	return nil, fmt.Errorf("%s has no disk of its own", host)
}

// disk makes a fault of a disk, or mends it.
func (lab *Lab) disk(ctx context.Context, a drill.Action) error {
	d, err := lab.diskOf(a.Node)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch p := lab.procs[a.Node]; a.Kind {
	case drill.SlowDisk:
		return d.slowDown(frozenFor)
	case drill.HangDisk:
		return d.slowDown(math.MaxInt64)
	case drill.ReadOnlyDisk:
		return d.breakIt(ctx)
	case drill.FailDisk:
		return d.shutDown()
	case drill.PowerCut:
		return errors.Join(d.shutDown(), p.stop(syscall.SIGKILL))
	case drill.MendDisk:
		if d.slow != nil {
			return d.speedUp()
		}
		if err := p.stop(syscall.SIGKILL); err != nil {
			return err
		}
		if err := lab.spawner.do(func() error { return d.mend(ctx) }); err != nil {
			return err
		}
		return p.start()
	}
	return fmt.Errorf("%s is not possible here", a.Kind)
}

// shutDown has the file system stop at once, its journal not written: what was
// not flushed is lost, everything from now on fails.
func (d *disk) shutDown() error {
	f, err := os.Open(d.seen)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), gooff, noLogFlush)
}

// breakIt has ext4 find an error in itself, as it does when a disk returns
// nonsense: by its mount options it goes read-only.
func (d *disk) breakIt(ctx context.Context) error {
	dev, err := command(ctx, "", "losetup", "-n", "-O", "NAME", "-j", d.image)
	if err != nil {
		return err
	}
	trigger := filepath.Join("/sys/fs/ext4", filepath.Base(strings.TrimSpace(dev)), "trigger_fs_error")
	return os.WriteFile(trigger, []byte("drill\n"), 0)
}

// mend checks a file system and mounts it again. The journal is replayed.
func (d *disk) mend(ctx context.Context) error {
	if err := d.release(ctx); err != nil {
		return err
	}
	// Status 1: errors were corrected.
	if out, err := command(ctx, "", "e2fsck", "-p", d.image); err != nil && !strings.Contains(err.Error(), "exit status 1:") {
		return fmt.Errorf("%w: %s", err, out)
	}
	return d.mount(ctx)
}

// release unmounts a file system and waits until its device is free: the last
// process that had it leaves a moment after its end.
func (d *disk) release(ctx context.Context) error {
	if err := unix.Unmount(d.dir, 0); err != nil {
		return fmt.Errorf("unmounting the disk of %s: %w", d.host, err)
	}
	for deadline := time.Now().Add(unmountIn); ; {
		out, err := command(ctx, "", "losetup", "-j", d.image)
		if err == nil && strings.TrimSpace(out) == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the disk of %s is still in use: %s %w", d.host, out, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// slowDown freezes the file system for some time, again and again until speedUp.
func (d *disk) slowDown(frozen time.Duration) error {
	if d.slow != nil {
		return nil
	}
	f, err := os.Open(d.seen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &slowness{f, cancel, make(chan struct{})}
	d.slow = s
	go func() {
		defer close(s.done)
		for ctx.Err() == nil {
			_ = unix.IoctlSetInt(int(f.Fd()), freeze, 0) // a probe sees whether it is slow
			pause(ctx, frozen)
			_ = unix.IoctlSetInt(int(f.Fd()), thaw, 0)
			pause(ctx, thawedFor)
		}
	}()
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (d *disk) speedUp() error {
	if d.slow == nil {
		return nil
	}
	d.slow.end()
	<-d.slow.done
	err := d.slow.dir.Close()
	d.slow = nil
	return err
}

// thaw ends every slowness: a process that waits for a frozen file system cannot
// end.
func (lab *Lab) thaw() {
	for _, d := range lab.disks {
		d.mu.Lock()
		_ = d.speedUp() // an error of Close changes nothing here
		d.mu.Unlock()
	}
}

// seeDisk writes and flushes a file of its own.
func (lab *Lab) seeDisk(a drill.Action) (string, error) {
	d, err := lab.diskOf(a.Node)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if a.Kind == drill.HangDisk {
		return d.seeHung()
	}
	err = d.probe()
	took := time.Since(began).Round(time.Millisecond)
	want := map[drill.Kind]error{drill.ReadOnlyDisk: unix.EROFS, drill.FailDisk: unix.EIO, drill.PowerCut: unix.EIO}[a.Kind]
	switch {
	case a.Kind == drill.SlowDisk && (err != nil || took < slowerThan):
		return "", fmt.Errorf("a write and a flush of %d octets took %v: %w", probeOctets, took, err)
	case a.Kind == drill.SlowDisk:
		return fmt.Sprintf("a write and a flush of %d octets took %v", probeOctets, took), nil
	case !errors.Is(err, want):
		return "", fmt.Errorf("a write to the disk of %s: %v, want %v", a.Node, err, want)
	}
	return fmt.Sprintf("a write to the disk gives: %v", want), nil
}

// seeHung has a probe of its own wait for the disk, which ends when that is mended.
func (d *disk) seeHung() (string, error) {
	done := make(chan error, 1)
	go func() { done <- d.probe() }()
	t := time.NewTimer(hungFor)
	defer t.Stop()
	select {
	case err := <-done:
		return "", fmt.Errorf("a write to the disk of %s has returned: %w", d.host, err)
	case <-t.C:
		return fmt.Sprintf("a write and a flush of %d octets have not returned after %v", probeOctets, hungFor), nil
	}
}

func (d *disk) probe() error {
	f, err := os.OpenFile(filepath.Join(d.seen, "probe"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, probeOctets))
	return errors.Join(err, f.Sync(), f.Close())
}
