package terraform

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill/ledger"
	"github.com/postern-mail/postern/ha/drill/mailbox"
	"github.com/postern-mail/postern/ha/drill/netns"
	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

const (
	oldRelease = "0.2.0"
	newRelease = "0.2.1-next"
	runName    = "terraform"
	bodySize   = 1500
	// stepWithin bounds one run of Terraform.
	stepWithin = 90 * time.Second
	// silenceBound is the longest time without an acknowledgement (F35).
	silenceBound = 5 * time.Second
)

// local is the example on this host.
type local struct {
	t       *testing.T
	program string
	dir     string // of the example, in a copy of the tree
	state   string
	prefix  string
	bin     map[string]string
	vars    map[string]any

	cluster cluster.Info
	book    *ledger.Ledger
	boxes   *cluster.Judge
	end     func() // of the load
}

// prepare builds both releases and initialises a copy of the example. Whatever
// happens, nothing stays.
func prepare(t *testing.T, program string) *local {
	t.Helper()
	peertest.Root(t, "a cluster in namespaces")
	peertest.Programs(t, "ip", "nft", "nsenter", "setsid")
	home, err := os.MkdirTemp("", "pt") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	l := &local{t: t, program: program, dir: filepath.Join(work(t), "examples", "local"), state: home + "/s", bin: programsOf(t)}
	l.prefix = fmt.Sprintf("pt%s%d", program[:1], os.Getpid())
	l.vars = map[string]any{
		"prefix": l.prefix, "state_dir": l.state, "binaries": l.bin, "users": 6,
		"versions": map[string]string{"relay": oldRelease, "backend": oldRelease, "witness": oldRelease},
	}
	must(t, l.dir, program, "init", "-input=false")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stepWithin)
		defer cancel()
		if t.Failed() {
			l.showLogs()
		}
		if _, err := l.run(ctx, "destroy", "-auto-approve"); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return l
}

var releases struct {
	sync.Once
	dirs map[string]string
	err  error
}

// programsOf builds the programs of both releases, once, and returns their folders.
func programsOf(t *testing.T) map[string]string {
	t.Helper()
	releases.Do(func() {
		dir, err := os.MkdirTemp("", "postern-releases-")
		releases.dirs, releases.err = map[string]string{}, err
		for _, v := range []string{oldRelease, newRelease} {
			if releases.err != nil {
				return
			}
			releases.dirs[v] = filepath.Join(dir, v)
			cmd := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", releases.dirs[v]+"/",
				"-ldflags", "-X github.com/postern-mail/postern/cmd/internal/version.Release="+v,
				"./cmd/postern", "./cmd/postern-relay", "./cmd/postern-backend", "./cmd/postern-witness")
			cmd.Dir = "../.."
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				releases.err = fmt.Errorf("%w: %s", err, out)
			}
		}
	})
	if releases.err != nil {
		t.Fatal(releases.err)
	}
	return releases.dirs
}

// removeReleases is for the end of TestMain.
func removeReleases() {
	for _, dir := range releases.dirs {
		os.RemoveAll(filepath.Dir(dir))
	}
}

// run runs the program on the example with its variables.
func (l *local) run(ctx context.Context, command string, args ...string) (result, error) {
	text, err := json.Marshal(l.vars)
	if err != nil {
		return result{}, err
	}
	if err := os.WriteFile(filepath.Join(l.dir, "test.auto.tfvars.json"), text, 0o600); err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, stepWithin)
	defer cancel()
	return run(ctx, l.dir, l.program, nil, append([]string{command, "-no-color", "-input=false"}, args...)...)
}

// apply applies the variables and says how long it took.
func (l *local) apply(what string) {
	l.t.Helper()
	began := time.Now()
	if _, err := l.run(l.t.Context(), "apply", "-auto-approve"); err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
	l.t.Logf("%s: %v", what, time.Since(began).Round(100*time.Millisecond))
}

// unchanged: a plan has nothing to do.
func (l *local) unchanged() {
	l.t.Helper()
	if r, err := l.run(l.t.Context(), "plan", "-detailed-exitcode"); err != nil || r.status != 0 {
		l.t.Errorf("a plan after apply is not empty: %v", err)
	}
}

// plans are the resources that the next apply would touch.
func (l *local) plans() []string {
	l.t.Helper()
	r, err := l.run(l.t.Context(), "plan")
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(r.out) {
		if name, ok := strings.CutPrefix(line, "  # "); ok {
			out = append(out, strings.Fields(name)[0])
		}
	}
	return out
}

func (l *local) tool(release string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(l.t.Context(), stepWithin)
	defer cancel()
	r, err := run(ctx, l.state, filepath.Join(l.bin[release], "postern"), nil, args...)
	return r.out, err
}

// process is what a node runs.
type process struct {
	PID            int
	Version, State string
}

// processes asks every node; all of them have to be ready.
func (l *local) processes() map[string]process {
	l.t.Helper()
	text, err := l.tool(oldRelease, "status", "--dir", l.state, "-o", "json")
	if err != nil {
		l.t.Fatal(err)
	}
	var s struct {
		Nodes []struct {
			Name string
			process
		}
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		l.t.Fatal(err)
	}
	out := map[string]process{}
	for _, n := range s.Nodes {
		if out[n.Name] = n.process; n.State != "ready" {
			l.t.Errorf("%s is %s", n.Name, n.State)
		}
	}
	return out
}

// rolled compares two looks: the nodes of a prefix run the new release, everybody
// else goes on as the process that it was.
func (l *local) rolled(before map[string]process, prefix string) map[string]process {
	l.t.Helper()
	now := l.processes()
	for name, was := range before {
		is := now[name]
		switch turn := prefix != "" && strings.HasPrefix(name, prefix); {
		case turn && (is.Version != newRelease || is.PID == was.PID):
			l.t.Errorf("%s runs %+v, was %+v: not replaced", name, is, was)
		case !turn && is != was:
			l.t.Errorf("%s runs %+v, was %+v: another tier's turn", name, is, was)
		}
	}
	return now
}

// send begins the load: from the network that stands for the Internet, to all relays
// that there are, while one user works by IMAP.
func (l *local) send() {
	t := l.t
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.state, "cluster.json"))
	if err == nil {
		err = json.Unmarshal(text, &l.cluster)
	}
	if err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, addr string) (net.Conn, error) {
		return netns.Dial(ctx, l.prefix+"-internet", "tcp", addr)
	}
	pem, err := os.ReadFile(l.cluster.CA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate in", l.cluster.CA)
	}
	l.book = ledger.New()
	access := &mailbox.Access{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Dial: dial, Timeout: 5 * time.Second}
	load := &ledger.Load{Run: runName, Senders: 4, Rate: 30, Size: bodySize, Timeout: 20 * time.Second, Dial: dial}
	for _, r := range l.cluster.Relays {
		load.Doors = append(load.Doors, ledger.Door{Name: r.Name, Addr: r.SMTP})
		access.Doors = append(access.Doors, ledger.Door{Name: r.Name, Addr: r.IMAPS})
	}
	l.boxes = &cluster.Judge{Access: access, Book: l.book, Run: runName, Size: bodySize}
	users := make([]mailbox.User, len(l.cluster.Users))
	for i, u := range l.cluster.Users {
		users[i] = mailbox.User{Login: u.Login, Password: u.Password, Address: u.Address}
	}
	worker := users[0]
	for _, u := range users[1:] {
		load.Recipients = append(load.Recipients, u.Address)
		l.boxes.Watch(t, u)
	}
	prober := &mailbox.Prober{Access: access, User: worker, Every: 50 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := load.Send(ctx, l.book); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { prober.Run(ctx) })
	l.end = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if _, _, _, faults := prober.Answers(); len(faults) > 0 {
			t.Errorf("reader: %v", faults)
		}
	})
	t.Cleanup(l.end)
}

// pass waits until some more mail was accepted.
func (l *local) pass() {
	l.t.Helper()
	from, _, _ := l.book.Counts()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if now, _, _ := l.book.Counts(); now >= from+30 {
			return
		}
		if time.Now().After(end) {
			l.t.Fatal("no mail is accepted")
		}
	}
}

// judge ends the load and compares the mailboxes with the ledger.
func (l *local) judge(from time.Time) {
	t := l.t
	t.Helper()
	l.end()
	gap := ledger.Longest(l.book.Acks(), from, time.Now())
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		text, err := l.tool(oldRelease, "status", "--dir", l.state, "-o", "json")
		var s cluster.Status
		queued := 0
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		for _, q := range s.Queues {
			queued += q.Queued
		}
		if err == nil && queued == 0 && len(s.Queues) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the queues are not empty: %v, %+v", err, s.Queues)
		}
	}
	ok, _, _ := l.boxes.Mailboxes(t)
	t.Logf("longest silence %v", gap.Length().Round(time.Millisecond))
	if ok < 100 || gap.Length() > silenceBound {
		t.Errorf("%d messages were acknowledged, none for %v", ok, gap.Length())
	}
}

// gone: nothing of the example is left on this host.
func (l *local) gone(before []string) {
	t := l.t
	t.Helper()
	if _, err := l.run(t.Context(), "destroy", "-auto-approve"); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/run/netns/" + l.prefix + "-*", l.state} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range environs {
		text, _ := os.ReadFile(name) // a process may be gone meanwhile
		line, _ := os.ReadFile(filepath.Dir(name) + "/cmdline")
		if strings.Contains(string(text), "ZONES_HOST="+l.prefix+"-") || strings.Contains(string(line), l.state) {
			t.Errorf("a process is left: %s %q", name, line)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), l.prefix+"-") || strings.Contains(string(mounts), l.state) {
		t.Errorf("a mount is left: %v\n%s", err, mounts)
	}
	if now := hostNetwork(t); !slices.Equal(now, before) {
		t.Errorf("the host's own network has changed:\n%v\n%v", before, now)
	}
	if out := must(t, l.dir, l.program, "state", "list"); strings.TrimSpace(out) != "" {
		t.Errorf("the state is not empty:\n%s", out)
	}
}

// ours are the names of links that the example makes in namespaces, none of which
// may be in the host's own network.
var ours = regexp.MustCompile(`^([hn][0-9a-f]{10}|uplink|inner|dmz|data|mgmt|internet)$`)

// hostNetwork is what is in the host's own network of the kind that the example makes.
// Other tests beside this one may make other things.
func hostNetwork(t *testing.T) []string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if ours.MatchString(l.Name) {
			out = append(out, l.Name)
		}
	}
	if strings.Contains(must(t, "/", "nft", "list", "tables"), " postern\n") {
		out = append(out, "table postern")
	}
	return out
}

func (l *local) showLogs() {
	logs, _ := filepath.Glob(l.state + "/*.log")
	for _, name := range logs {
		text, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		l.t.Logf("%s:\n%s", filepath.Base(name), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}

// TestLocal: the example provisions a cluster on this host whose ports are open where
// the specification says; a second plan is empty; under load the relays and then the
// backends go to another release and a third relay comes, each without touching the
// others, then relays answer for a zone, whose port opens, and nothing acknowledged is
// lost or there twice; destroy leaves nothing.
func TestLocal(t *testing.T) {
	program := installed(t)[0]
	before := hostNetwork(t)
	l := prepare(t, program)
	l.apply("apply")
	l.unchanged()
	l.probe(oldRelease)
	l.ipv6()
	l.holes()

	began := time.Now()
	l.send()
	l.pass()
	now := l.processes()
	for _, step := range []struct{ tier, module, nodes string }{
		{"relay", "module.relays", "relay"}, {"backend", "module.backends", "pair"},
	} {
		versions := maps.Clone(l.vars["versions"].(map[string]string))
		versions[step.tier] = newRelease
		l.vars["versions"] = versions
		if got, want := l.plans(), []string{step.module + ".terraform_data.rollout"}; !slices.Equal(got, want) {
			t.Errorf("another release of %s changes %v, want %v", step.tier, got, want)
		}
		l.apply(step.tier + " goes to " + newRelease)
		now = l.rolled(now, step.nodes)
		l.pass()
	}
	l.vars["relays"] = 3
	l.apply("a third relay")
	if now = l.rolled(now, ""); now["relay3"].Version != newRelease {
		t.Errorf("the third relay runs %+v", now["relay3"])
	}
	l.pass()
	l.vars["dns_zone"] = map[string]any{"name": "mx.postern.test"}
	l.apply("a zone")
	l.pass()
	l.judge(began)
	l.unchanged()
	l.names("mx.postern.test", "10.77.1.11", "10.77.1.12", "10.77.1.13")
	l.probe(newRelease, "internet", "relay3", "witness1")
	l.gone(before)
}

// TestLocalOther: where Terraform and OpenTofu are both installed, the other one
// makes and removes the example too.
func TestLocalOther(t *testing.T) {
	have := installed(t)
	if len(have) < 2 {
		t.Skip("SKIP: only one of terraform and tofu is installed")
	}
	before := hostNetwork(t)
	l := prepare(t, have[1])
	l.apply("apply")
	l.unchanged()
	l.processes()
	l.probe(oldRelease, "internet")
	l.gone(before)
}
