package lmtp

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

// Parameters of RCPT that are newer than X-TT 1, each the word by which a peer
// says that it knows it.
const (
	paramVacation = "XVACATION" // whether to answer
	paramClaim    = "XCLAIM"    // that the answer will be claimed, or who claims it
	paramStore    = "XPART"     // partition of the mailbox, should it be made
	paramWelcome  = "XWELCOME"  // whether the mailbox is new and has no welcome yet
	paramPoster   = "XPOSTER"   // who posts to the folder
)

// maxPoster bounds the value of XPOSTER on the wire, so that the command with all
// its other parameters stays within its 4,096 octets.
const maxPoster = 1000

// posterOf is the value of XPOSTER: the identities that fit, with spaces between
// them, since no identifier has one, and whether there are more. What the pair does
// not hear of it does not grant anything for.
func posterOf(identities []string) string {
	var b strings.Builder
	room, more := maxPoster-xtext(mail.MoreIdentities), false
	for _, id := range identities {
		switch cost := xtext(id); {
		case id == "" || strings.ContainsAny(id, " \t\r\n"):
		case id == mail.MoreIdentities || cost > room:
			more = true
		default:
			room -= cost
			b.WriteString(id)
			b.WriteByte(' ')
		}
	}
	if more {
		b.WriteString(mail.MoreIdentities)
	}
	return strings.TrimSuffix(b.String(), " ")
}

// xtext is what text costs in an xtext (RFC 3461 4), with a space beside it.
func xtext(text string) int {
	cost := len("+20")
	for i := range len(text) {
		if cost++; text[i] <= ' ' || text[i] >= 0x7f || text[i] == '+' || text[i] == '=' {
			cost += 2
		}
	}
	return cost
}

// Claim asks the pair of c for the answer in env, before it is sent. Answer of
// the result says whether it is given: to the first that asks, as often as it
// asks. A pair that knows no claims has given it when it was asked whether to
// answer. A result that is not Delivered leaves the question open.
func (a *Agent) Claim(ctx context.Context, env *mail.Envelope, c *mail.AutoreplyClaim) deliver.Result {
	q := c.Query(env)
	d := deliver.Delivery{
		Envelope:   &mail.Envelope{RootID: env.RootID, QueueID: env.QueueID, Origin: env.Origin, Arrival: env.Arrival},
		Recipients: []mail.Recipient{{Channel: mail.ChannelLMTP, NextHop: c.Pair, Mailbox: c.Mailbox}},
		Body:       [][]byte{[]byte("\r\n")},
	}
	results := make([]deliver.Result, 1)
	t := try{a: a, d: &d, rcpts: d.Recipients, results: results, claim: &q}
	t.run(ctx)
	t.elsewhere(ctx)
	return results[0]
}

// askVacation adds q to the parameters of a recipient.
func askVacation(p map[string]string, q mail.AutoreplyQuery) {
	p[paramVacation] = q.String()
	if v := q.ClaimString(); v != "" {
		p[paramClaim] = v
	}
}

// greet notes what the peer understands.
func (t *try) greet(c *smtp.Client) {
	params, ok := c.Extension("X-TT")
	t.keyed = ok
	words := strings.Fields(params)
	t.answers = ok && slices.Contains(words, paramVacation)
	t.stores = ok && slices.Contains(words, paramStore)
	t.greets = ok && slices.Contains(words, paramWelcome)
	t.posts = ok && slices.Contains(words, paramPoster)
	t.claims = t.answers && slices.Contains(words, paramClaim)
	t.names = ok && slices.Contains(words, paramBody)
}

// answered reports whether a reply to XVACATION says to answer. The words are
// at its end, where no address or folder can be.
func answered(r *smtp.Reply) bool {
	return r.OK() && strings.HasSuffix(r.Text, " vacation=reply")
}

// created is when the mailbox was made, in Unix seconds, if a reply to XWELCOME
// says that its welcome is due; else 0. The word is at the end, before the one
// about an answer.
func created(r *smtp.Reply) int64 {
	text := strings.TrimSuffix(strings.TrimSuffix(r.Text, " vacation=reply"), " vacation=none")
	i := strings.LastIndex(text, " welcome=")
	if !r.OK() || i < 0 {
		return 0
	}
	n, err := strconv.ParseUint(text[i+len(" welcome="):], 10, 32)
	if err != nil {
		return 0
	}
	return int64(n)
}

// skipUnstored settles the recipients whose mail is to be answered and not
// stored, when n cannot be asked whether to answer: sent to it, the mail would
// be stored.
func (t *try) skipUnstored(n *node) {
	if t.claim != nil {
		if !t.claims {
			t.results[0] = deliver.Result{Outcome: deliver.Delivered, Status: mail.StatusOK, Relay: n.name, Answer: true}
			t.open = t.open[:0]
		}
		return
	}
	if t.answers || !slices.ContainsFunc(t.open, t.unstored) {
		return
	}
	left := t.open[:0]
	for _, i := range t.open {
		if !t.unstored(i) {
			left = append(left, i)
			continue
		}
		t.results[i] = deliver.Result{
			Outcome: deliver.Delivered, Status: mail.StatusOK, Relay: n.name,
			Text: "Accepted and not stored; not answered, the server keeps no memory of answers",
		}
	}
	t.open = left
}

func (t *try) unstored(i int) bool {
	a := t.rcpts[i].Autoreply
	return a != nil && a.Only
}
