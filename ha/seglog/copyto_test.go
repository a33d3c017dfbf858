package seglog

import (
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/shared/fsx"
)

// TestCopyTo copies a log that is written to, with a discarded suffix and a
// trimmed prefix in it; the copy is a log of its own and holds the same.
func TestCopyTo(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: filepath.Join(dir, "log"), SegmentSize: 32 << 10})
	for i := range uint64(40) {
		must(t, l.StoreLogs(batch(1+10*i, 1, 10, 500)))
	}
	must(t, l.DeleteRange(385, 400))
	must(t, l.StoreLogs(batch(385, 2, 10, 300)))
	l.SetFloor(100)
	must(t, l.DeleteRange(1, 49))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := uint64(395); ; i += 5 {
			select {
			case <-stop:
				return
			default:
				if err := l.StoreLogs(batch(i, 2, 5, 2000)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 5 {
		to := filepath.Join(t.TempDir(), "copy")
		last, err := l.CopyTo(to)
		must(t, err)
		names, err := fsx.OS.ReadDir(to)
		must(t, err)
		for _, name := range names {
			if isSegment(name) {
				must(t, CheckFile(fsx.OS, filepath.Join(to, name)))
			}
		}
		c := open(t, Config{Dir: to, SegmentSize: 32 << 10})
		if got, _ := c.LastIndex(); got != last || last < 394 {
			t.Errorf("the copy ends at %d, want %d", got, last)
		}
		if first, _ := c.FirstIndex(); first != 50 {
			t.Errorf("the copy begins at %d", first)
		}
		for i := uint64(50); i <= last; i++ {
			var a, b raft.Log
			must(t, l.GetLog(i, &a))
			must(t, c.GetLog(i, &b))
			if !same(&a, &b) {
				t.Fatalf("entry %d differs", i)
			}
		}
		if _, err := c.ReadEntry(3, nil); err != nil { // mail, below the first index
			t.Error(err)
		}
		must(t, c.StoreLogs(batch(last+1, 3, 3, 100)))
		must(t, c.Close())
	}
	close(stop)
	wg.Wait()
	must(t, l.Close())
	if _, err := l.CopyTo(filepath.Join(dir, "late")); !errors.Is(err, ErrClosed) {
		t.Errorf("copy of a closed log: %v", err)
	}
}

// TestCheckFile flips bits: none goes unnoticed.
func TestCheckFile(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: filepath.Join(dir, "log"), SegmentSize: 16 << 10})
	for i := range uint64(20) {
		must(t, l.StoreLogs(batch(1+10*i, 1, 10, 200)))
	}
	to := filepath.Join(dir, "copy")
	_, err := l.CopyTo(to)
	must(t, err)
	must(t, l.Close())
	names, err := fsx.OS.ReadDir(to)
	must(t, err)
	flipped := 0
	for _, name := range names {
		if !isSegment(name) {
			continue
		}
		data, err := fsx.ReadFile(fsx.OS, filepath.Join(to, name))
		must(t, err)
		bad := filepath.Join(dir, name)
		for at := 0; at < len(data); at += 997 {
			b := append([]byte(nil), data...)
			b[at] ^= 4
			must(t, fsx.WriteFileAtomic(fsx.OS, bad, b))
			flipped++
			if CheckFile(fsx.OS, bad) == nil {
				t.Errorf("%s: a flipped bit at %d of %d is not noticed", name, at, len(data))
			}
		}
	}
	if flipped < 20 {
		t.Errorf("only %d bits flipped", flipped)
	}
}

// TestCheckFileFilling: a segment that is not sealed has no checksum of the whole
// file, and the filling of its frames is looked at nevertheless.
func TestCheckFileFilling(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: filepath.Join(dir, "log")})
	must(t, l.StoreLogs(batch(1, 1, 10, 200)))
	to := filepath.Join(dir, "copy")
	_, err := l.CopyTo(to)
	must(t, err)
	must(t, l.Close())
	names, err := fsx.OS.ReadDir(to)
	must(t, err)
	checked := 0
	for _, name := range names {
		if !isSegment(name) {
			continue
		}
		file := filepath.Join(to, name)
		must(t, CheckFile(fsx.OS, file))
		data, err := fsx.ReadFile(fsx.OS, file)
		must(t, err)
		// Entry 5 is the first with extensions, so that it is filled up.
		from := headerSize + 4*int(frameLen(200, 0))
		for at := from + frameSize + 3 + 200; at < from+int(frameLen(200, 3)); at++ {
			b := append([]byte(nil), data...)
			b[at] ^= 4
			must(t, fsx.WriteFileAtomic(fsx.OS, file, b))
			if err := CheckFile(fsx.OS, file); !errors.Is(err, ErrCorrupt) {
				t.Errorf("a flipped bit at %d: %v", at, err)
			}
			checked++
		}
	}
	if checked != 5 {
		t.Errorf("%d octets of filling", checked)
	}
}
