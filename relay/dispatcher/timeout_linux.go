package dispatcher

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setTimeouts sets keepalive and the bound of unacknowledged data (RFC 5482) on
// a listening socket; the connections it accepts inherit them, which saves
// several system calls for each.
func setTimeouts(c syscall.RawConn, k net.KeepAliveConfig, user time.Duration) {
	_ = c.Control(func(fd uintptr) {
		set := func(level, option, value int) { _ = unix.SetsockoptInt(int(fd), level, option, value) }
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		set(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, max(1, int(k.Idle/time.Second)))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(1, int(k.Interval/time.Second)))
		set(unix.IPPROTO_TCP, unix.TCP_KEEPCNT, max(1, k.Count))
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(user.Milliseconds()))
	})
}
