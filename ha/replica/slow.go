package replica

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A replica with a disk that is slow and not dead goes on serving, slowly. It
// hands over when all of this is so: its commits have been slow for a while, its
// own disk is slow, and the disk of a data replica that has caught up is
// measurably faster. Not more often than once a minute, and not in the first
// minute of serving.
const (
	slowCommit  = 500 * time.Millisecond // median
	slowFor     = 3                      // looks in a row
	fasterBy    = 4                      // times
	leaveAtMost = time.Minute
)

// commitTimes keeps the last times from proposal to result.
type commitTimes struct {
	mu   sync.Mutex // guards what follows
	last [64]time.Duration
	n    int // ever added
	seen int // n at the last look
}

func (c *commitTimes) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[c.n%len(c.last)] = d
	c.n++
}

// median of the last times; 0 when none was added since the last call.
func (c *commitTimes) median() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == c.seen {
		return 0
	}
	c.seen = c.n
	list := slices.Clone(c.last[:min(c.n, len(c.last))])
	slices.Sort(list)
	return list[len(list)/2]
}

// slowness is what leaveIfSlow remembers; one goroutine uses it.
type slowness struct {
	slow  int       // looks in a row
	since time.Time // of serving, or of the last attempt to leave
	term  uint64
}

// judge decides whether to hand over, and to whom.
func (s *slowness) judge(now time.Time, term uint64, median, own time.Duration, list []Member, self string) (Peer, bool) {
	if term != s.term {
		s.term, s.since, s.slow = term, now, 0
	}
	switch {
	case median >= slowCommit:
		s.slow++
	case median > 0:
		s.slow = 0
	}
	if s.slow < slowFor || now.Sub(s.since) < leaveAtMost {
		return Peer{}, false
	}
	for i := range list {
		m := &list[i]
		if m.ID != self && !m.Witness && m.Voter && m.sound() && m.StoreTime > 0 && m.StoreTime*fasterBy <= own {
			s.since, s.slow = now, 0
			return m.Peer, true
		}
	}
	return Peer{}, false
}

// leaveIfSlow hands over to a faster replica.
func (r *Replica) leaveIfSlow(ctx context.Context, list []Member) {
	own := r.v.StoreTime()
	p, leave := r.slow.judge(time.Now(), r.serve.term.Load(), r.commits.median(), own, list, r.cfg.ID)
	if !leave {
		return
	}
	r.log.Warn("this replica is slow and hands over to a faster one", "store_time", own, "to", p.Name)
	ctx, cancel := context.WithTimeout(ctx, 4*r.cfg.Timings.Election)
	defer cancel()
	if err := r.Transfer(ctx, p.ID); err != nil {
		r.log.Warn("the slow replica goes on serving", "err", err)
	}
}
