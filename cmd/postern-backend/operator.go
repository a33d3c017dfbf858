package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

// operator answers the operator's questions about the replicas.
type operator struct {
	n      *daemon.Node[config.Backend]
	places []*place
}

// handle registers the methods and the figures.
func (o *operator) handle() {
	s := o.n.Admin
	admin.Handle(s, admin.PairStatus, func(_ context.Context, in admin.PairName) (admin.GroupStatus, error) {
		p, err := o.of(in.Pair)
		if err != nil {
			return admin.GroupStatus{}, err
		}
		return p.status(), nil
	})
	admin.Handle(s, admin.PairTransfer, o.transfer)
	admin.Handle(s, admin.Finalize, o.finalize)
	o.n.Format = o.format
	admin.Handle(s, admin.PairDigest, func(_ context.Context, in admin.PairName) (admin.Digest, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.Digest{}, err
		}
		index, sum := l.machine.Digest()
		return admin.Digest{Pair: l.place.group.Pair, Node: o.n.Config.Node, Applied: index, Digest: sum.String()}, nil
	})
	admin.Handle(s, admin.MailboxList, o.accounts)
	admin.Handle(s, admin.MailboxShow, o.account)
	admin.Handle(s, admin.MailboxUsage, o.usage)
	admin.Handle(s, admin.MailboxRemove, o.removeAccount)
	o.handleMoves()
	o.handleMembers()
	o.handleUpkeep()
	for _, p := range o.places {
		o.figures(p)
	}
}

// figures registers what is read when it is scraped.
func (o *operator) figures(p *place) {
	labels := map[string]string{"pair": p.group.Pair}
	gauge := func(name, help string, f func(s *replica.Status) float64) {
		o.n.Metrics.GaugeFunc(name, help, labels, func() float64 {
			l := p.live.Load()
			if l == nil {
				return 0
			}
			s := l.replica.Local()
			return f(&s)
		})
	}
	gauge(metrics.GroupServing, "1 while this replica serves the pair.", func(s *replica.Status) float64 {
		if s.Serving {
			return 1
		}
		return 0
	})
	gauge(metrics.GroupTerm, "Raft term.", func(s *replica.Status) float64 { return float64(s.Term) })
	gauge(metrics.GroupApplied, "Last entry applied here.", func(s *replica.Status) float64 { return float64(s.Applied) })
	gauge(metrics.GroupCommit, "Last entry known to be committed.", func(s *replica.Status) float64 { return float64(s.Committed) })
	gauge(metrics.GroupVoters, "Members of the pair that vote.", func(s *replica.Status) float64 {
		n := 0
		for _, m := range s.Members {
			if m.Voter {
				n++
			}
		}
		return float64(n)
	})
	gauge("postern_group_alarms", "What an operator has to know of the pair, as postern pair status says it.", func(s *replica.Status) float64 {
		return float64(len(s.Alarms))
	})
	o.n.Metrics.GaugeFunc(metrics.LogBytes, "Octets of the log's files.", labels, func() float64 { return float64(p.logBytes()) })
}

// of returns the place of a pair; "" is the only one.
func (o *operator) of(pair string) (*place, error) {
	for _, p := range o.places {
		if p.group.Pair == pair || pair == "" && len(o.places) == 1 {
			return p, nil
		}
	}
	if pair == "" {
		return nil, fmt.Errorf("%w: this node has %d pairs: name one", admin.ErrBadRequest, len(o.places))
	}
	return nil, fmt.Errorf("%w: no replica of pair %q here", admin.ErrNotFound, pair)
}

// running returns the replica of a pair, if it runs.
func (o *operator) running(pair string) (*live, error) {
	p, err := o.of(pair)
	if err != nil {
		return nil, err
	}
	l := p.live.Load()
	if l == nil {
		why := p.slot.Why()
		if why == nil {
			why = errors.New("it starts")
		}
		return nil, fmt.Errorf("%w: the replica of pair %s does not run: %w", admin.ErrConflict, p.group.Pair, why)
	}
	return l, nil
}

func (p *place) logBytes() int64 { return group.DirSize(filepath.Join(p.group.Dir, "log")) }

func (p *place) status() admin.GroupStatus {
	var out admin.GroupStatus
	if l := p.live.Load(); l != nil {
		s := l.replica.Local()
		out = admin.GroupStatus{
			Serving: s.Serving, Leader: s.Leader, State: s.State, Term: s.Term,
			First: s.First, Last: s.Last, Commit: s.Committed, Applied: l.machine.Applied(), Floor: s.Floor,
			Members: group.Members(s.Members), Alarms: s.Alarms,
		}
		for _, m := range s.Members {
			if m.Voter {
				out.Voters = append(out.Voters, m.Name)
			}
		}
	}
	p.slot.Describe(&out)
	if l := p.live.Load(); l != nil {
		out.Format = l.machine.Level()
		l.upkeep.status(&out)
	}
	out.LogBytes = p.logBytes()
	return out
}

func (o *operator) status(s *admin.NodeStatus) {
	if len(o.places) == 1 {
		s.Pair = o.places[0].group.Pair
	}
	for _, p := range o.places {
		s.Groups = append(s.Groups, p.status())
	}
}

// self is what gossip is told. With more than one group the services carry the
// pair's name.
func (o *operator) self() gossip.Self {
	c := o.n.Config
	out := gossip.Self{Services: map[string]string{}}
	for _, p := range o.places {
		g := gossip.Group{Pair: p.group.Pair}
		if l := p.live.Load(); l != nil {
			s := l.replica.Local()
			g.Serving, g.Term, g.Applied = s.Serving && !l.log.barred.Load(), s.Term, s.Applied
		}
		out.Groups = append(out.Groups, g)
		at, err := addresses(c, p.group)
		if err != nil {
			continue // cannot be: it was checked at the start
		}
		suffix := ""
		if len(o.places) > 1 {
			suffix = "/" + p.group.Pair
		}
		out.Services["lmtp"+suffix], out.Services["imap"+suffix], out.Services["pop3"+suffix] = at.LMTP, at.IMAP, at.POP3
	}
	return out
}

// transfer hands over to another replica, when this one serves.
func (o *operator) transfer(ctx context.Context, in admin.TransferRequest) (admin.GroupStatus, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.GroupStatus{}, err
	}
	id := ""
	if in.To != "" {
		for _, m := range l.replica.Configured() {
			if m.Name == in.To && !m.Witness && m.Voter {
				id = m.ID
			}
		}
		if id == "" {
			return admin.GroupStatus{}, fmt.Errorf("%w: pair %s has no data replica on node %q", admin.ErrNotFound, l.place.group.Pair, in.To)
		}
	}
	if !l.replica.Serving() {
		return admin.GroupStatus{}, fmt.Errorf("%w: this replica does not serve", admin.ErrConflict)
	}
	if in.To == o.n.Config.Node {
		return l.place.status(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err = l.replica.Transfer(ctx, id)
	if err == nil {
		err = handedOver(ctx, l.replica, o.n.Config.Node)
	}
	if err != nil {
		return admin.GroupStatus{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	return l.place.status(), nil
}

// leading is what a replica knows of who leads.
type leading interface {
	Serving() bool
	Leader() (id, name string, ok bool)
}

// handedOver waits until another replica than me leads after a transfer. The one that was to
// may have been too slow to be elected, and this one may be again.
func handedOver(ctx context.Context, r leading, me string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if r.Serving() {
			return errors.New("the hand-over came to nothing: this replica was elected again")
		}
		if _, name, ok := r.Leader(); ok && name != me {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("nobody was elected after the hand-over: %w", ctx.Err())
		}
	}
}

// drain hands over what is served here; the replicas see to it that it stays so.
// Gossip tells the relays to prefer the others.
func (o *operator) drain(ctx context.Context, on bool) error {
	if !on {
		return nil
	}
	return o.handOver(ctx, (*replica.Replica).StepAside)
}

// handOver has every replica that serves hand over.
func (o *operator) handOver(ctx context.Context, by func(*replica.Replica, context.Context) error) error {
	errs := make([]error, len(o.places))
	var wg sync.WaitGroup
	for i, p := range o.places {
		l := p.live.Load()
		if l == nil || !l.replica.Serving() {
			continue
		}
		wg.Go(func() {
			if err := by(l.replica, ctx); err != nil {
				errs[i] = fmt.Errorf("pair %s: %w", p.group.Pair, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (o *operator) accounts(ctx context.Context, in admin.MailboxQuery) (admin.MailboxListing, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.MailboxListing{}, err
	}
	limit := limitOf(in.Limit)
	names, err := l.boxes.Accounts(ctx, in.After, limit+1)
	if err != nil {
		return admin.MailboxListing{}, conflict(err)
	}
	out := admin.MailboxListing{Accounts: names}
	if len(names) > limit {
		out.Accounts, out.More = names[:limit], true
	}
	return out, nil
}

func (o *operator) account(ctx context.Context, in admin.MailboxQuery) (admin.MailboxDetail, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.MailboxDetail{}, err
	}
	// Account makes what is missing, so the name is looked for first.
	names, err := l.boxes.Accounts(ctx, before(in.Account), 1)
	if err != nil {
		return admin.MailboxDetail{}, conflict(err)
	}
	if len(names) == 0 || names[0] != in.Account {
		return admin.MailboxDetail{}, fmt.Errorf("%w: no account %q in pair %s", admin.ErrNotFound, in.Account, l.place.group.Pair)
	}
	a, err := l.boxes.Account(ctx, in.Account)
	if err != nil {
		return admin.MailboxDetail{}, conflict(err)
	}
	out := admin.MailboxDetail{Account: in.Account, Pair: l.place.group.Pair}
	used, count, limit, err := a.Quota(ctx)
	if err != nil {
		return out, conflict(err)
	}
	out.UsedBytes, out.UsedMessages, out.LimitBytes, out.LimitMsgs = used, count, limit.Bytes, limit.Messages
	list, err := a.List(ctx)
	if err != nil {
		return out, conflict(err)
	}
	grants, err := a.AllGrants(ctx)
	if err != nil {
		return out, conflict(err)
	}
	for _, m := range list {
		if m.NonExistent {
			continue
		}
		box := admin.Mailbox{
			Name: m.Name, UIDValidity: m.UIDValidity, UIDNext: m.UIDNext, Messages: m.Messages,
			Unseen: m.Unseen, Size: m.Size, SpecialUse: m.SpecialUse,
		}
		for _, g := range grants[m.Name] {
			if strings.Contains(g.Rights, mailbox.PostRight) {
				box.Post = append(box.Post, g.Identifier)
			}
		}
		out.Mailboxes = append(out.Mailboxes, box)
	}
	return out, nil
}

// limitOf is how many accounts one answer has.
func limitOf(asked int) int {
	if asked <= 0 || asked > 10_000 {
		return 1000
	}
	return asked
}

func (o *operator) usage(ctx context.Context, in admin.MailboxQuery) (admin.UsageListing, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.UsageListing{}, err
	}
	limit := limitOf(in.Limit)
	list, err := l.boxes.Usage(ctx, in.After, limit+1)
	if err != nil {
		return admin.UsageListing{}, conflict(err)
	}
	out := admin.UsageListing{Accounts: []admin.MailboxUsed{}, More: len(list) > limit}
	for _, u := range list[:min(len(list), limit)] {
		out.Accounts = append(out.Accounts, used(u))
	}
	return out, nil
}

func used(u mailbox.Usage) admin.MailboxUsed {
	return admin.MailboxUsed{Account: u.Account, UsedBytes: u.Bytes, UsedMessages: u.Messages, LimitBytes: u.Limit.Bytes, LimitMsgs: u.Limit.Messages}
}

func (o *operator) removeAccount(ctx context.Context, in admin.MailboxName) (admin.MailboxUsed, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.MailboxUsed{}, err
	}
	had, err := l.boxes.Remove(ctx, in.Account)
	switch {
	case errors.Is(err, mailbox.ErrNoAccount):
		return admin.MailboxUsed{}, fmt.Errorf("%w: no account %q in pair %s", admin.ErrNotFound, in.Account, l.place.group.Pair)
	case errors.Is(err, mailbox.ErrLevel):
		return admin.MailboxUsed{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	case err != nil:
		return admin.MailboxUsed{}, conflict(err)
	}
	o.n.Log.Info("account removed", "pair", l.place.group.Pair, "account", had.Account, "messages", had.Messages, "octets", had.Bytes)
	return used(had), nil
}

// before is a string that sorts just before name, so that a listing after it
// begins with name.
func before(name string) string {
	if name == "" {
		return ""
	}
	last := name[len(name)-1]
	return name[:len(name)-1] + string([]byte{last - 1, 0xff})
}

// conflict tells the caller to ask the replica that serves.
func conflict(err error) error {
	var not *mailbox.ErrNotServing
	if errors.As(err, &not) {
		return fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	return err
}
