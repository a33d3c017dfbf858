package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/relay/jobctl"
	"github.com/postern-mail/postern/relay/queue"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/maillog"
	"github.com/postern-mail/postern/shared/metrics"
)

// operate answers the operator and gossip.
func (r *relay) operate() {
	s := r.n.Admin
	admin.Handle(s, admin.QueueList, r.queueList)
	admin.Handle(s, admin.Explain, r.explain)
	admin.Handle(s, admin.Flush, r.flush)
	admin.Handle(s, admin.QueueShow, func(_ context.Context, in admin.QueueID) (admin.QueueMessage, error) {
		it, err := r.jobs.Show(in.ID)
		if err != nil {
			return admin.QueueMessage{}, missing(err)
		}
		return r.message(it, true), nil
	})
	act := func(f func(id string) error) func(context.Context, admin.QueueID) (admin.None, error) {
		return func(_ context.Context, in admin.QueueID) (admin.None, error) { return admin.None{}, missing(f(in.ID)) }
	}
	admin.Handle(s, admin.QueueHold, act(func(id string) error { return r.jobs.Hold(id, "held by an operator") }))
	admin.Handle(s, admin.QueueRelease, act(r.jobs.Release))
	admin.Handle(s, admin.QueueRetry, act(r.jobs.Retry))
	admin.Handle(s, admin.QueueDelete, act(r.jobs.Delete))

	r.handleFormat()
	r.n.Status = r.status
	r.n.Self = r.self
	r.n.Check("pairs", func(context.Context) error {
		for _, pair := range r.n.Routes.Pairs() {
			if c := r.n.Routes.Candidates(pair); len(c) > 0 && c[0].Serving {
				return nil
			}
		}
		if len(r.now().c.Pairs) > 0 {
			return nil // a static list: nobody says who serves
		}
		return errors.New("no serving replica of any pair is known")
	})
	r.n.Check("directory", func(ctx context.Context) error { return r.now().dir.servers.Ready(ctx) })
	r.queueFigures()
	r.n.Metrics.GaugeFunc(metrics.DirStale, "Stale answers of the directory used while no server answered, since the start.", nil, func() float64 {
		return float64(r.now().dir.cache.Stats().Stale)
	})
	r.n.Metrics.GaugeFunc(metrics.MailDropped, "Mail events that the record had no room for, since the start.", nil, func() float64 {
		return float64(r.mailLog.Dropped())
	})
}

// queueFigures registers what is told of the queue; the jobs are looked through
// once a second at most, however many figures are made of them.
func (r *relay) queueFigures() {
	reg := r.n.Metrics
	reg.GaugeFunc(metrics.QueueMessages, "Messages in the queue.", nil, func() float64 { return float64(r.queue.Stats().Messages) })
	r.n.Volume("queue", r.c.Queue.Dir)
	var mu sync.Mutex // guards at and oldest
	var at time.Time
	var oldest map[mail.Channel]time.Time
	for _, c := range []mail.Channel{mail.ChannelLMTP, mail.ChannelSMTP, mail.ChannelReprocess} {
		reg.GaugeFunc(metrics.QueueOldest, "Age of the oldest message in the queue, by channel.", map[string]string{"channel": string(c)}, func() float64 {
			mu.Lock()
			defer mu.Unlock()
			if time.Since(at) > time.Second {
				at, oldest = time.Now(), r.jobs.Oldest()
			}
			if t, ok := oldest[c]; ok {
				return time.Since(t).Seconds()
			}
			return 0
		})
	}
}

// self is what gossip is told.
func (r *relay) self() gossip.Self {
	services := map[string]string{}
	for name, addrs := range map[string][]string{"smtp": r.c.SMTP.Listen, "imap": r.c.IMAP.Listen, "pop3": r.c.POP3.Listen} {
		if len(addrs) > 0 {
			services[name] = addrs[0]
		}
	}
	for i, a := range r.now().c.Public.Addresses {
		services[publicService(i)] = netip.AddrPortFrom(netip.MustParseAddr(a), publicPort).String()
	}
	return gossip.Self{Load: r.load(), Services: services}
}

// load is the share of the sessions that this relay has room for, 0 to 1.
func (r *relay) load() float64 {
	open := 0
	for _, s := range r.access {
		open += s.server.Sessions()
	}
	return min(float64(open)/float64(max(r.now().c.Proxy.MaxSessions, 1)), 1)
}

func (r *relay) status(s *admin.NodeStatus) {
	st := r.queue.Stats()
	s.Queue = &admin.QueueStatus{Queued: int(st.Messages), Bytes: st.Bytes, Oldest: r.jobs.Status().Oldest}
	if st.Messages > 0 && st.Messages <= countHeld {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if held, _, err := r.jobs.List(ctx, jobctl.Query{State: "held"}); err == nil {
			s.Queue.Held = len(held)
		}
	}
	for _, p := range r.access {
		s.Sessions += p.server.Sessions()
	}
	if r.connections != nil {
		s.Connections = r.connections()
	}
}

// countHeld is the largest queue whose held messages are counted for a status:
// it means reading every envelope.
const countHeld = 10_000

func missing(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return fmt.Errorf("%w: %w", admin.ErrNotFound, err)
	}
	return err
}

func (r *relay) queueList(ctx context.Context, in admin.QueueQuery) (admin.QueueListing, error) {
	items, more, err := r.jobs.List(ctx, jobctl.Query{Address: in.Address, State: in.State, After: in.After, Limit: in.Limit})
	if err != nil {
		return admin.QueueListing{}, err
	}
	out := admin.QueueListing{Messages: []admin.QueueMessage{}, More: more}
	for _, it := range items {
		out.Messages = append(out.Messages, r.message(it, false))
	}
	return out, nil
}

// message is how an operator sees a message of the queue.
func (r *relay) message(it *queue.Item, recipients bool) admin.QueueMessage {
	out := admin.QueueMessage{
		ID: it.ID(), State: jobctl.StateOf(it), ReversePath: it.Envelope.ReversePath.String(),
		Size: it.Size, Arrival: it.Envelope.Arrival, Next: r.jobs.Next(it),
	}
	switch {
	case it.Held:
		out.Reason, out.HeldAt = it.Reason, it.HeldAt
	case out.State == "held":
		out.Reason = "on hold in the directory"
	}
	for i := range it.Recipients {
		q := &it.Recipients[i]
		out.Attempts = max(out.Attempts, q.Attempts)
		if !recipients {
			continue
		}
		reply := q.Answer.Text
		if q.Answer.Code != 0 {
			reply = fmt.Sprintf("%d %s %s", q.Answer.Code, q.Answer.Status, q.Answer.Text)
		}
		if q.Answer.Relay != "" {
			reply += " (" + q.Answer.Relay + ")"
		}
		out.Recipients = append(out.Recipients, admin.QueueRecipient{
			Address: q.Address.String(), Channel: string(q.Channel), NextHop: q.NextHop, State: q.State.String(), Reply: reply,
		})
	}
	return out
}

// count keeps the figures of mail: one event, one count.
func count(e *maillog.Event) {
	switch e.Kind {
	case maillog.KindAccepted:
		metrics.MailAccepted.Inc()
		metrics.MailBytes.Add(float64(e.Size))
	case maillog.KindQueued:
		metrics.MailQueued.Inc()
	case maillog.KindRejected:
		metrics.MailRefused.With(class(e.Status)).Inc()
	case maillog.KindDelivered, maillog.KindRelayed, maillog.KindDeferred, maillog.KindBounced:
		metrics.Deliveries.With(string(e.Channel), string(e.Kind)).Inc()
	}
}

func class(s mail.Status) string { return string(rune('0' + s[0]%10)) }
