package login

import "context"

// Has is Netgroups.has for tests.
func Has(ctx context.Context, n *Netgroups, name, user string, c *Client) (bool, error) {
	return n.has(ctx, name, user, c)
}
