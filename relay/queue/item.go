package queue

import (
	"crypto/sha256"
	"time"

	"github.com/postern-mail/postern/shared/mail"
)

// State is where one delivery stands. Only Pending is to be delivered; the
// others are kept until the sender has been told, then the recipient leaves
// the file.
type State uint8

// The states of a recipient on disk.
const (
	Pending   State = iota
	Failed          // refused with 5yz: a "failed" report is due
	TimedOut        // too old: a "failed" report is due
	Returned        // returned by an operator: a "failed" report is due
	Delivered       // a "delivered" report was asked for and is due
	Relayed         // a "relayed" report was asked for and is due
	Expanded        // an "expanded" report was asked for and is due
	states
)

var stateNames = [states]string{"pending", "failed", "timedout", "returned", "delivered", "relayed", "expanded"}

func (s State) String() string {
	if s < states {
		return stateNames[s]
	}
	return "unknown"
}

// Answer is what a peer, or we, last said about a delivery.
type Answer struct {
	Code   int // reply code, 0 when nothing was answered
	Status mail.Status
	Text   string
	Relay  string // who said it: name, address and port; "" is this relay
}

// Recipient is one delivery of a message.
type Recipient struct {
	mail.Recipient

	State    State
	Attempts int       // made so far
	Step     int       // of them, those that advanced the retry schedule
	LastTry  time.Time // zero before the first
	Next     time.Time // do not try before; zero is at once
	Busy     time.Time // since when the short retry list applies; zero if it does not
	Unknown  bool      // an earlier attempt may have been delivered: same key only
	Answer   Answer
}

// Hash is the first half of a SHA-256.
type Hash [16]byte

// hashOf is the hash of octets.
func hashOf(b ...[]byte) (out Hash) {
	h := sha256.New()
	for _, p := range b {
		h.Write(p)
	}
	copy(out[:], h.Sum(nil))
	return out
}

// Item is the envelope file of one message: everything but its octets.
type Item struct {
	// Envelope is the message's envelope. Its Recipients are empty: see below.
	Envelope   mail.Envelope
	Recipients []Recipient

	Size int64  // octets of ID.msg
	Sum  uint32 // CRC-32C of ID.msg
	Hash Hash   // of ID.msg, since level 2; zero is not known

	Client  string // who gave us the message, for operators
	Held    bool   // no attempts, no warnings, no return until released
	Reason  string // why it is held
	HeldAt  time.Time
	Notices int // delay warnings sent
	Crashes int // times the process died while this message was being worked on
	// Beside says, for Submit only, that another message may be made of the root of
	// this one and is in the queue already.
	Beside bool
	// Report is set on delivery status notifications: they never cause another.
	Report bool
	// Parent is what this message was made of; zero for mail from outside.
	Parent Parent
}

// Parent names what a message was made of by this relay: a recipient of another
// message of the queue, which a list's members, a forward or a report came of.
// As long as that recipient stands in its file as it did, a crash would make the
// message again, under the same id: until then the queue has to know it.
type Parent struct {
	ID     string // "" is none
	Key    mail.DeliveryKey
	State  State // of the recipient then
	Notice int   // of a delay warning, which one it is, from 1
}

// Open reports whether it, the message that p names, would lead to the same
// message once more.
func (p *Parent) Open(it *Item) bool {
	r := it.Find(p.Key)
	return r != nil && r.State == p.State && (p.Notice == 0 || it.Notices < p.Notice)
}

// ID is the queue id.
func (it *Item) ID() string { return it.Envelope.QueueID }

// Find returns the recipient with this delivery key, or nil.
func (it *Item) Find(key mail.DeliveryKey) *Recipient {
	for i := range it.Recipients {
		if it.Recipients[i].Key == key {
			return &it.Recipients[i]
		}
	}
	return nil
}

// Pending counts the deliveries that are not finished.
func (it *Item) Pending() int {
	n := 0
	for i := range it.Recipients {
		if it.Recipients[i].State == Pending {
			n++
		}
	}
	return n
}

// Clone returns a copy that shares nothing that changes.
func (it *Item) Clone() *Item {
	c := *it
	c.Recipients = append([]Recipient(nil), it.Recipients...)
	return &c
}

// Owed reports whether the sender is to be told that recipient r has come to
// state s (RFC 3461 4.1 and 6). Nobody is told about mail with a null
// reverse-path or about a report.
func Owed(env *mail.Envelope, report bool, r *mail.Recipient, s State) bool {
	if env.ReversePath.IsNull() || report {
		return false
	}
	switch s {
	case Failed, TimedOut, Returned:
		return r.Notify.Wants(mail.NotifyFailure)
	case Delivered, Relayed, Expanded:
		return r.Notify.Wants(mail.NotifySuccess)
	}
	return false
}

// Leave takes r, one of it.Recipients, out of it: nothing is left to do for it.
// Pointers to other recipients are no longer good.
func (it *Item) Leave(r *Recipient) {
	if len(it.Recipients) > 0 && &it.Recipients[0] == r { // the usual order: of thousands none is moved
		it.Recipients = it.Recipients[1:]
		return
	}
	for i := range it.Recipients {
		if &it.Recipients[i] == r {
			it.Recipients = append(it.Recipients[:i], it.Recipients[i+1:]...)
			return
		}
	}
}
