package dev

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// The ports that a cluster takes lie below those that systems give to outgoing
// connections, so that none of its own connections sits on a port of a node
// that is down.
const (
	firstPort = 12_000
	lastPort  = 31_999
)

// freeAddrs finds n loopback addresses that nothing listens on, by TCP or UDP.
func freeAddrs(n int) ([]string, error) {
	var addrs []string
	size := lastPort - firstPort + 1
	port := rand.IntN(size)
	for range size {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+port))
		port = (port + 1) % size
		if !free(addr) {
			continue
		}
		if addrs = append(addrs, addr); len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, errors.New("too few free ports on 127.0.0.1")
}

// free reports whether addr can be listened on by both protocols.
func free(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	p.Close()
	return true
}
