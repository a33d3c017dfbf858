package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var program = Program[config.Witness]{
	Name: "postern-witness", Role: "witness", Short: "test", Tiers: []*metrics.Tier{metrics.Witness},
	Common: func(c *config.Witness) *config.Common { return &c.Common },
	Create: func(*config.Witness, *slog.Logger) error { return nil },
}

// write makes a configuration with certificates in a directory of the test.
func write(t *testing.T) (file, dir string) {
	t.Helper()
	dir = t.TempDir()
	ca, err := tlsconf.InitCA(filepath.Join(dir, "ca"), "east", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(filepath.Join(dir, "tls", "node"), tlsconf.Request{Node: "w", Roles: []tlsconf.Role{tlsconf.Witness}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"tls/ca.pem": ca.CertPEM(), "c.yaml": []byte(fmt.Sprintf(`
node: w
cluster: east
dir: %s
raft: {listen: "127.0.0.1:0"}
log: {level: error}
groups: [{pair: p, members: [{node: w, id: 0000000000000001, addr: "127.0.0.1:1", witness: yes}]}]
`, dir))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "c.yaml"), dir
}

func TestConfigure(t *testing.T) {
	file, _ := write(t)
	for name, tt := range map[string]struct {
		args   []string
		status int
		runs   bool
		out    string // what is said
	}{
		"runs":           {[]string{"--config", file}, 0, true, ""},
		"flag wins":      {[]string{"--config", file, "--log.level", "warn"}, 0, true, ""},
		"create":         {[]string{"--config", file, "--create"}, 0, true, ""},
		"check":          {[]string{"--config", file, "--check"}, 0, false, ""},
		"version":        {[]string{"--version"}, 0, false, "postern-witness 0."},
		"help":           {[]string{"--help"}, 0, false, "Usage: postern-witness --config FILE"},
		"unknown flag":   {[]string{"--confg", file}, exitUsage, false, "unknown flag: --confg"},
		"argument":       {[]string{file}, exitUsage, false, "there are no arguments"},
		"nothing":        {nil, exitUsage, false, "node: must be given"},
		"no such file":   {[]string{"--config", file + "x"}, exitUsage, false, "no such file"},
		"bad value":      {[]string{"--config", file, "--log.level", "loud"}, exitUsage, false, "log.level"},
		"check bad flag": {[]string{"--config", file, "--check", "--raft.listen", "nowhere"}, exitUsage, false, "raft.listen"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			c, _, create, status := program.configure(tt.args, &out, &out)
			if (c != nil) != tt.runs || status != tt.status || !strings.Contains(out.String(), tt.out) || create != (name == "create") {
				t.Errorf("runs %v, create %v, status %d, says %q", c != nil, create, status, out.String())
			}
		})
	}
}

// node is a Node as Main makes it.
func node(t *testing.T, start func(context.Context, *Node[config.Witness]) error) (*Node[config.Witness], string) {
	t.Helper()
	file, dir := write(t)
	c, _, _, _ := program.configure([]string{"--config", file}, io.Discard, os.Stderr)
	if c == nil {
		t.Fatal("no configuration")
	}
	p := program
	p.Start = start
	return newNode(&p, c, file, slog.New(slog.DiscardHandler), new(logStyle)), dir
}

// TestLife: what was started last is stopped first, services outlive the list,
// and the node says what it is doing.
func TestLife(t *testing.T) {
	var order []string
	var drains atomic.Int32
	ctx, cancel := context.WithCancel(context.Background())
	n, dir := node(t, func(_ context.Context, n *Node[config.Witness]) error {
		n.Go("service", func(ctx context.Context) error { <-ctx.Done(); order = append(order, "service"); return nil })
		for _, name := range []string{"first", "second"} {
			n.OnStop(name, func(context.Context) error { order = append(order, name); return nil })
		}
		n.Self = func() gossip.Self { return gossip.Self{} }
		n.Status = func(s *admin.NodeStatus) { s.Sessions = 7 }
		n.Check("always", func(context.Context) error { return nil })
		n.Drain = func(context.Context, bool) error {
			if drains.Add(1) == 1 {
				return errors.New("nobody to hand over to")
			}
			return nil
		}
		return nil
	})
	done := make(chan error)
	go func() { done <- n.main(ctx) }()
	c := admin.NewUnixClient(filepath.Join(dir, "admin.sock"))
	defer c.Close()
	ready := func() bool {
		s, err := admin.Call(context.Background(), c, admin.GetStatus, admin.None{})
		return err == nil && s.State == "ready" && s.Sessions == 7 && s.Role == "witness" && s.Name == "w"
	}
	for i := 0; !ready(); i++ {
		if i > 1000 {
			t.Fatal("never ready")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := admin.Call(context.Background(), c, admin.Drain, admin.DrainRequest{On: true}); err == nil {
		t.Error("a drain that could not hand over was reported as done")
	}
	if _, err := admin.Call(context.Background(), c, admin.Drain, admin.DrainRequest{On: true}); err != nil || drains.Load() != 2 {
		t.Errorf("asked again: %v, after %d attempts", err, drains.Load())
	}
	if s, err := admin.Call(context.Background(), c, admin.GetStatus, admin.None{}); err != nil || s.State != "draining" {
		t.Errorf("%+v %v", s, err)
	}
	if code := get(t, dir, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("readyz while draining: %d", code)
	}
	if code := get(t, dir, "/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d", code)
	}
	if _, err := admin.Call(context.Background(), c, admin.Reload, admin.None{}); err != nil {
		t.Errorf("reload: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if want := []string{"second", "first", "service"}; !slices.Equal(order, want) {
		t.Errorf("stopped %v", order)
	}
}

// TestEnds: a service that ends by itself, or a step that fails, ends the node
// after the list has been worked off.
func TestEnds(t *testing.T) {
	boom := errors.New("boom")
	for name, start := range map[string]func(*Node[config.Witness]) error{
		"service": func(n *Node[config.Witness]) error {
			n.Go("s", func(context.Context) error { return boom })
			return nil
		},
		"start": func(*Node[config.Witness]) error { return boom },
	} {
		stopped := false
		n, _ := node(t, func(_ context.Context, n *Node[config.Witness]) error {
			n.OnStop("list", func(context.Context) error { stopped = true; return nil })
			return start(n)
		})
		if err := n.main(context.Background()); !errors.Is(err, boom) || !stopped {
			t.Errorf("%s: %v, list worked off: %v", name, err, stopped)
		}
	}
}

// TestIdentity: a certificate of another node is refused.
func TestIdentity(t *testing.T) {
	n, _ := node(t, func(context.Context, *Node[config.Witness]) error { return nil })
	n.common.Node = "x"
	if err := n.main(context.Background()); err == nil || !strings.Contains(err.Error(), "is for node w") {
		t.Error(err)
	}
}

// TestCluster: who serves is the replica with the newest term that says so.
func TestCluster(t *testing.T) {
	member := func(name, state string, serving bool, term uint64) gossip.Member {
		return gossip.Member{Name: name, State: state, Groups: []gossip.Group{{Pair: "p", Serving: serving, Term: term, Applied: 10 * term}}}
	}
	c := clusterOf([]gossip.Member{member("a", "alive", true, 3), member("b", "alive", true, 4), member("c", "dead", true, 9), {Name: "r"}})
	if len(c.Nodes) != 4 || len(c.Pairs) != 1 || c.Pairs[0] != (admin.Pair{Name: "p", Serving: "b", Term: 4, Applied: 40}) {
		t.Errorf("%+v", c)
	}
}

// shared is a buffer that a timer writes to.
type shared struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestLog: lines wait for each other, warnings for nobody.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &shared{}
		style := new(logStyle)
		log, flush := newLog(out, &config.Common{Node: "n", Log: struct{ Level, Format string }{"info", "text"}}, style)
		log.Debug("zero")
		log.Info("one")
		log.With("a", 1).WithGroup("g").Info("two")
		if out.String() != "" {
			t.Errorf("written at once: %s", out)
		}
		time.Sleep(logEvery)
		synctest.Wait()
		if n := strings.Count(out.String(), "\n"); n != 2 {
			t.Errorf("%d lines after a moment: %s", n, out)
		}
		log.Info("three")
		log.Error("four")
		if n := strings.Count(out.String(), "\n"); n != 4 {
			t.Errorf("%d lines after an error: %s", n, out)
		}
		log.Info(strings.Repeat("x", logBytes))
		if len(out.String()) < logBytes {
			t.Error("a full buffer waits")
		}
		log.Info("last")
		flush()
		if !strings.HasSuffix(out.String(), "msg=last node=n\n") {
			t.Errorf("ends %q", out.String())
		}
		late := log.With("a", 1).WithGroup("g")
		style.set(&config.Common{Log: struct{ Level, Format string }{"error", "json"}})
		late.Warn("not wanted")
		late.Error("in the other form", "b", 2)
		if !strings.HasSuffix(out.String(), `"msg":"in the other form","node":"n","a":1,"g":{"b":2}}`+"\n") || strings.Contains(out.String(), "not wanted") {
			t.Errorf("ends %q", out.String())
		}
		time.Sleep(time.Second)
	})
}

func TestReachable(t *testing.T) {
	c := &config.Common{Gossip: config.Gossip{Listen: "[::]:7946", Advertise: "192.0.2.7:7946"}, Admin: config.AdminAPI{Listen: "0.0.0.0:9000"}}
	got := reachable(map[string]string{"lmtp": ":24", "imap": "192.0.2.9:143", "none": ""}, c)
	if want := map[string]string{"lmtp": "192.0.2.7:24", "imap": "192.0.2.9:143", "admin": "192.0.2.7:9000"}; !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func get(t *testing.T, dir, path string) int {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "admin.sock"))
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://node" + path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}
