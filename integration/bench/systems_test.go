package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
	"github.com/postern-mail/postern/shared/peertest"
)

// postern starts one relay and one pair that ask slapd.
func postern(t *testing.T, slapd *cluster.OpenLDAP) (*cluster.Cluster, *system) {
	t.Helper()
	c := cluster.Start(t, "--relays", "1", "--pairs", "1", "--users", "0", "--domain", domain,
		"--directory", slapd.URL, "--base", fixture.Root, "--bench-ports", "--no-restart")
	serving := c.AwaitServing("pair1", 30*time.Second)
	info := c.Info()
	s := &system{name: "Postern", parts: []part{
		{"relay", []int{info.Relays[0].PID}}, {"serving", nil}, {"replica", nil}, {"witness", nil}, {"directory", []int{slapd.PID}},
	}}
	for _, n := range info.Pairs[0].Nodes {
		at := 2
		switch {
		case n.Name == serving:
			at = 1
		case n.Role == "witness":
			at = 3
		}
		s.parts[at].pids = append(s.parts[at].pids, n.PID)
	}
	return c, s
}

// nodeOf is the node of the only pair that serves.
func nodeOf(t *testing.T, c *cluster.Cluster) cluster.Node {
	t.Helper()
	name := c.AwaitServing("pair1", 30*time.Second)
	for _, n := range c.Info().Pairs[0].Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("%s is no node of pair1", name)
	return cluster.Node{}
}

// figure is a figure that a node of ours exports, summed over all labels but
// the one given; nought before it has been counted for the first time.
func figure(t *testing.T, addr, name, label string) int {
	t.Helper()
	res, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name+"{")
		labels, value, ok2 := strings.Cut(rest, "} ")
		if !ok || !ok2 {
			continue
		}
		if !slices.Contains(strings.Split(labels, ","), label) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		sum += v
	}
	return int(sum)
}

// One map for users, alternate addresses and lists, for whole addresses of the
// one domain only: fewer questions than the usual three maps, each for a user,
// for an alias and for a list. A list's members are names, which Postfix looks
// up one by one.
const ldapMap = `server_host = %s
version = 3
bind = no
search_base = %s
domain = %s
query_filter = (|(mail=%%s)(mailAlternateAddress=%%s))
leaf_result_attribute = mail
special_result_attribute = uniqueMember
`

// postfix starts a Postfix that asks slapd for each recipient and delivers to
// the LMTP server at addr.
func postfix(t *testing.T, slapd *cluster.OpenLDAP, addr string) *cluster.Postfix {
	t.Helper()
	file := filepath.Join(publicDir(t), "map.cf")
	if err := os.WriteFile(file, fmt.Appendf(nil, ldapMap, slapd.URL, fixture.Root, domain), 0o644); err != nil {
		t.Fatal(err)
	}
	return cluster.StartPostfix(t, cluster.PostfixConfig{Hostname: "relay1." + domain, Main: []string{
		"virtual_mailbox_domains = " + domain,
		"virtual_mailbox_maps = static:all",
		"virtual_alias_maps = ldap:" + file,
		"smtpd_reject_unlisted_recipient = yes",
		"virtual_alias_expansion_limit = 1000000",
		"virtual_transport = lmtp:inet:" + addr,
		"smtpd_timeout = 3600s",
		"ipc_timeout = 3600s",
	}})
}

// publicDir is a folder of the test that every process may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sink is Postfix's own LMTP server that takes everything and keeps nothing.
func sink(t *testing.T) string {
	t.Helper()
	peertest.Programs(t, "smtp-sink")
	addr := cluster.FreeAddr(t)
	cmd := exec.Command("/usr/sbin/smtp-sink", "-L", "-u", "postfix", addr, "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	cluster.AwaitPort(t, addr)
	return addr
}

// tailing counts what appears in a log as it grows.
type tailing struct {
	f    *os.File
	what []byte
	rest []byte
	n    int
}

// sent follows Postfix's log: a line for each recipient that was delivered.
func sent(t *testing.T, p *cluster.Postfix) *tailing {
	t.Helper()
	var f *os.File
	var err error
	for range 200 { // it is made with the first line
		if f, err = os.Open(filepath.Join(p.Dir, "maillog")); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &tailing{f: f, what: []byte(" status=sent ")}
}

func (l *tailing) await(t *testing.T, n int, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); l.n < n; time.Sleep(20 * time.Millisecond) {
		text, err := io.ReadAll(l.f)
		if err != nil {
			t.Fatal(err)
		}
		text = append(l.rest, text...)
		end := bytes.LastIndexByte(text, '\n') + 1
		l.n += bytes.Count(text[:end], l.what)
		l.rest = bytes.Clone(text[end:])
		if time.Now().After(deadline) {
			t.Fatalf("%d delivered after %v, want %d", l.n, within, n)
		}
	}
}
