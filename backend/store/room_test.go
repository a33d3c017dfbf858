package store

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// smallDisk is a file system in memory with so many octets. Each file takes what
// was written to it or reserved.
type smallDisk struct {
	vfs.FS

	mu    sync.Mutex // guards what follows
	files map[string]int64
	size  int64
	ops   int  // that needed room
	fill  int  // at which of them the disk becomes full; 0: never
	taken bool // what is given back then is taken by somebody else, too
	full  int  // operations that found it full
}

func newSmallDisk(size int64) *smallDisk {
	return &smallDisk{FS: vfs.NewMem(), files: map[string]int64{}, size: size}
}

func (d *smallDisk) used() (n int64) {
	for _, size := range d.files {
		n += size
	}
	return n
}

// resize makes the disk so much larger, or as small as what is on it.
func (d *smallDisk) resize(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size, d.fill, d.taken = size, 0, false
}

func (d *smallDisk) met() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.full
}

// take gives a file up to n octets, and says how many there were.
func (d *smallDisk) take(name string, n int64) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ops++; d.ops == d.fill {
		d.size = d.used() // somebody else has taken the rest
	}
	got := max(min(n, d.size-d.used()), 0)
	d.files[name] += got
	if got < n {
		d.full++
		return got, &fsError{name}
	}
	return got, nil
}

type fsError struct{ name string }

func (e *fsError) Error() string { return e.name + ": " + syscall.ENOSPC.Error() }
func (e *fsError) Unwrap() error { return syscall.ENOSPC }

const inode = 256 // octets that a file takes by itself

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	d.mu.Lock()
	delete(d.files, name)
	d.mu.Unlock()
	if _, err := d.take(name, inode); err != nil {
		d.forget(name)
		return nil, err
	}
	f, err := d.FS.Create(name, c)
	return smallFile{f, d, name}, err
}

func (d *smallDisk) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, name)
}

func (d *smallDisk) Remove(name string) error {
	err := d.FS.Remove(name)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.files, name)
		if d.taken && d.fill > 0 && d.ops >= d.fill {
			d.size = min(d.size, d.used())
		}
	}
	return err
}

func (d *smallDisk) Rename(from, to string) error {
	err := d.FS.Rename(from, to)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.files[to] = d.files[from]
		delete(d.files, from)
	}
	return err
}

type smallFile struct {
	vfs.File
	d    *smallDisk
	name string
}

func (f smallFile) Write(p []byte) (int, error) {
	got, full := f.d.take(f.name, int64(len(p)))
	n, err := f.File.Write(p[:got])
	return n, errors.Join(err, full)
}

func (f smallFile) Preallocate(_, n int64) error {
	_, err := f.d.take(f.name, n)
	return err
}

// rows is a store with rows that the test knows.
type rows struct {
	t    *testing.T
	s    *Store
	st   State
	b    *Batch
	want map[string]bool
}

func openRows(t *testing.T, d *smallDisk) *rows {
	t.Helper()
	return openRowsOn(t, d, "meta")
}

func openRowsOn(t *testing.T, d FS, dir string) *rows {
	t.Helper()
	s, err := Open(dir, nil, Options{FS: d, MemTableSize: 16 << 10, OnDiskFailure: func(err error) { t.Errorf("the process would end: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	r := &rows{t: t, s: s, want: map[string]bool{}}
	if r.st, err = s.State(); err != nil {
		t.Fatal(err)
	}
	r.b = s.NewBatch(&r.st)
	return r
}

func (r *rows) put(i int) {
	r.t.Helper()
	name := fmt.Sprintf("%06d", i) + strings.Repeat("x", 500)
	r.b.PutSubscribed(1, name, true)
	r.want[name] = true
	r.st.Applied++
	if err := r.b.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rows) remove() {
	r.t.Helper()
	for name := range r.want {
		r.b.PutSubscribed(1, name, false)
		delete(r.want, name)
		break
	}
	r.st.Applied++
	if err := r.b.Commit(); err != nil {
		r.t.Fatal(err)
	}
}

// check reads everything.
func (r *rows) check(what string) {
	r.t.Helper()
	n, err := r.s.Snapshot()
	if err != nil {
		r.t.Fatal(err)
	}
	defer n.Close()
	got := map[string]bool{}
	if err := n.Subscriptions(1, func(name string) { got[name] = true }); err != nil {
		r.t.Fatal(err)
	}
	if !maps.Equal(got, r.want) {
		r.t.Errorf("%s: %d rows, want %d", what, len(got), len(r.want))
	}
}

// close flushes and closes the store.
func (r *rows) close() {
	r.t.Helper()
	r.b.Close()
	if err := r.s.Close(); err != nil {
		r.t.Error(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func shortTimes(t *testing.T) {
	t.Helper()
	was := waitTimes
	waitTimes = times{retry: time.Millisecond, compact: 5 * time.Millisecond, stuck: 20 * time.Millisecond}
	t.Cleanup(func() { waitTimes = was })
}

// TestFullDisk has the disk become full to the last octet at each operation that
// needs room in turn, flushes, compactions and the manifest among them, and then
// has room again: nothing ends the process, reads and small changes go on, a flush
// says that there is no room or succeeds by the reserve, and what was committed is
// there afterwards, also when the store is opened again.
func TestFullDisk(t *testing.T) {
	shortTimes(t)
	for name, taken := range map[string]bool{"the reserve is there": false, "somebody else takes the reserve": true} {
		t.Run(name, func(t *testing.T) { fullDisk(t, taken) })
	}
}

func fullDisk(t *testing.T, taken bool) {
	const room = 8 << 20
	found, waited := 0, 0
	for at := 1; ; at++ {
		d := newSmallDisk(room)
		r := openRows(t, d)
		d.mu.Lock()
		d.ops, d.fill, d.taken = 0, at, taken
		d.mu.Unlock()
		for i := range 150 {
			r.put(i)
			if i%3 == 2 {
				r.remove()
			}
			if i%10 != 9 {
				continue
			}
			if err := r.s.Flush(); err != nil && !errors.Is(err, ErrNoRoom) {
				t.Fatalf("operation %d: flush: %v", at, err)
			} else if err != nil {
				waited++
				break
			}
		}
		r.check("full")
		d.mu.Lock()
		done := d.fill >= d.ops
		d.mu.Unlock()
		if d.met() > 0 {
			found++
		}
		r.put(1000)
		r.remove()
		r.check("changed while full")
		d.resize(2 * room)
		eventually(t, "there is room", func() bool { return !r.s.Low() && !r.s.Full() })
		eventually(t, "a flush", func() bool { return r.s.Flush() == nil })
		r.check("room again")
		r.close()
		again := openRows(t, d)
		again.want = r.want
		again.check("opened again")
		again.close()
		if done {
			break
		}
	}
	t.Logf("the disk was found full %d times, rows waited %d times", found, waited)
	if found < 20 || taken && waited == 0 {
		t.Errorf("the disk was found full %d times, rows waited %d times", found, waited)
	}
}

// TestReserve: what is in memory when the disk becomes full is written by means of
// the reserve. There is none until there is room for it again.
func TestReserve(t *testing.T) {
	shortTimes(t)
	d := newSmallDisk(8 << 20)
	r := openRows(t, d)
	for i := range 20 {
		r.put(i)
	}
	if r.s.Low() {
		t.Error("low on an empty disk")
	}
	d.mu.Lock()
	d.size = d.used()
	d.mu.Unlock()
	if err := r.s.Flush(); err != nil {
		t.Errorf("flush of what was in memory: %v", err)
	}
	if !r.s.Low() || d.met() == 0 {
		t.Errorf("low is %v after %d operations found the disk full", r.s.Low(), d.met())
	}
	d.resize(8 << 20)
	eventually(t, "the reserve is back", func() bool { return !r.s.Low() })
	r.close()

	// A disk that has no room for the reserve is low from the beginning.
	d.mu.Lock()
	d.size = d.used() - d.files["meta/reserve"] + 8<<10
	d.mu.Unlock()
	r = openRows(t, d)
	if !r.s.Low() {
		t.Error("there is no room for the reserve and rows are not low")
	}
	d.resize(8 << 20)
	eventually(t, "the reserve is made", func() bool { return !r.s.Low() })
	r.close()
}

// TestFullMemory: when rows can neither be written nor kept in memory much longer,
// no change is to be taken; reading goes on.
func TestFullMemory(t *testing.T) {
	shortTimes(t)
	d := newSmallDisk(8 << 20)
	r := openRows(t, d)
	d.mu.Lock()
	d.files["somebody else's"] = d.size - d.used()
	d.mu.Unlock()
	r.put(0)
	eventually(t, "the reserve is given up", func() bool {
		if err := r.s.Flush(); err != nil && !errors.Is(err, ErrNoRoom) {
			t.Fatal(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if have := d.size - d.used(); have > 0 { // takes what the reserve was, too
			d.files["somebody else's"] += have
		}
		return r.s.room.isStuck()
	})
	for i := 1; !r.s.Full(); i++ {
		r.put(i)
		if i == 200 {
			t.Fatal("never full")
		}
	}
	r.check("full memory")
	d.forget("somebody else's")
	eventually(t, "there is room", func() bool { return !r.s.Low() && !r.s.Full() })
	r.put(5000)
	r.check("room again")
	r.close()
}
