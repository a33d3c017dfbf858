package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/integration/history"
	"github.com/postern-mail/postern/shared/mail"
)

// quotaOf is what the mailboxes of the sessions may hold.
var quotaOf = history.Limit{Bytes: 3000, Messages: 12}

// session is a client that works on one mailbox, where others do so too, and
// notes what it is told. It asks either replica, whether or not it serves.
type session struct {
	w       *world
	id      int
	account string
	rng     *rand.Rand
	at      string   // the replica that it believes to serve
	seen    []uint32 // UIDs
	modseq  uint64
	texts   int
	patient bool           // it waits for an answer for as long as its call takes
	asking  chan struct{}  // questions under way
	again   *history.Input // a delivery whose outcome is not known
}

// mostAsking is how many questions of a session are under way at most: it has so
// many connections. When all power goes none of them is answered, and the orders in
// which they may have been carried out are more than can be tried.
const mostAsking = 3

// errDropped marks what was certainly not done.
var errDropped = errors.New("refused")

// run asks until stop is closed.
func (s *session) run(stop <-chan struct{}) {
	for {
		pause(time.Duration(1+s.rng.IntN(120))*time.Millisecond, nil, stop)
		select {
		case <-stop:
			return
		default:
		}
		s.once()
	}
}

// once asks one question. A session that is not patient goes on when no answer
// has come for a while; the answer counts all the same when it comes.
func (s *session) once() {
	s.asking <- struct{}{}
	in := s.question()
	if s.rng.IntN(8) == 0 {
		s.at = []string{"a", "b"}[s.rng.IntN(2)]
	}
	node := s.w.nodes[s.at]
	call := s.w.history.Call(s.id, in)
	done := make(chan reply, 1)
	s.w.wg.Go(func() {
		defer func() { <-s.asking }()
		// Longer than any fault: what is given up here may happen at any later time,
		// and each such question makes the history harder to judge.
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		r := reply{in: in, err: errDropped} // nothing runs there: nothing was asked
		r.alive = node.use(func(p *proc) {
			r.out, r.err = s.ask(ctx, p, &r.in)
			p.held() // the answer does not leave it
		})
		s.record(call, &r)
		done <- r
	})
	var patience <-chan time.Time
	if !s.patient {
		patience = time.After(time.Duration(50+s.rng.IntN(1000)) * time.Millisecond)
	}
	select {
	case r := <-done:
		s.learn(&r)
	case <-patience:
		s.elsewhere(nil)
	}
}

// reply is what comes back from a question.
type reply struct {
	in    history.Input
	out   history.Output
	err   error
	alive bool
}

// refused reports whether it was certainly not done.
func (r *reply) refused() (not *mailbox.ErrNotServing, refused bool) {
	moved := errors.As(r.err, &not)
	return not, moved || errors.Is(r.err, errDropped) || errors.Is(r.err, mailbox.ErrBusy)
}

// record notes in the history what came back.
func (s *session) record(call *history.Call, r *reply) {
	_, refused := r.refused()
	switch {
	case r.err == nil && r.alive:
		call.Refine(r.in)
		call.Return(r.out)
		s.w.count(r.in.Kind.String())
	case refused:
		call.Drop()
		s.w.count("refused")
	default:
		call.Unknown()
		s.w.count("unknown")
	}
}

// learn takes over what the session has been told.
func (s *session) learn(r *reply) {
	if r.err != nil || !r.alive {
		not, refused := r.refused()
		if !refused && r.in.Kind == history.Deliver {
			s.again = &r.in
		}
		s.elsewhere(not)
		return
	}
	switch r.in.Kind {
	case history.List:
		s.seen, s.modseq = r.out.UIDs, r.out.ModSeq
	case history.Append, history.Deliver:
		if r.out.UID != 0 && !slices.Contains(s.seen, r.out.UID) {
			s.seen = append(slices.Clone(s.seen), r.out.UID)
			slices.Sort(s.seen)
		}
	}
}

func (s *session) elsewhere(not *mailbox.ErrNotServing) {
	switch {
	case not != nil && not.Leader != "":
		s.at = not.Leader
	case s.rng.IntN(2) == 0:
		s.at = []string{"a", "b"}[s.rng.IntN(2)]
	}
}

// question chooses what to ask.
func (s *session) question() history.Input {
	in := history.Input{Account: s.account}
	if s.again != nil && s.rng.IntN(2) == 0 { // as a relay does
		in, s.again = *s.again, nil
		return in
	}
	switch k := s.rng.IntN(100); {
	case k < 12:
		in.Kind, in.Size = history.Append, s.size()
	case k < 27:
		s.texts++
		in.Kind, in.Size, in.Limit = history.Deliver, s.size(), &quotaOf
		in.Key = fmt.Sprintf("s%d-%d", s.id, s.texts)
	case k < 50:
		in.Kind, in.UIDs = history.Store, s.some()
		in.Action, in.Flags = history.Action(s.rng.IntN(3)), uint64(s.rng.IntN(32))
		if s.rng.IntN(4) == 0 {
			in.Action, in.Flags = history.Add, history.Deleted
		}
		if s.rng.IntN(4) == 0 {
			since := s.modseq
			in.Since = &since
		}
	case k < 58:
		in.Kind, in.UIDs = history.Expunge, s.some()
	case k < 75:
		in.Kind = history.List
	case k < 92:
		in.Kind, in.UIDs = history.Rows, s.some()
	default:
		in.Kind = history.Usage
	}
	return in
}

func (s *session) size() int64 { return int64(120 + s.rng.IntN(200)) }

// some chooses UIDs, all of them now and then; one that does not exist may be
// among them.
func (s *session) some() []uint32 {
	uids := []uint32{uint32(1 + s.rng.IntN(40))}
	all := s.rng.IntN(3) == 0
	for _, uid := range s.seen {
		if all || s.rng.IntN(3) == 0 {
			uids = append(uids, uid)
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// text is a message of a size.
func text(what string, size int64) []byte {
	b := []byte("Subject: " + what + "\r\n\r\n")
	for int64(len(b)) < size-2 {
		b = append(b, 'x')
	}
	return append(b, '\r', '\n')
}

// ask puts a question to the replica of a process.
func (s *session) ask(ctx context.Context, p *proc, in *history.Input) (out history.Output, err error) {
	if in.Kind == history.Deliver {
		return s.deliver(ctx, p, in)
	}
	a, err := p.boxes.Account(ctx, s.account)
	if err != nil {
		return out, fmt.Errorf("%w: %w", errDropped, err)
	}
	switch in.Kind {
	case history.Append:
		_, uids, err := a.Append(ctx, "INBOX", []mailbox.AppendMessage{{Bytes: text("append", in.Size), InternalDate: time.Now()}})
		if errors.Is(err, mailbox.ErrOverQuota) {
			return history.Output{OverQuota: true}, nil
		}
		if err != nil {
			return out, err
		}
		return history.Output{UID: uids[0]}, nil
	case history.Usage:
		out.Bytes, out.Messages, _, err = a.Quota(ctx)
		return out, err
	case history.List:
		v, err := a.Open(ctx, "INBOX", true)
		if err != nil {
			return out, err
		}
		defer v.Close()
		for seq := 1; seq <= v.Len(); seq++ {
			out.UIDs = append(out.UIDs, v.UID(seq))
		}
		out.UIDNext, out.ModSeq = v.Info().UIDNext, v.Info().HighestModSeq
		return out, nil
	}
	return s.messages(ctx, a, in)
}

// messages asks about messages by their UIDs. They are made out in a picture of
// the mailbox first, so that the question is of those in it.
func (s *session) messages(ctx context.Context, a *mailbox.Account, in *history.Input) (out history.Output, err error) {
	v, err := a.Open(ctx, "INBOX", in.Kind == history.Rows)
	if err != nil {
		return out, fmt.Errorf("%w: %w", errDropped, err)
	}
	defer v.Close()
	switch in.Kind {
	case history.Store:
		op := []mailbox.StoreOp{mailbox.StoreReplace, mailbox.StoreAdd, mailbox.StoreRemove}[in.Action]
		res, err := v.Store(ctx, in.UIDs, op, mailbox.Flags(in.Flags), nil, in.Since)
		return history.Output{UIDs: res.Changed, Modified: res.Modified, ModSeq: res.ModSeq}, err
	case history.Expunge:
		out.UIDs, err = v.Expunge(ctx, in.UIDs, false)
		return out, err
	}
	var seqs []int
	var there []uint32
	for _, uid := range in.UIDs {
		if seq, ok := v.Seq(uid); ok {
			seqs, there = append(seqs, seq), append(there, uid)
		}
	}
	if len(there) == 0 {
		return out, errDropped
	}
	in.UIDs = there
	err = v.Rows(ctx, seqs, func(_ int, r *mailbox.Row) error {
		out.Rows = append(out.Rows, history.Row{UID: r.UID, Flags: uint64(r.Flags), ModSeq: r.ModSeq, Size: r.Size})
		return nil
	})
	if errors.Is(err, mailbox.ErrExpunged) {
		err = nil
	}
	return out, err
}

func (s *session) deliver(ctx context.Context, p *proc, in *history.Input) (out history.Output, err error) {
	d := &mailbox.Delivery{
		Message: text(in.Key, in.Size), Arrival: time.Now(),
		Recipients: []mailbox.DeliveryRecipient{{
			Account: s.account, Key: mail.NewDeliveryKey("session", in.Key, s.account), Force: in.Force,
			Quota: &mail.Quota{Bytes: in.Limit.Bytes, Messages: in.Limit.Messages, Stamp: "1"},
		}},
	}
	res, err := p.boxes.Deliver(ctx, d)
	if err != nil {
		return out, err
	}
	r := res[0]
	if errors.Is(r.Err, mailbox.ErrOverQuota) {
		return history.Output{OverQuota: true}, nil
	}
	return history.Output{UID: r.UID, Duplicate: r.Duplicate}, r.Err
}
