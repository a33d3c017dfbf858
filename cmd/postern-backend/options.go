package main

import "github.com/postern-mail/postern/shared/config"

// options are what a replica that runs can be told anew.
type options struct {
	upkeep     upkeepRules
	inFlight   int64
	sessions   int
	seedRate   int64
	entryCache int64
}

func optionsOf(c *config.Backend) options {
	return options{
		upkeep:   upkeepRules{c.Upkeep, c.Snapshots},
		inFlight: int64(c.Store.InFlight), sessions: c.Mail.MaxSessions,
		seedRate: int64(c.Raft.SeedRate), entryCache: int64(c.Raft.EntryCache),
	}
}

// use makes o hold for the replica that runs, and for those that run later.
func (p *place) use(o options) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.options = o
	if l := p.live.Load(); l != nil {
		l.use(o)
	}
}

// adopt makes l the replica that runs here, with what holds now.
func (p *place) adopt(l *live) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.use(p.options)
	p.live.Store(l)
}

// use tells the parts. None of them refuses what the table of options allows.
func (l *live) use(o options) {
	l.upkeep.set(o.upkeep)
	l.boxes.SetInFlight(o.inFlight)
	for _, f := range l.sessions {
		f(o.sessions)
	}
	l.source.Load().SetRate(o.seedRate)
	l.replica.Log().SetCache(o.entryCache)
}
