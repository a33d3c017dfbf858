package seglog

import (
	"errors"
	"syscall"
	"testing"

	"github.com/postern-mail/postern/shared/fsx/faultfs"
)

// TestStableCrash crashes after every operation: term and vote are those of
// the last Set that returned, or of the one that was running.
func TestStableCrash(t *testing.T) {
	for n := 0; ; n++ {
		fsys := faultfs.New(1)
		must(t, fsys.MkdirAll("/r", 0o700))
		must(t, fsys.SyncDir("/"))
		fsys.CrashAfter(2 + n)
		done := 0
		s, err := OpenStable(fsys, "/r/stable", nil)
		for i := 1; err == nil && i <= 20; i++ {
			if i%3 == 0 {
				if err = s.Set([]byte("vote"), []byte("same")); err != nil { // written once
					break
				}
			}
			if err = s.SetUint64([]byte("term"), uint64(i)); err == nil {
				done = i
			}
			if i == 3 && err == nil && s.Syncs() != 4 {
				t.Fatalf("%d flushes for 4 changes", s.Syncs())
			}
		}
		for seed := range uint64(30) {
			disk := fsys.Crash(seed)
			again, oerr := OpenStable(disk, "/r/stable", nil)
			if oerr != nil {
				t.Fatalf("crash after %d, seed %d: %v", n, seed, oerr)
			}
			term, gerr := again.GetUint64([]byte("term"))
			if errors.Is(gerr, ErrNoKey) {
				term = 0
			} else if gerr != nil {
				t.Fatal(gerr)
			}
			if term != uint64(done) && term != uint64(done)+1 {
				t.Fatalf("crash after %d, seed %d: term %d, %d was set", n, seed, term, done)
			}
			must(t, again.Close())
		}
		if done == 20 {
			return
		}
	}
}

// TestStableKilled ends the process after each operation, opens the file, and
// cuts the power then: what was read then stays, since raft goes by it.
func TestStableKilled(t *testing.T) {
	for n := 0; ; n++ {
		fsys := faultfs.New(1)
		must(t, fsys.MkdirAll("/r", 0o700))
		must(t, fsys.SyncDir("/"))
		fsys.CrashAfter(2 + n)
		done := 0
		s, err := OpenStable(fsys, "/r/stable", nil)
		for i := 1; err == nil && i <= 5; i++ {
			if err = s.SetUint64([]byte("term"), uint64(i)); err == nil {
				done = i
			}
		}
		fsys.CrashAfter(1 << 40)
		s, err = OpenStable(fsys, "/r/stable", nil)
		must(t, err)
		read, err := s.GetUint64([]byte("term"))
		if err != nil && !errors.Is(err, ErrNoKey) {
			t.Fatal(err)
		}
		for seed := range uint64(10) {
			s, err := OpenStable(fsys.Crash(seed), "/r/stable", nil)
			if err != nil {
				t.Fatalf("killed after %d, power cut, seed %d: %v", n, seed, err)
			}
			if now, _ := s.GetUint64([]byte("term")); now != read {
				t.Fatalf("killed after %d, term %d was read; after the power cut, seed %d, it is %d", n, read, seed, now)
			}
			must(t, s.Close())
		}
		must(t, s.SetUint64([]byte("term"), 100))
		again, err := OpenStable(fsys.Crash(0), "/r/stable", nil)
		must(t, err)
		if now, _ := again.GetUint64([]byte("term")); now != 100 {
			t.Fatalf("killed after %d, then term 100 was set; after the power cut it is %d", n, now)
		}
		must(t, again.Close())
		must(t, s.Close())
		if done == 5 {
			return
		}
	}
}

func TestStableFailure(t *testing.T) {
	fsys := faultfs.New(1)
	told := 0
	s, err := OpenStable(fsys, "/stable", func(error) { told++ })
	must(t, err)
	fsys.FailNext(faultfs.Sync, 1, syscall.EIO)
	if err := s.SetUint64([]byte("term"), 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("Set = %v", err)
	}
	if err := s.SetUint64([]byte("term"), 2); !errors.Is(err, ErrFailed) || told != 1 {
		t.Errorf("Set after a failure = %v, told %d times", err, told)
	}
}

func TestStableTooLarge(t *testing.T) {
	s, err := OpenStable(faultfs.New(1), "/stable", nil)
	must(t, err)
	if err := s.Set([]byte("k"), make([]byte, slotSize)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Set = %v", err)
	}
	if _, err := s.Get([]byte("k")); !errors.Is(err, ErrNoKey) || err.Error() != "not found" {
		t.Errorf("Get = %v", err)
	}
	must(t, s.Set([]byte("k"), []byte("v")))
	if v, err := s.Get([]byte("k")); string(v) != "v" || err != nil {
		t.Errorf("Get = %q, %v", v, err)
	}
}

func FuzzParseSlot(f *testing.F) {
	s := Stable{seq: 3, keys: []string{"a"}, values: map[string][]byte{"a": []byte("b")}}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == slotSize { // make the CRC right, to get past it
			copy(b, slotMagic[:])
			c := crcOf(b[:slotSize-4])
			copy(b[slotSize-4:], []byte{byte(c), byte(c >> 8), byte(c >> 16), byte(c >> 24)})
		}
		_, values, err := parseSlot(b)
		if err == nil && values == nil {
			t.Error("no values and no error")
		}
	})
}
