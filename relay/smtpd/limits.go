package smtpd

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/smtp"
)

var (
	replyTooMany = &smtp.Reply{Code: 421, Status: mail.Status{4, 7, 0}, Text: "Too many connections from your address", Close: true}
	replyTooFast = &smtp.Reply{Code: 421, Status: mail.Status{4, 7, 0}, Text: "Connecting too often, slow down", Close: true}
)

// counts counts sessions by client address, in shards so that sessions of
// different clients do not wait for each other.
type counts struct {
	seed   maphash.Seed
	shards [16]shard
}

type shard struct {
	mu sync.Mutex // guards m
	m  map[netip.Addr]*usage
}

// usage is what one address does.
type usage struct {
	now    int       // sessions open
	since  time.Time // start of the minute being counted
	recent int       // sessions begun since then
	before int       // sessions begun in the minute before
}

// maxUsage bounds one shard. Beyond it addresses with no session are forgotten.
const maxUsage = 4096

func (c *counts) init() {
	c.seed = maphash.MakeSeed()
	for i := range c.shards {
		c.shards[i].m = map[netip.Addr]*usage{}
	}
}

// clientKey is the address that limits count: IPv6 clients own a /64.
func clientKey(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// admit counts a new session, or says why it may not begin. The release is
// never nil.
func (s *Service) admit(cfg *Config, c *smtp.ConnInfo) (release func(), refused *smtp.Reply) {
	l := &cfg.Limits
	addr := clientKey(c.Remote.Addr())
	if l.Sessions <= 0 && l.PerMinute <= 0 || l.Unlimited != nil && l.Unlimited(c.Remote.Addr()) {
		return func() {}, nil
	}
	now := cfg.Now()
	sh := &s.counts.shards[maphash.Comparable(s.counts.seed, addr)%uint64(len(s.counts.shards))]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.m[addr]
	if u == nil {
		if len(sh.m) >= maxUsage {
			sh.forget(now)
		}
		u = &usage{since: now}
		sh.m[addr] = u
	}
	switch age := now.Sub(u.since); {
	case age >= 2*time.Minute || age < 0:
		u.since, u.before, u.recent = now, 0, 0
	case age >= time.Minute:
		u.since, u.before, u.recent = u.since.Add(time.Minute), u.recent, 0
	}
	// A sliding minute: what is left of the minute before counts in part.
	left := 1 - now.Sub(u.since).Seconds()/60
	switch {
	case l.Sessions > 0 && u.now >= l.Sessions:
		return func() {}, replyTooMany
	case l.PerMinute > 0 && float64(u.recent)+float64(u.before)*left >= float64(l.PerMinute):
		return func() {}, replyTooFast
	}
	u.now++
	u.recent++
	return func() {
		sh.mu.Lock()
		u.now--
		sh.mu.Unlock()
	}, nil
}

// forget drops addresses that have no session and made none lately; with all
// of them busy the shard grows, which the limit of sessions bounds.
func (sh *shard) forget(now time.Time) {
	for a, u := range sh.m {
		if u.now == 0 && (now.Sub(u.since) > 2*time.Minute || len(sh.m) > 4*maxUsage) {
			delete(sh.m, a)
		}
	}
}
