package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
)

func TestSupport(t *testing.T) {
	names := []string{"a", "b", "w"}
	for name, tt := range map[string]struct {
		b    gossip.Member
		want string // "" is allowed
	}{
		"all know it": {gossip.Member{Name: "b", State: gossip.Alive, Known: 2}, ""},
		"it drains":   {gossip.Member{Name: "b", State: gossip.Draining, Known: 3}, ""},
		"it is old":   {gossip.Member{Name: "b", State: gossip.Alive, Known: 1, Version: "0.1.0"}, "b runs 0.1.0"},
		"it is dead":  {gossip.Member{Name: "b", State: gossip.Dead, Known: 2}, "b is dead"},
		"it has left": {gossip.Member{Name: "b", State: gossip.Left, Known: 2}, "b is left"},
		"not known":   {gossip.Member{Name: "c", State: gossip.Alive, Known: 2}, "b is not known"},
	} {
		members := []gossip.Member{{Name: "a", State: gossip.Alive, Known: 2}, tt.b, {Name: "w", State: gossip.Alive, Known: 2}, {Name: "relay1", State: gossip.Dead, Known: 1}}
		err := Support(members, names, 2)
		if (tt.want == "") != (err == nil) || err != nil && (!errors.Is(err, admin.ErrConflict) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckLevel(t *testing.T) {
	for level, ok := range map[uint32]bool{0: false, version.FormatBefore: true, version.Format: true, version.Format + 1: false} {
		if err := CheckLevel(level); (err == nil) != ok {
			t.Errorf("level %d: %v", level, err)
		}
	}
}
