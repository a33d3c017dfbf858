package transaction

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/policy"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/smtp"
)

// Follower is a filter of all mail, which follows the client's session.
type Follower struct {
	Name    string
	Session policy.Session
}

// Some is what becomes of recipients whose filter refuses a message that others
// get, so that the client can no longer be told.
type Some uint8

const (
	// Notify tells the sender by a notification.
	Notify Some = iota
	// Hold keeps the message for the operator.
	Hold
	// Discard drops it.
	Discard
)

// Filter is a filter that recipients opt in to.
type Filter struct {
	policy.Filter
	// Words are what an entry may say to ask for it, in lower case.
	Words []string
	// Some is for messages that it refuses for some of their recipients.
	Some Some
}

// Wants reports whether r asks for f. Who is looked up again asks then.
func (f *Filter) Wants(r *mail.Recipient) bool {
	return (r.Channel == mail.ChannelLMTP || r.Channel == mail.ChannelSMTP) && slices.ContainsFunc(r.OptIn, f.Knows)
}

// Knows reports whether word asks for f.
func (f *Filter) Knows(word string) bool {
	return slices.ContainsFunc(f.Words, func(w string) bool { return strings.EqualFold(w, strings.TrimSpace(word)) })
}

// part is recipients who get the same octets: nearly always all of a
// transaction. From here on it is a transaction of its own, under the same root
// queue id.
type part struct {
	*Transaction
	body     [][]byte // own segments of ours, then the message
	own      int
	eightBit bool
	hold     string   // why all of it waits for the operator
	known    []*known // beside rcpts: those whose outcome needs no asking; nil where none
	beside   bool     // another part may lead to recipients of this one

	pairs   []pair // and what they said
	outcome outcome
}

// known is the refusal of one recipient before anybody is asked to deliver.
type known struct {
	result deliver.Result
	filter string // that refused; "" if none did
	some   Some
}

// refuse notes that recipient i is refused for good.
func (p *part) refuse(i int, k *known) {
	if p.known == nil {
		p.known = make([]*known, len(p.rcpts))
	}
	p.known[i] = k
}

// refusal is the outcome of i, nil while it is open.
func (p *part) refusal(i int) *known {
	if p.known == nil {
		return nil
	}
	return p.known[i]
}

// move takes those recipients of p that fit out of it and makes a part of them;
// p itself when all do, nil when none does.
func (p *part) move(fit func(i int) bool) *part {
	var in, out []int
	for i := range p.rcpts {
		if fit(i) {
			in = append(in, i)
		} else {
			out = append(out, i)
		}
	}
	switch {
	case len(in) == 0:
		return nil
	case len(out) == 0:
		return p
	}
	t := *p.Transaction
	more := &part{Transaction: &t, body: p.body, own: p.own, eightBit: p.eightBit, hold: p.hold}
	more.rcpts, more.known, more.seen = pick(p.rcpts, in), pick(p.known, in), nil
	p.rcpts, p.known, p.seen = pick(p.rcpts, out), pick(p.known, out), nil
	return more
}

// pick returns the elements of s at these places; nil of nil.
func pick[T any](s []T, places []int) []T {
	if s == nil {
		return nil
	}
	out := make([]T, len(places))
	for n, i := range places {
		out[n] = s[i]
	}
	return out
}

// rename gives p a queue id of its own. Mail that this relay makes gets the same
// one when it is made again.
func (p *part) rename(filter string) {
	if !p.src.Internal {
		p.env.QueueID = mail.NewQueueID()
		return
	}
	h := sha256.Sum256([]byte("part\x00" + p.env.QueueID + "\x00" + filter))
	p.env.QueueID = strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(h[:16]))
}

// change makes the changes of v that are not about recipients.
func (p *part) change(v *policy.Verdict) {
	if v.Message != nil {
		p.body = append(p.body[:p.own:p.own], v.Message)
		p.eightBit = slices.ContainsFunc(v.Message, func(c byte) bool { return c >= 0x80 })
		if p.eightBit {
			p.env.Body = mail.Body8BitMIME
		}
	}
	if v.ReversePath != nil {
		p.env.ReversePath = *v.ReversePath
	}
	if v.Hold != "" && p.hold == "" {
		p.hold = v.Hold
	}
}

// follow asks the filters of all mail, each about what the one before has left.
// A reply ends the transaction.
func (p *part) follow(ctx context.Context) *smtp.Reply {
	for _, f := range p.src.Filters {
		v := f.Session.Message(ctx, p.body[p.own:])
		p.logVerdict(f.Name, &v, len(p.rcpts))
		switch {
		case v.Reply != nil:
			return p.rejected(v.Reply)
		case v.Discard:
			p.drop(func(int) bool { return true })
			return nil
		}
		p.change(&v)
		for _, a := range v.Remove {
			p.withdraw(a)
		}
		if r := p.include(ctx, v.Add, f.Name, nil); r != nil {
			return r
		}
	}
	return nil
}

// drop discards the recipients that fit.
func (p *part) drop(fit func(i int) bool) {
	if gone := p.move(fit); gone != nil {
		for i := range gone.rcpts {
			p.discarded(&gone.rcpts[i], gone.rcpts[i].Address)
		}
		gone.rcpts, gone.known, gone.seen = nil, nil, nil // gone may be p
	}
}

// include adds recipients that a filter wants besides, unless others of the parts
// have them. They are looked up like any other, and nobody hears of their failures.
func (p *part) include(ctx context.Context, add []mail.Address, filter string, parts []*part) *smtp.Reply {
	for _, a := range add {
		r := mail.Recipient{Address: a, Notify: mail.NotifyNever}
		final, err := p.final(ctx, &r)
		switch {
		case err == nil && len(p.rcpts)+len(final) > p.cfg.MaxRecipients:
			return p.rejected(replyTooMany)
		case err == nil:
		case mail.Permanent(err):
			p.cfg.Log.Warn("recipient that a filter adds is refused", "queue_id", p.env.QueueID, "filter", filter, "recipient", a.String(), "error", err)
			continue
		default:
			return p.rejected(smtp.ReplyFor(err))
		}
		for i := range final {
			f := &final[i]
			if f.Key == (mail.DeliveryKey{}) {
				f.Key = mail.NewDeliveryKey(p.env.Origin, p.env.RootID, finalName(f))
			}
			if !slices.ContainsFunc(parts, func(o *part) bool { _, has := o.find(f.Key); return has }) {
				p.add(f, &r)
			}
		}
		for p.known != nil && len(p.known) < len(p.rcpts) {
			p.known = append(p.known, nil)
		}
	}
	return nil
}

// withdraw takes back what RCPT with address a has added, unless another RCPT
// has led there too.
func (t *Transaction) withdraw(a mail.Address) {
	still := map[mail.DeliveryKey]bool{}
	gone := map[mail.DeliveryKey]bool{}
	t.given = slices.DeleteFunc(t.given, func(g given) bool {
		if g.address == a.Key() {
			gone[g.key] = true
			return true
		}
		still[g.key] = true
		return false
	})
	t.rcpts = slices.DeleteFunc(t.rcpts, func(r mail.Recipient) bool { return gone[r.Key] && !still[r.Key] })
	t.seen = nil
}

// given says that RCPT with an address has led to a recipient.
type given struct {
	address string
	key     mail.DeliveryKey
}

// divide asks the filters that recipients opted in to, each about those only, and
// returns who gets what. Until then nobody has the message, so that a temporary
// refusal by one filter is the answer for all: the message comes again.
func (whole *part) divide(ctx context.Context) ([]*part, *smtp.Reply) {
	parts := []*part{whole}
	if whole.src.Internal {
		parts = whole.classes()
	}
	for i := range whole.cfg.Filters {
		f := &whole.cfg.Filters[i]
		for _, p := range parts { // not what f makes of them
			more, r := p.judge(ctx, f, parts)
			if r != nil {
				return nil, r
			}
			if more != nil && more != p {
				parts = append(parts, more)
			}
		}
	}
	if whole.src.Internal || slices.ContainsFunc(parts, (*part).open) {
		parts = late(parts)
	}
	return parts, nil
}

// classes divides mail that this relay makes by who wants which filters, whatever
// those will say: when it is made again after a crash it is the same parts.
func (p *part) classes() []*part {
	parts := []*part{p}
	for i := range p.cfg.Filters {
		f := &p.cfg.Filters[i]
		for _, q := range parts {
			more := q.apart(func(i int) bool { return f.Wants(&q.rcpts[i]) }, f.Name())
			if more != nil && more != q {
				parts = append(parts, more)
			}
		}
	}
	return parts
}

// arrange makes parts ready to be settled: who is refused is not held, so that the
// sender hears of it now.
func arrange(parts []*part) []*part {
	for _, p := range parts {
		if p.hold == "" {
			continue
		}
		if told := p.apart(func(i int) bool { return p.refusal(i) != nil }, "refused"); told != nil {
			told.hold = ""
			if told != p {
				parts = append(parts, told)
			}
		}
	}
	parts = slices.DeleteFunc(parts, func(p *part) bool { return len(p.rcpts) == 0 })
	if len(parts) < 2 {
		return parts
	}
	// Parts that other messages may come of are queued first, see queue.Item.Beside.
	slices.SortStableFunc(parts, func(a, b *part) int { return order(a.expands(), b.expands()) })
	for _, p := range parts {
		p.beside = parts[0].expands()
	}
	return parts
}

// order sorts true before false.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// open reports whether some recipient of p is not refused.
func (p *part) open() bool {
	for i := range p.rcpts {
		if p.refusal(i) == nil {
			return true
		}
	}
	return false
}

// late does with refused recipients what is to be done when the client cannot be
// told, because others get the message or there is no client.
func late(parts []*part) []*part {
	for _, p := range parts {
		p.drop(func(i int) bool { k := p.refusal(i); return k != nil && k.some == Discard })
		for {
			name := ""
			held := p.move(func(i int) bool {
				k := p.refusal(i)
				if k == nil || k.some != Hold || name != "" && k.filter != name {
					return false
				}
				name = k.filter
				return true
			})
			if held == nil {
				break
			}
			held.hold = "refused by filter " + name + ": " + held.known[0].result.Text
			held.known = nil
			if held != p {
				held.rename("refused by " + name)
				parts = append(parts, held)
			}
		}
	}
	return parts
}

// expands reports whether other messages may be made of p.
func (p *part) expands() bool {
	return slices.ContainsFunc(p.rcpts, func(r mail.Recipient) bool {
		return r.Channel == mail.ChannelReprocess || r.Channel == mail.ChannelHold
	})
}

// judge asks f about those recipients of p that want it. They become a part of
// their own if they are to get something else than the others.
func (p *part) judge(ctx context.Context, f *Filter, parts []*part) (more *part, r *smtp.Reply) {
	asked := map[mail.DeliveryKey]*smtp.Reply{}
	var to []mail.Address
	var keys []mail.DeliveryKey
	for i := range p.rcpts {
		if r := &p.rcpts[i]; f.Wants(r) && p.refusal(i) == nil {
			to, keys = append(to, r.Address), append(keys, r.Key)
		}
	}
	if len(to) == 0 {
		return nil, nil
	}
	v, refused := policy.Judge(ctx, f.Filter, p.src.client(), p.mail(), to, p.body[p.own:])
	p.logVerdict(f.Name(), &v, len(to))
	for n, reply := range refused {
		if reply == nil {
			reply = v.Reply
		}
		if reply != nil && reply.Temporary() {
			return nil, p.rejected(reply)
		}
		asked[keys[n]] = reply
	}
	for i := range p.rcpts {
		if reply := asked[p.rcpts[i].Key]; reply != nil {
			p.refuse(i, &known{filter: f.Name(), some: f.Some, result: deliver.Result{
				Outcome: deliver.Failed, Code: reply.Code, Status: reply.Status, Text: reply.Text,
			}})
		}
	}
	passed := func(i int) bool {
		reply, ok := asked[p.rcpts[i].Key]
		return ok && reply == nil
	}
	p.drop(func(i int) bool {
		return passed(i) && (v.Discard || slices.ContainsFunc(v.Remove, func(a mail.Address) bool { return a.Key() == p.rcpts[i].Address.Key() }))
	})
	if v.Message == nil && v.ReversePath == nil && v.Hold == "" && len(v.Add) == 0 {
		return nil, nil
	}
	more = p
	if !p.src.Internal { // otherwise all of p want f
		more = p.apart(passed, f.Name())
	}
	if more == nil {
		return nil, nil
	}
	more.change(&v)
	return more, more.include(ctx, v.Add, f.Name(), parts)
}

// apart moves the recipients that fit to a part with an id of its own, nil when
// there are none.
func (p *part) apart(fit func(i int) bool, filter string) *part {
	more := p.move(fit)
	if more != nil && more != p {
		more.rename(filter)
	}
	return more
}

// client is whom filters hear of.
func (s *Source) client() *policy.Client {
	c := &policy.Client{Remote: s.Client, Local: s.Local, Helo: s.Helo, ESMTP: s.Protocol != "SMTP", TLS: s.TLS, AuthUser: s.AuthUser, AuthType: s.AuthType, Service: s.Service}
	if s.Internal { // the name that the log has of who gave it to us
		if helo, addr, ok := strings.Cut(s.From, "["); ok {
			if a, err := netip.ParseAddr(strings.TrimSuffix(addr, "]")); err == nil {
				c.Remote, c.Helo = netip.AddrPortFrom(a, 0), helo
			}
		}
	}
	return c
}

// logVerdict notes what a filter has said where it is more than nothing.
func (t *Transaction) logVerdict(filter string, v *policy.Verdict, recipients int) {
	e := maillog.Event{
		QueueID: t.env.QueueID, TraceID: t.env.RootID, ReversePath: t.env.ReversePath, NullSender: true,
		Relay: filter, Recipients: recipients, Delay: t.delay(), Reply: v.Changes,
	}
	switch {
	case v.Reply != nil:
		e.Code, e.Status, e.Reply = v.Reply.Code, v.Reply.Status, v.Reply.Text
	case v.Discard:
		e.Reply = "discard"
	case v.Hold != "":
		e.Reply = strings.TrimSuffix("hold: "+v.Hold+"; "+v.Changes, "; ")
	case v.Changes == "":
		return
	}
	t.cfg.Mail.Judged(e)
}
