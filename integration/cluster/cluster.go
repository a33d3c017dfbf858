/*
Package cluster is the system under test as one object: it builds the real
programs, runs `postern dev` with them in a folder of the test's, and hands out
the addresses from cluster.json.

Everything it starts ends with the test, by the pid it started. All traffic
stays on loopback. It knows nothing of the inside of a node: faults are signals
and the operator's own commands.
*/
package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Info is cluster.json, version 1.
type Info struct {
	Version   int
	Domain    string
	CA        string
	Relays    []Relay
	Pairs     []Pair
	Directory struct {
		URL, Base, Password string
		BindDN              string `json:"bind_dn"`
	}
	DNS   string
	Users []User
	Lists []struct {
		Address string
		Members int
	}
}

// Relay is a tier-1 node and its listeners, host:port.
type Relay struct {
	Name                          string
	PID                           int
	SMTP, Submission, Submissions string
	IMAP, IMAPS, POP3, POP3S      string
	Admin, Metrics                string
	Public, DNS                   string // with --responder
}

// Pair is a raft group.
type Pair struct {
	Name  string
	Nodes []Node
}

// Node is a replica of a pair. LMTP and IMAP are the plain bench ports where
// the cluster was started with them.
type Node struct {
	Name, Role              string
	PID                     int
	LMTP, IMAP, Raft, Admin string
	Dir, Metrics            string
	AdminTLS                string `json:"admin_tls"`
}

// User is somebody who can log in.
type User struct {
	Login, Password, Address, Pair string
}

// Status is what `postern status --output json` says.
type Status struct {
	Nodes []struct {
		Name, Role, Pair, State, Version string
	}
	Pairs []struct {
		Name, Serving string
		Term, Applied uint64
	}
	Queues []struct {
		Relay  string
		Queued int
	}
}

// Cluster is a running `postern dev`.
type Cluster struct {
	t   testing.TB
	Dir string
	Bin string

	mu     sync.Mutex
	cmd    *exec.Cmd
	done   chan struct{}
	args   []string
	output *syncBuffer
}

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Binaries builds the programs once for this test process and returns their
// folder.
func Binaries(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		root, err := moduleRoot()
		if err != nil {
			build.err = err
			return
		}
		dir, err := os.MkdirTemp("", "postern-bin-")
		if err != nil {
			build.err = err
			return
		}
		build.dir = dir
		cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("go build ./cmd/...: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.dir
}

// RemoveBinaries deletes what Binaries built; call it at the end of TestMain.
func RemoveBinaries() {
	if build.dir != "" {
		os.RemoveAll(build.dir)
	}
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, e := os.Stat(filepath.Join(dir, "go.mod")); e == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no go.mod above the test")
		}
		dir = parent
	}
	return "", err
}

// Start runs `postern dev --dir DIR` with args and waits until every part is
// ready. The cluster ends with the test.
func Start(t testing.TB, args ...string) *Cluster {
	t.Helper()
	return StartFrom(t, Binaries(t), args...)
}

// StartFrom is Start with the programs in bin.
func StartFrom(t testing.TB, bin string, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Dir: filepath.Join(t.TempDir(), "c"), Bin: bin, args: args}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			c.dumpLogs()
		}
	})
	c.Run()
	return c
}

// Args replaces the arguments of the next Run.
func (c *Cluster) Args(args ...string) { c.args = args }

// Run starts the cluster again after Stop, on the same data.
func (c *Cluster) Run() {
	c.t.Helper()
	file := filepath.Join(c.Dir, "cluster.json")
	os.Remove(file)
	c.output = &syncBuffer{}
	cmd := exec.Command(filepath.Join(c.Bin, "postern"), append([]string{"dev", "--dir", c.Dir}, c.args...)...)
	cmd.Stdout, cmd.Stderr = c.output, c.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	c.mu.Lock()
	c.cmd, c.done = cmd, done
	c.mu.Unlock()
	deadline := time.Now().Add(60 * time.Second)
	for {
		if _, err := os.Stat(file); err == nil {
			return
		}
		select {
		case <-done:
			c.t.Fatalf("postern dev ended before it was ready:\n%s", c.output)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("postern dev is not ready after 60 s:\n%s", c.output)
		}
	}
}

// Stop sends SIGTERM and waits; it reports a cluster that needs more than 30 s.
func (c *Cluster) Stop() {
	c.t.Helper()
	c.mu.Lock()
	cmd, done := c.cmd, c.done
	c.cmd = nil
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		<-done
		c.t.Errorf("postern dev did not end within 30 s of SIGTERM:\n%s", c.output)
	}
}

// Info reads cluster.json as it is now; pids change when nodes restart.
func (c *Cluster) Info() Info {
	c.t.Helper()
	var info Info
	data, err := os.ReadFile(filepath.Join(c.Dir, "cluster.json"))
	if err == nil {
		err = json.Unmarshal(data, &info)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return info
}

// Postern runs the operator's tool against the cluster and returns what it
// printed on standard output.
func (c *Cluster) Postern(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.Bin, "postern"), append(args, "--dir", c.Dir)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("postern %v: %w: %s", args, err, stderr.String())
	}
	return string(out), nil
}

// Status asks `postern status`.
func (c *Cluster) Status() (Status, error) {
	var s Status
	out, err := c.Postern("status", "--output", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// Serving is the node that serves pair now, "" when none does.
func (c *Cluster) Serving(pair string) string {
	s, err := c.Status()
	if err != nil {
		return ""
	}
	for _, p := range s.Pairs {
		if p.Name == pair {
			return p.Serving
		}
	}
	return ""
}

// AwaitServing waits until some node of pair serves and returns its name.
func (c *Cluster) AwaitServing(pair string, within time.Duration) string {
	c.t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if n := c.Serving(pair); n != "" {
			return n
		}
	}
	c.t.Fatalf("%s: no replica serves after %v", pair, within)
	return ""
}

// PID returns the process of a node, 0 when there is no such node.
func (c *Cluster) PID(name string) int {
	info := c.Info()
	for _, r := range info.Relays {
		if r.Name == name {
			return r.PID
		}
	}
	for _, p := range info.Pairs {
		for _, n := range p.Nodes {
			if n.Name == name {
				return n.PID
			}
		}
	}
	return 0
}

// Signal sends sig to the process of a node.
func (c *Cluster) Signal(name string, sig syscall.Signal) {
	c.t.Helper()
	pid := c.PID(name)
	if pid <= 1 {
		c.t.Fatalf("no process for node %s", name)
	}
	if err := syscall.Kill(pid, sig); err != nil && err != syscall.ESRCH {
		c.t.Fatalf("signal %v to %s: %v", sig, name, err)
	}
}

// TLS is a client configuration that trusts the cluster's CA.
func (c *Cluster) TLS() *tls.Config {
	c.t.Helper()
	pem, err := os.ReadFile(c.Info().CA)
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		c.t.Fatal("no certificate in the cluster's CA file")
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// dumpLogs shows the last lines of each node's log after a failure.
func (c *Cluster) dumpLogs() {
	c.t.Logf("postern dev:\n%s", tail(c.output.String(), 30))
	logs, _ := filepath.Glob(filepath.Join(c.Dir, "*", "log"))
	more, _ := filepath.Glob(filepath.Join(c.Dir, "*.log"))
	for _, f := range append(logs, more...) {
		if data, err := os.ReadFile(f); err == nil {
			c.t.Logf("%s:\n%s", f, tail(string(data), 15))
		}
	}
}

func tail(s string, lines int) string {
	b := []byte(s)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] == '\n' {
			if lines--; lines < 0 {
				return string(b[i+1:])
			}
		}
	}
	return s
}

// syncBuffer keeps the last megabyte written to it.
type syncBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	if len(s.b) > 1<<20 {
		s.b = append(s.b[:0], s.b[len(s.b)-1<<19:]...)
	}
	return len(p), nil
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}

// Port returns the port of a host:port.
func Port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
