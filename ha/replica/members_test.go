package replica

import (
	"errors"
	"strings"
	"testing"
)

// tell makes members of a short text: name, then ! dead, ~ far behind, - without
// a vote, w witness.
func tell(text string) (list []Member) {
	for _, s := range strings.Fields(text) {
		m := Member{Voter: !strings.Contains(s, "-"), Alive: !strings.Contains(s, "!")}
		m.ID, m.Name, m.Addr = s[:1], "node "+s[:1], "10.0.0."+s[:1]
		m.Witness = s[:1] == "w"
		if strings.Contains(s, "~") {
			m.Lag = maxLag + 1
		}
		list = append(list, m)
	}
	return list
}

func TestRemovable(t *testing.T) {
	for name, tt := range map[string]struct {
		group string
		q     Removal
		want  error
	}{
		"dead replica":                 {"a b! w", Removal{ID: "b", Dead: true, OneCopy: true}, nil},
		"dead replica, not agreed":     {"a b! w", Removal{ID: "b", Dead: true}, ErrOneCopy},
		"called dead and alive":        {"a b w", Removal{ID: "b", Dead: true, OneCopy: true}, ErrAlive},
		"dead witness":                 {"a b w!", Removal{ID: "w", Dead: true}, nil},
		"witness, the other one dead":  {"a b! w", Removal{ID: "w"}, ErrMajority},
		"dead replica, witness behind": {"a b! w~", Removal{ID: "b", Dead: true, OneCopy: true}, ErrMajority},
		"dead replica and witness":     {"a b! w!", Removal{ID: "b", Dead: true, OneCopy: true}, ErrMajority},
		"itself":                       {"a b w", Removal{ID: "a", OneCopy: true}, ErrServes},
		"one of three":                 {"a b c w", Removal{ID: "b"}, nil},
		"one of three, one behind":     {"a b c~ w", Removal{ID: "b"}, ErrOneCopy},
		"the one before its successor": {"a b! c- w", Removal{ID: "b", Dead: true, OneCopy: true}, nil},
		"without a vote":               {"a b! c- w!", Removal{ID: "c"}, nil},
		"nobody":                       {"a b w", Removal{ID: "x"}, ErrNoMember},
		"last but one":                 {"a b", Removal{ID: "b", OneCopy: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := removable(tell(tt.group), "a", tt.q); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestAddable(t *testing.T) {
	for name, tt := range map[string]struct {
		group string
		peer  Peer
		want  error
	}{
		"new node":         {"a b w", Peer{ID: "x", Name: "node c", Addr: "10.0.0.c"}, nil},
		"same node":        {"a b! w", Peer{ID: "x", Name: "node b", Addr: "10.0.0.x"}, ErrMember},
		"same address":     {"a b! w", Peer{ID: "x", Name: "node x", Addr: "10.0.0.b"}, ErrMember},
		"a second learner": {"a b- w", Peer{ID: "x", Name: "node x", Addr: "10.0.0.x"}, ErrMember},
	} {
		t.Run(name, func(t *testing.T) {
			if err := addable(tell(tt.group), tt.peer); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

func TestRoomAlarm(t *testing.T) {
	for _, tt := range []struct {
		used, most uint64
		alarm      bool
		hold       bool
	}{{0, 100, false, false}, {49, 100, false, false}, {50, 100, true, false}, {89, 100, true, false}, {90, 100, true, true}, {500, 0, false, false}} {
		list := tell("a b! w")
		list[2].LogBytes, list[2].LogLimit = tt.used, tt.most
		alarm, hold := roomAlarm(list)
		if alarm != "" != tt.alarm || hold != tt.hold {
			t.Errorf("%d of %d: alarm %q, hold %t", tt.used, tt.most, alarm, hold)
		}
	}
	// Of a member that does not answer nothing is known.
	list := tell("a w!")
	list[1].LogBytes, list[1].LogLimit = 95, 100
	if alarm, hold := roomAlarm(list); alarm != "" || hold {
		t.Errorf("of one that is away: %q, %t", alarm, hold)
	}
}

func TestCopiesAlarm(t *testing.T) {
	for group, want := range map[string]string{
		"a b w":   "",
		"a b! w":  "away: node b; one data copy is left",
		"a w":     "one data copy is left; 2 members vote",
		"a b- w":  "node b is being brought up to date; one data copy is left; 2 members vote",
		"a b w!":  "away: node w",
		"a b c w": "",
	} {
		got := strings.Join(copiesAlarm(tell(group)), "; ")
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", group, got, want)
		}
	}
}
