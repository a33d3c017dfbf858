//go:build !linux

package dispatcher

import (
	"net"
	"syscall"
	"time"
)

func setTimeouts(syscall.RawConn, net.KeepAliveConfig, time.Duration) {}
