package netns

import (
	"context"
	"net"
)

// Dial connects from the network namespace ns of this host, which somebody else may
// have made. The address is numeric.
func Dial(ctx context.Context, ns, network, addr string) (net.Conn, error) {
	return dial(ctx, ns, network, addr)
}
