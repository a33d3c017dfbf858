//go:build !linux

package bench

import "time"

func look(int) (cpu time.Duration, memory int64, ok bool) { return 0, 0, false }
