package replica

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A replica with a disk that is slow and not dead goes on serving, slowly. It
// hands over when all of this is so: its commits have been slow for a while, its
// own disk is slow, and the disk of a data replica that has caught up is
// measurably faster. The group does so once a minute at most, whoever serves:
// members tell each other how long ago the last time was. How long a replica
// has served does not matter.
const (
	slowCommit  = 500 * time.Millisecond // median
	slowFor     = 3                      // looks in a row
	fasterBy    = 4                      // times
	leaveAtMost = time.Minute
	leaveAgain  = 10 * time.Second // after an attempt that failed
	leaveWithin = 10 * time.Second // more than raft needs to give up
)

// commitTimes keeps the last times from proposal to result.
type commitTimes struct {
	mu   sync.Mutex // guards what follows
	last [64]time.Duration
	n    int // ever added
	seen int // n at the last look
	open int // proposals without a result at the last look
}

func (c *commitTimes) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[c.n%len(c.last)] = d
	c.n++
}

// look returns the median of the times since the last look, which was tendEvery
// ago; open is the number of proposals without a result. When none has ended and
// some wait since then, it is tendEvery at least; 0 when there was nothing to
// commit.
func (c *commitTimes) look(open int) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]time.Duration, 0, len(c.last))
	for i := max(c.seen, c.n-len(c.last)); i < c.n; i++ {
		list = append(list, c.last[i%len(c.last)])
	}
	stuck := len(list) == 0 && c.open > 0 && open > 0
	c.seen, c.open = c.n, open
	switch {
	case stuck:
		return tendEvery
	case len(list) == 0:
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// slowness is what leaveIfSlow remembers; one goroutine uses it, and others read
// lastLeft.
type slowness struct {
	slow     int       // looks in a row
	failed   time.Time // when the last attempt to leave did
	term     uint64
	lastLeft atomic.Pointer[time.Time] // when a replica last left because of its disk
}

// since is the time since a replica last left because of its disk, as far as is
// known here; 0: never.
func (s *slowness) since(now time.Time) time.Duration {
	if at := s.lastLeft.Load(); at != nil {
		return max(now.Sub(*at), 1)
	}
	return 0
}

// learn remembers what the other members know.
func (s *slowness) learn(now time.Time, list []Member) {
	for i := range list {
		ago := list[i].SlowLeft
		if own := s.since(now); ago > 0 && (own == 0 || ago < own) {
			at := now.Add(-ago)
			s.lastLeft.Store(&at)
		}
	}
}

// judge decides whether to hand over, and to whom.
func (s *slowness) judge(now time.Time, term uint64, median, own time.Duration, list []Member, self string) (Peer, bool) {
	s.learn(now, list)
	if term != s.term {
		s.term, s.slow, median = term, 0, 0 // of another term
	}
	switch {
	case median >= slowCommit:
		s.slow++
	case median > 0:
		s.slow = 0
	}
	if ago := s.since(now); s.slow < slowFor || ago > 0 && ago < leaveAtMost || now.Sub(s.failed) < leaveAgain {
		return Peer{}, false
	}
	p, ok := faster(list, own, self)
	if ok {
		s.slow = 0
	}
	return p, ok
}

// faster finds a data replica that could serve and whose disk is measurably faster
// than one that takes own.
func faster(list []Member, own time.Duration, self string) (Peer, bool) {
	for i := range list {
		m := &list[i]
		if m.ID != self && !m.Witness && m.Voter && m.sound() && m.StoreTime > 0 && m.StoreTime*fasterBy <= own {
			return m.Peer, true
		}
	}
	return Peer{}, false
}

// leaveIfSlow hands over to a faster replica.
func (r *Replica) leaveIfSlow(ctx context.Context, list []Member) {
	own := r.v.StoreTime()
	p, leave := r.slow.judge(time.Now(), r.serve.term.Load(), r.commits.look(int(r.waiting.Load())), own, list, r.cfg.ID)
	if !leave {
		return
	}
	r.log.Warn("this replica is slow and hands over to a faster one", "store_time", own, "to", p.Name)
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	// The other one may look before Transfer returns.
	before, now := r.slow.lastLeft.Load(), time.Now()
	r.slow.lastLeft.Store(&now)
	if err := r.Transfer(ctx, p.ID); err != nil {
		r.slow.lastLeft.Store(before)
		r.slow.failed = time.Now()
		r.log.Warn("the slow replica goes on serving", "err", err)
	}
}
