//go:build !planted_floor

package voter

import "github.com/postern-mail/postern/ha/replica/raftnet"

// of is what a member has applied, as it said now or when it last answered. The
// caller holds mu.
func (f *floor) of(id string, _ map[string]raftnet.Status) (uint64, bool) {
	a, ok := f.applied[id]
	return a, ok
}
