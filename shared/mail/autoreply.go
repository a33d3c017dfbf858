package mail

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AutoreplyMode is how a person's mail is answered while away.
type AutoreplyMode string

// The modes of mailAutoReplyMode (directory.md 10).
const (
	AutoreplyReply  AutoreplyMode = "reply"  // one part with the text
	AutoreplyEcho   AutoreplyMode = "echo"   // a disposition notification with the text and the original, for every message
	AutoreplyHeader AutoreplyMode = "header" // a disposition notification with the original's header only
)

// Autoreply is what a recipient's directory entry says about answering mail. It
// travels with the recipient, so that nobody asks the directory again.
type Autoreply struct {
	Mode    AutoreplyMode
	Only    bool // the mail is answered and not stored
	From    Address
	Me      []Address // addresses by which the person may be named in To and Cc
	Subject string    // "" is made from the original's
	Text    string    // the answer to this message's sender, lines ended by LF
	// Timeout is the least time between two replies to one sender; 0 answers
	// every message.
	Timeout time.Duration
}

// MaxAutoreplyPeriod bounds how long a sender stays answered.
const MaxAutoreplyPeriod = 400 * 24 * time.Hour

// AutoreplyQuery is what a pair is asked together with a delivery: has this
// sender had this answer within the period? The pair notes the answer with the
// delivery, so that every relay asks the same memory.
//
// With Later the answer stays due until somebody claims it: the same question
// asked again, about this message or another, is told so again. Who sends the
// answer asks with By first: the first to do so has it for the period.
type AutoreplyQuery struct {
	Hash   [16]byte // of sender, subject and text
	Period time.Duration
	Only   bool // answer the question, store no message

	Later bool        // who asks will claim the answer
	By    DeliveryKey // claims the answer, with Only; zero: no claim
}

// everyMessage is how long it is remembered that a message was answered which
// is answered whatever came before: longer than a relay keeps it.
const everyMessage = 8 * 24 * time.Hour

// Query is the question about the message of env. Echo, and a Timeout of 0,
// answer every message.
func (a *Autoreply) Query(env *Envelope) AutoreplyQuery {
	h := sha256.New()
	add := func(parts ...string) {
		for _, s := range parts {
			fmt.Fprintf(h, "%d:%s", len(s), s)
		}
	}
	add(stableSender(env.ReversePath), a.Subject, a.Text)
	q := AutoreplyQuery{Only: a.Only, Period: min(a.Timeout, MaxAutoreplyPeriod)}
	q.Period = (q.Period + time.Second - 1).Truncate(time.Second)
	if a.Mode == AutoreplyEcho || q.Period <= 0 {
		add(env.Origin, env.RootID)
		q.Period = everyMessage
	}
	copy(q.Hash[:], h.Sum(nil))
	return q
}

// AutoreplyClaim is what an answer carries: where it is claimed before it is
// sent.
type AutoreplyClaim struct {
	Pair    string
	Mailbox string // uid@canonical.domain of the person who answers
	Hash    [16]byte
	Period  time.Duration
}

// Query is the claim for the answer in env, which has the same RootID whichever
// message caused it.
func (c *AutoreplyClaim) Query(env *Envelope) AutoreplyQuery {
	return AutoreplyQuery{Hash: c.Hash, Period: c.Period, Only: true, By: NewDeliveryKey(env.Origin, env.RootID, "claim "+c.Mailbox)}
}

// stableSender is the sender in the form that is remembered, without what
// BATV and SRS change from day to day: one person is answered once.
func stableSender(a Address) string {
	local := strings.ToLower(a.Local)
	switch {
	case strings.HasPrefix(local, "prvs="): // prvs=TAG=local
		if _, rest, ok := strings.Cut(local[len("prvs="):], "="); ok && rest != "" {
			local = rest
		}
	case strings.HasPrefix(local, "srs0="), strings.HasPrefix(local, "srs0+"), strings.HasPrefix(local, "srs0-"): // SRS0=HASH=DAY=domain=local
		if f := strings.SplitN(local[len("srs0="):], "=", 3); len(f) == 3 && f[2] != "" {
			local = "srs0=" + f[2]
		}
	}
	return local + "@" + strings.ToLower(a.Domain)
}

// String prints q as the value of XVACATION: the hash in hexadecimal, the
// period in seconds, and "only".
func (q AutoreplyQuery) String() string {
	s := hex.EncodeToString(q.Hash[:]) + "," + strconv.FormatInt(int64(q.Period/time.Second), 10)
	if q.Only {
		s += ",only"
	}
	return s
}

// claimLater is the value of XCLAIM with a question.
const claimLater = "later"

// ClaimString prints what q says of claims as the value of XCLAIM: "later", or
// the claimant in hexadecimal; "" without any.
func (q AutoreplyQuery) ClaimString() string {
	switch {
	case q.By != DeliveryKey{}:
		return q.By.String()
	case q.Later:
		return claimLater
	}
	return ""
}

// ReadClaim adds to q, which String printed, what ClaimString printed.
func (q *AutoreplyQuery) ReadClaim(s string) error {
	if s == claimLater {
		q.Later = true
		return nil
	}
	by, err := ParseDeliveryKey(s)
	if err != nil || by == (DeliveryKey{}) || by.String() != s || !q.Only || q.Period == 0 {
		return errors.New("neither \"later\" nor a claim of an answer")
	}
	q.By = by
	return nil
}

var errAutoreplyQuery = errors.New("not a hash, seconds and perhaps \"only\"")

// ParseAutoreplyQuery reads what String prints, and nothing else.
func ParseAutoreplyQuery(s string) (AutoreplyQuery, error) {
	var q AutoreplyQuery
	if len(s) > 64 {
		return q, errAutoreplyQuery
	}
	hash, rest, _ := strings.Cut(s, ",")
	seconds, only, more := strings.Cut(rest, ",")
	if len(hash) != 2*len(q.Hash) || more && only != "only" {
		return q, errAutoreplyQuery
	}
	if _, err := hex.Decode(q.Hash[:], []byte(hash)); err != nil {
		return AutoreplyQuery{}, errAutoreplyQuery
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || n < 0 || n > int64(MaxAutoreplyPeriod/time.Second) {
		return AutoreplyQuery{}, errAutoreplyQuery
	}
	q.Period, q.Only = time.Duration(n)*time.Second, more
	if q.String() != s {
		return AutoreplyQuery{}, errAutoreplyQuery
	}
	return q, nil
}
