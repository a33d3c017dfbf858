//go:build !linux

package netns

import (
	"context"
	"net"
)

// Dial returns why it cannot.
func Dial(context.Context, string, string, string) (net.Conn, error) { return nil, errLinux }
