package expand

import (
	"container/heap"
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/list"
	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Stages of a recipient that comes back by the channel reprocess.
const (
	stageNone     = ""         // from the start
	stageChanged  = "changed"  // the list's copy, after its posting rules
	stageModerate = "moderate" // the copy for the moderators
	stageSRS      = "srs"      // forwarded: the reverse-path is to be rewritten
	stageCopy     = "copy"     // captured: to be put into a message about it
)

// resume is how a recipient of the channel reprocess goes on. It stands in
// Recipient.Mailbox, which that channel does not use otherwise.
type resume struct {
	stage  string
	after  string        // members up to this name are done
	poster *mail.Address // who posted, where the reverse-path does not tell
	optIn  []string      // filters that whoever forwards has asked for
}

// String prints s as a query string (RFC 3986); "" for nothing to remember.
func (s resume) String() string {
	v := url.Values{}
	if s.stage != "" {
		v.Set("stage", s.stage)
	}
	if s.after != "" {
		v.Set("after", s.after)
	}
	if s.poster != nil {
		v.Set("poster", s.poster.String())
	}
	if len(s.optIn) > 0 {
		v["optin"] = s.optIn
	}
	return v.Encode()
}

// parseResume reads what String printed.
func parseResume(text string) (s resume, err error) {
	v, err := url.ParseQuery(text)
	if err != nil {
		return s, err
	}
	s.stage, s.after, s.optIn = v.Get("stage"), v.Get("after"), v["optin"]
	switch s.stage {
	case stageNone, stageChanged, stageModerate, stageSRS, stageCopy:
	default:
		return s, errors.New("unknown stage " + s.stage)
	}
	if v.Has("poster") {
		var a mail.Address
		if p := v.Get("poster"); p != "" {
			if a, err = mail.ParseAddress(p, true); err != nil {
				return s, err
			}
		}
		s.poster = &a
	}
	return s, nil
}

// Next is what becomes of a recipient of the channel reprocess.
type Next struct {
	// Recipients are queued as they are, under the same root queue id or, if
	// Change is set, under a new one. None: nothing is left to do.
	Recipients []mail.Recipient
	// ReversePath replaces that of the message when it is not nil.
	ReversePath *mail.Address
	// Change makes the message that is queued, always the same octets of the
	// same message; nil leaves it as it is. What could not be changed is in
	// notes, for the log.
	Change func(msg []byte) (changed []byte, notes []string)
	// Bare says that the sender's wishes about reports (RFC 3461) end here, with
	// a report that the message was passed on where success is among them.
	Bare bool
}

// Again expands r, which has come by the channel reprocess with the message
// msg. The error is the answer.
func (x *Expander) Again(ctx context.Context, env *mail.Envelope, r mail.Recipient, msg []byte, trace func(Step)) (*Next, error) {
	state, err := parseResume(r.Mailbox)
	if err != nil { // of a newer version, perhaps: it waits
		return nil, x.answer(ansMisconfigured, r.Address, err)
	}
	r.Channel, r.NextHop, r.Mailbox, r.Folder, r.Quota, r.Key = "", "", "", "", nil, mail.DeliveryKey{}
	p := &pass{msg: content{Size: int64(len(msg)), Bytes: msg}, state: state, limit: x.cfg.ChunkSize, names: map[string]bool{}}
	w := walk{x: x, ctx: ctx, env: env, trace: trace, pass: p}
	w.past(&r)
	switch state.stage {
	case stageSRS:
		return w.rewritten(r)
	case stageCopy:
		return w.wrapped(r), nil
	}
	if err = w.start(r); err == nil {
		err = p.finish(&w, r)
	}
	if err != nil {
		w.note(r.Address, "", "refused", err)
		return nil, err
	}
	return &p.next, nil
}

// content is the message.
type content struct {
	Size  int64
	Bytes []byte
}

// pass is one look at a recipient of the channel reprocess.
type pass struct {
	msg   content
	state resume
	next  Next

	// The results that are queued now: those with the lowest names above
	// state.after, at most limit.
	limit int
	heap  byName
	names map[string]bool // of those in heap
	more  bool            // others are left for later
	total int             // results, those left out included
	done  int             // of them, those that are not failures
	err   error           // a failure, a temporary one if there was any
}

// put takes one result.
func (p *pass) put(r mail.Recipient) {
	p.done++
	p.keep(r)
}

// refused takes a branch that was refused: it comes back by itself.
func (p *pass) refused(w *walk, r mail.Recipient, err error) error {
	if p.err == nil || mail.Permanent(p.err) && !mail.Permanent(err) {
		p.err = err
	}
	p.keep(w.later(r, resume{}))
	return nil
}

func (p *pass) keep(r mail.Recipient) {
	p.total++
	name := nameOf(&r)
	if r.Key != (mail.DeliveryKey{}) {
		name += "\x00" + r.Key.String()
	}
	if name <= p.state.after || p.names[name] {
		return
	}
	if len(p.heap) == p.limit {
		p.more = true
		if name > p.heap[0].name {
			return
		}
		delete(p.names, p.heap[0].name)
		p.heap[0] = named{name, apart(r)}
		heap.Fix(&p.heap, 0)
	} else {
		p.heap = append(p.heap, named{name, apart(r)})
		heap.Fix(&p.heap, len(p.heap)-1)
	}
	p.names[name] = true
}

// apart is r without strings that are parts of its entry, which would stay as
// long as r does.
func apart(r mail.Recipient) mail.Recipient {
	n, a := len(r.Address.Local), r.Address.Local+r.Address.Domain
	r.Address = mail.Address{Local: a[:n], Domain: a[n:]}
	if r.Quota != nil {
		q := *r.Quota
		q.Stamp = strings.Clone(q.Stamp)
		r.Quota = &q
	}
	return r
}

// finish makes the result of the pass.
func (p *pass) finish(w *walk, r mail.Recipient) error {
	if p.next.Change != nil {
		return nil
	}
	for _, f := range w.failed {
		if !w.reached(f.err) {
			if err := p.refused(w, f.r, f.err); err != nil {
				return err
			}
		}
	}
	switch {
	case p.done > 0:
	case p.state.after != "":
		return nil // whoever was left has gone
	case p.err != nil:
		return p.err
	default:
		return w.nobody(r)
	}
	slices.SortFunc(p.heap, func(a, b named) int { return strings.Compare(a.name, b.name) })
	p.next.Recipients = make([]mail.Recipient, 0, len(p.heap)+1)
	for _, n := range p.heap {
		p.next.Recipients = append(p.next.Recipients, n.r)
	}
	if p.more {
		state := p.state
		state.after = p.heap[len(p.heap)-1].name
		w.rule(r.Address, "", "13.6", "", "the rest of the members follows by the channel reprocess", nil)
		p.next.Recipients = append(p.next.Recipients, w.later(r, state))
	}
	return nil
}

// named is a result with its name.
type named struct {
	name string
	r    mail.Recipient
}

// byName is a heap with the highest name on top.
type byName []named

func (h byName) Len() int           { return len(h) }
func (h byName) Less(i, j int) bool { return h[i].name > h[j].name }
func (h byName) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byName) Push(v any)        { *h = append(*h, v.(named)) }
func (h *byName) Pop() any {
	last := len(*h) - 1
	v := (*h)[last]
	*h = (*h)[:last]
	return v
}

// nameOf is the name of one final delivery, the same for two that are one.
func nameOf(r *mail.Recipient) string {
	if r.Channel == mail.ChannelLMTP {
		folder := r.Folder
		if strings.EqualFold(folder, "INBOX") {
			folder = ""
		}
		return strings.ToLower(r.Mailbox) + "\x00" + folder
	}
	name := r.Address.Key() + "\x00" + string(r.Channel)
	if r.Channel == mail.ChannelReprocess {
		name += "\x00" + r.Mailbox
	}
	return name
}

// change plans the copy that the list e makes of the message, which comes back
// once more as stage says.
func (w *walk) change(r mail.Recipient, e *directory.Entry, stage string) error {
	author := w.author()
	n := &w.pass.next
	if stage == stageChanged && e.ErrorsTo != "" {
		n.Bare = true // the owner has the errors
		to, err := w.one(r, e, e.ErrorsTo)
		if err != nil {
			return err
		}
		n.ReversePath = &to
	}
	again := w.later(r, resume{stage: stage, poster: &author})
	if n.Bare { // RFC 3461 5.2.7.3: from here on the list's owner hears of failures
		again.Notify, again.OriginalRecipient = mail.NotifyFailure, ""
	}
	n.Recipients = []mail.Recipient{again}
	changes := w.x.changes(r, e, stage)
	n.Change = func(msg []byte) ([]byte, []string) { return list.Apply(msg, changes) }
	return nil
}

// changes is what the list e does to its mail.
func (x *Expander) changes(r mail.Recipient, e *directory.Entry, stage string) *list.Changes {
	address, err := mail.ParseAddress(e.Mail, true)
	if err != nil {
		address = r.Address
	}
	c := &list.Changes{List: address}
	l := e.List
	if stage == stageModerate {
		c.Moderate = true
		return c
	}
	c.Remove = slices.Clone(x.cfg.Trim)
	if l == nil {
		return c
	}
	c.Remove = append(c.Remove, l.RemoveHeader...)
	if l.Password != "" {
		c.Remove = append(c.Remove, "Approved")
	}
	c.Add, c.Tag, c.Prefix, c.Suffix = l.AddHeader, l.SubjectTag, l.Prefix, l.Suffix
	c.Unsubscribe = slices.Clone(l.Unsubscribe)
	if a, err := memberAddress(l.RequestTo); err == nil {
		c.Unsubscribe = append(c.Unsubscribe, "mailto:"+a.String()+"?subject=unsubscribe")
	}
	return c
}

// wrapped plans the copy for those who capture mail: a message of ours about
// the message, without a way back.
func (w *walk) wrapped(r mail.Recipient) *Next {
	about := list.Capture{To: r.Address}
	if w.env != nil {
		about.ReversePath, about.AuthUser, about.Arrival = w.env.ReversePath, w.env.AuthUser, w.env.Arrival
		about.ID = w.env.QueueID
	}
	if n := len(r.Via); n > 0 {
		about.Recipient = r.Via[n-1]
	}
	w.rule(r.Address, "", "5/4", "", "a copy inside a message about it", nil)
	r.Notify, r.OriginalRecipient = mail.NotifyNever, ""
	return &Next{
		Recipients: []mail.Recipient{w.later(r, resume{})}, ReversePath: &mail.Address{}, Bare: true,
		Change: func(msg []byte) ([]byte, []string) { return list.Wrap(msg, about), nil },
	}
}

// Sender returns who gets copies of all that the sender of env sends, by the
// attribute for message capture (directory.md 5, stage 4).
func (x *Expander) Sender(ctx context.Context, env *mail.Envelope) ([]mail.Recipient, error) {
	w := walk{x: x, ctx: ctx, env: env}
	from := mail.Recipient{Address: env.ReversePath}
	s, err := w.sender(from, true)
	if err != nil || s.entry == nil || len(s.entry.Capture) == 0 {
		return nil, err
	}
	if err := w.capture(from, s.entry.DN, s.entry.Capture); err != nil {
		return nil, err
	}
	for _, f := range w.failed {
		x.alarms.raise("capture address is refused", s.entry.DN, f.r.Address, f.err)
	}
	return w.final, nil
}
