package smtp

import (
	"context"
	"errors"
)

// Client is one connection to an SMTP or LMTP server.
type Client struct{}

// Dial connects to addr, reads the banner, says EHLO or LHLO and starts TLS.
func Dial(ctx context.Context, addr string, cfg ClientConfig) (*Client, error) {
	return nil, errors.New("smtp: no client")
}

// Extension reports whether the peer offers name, and its parameters.
func (c *Client) Extension(name string) (params string, ok bool) { return "", false }

// Send sends one transaction.
func (c *Client) Send(ctx context.Context, t *Transaction) (*Result, error) { return nil, nil }

// Auth logs in.
func (c *Client) Auth(ctx context.Context, mech, user, password string) error { return nil }

// Reset sends RSET.
func (c *Client) Reset(ctx context.Context) error { return nil }

// Noop sends NOOP.
func (c *Client) Noop(ctx context.Context) error { return nil }

// Quit sends QUIT and closes the connection.
func (c *Client) Quit(ctx context.Context) error { return nil }

// Close closes the connection without QUIT.
func (c *Client) Close() error { return nil }

// Usable reports whether another transaction can be sent.
func (c *Client) Usable() bool { return false }
