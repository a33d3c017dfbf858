//go:build planted_stale

package replica

// Planted: a lease lasts for as long as this replica believes to serve, also
// after a pause.
func (r *Replica) leased() bool { return r.Serving() }
