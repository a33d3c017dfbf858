//go:build planted_floor

package voter

import (
	"math"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// Planted: a member that does not answer does not hold the floor back.
func (f *floor) of(id string, answers map[string]raftnet.Status) (uint64, bool) {
	if _, ok := answers[id]; !ok {
		return math.MaxUint64, true
	}
	return f.applied[id], true
}
