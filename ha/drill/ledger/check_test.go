package ledger

import (
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	entry := func(id, to string, o Outcome) Entry {
		return Entry{ID: id, Recipient: to, Outcome: o, Sent: at, Answered: at}
	}
	for _, c := range []struct {
		name    string
		entries []Entry
		found   map[Key]int
		want    []Kind
	}{
		{"acknowledged and there", []Entry{entry("1", "a", Acknowledged)}, map[Key]int{{"a", "1"}: 1}, nil},
		{"acknowledged and missing", []Entry{entry("1", "a", Acknowledged)}, nil, []Kind{Missing}},
		{"acknowledged and doubled", []Entry{entry("1", "a", Acknowledged)}, map[Key]int{{"a", "1"}: 2}, []Kind{Doubled}},
		{"unknown and missing", []Entry{entry("1", "a", Unknown)}, nil, nil},
		{"unknown and there", []Entry{entry("1", "a", Unknown)}, map[Key]int{{"a", "1"}: 1}, nil},
		{"unknown and doubled", []Entry{entry("1", "a", Unknown)}, map[Key]int{{"a", "1"}: 2}, []Kind{Doubled}},
		{"refused and missing", []Entry{entry("1", "a", Refused)}, nil, nil},
		{"refused and there", []Entry{entry("1", "a", Refused)}, map[Key]int{{"a", "1"}: 1}, []Kind{Accepted}},
		{"in another's mailbox", []Entry{entry("1", "a", Acknowledged)}, map[Key]int{{"b", "1"}: 1}, []Kind{Missing, Stray}},
		{"never sent", nil, map[Key]int{{"b", "9"}: 1}, []Kind{Stray}},
		{
			"the missing come first",
			[]Entry{entry("1", "a", Refused), entry("2", "a", Acknowledged), entry("3", "a", Acknowledged)},
			map[Key]int{{"a", "1"}: 1, {"a", "3"}: 3},
			[]Kind{Missing, Doubled, Accepted},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Check(c.entries, c.found)
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i].Kind != c.want[i] {
					t.Errorf("finding %d: %v, want %v", i, got[i].Kind, c.want[i])
				}
			}
		})
	}
}

func TestFindingNamesTheMessage(t *testing.T) {
	e := Entry{ID: "d1.2.3@drill.test", Recipient: "u@example.org", Outcome: Acknowledged, Via: "relay2", Reply: "250 OK", Answered: time.Date(2030, 1, 2, 3, 4, 5, 6e6, time.UTC)}
	got := Check([]Entry{e}, nil)[0].String()
	want := "missing: message d1.2.3@drill.test to u@example.org, 0 copies, acknowledged at 03:04:05.006 by relay2 (250 OK)"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLongest(t *testing.T) {
	base := time.Unix(1000, 0)
	at := func(secs ...float64) (out []time.Time) {
		for _, s := range secs {
			out = append(out, base.Add(time.Duration(s*float64(time.Second))))
		}
		return out
	}
	for _, c := range []struct {
		name             string
		times            []time.Time
		from, to         float64
		wantFrom, wantTo float64
	}{
		{"in the middle", at(1, 2, 5, 6), 0, 7, 2, 5},
		{"at the beginning", at(4, 5), 0, 6, 0, 4},
		{"silence to the end", at(1, 2), 0, 9, 2, 9},
		{"no answer at all", nil, 0, 3, 0, 3},
		{"answers before do not count", at(1, 2, 3), 4, 6, 4, 6},
		{"answers after do not count", at(1, 8), 0, 4, 1, 4},
		{"an end before the beginning", at(1), 3, 2, 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			ends := at(c.from, c.to, c.wantFrom, c.wantTo)
			got := Longest(c.times, ends[0], ends[1])
			if !got.From.Equal(ends[2]) || !got.To.Equal(ends[3]) {
				t.Errorf("got %v to %v, want %v to %v", got.From.Sub(base), got.To.Sub(base), c.wantFrom, c.wantTo)
			}
		})
	}
}
