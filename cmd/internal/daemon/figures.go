package daemon

import (
	"context"
	"syscall"
	"time"

	"github.com/postern-mail/postern/shared/metrics"
)

// figures registers what every daemon tells of itself when it is scraped.
func (n *Node[T]) figures() {
	reg := n.Metrics
	reg.GaugeFunc(metrics.CertificateEnd, "End of this node's certificate.", nil, func() float64 {
		return float64(n.TLS.NotAfter().Unix())
	})
	reg.GaugeFunc(metrics.Draining, "1 while this node takes no new work.", nil, func() float64 { return truth(n.Draining()) })
	for _, c := range append(n.checks, metrics.Check{Name: "node", Ready: n.isReady}) {
		reg.GaugeFunc(metrics.Ready, "1 while a condition of being ready holds.", map[string]string{"check": c.Name}, func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return truth(c.Ready(ctx) == nil)
		})
	}
	n.Volume("state", n.common.Dir)
}

// Volume registers the room of the file system that dir is on, under a name.
func (n *Node[T]) Volume(name, dir string) {
	room := func(of func(*syscall.Statfs_t) uint64) func() float64 {
		return func() float64 {
			var st syscall.Statfs_t
			if syscall.Statfs(dir, &st) != nil {
				return 0 // none, as far as anybody can tell
			}
			return float64(of(&st)) * float64(st.Bsize)
		}
	}
	labels := map[string]string{"volume": name}
	n.Metrics.GaugeFunc(metrics.DiskFree, "Room that is left on a file system.", labels, room(func(st *syscall.Statfs_t) uint64 { return st.Bavail }))
	n.Metrics.GaugeFunc(metrics.DiskSize, "Size of a file system.", labels, room(func(st *syscall.Statfs_t) uint64 { return st.Blocks }))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
