package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newServer() *Server {
	s := NewServer(slog.New(slog.DiscardHandler))
	Handle(s, GetStatus, func(context.Context, None) (NodeStatus, error) {
		return NodeStatus{Name: "relay1", Role: "relay"}, nil
	})
	Handle(s, QueueHold, func(_ context.Context, in QueueID) (None, error) {
		if in.ID == "" {
			return None{}, fmt.Errorf("%w: no id", ErrBadRequest)
		}
		if in.ID != "q1" {
			return None{}, fmt.Errorf("message %s: %w", in.ID, ErrNotFound)
		}
		return None{}, nil
	})
	return s
}

// run serves on l until the test ends.
func run(t *testing.T, s *Server, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node", "admin.sock")
	for range 2 { // the second time the socket is there already
		l, err := ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi.Mode(), err)
	}
	run(t, newServer(), l)
	c := NewUnixClient(path)
	defer c.Close()
	ctx := context.Background()
	if st, err := Call(ctx, c, GetStatus, None{}); err != nil || st.Name != "relay1" {
		t.Errorf("status = %+v, %v", st, err)
	}
	if _, err := Call(ctx, c, QueueHold, QueueID{"q1"}); err != nil {
		t.Error(err)
	}
	if _, err := Call(ctx, c, QueueHold, QueueID{"q2"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "message q2") {
		t.Errorf("unknown id: %v", err)
	}
	if _, err := Call(ctx, c, QueueHold, QueueID{}); !errors.Is(err, ErrBadRequest) {
		t.Errorf("no id: %v", err)
	}
	var e *Error
	if _, err := Call(ctx, c, PairStatus, PairName{}); !errors.As(err, &e) || e.Status != http.StatusNotImplemented {
		t.Errorf("method without handler: %v", err)
	}
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v1/status", "", 200},
		{"GET", "/v1/queue.hold", "", 405},
		{"DELETE", "/v1/status", "", 405},
		{"POST", "/v1/queue.hold", "{", 400},
		{"POST", "/v1/queue.hold", `{"id":"` + strings.Repeat("x", maxBody) + `"}`, 400},
		{"GET", "/v2/status", "", 501},
		{"GET", "/", "", 501},
	} {
		req, err := http.NewRequest(tt.method, "http://node"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, resp.StatusCode, tt.want)
		}
	}
}

// TestRoles calls over TLS with every role there is.
func TestRoles(t *testing.T) {
	dir := t.TempDir()
	ca, err := tlsconf.InitCA(dir, "east", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store := func(node string, roles ...tlsconf.Role) *tlsconf.Store {
		prefix := filepath.Join(dir, node)
		if _, err := ca.Issue(prefix, tlsconf.Request{Node: node, Roles: roles}, time.Now()); err != nil {
			t.Fatal(err)
		}
		s, err := tlsconf.Load(tlsconf.Files{CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem", CAFile: filepath.Join(dir, tlsconf.CACertName)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	l, err := ListenTLS("127.0.0.1:0", store("relay1", tlsconf.RelayMX))
	if err != nil {
		t.Fatal(err)
	}
	run(t, newServer(), l)
	for _, role := range tlsconf.Roles {
		c := NewTLSClient(l.Addr().String(), "relay1", store("caller-"+string(role), role))
		_, err := Call(context.Background(), c, GetStatus, None{})
		c.Close()
		if (err == nil) != (role == tlsconf.Admin) {
			t.Errorf("%s: %v", role, err)
		}
	}
	c := NewTLSClient(l.Addr().String(), "relay2", store("operator", tlsconf.Admin))
	defer c.Close()
	if _, err := Call(context.Background(), c, GetStatus, None{}); err == nil || !strings.Contains(err.Error(), "it is relay1") {
		t.Errorf("another node answered: %v", err)
	}
}

// TestPlainTCP: a listener without TLS serves nobody.
func TestPlainTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, newServer(), l)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://" + l.Addr().String() + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("plain TCP: %d", resp.StatusCode)
	}
}
