package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
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
		g := s.gatesOf("pair1").opens
		if g != s.gatesOf("pair1").opens || g == s.gatesOf("pair2").opens || cap(g.places) != opensPerCPU*runtime.GOMAXPROCS(0) {
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
		g := newCrowded(t).gatesOf("pair1").opens
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

// TestRests: a session that waits, in IDLE or not, has time while those in front of it do, but neither for a
// client that says something nor when that is gone.
func TestRests(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		then func(*link, *sent)
		want error // nil: of the search for a replica
	}{
		"IDLE, and silence":  {"i IDLE\r\n", func(*link, *sent) {}, errCrowd},
		"DONE before":        {"i IDLE\r\nDONE\r\n", nil, nil},
		"DONE meanwhile":     {"i IDLE\r\n", func(p *link, c *sent) { p.send(c, []byte("DONE\r\n")) }, nil},
		"the client is gone": {"i IDLE\r\n", func(p *link, _ *sent) { p.end() }, errOver},
		"another command":    {"i NOOP\r\n", nil, nil},
		"no command":         {"", func(*link, *sent) {}, errCrowd},
		"a command comes":    {"", func(p *link, c *sent) { p.send(c, []byte("i NOOP\r\n")) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newCrowded(t)
				cfg := s.cfg.Load()
				p := &link{front: &front{srv: s, cfg: cfg, ctx: t.Context(), user: User{Pair: "pair1"}}, dead: true}
				p.fewer = sync.NewCond(&p.mu)
				c := &sent{tag: "i"}
				if tt.text != "" {
					if err := p.begin(c); err != nil {
						t.Fatal(err)
					}
					p.send(c, []byte(tt.text))
				}
				s.gatesOf("pair1").rests.places = make(chan struct{}) // nobody's turn comes
				end := make(chan error, 1)
				began := time.Now()
				go func() {
					_, err := p.reopen("c3RhdGU=")
					end <- err
				}()
				synctest.Wait()
				if waits := s.Waiting() == 1; waits != (tt.then != nil) {
					t.Errorf("waits for its turn: %v", waits)
				}
				if tt.then != nil {
					tt.then(p, c)
				}
				err := <-end
				if tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && (err == nil || errors.Is(err, errCrowd) || time.Since(began) > cfg.Within) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				p.end()
			})
		})
	}
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
