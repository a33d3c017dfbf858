package fsx_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
	"github.com/postern-mail/postern/shared/fsx/faultfs"
	"github.com/postern-mail/postern/shared/peertest"
)

// TestContract holds the real file system and the fake to the same rules.
func TestContract(t *testing.T) {
	for name, tt := range map[string]struct {
		fsys fsx.FS
		root string
	}{
		"os":      {fsx.OS, t.TempDir()},
		"faultfs": {faultfs.New(1), "/root"},
	} {
		t.Run(name, func(t *testing.T) { contract(t, tt.fsys, tt.root) })
	}
}

// TestMkdirKilled ends the process during MkdirAllSync, calls it again, and
// cuts the power: the directory is there.
func TestMkdirKilled(t *testing.T) {
	for n := range 8 {
		fsys := faultfs.New(1)
		fsys.CrashAfter(n)
		_ = fsx.MkdirAllSync(fsys, "/a/b/c", 0o700) // fails, except at the end
		fsys.CrashAfter(1 << 40)
		must(t, fsx.MkdirAllSync(fsys, "/a/b/c", 0o700))
		for seed := range uint64(10) {
			if _, err := fsys.Crash(seed).ReadDir("/a/b/c"); err != nil {
				t.Errorf("killed after %d, power cut, seed %d: %v", n, seed, err)
			}
		}
	}
}

func contract(t *testing.T, fsys fsx.FS, root string) {
	dir := filepath.Join(root, "a", "b")
	must(t, fsx.MkdirAllSync(fsys, dir, 0o700))
	name := filepath.Join(dir, "x")
	if _, err := fsx.Open(fsys, name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
	f, err := fsx.Create(fsys, name)
	must(t, err)
	if _, err := fsx.Create(fsys, name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create again: %v", err)
	}
	must(t, f.Allocate(10_000))
	if size, err := f.Size(); size != 10_000 || err != nil {
		t.Errorf("Size after Allocate = %d, %v", size, err)
	}
	var bufs [][]byte
	var want []byte
	for i := range 3000 { // more than one system call takes
		b := bytes.Repeat([]byte{byte(i)}, i%5)
		bufs, want = append(bufs, b), append(want, b...)
	}
	if n, err := f.WriteVecAt(bufs, 100); n != len(want) || err != nil {
		t.Errorf("WriteVecAt = %d, %v; want %d", n, err, len(want))
	}
	must(t, f.Sync())
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 100)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("WriteVecAt wrote something else")
	}
	must(t, f.Truncate(50))
	must(t, f.Close())
	must(t, fsys.Rename(name, name+"2"))
	must(t, fsys.Link(name+"2", name+"3"))
	if err := fsys.Link(name+"2", name+"3"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Link over a name: %v", err)
	}
	must(t, fsx.WriteFileAtomic(fsys, filepath.Join(dir, "w"), []byte("one")))
	must(t, fsx.WriteFileAtomic(fsys, filepath.Join(dir, "w"), []byte("two!")))
	data, err := fsx.ReadFile(fsys, filepath.Join(dir, "w"))
	if string(data) != "two!" || err != nil {
		t.Errorf("ReadFile = %q, %v", data, err)
	}
	names, err := fsys.ReadDir(dir)
	if want := []string{"w", "x2", "x3"}; !slices.Equal(names, want) || err != nil {
		t.Errorf("ReadDir = %v, %v; want %v", names, err, want)
	}
	must(t, fsys.Remove(name+"2"))
	if err := fsys.Remove(name + "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove of nothing: %v", err)
	}
	must(t, fsys.SyncDir(dir))
	l, err := fsys.Lock(filepath.Join(dir, "lock"))
	must(t, err)
	if _, err := fsys.Lock(filepath.Join(dir, "lock")); !errors.Is(err, fsx.ErrLocked) {
		t.Errorf("second Lock: %v", err)
	}
	must(t, l.Close())
	l, err = fsys.Lock(filepath.Join(dir, "lock"))
	must(t, err)
	must(t, l.Close())
}

// TestWriteFileAtomic crashes after every operation: the file has one of the
// contents, and the last one whose write was reported done, or a later one.
func TestWriteFileAtomic(t *testing.T) {
	contents := []string{"first", "the second, which is longer", "3"}
	for n := 0; ; n++ {
		fsys := faultfs.New(1)
		must(t, fsys.MkdirAll("/d", 0o700))
		must(t, fsys.SyncDir("/"))
		fsys.CrashAfter(2 + n)
		done := -1
		for i, c := range contents {
			if fsx.WriteFileAtomic(fsys, "/d/f", []byte(c)) != nil {
				break
			}
			done = i
		}
		for seed := range uint64(50) {
			data, err := fsx.ReadFile(fsys.Crash(seed), "/d/f")
			got := slices.Index(contents, string(data))
			if err != nil && (done >= 0 || !errors.Is(err, fs.ErrNotExist)) || err == nil && got < max(done, 0) {
				t.Fatalf("crash after %d operations, seed %d: content %q (%v), %d writes done", n, seed, data, err, done+1)
			}
		}
		if done == len(contents)-1 {
			return
		}
	}
}

func TestErrNoSpace(t *testing.T) {
	fsys := faultfs.New(1)
	fsys.SetCapacity(100)
	f, err := fsx.Create(fsys, "/f")
	must(t, err)
	if err := f.Allocate(101); !errors.Is(err, fsx.ErrNoSpace) {
		t.Errorf("Allocate beyond the capacity: %v", err)
	}
	must(t, f.Allocate(100))
	if _, err := f.WriteAt(make([]byte, 50), 50); err != nil {
		t.Errorf("write inside the reserved size: %v", err)
	}
	if _, err := f.WriteAt(make([]byte, 51), 50); !errors.Is(err, fsx.ErrNoSpace) {
		t.Errorf("write beyond it: %v", err)
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		peertest.Lacks(t, "/dev/full is not there")
	}
	full, err := fsx.OS.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	if _, err := full.WriteAt([]byte("x"), 0); !errors.Is(err, fsx.ErrNoSpace) {
		t.Errorf("write to a full device: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
