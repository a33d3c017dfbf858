package cache

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// Config says how much is remembered and for how long. Zero fields take the
// defaults named (directory.md 16).
type Config struct {
	Entries        int           // answers about addresses, domains and logins each, 100,000
	TTL            time.Duration // 600 s
	NegativeDomain time.Duration // "not our domain", 60 s
	Negative       time.Duration // "no such address", 0: not remembered
	Stale          time.Duration // how old an answer may be while no server answers, 1 h
	Passwords      int           // successful password checks, 10,000
	PasswordTTL    time.Duration // 900 s
	Timeout        time.Duration // of one question, whoever still waits for it, 10 s
}

func (c *Config) fill() {
	for p, v := range map[*int]int{&c.Entries: 100_000, &c.Passwords: 10_000} {
		if *p == 0 {
			*p = v
		}
	}
	for p, v := range map[*time.Duration]time.Duration{
		&c.TTL: 600 * time.Second, &c.NegativeDomain: time.Minute, &c.Stale: time.Hour,
		&c.PasswordTTL: 900 * time.Second, &c.Timeout: 10 * time.Second,
	} {
		if *p == 0 {
			*p = v
		}
	}
}

// Stats counts what the cache did.
type Stats struct {
	Hits, Misses, Stale uint64
}

// Cache is a directory.Directory in front of another. Any number of goroutines
// may use it.
type Cache struct {
	directory.Directory // Entry and Search go through
	cfg                 Config
	domains             table[string, *directory.Domain]
	addresses           table[address, *directory.Answer]
	logins              table[string, *directory.Entry]
	passwords           table[[sha256.Size]byte, struct{}]
	key                 [32]byte
	hits, misses, stale atomic.Uint64
}

var _ directory.Directory = (*Cache)(nil)

type address struct{ base, local, domain string }

// New returns a cache in front of d.
func New(d directory.Directory, cfg Config) *Cache {
	cfg.fill()
	c := &Cache{Directory: d, cfg: cfg}
	rand.Read(c.key[:])
	c.domains.init(cfg.Entries)
	c.addresses.init(cfg.Entries)
	c.logins.init(cfg.Entries)
	c.passwords.init(cfg.Passwords)
	return c
}

// Stats returns the counts since New.
func (c *Cache) Stats() Stats {
	return Stats{Hits: c.hits.Load(), Misses: c.misses.Load(), Stale: c.stale.Load()}
}

// Domain finds a hosted domain.
func (c *Cache) Domain(ctx context.Context, name string) (*directory.Domain, error) {
	if v, ok, err := hit(c, &c.domains, name); ok {
		return v, err
	}
	return ask(ctx, c, &c.domains, name, name, c.cfg.NegativeDomain, func(ctx context.Context) (*directory.Domain, error) {
		return c.Directory.Domain(ctx, name)
	})
}

// Lookup finds the entries that own an address.
func (c *Cache) Lookup(ctx context.Context, d *directory.Domain, a mail.Address) (*directory.Answer, error) {
	k := address{d.BaseDN, a.Local, a.Domain}
	if v, ok, err := hit(c, &c.addresses, k); ok {
		return v, err
	}
	return ask(ctx, c, &c.addresses, k, a.Local+"\x00"+a.Domain+"\x00"+d.BaseDN, c.cfg.Negative, func(ctx context.Context) (*directory.Answer, error) {
		return c.Directory.Lookup(ctx, d, a)
	})
}

// Login finds the user behind a login.
func (c *Cache) Login(ctx context.Context, login string) (*directory.Entry, error) {
	if v, ok, err := hit(c, &c.logins, login); ok {
		return v, err
	}
	return ask(ctx, c, &c.logins, login, login, 0, func(ctx context.Context) (*directory.Entry, error) {
		return c.Directory.Login(ctx, login)
	})
}

// Authenticate checks a password. A success is remembered until the entry
// would be asked for again, PasswordTTL at most.
func (c *Cache) Authenticate(ctx context.Context, e *directory.Entry, password string) error {
	m := hmac.New(sha256.New, c.key[:])
	m.Write([]byte(e.DN + "\x00" + e.Stamp + "\x00" + password))
	var sum [sha256.Size]byte
	m.Sum(sum[:0])
	if v, ok := c.passwords.get(sum); ok && time.Since(v.at) < c.cfg.PasswordTTL {
		c.hits.Add(1)
		return nil
	}
	c.misses.Add(1)
	if err := c.Directory.Authenticate(ctx, e, password); err != nil {
		c.passwords.drop(sum)
		return err
	}
	c.passwords.put(sum, item[struct{}]{at: time.Now()})
	return nil
}

// Flush forgets everything.
func (c *Cache) Flush() {
	c.domains.clear()
	c.addresses.clear()
	c.logins.clear()
	c.passwords.clear()
}

// FlushDomain forgets a domain and its addresses.
func (c *Cache) FlushDomain(name string) {
	c.domains.drop(name)
	c.addresses.dropIf(func(a address) bool { return a.domain == name })
	c.logins.clear()
	c.passwords.clear()
}

// FlushAddress forgets one address, and every login: they may be the same user.
func (c *Cache) FlushAddress(a mail.Address) {
	c.addresses.dropIf(func(k address) bool { return k.local == a.Local && k.domain == a.Domain })
	c.logins.clear()
	c.passwords.clear()
}

// hit answers from t while the answer is fresh. It allocates nothing: almost
// every recipient ends here.
func hit[K comparable, V any](c *Cache, t *table[K, V], k K) (v V, ok bool, err error) {
	old, known := t.get(k)
	if !known || time.Since(old.at) >= old.ttl {
		return v, false, nil
	}
	c.hits.Add(1)
	return old.value, true, old.err
}

// ask answers by question. Only clean answers are kept; while there is none, t
// helps out with what is not too old.
func ask[K comparable, V any](ctx context.Context, c *Cache, t *table[K, V], k K, flight string, negative time.Duration, question func(context.Context) (V, error)) (V, error) {
	old, known := t.get(k)
	c.misses.Add(1)
	done := t.flights.DoChan(flight, func() (any, error) {
		// The question outlives a caller who gives up: others may wait for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
		defer cancel()
		v, err := question(ctx)
		switch {
		case err == nil:
			t.put(k, item[V]{value: v, at: time.Now(), ttl: c.cfg.TTL})
		case errors.Is(err, directory.ErrNotFound) && negative > 0:
			t.put(k, item[V]{err: err, at: time.Now(), ttl: negative})
		case clean(err):
			t.drop(k)
		}
		return v, err
	})
	var zero V
	var err error
	select {
	case r := <-done:
		if r.Err == nil {
			return r.Val.(V), nil
		}
		err = r.Err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !clean(err) && known && old.err == nil && time.Since(old.at) < c.cfg.Stale {
		c.stale.Add(1)
		return old.value, nil
	}
	return zero, err
}

// clean reports whether err is an answer of the directory and not a failure to
// get one.
func clean(err error) bool {
	return errors.Is(err, directory.ErrNotFound) || errors.Is(err, directory.ErrAmbiguous)
}

// item is one remembered answer.
type item[V any] struct {
	value V
	err   error // ErrNotFound, or nil
	at    time.Time
	ttl   time.Duration
}

// table is a bounded map.
type table[K comparable, V any] struct {
	flights singleflight.Group
	max     int
	mu      sync.RWMutex // guards m
	m       map[K]item[V]
}

func (t *table[K, V]) init(limit int) { t.max, t.m = limit, map[K]item[V]{} }

func (t *table[K, V]) get(k K) (item[V], bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.m[k]
	return v, ok
}

func (t *table[K, V]) put(k K, v item[V]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, there := t.m[k]; !there && len(t.m) >= t.max {
		for other := range t.m { // the order of a map's keys is random
			delete(t.m, other)
			break
		}
	}
	t.m[k] = v
}

func (t *table[K, V]) drop(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.m, k)
}

func (t *table[K, V]) dropIf(f func(K) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.m {
		if f(k) {
			delete(t.m, k)
		}
	}
}

func (t *table[K, V]) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.m)
}
