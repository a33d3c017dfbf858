package voter_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/replica/manifest"
	"github.com/postern-mail/postern/ha/replica/raftnet"
	"github.com/postern-mail/postern/ha/replica/replicatest"
	"github.com/postern-mail/postern/ha/replica/voter"
)

// asker is a member that only asks.
type asker struct{}

func (asker) Status() raftnet.Status                { return raftnet.Status{} }
func (asker) SeesDead(context.Context, string) bool { return false }

// TestAskedEarly asks a member that has begun to listen and does not run yet
// about the process of another one, as happens when both restart.
func TestAskedEarly(t *testing.T) {
	must := replicatest.Must
	c := replicatest.New(t, replicatest.Options{Idle: true})
	b := c.Config("b", false)
	l, err := net.Listen("tcp", b.Bind)
	must(t, err)
	port, err := raftnet.NewPort(l, b.ServerTLS, b.Authorize, slog.New(slog.DiscardHandler))
	must(t, err)
	defer port.Close()
	tr, err := raftnet.New(raftnet.Config{
		Pair: b.Pair, ID: b.ID, Addr: b.Bind, Port: port, TLS: b.ClientTLS, Authorize: b.Authorize, Handler: asker{},
		Member: func(string) bool { return true }, Resolve: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	defer tr.Close()
	a := c.Config("a", true)
	dead := make(chan error, 1)
	go func() {
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if yes, err := tr.SeesDead(t.Context(), a.ID, a.Bind, c.Peer("w").ID); err == nil {
				if !yes {
					err = errors.New("nothing listens there, and it is not seen")
				}
				dead <- err
				return
			}
		}
		dead <- errors.New("no answer")
	}()
	v, err := voter.Open(a.Config, voter.Role{Kind: manifest.Data})
	must(t, err)
	if err := <-dead; err != nil {
		t.Error(err)
	}
	must(t, v.Stop())
}
