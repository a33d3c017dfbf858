package cache

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
	"github.com/postern-mail/postern/shared/metrics"
)

// Question is the kind of a question, for counting.
type Question uint8

// The questions.
const (
	Domains Question = iota
	Addresses
	Logins
	Entries
	Searches
	Passwords
	Groups
	questions
)

var questionNames = [...]string{"domain", "address", "login", "entry", "search", "password", "groups"}

func (q Question) String() string { return questionNames[q] }

// Config says how much is remembered and for how long. Zero fields take the
// defaults named (directory.md 16).
type Config struct {
	Entries        int           // answers of each kind, 100,000
	Selected       int           // entries of one search that are remembered, 1,000; longer answers pass through
	Bytes          int           // of the answers of each kind, about, 256 MB
	TTL            time.Duration // 600 s
	NegativeDomain time.Duration // "not our domain", 60 s
	Negative       time.Duration // "no such address, login or entry", 0: not remembered
	Stale          time.Duration // how old an answer may be while the directory fails, 1 h
	Retry          time.Duration // between two questions of the same key while it fails, 2 s
	Passwords      int           // successful password checks, 10,000
	PasswordTTL    time.Duration // 900 s
	Timeout        time.Duration // of one question, whoever still waits for it, 10 s

	// Schema is the one that the directory reads its entries by. With it entries
	// are remembered packed, in a quarter of the memory, and read again for each
	// answer; nil leaves them as they are.
	Schema *directory.Schema
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (c *Config) fill() {
	setDefault(&c.Entries, 100_000)
	setDefault(&c.Selected, 1000)
	setDefault(&c.Bytes, 256<<20)
	setDefault(&c.TTL, 600*time.Second)
	setDefault(&c.NegativeDomain, time.Minute)
	setDefault(&c.Stale, time.Hour)
	setDefault(&c.Retry, 2*time.Second)
	setDefault(&c.Passwords, 10_000)
	setDefault(&c.PasswordTTL, 900*time.Second)
	setDefault(&c.Timeout, 10*time.Second)
}

// Stats counts what the cache did: answers that were fresh, questions that
// were asked, and answers that were used because the directory failed.
type Stats struct {
	Hits, Misses, Stale uint64
}

// Cache is a directory.Directory in front of another. Any number of goroutines
// may use it.
type Cache struct {
	under directory.Directory
	cfg   Config
	start time.Time // zero of the clock

	domains   *table[*directory.Domain]
	addresses *table[*directory.Answer]
	logins    *table[*directory.Entry]
	entries   *table[*directory.Entry]
	searches  *table[*selection]
	passwords *table[string] // DN of the entry
	groups    *table[*directory.Groups]

	macs  sync.Pool // of hash.Hash keyed for this process
	stats [questions]counts
}

// counts are the figures of one kind of question, here and for the process.
type counts struct {
	hits, misses, stale          atomic.Uint64
	allHits, allMisses, allStale metrics.Counter
}

func (n *counts) hit()  { n.hits.Add(1); n.allHits.Inc() }
func (n *counts) miss() { n.misses.Add(1); n.allMisses.Inc() }
func (n *counts) aged() { n.stale.Add(1); n.allStale.Inc() }

var _ directory.Directory = (*Cache)(nil)

// New returns a cache in front of d.
func New(d directory.Directory, cfg Config) *Cache {
	cfg.fill()
	c := &Cache{under: d, cfg: cfg, start: time.Now()}
	c.domains = newTable(cfg.Entries, cfg.Bytes, (*directory.Domain).Size)
	c.addresses = newTable(cfg.Entries, cfg.Bytes, func(a *directory.Answer) int { return sizeOf(a.Entries) })
	c.logins = newTable(cfg.Entries, cfg.Bytes, (*directory.Entry).Size)
	c.entries = newTable(cfg.Entries, cfg.Bytes, (*directory.Entry).Size)
	c.searches = newTable(cfg.Entries, cfg.Bytes, func(s *selection) int { return sizeOf(s.entries) })
	c.passwords = newTable(cfg.Passwords, cfg.Bytes, func(dn string) int { return len(dn) })
	c.groups = newTable(cfg.Entries, cfg.Bytes, func(g *directory.Groups) (n int) {
		for _, a := range g.Addresses {
			n += 16 + len(a)
		}
		return n
	})
	c.pack()
	for q := range questions {
		n := &c.stats[q]
		n.allHits = metrics.DirAnswers.With(q.String(), "cache")
		n.allMisses = metrics.DirAnswers.With(q.String(), "directory")
		n.allStale = metrics.DirAnswers.With(q.String(), "stale")
	}
	key := make([]byte, 32)
	rand.Read(key) // never fails
	c.macs.New = func() any { return hmac.New(sha256.New, key) }
	return c
}

// pack has the tables of entries remember them packed.
func (c *Cache) pack() {
	p := newPacking(c.cfg.Schema)
	c.addresses.pack, c.addresses.open = p.pack, p.open
	one := func(e *directory.Entry) (packed, bool) {
		return p.pack(&directory.Answer{Entries: []*directory.Entry{e}})
	}
	first := func(k packed) *directory.Entry { return p.open(k).Entries[0] }
	c.logins.pack, c.logins.open = one, first
	c.entries.pack, c.entries.open = one, first
	c.searches.pack = func(s *selection) (packed, bool) { return p.pack(&directory.Answer{Entries: s.entries}) }
	c.searches.open = func(k packed) *selection { return &selection{entries: p.open(k).Entries} }
}

func sizeOf(list []*directory.Entry) (n int) {
	for _, e := range list {
		n += 8 + e.Size()
	}
	return n
}

// Stats returns the counts since New, of all questions.
func (c *Cache) Stats() (sum Stats) {
	for q := range questions {
		s := c.StatsOf(q)
		sum.Hits, sum.Misses, sum.Stale = sum.Hits+s.Hits, sum.Misses+s.Misses, sum.Stale+s.Stale
	}
	return sum
}

// StatsOf returns the counts since New of one kind of question.
func (c *Cache) StatsOf(q Question) Stats {
	s := &c.stats[q]
	return Stats{Hits: s.hits.Load(), Misses: s.misses.Load(), Stale: s.stale.Load()}
}

func (c *Cache) now() int64 { return int64(time.Since(c.start)) }

// appendFolded appends s with ASCII letters in lower case.
func appendFolded(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		ch := s[i]
		if 'A' <= ch && ch <= 'Z' {
			ch |= 0x20
		}
		b = append(b, ch)
	}
	return b
}

// keySize is how long a key may be to be built on the stack.
const keySize = 384

// Domain implements directory.Directory.
func (c *Cache) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	var buf [keySize]byte
	key := appendFolded(buf[:0], name)
	if f := hit(c, c.domains, Domains, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.domains, Domains, key, c.cfg.NegativeDomain, func(ctx context.Context) (*directory.Domain, error) {
		return c.under.Domain(ctx, name)
	})
}

// Lookup implements directory.Directory. The detail of an answer that another
// spelling of the address has brought may differ in case: see Answer.DetailOf.
func (c *Cache) Lookup(ctx context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	var buf [keySize]byte
	key := appendAddress(buf[:0], d.Name, a)
	if f := hit(c, c.addresses, Addresses, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.addresses, Addresses, key, c.cfg.Negative, func(ctx context.Context) (*directory.Answer, error) {
		return c.under.Lookup(ctx, d, a)
	})
}

// appendAddress is the key of an address in a domain. Neither part of an
// address that the parser has passed holds a NUL.
func appendAddress(b []byte, domain string, a mail.Address) []byte {
	b = append(append(b, domain...), 0)
	b = append(appendFolded(b, a.Local), 0)
	return appendFolded(b, a.Domain)
}

// Login implements directory.Directory.
func (c *Cache) Login(ctx context.Context, login string) (*directory.Entry, error) {
	var buf [keySize]byte
	key := appendFolded(buf[:0], login)
	if f := hit(c, c.logins, Logins, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.logins, Logins, key, c.cfg.Negative, func(ctx context.Context) (*directory.Entry, error) {
		return c.under.Login(ctx, login)
	})
}

// Entry implements directory.Directory.
func (c *Cache) Entry(ctx context.Context, dn string) (*directory.Entry, error) {
	var buf [keySize]byte
	key := appendFolded(buf[:0], dn)
	if f := hit(c, c.entries, Entries, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.entries, Entries, key, c.cfg.Negative, func(ctx context.Context) (*directory.Entry, error) {
		return c.under.Entry(ctx, dn)
	})
}

// Groups implements directory.Directory.
func (c *Cache) Groups(ctx context.Context, e *directory.Entry) (*directory.Groups, error) {
	var buf [keySize]byte
	key := appendFolded(buf[:0], e.DN)
	if f := hit(c, c.groups, Groups, key); f.slot != nil {
		return f.answer()
	}
	return miss(ctx, c, c.groups, Groups, key, 0, func(ctx context.Context) (*directory.Groups, error) {
		return c.under.Groups(ctx, e)
	})
}

// Authenticate implements directory.Directory.
func (c *Cache) Authenticate(ctx context.Context, e *directory.Entry, password string) error {
	if password == "" {
		return directory.ErrBadPassword
	}
	key := c.secret(e, password)
	if hit(c, c.passwords, Passwords, key[:]).slot != nil {
		return nil
	}
	old := c.ageing(Passwords, c.passwords.get(key[:]).slot)
	_, err := c.passwords.ask(ctx, key[:], c.cfg.Timeout, func(ctx context.Context) (string, error) {
		return e.DN, c.under.Authenticate(ctx, e, password)
	}, func(_ string, err error) (*slot[string], bool) {
		if err != nil {
			return nil, errors.Is(err, directory.ErrBadPassword)
		}
		now := c.now()
		life := c.cfg.PasswordTTL
		if !e.Fetched.IsZero() {
			life = max(0, min(life, c.cfg.TTL-time.Since(e.Fetched)))
		}
		return &slot[string]{at: now, fresh: now + int64(life)}, false
	})
	if err != nil && !errors.Is(err, directory.ErrBadPassword) && old {
		c.stats[Passwords].aged()
		return nil
	}
	return err
}

// ageing counts a question and reports whether e may be used if it fails.
func (c *Cache) ageing(q Question, e *slot[string]) bool {
	c.stats[q].miss()
	return e != nil && c.now()-e.at < int64(c.cfg.Stale)
}

// secret is the key of a password check. It changes with the entry's change
// stamp, so that a new password ends the life of the old one.
func (c *Cache) secret(e *directory.Entry, password string) (key [sha256.Size]byte) {
	m := c.macs.Get().(hash.Hash)
	defer c.macs.Put(m)
	m.Reset()
	var n [8]byte
	for _, s := range [...]string{e.DN, e.Stamp, password} {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		m.Write(n[:])
		m.Write([]byte(s))
	}
	m.Sum(key[:0])
	return key
}

// Flush forgets everything, and counts the answers.
func (c *Cache) Flush() (forgotten int) {
	forgotten += c.domains.dropIf(func(string, *directory.Domain) bool { return true })
	forgotten += c.addresses.dropIf(func(string, *directory.Answer) bool { return true })
	forgotten += c.logins.dropIf(func(string, *directory.Entry) bool { return true })
	forgotten += c.entries.dropIf(func(string, *directory.Entry) bool { return true })
	forgotten += c.searches.dropIf(func(string, *selection) bool { return true })
	forgotten += c.passwords.dropIf(func(string, string) bool { return true })
	forgotten += c.groups.dropIf(func(string, *directory.Groups) bool { return true })
	return forgotten
}

// FlushDomain forgets a domain by any of its names, its addresses and logins,
// and all that no domain is known of.
func (c *Cache) FlushDomain(name string) (forgotten int) {
	names := map[string]bool{strings.ToLower(name): true}
	forgotten += c.domains.dropIf(func(key string, d *directory.Domain) bool {
		if d != nil && d.HasName(name) {
			names[d.Name] = true
			return true
		}
		return names[key]
	})
	forgotten += c.addresses.dropIf(func(key string, _ *directory.Answer) bool {
		i, j := strings.IndexByte(key, 0), strings.LastIndexByte(key, 0)
		return names[key[:i]] || names[key[j+1:]]
	})
	forgotten += c.logins.dropIf(func(_ string, e *directory.Entry) bool { return e == nil || e.Domain == nil || names[e.Domain.Name] })
	forgotten += c.entries.dropIf(func(string, *directory.Entry) bool { return true })
	forgotten += c.searches.dropIf(func(string, *selection) bool { return true })
	forgotten += c.passwords.dropIf(func(string, string) bool { return true })
	forgotten += c.groups.dropIf(func(string, *directory.Groups) bool { return true })
	return forgotten
}

// FlushAddress forgets whose entry has the address a, under all addresses and
// logins and with its passwords, and what was remembered of a itself.
func (c *Cache) FlushAddress(a mail.Address) (forgotten int) {
	spelled := a.String()
	suffix := string(appendAddress(nil, "", a))
	owners := map[string]bool{} // DNs
	owns := func(e *directory.Entry) bool {
		if e == nil || !e.Owns(spelled) && !strings.EqualFold(e.Mailbox, spelled) && !owners[e.DN] {
			return false
		}
		owners[e.DN] = true
		return true
	}
	forgotten += c.domains.dropIf(func(_ string, d *directory.Domain) (drop bool) {
		for i := 0; d != nil && i < len(d.CatchAllOwners); i++ {
			drop = owns(d.CatchAllOwners[i]) || drop
		}
		return drop
	})
	forgotten += c.addresses.dropIf(func(key string, ans *directory.Answer) bool {
		drop := strings.HasSuffix(key, suffix)
		for i := 0; ans != nil && i < len(ans.Entries); i++ {
			drop = owns(ans.Entries[i]) || drop
		}
		return drop
	})
	forgotten += c.entries.dropIf(func(_ string, e *directory.Entry) bool { return owns(e) })
	forgotten += c.searches.dropIf(func(_ string, s *selection) (drop bool) {
		for i := 0; s != nil && i < len(s.entries); i++ {
			drop = owns(s.entries[i]) || drop
		}
		return drop
	})
	forgotten += c.logins.dropIf(func(key string, e *directory.Entry) bool {
		return e == nil || owns(e) || strings.EqualFold(key, spelled)
	})
	forgotten += c.passwords.dropIf(func(_, dn string) bool { return owners[dn] })
	// Of a group, too, whoever has just become one of it.
	forgotten += c.groups.dropIf(func(string, *directory.Groups) bool { return true })
	return forgotten
}

// hit returns the answer while it is fresh, or while it is known that a newer
// one cannot be had.
func hit[V any](c *Cache, t *table[V], q Question, key []byte) found[V] {
	f := t.get(key)
	if f.slot == nil {
		return f
	}
	now := c.now()
	if now < f.fresh {
		c.stats[q].hit()
		return f
	}
	if f.err == nil && now < f.retry.Load() && now-f.at < int64(c.cfg.Stale) {
		c.stats[q].aged()
		return f
	}
	return found[V]{}
}

// miss asks the directory. While that fails, what is not too old helps out.
func miss[V any](ctx context.Context, c *Cache, t *table[V], q Question, key []byte, negative time.Duration, question func(context.Context) (V, error)) (V, error) {
	c.stats[q].miss()
	v, err := t.ask(ctx, key, c.cfg.Timeout, question, func(_ V, err error) (*slot[V], bool) {
		now := c.now()
		switch {
		case err == nil:
			return &slot[V]{at: now, fresh: now + int64(c.cfg.TTL)}, false
		case errors.Is(err, directory.ErrNotFound) && negative > 0:
			return &slot[V]{err: err, at: now, fresh: now + int64(negative)}, false
		}
		return nil, answered(err)
	})
	if err == nil || answered(err) {
		return v, err
	}
	if old := t.get(key); old.slot != nil && old.err == nil {
		if now := c.now(); now-old.at < int64(c.cfg.Stale) {
			old.retry.Store(now + int64(c.cfg.Retry))
			c.stats[q].aged()
			return old.answer()
		}
	}
	return v, err
}

// answered reports whether err is what the directory says, and not that it
// cannot say.
func answered(err error) bool {
	return errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous) ||
		errors.Is(err, directory.ErrTooMany) || errors.Is(err, directory.ErrURL)
}
