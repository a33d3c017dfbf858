package milter

import (
	"net"

	"golang.org/x/sys/unix"
)

// quickACK says that what comes next has come without waiting for something to send
// with that, which takes 40 ms. It holds for the next octets only.
func quickACK(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		})
	}
}
