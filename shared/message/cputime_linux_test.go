package message

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this thread has used of a processor, which other work on the
// machine does not change much.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
