package cache

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/shared/directory"
	"github.com/postern-mail/postern/shared/mail"
)

// server counts questions and answers as it is told to.
type server struct {
	directory.Directory
	asked    atomic.Int32
	err      error
	delay    time.Duration
	password string
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
	return &directory.Answer{Entries: []*directory.Entry{{Mail: a.String()}}}, nil
}

func (s *server) Authenticate(_ context.Context, _ *directory.Entry, password string) error {
	s.asked.Add(1)
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

func TestBound(t *testing.T) {
	c := New(&server{}, Config{Entries: 10})
	for i := range 100 {
		c.Lookup(context.Background(), dom, mail.Address{Local: string(rune('a' + i%26)), Domain: string(rune('A'+i/26)) + ".test"})
	}
	if n := len(c.addresses.m); n != 10 {
		t.Errorf("%d answers kept, want 10", n)
	}
}

func BenchmarkHit(b *testing.B) {
	c := New(&server{}, Config{})
	c.Lookup(context.Background(), dom, ann)
	b.ReportAllocs()
	for b.Loop() {
		c.Lookup(context.Background(), dom, ann)
	}
}
