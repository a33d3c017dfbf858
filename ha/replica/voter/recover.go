package voter

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/seglog"
)

// Recovery is what the directory of a surviving member says.
type Recovery struct {
	Term    uint64
	Last    uint64 // entry of the log
	Known   uint64 // the last entry that is known to have been committed
	Members []Peer // as the log has them
	Alone   bool   // the group is this member alone already
}

// Survey reads the directory of a member that does not run. applied is the last
// entry in its state: it was committed.
func Survey(cfg Config, kind manifest.Kind, applied uint64) (Recovery, error) {
	return recoverAlone(cfg, kind, applied, false)
}

// recoverTerms is by how many terms a group begins again: more than members that
// were given up can reach by electing one another, so that those who look for the
// replica that serves, and hear of two, take the right one.
const recoverTerms = 1 << 20

// RecoverAlone makes the group one of this member alone, for the case that the
// majority is lost for good. All entries of its log count as committed then,
// also those above Recovery.Known, which the majority may never have had; and
// what only the lost members had is lost. A member that was believed lost and
// comes back ends as soon as it reaches this one (ErrGivenUp), and what it says
// until then is of a lower term. The directory is not in use. Doing it again changes
// nothing.
func RecoverAlone(cfg Config, kind manifest.Kind, applied uint64) (Recovery, error) {
	return recoverAlone(cfg, kind, applied, true)
}

func recoverAlone(cfg Config, kind manifest.Kind, applied uint64, change bool) (rec Recovery, err error) {
	if err := cfg.check(); err != nil {
		return rec, err
	}
	if kind != manifest.Data {
		return rec, errors.New("voter: only a data replica can be the last member of a group")
	}
	v := &Voter{cfg: cfg, role: Role{Kind: kind}}
	defer func() { err = errors.Join(err, v.release()) }()
	if err := v.takeDir(); err != nil {
		return rec, err
	}
	if err := v.openStores(); err != nil {
		return rec, err
	}
	servers, err := v.survey(&rec)
	if err != nil {
		return rec, err
	}
	rec.Known = max(rec.Known, applied)
	for _, s := range servers {
		rec.Members = append(rec.Members, parsePeer(string(s.ID), string(s.Address)))
	}
	me := v.peer(cfg.ID)
	rec.Alone = len(servers) == 1 && string(servers[0].ID) == me.ID && servers[0].Suffrage == raft.Voter
	if !change || rec.Alone {
		return rec, nil
	}
	// Those that are given up first: from the moment that this member goes on
	// without them they must not.
	var others []string
	for _, m := range rec.Members {
		if m.ID != me.ID {
			others = append(others, m.ID)
		}
	}
	if err := v.giveUp(others...); err != nil {
		return rec, err
	}
	// The term then: an entry of a term that was never begun would be wrong.
	term := rec.Term + recoverTerms
	if err := v.Stable.SetUint64([]byte("CurrentTerm"), term); err != nil {
		return rec, err
	}
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(me.ID), Address: me.spell()}}}
	err = v.log.StoreLog(&raft.Log{
		Index: rec.Last + 1, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(alone),
	})
	if err != nil {
		return rec, fmt.Errorf("voter: %w", err)
	}
	return rec, nil
}

// survey finds the newest configuration and what is known to be committed.
func (v *Voter) survey(rec *Recovery) ([]raft.Server, error) {
	var err error
	if rec.Term, err = v.Stable.GetUint64([]byte("CurrentTerm")); err != nil && !errors.Is(err, seglog.ErrNoKey) {
		return nil, err
	}
	if rec.Last, err = v.log.LastIndex(); err != nil {
		return nil, err
	}
	var servers []raft.Server
	_, meta, has, err := v.Manifests.Newest()
	if err != nil {
		return nil, err
	}
	from, err := v.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	if has {
		servers, rec.Known, from = meta.Configuration.Servers, meta.Index, max(from, meta.Index+1)
	}
	for i := from; i <= rec.Last; i++ {
		var e raft.Log
		if err := v.log.Meta(i, &e); err != nil {
			return nil, fmt.Errorf("voter: entry %d: %w", i, err)
		}
		if e.Type != raft.LogConfiguration {
			continue
		}
		if err := v.log.GetLog(i, &e); err != nil {
			return nil, fmt.Errorf("voter: entry %d: %w", i, err)
		}
		c, err := decodeConfiguration(e.Data)
		if err != nil {
			return nil, err
		}
		servers = c.Servers
	}
	return servers, nil
}
