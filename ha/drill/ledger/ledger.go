/*
Package ledger is the record, outside the system under test, of what every
sender was told, and the judgement over it.

	Load -> Ledger: an entry when a message is begun, its outcome when the answer is in
	     -> Check(entries, what the mailboxes hold) -> Findings

What it keeps true: an entry is in the ledger before the first octet of its
message is sent, as unknown, so that nothing that may have arrived is missing
from it. A sender never tries a message again, so an acknowledged one has to be
in its mailbox exactly once, an unknown one at most once and a refused one not
at all.

The sender shares no code with the system under test and is as simple as
possible: one message for one recipient, no pipelining. The ledger is bounded by
Max entries; a load that reaches it stops.

It reads no mailbox: that is package mailbox.
*/
package ledger

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Outcome is what a sender knows of one message.
type Outcome int

// The outcomes.
const (
	Unknown      Outcome = iota // no final answer arrived after the message was begun
	Acknowledged                // 2yz after the final dot
	Refused                     // another answer, or the message was never begun
)

func (o Outcome) String() string {
	switch o {
	case Acknowledged:
		return "acknowledged"
	case Refused:
		return "refused"
	}
	return "unknown"
}

// Entry is one message for one recipient.
type Entry struct {
	ID        string // Message-ID without brackets
	Recipient string
	Via       string // name of the relay that it was given to
	Outcome   Outcome
	Reply     string
	Sent      time.Time
	Answered  time.Time // zero while nothing is known
}

// Max is the largest number of entries.
const Max = 2_000_000

// ErrFull says that the ledger holds Max entries.
var ErrFull = errors.New("the ledger is full")

// Ledger collects entries from any number of senders.
type Ledger struct {
	mu      sync.Mutex
	entries []Entry
	counts  [3]int
	refusal map[string]int
}

// New returns an empty ledger.
func New() *Ledger { return &Ledger{refusal: map[string]int{}} }

// Begin notes a message that is about to be sent and returns its number.
func (l *Ledger) Begin(e Entry) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) >= Max {
		return 0, ErrFull
	}
	e.Outcome, e.Reply, e.Answered = Unknown, "", time.Time{}
	l.entries = append(l.entries, e)
	l.counts[Unknown]++
	return len(l.entries) - 1, nil
}

// maxRefusals bounds the different replies that are counted.
const maxRefusals = 100

// End notes the outcome of message n.
func (l *Ledger) End(n int, via string, o Outcome, reply string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.entries[n]
	l.counts[e.Outcome]--
	e.Via, e.Outcome, e.Reply, e.Answered = via, o, reply, at
	l.counts[o]++
	if o != Acknowledged && (len(l.refusal) < maxRefusals || l.refusal[reply] > 0) {
		l.refusal[reply]++
	}
}

// Entries returns a copy of every entry, in the order of their beginning.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// Counts returns how many messages have each outcome.
func (l *Ledger) Counts() (acknowledged, refused, unknown int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[Acknowledged], l.counts[Refused], l.counts[Unknown]
}

// Refusals returns the replies other than acknowledgements and how often each
// was given.
func (l *Ledger) Refusals() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]int, len(l.refusal))
	for k, v := range l.refusal {
		out[k] = v
	}
	return out
}

// Acks are the times of the acknowledgements, sorted.
func (l *Ledger) Acks() []time.Time {
	var at []time.Time
	for _, e := range l.Entries() {
		if e.Outcome == Acknowledged {
			at = append(at, e.Answered)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// Gap is a time without an answer.
type Gap struct{ From, To time.Time }

// Length is how long it was.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Longest returns the longest gap between times, which are sorted, within from
// and to. Both ends count as answers, so a silence that lasts to the end is a
// gap too. It is empty when to is not after from.
func Longest(times []time.Time, from, to time.Time) Gap {
	longest := Gap{from, from}
	last := from
	for _, t := range times {
		if t.Before(from) {
			continue
		}
		if t.After(to) {
			break
		}
		if g := (Gap{last, t}); g.Length() > longest.Length() {
			longest = g
		}
		last = t
	}
	if g := (Gap{last, to}); g.Length() > longest.Length() {
		longest = g
	}
	return longest
}
