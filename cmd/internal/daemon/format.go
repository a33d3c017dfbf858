package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
)

// format is the level that this node writes.
func (n *Node[T]) format() uint32 {
	if n.Format == nil {
		return version.FormatBefore
	}
	return n.Format()
}

// Members are the nodes that gossip shows; none without gossip.
func (n *Node[T]) Members() []gossip.Member {
	if n.gossip == nil {
		return nil
	}
	return n.gossip.Members()
}

// figureFormat registers the levels.
func (n *Node[T]) figureFormat() {
	n.Metrics.GaugeFunc("postern_format_known", "Newest level of formats that this release knows.", nil, func() float64 { return version.Format })
	n.Metrics.GaugeFunc("postern_format_used", "Level of formats that this node writes.", nil, func() float64 { return float64(n.format()) })
}

// Support says why not all of the named nodes can go to a level of formats: each
// has to be there, draining or not, with a release that knows the level.
func Support(members []gossip.Member, names []string, level uint32) error {
	var why []string
	for _, name := range names {
		i := slices.IndexFunc(members, func(m gossip.Member) bool { return m.Name == name })
		switch {
		case i < 0:
			why = append(why, name+" is not known by gossip")
		case members[i].State != gossip.Alive && members[i].State != gossip.Draining:
			why = append(why, fmt.Sprintf("%s is %s", name, members[i].State))
		case members[i].Known < level:
			why = append(why, fmt.Sprintf("%s runs %s, which knows formats up to %d", name, members[i].Version, members[i].Known))
		}
	}
	if len(why) > 0 {
		return fmt.Errorf("%w: format %d: %s", admin.ErrConflict, level, strings.Join(why, "; "))
	}
	return nil
}

// CheckLevel refuses a level that this release does not know.
func CheckLevel(level uint32) error {
	if level < version.FormatBefore || level > version.Format {
		return fmt.Errorf("%w: format %d: this release knows %d and %d", admin.ErrBadRequest, level, version.FormatBefore, version.Format)
	}
	return nil
}
