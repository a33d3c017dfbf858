package group

import (
	"sync"
	"syscall"
	"time"
)

// Room returns what the files below dir take and the most that they may; without
// a limit that is what they take and what is free. It is looked at once a second
// at most.
func Room(dir string, limit func() int64) func() (used, most int64) {
	var mu sync.Mutex
	var at time.Time
	var used, most int64
	return func() (int64, int64) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) < time.Second {
			return used, most
		}
		at = time.Now()
		used, most = DirSize(dir), limit()
		if most > 0 {
			return used, most
		}
		var st syscall.Statfs_t
		if syscall.Statfs(dir, &st) == nil {
			most = used + int64(st.Bavail)*int64(st.Bsize) //nolint:gosec // octets of a disk
		}
		return used, most
	}
}
