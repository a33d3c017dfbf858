package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/backend/fsm"
	"github.com/postern-mail/postern/backend/mailbox"
	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
)

// operator answers the operator's questions about the replica.
type operator struct {
	n       *daemon.Node[config.Backend]
	group   *config.Group
	replica *replica.Replica
	machine *fsm.FSM
	boxes   *mailbox.Service
	log     *pairLog
}

// handle registers the methods and the figures.
func (o *operator) handle() {
	s := o.n.Admin
	admin.Handle(s, admin.PairStatus, func(_ context.Context, in admin.PairName) (admin.GroupStatus, error) {
		return o.groupStatus(), o.mine(in.Pair)
	})
	admin.Handle(s, admin.PairTransfer, o.transfer)
	admin.Handle(s, admin.PairDigest, func(_ context.Context, in admin.PairName) (admin.Digest, error) {
		index, sum := o.machine.Digest()
		return admin.Digest{Pair: o.group.Pair, Node: o.n.Config.Node, Applied: index, Digest: sum.String()}, o.mine(in.Pair)
	})
	admin.Handle(s, admin.MailboxList, o.accounts)
	admin.Handle(s, admin.MailboxShow, o.account)

	labels := map[string]string{"pair": o.group.Pair}
	gauge := func(name, help string, f func(s *replica.Status) float64) {
		o.n.Metrics.GaugeFunc(name, help, labels, func() float64 { s := o.replica.Local(); return f(&s) })
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
	o.n.Metrics.GaugeFunc(metrics.LogBytes, "Octets of the log's files.", labels, func() float64 { return float64(o.logBytes()) })
}

func (o *operator) mine(pair string) error {
	if pair != "" && pair != o.group.Pair {
		return fmt.Errorf("%w: no replica of pair %q here", admin.ErrNotFound, pair)
	}
	return nil
}

func (o *operator) logBytes() int64 { return group.DirSize(filepath.Join(o.group.Dir, "log")) }

func (o *operator) groupStatus() admin.GroupStatus {
	s := o.replica.Local()
	out := admin.GroupStatus{
		Pair: o.group.Pair, Node: o.n.Config.Node, Serving: s.Serving, Leader: s.Leader, State: s.State, Term: s.Term,
		First: s.First, Last: s.Last, Commit: s.Committed, Applied: o.machine.Applied(), Floor: s.Floor, LogBytes: o.logBytes(),
	}
	for _, m := range o.group.Members {
		out.Voters = append(out.Voters, m.Node)
	}
	return out
}

func (o *operator) status(s *admin.NodeStatus) {
	s.Pair = o.group.Pair
	s.Groups = append(s.Groups, o.groupStatus())
}

// self is what gossip is told.
func (o *operator) self() gossip.Self {
	s, c := o.replica.Local(), o.n.Config
	return gossip.Self{
		Services: map[string]string{"lmtp": c.Serve.LMTP, "imap": c.Serve.IMAP, "pop3": c.Serve.POP3},
		Groups:   []gossip.Group{{Pair: o.group.Pair, Serving: s.Serving, Term: s.Term, Applied: s.Applied}},
	}
}

// transfer hands over to another replica, when this one serves.
func (o *operator) transfer(ctx context.Context, in admin.TransferRequest) (admin.GroupStatus, error) {
	if err := o.mine(in.Pair); err != nil {
		return admin.GroupStatus{}, err
	}
	id := ""
	if in.To != "" {
		for _, m := range o.group.Members {
			if m.Node == in.To && !m.Witness {
				id = m.ID
			}
		}
		if id == "" {
			return admin.GroupStatus{}, fmt.Errorf("%w: pair %s has no data replica on node %q", admin.ErrNotFound, o.group.Pair, in.To)
		}
	}
	if !o.replica.Serving() {
		return admin.GroupStatus{}, fmt.Errorf("%w: this replica does not serve", admin.ErrConflict)
	}
	if in.To == o.n.Config.Node {
		return o.groupStatus(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := o.replica.Transfer(ctx, id); err != nil {
		return admin.GroupStatus{}, fmt.Errorf("%w: %w", admin.ErrConflict, err)
	}
	return o.groupStatus(), nil
}

// drain hands over; gossip tells the relays to prefer the others.
func (o *operator) drain(ctx context.Context, on bool) error {
	if !on || !o.replica.Serving() {
		return nil
	}
	return o.replica.Transfer(ctx, "")
}

func (o *operator) accounts(ctx context.Context, in admin.MailboxQuery) (admin.MailboxListing, error) {
	if err := o.mine(in.Pair); err != nil {
		return admin.MailboxListing{}, err
	}
	limit := in.Limit
	if limit <= 0 || limit > 10_000 {
		limit = 1000
	}
	names, err := o.boxes.Accounts(ctx, in.After, limit+1)
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
	if err := o.mine(in.Pair); err != nil {
		return admin.MailboxDetail{}, err
	}
	// Account makes what is missing, so the name is looked for first.
	names, err := o.boxes.Accounts(ctx, before(in.Account), 1)
	if err != nil {
		return admin.MailboxDetail{}, conflict(err)
	}
	if len(names) == 0 || names[0] != in.Account {
		return admin.MailboxDetail{}, fmt.Errorf("%w: no account %q in pair %s", admin.ErrNotFound, in.Account, o.group.Pair)
	}
	a, err := o.boxes.Account(ctx, in.Account)
	if err != nil {
		return admin.MailboxDetail{}, conflict(err)
	}
	out := admin.MailboxDetail{Account: in.Account, Pair: o.group.Pair}
	used, count, limit, err := a.Quota(ctx)
	if err != nil {
		return out, conflict(err)
	}
	out.UsedBytes, out.UsedMessages, out.LimitBytes, out.LimitMsgs = used, count, limit.Bytes, limit.Messages
	list, err := a.List(ctx)
	if err != nil {
		return out, conflict(err)
	}
	for _, m := range list {
		if m.NonExistent {
			continue
		}
		out.Mailboxes = append(out.Mailboxes, admin.Mailbox{
			Name: m.Name, UIDValidity: m.UIDValidity, UIDNext: m.UIDNext, Messages: m.Messages,
			Unseen: m.Unseen, Size: m.Size, SpecialUse: m.SpecialUse,
		})
	}
	return out, nil
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
