package embedded

import (
	"net"
	"syscall"
)

// peerUID is the user that the process at the other end of a Unix socket runs
// as.
func peerUID(nc net.Conn) (uid int, ok bool) {
	u, isUnix := nc.(*net.UnixConn)
	if !isUnix {
		return 0, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *syscall.Ucred
	if err := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil || cred == nil {
		return 0, false
	}
	return int(cred.Uid), true
}
