package raftnet

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// ErrBroken is returned by Watch when the connection ended without a farewell.
var ErrBroken = errors.New("raftnet: watched connection broke")

// Watch holds a connection to a member until it ends: nil after the member's
// farewell, ErrBroken if it broke, another error if there was none or ctx
// ended. It calls made when the connection stands.
func (t *Transport) Watch(ctx context.Context, id, addr string, made func()) error {
	l, err := t.dial(ctx, id, addr, forWatch)
	if err != nil {
		return err
	}
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	l.deadline(0)
	made()
	kind, _, _, err := l.receive()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && kind == kindGoodbye:
		return nil
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

// Refused reports whether the host of a member answers that nothing listens
// at its address.
func (t *Transport) Refused(ctx context.Context, id, addr string) bool {
	if a := t.cfg.Resolve(id); a != "" {
		addr = a
	}
	addr = hostPort(addr)
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := t.cfg.Dial(ctx, "tcp", addr)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
