package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Key is a message in somebody's mailbox.
type Key struct{ Recipient, ID string }

// Kind is how a message breaks its promise.
type Kind string

// The kinds.
const (
	Missing  Kind = "missing"  // acknowledged and not there
	Doubled  Kind = "doubled"  // more than one copy of an acknowledged or unknown message
	Accepted Kind = "accepted" // refused, and there all the same
	Stray    Kind = "stray"    // in a mailbox that it was not sent to
)

// Finding is one broken promise.
type Finding struct {
	Kind      Kind      `json:"kind"`
	ID        string    `json:"message_id"`
	Recipient string    `json:"recipient"`
	Outcome   string    `json:"outcome,omitempty"`
	Reply     string    `json:"reply,omitempty"`
	Via       string    `json:"relay,omitempty"`
	Copies    int       `json:"copies"`
	Sent      time.Time `json:"sent,omitzero"`
	Answered  time.Time `json:"answered,omitzero"`
}

func (f *Finding) String() string {
	s := fmt.Sprintf("%s: message %s to %s, %d copies", f.Kind, f.ID, f.Recipient, f.Copies)
	if f.Outcome != "" {
		s += fmt.Sprintf(", %s at %s", f.Outcome, f.Answered.Format("15:04:05.000"))
	}
	if f.Via != "" {
		s += " by " + f.Via
	}
	if f.Reply != "" {
		s += " (" + f.Reply + ")"
	}
	return s
}

// Check compares what senders were told with the copies found in mailboxes.
// The findings are sorted, the missing ones first.
func Check(entries []Entry, found map[Key]int) []Finding {
	known := make(map[Key]bool, len(entries))
	var out []Finding
	for i := range entries {
		e := &entries[i]
		k := Key{e.Recipient, e.ID}
		known[k] = true
		n := found[k]
		kind := Kind("")
		switch {
		case e.Outcome == Acknowledged && n == 0:
			kind = Missing
		case e.Outcome == Refused && n > 0:
			kind = Accepted
		case n > 1:
			kind = Doubled
		}
		if kind != "" {
			out = append(out, Finding{kind, e.ID, e.Recipient, e.Outcome.String(), e.Reply, e.Via, n, e.Sent, e.Answered})
		}
	}
	for k, n := range found {
		if !known[k] {
			out = append(out, Finding{Kind: Stray, ID: k.ID, Recipient: k.Recipient, Copies: n})
		}
	}
	order := []Kind{Missing, Doubled, Accepted, Stray}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)),
			a.Sent.Compare(b.Sent), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Recipient, b.Recipient))
	})
	return out
}
