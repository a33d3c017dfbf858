package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// Errors of changes to the members; they come wrapped.
var (
	// ErrNoMember: there is no such member.
	ErrNoMember = errors.New("no such member")
	// ErrMember: another member is in the way.
	ErrMember = errors.New("the node has a member already")
	// ErrMajority: what is left would have no majority that works.
	ErrMajority = errors.New("the members that are left and work would be no majority")
	// ErrLastCopy: no data replica that works and has everything would be left.
	ErrLastCopy = errors.New("no complete copy would be left")
	// ErrOneCopy: one copy would be left, which was not agreed to.
	ErrOneCopy = errors.New("only one copy would be left")
	// ErrAlive: the member that was called dead answers.
	ErrAlive = errors.New("the member is alive")
	// ErrServes: the member serves; it has to hand over first.
	ErrServes = errors.New("the member serves")
)

// Member is a member of the group with what it said when asked.
type Member struct {
	Peer
	Voter     bool // false: it is being brought up to date
	Leads     bool
	Alive     bool // it answered
	Applied   uint64
	Lag       uint64 // entries of ours that it does not have; 0 if not alive
	StoreTime time.Duration
	// SlowLeft is the time since a replica last handed over because its disk was
	// slow, as far as the member knows; 0: never.
	SlowLeft time.Duration

	LogBytes, LogLimit uint64 // room of its log; 0: not said
}

// sound reports whether a member is alive and has nearly everything.
func (m *Member) sound() bool { return m.Alive && m.Lag <= maxLag }

// Removal says what the operator has agreed to.
type Removal struct {
	ID      string
	Dead    bool // it must not answer
	OneCopy bool // one copy may be left
}

// Members returns the group as it is configured now, and asks each member how
// it is, for at most a second.
func (r *Replica) Members(ctx context.Context) []Member {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	me := r.v.Status()
	answers := r.v.Ask(ctx, r.v.Others(), nil)
	answers[me.ID] = me
	var list []Member
	for _, m := range r.v.Members() {
		s, alive := answers[m.ID]
		out := Member{Peer: m.Peer, Voter: m.Voter, Alive: alive, Applied: s.Applied, StoreTime: s.StoreTime, SlowLeft: s.SlowLeft, LogBytes: s.LogBytes, LogLimit: s.LogLimit}
		out.Leads = alive && s.LeaderID == s.ID && s.Term == me.Term
		if alive && s.Last < me.Last {
			out.Lag = me.Last - s.Last
		}
		list = append(list, out)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return list
}

// Configured returns the group as this replica has it. It asks nobody.
func (r *Replica) Configured() []voter.Member { return r.v.Members() }

// AddMember takes a new member into the group. It has no vote until it has
// caught up, which is seen to by the serving replica, this one. A member that is
// there already is no error.
func (r *Replica) AddMember(ctx context.Context, p Peer) error {
	if !r.Serving() {
		return fmt.Errorf("add member: %w", r.notServing())
	}
	list := r.Members(ctx)
	if slices.ContainsFunc(list, func(m Member) bool { return m.ID == p.ID }) {
		return nil
	}
	if err := addable(list, p); err != nil {
		return fmt.Errorf("add member: %w", err)
	}
	if err := r.v.AddLearner(p); err != nil {
		return err
	}
	r.log.Info("member added, without a vote until it has caught up", "member", p.Name, "id", p.ID, "witness", p.Witness)
	return nil
}

// addable returns why p cannot be added.
func addable(list []Member, p Peer) error {
	for _, m := range list {
		switch {
		case m.Name == p.Name || m.Addr == p.Addr:
			return fmt.Errorf("%s, with id %s: %w", m.Name, m.ID, ErrMember)
		case !m.Voter:
			return fmt.Errorf("%s is being brought up to date; one at a time: %w", m.Name, ErrMember)
		}
	}
	return nil
}

// RemoveMember takes a member out of the group, for good: its id does not come
// back. A member that is not there is ErrNoMember.
func (r *Replica) RemoveMember(ctx context.Context, q Removal) error {
	if !r.Serving() {
		return fmt.Errorf("remove member: %w", r.notServing())
	}
	list := r.Members(ctx)
	if err := removable(list, r.cfg.ID, q); err != nil {
		return fmt.Errorf("remove member: %w", err)
	}
	if err := r.v.Remove(q.ID); err != nil {
		return err
	}
	m := list[slices.IndexFunc(list, func(m Member) bool { return m.ID == q.ID })]
	r.log.Warn("member removed", "member", m.Name, "id", m.ID, "witness", m.Witness)
	return nil
}

// ReplaceMember takes out a data replica that has lost its state, and takes one
// in on the same node that will be seeded: it asks for that itself, so nothing is
// lost that was there. Asked again it changes nothing. If the second half is not
// done in time the group goes on without it, as after RemoveMember.
func (r *Replica) ReplaceMember(ctx context.Context, old string, p Peer) error {
	if !r.Serving() {
		return fmt.Errorf("replace member: %w", r.notServing())
	}
	list := r.Members(ctx)
	if slices.ContainsFunc(list, func(m Member) bool { return m.ID == p.ID }) {
		return nil
	}
	i := slices.IndexFunc(list, func(m Member) bool { return m.ID == old })
	if i < 0 {
		return fmt.Errorf("replace member: %s: %w", old, ErrNoMember)
	}
	if m := &list[i]; m.Name != p.Name || m.Witness || p.Witness {
		return fmt.Errorf("replace member: %s is not a data replica on %s: %w", old, p.Name, ErrMember)
	}
	if err := addable(slices.Delete(slices.Clone(list), i, i+1), p); err != nil {
		return fmt.Errorf("replace member: %w", err)
	}
	if err := r.RemoveMember(ctx, Removal{ID: old, Dead: true, OneCopy: true}); err != nil {
		return err
	}
	for {
		err := r.AddMember(ctx, p)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(r.cfg.Timings.Election / 2):
		case <-ctx.Done():
			return fmt.Errorf("replace member: %s is out, and %s not in yet: %w", old, p.ID, err)
		}
	}
}

// removable returns why a member may not be taken out by the one that serves.
func removable(list []Member, self string, q Removal) error {
	i := slices.IndexFunc(list, func(m Member) bool { return m.ID == q.ID })
	if i < 0 {
		return fmt.Errorf("%s: %w", q.ID, ErrNoMember)
	}
	m := list[i]
	switch {
	case q.Dead && m.Alive:
		return fmt.Errorf("%s: %w", m.Name, ErrAlive)
	case m.ID == self:
		return fmt.Errorf("%s: %w", m.Name, ErrServes)
	case !m.Voter:
		return nil
	}
	voters, sound, copies := 0, 0, 0
	for j := range list {
		o := &list[j]
		if j == i || !o.Voter {
			continue
		}
		voters++
		if o.ID == self || o.sound() {
			sound++
			if !o.Witness {
				copies++
			}
		}
	}
	switch {
	case sound <= voters/2:
		return fmt.Errorf("%d of %d: %w", sound, voters, ErrMajority)
	case copies == 0:
		return ErrLastCopy
	case copies == 1 && !m.Witness && !q.OneCopy:
		return ErrOneCopy
	}
	return nil
}

// promote gives members their vote that have caught up.
func (r *Replica) promote(list []Member) {
	for _, m := range list {
		if m.Voter || !m.sound() || m.Lag > promoteLag {
			continue
		}
		if err := r.v.Promote(m.Peer); err != nil {
			r.log.Warn("member was not given its vote; trying again", "member", m.Name, "err", err)
			continue
		}
		r.log.Info("member has caught up and votes", "member", m.Name, "id", m.ID)
	}
}

// promoteLag is how many entries a member may lack that is given a vote.
const promoteLag = 256

// Stream opens a stream to another member.
func (r *Replica) Stream(ctx context.Context, id string) (*raftnet.Stream, error) {
	p, ok := r.v.Peer(id)
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, ErrNoMember)
	}
	return r.v.Net.Stream(ctx, id, p.Addr)
}

// FetchEntry returns an entry of the other data replica's log; see
// seglog.Log.Repair.
func (r *Replica) FetchEntry(ctx context.Context, index uint64) ([]byte, error) {
	return r.v.FetchEntry(ctx, index)
}

// FetchMark returns the digest that the other data replica noted last, and the
// entry where it did.
func (r *Replica) FetchMark(ctx context.Context) (index uint64, digest [16]byte, err error) {
	return r.v.FetchMark(ctx)
}

// Base returns what a new member's raft begins with; see voter.Base.
func (r *Replica) Base(witness bool) (voter.Base, error) { return r.v.Base(witness) }
