/*
Package deliver is what every way out of a relay has in common: Agent, which
gives one message to one next hop, and Result, which says for each recipient
what became of it.

An Agent tries now and returns; whether and when to try again is package
jobctl's question, and who is told is package bounce's. An Agent keeps failures
and unknown outcomes apart: Deferred and Failed promise that the next hop has
not taken the message for that recipient, Unknown does not.

The agents are packages lmtp, to the backend pairs, smtp, to other domains, and
reprocess, back to the door. Package autoreply stands before lmtp and answers
for people who are away; package welcome stands before both and fills new
mailboxes.
*/
package deliver

import (
	"context"
	"errors"
	"strconv"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// Outcome is what became of one delivery in one attempt.
type Outcome uint8

// The outcomes.
const (
	Unknown   Outcome = iota // it may have been delivered: only the same key may be tried again
	Delivered                // taken by its final place
	Relayed                  // taken by a system that sends no reports of its own
	Passed                   // taken by a system that reports by itself, or back at the door
	Deferred                 // not taken, try again
	Failed                   // refused for good
)

var outcomeNames = [...]string{"unknown", "delivered", "relayed", "passed", "deferred", "failed"}

func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return strconv.Itoa(int(o))
}

// Delivery is one message for one next hop. An Agent changes nothing in it and
// keeps nothing of it after Deliver.
type Delivery struct {
	Envelope *mail.Envelope // its Recipients are not looked at
	// Recipients all have the same channel and next hop.
	Recipients []mail.Recipient
	Body       [][]byte // the message, in order, strict CRLF
	EightBit   bool     // an octet of Body is above 127
	Attempt    int      // 0 for the first
	Report     bool     // a delivery status notification
	Client     string   // who gave us the message, as the log names it
}

// Size is the length of the message in octets.
func (d *Delivery) Size() int64 {
	var n int64
	for _, b := range d.Body {
		n += int64(len(b))
	}
	return n
}

// Result is the outcome for one recipient.
type Result struct {
	Outcome Outcome
	// Busy asks for the short retry list: the pair has no leader, the mailbox
	// is locked.
	Busy   bool
	Code   int // reply code of the peer, 0 when it did not answer
	Status mail.Status
	Text   string // the peer's words, or ours
	Relay  string // the peer: name, and address where it has one
	Err    error  // for the log
	// Answer says that the pair wants this delivery answered by the recipient's
	// Autoreply: an answer that is claimed before it is sent.
	Answer bool
	// Created says when the mailbox was made, in Unix seconds, when it is new and
	// the first message for it, the recipient's Welcome, has not come; else 0.
	Created int64
	// Ended, with Passed, says that nobody behind reports to the sender: it is
	// told that its message was passed on, if it wanted to hear of success.
	Ended bool
	// NotAsked says that the outcome was found without the next hop, of which it
	// tells nothing.
	NotAsked bool
}

// Agent delivers messages of one channel. Deliver may be called by any number
// of goroutines. It returns one Result for each recipient, in order, and does
// not return while it still uses d. It obeys ctx.
type Agent interface {
	Deliver(ctx context.Context, d *Delivery) []Result
}

// Defer is the result of a failure that is ours or the network's.
func Defer(status mail.Status, text string, err error) Result {
	return Result{Outcome: Deferred, Status: status, Text: text, Err: err}
}

// FromReply is the result of a peer's reply.
func FromReply(r *smtp.Reply, relay string) Result {
	res := Result{Code: r.Code, Status: r.Status, Text: r.Text, Relay: relay}
	switch r.Code / 100 {
	case 2:
		res.Outcome = Delivered
	case 5:
		res.Outcome = Failed
	default:
		res.Outcome = Deferred
	}
	if res.Status == (mail.Status{}) {
		switch res.Outcome {
		case Delivered:
			res.Status = mail.StatusOK
		case Failed:
			res.Status = mail.Status{5, 0, 0}
		default:
			res.Status = mail.Status{4, 0, 0}
		}
	}
	return res
}

// FromError is the result of an error of ours: Failed only if it says so.
func FromError(op string, err error) Result {
	e := mail.AsError(op, err)
	r := Result{Outcome: Deferred, Code: e.ReplyCode(), Status: e.Status, Text: e.Reply, Err: err}
	if mail.Permanent(err) {
		r.Outcome = Failed
	}
	if r.Text == "" {
		r.Text = "Temporary failure"
	}
	return r
}

// All gives every recipient of d the same result.
func All(d *Delivery, r Result) []Result {
	out := make([]Result, len(d.Recipients))
	for i := range out {
		out[i] = r
	}
	return out
}

// Reply is r as a reply to whoever gave us the message.
func (r *Result) Reply() *smtp.Reply {
	code := r.Code
	if code < 200 || code > 599 {
		code = 451
		if r.Outcome == Failed {
			code = 550
		}
	}
	return &smtp.Reply{Code: code, Status: r.Status, Text: r.Text}
}

// ErrNoRoute says that no address is known for a next hop.
var ErrNoRoute = errors.New("no address known")
