package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/directory/dirtest"
	"github.com/postern-mail/postern/shared/mail"
)

// server counts questions and answers as it is told to.
type server struct {
	directory.Directory
	asked    atomic.Int32
	err      error
	delay    time.Duration
	password string
	entry    *directory.Entry // answer to everything, when set
	found    int              // how many a search finds, 1 for 0
	cut      int              // how many of them come before a search fails, all for 0
}

func (s *server) answer() error {
	s.asked.Add(1)
	time.Sleep(s.delay)
	return s.err
}

func (s *server) Domain(_ context.Context, name string) (*directory.Domain, error) {
	if err := s.answer(); err != nil {
		return nil, err
	}
	return &directory.Domain{Name: name, BaseDN: "o=" + name}, nil
}

func (s *server) Lookup(_ context.Context, _ *directory.Domain, a mail.Address) (*directory.Answer, error) {
	if err := s.answer(); err != nil {
		return nil, err
	}
	if s.entry != nil {
		return &directory.Answer{Entries: []*directory.Entry{s.entry}}, nil
	}
	_, detail, _ := directory.SplitDetail(a.Local, "+")
	return &directory.Answer{Entries: []*directory.Entry{{Mail: a.String()}}, Detail: detail}, nil
}

func (s *server) Login(context.Context, string) (*directory.Entry, error) {
	return s.one(), s.answer()
}

func (s *server) Entry(context.Context, string) (*directory.Entry, error) {
	return s.one(), s.answer()
}

func (s *server) Search(_ context.Context, _ string, limit int) iter.Seq2[*directory.Entry, error] {
	return func(yield func(*directory.Entry, error) bool) {
		if err := s.answer(); err != nil {
			yield(nil, err)
			return
		}
		for i := range max(s.found, 1) {
			if i == limit {
				yield(nil, directory.ErrTooMany)
				return
			}
			if s.cut > 0 && i == s.cut {
				yield(nil, directory.ErrIncomplete)
				return
			}
			if !yield(s.one(), nil) {
				return
			}
		}
	}
}

func (s *server) one() *directory.Entry {
	if s.entry != nil {
		return s.entry
	}
	return &directory.Entry{DN: "uid=ann"}
}

func (s *server) Groups(_ context.Context, e *directory.Entry) (*directory.Groups, error) {
	if err := s.answer(); err != nil {
		return nil, err
	}
	return &directory.Groups{Addresses: []string{"of " + e.DN}}, nil
}

func (s *server) Authenticate(_ context.Context, _ *directory.Entry, password string) error {
	if err := s.answer(); err != nil {
		return err
	}
	if password != s.password {
		return directory.ErrBadPassword
	}
	return nil
}

var (
	dom = &directory.Domain{Name: "x.test", BaseDN: "o=x"}
	ann = mail.Address{Local: "ann", Domain: "x.test"}
)

func TestLifeOfAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		c := New(s, Config{})
		look := func(want int32, wantErr error) {
			t.Helper()
			ans, err := c.Lookup(context.Background(), dom, ann)
			if !errors.Is(err, wantErr) || err == nil && ans.Entries[0].Mail != "ann@x.test" {
				t.Fatalf("%v, %v; want %v", ans, err, wantErr)
			}
			if n := s.asked.Load(); n != want {
				t.Fatalf("asked %d times, want %d", n, want)
			}
		}
		look(1, nil)
		time.Sleep(599 * time.Second)
		look(1, nil)
		time.Sleep(2 * time.Second)
		look(2, nil)
		// Every server away: old answers for an hour after they were given.
		s.err = directory.ErrUnavailable
		time.Sleep(50 * time.Minute)
		look(3, nil)
		time.Sleep(11 * time.Minute)
		look(4, directory.ErrUnavailable)
		// A clean "nobody" is believed at once and not remembered.
		s.err = directory.ErrNotFound
		look(5, directory.ErrNotFound)
		look(6, directory.ErrNotFound)
		s.err = nil
		look(7, nil)
		c.FlushAddress(ann)
		look(8, nil)
		c.FlushDomain("x.test")
		look(9, nil)
	})
}

func TestNegativeDomain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{err: directory.ErrNotFound}
		c := New(s, Config{})
		for range 3 {
			if _, err := c.Domain(context.Background(), "out.test"); !errors.Is(err, directory.ErrNotFound) {
				t.Fatal(err)
			}
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times for a domain that is not ours", n)
		}
		time.Sleep(61 * time.Second)
		s.err = errors.New("time-out") // nothing to fall back on: "not ours" is too old
		if _, err := c.Domain(context.Background(), "out.test"); errors.Is(err, directory.ErrNotFound) || err == nil {
			t.Errorf("after the negative answer ran out: %v", err)
		}
	})
}

func TestOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{delay: time.Second}
		c := New(s, Config{})
		quick, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		results := make(chan error, 20)
		for i := range 20 {
			ctx := context.Background()
			if i == 0 {
				ctx = quick // gives up; the others still get their answer
			}
			go func() {
				_, err := c.Lookup(ctx, dom, ann)
				results <- err
			}()
			synctest.Wait()
		}
		failed := 0
		for range 20 {
			if err := <-results; err != nil {
				failed++
			}
		}
		if failed != 1 || s.asked.Load() != 1 {
			t.Errorf("%d failed, asked %d times", failed, s.asked.Load())
		}
	})
}

func TestPasswords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{password: "secret"}
		c := New(s, Config{})
		e := &directory.Entry{DN: "uid=ann", Stamp: "1"}
		check := func(e *directory.Entry, password string, want int32, wantErr error) {
			t.Helper()
			if err := c.Authenticate(context.Background(), e, password); !errors.Is(err, wantErr) {
				t.Fatalf("%q: %v", password, err)
			}
			if n := s.asked.Load(); n != want {
				t.Fatalf("asked %d times, want %d", n, want)
			}
		}
		check(e, "secret", 1, nil)
		check(e, "secret", 1, nil)
		check(e, "wrong", 2, directory.ErrBadPassword)
		check(e, "wrong", 3, directory.ErrBadPassword) // failures are not remembered
		check(&directory.Entry{DN: "uid=bob", Stamp: "1"}, "secret", 4, nil)
		check(&directory.Entry{DN: "uid=ann", Stamp: "2"}, "secret", 5, nil) // the entry changed
		time.Sleep(901 * time.Second)
		check(e, "secret", 6, nil)
	})
}

// A password is remembered no longer than the entry may be, and like it when
// the directory is away.
func TestPasswordEndsWithEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{password: "secret"}
		c := New(s, Config{})
		e := &directory.Entry{DN: "uid=ann", Stamp: "1", Fetched: time.Now()}
		check := func(want int32, wantErr error) {
			t.Helper()
			if err := c.Authenticate(t.Context(), e, "secret"); !errors.Is(err, wantErr) {
				t.Fatal(err)
			}
			if n := s.asked.Load(); n != want {
				t.Fatalf("asked %d times, want %d", n, want)
			}
		}
		time.Sleep(500 * time.Second)
		check(1, nil)
		time.Sleep(99 * time.Second)
		check(1, nil)
		time.Sleep(2 * time.Second)
		check(2, nil) // the entry is 601 s old
		s.err = directory.ErrUnavailable
		time.Sleep(50 * time.Minute)
		check(3, nil) // away: the last success helps out
		if err := c.Authenticate(t.Context(), e, "wrong"); !errors.Is(err, directory.ErrUnavailable) {
			t.Errorf("wrong password without a server: %v", err)
		}
		time.Sleep(11 * time.Minute)
		check(5, directory.ErrUnavailable)
		s.err, s.password = nil, "new"
		check(6, directory.ErrBadPassword)
		s.err = directory.ErrUnavailable
		check(7, directory.ErrUnavailable) // a success that was contradicted is forgotten
	})
}

// A server that hangs costs one time-out, not one for each recipient.
func TestHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{}
		c := New(s, Config{})
		if _, err := c.Lookup(t.Context(), dom, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Minute)
		s.err, s.delay = errors.New("time-out"), 5*time.Second
		start := time.Now()
		for range 100 {
			if _, err := c.Lookup(t.Context(), dom, ann); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 5*time.Second || s.asked.Load() != 2 {
			t.Errorf("100 recipients took %v and %d questions", took, s.asked.Load())
		}
		time.Sleep(2 * time.Second)
		s.err, s.delay = nil, 0
		if _, err := c.Lookup(t.Context(), dom, ann); err != nil || s.asked.Load() != 3 {
			t.Errorf("after the pause: %v, %d questions", err, s.asked.Load())
		}
	})
}

func TestFlushDuringFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, flush := range map[string]func(*Cache){
			"all":     func(c *Cache) { c.Flush() },
			"domain":  func(c *Cache) { c.FlushDomain("x.test") },
			"address": func(c *Cache) { c.FlushAddress(ann) },
		} {
			s := &server{delay: time.Second}
			c := New(s, Config{})
			done := make(chan error)
			go func() {
				_, err := c.Lookup(context.Background(), dom, ann)
				done <- err
			}()
			time.Sleep(500 * time.Millisecond)
			flush(c)
			go func() { // asked after the flush: the answer under way is too old for it
				_, err := c.Lookup(context.Background(), dom, ann)
				done <- err
			}()
			for range 2 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			if n := s.asked.Load(); n != 2 {
				t.Errorf("%s: asked %d times, want 2", name, n)
			}
			if _, err := c.Lookup(t.Context(), dom, ann); err != nil || s.asked.Load() != 2 {
				t.Errorf("%s: the second answer was not kept: %v, %d", name, err, s.asked.Load())
			}
		}
	})
}

func TestFlushKnowsTheUser(t *testing.T) {
	s := &server{}
	c := New(s, Config{})
	ctx := t.Context()
	alias, other := mail.Address{Local: "a.nn", Domain: "x.test"}, mail.Address{Local: "bob", Domain: "x.test"}
	e := &directory.Entry{DN: "uid=ann", Mail: "ann@x.test", Alternate: []string{"a.nn@x.test"}, Mailbox: "ann@x.test", Domain: dom}
	s.entry = e
	ask := func() {
		for _, a := range []mail.Address{ann, alias} {
			if _, err := c.Lookup(ctx, dom, a); err != nil {
				t.Fatal(err)
			}
		}
		c.Login(ctx, "Ann")
		c.Entry(ctx, "UID=Ann")
		if _, err := directory.Collect(c.Search(ctx, "ldap:///", 10)); err != nil {
			t.Fatal(err)
		}
		c.Authenticate(ctx, e, "")
		s.password = "pw"
		if err := c.Authenticate(ctx, e, "pw"); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	s.entry = nil
	if _, err := c.Lookup(ctx, dom, other); err != nil {
		t.Fatal(err)
	}
	s.entry = e
	before := s.asked.Load()
	if before != 7 {
		t.Errorf("asked %d times, want 7", before)
	}
	ask()
	if n := s.asked.Load(); n != before {
		t.Errorf("asked %d times with everything known", n-before)
	}
	c.FlushAddress(mail.Address{Local: "A.NN", Domain: "x.test"})
	ask()
	if n := s.asked.Load(); n != before+6 {
		t.Errorf("asked %d times after the flush, want 6", n-before)
	}
	if _, err := c.Lookup(ctx, dom, other); err != nil || s.asked.Load() != before+6 {
		t.Errorf("another user was flushed too: %v", err)
	}
}

func TestCase(t *testing.T) {
	s := &server{}
	c := New(s, Config{})
	for _, a := range []mail.Address{{Local: "ann+Work", Domain: "x.test"}, {Local: "ANN+wORK", Domain: "x.test"}} {
		ans, err := c.Lookup(t.Context(), dom, a)
		if err != nil || ans.DetailOf(a) != a.Local[4:] {
			t.Errorf("%s: detail %q, %v", a, ans.DetailOf(a), err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestBound(t *testing.T) {
	c := New(&server{}, Config{Entries: 10})
	look := func(i int) {
		if _, err := c.Lookup(t.Context(), dom, mail.Address{Local: fmt.Sprint("u", i), Domain: "x.test"}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		look(i)
		look(0) // in use all the time
	}
	if n := c.addresses.len(); n != 10 {
		t.Errorf("%d answers kept, want 10", n)
	}
	before := c.StatsOf(Addresses).Misses
	look(0)
	if c.StatsOf(Addresses).Misses != before {
		t.Error("the answer in use was evicted")
	}
	// The size counts as well as the number, and what is too large for all is
	// not kept.
	c = New(&server{}, Config{Entries: 1000, Bytes: 20_000})
	for i := range 1000 {
		look(i)
	}
	if n := c.addresses.len(); n < 10 || n > 30 {
		t.Errorf("%d answers kept in 20,000 octets", n)
	}
	used := 0
	for i := range c.addresses.shards {
		used += c.addresses.shards[i].bytes
	}
	if used > 20_000 {
		t.Errorf("%d octets counted", used)
	}
	c.under = &server{entry: &directory.Entry{Raw: directory.Attributes{{Name: "x", Values: []string{strings.Repeat("x", 30_000)}}}}}
	look(5000)
	look(5000)
	if s := c.StatsOf(Addresses); s.Hits != 0 {
		t.Errorf("an answer larger than the table was kept: %+v", s)
	}
	c.Flush()
	for i := range c.addresses.shards {
		if sh := &c.addresses.shards[i]; sh.bytes != 0 || sh.hand != nil || len(sh.m) != 0 {
			t.Errorf("after Flush: %d octets, %d slots", sh.bytes, len(sh.m))
		}
	}
}

// Many goroutines and few slots: for the race detector.
func TestConcurrent(t *testing.T) {
	c := New(&server{}, Config{Entries: 20})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				a := mail.Address{Local: fmt.Sprint("u", (i*7+g)%40), Domain: "x.test"}
				if ans, err := c.Lookup(t.Context(), dom, a); err != nil || ans.Entries[0].Mail != a.String() {
					t.Errorf("%v, %v", ans, err)
					return
				}
				if i%500 == 0 {
					c.FlushAddress(a)
				}
			}
		})
	}
	wg.Wait()
	if n := c.addresses.len(); n > 20 {
		t.Errorf("%d answers kept", n)
	}
}

// TestSelected: short answers to a search are remembered, whatever the limit;
// long ones pass through, and none is ever half of one.
func TestSelected(t *testing.T) {
	for _, tt := range []struct {
		found, cut, limit int
		n                 int // entries given
		err               error
		asked, again      int32 // questions for the first and the second time
	}{
		{found: 10, limit: 10, n: 10, asked: 1},
		{found: 10, limit: 50, n: 10, asked: 1},
		{found: 10, limit: 9, n: 9, err: directory.ErrTooMany, asked: 1},
		{found: 11, limit: 10, err: directory.ErrTooMany, asked: 1},
		{found: 11, limit: 11, n: 11, asked: 2, again: 1},
		{found: 5000, limit: 6000, n: 5000, asked: 2, again: 1},
		{found: 5000, limit: 4000, n: 4000, err: directory.ErrTooMany, asked: 2, again: 1},
		{found: 10, cut: 5, limit: 50, err: directory.ErrIncomplete, asked: 1, again: 1},
		{found: 5000, cut: 4999, limit: 6000, n: 4999, err: directory.ErrIncomplete, asked: 2, again: 1},
	} {
		s := &server{found: tt.found, cut: tt.cut}
		c := New(s, Config{Selected: 10})
		for _, want := range []int32{tt.asked, tt.again} {
			before := s.asked.Load()
			n := 0
			var last error
			for _, err := range c.Search(t.Context(), "ldap:///", tt.limit) {
				if last = err; err == nil {
					n++
				}
			}
			if asked := s.asked.Load() - before; n != tt.n || asked != want || !errors.Is(last, tt.err) || (last == nil) != (tt.err == nil) {
				t.Errorf("%d of %d, limit %d: %d entries, %v, by %d questions; want %d, %v, %d", tt.cut, tt.found, tt.limit, n, last, asked, tt.n, tt.err, want)
			}
		}
	}
}

func TestHitAllocatesNothing(t *testing.T) {
	c := New(&server{password: "pw"}, Config{})
	ctx := context.Background()
	e := &directory.Entry{DN: "uid=ann"}
	for name, f := range map[string]func(){
		"Domain": func() { c.Domain(ctx, "x.test") },
		"Lookup": func() { c.Lookup(ctx, dom, ann) },
		"Login":  func() { c.Login(ctx, "ann") },
		"Entry":  func() { c.Entry(ctx, "uid=ann") },
		"Search": func() {
			for range c.Search(ctx, "ldap:///o=x??sub?(uid=*)", 1000) {
				continue
			}
		},
	} {
		f()
		most := 0.0
		if name == "Search" {
			most = 4 // what goes through it
		}
		if n := testing.AllocsPerRun(100, f); n > most {
			t.Errorf("%s: %v allocations on a hit", name, n)
		}
	}
	_ = c.Authenticate(ctx, e, "pw")
}

// The contract holds through a cache too.
func TestContract(t *testing.T) {
	dirtest.Run(t, func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
		func(d directory.Directory) directory.Directory { return New(d, Config{}) })
	schema := directory.SunSchema2()
	t.Run("Packed", func(t *testing.T) {
		dirtest.Run(t, func(t testing.TB, ldif []byte) dirtest.Server { return dirtest.Embedded(t, ldif) },
			func(d directory.Directory) directory.Directory { return New(d, Config{Schema: &schema}) })
	})
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func BenchmarkHit(b *testing.B) {
	c := New(&server{}, Config{})
	c.Lookup(context.Background(), dom, ann)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Lookup(context.Background(), dom, ann)
		}
	})
}

func BenchmarkPassword(b *testing.B) {
	c := New(&server{password: "secret"}, Config{})
	e := &directory.Entry{DN: "uid=ann", Stamp: "1"}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Authenticate(context.Background(), e, "secret"); err != nil {
			b.Fatal(err)
		}
	}
}
