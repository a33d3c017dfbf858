//go:build !planted_stale

package replica

import "time"

// leased reports whether the lease lasts.
func (r *Replica) leased() bool {
	return int64(time.Since(epoch)) < r.lease.until.Load() && r.Serving() && r.lease.term.Load() == r.serve.term.Load()
}
