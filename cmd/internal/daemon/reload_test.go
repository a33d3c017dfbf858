package daemon

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/gossip"
	"github.com/postern-mail/postern/ha/route"
	"github.com/postern-mail/postern/shared/admin"
	"github.com/postern-mail/postern/shared/config"
	"github.com/postern-mail/postern/shared/tlsconf"
)

// TestRefusedReload: a reload that is refused, by whom ever, changes nothing: not
// the configuration, not the keys of gossip, and no session ends. The one after
// it, with nothing wrong, changes all.
func TestRefusedReload(t *testing.T) {
	file, dir := write(t)
	conf := read(t, file) + "gossip: {listen: \"127.0.0.1:0\"}\n"
	keyFile := filepath.Join(dir, "tls", "gossip.key")
	oldKey, newKey := gossip.NewKey(), gossip.NewKey()
	save(t, file, conf)
	save(t, keyFile, line(oldKey))

	c, _, _, _ := program.configure([]string{"--config", file}, io.Discard, os.Stderr)
	if c == nil {
		t.Fatal("no configuration")
	}
	var refuse atomic.Bool
	refusal := errors.New("a certificate is missing")
	session := make(chan string, 1) // address
	p := program
	p.Start = func(_ context.Context, n *Node[config.Witness]) error {
		n.Reload = func(_, _ *config.Witness) error {
			if refuse.Load() {
				return refusal
			}
			return nil
		}
		return serveEcho(n, session)
	}
	style := new(logStyle)
	n := newNode(&p, c, file, slog.New(slog.DiscardHandler), style)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.main(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := net.Dial("tcp", <-session)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := admin.NewUnixClient(filepath.Join(dir, "admin.sock"))
	defer api.Close()
	eventually(t, "the node is ready", func() bool {
		s, err := admin.Call(ctx, api, admin.GetStatus, admin.None{})
		return err == nil && s.State == "ready"
	})

	louder := strings.Replace(conf, "level: error", "level: debug", 1)
	wrong := fmt.Sprintf("c.yaml:%d", strings.Count(louder, "\n")+2)
	for i, tt := range []struct {
		name, conf, keys string
		refuse           bool
		says             string
	}{
		{"wrong line among good ones", louder + "runtime: {gc_percent: 200}\nraft.lsten: x\n", line(newKey), false, wrong},
		{"wrong key among good ones", louder, line(newKey) + line(oldKey) + "bm8ga2V5\n", false, "gossip.key:3"},
		{"refused by the program", louder, line(newKey), true, refusal.Error()},
	} {
		save(t, file, tt.conf)
		save(t, keyFile, tt.keys)
		refuse.Store(tt.refuse)
		before := n.Live.Current()
		if _, err := admin.Call(ctx, api, admin.Reload, admin.None{}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
		if n.Live.Current() != before || style.level.Level() != slog.LevelInfo {
			t.Errorf("%s: something has changed, the level is %v", tt.name, style.level.Level())
		}
		echo(t, conn)
		if !meets(t, dir, fmt.Sprint("x", i), n, oldKey) {
			t.Errorf("%s: the old key is not in use any more", tt.name)
		}
	}
	refuse.Store(false)
	if _, err := admin.Call(ctx, api, admin.Reload, admin.None{}); err != nil {
		t.Error(err)
	}
	if style.level.Level() != slog.LevelDebug || !meets(t, dir, "y", n, newKey) {
		t.Errorf("not reloaded, the level is %v", style.level.Level())
	}
	echo(t, conn)
}

// meets reports whether a new node that has only this key finds n.
func meets(t *testing.T, dir, name string, n *Node[config.Witness], key []byte) bool {
	t.Helper()
	ca, err := tlsconf.OpenCA(filepath.Join(dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(t.TempDir(), name)
	if _, err := ca.Issue(prefix, tlsconf.Request{Node: name, Roles: []tlsconf.Role{tlsconf.Witness}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	store, err := tlsconf.Load(tlsconf.Files{CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem", CAFile: filepath.Join(dir, "tls", "ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gossip.New(gossip.Config{
		Cluster: "east", Name: name, Role: "witness", Version: "1.0", Known: 1, Listen: "127.0.0.1:0", Join: []string{n.gossip.Addr()},
		Keys: [][]byte{key}, Identity: store, Table: new(route.Table), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	defer func() {
		cancel()
		<-done
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-tick.C {
		for _, m := range g.Members() {
			if m.Name == "w" && m.State == gossip.Alive {
				return true
			}
		}
	}
	return false
}

// serveEcho has the node answer one session for as long as it runs.
func serveEcho(n *Node[config.Witness], at chan<- string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at <- l.Addr().String()
	n.Go("echo", func(ctx context.Context) error {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		_, _ = io.Copy(conn, conn)
		<-ctx.Done()
		return nil
	})
	return nil
}

func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "noop\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(conn).ReadString('\n'); got != "noop\n" {
		t.Fatalf("the session: %q, %v", got, err)
	}
}

func line(key []byte) string { return base64.StdEncoding.EncodeToString(key) + "\n" }

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func save(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
