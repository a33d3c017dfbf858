package proxy

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/auth"
)

// nowhere knows no replica.
type nowhere struct{}

func (nowhere) Candidates(string) []route.Node             { return nil }
func (nowhere) Redirect(string, string)                    {}
func (nowhere) While(string, string) (ctx context.Context) { return context.Background() }

func newCrowded(t *testing.T) *Server {
	t.Helper()
	s, err := New(Config{Routes: nowhere{}, Login: func(context.Context, auth.Credentials, Client) (User, error) { return User{}, ErrRefused }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fill takes every place of a gate.
func fill(t *testing.T, g *gate) (leave []func()) {
	t.Helper()
	for range cap(g.places) {
		l, err := g.enter(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	return leave
}

// TestGate: who comes to a full gate goes on when another one has done, or has
// kept its place for long enough, and gives up in the end.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCrowded(t)
		g := s.gateOf("pair1")
		if g != s.gateOf("pair1") || g == s.gateOf("pair2") || cap(g.places) != opensPerCPU*runtime.GOMAXPROCS(0) {
			t.Fatalf("not one gate of %d places for each pair", cap(g.places))
		}
		leave := fill(t, g)
		entered := make(chan error)
		came := func() {
			l, err := g.enter(t.Context(), time.Minute)
			if err == nil {
				defer l()
			}
			entered <- err
		}
		began := time.Now()
		go came()
		synctest.Wait()
		if s.Waiting() != 1 {
			t.Errorf("%d wait, want 1", s.Waiting())
		}
		time.Sleep(openFor / 2)
		leave[0]()
		leave[0]() // once
		if err := <-entered; err != nil || time.Since(began) != openFor/2 {
			t.Errorf("entered after %v: %v", time.Since(began), err)
		}
		leave[0], _ = g.enter(t.Context(), time.Minute) // of a replica that does not answer
		go came()
		if err := <-entered; err != nil || time.Since(began) != openFor {
			t.Errorf("entered after %v: %v", time.Since(began), err)
		}
		for _, l := range leave {
			l()
		}
		time.Sleep(openFor)
		synctest.Wait()
		if len(g.places) != 0 || s.Waiting() != 0 {
			t.Errorf("%d places are taken, %d wait", len(g.places), s.Waiting())
		}
	})
}

// TestGateWait: the wait ends with its time, and with the server.
func TestGateWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newCrowded(t).gateOf("pair1")
		fill(t, g)
		if _, err := g.enter(t.Context(), openFor/2); !errors.Is(err, errCrowd) {
			t.Errorf("after its time: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := g.enter(ctx, time.Minute); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}
