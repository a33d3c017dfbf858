package cli

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

const canFindOwner = true

// socketOwner is the process that listens on a unix socket.
func socketOwner(path string) (int, error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) { cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, fmt.Errorf("%s: %w", path, serr)
	}
	return int(cred.Pid), nil
}
