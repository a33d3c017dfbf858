package voter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/raftnet"
)

// SeedingName is a file in a member's directory while its content is being
// fetched from another member: such a directory is not opened (ErrSeeding).
const SeedingName = "seeding"

// ErrSeeding: the directory is not complete yet.
var ErrSeeding = errors.New("directory is being seeded")

// changeTime is how long a change of the configuration may wait for raft.
const changeTime = 5 * time.Second

// spell returns a member's address as it stands in the group's configuration,
// with what all have to know of it: "host:port|name|w", the last part for a
// witness. So whoever knows the configuration knows everybody in it.
func (p Peer) spell() raft.ServerAddress {
	s := p.Addr + "|" + p.Name
	if p.Witness {
		s += "|w"
	}
	return raft.ServerAddress(s)
}

// parsePeer reads a server of the configuration. An address without a name is
// one of a group made before names were written there.
func parsePeer(id, addr string) Peer {
	parts := strings.Split(addr, "|")
	p := Peer{ID: id, Name: id, Addr: parts[0]}
	if len(parts) > 1 && parts[1] != "" {
		p.Name = parts[1]
	}
	p.Witness = len(parts) > 2 && parts[2] == "w"
	return p
}

// checkPeer refuses what cannot be written into the configuration.
func checkPeer(p Peer) error {
	switch {
	case p.ID == "" || p.Name == "" || p.Addr == "":
		return fmt.Errorf("voter: member %q: id, name and address are needed", p.ID)
	case strings.ContainsAny(p.ID+p.Name+p.Addr, "|\n ") || len(p.ID)+len(p.Name)+len(p.Addr) > 512:
		return fmt.Errorf("voter: member %q: id, name or address is malformed", p.ID)
	}
	return nil
}

// Member is a member of the group as it is configured now.
type Member struct {
	Peer
	Voter bool // false: it is being brought up to date
}

// Members returns the group as raft knows it here, or as it was configured
// while raft does not run.
func (v *Voter) Members() []Member {
	var list []Member
	for _, s := range v.servers() {
		p, _ := v.Peer(string(s.ID))
		list = append(list, Member{p, s.Suffrage == raft.Voter})
	}
	if list == nil {
		for _, p := range v.cfg.Peers {
			list = append(list, Member{p, true})
		}
	}
	return list
}

// Servers implements raftnet.Lister.
func (v *Voter) Servers() (index uint64, list []raftnet.Server) {
	r := v.Raft()
	if r == nil {
		return 0, nil
	}
	for _, m := range v.Members() {
		list = append(list, raftnet.Server{ID: m.ID, Addr: string(m.spell()), Voter: m.Voter})
	}
	return r.CommitIndex(), list
}

// AddLearner makes a new member of the group that has no vote. It must be
// called where the leader is; doing it again changes nothing.
func (v *Voter) AddLearner(p Peer) error {
	if err := checkPeer(p); err != nil {
		return err
	}
	for _, m := range v.Members() {
		if m.ID == p.ID {
			return nil
		}
	}
	return v.change(v.Raft().AddNonvoter(raft.ServerID(p.ID), p.spell(), 0, changeTime))
}

// Promote gives a member its vote.
func (v *Voter) Promote(p Peer) error {
	return v.change(v.Raft().AddVoter(raft.ServerID(p.ID), p.spell(), 0, changeTime))
}

// Remove takes a member out of the group.
func (v *Voter) Remove(id string) error {
	return v.change(v.Raft().RemoveServer(raft.ServerID(id), 0, changeTime))
}

func (v *Voter) change(f raft.IndexFuture) error {
	if err := f.Error(); err != nil {
		return fmt.Errorf("voter: change of the members: %w", err)
	}
	return nil
}

// learned is what other members say about the group that this one, which was
// away, does not know yet.
type learned struct {
	mu    sync.Mutex // guards what follows; held while asking
	asked time.Time
	peers map[string]Peer
}

// learnEvery is how often others are asked at most.
const learnEvery = time.Second

// vouched reports whether a member that this one knows has id in its
// configuration: it joined while this one was away.
func (v *Voter) vouched(id string) bool {
	l := &v.learned
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.peers[id]; ok || time.Since(l.asked) < learnEvery {
		return ok
	}
	l.asked = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), learnEvery)
	defer cancel()
	<-v.ready
	peers := map[string]Peer{}
	ask := v.Others()
	if !slices.ContainsFunc(v.servers(), func(s raft.Server) bool { return string(s.ID) == v.cfg.ID }) {
		ask = append(ask, v.cfg.Peers...) // it is new, and its log is behind
	}
	for _, p := range ask {
		if p.ID == v.cfg.ID || p.ID == id { // nobody vouches for himself
			continue
		}
		_, list, err := v.Net.Servers(ctx, p.ID, p.Addr)
		if err != nil {
			continue
		}
		for _, s := range list {
			peers[s.ID] = parsePeer(s.ID, s.Addr)
		}
	}
	l.peers = peers
	_, ok := peers[id]
	return ok
}

// toldOf returns a member that others told this one of.
func (v *Voter) toldOf(id string) (Peer, bool) {
	v.learned.mu.Lock()
	defer v.learned.mu.Unlock()
	p, ok := v.learned.peers[id]
	return p, ok
}

// Expelled reports whether the others say that this member is not in the group
// any more. It was taken out while it was away; it can do nothing but be made
// anew under another id.
func (v *Voter) Expelled() bool { return v.expelled.Load() }

// isExpelled asks the others when no leader is known.
func (v *Voter) isExpelled(ctx context.Context) bool {
	if _, ok := v.Leader(); ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, learnEvery)
	defer cancel()
	said := false
	for _, p := range v.Others() {
		_, _, err := v.Net.Servers(ctx, p.ID, p.Addr)
		if err == nil {
			return false
		}
		said = said || raftnet.NoMember(err)
	}
	return said
}
