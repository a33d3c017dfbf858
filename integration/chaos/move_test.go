package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/admin"
)

// gate stands in front of the admin socket of every node, for one program that
// moves a user: it counts that program's calls, and has something happen at one.
type gate struct {
	dir     string // holds a cluster.json in which nodes have the gate's sockets
	sockets int

	mu     sync.Mutex
	calls  []string // what was called, in order
	fenced bool     // the account is closed at the pair that it comes from
	at     string   // the call at which hit was called
	stop   func(n int, label string) bool
	after  bool // the call has been made then, and its answer is lost
	hit    func()
}

// openGate makes the sockets.
func openGate(t *testing.T, c *cluster.Cluster) *gate {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate-") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &gate{dir: dir}
	text, err := os.ReadFile(filepath.Join(c.Dir, "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	info := c.Info()
	for i, r := range info.Relays {
		text = g.listen(t, text, r.Admin, i == 0)
	}
	for _, p := range info.Pairs {
		for _, n := range p.Nodes {
			text = g.listen(t, text, n.Admin, true)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

// listen makes the socket before another one, and returns text with its name.
func (g *gate) listen(t *testing.T, text []byte, socket string, counted bool) []byte {
	t.Helper()
	g.sockets++
	name := filepath.Join(g.dir, fmt.Sprintf("%d.sock", g.sockets))
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	to := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.pass(w, r, to, counted) })}
	served := make(chan struct{})
	go func() { defer close(served); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-served })
	quoted := func(s string) []byte { return fmt.Appendf(nil, "%q", s) }
	out := bytes.Replace(text, quoted(socket), quoted(name), 1)
	if bytes.Equal(out, text) {
		t.Fatalf("%s is not in cluster.json", socket)
	}
	return out
}

// moveSteps are the steps of admin.MoveStep by their numbers.
var moveSteps = []string{1: "announce", 2: "fence", 3: "stay", 4: "gone", 5: "arrive", 6: "open", 7: "drop"}

// pass hands a call on. Those of a move are counted, and what relays are told, by
// one relay alone: these are asked all at once.
func (g *gate) pass(w http.ResponseWriter, r *http.Request, to *http.Client, counted bool) {
	method := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var about struct {
		Pair string
		Step int
	}
	hit := func() {}
	before, lost := false, false
	if counted && (strings.HasPrefix(method, "mailbox.move.") || method == admin.Flush.Name) {
		_ = json.Unmarshal(body, &about) // what is not about a pair has none
		label := method + " " + about.Pair
		if about.Step > 0 && about.Step < len(moveSteps) {
			label += " " + moveSteps[about.Step]
		}
		g.mu.Lock()
		if g.fenced {
			label += ", closed"
		}
		g.fenced = g.fenced || strings.HasSuffix(label, " fence")
		g.calls = append(g.calls, label)
		if g.at == "" && g.stop(len(g.calls), label) {
			hit, before, lost, g.at = g.hit, !g.after, g.after, label
		}
		g.mu.Unlock()
	}
	if before {
		hit()
		panic(http.ErrAbortHandler)
	}
	req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://node"+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	resp, err := to.Do(req)
	if err != nil {
		panic(http.ErrAbortHandler) // the caller sees what it would see of the node
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if lost {
		hit()
	}
	if err != nil || lost {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer) // the caller may be gone
}

// arm has hit called at the first call of the next run that stop chooses.
func (g *gate) arm(stop func(n int, label string) bool, after bool, hit func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls, g.fenced, g.at, g.stop, g.after, g.hit = nil, false, "", stop, after, hit
}

// reached is the call at which hit was called, "" when stop chose none, and what
// was called in all.
func (g *gate) reached() (at string, calls []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.at, slices.Clone(g.calls)
}

// moving is one user who goes from pair to pair.
type moving struct {
	t     *testing.T
	c     *cluster.Cluster
	g     *gate
	user  cluster.User
	at    string // pair
	other string
}

// command is the tool, which knows the nodes of the cluster in dir.
func (m *moving) command(dir string) *exec.Cmd {
	return exec.Command(filepath.Join(m.c.Bin, "postern"), "directory", "user", "move", m.user.Address, "--to", m.other, "--dir", dir, "--audit", "none")
}

// again repeats the command, with nobody in between.
func (m *moving) again(what string) {
	m.t.Helper()
	out, err := m.command(m.c.Dir).CombinedOutput()
	if err != nil {
		m.t.Errorf("%s: the command repeated: %v\n%s", what, err, out)
	}
}

// notBack asserts that a user who has gone, and of whom the directory says that
// this is not so yet, cannot be taken for one who is still there.
func (m *moving) notBack(what string) {
	m.t.Helper()
	out, err := exec.Command(filepath.Join(m.c.Bin, "postern"), "directory", "user", "move", m.user.Address, "--to", m.at, "--dir", m.c.Dir, "--audit", "none").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--to "+m.other) {
		m.t.Errorf("%s: a move to %s instead: %v\n%s", what, m.at, err, out)
	}
}

// settled asserts that the user is at the other pair, and there alone, and goes on
// from there.
func (m *moving) settled(what string) {
	m.t.Helper()
	here, there := m.state(m.at), m.state(m.other)
	if here.Exists || here.State != admin.MoveGone || here.Peer != m.other || !there.Exists || there.State != "" || there.Closed {
		m.t.Fatalf("%s: %s says %+v, %s says %+v", what, m.at, here, m.other, there)
	}
	m.at, m.other = m.other, m.at
}

// state asks a pair about the account, whoever serves it now.
func (m *moving) state(pair string) (st admin.MoveStatus) {
	m.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, p := range m.c.Info().Pairs {
			for _, n := range p.Nodes {
				if p.Name != pair || n.Role != "data" {
					continue
				}
				client := admin.NewUnixClient(n.Admin)
				ctx, cancel := context.WithTimeout(m.t.Context(), 5*time.Second)
				var e error
				st, e = admin.Call(ctx, client, admin.MoveState, admin.MailboxName{Pair: pair, Account: m.user.Address})
				cancel()
				client.Close()
				if e == nil {
					return st
				}
				err = e
			}
		}
	}
	m.t.Fatalf("%s: nobody says where the account is: %v", pair, err)
	return st
}

// run runs the tool with the gate armed and returns what it was at when hit was
// called, what it called in all, and whether it ended well by itself.
func (m *moving) run(stop func(int, string) bool, after bool, hit func(cmd *exec.Cmd)) (step string, calls []string, well bool) {
	m.t.Helper()
	cmd := m.command(m.g.dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan struct{})
	m.g.arm(stop, after, func() { <-started; hit(cmd) })
	err := cmd.Start()
	close(started)
	if err == nil {
		err = cmd.Wait()
	}
	step, calls = m.g.reached()
	if step == "" && err != nil {
		m.t.Fatalf("to %s: %v\n%s", m.other, err, out.Bytes())
	}
	return step, calls, err == nil
}

// TestMoveKilled has a user go from pair to pair and back, under load, and kills
// the tool at each of its calls in turn, or the replica that serves the pair that
// the user comes from or goes to at each kind of call: before the call is made, and
// when it has been made and nobody has heard of it. The command is repeated. The
// user is in one place then, and every message there once.
func TestMoveKilled(t *testing.T) {
	if !nightly() {
		t.Skip("SKIP: nightly")
	}
	c, led, end := underLoad(t, cluster.Load{Senders: 2, Size: 2 << 10, Pause: 300 * time.Millisecond}, "--users", "2", "--pairs", "2")
	if _, err := c.Postern("upgrade", "finalize"); err != nil {
		t.Fatal(err)
	}
	u := c.Info().Users[0]
	m := &moving{t: t, c: c, g: openGate(t, c), user: u, at: u.Pair, other: c.Info().Pairs[0].Name}
	if m.other == m.at {
		m.other = c.Info().Pairs[1].Name
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if ok, _, _ := led.Counts(); ok > 10 { // both users have a mailbox
			break
		}
		if time.Now().After(until) {
			t.Fatal("no mail")
		}
	}
	for _, after := range []bool{false, true} {
		when := ", before a call"
		if after {
			when = ", after a call"
		}
		for name, f := range map[string]func(bool){
			"the tool" + when:               m.killTool,
			"the pair it comes from" + when: func(after bool) { m.killReplicas(after, true) },
			"the pair it goes to" + when:    func(after bool) { m.killReplicas(after, false) },
		} {
			if !t.Run(name, func(t *testing.T) { m.t = t; f(after) }) {
				return
			}
		}
	}
	m.t = t
	end()
	ok, refused, unknown := led.Counts()
	t.Logf("acknowledged %d, refused %d, unknown %d, longest gap %v", ok, refused, unknown, led.LongestGap())
	if ok < 200 {
		t.Errorf("only %d messages acknowledged: no load to speak of", ok)
	}
	awaitEmptyQueues(t, c, 2*time.Minute)
	checkMailboxes(t, c, led)
	for _, p := range c.Info().Pairs {
		checkDigests(t, c, p.Name)
	}
}

const (
	// fewCalls is how many calls a move has at least.
	fewCalls = 15
	// maxWithout is how many moves may lack a kind of call, one after the other.
	maxWithout = 50
)

// killTool kills the tool at its first call, then at its second, and so on until a
// run has fewer calls.
func (m *moving) killTool(after bool) {
	for n := 1; ; n++ {
		what := fmt.Sprintf("call %d", n)
		step, _, well := m.run(func(k int, _ string) bool { return k == n }, after, func(cmd *exec.Cmd) { _ = cmd.Process.Kill() })
		if step != "" {
			what += " (" + step + ")"
			if well {
				m.t.Errorf("%s: the tool was not killed", what)
			}
			if after && strings.HasSuffix(step, " gone, closed") {
				m.notBack(what)
			}
			m.again(what)
		}
		m.settled(what)
		if step == "" {
			m.t.Logf("killed at each of %d calls", n-1)
			if n <= fewCalls {
				m.t.Errorf("%d calls are no move", n-1)
			}
		}
		if step == "" || m.t.Failed() {
			return
		}
	}
}

// killReplicas kills the replica that serves a pair at each kind of call.
func (m *moving) killReplicas(after, from bool) {
	var kinds []string
	byItself, without := 0, 0
	for n := 0; n <= len(kinds); n++ {
		for _, p := range []string{m.at, m.other} {
			awaitReplicas(m.t, m.c, p)
			m.c.AwaitServing(p, 20*time.Second)
		}
		pair := m.other
		if from {
			pair = m.at
		}
		// What is called first, the user's way back has the other pairs for.
		name := strings.NewReplacer(m.at, "FROM", m.other, "TO")
		never := func(int, string) bool { return false }
		stop := never
		if n > 0 {
			stop = func(_ int, label string) bool { return name.Replace(label) == kinds[n-1] }
		}
		step, calls, well := m.run(stop, after, func(*exec.Cmd) {
			if node := m.c.Serving(pair); node != "" {
				_ = syscall.Kill(m.c.PID(node), syscall.SIGKILL) // it may be gone
			}
		})
		if n == 0 {
			for _, call := range calls {
				if call = name.Replace(call); !slices.Contains(kinds, call) {
					kinds = append(kinds, call)
				}
			}
			if len(kinds) < fewCalls {
				m.t.Fatalf("%d kinds of calls are no move: %q", len(kinds), kinds)
			}
			m.settled("nothing is killed")
			continue
		}
		if step == "" { // nothing came while the account was copied
			m.settled("without a " + kinds[n-1])
			if without++; without == maxWithout {
				m.t.Fatalf("no call was a %s: %q", kinds[n-1], calls)
			}
			n--
			continue
		}
		without = 0
		if well {
			byItself++
		} else {
			m.again(step)
		}
		if m.settled(step); m.t.Failed() {
			return
		}
	}
	m.t.Logf("killed at each of %d kinds of calls; %d times the command ended well by itself", len(kinds), byItself)
}
