package tlsconf

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCA(t *testing.T, cluster string) (*CA, string) {
	t.Helper()
	dir := t.TempDir()
	ca, err := InitCA(dir, cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func newStore(t *testing.T, ca *CA, caDir, node string, roles ...Role) *Store {
	t.Helper()
	prefix := filepath.Join(t.TempDir(), node)
	if _, err := ca.Issue(prefix, Request{Node: node, Roles: roles}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s, err := Load(Files{CertFile: prefix + ".pem", KeyFile: prefix + "-key.pem", CAFile: filepath.Join(caDir, CACertName)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dial connects a client to a server and returns what each side saw. One byte
// travels each way, so that a refusal by the server is seen by the client.
func dial(t *testing.T, server, client *tls.Config) (srv, cli tls.ConnectionState, srvErr, cliErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			srvErr = err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if srvErr = s.Handshake(); srvErr != nil {
			return
		}
		srv = s.ConnectionState()
		if _, srvErr = s.Write([]byte("x")); srvErr == nil {
			_, srvErr = io.ReadFull(s, make([]byte, 1))
		}
	}()
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err != nil {
		cliErr = err
	} else {
		if _, cliErr = io.ReadFull(c, make([]byte, 1)); cliErr == nil {
			_, cliErr = c.Write([]byte("y"))
		}
		cli = c.ConnectionState()
		c.Close()
	}
	<-done
	return srv, cli, srvErr, cliErr
}

func TestRoles(t *testing.T) {
	ca, dir := newCA(t, "east")
	other, otherDir := newCA(t, "east") // same name, other key
	west, err := OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	west.Cluster = "west" // same key, other cluster
	relay := newStore(t, ca, dir, "relay1", RelayMX, RelayProxy)
	mx := newStore(t, ca, dir, "relay2", RelayMX)
	back := newStore(t, ca, dir, "pair1-a", Backend)
	wit := newStore(t, ca, dir, "witness1", Witness)
	rogue := newStore(t, other, otherDir, "relay1", RelayMX, RelayProxy)
	foreign := newStore(t, west, dir, "relay1", RelayMX)
	for name, tt := range map[string]struct {
		server, client *tls.Config
		want           string // "" when it must stand; else part of the error of the side that refuses
		byServer       bool
	}{
		"relay delivers":        {back.Server(RelayMX), relay.Client("pair1-a", Backend), "", false},
		"mx relay delivers":     {back.Server(RelayMX), mx.Client("pair1-a", Backend), "", false},
		"any node":              {back.Server(RelayMX), mx.Client("", Backend, Witness), "", false},
		"mx relay no session":   {back.Server(RelayProxy), mx.Client("pair1-a", Backend), "holds [relay-mx]", true},
		"relay no raft":         {back.Server(Backend, Witness), relay.Client("pair1-a", Backend), "wanted [backend witness]", true},
		"witness no admin":      {back.Server(Admin), wit.Client("pair1-a", Backend), "wanted [admin]", true},
		"other CA":              {back.Server(RelayMX), rogue.Client("pair1-a", Backend), "unknown authority", false},
		"other CA, blind":       {back.Server(RelayMX), blind(rogue), "unknown authority", true},
		"other cluster":         {back.Server(RelayMX), blind(foreign), `cluster "west"`, true},
		"wrong node":            {back.Server(RelayMX), relay.Client("pair1-b", Backend), "it is pair1-a", false},
		"witness as backend":    {wit.Server(RelayMX), relay.Client("witness1", Backend), "holds [witness]", false},
		"no client certificate": {back.Server(RelayMX), &tls.Config{InsecureSkipVerify: true}, "didn't provide a certificate", true},
	} {
		t.Run(name, func(t *testing.T) {
			srv, _, srvErr, cliErr := dial(t, tt.server, tt.client)
			if tt.want == "" {
				if srvErr != nil || cliErr != nil {
					t.Fatalf("server %v, client %v", srvErr, cliErr)
				}
				if srv.Version != tls.VersionTLS13 {
					t.Errorf("version %x", srv.Version)
				}
				id, err := Peer(&srv)
				if err != nil || !id.Has(RelayMX) || !strings.HasPrefix(id.Node, "relay") || id.Cluster != "east" {
					t.Errorf("Peer = %+v, %v", id, err)
				}
				return
			}
			err := cliErr
			if tt.byServer {
				err = srvErr
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("server %v, client %v; want %q", srvErr, cliErr, tt.want)
			}
			if cliErr == nil {
				t.Error("the client saw no error")
			}
		})
	}
}

// blind is a client that shows its certificate and trusts anybody.
func blind(s *Store) *tls.Config {
	c := s.Client("", Backend)
	c.VerifyConnection = nil
	return c
}

func TestResumption(t *testing.T) {
	ca, dir := newCA(t, "east")
	relay := newStore(t, ca, dir, "relay1", RelayMX)
	back := newStore(t, ca, dir, "pair1-a", Backend)
	server := back.Server(RelayMX)
	for i, want := range []bool{false, true, true} {
		_, cli, srvErr, cliErr := dial(t, server, relay.Client("pair1-a", Backend))
		if srvErr != nil || cliErr != nil {
			t.Fatalf("connection %d: %v, %v", i, srvErr, cliErr)
		}
		if cli.DidResume != want {
			t.Errorf("connection %d: DidResume = %v, want %v", i, cli.DidResume, want)
		}
	}
	// A session that began with another certificate is not resumed: the peer sees
	// the new one.
	prefix := strings.TrimSuffix(back.files.CertFile, ".pem")
	cert, err := ca.Issue(prefix, Request{Node: "pair1-a", Roles: []Role{Backend}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Reload(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{false, true} {
		_, cli, srvErr, cliErr := dial(t, server, relay.Client("pair1-a", Backend))
		if srvErr != nil || cliErr != nil || cli.DidResume != want || !cli.PeerCertificates[0].Equal(cert) {
			t.Errorf("connection %d after the change: DidResume = %v, want %v; %v, %v", i, cli.DidResume, want, srvErr, cliErr)
		}
	}
	// A CA that is gone ends resumed sessions as well.
	_, dir2 := newCA(t, "east")
	other, err := OpenCA(dir2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Issue(prefix, Request{Node: "pair1-a", Roles: []Role{Backend}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	back.files.CAFile = filepath.Join(dir2, CACertName)
	if err := back.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, _, srvErr, _ := dial(t, server, blindWithCache(relay)); srvErr == nil {
		t.Error("a session of the old CA was resumed")
	}
}

func blindWithCache(s *Store) *tls.Config {
	c := s.Client("pair1-a", Backend)
	c.VerifyConnection = nil
	return c
}

func TestReload(t *testing.T) {
	ca, dir := newCA(t, "east")
	s := newStore(t, ca, dir, "pair1-a", Backend)
	prefix := strings.TrimSuffix(s.files.CertFile, ".pem")
	first := FingerprintOf(s.Chain()[0])

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Watch(ctx, time.Millisecond, slog.New(slog.DiscardHandler)) }()
	defer func() { cancel(); <-done }()

	if _, err := ca.Renew(prefix, time.Now()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for FingerprintOf(s.Chain()[0]) == first {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate was not taken")
		}
		time.Sleep(time.Millisecond)
	}
	if id := s.Identity(); id.Node != "pair1-a" || !id.Has(Backend) {
		t.Errorf("renewed as %+v", id)
	}

	for name, spoil := range map[string]func() error{
		"other node": func() error {
			_, err := ca.Issue(prefix, Request{Node: "pair1-b", Roles: []Role{Backend}}, time.Now())
			return err
		},
		"expired": func() error {
			_, err := ca.Issue(prefix, Request{Node: "pair1-a", Roles: []Role{Backend}, Lifetime: time.Hour}, time.Now().Add(-3*time.Hour))
			return err
		},
		"no role": func() error {
			_, err := ca.Issue(prefix, Request{Node: "pair1-a"}, time.Now())
			return err
		},
		"garbage": func() error { return os.WriteFile(prefix+".pem", []byte("x"), 0o600) },
		"gone":    func() error { return os.Remove(prefix + ".pem") },
	} {
		before := s.current.Load()
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if s.current.Load() != before {
			t.Errorf("%s: the old certificate is not in use any more", name)
		}
	}
}

func TestSign(t *testing.T) {
	ca, dir := newCA(t, "east")
	a := newStore(t, ca, dir, "pair1-a", Backend)
	b := newStore(t, ca, dir, "relay1", RelayMX)
	other, otherDir := newCA(t, "east")
	rogue := newStore(t, other, otherDir, "pair1-a", Backend)

	fp, sig, err := a.Sign("gossip", []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if fp != FingerprintOf(a.Chain()[0]) {
		t.Error("fingerprint of another certificate")
	}
	signer, err := b.VerifySigner(a.Chain())
	if err != nil || signer.Node != "pair1-a" {
		t.Fatalf("VerifySigner = %+v, %v", signer, err)
	}
	if !signer.Verify("gossip", []byte("hello"), sig) {
		t.Error("good signature refused")
	}
	if signer.Verify("gossip", []byte("hellO"), sig) || signer.Verify("admin", []byte("hello"), sig) || signer.Verify("gossip", []byte("hello"), sig[1:]) {
		t.Error("bad signature accepted")
	}
	if _, err := b.VerifySigner(rogue.Chain()); err == nil {
		t.Error("certificate of another CA accepted")
	}
	if _, err := b.VerifySigner(nil); err == nil {
		t.Error("empty chain accepted")
	}
}

func TestCA(t *testing.T) {
	_, dir := newCA(t, "east")
	if _, err := InitCA(dir, "east", time.Now()); err == nil {
		t.Error("a CA was replaced")
	}
	ca, err := OpenCA(dir)
	if err != nil || ca.Cluster != "east" {
		t.Fatalf("OpenCA = %+v, %v", ca, err)
	}
	for _, req := range []Request{
		{Node: "a/b", Roles: []Role{Backend}},
		{Node: "Upper", Roles: []Role{Backend}},
		{Node: "", Roles: []Role{Backend}},
		{Node: "a", Roles: []Role{"root"}},
		{Node: strings.Repeat("a", 64), Roles: []Role{Backend}},
	} {
		if _, err := ca.Issue(filepath.Join(t.TempDir(), "x"), req, time.Now()); err == nil {
			t.Errorf("issued %+v", req)
		}
	}
	if fi, err := os.Stat(filepath.Join(dir, CAKeyName)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", fi.Mode(), err)
	}
}
