package main

import (
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/metrics"
)

// memberFigures keeps the figures of the members of a pair as its serving
// replica sees them. Only the replica calls it, one call at a time.
type memberFigures struct {
	pair string
	told map[string]string // members that have figures, and of which kind
}

// set tells how the members are; none when this replica does not serve.
func (f *memberFigures) set(list []replica.Member) {
	now := map[string]string{}
	for i := range list {
		m := &list[i]
		kind, up := "data", 0.0
		if m.Witness {
			kind = "witness"
		}
		if m.Alive {
			up = 1
		}
		now[m.Name] = kind
		metrics.GroupMemberUp.With(f.pair, m.Name, kind).Set(up)
		metrics.GroupLag.With(f.pair, m.Name).Set(float64(m.Lag))
	}
	for name, kind := range f.told {
		if now[name] != kind {
			metrics.GroupMemberUp.DeleteLabelValues(f.pair, name, kind)
			metrics.GroupLag.DeleteLabelValues(f.pair, name)
		}
	}
	f.told = now
}
