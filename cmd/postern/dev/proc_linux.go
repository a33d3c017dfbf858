package dev

import "syscall"

// sysProcAttr puts a node into a process group of its own, so that ^C reaches
// only us, and has the kernel end it when we are gone.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
