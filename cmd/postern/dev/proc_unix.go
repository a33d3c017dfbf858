//go:build unix && !linux

package dev

import "syscall"

// sysProcAttr puts a node into a process group of its own, so that ^C reaches
// only us.
func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
