package mail

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// BodyType is the BODY parameter of MAIL (RFC 6152).
type BodyType string

// The body types we accept. BINARYMIME is not offered.
const (
	Body7Bit     BodyType = "7BIT"
	Body8BitMIME BodyType = "8BITMIME"
)

// Notify is the set of events the sender wants reports about (RFC 3461 4.1).
// Zero means not given, which counts as failure and delay.
type Notify uint8

// Values of Notify; NotifyNever stands alone.
const (
	NotifyNever Notify = 1 << iota
	NotifySuccess
	NotifyFailure
	NotifyDelay
)

// Wants reports whether event was asked for, with the defaults of RFC 3461.
func (n Notify) Wants(event Notify) bool {
	if n == 0 {
		return event == NotifyFailure || event == NotifyDelay
	}
	return n&event != 0
}

// Merge is what is wanted when one delivery stands for two recipients: every
// event that one of them wants (directory.md 13.4). NEVER yields to any other
// wish, and what was not given counts as its default, unless both leave it so.
func (n Notify) Merge(m Notify) Notify {
	if n == m {
		return n
	}
	both := n.events() | m.events()
	if both == 0 {
		return NotifyNever
	}
	return both
}

// events are the bits of n that ask for something.
func (n Notify) events() Notify {
	if n == 0 {
		return NotifyFailure | NotifyDelay
	}
	return n &^ NotifyNever
}

// String prints n as the NOTIFY parameter; "" when not given.
func (n Notify) String() string {
	var words []string
	for _, v := range []struct {
		bit  Notify
		word string
	}{{NotifyNever, "NEVER"}, {NotifySuccess, "SUCCESS"}, {NotifyFailure, "FAILURE"}, {NotifyDelay, "DELAY"}} {
		if n&v.bit != 0 {
			words = append(words, v.word)
		}
	}
	return strings.Join(words, ",")
}

// Priority orders a queue: urgent before normal before non-urgent.
type Priority int8

// Priorities as in the Priority header field (RFC 2156 5.3.6).
const (
	NonUrgent Priority = -1
	Normal    Priority = 0
	Urgent    Priority = 1
)

// Channel names a way out of a relay, as in the Oracle manual.
type Channel string

// The channels this release has.
const (
	ChannelLMTP      Channel = "tcp_lmtpcs" // to a backend pair
	ChannelSMTP      Channel = "tcp_local"  // to the Internet
	ChannelReprocess Channel = "reprocess"  // back to the door, for large lists
	ChannelHold      Channel = "hold"       // users and domains on hold
	ChannelDiscard   Channel = "bitbucket"  // accepted and dropped, logged
)

// DeliveryKey names one final delivery over every path a message can take:
// the hash of origin relay, root queue id and final mailbox. A pair that has
// seen a key answers as it did then and changes nothing.
type DeliveryKey [16]byte

// NewDeliveryKey makes the key of one final recipient. mailbox is the
// recipient's final mailbox (uid@domain and folder) or outside address.
func NewDeliveryKey(origin, rootQueueID, mailbox string) DeliveryKey {
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%d:%s%d:%s", len(origin), origin, len(rootQueueID), rootQueueID, len(mailbox), mailbox)
	var k DeliveryKey
	copy(k[:], h.Sum(nil))
	return k
}

// WelcomeKey is the key of the first message of a mailbox that was made at a
// time in Unix seconds: whoever sends it, it is stored once.
func WelcomeKey(mailbox string, created int64) DeliveryKey {
	return NewDeliveryKey("welcome", strconv.FormatInt(created, 10), strings.ToLower(mailbox))
}

// String prints k in hexadecimal, 32 characters.
func (k DeliveryKey) String() string { return hex.EncodeToString(k[:]) }

// ParseDeliveryKey reads what String printed.
func ParseDeliveryKey(s string) (DeliveryKey, error) {
	var k DeliveryKey
	if len(s) != 2*len(k) {
		return k, fmt.Errorf("delivery key of %d characters", len(s))
	}
	_, err := hex.Decode(k[:], []byte(s))
	return k, err
}

// NewQueueID returns a queue id: 26 characters of base32 that hold 128 random
// bits, safe as a file name, in a header field and in a log.
func NewQueueID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// MoreIdentities stands among the identities of Recipient.Poster for others of who
// posts that were left out. No identifier in a list of rights is written so.
const MoreIdentities = "-"

// Recipient is one RCPT and, once expanded, one final delivery.
type Recipient struct {
	Address           Address // as it was given or as expansion left it
	OriginalRecipient string  // ORCPT, "rfc822;..." in xtext-decoded form
	Notify            Notify

	// Set by expansion and never asked for again.
	Channel  Channel
	NextHop  string   // pair name (tcp_lmtpcs) or domain (tcp_local)
	Mailbox  string   // uid@canonical.domain for a pair
	Folder   string   // folder from a subaddress; "" is INBOX
	Poster   []string // beside Folder: identities of who has logged in and posts, for the folder's list of rights
	Key      DeliveryKey
	Quota    *Quota   // nil: the directory says nothing
	Store    string   // partition of the pair that the mailbox is made in; "" is the default one
	MaxSize  int64    // octets of the largest message that it takes, 0 without limit; the queue does not keep it
	OptIn    []string // filters that were asked for; they have judged what is in the queue, which does not keep it
	Via      []string // how expansion came here: addresses and lists, outermost first
	Welcome  string   // first message of a mailbox, as the directory has it; "" is none
	Reports  Address  // author of notifications about it, by its domain's wish; null is the relay's own
	ListName string   // list that produced it, for its errors-to; "" if none

	Autoreply *Autoreply // how the mail is answered; nil: it is not
}

// Quota is what the directory allows a user; -1 is without limit.
type Quota struct {
	Bytes    int64
	Messages int64
	Stamp    string // change stamp of the entry: an older one never overwrites
}

// Envelope is what travels beside the message.
type Envelope struct {
	ReversePath Address
	EnvelopeID  string // ENVID
	Ret         string // RET: FULL, HDRS or ""
	Body        BodyType
	SMTPUTF8    bool
	Size        int64 // as announced, 0 if not
	Priority    Priority
	AuthUser    string // who logged in, "" if nobody
	Guaranteed  bool   // stored however full the mailboxes are: the sender's submission channel is such a one
	Recipients  []Recipient

	QueueID string // ours, for this message at this relay
	RootID  string // queue id of the message it descends from
	Origin  string // relay that gave RootID
	Arrival time.Time

	Claim *AutoreplyClaim // of an autoreply: asked before each attempt; nil: nothing to ask
}
