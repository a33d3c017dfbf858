package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/admin"
)

func TestLevelOfRelease(t *testing.T) {
	if queue.Level != version.Format {
		t.Errorf("the queue knows level %d, the release says %d", queue.Level, version.Format)
	}
}

func TestOlder(t *testing.T) {
	known := gossip.Member{Name: "relay1", Role: "relay", State: gossip.Alive, Known: 2, Format: 1}
	for name, tt := range map[string]struct {
		other gossip.Member
		want  string // "" is allowed
	}{
		"known":                {gossip.Member{Name: "x", Role: "relay", State: gossip.Alive, Known: 2}, ""},
		"known, away":          {gossip.Member{Name: "x", Role: "relay", State: gossip.Dead, Known: 2}, ""},
		"old":                  {gossip.Member{Name: "x", Role: "relay", State: gossip.Alive, Known: 1}, "x (alive)"},
		"old, away":            {gossip.Member{Name: "x", Role: "relay", State: gossip.Dead, Known: 1}, "x (dead)"},
		"old, but of a pair":   {gossip.Member{Name: "x", Role: "backend", State: gossip.Alive, Known: 1}, ""},
		"old, but the witness": {gossip.Member{Name: "x", Role: "witness", State: gossip.Alive, Known: 1}, ""},
	} {
		err := older([]gossip.Member{known, tt.other}, 2)
		if (tt.want == "") != (err == nil) || err != nil && (!errors.Is(err, admin.ErrConflict) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecided(t *testing.T) {
	level, by := decided([]gossip.Member{
		{Name: "relay1", Role: "relay", Format: 1},
		{Name: "pair1-a", Role: "backend", Format: 3},
		{Name: "relay2", Role: "relay", Format: 2, State: gossip.Dead},
	})
	if level != 2 || by != "relay2" {
		t.Errorf("%d by %q", level, by)
	}
	// Relays go where all pairs are, when every relay's release knows the way.
	pair := func(level uint32) gossip.Member { return gossip.Member{Role: "backend", Known: 2, Format: level} }
	relay := func(known uint32) gossip.Member { return gossip.Member{Role: "relay", Known: known, Format: 1} }
	for name, tt := range map[string]struct {
		members []gossip.Member
		want    uint32
	}{
		"all":                      {[]gossip.Member{relay(2), relay(2), pair(2), pair(2)}, 2},
		"one pair was not decided": {[]gossip.Member{relay(2), pair(2), pair(1)}, 1},
		"one has left for good":    {[]gossip.Member{relay(2), pair(2), {Role: "backend", State: gossip.Left, Format: 1}}, 2},
		"an older relay":           {[]gossip.Member{relay(2), relay(1), pair(2)}, 1},
		"newer than this release":  {[]gossip.Member{relay(3), pair(3)}, 1},
		"no pair is known":         {[]gossip.Member{relay(2), {Role: "witness", Format: 2}}, 1},
	} {
		if level, by := decided(tt.members); level != tt.want {
			t.Errorf("%s: %d by %q, not %d", name, level, by, tt.want)
		}
	}
}
