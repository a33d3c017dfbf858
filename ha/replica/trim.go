package replica

// Trim lets raft forget the entries that every data replica has in its state
// for good, so that the segments they are in may be compacted. It is called now
// and then.
func (r *Replica) Trim() error { return r.v.Trim() }
