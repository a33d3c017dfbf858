package lmtp

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

// maxHops bounds how often one attempt follows "ask another".
const maxHops = 4

// try is one attempt for the recipients of one transaction, over all the nodes
// that may answer.
type try struct {
	a       *Agent
	d       *deliver.Delivery
	rcpts   []mail.Recipient
	results []deliver.Result
	name    bodyName // of the message
	named   bool     // it is to be used

	open    []int // recipients, by index, that may still be asked about
	keyed   bool  // the last peer understood keys
	answers bool  // and remembers who was answered
	stores  bool  // and is told the partition
	names   bool  // and takes a message by its name
	greets  bool  // and says which mailboxes are new
	posts   bool  // and is told who posts
	claims  bool  // and lets answers be claimed
	claim   *mail.AutoreplyQuery
	leader  string // who the last peer said serves
	foreign *Foreign
	hops    int
	pairs   map[int]string // where recipients, by index, have moved
}

func (t *try) run(ctx context.Context) {
	pair := t.rcpts[0].NextHop
	for i := range t.results {
		t.results[i] = noAnswer(deliver.ErrNoRoute)
	}
	if f, ok := t.a.cfg().Foreign[pair]; ok {
		t.foreign = &f
	}
	var room [4]*node
	for round := 0; ; round++ {
		news := t.a.cfg().Routes.While(pair, "")
		for _, n := range t.a.candidates(pair, room[:0]) {
			if t.visit(ctx, pair, n) {
				return
			}
		}
		if ctx.Err() != nil || t.a.cfg().Rounds > 0 && round+1 >= t.a.cfg().Rounds {
			return
		}
		wait := time.NewTimer(min(25*time.Millisecond<<min(round, 5), 400*time.Millisecond))
		select {
		case <-wait.C:
		case <-news.Done():
			wait.Stop()
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

// visit asks n, and whoever it names, and reports whether all is settled.
func (t *try) visit(ctx context.Context, pair string, n *node) bool {
	for {
		t.leader = ""
		t.ask(ctx, pair, n)
		if len(t.open) == 0 && t.asked() {
			return true
		}
		next := t.follow(pair, n)
		if ctx.Err() != nil {
			return true
		}
		if next == nil {
			return false
		}
		n = next
	}
}

// asked reports whether some node has been asked; before that open is empty
// because it was not filled.
func (t *try) asked() bool { return t.open != nil }

// follow returns the node that the last peer named, if it is another one.
func (t *try) follow(pair string, n *node) *node {
	if t.leader == "" || t.leader == n.name || t.hops >= maxHops {
		return nil
	}
	t.hops++
	t.a.cfg().Routes.Redirect(pair, t.leader)
	metrics.LMTPRedirects.Inc()
	var room [4]*node
	for _, c := range t.a.candidates(pair, room[:0]) {
		if c.name == t.leader {
			return c
		}
	}
	return nil
}

// ask gives the open recipients to n.
func (t *try) ask(ctx context.Context, pair string, n *node) {
	if t.open == nil {
		t.open = make([]int, len(t.rcpts))
		for i := range t.open {
			t.open[i] = i
		}
	}
	here, end := t.a.stay(ctx, pair, n)
	defer end()
	if err := n.slots.acquire(here); err != nil {
		t.missed(n, err)
		return
	}
	defer n.slots.release()
	for {
		c, fresh := n.take(time.Now(), t.a.cfg().IdleTime), false
		if c == nil {
			var err error
			if c, err = t.a.dial(here, n, t.foreign); err != nil {
				t.missed(n, err)
				return
			}
			fresh = true
		}
		t.greet(c)
		during := here
		if !t.keyed {
			during = ctx // what it may have stored cannot be given to another one
		}
		answered := t.send(during, n, c)
		if here.Err() != nil && ctx.Err() == nil {
			n.drain(false) // the others are as deaf
		}
		if answered || fresh || len(t.open) == 0 || here.Err() != nil {
			return
		}
		// An idle connection that the peer had closed: its idle sisters are
		// probably no better.
		n.drain(false)
	}
}

// missed notes that n could not be asked.
func (t *try) missed(n *node, err error) {
	for _, i := range t.open {
		if t.results[i].Outcome != deliver.Unknown {
			t.results[i] = noAnswer(err)
			t.results[i].Relay = n.name
		}
	}
}

// send runs one transaction on c. It reports whether the peer answered anything.
func (t *try) send(ctx context.Context, n *node, c *smtp.Client) bool {
	if t.skipUnstored(n); len(t.open) == 0 {
		n.give(c, time.Now(), t.a.cfg().MaxIdle, t.a.cfg().IdleTime)
		return true
	}
	s := scratches.Get().(*scratch)
	defer s.free()
	res, err := t.exchange(ctx, n, c, s)
	if err == nil && c.Usable() {
		n.give(c, time.Now(), t.a.cfg().MaxIdle, t.a.cfg().IdleTime)
	} else {
		c.Close()
	}
	if res == nil {
		res = &smtp.Result{}
	}
	t.settle(n, res, err)
	return res.Mail != nil
}

// settle turns the answers of one transaction into results and leaves in open
// those that another node, or the same one again, may be asked about at once.
func (t *try) settle(n *node, res *smtp.Result, err error) {
	again := t.open[:0]
	for at, i := range t.open {
		reply, phase := answer(res, at)
		r := &t.results[i]
		was := *r
		switch {
		case reply != nil:
			*r = deliver.FromReply(reply, n.name)
			r.Answer = t.answers && (t.claim != nil || t.rcpts[i].Autoreply != nil) && answered(reply)
			if t.greets && t.rcpts[i].Welcome != "" {
				r.Created = created(reply)
			}
		case res.Sent:
			*r = deliver.Result{Outcome: deliver.Unknown, Status: mail.StatusBadConnection, Text: "No answer after the message", Relay: n.name, Err: err, Busy: true}
		default:
			*r = noAnswer(err)
			r.Relay = n.name
		}
		retry := t.judge(r, reply, phase)
		if pair := t.gone(reply); pair != "" {
			if t.pairs == nil {
				t.pairs = map[int]string{}
			}
			t.pairs[i] = pair
		}
		if was.Outcome == deliver.Unknown && r.Outcome == deliver.Deferred {
			// An earlier transaction of this attempt may have stored it.
			r.Outcome = deliver.Unknown
		}
		if retry && (r.Outcome != deliver.Unknown || t.keyed) {
			again = append(again, i)
		}
	}
	t.open = again
}

// answer finds the reply that decides about the recipient at position at, and
// whether it came after the message.
func answer(res *smtp.Result, at int) (reply *smtp.Reply, afterData bool) {
	if res.Mail != nil && !res.Mail.OK() {
		return res.Mail, false
	}
	if at < len(res.Rcpts) && res.Rcpts[at] != nil && !res.Rcpts[at].OK() {
		return res.Rcpts[at], false
	}
	if at < len(res.Data) && res.Data[at] != nil {
		return res.Data[at], true
	}
	return nil, false
}

// judge refines a result by what a pair's answers mean (spec: the response
// table of two-tier.md 3.2). It reports whether to ask again at once.
func (t *try) judge(r *deliver.Result, reply *smtp.Reply, afterData bool) (retry bool) {
	if reply == nil {
		return true
	}
	if !reply.Temporary() {
		return false
	}
	if node := leaderOf(reply.Text); node != "" {
		t.leader = node
		r.Busy = true
		return true
	}
	switch s := r.Status; {
	case t.gone(reply) != "":
		r.Busy = true
		return false
	case t.keyed && strings.HasPrefix(reply.Text, "mailbox moves"):
		r.Busy = true
		return true
	case reply.Code == 421 || s == mail.StatusShuttingDown:
		r.Busy = true
		return true
	case t.keyed && strings.Contains(reply.Text, "not serving"):
		r.Busy = true
		return true
	case s == mail.StatusNoQuorum || t.keyed && afterData && (s == mail.StatusNotServing || s[1] == 4):
		// The pair does not know: the entry may still be committed.
		r.Busy = true
		r.Outcome = deliver.Unknown
		return true
	case s == mail.StatusUnknownBody:
		r.Busy = true
		return true
	case s == mail.Status{4, 2, 1} || s == mail.Status{4, 2, 0}:
		r.Busy = true // mailbox locked
	}
	return false
}

// gone is the pair that the mailbox has moved to, if a reply says so.
func (t *try) gone(reply *smtp.Reply) string {
	if reply == nil || !t.keyed || !reply.Temporary() || !strings.HasPrefix(reply.Text, "not mine") {
		return ""
	}
	return named(reply.Text, "pair=")
}

// leaderOf finds "leader=NODE" in a reply.
func leaderOf(text string) string { return named(text, "leader=") }

// named finds the name behind a word in a reply.
func named(text, word string) string {
	_, rest, ok := strings.Cut(text, word)
	if !ok {
		return ""
	}
	end := strings.IndexFunc(rest, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
	if end >= 0 {
		rest = rest[:end]
	}
	return strings.TrimRight(rest, ".")
}

// scratch holds a transaction's arguments, to be used again.
type scratch struct {
	tx   smtp.Transaction
	mail map[string]string
	rcpt []map[string]string
}

var scratches = sync.Pool{New: func() any { return &scratch{mail: map[string]string{}} }}

func (s *scratch) free() {
	clear(s.mail)
	for _, m := range s.rcpt {
		clear(m)
	}
	clear(s.tx.Rcpts)
	if cap(s.tx.Rcpts) > 256 {
		s.tx.Rcpts, s.rcpt = nil, nil
	}
	s.tx = smtp.Transaction{Rcpts: s.tx.Rcpts[:0]}
	scratches.Put(s)
}

// transaction fills in what t's open recipients need. body is the value of
// XBODY, "" without one.
func (s *scratch) transaction(t *try, body string) *smtp.Transaction {
	env := t.d.Envelope
	m := &s.tx.Mail
	s.tx.Rcpts = s.tx.Rcpts[:0]
	m.From, m.Size, m.Body, m.SMTPUTF8 = env.ReversePath, t.d.Size(), env.Body, env.SMTPUTF8
	if t.d.EightBit || m.Body == "" {
		m.Body = mail.Body8BitMIME
	}
	if t.keyed {
		s.mail["XTRACE"] = env.RootID
		s.mail["XTIME"] = strconv.FormatInt(env.Arrival.UnixNano(), 10)
		m.Private = s.mail
	}
	if body != "" {
		s.mail[paramBody] = body
	}
	for at, i := range t.open {
		r := &t.rcpts[i]
		a := smtp.RcptArgs{To: mailboxAddress(r), OriginalRecipient: r.OriginalRecipient}
		if t.keyed {
			if at == len(s.rcpt) {
				s.rcpt = append(s.rcpt, make(map[string]string, 4))
			}
			p := s.rcpt[at]
			p["XKEY"] = r.Key.String()
			if r.Folder != "" {
				p["XFOLDER"] = r.Folder
				if who := posterOf(r.Poster); who != "" && t.posts {
					p[paramPoster] = who
				}
			}
			if q := r.Quota; q != nil {
				p["XQUOTA"] = strconv.FormatInt(q.Bytes, 10) + "," + strconv.FormatInt(q.Messages, 10) + "," + q.Stamp
			}
			if env.Guaranteed {
				p["XDFLG"] = "2"
			}
			if r.Store != "" && t.stores {
				p[paramStore] = r.Store
			}
			if r.Welcome != "" && t.greets {
				p[paramWelcome] = "1"
			}
			if r.Autoreply != nil && t.answers {
				q := r.Autoreply.Query(env)
				q.Later = t.claims
				askVacation(p, q)
			}
			if t.claim != nil {
				delete(p, "XKEY")
				askVacation(p, *t.claim)
			}
			a.Private = p
		}
		s.tx.Rcpts = append(s.tx.Rcpts, a)
	}
	s.tx.Body, s.tx.UseBDAT = t.d.Body, true
	if body != "" && body != "new" {
		s.tx.Body = nil
	}
	return &s.tx
}

// mailboxAddress is the address to name at RCPT: the final mailbox, or to a
// foreign server whatever expansion left. To a server without XFOLDER the
// folder is lost: it has no name for it that every server reads alike.
func mailboxAddress(r *mail.Recipient) mail.Address {
	if at := strings.LastIndexByte(r.Mailbox, '@'); at > 0 {
		return mail.Address{Local: r.Mailbox[:at], Domain: r.Mailbox[at+1:]}
	}
	return r.Address
}
