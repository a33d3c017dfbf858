package voter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// peer returns a configured member, empty if the id is not known.
func (v *Voter) peer(id string) Peer {
	i := slices.IndexFunc(v.cfg.Peers, func(p Peer) bool { return p.ID == id })
	if i < 0 {
		return Peer{}
	}
	return v.cfg.Peers[i]
}

// Peer returns a member by its id, with its address as raft knows it if it is
// not in the configuration file.
func (v *Voter) Peer(id string) (Peer, bool) {
	if p := v.peer(id); p.ID != "" {
		return p, true
	}
	for _, s := range v.servers() {
		if string(s.ID) == id {
			return parsePeer(id, string(s.Address)), true
		}
	}
	return Peer{}, false
}

// Others returns the members of the group besides this one.
func (v *Voter) Others() []Peer {
	return v.others(func(raft.Server) bool { return true })
}

// OtherVoters returns those of them that have a vote.
func (v *Voter) OtherVoters() []Peer {
	return v.others(func(s raft.Server) bool { return s.Suffrage == raft.Voter })
}

func (v *Voter) others(want func(raft.Server) bool) []Peer {
	var list []Peer
	for _, s := range v.servers() {
		if p, ok := v.Peer(string(s.ID)); ok && p.ID != v.cfg.ID && want(s) {
			list = append(list, p)
		}
	}
	return list
}

// servers returns the group as raft knows it.
func (v *Voter) servers() []raft.Server {
	r := v.Raft()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil { // cannot fail: it is a copy
		return nil
	}
	return f.Configuration().Servers
}

// member reports whether id may talk to us: the configuration of raft counts.
// Before raft runs, and on a new member whose log does not reach to where it
// was added, those count that this one was told of.
func (v *Voter) member(id string) bool {
	if v.givenUp(id) {
		return false
	}
	servers := v.servers()
	has := func(id string) bool {
		return slices.ContainsFunc(servers, func(s raft.Server) bool { return string(s.ID) == id })
	}
	return has(id) || !has(v.cfg.ID) && v.peer(id).ID != "" || v.vouched(id)
}

// Leader returns the leader that this member knows of.
func (v *Voter) Leader() (Peer, bool) {
	r := v.Raft()
	if r == nil {
		return Peer{}, false
	}
	_, id := r.LeaderWithID()
	if id == "" {
		return Peer{}, false
	}
	return v.Peer(string(id))
}

// Aside reports whether this member would rather not serve: it drains, or its
// disk has no room for mail.
func (v *Voter) Aside() bool {
	return v.role.Draining != nil && v.role.Draining() || v.role.Kind == manifest.Data && v.Low()
}

// Low reports whether this member's disk has no room for mail: for the next
// segment of the log, or for the state.
func (v *Voter) Low() bool { return v.log.Low() || v.role.Low != nil && v.role.Low() }

// Status implements raftnet.Handler.
func (v *Voter) Status() raftnet.Status {
	s := raftnet.Status{ID: v.cfg.ID}
	r := v.Raft()
	if r == nil {
		return s
	}
	// The leader before the term: if the leader of the answer leads the term
	// of the answer, no vote for a higher term had been given in between.
	_, leader := r.LeaderWithID()
	s.Contact = time.Since(r.LastContact())
	s.LeaderID, s.Term, s.State = string(leader), r.CurrentTerm(), uint8(r.State())
	s.First, _ = v.log.FirstIndex() // an error means that the process is ending
	s.Last, s.Commit, s.Applied = r.LastIndex(), r.CommitIndex(), r.AppliedIndex()
	if v.role.Serving != nil {
		s.Serving = v.role.Serving()
	}
	s.Draining, s.Floor = v.Aside(), v.Floor()
	s.StoreTime = v.StoreTime()
	if v.role.SlowLeft != nil {
		s.SlowLeft = v.role.SlowLeft()
	}
	if v.cfg.Room != nil {
		used, limit := v.cfg.Room()
		s.LogBytes, s.LogLimit = uint64(max(used, 0)), uint64(max(limit, 0))
	}
	return s
}

// Ask asks members for their status at the same time and returns the answers
// by id. enough, called with each answer, may end the asking early.
func (v *Voter) Ask(ctx context.Context, peers []Peer, enough func(raftnet.Status) bool) map[string]raftnet.Status {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan raftnet.Status, len(peers))
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			s, err := v.Net.Status(ctx, p.ID, p.Addr)
			if err == nil && s.ID == p.ID {
				answers <- s
			}
		})
	}
	go func() {
		wg.Wait()
		close(answers)
	}()
	got := map[string]raftnet.Status{}
	for s := range answers {
		got[s.ID] = s
		if enough != nil && enough(s) {
			cancel()
			break
		}
	}
	return got
}

// watch holds a connection to the leader's process, whoever leads, and tells
// when it has ended.
func (v *Voter) watch(ctx context.Context) {
	const pause = 50 * time.Millisecond
	for ctx.Err() == nil {
		leader, ok := v.Leader()
		if !ok || leader.ID == v.cfg.ID {
			sleep(ctx, pause)
			continue
		}
		err := v.watchOne(ctx, leader)
		// A leader that follows right after the last may die before a watch
		// is there: its refusal says the same.
		if ctx.Err() == nil && (errors.Is(err, raftnet.ErrBroken) || errors.Is(err, syscall.ECONNREFUSED)) {
			v.ended(ctx, leader)
		}
		sleep(ctx, pause)
	}
}

// watchOne watches a member for as long as it leads.
func (v *Voter) watchOne(ctx context.Context, leader Peer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer v.watched.Store(nil)
	wg.Go(func() {
		for sleep(ctx, 100*time.Millisecond) {
			// Without a leader the watch goes on: its process may have died.
			if now, ok := v.Leader(); ok && now.ID != leader.ID {
				cancel()
				return
			}
		}
	})
	return v.Net.Watch(ctx, leader.ID, leader.Addr, func() { v.watched.Store(&leader.ID) })
}

// ended finds out whether the leader's process has ended: nothing listens at
// its address any more, and another member sees the same.
func (v *Voter) ended(ctx context.Context, leader Peer) {
	if !v.Net.Refused(ctx, leader.ID, leader.Addr) || v.role.OnDead == nil {
		return
	}
	for range 5 {
		for _, p := range v.Others() {
			if p.ID == leader.ID {
				continue
			}
			if dead, err := v.Net.SeesDead(ctx, p.ID, p.Addr, leader.ID); err == nil && dead {
				v.role.OnDead(ctx, leader.ID)
				return
			}
		}
		if !sleep(ctx, 20*time.Millisecond) { // its watch may not have broken yet
			return
		}
	}
}

// SeesDead implements raftnet.Handler.
func (v *Voter) SeesDead(ctx context.Context, id string) bool {
	if w := v.watched.Load(); w != nil && *w == id {
		return false // the connection to its process stands
	}
	<-v.ready
	p, ok := v.Peer(id)
	return ok && v.Net.Refused(ctx, p.ID, p.Addr)
}

// Stand makes this member stand for election at once, if it still follows the
// leader that has ended.
func (v *Voter) Stand(ctx context.Context, leader string) error {
	r := v.Raft()
	if now, ok := v.Leader(); r.State() != raft.Follower || ok && now.ID != leader {
		return errors.New("voter: another leader or election is there already")
	}
	v.cfg.Log.Info("the leader's process has ended; standing for election", "leader", leader)
	return v.Net.Stand(ctx)
}

// sleep waits and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
