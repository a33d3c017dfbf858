package faultfs

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/shared/fsx"
)

func TestCrashContent(t *testing.T) {
	f := New(1)
	h, err := fsx.Create(f, "/a")
	must(t, err)
	must(t, f.SyncDir("/"))
	old, fresh := bytes.Repeat([]byte("o"), 16384), bytes.Repeat([]byte("n"), 16384)
	_, err = h.WriteAt(old, 0)
	must(t, err)
	must(t, h.Sync())
	_, err = h.WriteAt(fresh, 0)
	must(t, err)

	states, sums := map[string]bool{}, map[uint64]bool{}
	for seed := range uint64(200) {
		disk := f.Crash(seed)
		sums[disk.Sum()] = true
		got, err := fsx.ReadFile(disk, "/a")
		must(t, err)
		again, _ := fsx.ReadFile(f.Crash(seed), "/a")
		if !bytes.Equal(got, again) {
			t.Fatalf("seed %d gives two states", seed)
		}
		if len(got) != len(old) {
			t.Fatalf("seed %d: %d bytes", seed, len(got))
		}
		for i := 0; i < len(got); i += 512 {
			if piece := got[i : i+512]; !bytes.Equal(piece, old[:512]) && !bytes.Equal(piece, fresh[:512]) {
				t.Fatalf("seed %d: sector %d is torn", seed, i/512)
			}
		}
		states[string(got)] = true
	}
	if !states[string(old)] || !states[string(fresh)] || len(states) < 50 {
		t.Errorf("200 crashes gave only %d states", len(states))
	}
	if len(sums) != len(states) {
		t.Errorf("%d sums for %d states", len(sums), len(states))
	}
}

func TestCrashNames(t *testing.T) {
	f := New(1)
	for _, name := range []string{"/kept", "/moved", "/gone"} {
		h, err := fsx.Create(f, name)
		must(t, err)
		_, err = h.WriteAt([]byte(name), 0)
		must(t, err)
		must(t, h.Sync())
	}
	must(t, f.SyncDir("/"))
	must(t, f.Rename("/moved", "/kept"))
	must(t, f.Remove("/gone"))
	_, err := fsx.Create(f, "/new")
	must(t, err)

	states := map[string]int{}
	for seed := range uint64(200) {
		disk := f.Crash(seed)
		names, err := disk.ReadDir("/")
		must(t, err)
		kept, err := fsx.ReadFile(disk, "/kept")
		must(t, err) // a rename never leaves the target without a file
		states[fmt.Sprint(names, string(kept))]++
	}
	// Each of three changes by itself, except that none depends on another.
	if len(states) != 8 {
		t.Errorf("%d states, want 8: %v", len(states), states)
	}
	must(t, f.SyncDir("/"))
	for seed := range uint64(20) {
		names, _ := f.Crash(seed).ReadDir("/")
		if fmt.Sprint(names) != "[kept new]" {
			t.Errorf("after SyncDir, seed %d: %v", seed, names)
		}
	}
}

func TestFailures(t *testing.T) {
	f := New(1)
	h, err := fsx.Create(f, "/a")
	must(t, err)
	must(t, f.SyncDir("/"))
	f.FailAt(f.Ops()+2, syscall.EIO)
	_, err = h.WriteAt([]byte("lost"), 0)
	must(t, err)
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Sync = %v, want EIO", err)
	}
	must(t, h.Sync()) // reports success, and the data is lost all the same
	if got, _ := fsx.ReadFile(f.Crash(1), "/a"); len(got) != 0 {
		t.Errorf("data of a failed Sync is on the disk: %q", got)
	}
	f.FailNext(Allocate, 2, fsx.ErrNoSpace)
	must(t, h.Allocate(10))
	if err := h.Allocate(20); !errors.Is(err, fsx.ErrNoSpace) {
		t.Errorf("Allocate = %v, want ErrNoSpace", err)
	}
	f.CrashAfter(f.Ops())
	if err := f.SyncDir("/"); !errors.Is(err, ErrCrashed) {
		t.Errorf("after the crash: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
