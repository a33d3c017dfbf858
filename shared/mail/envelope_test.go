package mail

import (
	"strings"
	"testing"
)

func TestNotify(t *testing.T) {
	for _, tt := range []struct {
		n                       Notify
		text                    string
		success, failure, delay bool
	}{
		{0, "", false, true, true},
		{NotifyNever, "NEVER", false, false, false},
		{NotifySuccess, "SUCCESS", true, false, false},
		{NotifySuccess | NotifyFailure | NotifyDelay, "SUCCESS,FAILURE,DELAY", true, true, true},
		{NotifyDelay, "DELAY", false, false, true},
	} {
		if tt.n.String() != tt.text || tt.n.Wants(NotifySuccess) != tt.success || tt.n.Wants(NotifyFailure) != tt.failure || tt.n.Wants(NotifyDelay) != tt.delay {
			t.Errorf("%d: %q %v %v %v", tt.n, tt.n, tt.n.Wants(NotifySuccess), tt.n.Wants(NotifyFailure), tt.n.Wants(NotifyDelay))
		}
	}
}

// TestDeliveryKey: the same three names give the same key, anywhere and in any
// release; no shift of characters from one name to the next does.
func TestDeliveryKey(t *testing.T) {
	k := NewDeliveryKey("relay1", "abc", "bob@example.com")
	if got, want := k.String(), "6c1681f6ea37f19e7508789d51b748ca"; got != want {
		t.Errorf("key is %s, was %s in the first release", got, want)
	}
	for _, other := range [][3]string{
		{"relay1a", "bc", "bob@example.com"},
		{"relay1", "abcb", "ob@example.com"},
		{"relay1", "abc", "bob@example.org"},
		{"relay2", "abc", "bob@example.com"},
		{"", "relay1abc", "bob@example.com"},
	} {
		if NewDeliveryKey(other[0], other[1], other[2]) == k {
			t.Errorf("%q has the same key", other)
		}
	}
	back, err := ParseDeliveryKey(k.String())
	if err != nil || back != k {
		t.Errorf("%v, %v", back, err)
	}
	for _, s := range []string{"", k.String()[1:], k.String() + "0", strings.Repeat("g", 32)} {
		if _, err := ParseDeliveryKey(s); err == nil {
			t.Errorf("ParseDeliveryKey(%q) has no error", s)
		}
	}
}

// TestQueueID: 26 characters that are safe in a file name, a header field and a
// log, and no two alike.
func TestQueueID(t *testing.T) {
	seen := map[string]bool{}
	for range 10000 {
		id := NewQueueID()
		if len(id) != 26 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuv") != "" || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

// TestMerge: the most reports win, whichever comes first; nobody who wanted
// silence gets more than the others asked for.
func TestMerge(t *testing.T) {
	const s, f, d, never = NotifySuccess, NotifyFailure, NotifyDelay, NotifyNever
	for _, tt := range []struct{ a, b, want Notify }{
		{0, 0, 0},
		{never, never, never},
		{never, 0, f | d},
		{never, s, s},
		{0, s, s | f | d},
		{0, f, f | d},
		{s, f, s | f},
		{s | d, d, s | d},
		{f | d, 0, f | d},
	} {
		for _, got := range []Notify{tt.a.Merge(tt.b), tt.b.Merge(tt.a)} {
			if got != tt.want {
				t.Errorf("%q and %q: %q, want %q", tt.a, tt.b, got, tt.want)
			}
		}
		for _, event := range []Notify{s, f, d} {
			if got, want := tt.want.Wants(event), tt.a.Wants(event) || tt.b.Wants(event); got != want {
				t.Errorf("%q and %q: event %q %v, want %v", tt.a, tt.b, event, got, want)
			}
		}
	}
}
