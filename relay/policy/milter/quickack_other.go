//go:build !linux

package milter

import "net"

func quickACK(net.Conn) {}
