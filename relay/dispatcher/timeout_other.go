//go:build !linux

package dispatcher

import (
	"net"
	"time"
)

func setUserTimeout(*net.TCPConn, time.Duration) {}
