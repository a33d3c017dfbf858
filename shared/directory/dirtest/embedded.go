package dirtest

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/postern-mail/postern/shared/directory/embedded"
)

// Embedded starts our own server on a loopback port with the tree of ldif, and
// stops it when the test ends. configure may change its configuration.
func Embedded(t testing.TB, ldif []byte, configure ...func(*embedded.Config)) Server {
	t.Helper()
	cfg := embedded.Config{LDIF: ldif, RootDN: RootDN, RootPassword: RootPassword, Log: slog.New(slog.DiscardHandler)}
	for _, f := range configure {
		f(&cfg)
	}
	s, err := embedded.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	stop := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		s.Close()
	})
	t.Cleanup(stop)
	return Server{URL: "ldap://" + l.Addr().String(), BindDN: RootDN, Password: RootPassword, Stop: stop}
}
