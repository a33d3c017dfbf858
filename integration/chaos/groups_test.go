package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/directory/fixture"
)

// newcomer is a node that joins a running cluster with members of two pairs.
type newcomer struct {
	name, kind string // kind: backend or witness
	dir        string
	raft       string
	admin      string
	gossip     string
	serve      map[string]map[string]string // by pair: lmtp, imap, pop3
	cmd        *exec.Cmd
}

// newcomers are two backends, each with a replica of both pairs, and a witness
// of both.
type newcomers struct {
	t     *testing.T
	c     *cluster.Cluster
	pairs []string
	nodes []*newcomer
	join  string
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func startNewcomers(t *testing.T, c *cluster.Cluster) *newcomers {
	t.Helper()
	g := &newcomers{t: t, c: c, pairs: []string{"pair2", "pair3"}}
	var file struct {
		Relays []struct{ Gossip string }
	}
	data, err := os.ReadFile(filepath.Join(c.Dir, "cluster.json"))
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.join = file.Relays[0].Gossip
	for _, name := range []string{"n1", "n2", "w9"} {
		n := &newcomer{name: name, kind: "backend", dir: filepath.Join(c.Dir, name), raft: freeAddr(t), admin: freeAddr(t), gossip: freeAddr(t), serve: map[string]map[string]string{}}
		if name == "w9" {
			n.kind = "witness"
		}
		for _, p := range g.pairs {
			n.serve[p] = map[string]string{"lmtp": freeAddr(t), "imap": freeAddr(t), "pop3": freeAddr(t)}
		}
		g.nodes = append(g.nodes, n)
	}
	t.Cleanup(func() {
		for _, n := range g.nodes {
			g.kill(n)
			if t.Failed() {
				if data, err := os.ReadFile(filepath.Join(n.dir, "log")); err == nil {
					t.Logf("%s:\n%s", n.name, lastLines(string(data), 30))
				}
			}
		}
	})
	for _, n := range g.nodes {
		out, err := posternAlone(c, "pki", "issue", n.name, "--ca-dir", filepath.Join(c.Dir, "ca"), "--role", n.kind, "--out", filepath.Join(n.dir, "tls", "node"))
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.WriteFile(n.config(), []byte(g.yaml(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(c.Bin, "postern-"+n.kind), "--config", n.config(), "--create")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", n.name, err, out)
		}
	}
	for _, n := range g.nodes {
		g.start(n)
	}
	return g
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (n *newcomer) config() string { return filepath.Join(n.dir, n.name+".yaml") }

func (g *newcomers) yaml(n *newcomer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "node: %s\ncluster: dev\ndir: %s\ntls: {ca: %s}\n", n.name, n.dir, filepath.Join(g.c.Dir, "ca", "ca.pem"))
	fmt.Fprintf(&b, "gossip: {listen: %q, join: [%q], key_file: %s}\nadmin: {listen: %q}\nraft: {listen: %q, segment_size: 1MB}\ngroups:\n",
		n.gossip, g.join, filepath.Join(g.c.Dir, "gossip.key"), n.admin, n.raft)
	for i, p := range g.pairs {
		fmt.Fprintf(&b, "  - pair: %s\n", p)
		if n.kind == "backend" {
			s := n.serve[p]
			fmt.Fprintf(&b, "    serve: {lmtp: %q, imap: %q, pop3: %q}\n", s["lmtp"], s["imap"], s["pop3"])
		}
		fmt.Fprintf(&b, "    members:\n")
		for j, m := range g.nodes {
			fmt.Fprintf(&b, "      - {node: %s, id: %016x, addr: %q, witness: %t}\n", m.name, 16*(i+1)+j, m.raft, m.kind == "witness")
		}
	}
	return b.String()
}

func (g *newcomers) start(n *newcomer) {
	g.t.Helper()
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.Command(filepath.Join(g.c.Bin, "postern-"+n.kind), "--config", n.config())
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
}

func (g *newcomers) kill(n *newcomer) {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	n.cmd = nil
}

// tool runs an operator's command by way of the newcomers' admin ports.
func (g *newcomers) tool(args ...string) (string, error) {
	var nodes []string
	for _, n := range g.nodes {
		if n.cmd != nil {
			nodes = append(nodes, n.admin)
		}
	}
	admin := filepath.Join(g.c.Dir, "admin", "admin")
	return posternAlone(g.c, append(args, "--node", strings.Join(nodes, ","), "--cert", admin+".pem", "--key", admin+"-key.pem", "--ca", filepath.Join(g.c.Dir, "ca", "ca.pem"))...)
}

// posternAlone runs the operator's tool without naming the cluster.
func posternAlone(c *cluster.Cluster, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(c.Bin, "postern"), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("postern %v: %w: %s", args[:2], err, &stderr)
	}
	return string(out), err
}

// pair asks for the replicas of a pair.
func (g *newcomers) pair(name string) (p pairState, serving string) {
	out, err := g.tool("pair", "status", name, "--output", "json")
	if err != nil {
		return p, ""
	}
	var list []struct {
		pairState
		Serving string
	}
	if json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		return p, ""
	}
	return list[0].pairState, list[0].Serving
}

// await waits until ok.
func await(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %v: %s", within, what)
}

// served waits until a pair is served, and returns by whom.
func (g *newcomers) served(pair string) (by string) {
	g.t.Helper()
	await(g.t, pair+" is served", 20*time.Second, func() bool {
		_, by = g.pair(pair)
		return by != ""
	})
	return by
}

// TestGroups starts two pairs on two nodes that hold a replica of each, beside
// a cluster that runs: its relays deliver to new users of them without being
// told. Then one replica of one pair is lost and made anew, and at last the
// majority of that pair is lost for good.
func TestGroups(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	// The directory knows people of pair2 and pair3 before there are such pairs.
	tree := filepath.Join(t.TempDir(), "people.ldif")
	if err := os.WriteFile(tree, fixture.Tree("postern.test", 6, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	c := cluster.Start(t, "--ldif", tree, "--domain", "postern.test", "--relays", "1")
	g := startNewcomers(t, c)
	var users []cluster.User
	var all []string
	for i := range 6 {
		u := cluster.User{Login: fixture.UID(i + 1), Password: fixture.Password, Pair: fmt.Sprintf("pair%d", i%3+1)}
		u.Address = u.Login + "@postern.test"
		users, all = append(users, u), append(all, u.Address)
	}
	for _, p := range g.pairs {
		g.served(p)
	}
	led := cluster.NewLedger()
	run := func(d time.Duration, to ...string) {
		stop := make(chan struct{})
		time.AfterFunc(d, func() { close(stop) })
		cluster.Load{Senders: 4, Addrs: smtpAddrs(c), Recipients: to, Size: 4 << 10, Pause: 10 * time.Millisecond}.Run(led, stop)
	}
	run(2*time.Second, all...)
	ok, refused, _ := led.Counts()
	if ok < 50 || refused > 0 {
		t.Errorf("%d messages acknowledged, %d refused", ok, refused)
	}
	awaitEmptyQueues(t, c, 20*time.Second)
	checkSome(t, c, led, users)

	// The operator sees where everything is.
	out, err := g.tool("status")
	if err != nil || !strings.Contains(out, "pair2,pair3") || !strings.Contains(out, "w9 (witness)") {
		t.Errorf("status: %v\n%s", err, out)
	}

	// One replica of pair2 is lost on n2; its neighbour of pair3 goes on.
	n1, n2, w := g.nodes[0], g.nodes[1], g.nodes[2]
	g.kill(n2)
	if err := os.RemoveAll(filepath.Join(n2.dir, "pair2")); err != nil {
		t.Fatal(err)
	}
	run(time.Second, users[1].Address, users[2].Address)
	g.start(n2)
	await(t, "n2 answers", 10*time.Second, func() bool {
		p, _ := g.pair("pair2")
		for _, n := range p.Nodes {
			if n.Name == "n2" && n.State == "absent" {
				return true
			}
		}
		return false
	})
	if out, err := g.tool("pair", "replace", "n2", "n2", "--pair", "pair2", "--yes", "--wait", "30s"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, pair := range g.pairs {
		await(t, pair+" has equal digests", 20*time.Second, func() bool {
			p, _ := g.pair(pair)
			var data []replicaStatus
			for _, n := range p.Nodes {
				if n.Role == "data" {
					data = append(data, n)
				}
			}
			return len(data) == 2 && data[0].Digest != "" && data[0].Applied == data[1].Applied && data[0].Digest == data[1].Digest
		})
	}

	// n1 and the witness are lost for good.
	g.kill(n1)
	g.kill(w)
	var said string
	await(t, "n2 knows that the majority is lost, and does not go on by itself", 20*time.Second, func() bool {
		out, err := g.tool("pair", "recover", "pair2")
		said = fmt.Sprint(out, err)
		return err != nil && strings.Contains(out, "known to be committed")
	})
	t.Logf("recover without being told to accept the loss: %s", said)
	if out, err := g.tool("pair", "recover", "pair2", "--accept-loss"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if by := g.served("pair2"); by != "n2" {
		t.Errorf("%s serves pair2", by)
	}
	run(time.Second, users[1].Address, users[4].Address)
	// The witness is made anew and votes.
	for _, p := range g.pairs {
		if err := os.RemoveAll(filepath.Join(w.dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	g.start(w)
	await(t, "w9 answers", 10*time.Second, func() bool {
		out, err := g.tool("pair", "add", "w9", "--pair", "pair2", "--yes", "--wait", "20s")
		if err != nil {
			t.Logf("%v: %s", err, out)
		}
		return err == nil
	})
	out, err = g.tool("pair", "members", "pair2", "--output", "json")
	var list struct{ Members []struct{ Node string } }
	if err == nil {
		err = json.Unmarshal([]byte(out), &list)
	}
	if err != nil || len(list.Members) != 2 {
		t.Errorf("%v: %s", err, out)
	}
	run(time.Second, users[1].Address, users[4].Address)
	awaitEmptyQueues(t, c, 30*time.Second)
	var pair2 []cluster.User
	for i, u := range users {
		if i%3 != 2 { // pair3 has no majority
			pair2 = append(pair2, u)
		}
	}
	checkSome(t, c, led, pair2)
}

// checkSome compares the mailboxes of some users with the ledger.
func checkSome(t *testing.T, c *cluster.Cluster, led *cluster.Ledger, users []cluster.User) {
	t.Helper()
	found, mine := map[string]int{}, map[string]bool{}
	for _, u := range users {
		mine[u.Address] = true
		cl := login(t, c, u)
		sel, err := cl.Select("INBOX", nil).Wait()
		if err != nil {
			t.Fatalf("%s: %v", u.Login, err)
		}
		if sel.NumMessages > 0 {
			msgs, err := cl.Fetch(imap.SeqSet{{Start: 1, Stop: 0}}, &imap.FetchOptions{Envelope: true}).Collect()
			if err != nil {
				t.Fatalf("%s: %v", u.Login, err)
			}
			for _, m := range msgs {
				found[m.Envelope.MessageID]++
			}
		}
		cl.Close()
	}
	checked := 0
	for _, e := range led.Entries() {
		if !mine[e.Recipient] {
			continue
		}
		checked++
		if n := found[e.ID]; e.Outcome == cluster.Acknowledged && n != 1 || n > 1 {
			t.Errorf("message %s to %s: outcome %d, copies %d", e.ID, e.Recipient, e.Outcome, n)
		}
	}
	if checked < 100 {
		t.Errorf("only %d messages to speak of", checked)
	}
}
