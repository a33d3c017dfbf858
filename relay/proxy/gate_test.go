package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
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

// TestInTurn: a handshake keeps nobody out while it waits for its client.
func TestInTurn(t *testing.T) {
	s := newCrowded(t)
	here, there := net.Pipe()
	defer here.Close()
	k := &keyed{Conn: here, srv: s}
	if err := k.enter(t.Context(), time.Minute); err != nil || len(s.keys.places) != 1 {
		t.Errorf("%d places are taken by a client that has spoken: %v", len(s.keys.places), err)
	}
	there.Close()
	if _, err := k.Read(make([]byte, 1)); err == nil || len(s.keys.places) != 0 {
		t.Errorf("%d places are taken while the client is to answer: %v", len(s.keys.places), err)
	}
	fill(t, s.keys)
	if err := k.enter(t.Context(), time.Millisecond); !errors.Is(err, errCrowd) {
		t.Errorf("no turn came: %v", err)
	}
	k.done()
	if len(s.keys.places) != cap(s.keys.places) {
		t.Error("a place was given back that was not taken")
	}
}

// TestInTurnTLS: every handshake by a server's configuration goes through its gate.
func TestInTurnTLS(t *testing.T) {
	s := newCrowded(t)
	fill(t, s.keys)
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	go tls.Client(there, &tls.Config{InsecureSkipVerify: true}).Handshake()
	k := &keyed{Conn: here, srv: s}
	if err := tls.Server(k, inTurn(&tls.Config{MinVersion: tls.VersionTLS12}, time.Millisecond)).HandshakeContext(t.Context()); !errors.Is(err, errCrowd) {
		t.Errorf("a handshake past a full gate: %v", err)
	}
}
