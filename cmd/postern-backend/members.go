package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/postern-mail/postern/cmd/internal/daemon"
	"github.com/postern-mail/postern/cmd/internal/group"
	"github.com/postern-mail/postern/cmd/internal/version"
	"github.com/postern-mail/postern/ha/pair"
	"github.com/postern-mail/postern/ha/replica"
	"github.com/postern-mail/postern/shared/admin"
)

// handleMembers registers the methods that change who is in a pair.
func (o *operator) handleMembers() {
	s := o.n.Admin
	admin.Handle(s, admin.PairMembers, func(ctx context.Context, in admin.PairName) (admin.MemberList, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.MemberList{}, err
		}
		return l.members(ctx), nil
	})
	admin.Handle(s, admin.PairJoin, func(ctx context.Context, in admin.JoinRequest) (admin.GroupMember, error) {
		p, err := o.of(in.Pair)
		if err != nil {
			return admin.GroupMember{}, err
		}
		in.Pair = p.group.Pair
		return p.slot.Join(ctx, in)
	})
	admin.Handle(s, admin.PairAdd, func(ctx context.Context, in admin.AddRequest) (admin.MemberList, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.MemberList{}, err
		}
		m := in.Member
		if err := l.supports(m.Node); err != nil {
			return admin.MemberList{}, err
		}
		if err := l.replica.AddMember(ctx, replica.Peer{ID: m.ID, Name: m.Node, Addr: m.Addr, Witness: m.Witness}); err != nil {
			return admin.MemberList{}, notNow(err)
		}
		return l.members(ctx), nil
	})
	admin.Handle(s, admin.PairRemove, func(ctx context.Context, in admin.RemoveRequest) (admin.MemberList, error) {
		l, err := o.running(in.Pair)
		if err != nil {
			return admin.MemberList{}, err
		}
		err = l.replica.RemoveMember(ctx, replica.Removal{ID: in.ID, Dead: in.Dead, OneCopy: in.OneCopy})
		if err != nil && !errors.Is(err, replica.ErrNoMember) { // gone already: that is what is wanted
			return admin.MemberList{}, notNow(err)
		}
		return l.members(ctx), nil
	})
	admin.Handle(s, admin.PairRecover, o.recover)
}

// supports reports why the program on a node cannot apply what is in the log.
func (l *live) supports(node string) error {
	level := l.machine.Level()
	if level <= version.FormatBefore {
		return nil
	}
	return daemon.Support(l.place.n.Members(), []string{node}, level)
}

// renew takes a replica in that is to be seeded, in the place of the one on the
// same node that asks for it.
func (l *live) renew(ctx context.Context, from string, self pair.Peer) ([]pair.Peer, error) {
	if err := l.supports(self.Name); err != nil {
		return nil, err
	}
	if err := l.replica.ReplaceMember(ctx, from, self); err != nil {
		return nil, err
	}
	var list []pair.Peer
	for _, m := range l.replica.Configured() {
		if m.ID != self.ID {
			list = append(list, m.Peer)
		}
	}
	return list, nil
}

// notNow tells the caller that the pair is not in the state for it.
func notNow(err error) error { return fmt.Errorf("%w: %w", admin.ErrConflict, err) }

func (l *live) members(ctx context.Context) admin.MemberList {
	out := admin.MemberList{Pair: l.place.group.Pair, Node: l.place.n.Config.Node, Serving: l.replica.Serving()}
	for _, m := range l.replica.Members(ctx) {
		out.Members = append(out.Members, admin.GroupMember{
			ID: m.ID, Node: m.Name, Addr: m.Addr, Witness: m.Witness, Voter: m.Voter,
			Alive: m.Alive, Leads: m.Leads, Applied: m.Applied, Lag: m.Lag,
		})
	}
	return out
}

// recover makes the pair one of the replica here alone, after the majority was
// lost for good.
func (o *operator) recover(ctx context.Context, in admin.RecoverRequest) (admin.Recovery, error) {
	l, err := o.running(in.Pair)
	if err != nil {
		return admin.Recovery{}, err
	}
	p := l.place
	if _, name, ok := l.replica.Leader(); ok {
		return admin.Recovery{}, fmt.Errorf("%w: the majority is not lost: %s leads pair %s", admin.ErrConflict, name, p.group.Pair)
	}
	alive, voters := 0, 0
	for _, m := range l.replica.Members(ctx) {
		if m.Voter {
			voters++
			if m.Alive {
				alive++
			}
		}
	}
	if alive > voters/2 {
		return admin.Recovery{}, fmt.Errorf("%w: %d of %d members answer: they will elect a leader", admin.ErrConflict, alive, voters)
	}
	rec, err := p.slot.Recover(ctx, in.Accept)
	if err != nil {
		return admin.Recovery{}, notNow(err)
	}
	out := admin.Recovery{
		Pair: p.group.Pair, Node: o.n.Config.Node, Term: rec.Term, Known: rec.Known, Last: rec.Last, Alone: rec.Alone || in.Accept,
	}
	for _, m := range rec.Members {
		out.Members = append(out.Members, admin.GroupMember{ID: m.ID, Node: m.Name, Addr: m.Addr, Witness: m.Witness})
	}
	if in.Accept {
		o.n.Log.Warn("the pair goes on with this replica alone; what only the lost members had is lost",
			"pair", p.group.Pair, "known", rec.Known, "last", rec.Last)
	}
	return out, nil
}

var _ group.Running = (*live)(nil)
