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
	again   *history.Input // a delivery whose outcome is not known
}

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

// once asks one question.
func (s *session) once() {
	in := s.question()
	if s.rng.IntN(8) == 0 {
		s.at = []string{"a", "b"}[s.rng.IntN(2)]
	}
	node := s.w.nodes[s.at]
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+s.rng.IntN(4000))*time.Millisecond)
	defer cancel()
	call := s.w.history.Call(s.id, in)
	var out history.Output
	err := errDropped // nothing runs there: nothing was asked
	alive := node.use(func(p *proc) { out, err = s.ask(ctx, p, &in) })
	call.Refine(in)
	var not *mailbox.ErrNotServing
	switch {
	case err == nil && alive:
		call.Return(out)
		s.w.count(in.Kind.String())
		s.learn(&in, &out)
	case errors.Is(err, errDropped), errors.As(err, &not), errors.Is(err, mailbox.ErrBusy):
		call.Drop()
		s.w.count("refused")
		s.elsewhere(not)
	default:
		call.Unknown()
		s.w.count("unknown")
		if in.Kind == history.Deliver {
			s.again = &in
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

func (s *session) learn(in *history.Input, out *history.Output) {
	switch in.Kind {
	case history.List:
		s.seen, s.modseq = out.UIDs, out.ModSeq
	case history.Append, history.Deliver:
		if out.UID != 0 && !slices.Contains(s.seen, out.UID) {
			s.seen = append(slices.Clone(s.seen), out.UID)
			slices.Sort(s.seen)
		}
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

// some chooses UIDs; one that does not exist may be among them.
func (s *session) some() []uint32 {
	uids := []uint32{uint32(1 + s.rng.IntN(40))}
	for _, uid := range s.seen {
		if s.rng.IntN(3) == 0 {
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
