package drill

import (
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
)

// ReportVersion is the version of the report's format; fields are only added
// within it.
const ReportVersion = 1

// Verdict is how a scenario ended.
type Verdict string

// The verdicts.
const (
	Passed  Verdict = "passed"
	Failed  Verdict = "failed"  // the cluster broke a promise or a limit
	Errored Verdict = "error"   // it could not be run or judged
	Skipped Verdict = "skipped" // this target cannot do it, and it was not asked for by name
)

// Report is one run of the program.
type Report struct {
	Version int       `json:"version"`
	Program string    `json:"program"`
	Target  string    `json:"target"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Results []*Result `json:"results"`
}

// Count returns how many results have the verdict.
func (r *Report) Count(v Verdict) (n int) {
	for _, res := range r.Results {
		if res.Verdict == v {
			n++
		}
	}
	return n
}

// Verdict is that of the whole run: failed when any scenario failed, else an
// error when any could not be run or none was.
func (r *Report) Verdict() Verdict {
	switch {
	case r.Count(Failed) > 0:
		return Failed
	case r.Count(Errored) > 0 || r.Count(Passed) == 0:
		return Errored
	}
	return Passed
}

// Result is what one scenario has shown.
type Result struct {
	Scenario string           `json:"scenario"`
	Summary  string           `json:"summary"`
	Expect   string           `json:"expected"`
	Verdict  Verdict          `json:"verdict"`
	Reason   string           `json:"reason,omitempty"`
	Pair     string           `json:"pair,omitempty"`
	Seed     uint64           `json:"seed,omitempty"`
	Started  time.Time        `json:"started"`
	Ended    time.Time        `json:"ended"`
	Load     Window           `json:"load"`
	Counts   Counts           `json:"counts"`
	SMTP     Gap              `json:"smtp"`
	IMAP     Gap              `json:"imap"`
	Checks   []Check          `json:"checks"`
	Findings []ledger.Finding `json:"findings,omitempty"`
	Faults   []Window         `json:"faults,omitempty"`
	Events   []Event          `json:"events,omitempty"`
	Serving  []Span           `json:"serving,omitempty"`
	Series   Series           `json:"series"`
	Queues   []QueueSample    `json:"queues,omitempty"`
	Refusals map[string]int   `json:"refusals,omitempty"`
	Control  *Control         `json:"negative_control,omitempty"`
	Sessions *Sessions        `json:"sessions,omitempty"`
	Moves    *Moves           `json:"moves,omitempty"`
}

// Window is a time with something in it.
type Window struct {
	What string    `json:"what,omitempty"`
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
}

// Counts are the figures of the load and of the mailboxes.
type Counts struct {
	Sent         int `json:"sent"`
	Acknowledged int `json:"acknowledged"`
	Refused      int `json:"refused"`
	Unknown      int `json:"unknown"`
	Found        int `json:"found"`   // copies in mailboxes
	Missing      int `json:"missing"` // acknowledged and not there
	Doubled      int `json:"doubled"`
	IMAP         int `json:"imap_answers"`
	IMAPErrors   int `json:"imap_errors"`
}

// Sessions are those of users beside the one at work.
type Sessions struct {
	Count         int   `json:"sessions"`
	Answers       int   `json:"answers"`
	Errors        int   `json:"errors"` // sessions that broke, logins that failed
	Silent        int   `json:"silent"` // never had an answer
	LongestMillis int64 `json:"longest_gap_ms"`
}

// Moves are those of users to another pair.
type Moves struct {
	Users        int    `json:"users"`
	To           string `json:"to"`
	Messages     int    `json:"messages"`
	ClosedMillis int64  `json:"longest_closed_ms"` // for which a user's mailboxes took nothing
}

// Gap is the longest time without an answer of a tier. It is measured from
// Counted on: the beginning of the load, or the recovery where an outage is
// expected.
type Gap struct {
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	Counted time.Time `json:"counted_from,omitzero"`
	Millis  int64     `json:"ms"`
	Limit   int64     `json:"limit_ms"` // 0: not limited
}

// Check is one thing that was asserted.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Event is something that happened or was done.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Span is a time in which a node served a pair.
type Span struct {
	Node string    `json:"node"`
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Series counts events per step from Result.Load.From on.
type Series struct {
	Step    int64 `json:"step_ms"`
	Sent    []int `json:"sent"`
	Acked   []int `json:"acknowledged"`
	Refused []int `json:"refused"`
	Unknown []int `json:"unknown"`
	IMAP    []int `json:"imap_answers"`
}

// QueueSample is the number of messages queued on all relays that answer.
type QueueSample struct {
	At     time.Time `json:"at"`
	Queued int       `json:"queued"`
}

// Control is what the negative control took away.
type Control struct {
	ID        string `json:"message_id"`
	Recipient string `json:"recipient"`
	Noticed   bool   `json:"noticed"`
}

// step is that of Series.
const step = 100 * time.Millisecond

// seriesOf counts what the ledger and the prober saw.
func seriesOf(load Window, entries []ledger.Entry, answers []time.Time) Series {
	n := int(load.To.Sub(load.From)/step) + 1
	s := Series{
		Step: step.Milliseconds(), Sent: make([]int, n), Acked: make([]int, n), Refused: make([]int, n), Unknown: make([]int, n), IMAP: make([]int, n),
	}
	add := func(row []int, at time.Time) {
		if at.Before(load.From) || at.IsZero() {
			return
		}
		if i := int(at.Sub(load.From) / step); i < n {
			row[i]++
		}
	}
	for i := range entries {
		e := &entries[i]
		add(s.Sent, e.Sent)
		switch e.Outcome {
		case ledger.Acknowledged:
			add(s.Acked, e.Answered)
		case ledger.Refused:
			add(s.Refused, e.Answered)
		case ledger.Unknown:
			add(s.Unknown, e.Answered)
		}
	}
	for _, at := range answers {
		add(s.IMAP, at)
	}
	return s
}
