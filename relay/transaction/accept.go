package transaction

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/relay/deliver"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/smtp"
)

// Content is the message of a transaction.
type Content struct {
	Bytes    []byte // strict CRLF, as the engine delivers it
	EightBit bool
	Prepend  []byte // fields to add at submission, each with its CRLF
}

// pair is the recipients of one transaction with one pair.
type pair struct {
	name    string
	index   []int // of t.rcpts
	results []deliver.Result
	missed  bool
}

// Data ends the transaction with the message and returns the reply: 250 only
// when every recipient is committed by its pair, on this relay's disk, or (a
// 5yz among others) about to be reported on from this relay's disk. c.Bytes is
// not used after Data has returned.
func (t *Transaction) Data(ctx context.Context, c Content) *smtp.Reply {
	h := inspect(c.Bytes, strings.ToLower(t.cfg.Hostname))
	// What this relay makes itself was looked at when it came in, and may have
	// been released since.
	loop := !t.src.Internal && (h.received > t.cfg.MaxReceived || h.own > t.cfg.MaxOwn)
	if loop && !t.cfg.HoldLoops {
		return t.rejected(&smtp.Reply{Code: 554, Status: mail.StatusLoop, Text: "Too many hops, this looks like a mail loop"})
	}
	if err := t.limits.Admits(int64(len(c.Bytes))); err != nil {
		return t.rejected(smtp.ReplyFor(err))
	}
	if h.priority != mail.Normal {
		t.env.Priority = h.priority
	}
	if c.EightBit && t.env.Body == "" {
		t.env.Body = mail.Body8BitMIME
	}
	if len(t.rcpts) == 0 {
		return t.accepted(h, int64(len(c.Bytes)), 0, "nothing to deliver")
	}
	trace := traces.Get().(*[]byte)
	defer func() { traces.Put(trace) }()
	*trace = (*trace)[:0]
	if !t.src.Internal {
		*trace = t.appendReceived(*trace)
	}
	header, rest := t.reversed(ctx, c.Bytes)
	p := &part{Transaction: t, eightBit: c.EightBit, body: segments([][]byte{*trace, c.Prepend, header, rest})}
	if len(*trace) > 0 {
		p.own = 1
	}
	if r := p.follow(ctx); r != nil {
		return r
	}
	if loop {
		p.hold = fmt.Sprintf("mail loop: %d Received fields, %d of this relay", h.received, h.own)
	}
	p.tooBig(int64(len(c.Bytes)))
	parts := []*part{p}
	if len(t.cfg.Filters) > 0 && !(t.src.Internal && (t.src.Report || t.src.Parent.ID == "")) {
		var r *smtp.Reply
		if parts, r = p.divide(ctx); r != nil {
			return r
		}
	}
	return t.settle(ctx, h, arrange(parts))
}

// segments drops the empty ones.
func segments(body [][]byte) [][]byte {
	out := body[:0]
	for _, b := range body {
		if len(b) > 0 {
			out = append(out, b)
		}
	}
	return out
}

// tooBig refuses the message, of n octets, for those recipients that take none
// of that size.
func (p *part) tooBig(n int64) {
	for i := range p.rcpts {
		if limit := p.rcpts[i].MaxSize; limit > 0 && n > limit {
			p.refuse(i, &known{result: deliver.Result{
				Outcome: deliver.Failed, Code: 552, Status: mail.Status{5, 2, 3}, Text: "Message too big for this recipient",
			}})
		}
	}
}

// size is what p takes in the queue.
func (p *part) size() (n int64) {
	for _, b := range p.body {
		n += int64(len(b))
	}
	return n
}

// settle finds the outcome of every recipient and answers.
func (t *Transaction) settle(ctx context.Context, h header, parts []*part) *smtp.Reply {
	if len(parts) == 0 {
		return t.accepted(h, 0, 0, "nothing to deliver")
	}
	rooms := make([]queue.Reservation, len(parts))
	defer func() {
		for i := range rooms {
			rooms[i].Release()
		}
	}()
	for i, p := range parts {
		var err error
		if rooms[i], err = t.cfg.Queue.Reserve(p.size(), len(p.rcpts)); err != nil {
			return t.rejected(noRoom(err))
		}
	}
	refused := 0
	for _, p := range parts {
		p.ask(ctx)
		if p.outcome.allFailed != nil {
			refused++
		}
	}
	if refused == len(parts) {
		return t.rejected(parts[0].outcome.allFailed)
	}
	queued, recipients := false, 0
	for i, p := range parts {
		p.logResults(p.pairs)
		recipients += len(p.rcpts)
		if p.outcome.rest == 0 {
			continue
		}
		queued = true
		if err := p.submit(ctx, &rooms[i]); err != nil {
			return p.unqueued(err, &p.outcome)
		}
	}
	if !queued {
		metrics.MailThrough.Inc()
	}
	return t.accepted(h, parts[0].size(), recipients, parts[0].hold)
}

// ask finds out what the pairs say, and what else is known.
func (p *part) ask(ctx context.Context) {
	if p.hold == "" {
		p.pairs = p.split()
		p.through(ctx, p.pairs, p.eightBit, p.body)
	}
	var refused pair
	for i := range p.rcpts {
		if k := p.refusal(i); k != nil {
			refused.index, refused.results = append(refused.index, i), append(refused.results, k.result)
		}
	}
	if len(refused.index) > 0 {
		p.pairs = append(p.pairs, refused)
	}
	p.outcome = p.count(p.pairs)
}

// submit gives the queue what it is to keep of p.
func (p *part) submit(ctx context.Context, room *queue.Reservation) error {
	it := p.item(p.pairs)
	if len(it.Recipients) == 0 {
		return nil
	}
	it.Beside = p.beside
	if p.hold != "" {
		it.Held, it.HeldAt, it.Reason = true, p.cfg.Now(), p.hold
	}
	err := p.cfg.Queue.Submit(ctx, room, it, p.body...)
	if errors.Is(err, queue.ErrExists) {
		err = p.again(ctx, it)
	}
	if err != nil {
		return err
	}
	switch {
	case it.Held:
		p.cfg.Mail.Held(maillog.Event{
			QueueID: p.env.QueueID, TraceID: p.env.RootID, ReversePath: p.env.ReversePath, NullSender: true,
			Size: it.Size, Recipients: len(it.Recipients), Reply: it.Reason,
		})
	case len(it.Recipients) > 0:
		p.logQueued(it)
	}
	return nil
}

// again queues those of it that are not in what the queue has under its id from
// before a crash: the directory may have changed who wants which filters since.
func (p *part) again(ctx context.Context, it *queue.Item) error {
	if !p.src.Internal || len(p.cfg.Filters) == 0 {
		return nil
	}
	have, err := p.cfg.Queue.Load(it.ID())
	if errors.Is(err, queue.ErrNotFound) {
		return nil // it has left
	}
	if err != nil {
		return err
	}
	it.Recipients = slices.DeleteFunc(it.Recipients, func(r queue.Recipient) bool { return have.Find(r.Key) != nil })
	if len(it.Recipients) == 0 {
		return nil
	}
	p.rename("rest")
	it.Envelope.QueueID = p.env.QueueID
	if err := p.cfg.Queue.Submit(ctx, nil, it, p.body...); !errors.Is(err, queue.ErrExists) {
		return err
	}
	return nil
}

// noRoom is the reply when the queue cannot promise room.
func noRoom(err error) *smtp.Reply {
	if errors.Is(err, queue.ErrFull) {
		return &smtp.Reply{Code: 452, Status: mail.StatusSystemFull, Text: "Insufficient system storage"}
	}
	return &smtp.Reply{Code: 451, Status: mail.StatusNotServing, Text: "Temporary failure, try again later"}
}

// unqueued is the reply when what remains could not be queued although room was
// promised. The client must try again: that repeats what is committed, where
// 250 would lose the rest.
func (t *Transaction) unqueued(err error, o *outcome) *smtp.Reply {
	t.cfg.Log.Error("message not queued", "queue_id", t.env.QueueID, "committed", o.committed, "unknown", o.unknown,
		"rest", o.rest, "error", err)
	r := noRoom(err)
	r.Code = 451
	return t.rejected(r)
}

// split groups the recipients that may go through now by pair.
func (p *part) split() []pair {
	if p.src.Internal {
		return nil
	}
	var pairs []pair
next:
	for i := range p.rcpts {
		r := &p.rcpts[i]
		if p.cfg.mode(r) != Through || p.refusal(i) != nil {
			continue
		}
		for n := range pairs {
			if pairs[n].name == r.NextHop {
				pairs[n].index = append(pairs[n].index, i)
				continue next
			}
		}
		pairs = append(pairs, pair{name: r.NextHop, index: []int{i}})
	}
	admitted := pairs[:0]
	for _, to := range pairs {
		if p.a.pairs.admit(to.name) {
			admitted = append(admitted, to)
		}
	}
	return admitted
}

// through asks all pairs at once and returns when each has answered or missed
// its deadline.
func (t *Transaction) through(ctx context.Context, pairs []pair, eightBit bool, body [][]byte) {
	if len(pairs) == 0 {
		return
	}
	var wg sync.WaitGroup
	for i := range pairs[1:] {
		wg.Go(func() { t.deliver(ctx, &pairs[i+1], eightBit, body) })
	}
	t.deliver(ctx, &pairs[0], eightBit, body)
	wg.Wait()
}

// deliver gives the message to one pair.
func (t *Transaction) deliver(ctx context.Context, p *pair, eightBit bool, body [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.PairDeadline)
	defer cancel()
	d := deliver.Delivery{Envelope: &t.env, Recipients: t.rcpts, Body: body, EightBit: eightBit}
	if len(p.index) != len(t.rcpts) {
		d.Recipients = make([]mail.Recipient, len(p.index))
		for n, i := range p.index {
			d.Recipients[n] = t.rcpts[i]
		}
	}
	p.results = t.cfg.Pairs.Deliver(ctx, &d)
	for i := range p.results {
		r := &p.results[i]
		if r.Outcome == deliver.Unknown || r.Outcome == deliver.Deferred && r.Busy {
			p.missed = p.missed || ctx.Err() != nil
		}
	}
	if p.missed {
		t.a.pairs.missed(p.name)
	} else {
		t.a.pairs.answered(p.name)
	}
}

// outcome counts what became of the recipients.
type outcome struct {
	committed, unknown int
	rest               int         // to be written to the queue, reports included
	allFailed          *smtp.Reply // set when every recipient has a known 5yz
}

func (t *Transaction) count(pairs []pair) outcome {
	var o outcome
	asked, failed := 0, 0
	var first *smtp.Reply
	for p := range pairs {
		for n, i := range pairs[p].index {
			asked++
			r := &pairs[p].results[n]
			switch {
			case r.Outcome.Done():
				o.committed++
				if t.owed(i, queue.Delivered) {
					o.rest++
				}
			case r.Outcome == deliver.Unknown:
				o.unknown++
				o.rest++
			case r.Outcome == deliver.Failed:
				failed++
				o.rest++
				if first == nil {
					first = r.Reply()
				}
			default:
				o.rest++
			}
		}
	}
	o.rest += len(t.rcpts) - asked
	if failed == len(t.rcpts) {
		o.allFailed = first
	}
	return o
}

// owed reports whether the sender is to be told about state s of recipient i.
func (t *Transaction) owed(i int, s queue.State) bool {
	return queue.Owed(&t.env, t.src.Report, &t.rcpts[i], s)
}

// item is what the queue is to keep: what is not delivered yet, and what the
// sender is to be told.
func (t *Transaction) item(pairs []pair) *queue.Item {
	it := &queue.Item{Envelope: t.env, Client: t.src.name(), Report: t.src.Report, Parent: t.src.Parent}
	it.Recipients = make([]queue.Recipient, 0, len(t.rcpts))
	now := t.cfg.Now()
	results := make([]*deliver.Result, len(t.rcpts))
	for p := range pairs {
		for n, i := range pairs[p].index {
			results[i] = &pairs[p].results[n]
		}
	}
	for i, res := range results {
		r := queue.Recipient{Recipient: t.rcpts[i]}
		if res != nil {
			r.Attempts, r.LastTry = 1, now
			r.Answer = queue.Answer{Code: res.Code, Status: res.Status, Text: res.Text, Relay: res.Relay}
			switch {
			case res.Outcome.Done():
				r.State = queue.Delivered
			case res.Outcome == deliver.Failed:
				r.State = queue.Failed
			}
			if r.State != queue.Pending && !t.owed(i, r.State) {
				continue
			}
			r.Unknown = res.Outcome == deliver.Unknown
			if res.Busy && r.State == queue.Pending {
				r.Busy = now
			}
		}
		it.Recipients = append(it.Recipients, r)
	}
	return it
}

// accepted is the reply after which the message is ours, or delivered.
func (t *Transaction) accepted(h header, size int64, recipients int, note string) *smtp.Reply {
	if !t.src.Internal {
		t.cfg.Mail.Accepted(maillog.Event{
			QueueID: t.env.QueueID, TraceID: t.env.RootID, ReversePath: t.env.ReversePath, NullSender: true,
			Client: t.src.name(), User: t.env.AuthUser, Size: size, Recipients: recipients, MessageID: h.messageID,
			Delay: t.delay(), Status: mail.StatusOK, Reply: note,
		})
	}
	return &smtp.Reply{Code: 250, Status: mail.StatusOK, Text: "OK " + t.env.QueueID}
}

// rejected logs and returns a refusal of the whole message.
func (t *Transaction) rejected(r *smtp.Reply) *smtp.Reply {
	e := maillog.Event{
		QueueID: t.env.QueueID, TraceID: t.env.RootID, ReversePath: t.env.ReversePath, NullSender: true,
		Client: t.src.name(), User: t.env.AuthUser, Status: r.Status, Code: r.Code, Reply: r.Text, Recipients: len(t.rcpts),
	}
	if len(t.rcpts) == 1 {
		e.Recipient = t.rcpts[0].Address
	}
	t.cfg.Mail.Rejected(e)
	return r
}

// logResults notes what the pairs said about each recipient.
func (t *Transaction) logResults(pairs []pair) {
	if t.cfg.Mail == nil {
		return
	}
	for p := range pairs {
		for n, i := range pairs[p].index {
			t.logResult(&t.rcpts[i], &pairs[p].results[n])
		}
	}
}

func (t *Transaction) logResult(r *mail.Recipient, res *deliver.Result) {
	e := maillog.Event{
		QueueID: t.env.QueueID, TraceID: t.env.RootID, ReversePath: t.env.ReversePath, NullSender: true,
		Recipient: r.Address, Channel: r.Channel, Relay: res.Relay, Delay: t.delay(),
		Status: res.Status, Code: res.Code, Reply: res.Text,
	}
	switch {
	case res.Outcome.Done():
		t.cfg.Mail.Delivered(e)
	case res.Outcome == deliver.Failed:
		t.cfg.Mail.Bounced(e)
	default:
		t.cfg.Mail.Deferred(e)
	}
}

func (t *Transaction) logQueued(it *queue.Item) {
	t.cfg.Mail.Queued(maillog.Event{
		QueueID: t.env.QueueID, TraceID: t.env.RootID, ReversePath: t.env.ReversePath, NullSender: true,
		Size: it.Size, Recipients: len(it.Recipients),
	})
}
