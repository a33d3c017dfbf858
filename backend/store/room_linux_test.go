package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/shared/peertest"
)

// TestFullVolume is TestFullDisk once on a small file system of the system's: it is
// filled to the last octet, and again with what the reserve was, and then emptied.
func TestFullVolume(t *testing.T) {
	peertest.Root(t, "mounting a small file system")
	shortTimes(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size=4m"); err != nil {
		peertest.Lacks(t, "a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	rest := filepath.Join(dir, "somebody else's")
	fill := func() {
		t.Helper()
		f, err := os.OpenFile(rest, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	r := openRowsOn(t, nil, filepath.Join(dir, "meta"))
	for i := range 60 {
		r.put(i)
	}
	if r.s.Low() {
		t.Error("low with room")
	}
	// What a compaction gives back while the disk fills may be enough for a flush, or
	// for the reserve to be made again.
	eventually(t, "the reserve is used", func() bool {
		fill()
		r.put(100)
		if err := r.s.Flush(); err != nil {
			t.Fatalf("with the reserve: %v", err)
		}
		return r.s.Low()
	})
	eventually(t, "nothing can be written", func() bool {
		fill()
		r.put(200)
		r.remove()
		err := r.s.Flush()
		if err != nil && !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
		return err != nil
	})
	r.check("full")
	r.remove()
	r.check("changed while full")
	if !r.s.Low() {
		t.Error("not low on a full disk")
	}
	if err := os.Remove(rest); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room", func() bool { return !r.s.Low() && !r.s.Full() && r.s.Flush() == nil })
	r.put(300)
	r.check("room again")
	r.close()
	again := openRowsOn(t, nil, filepath.Join(dir, "meta"))
	again.want = r.want
	again.check("opened again")
	again.close()
}
