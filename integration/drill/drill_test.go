/*
Package drill runs drills as an operator does, by the program, against clusters
of real processes: a development cluster, and one in network namespaces where
they can be made.
*/
package drill

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/netns"
	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/peertest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// slack is for machines that run other tests at the same time.
const slack = "4"

// run runs `postern drill run` and returns its report and status.
func run(t *testing.T, bin string, args ...string) (*drill.Report, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "postern"), append([]string{"drill", "run", "--output", "json", "--slack", slack}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r drill.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("drill run %v: %v\n%s", args, err, said.String())
	}
	t.Logf("drill run %v:\n%s", args, said.String())
	return &r, cmd.ProcessState.ExitCode()
}

func mustPass(t *testing.T, r *drill.Report, status int) {
	t.Helper()
	if status != 0 {
		t.Errorf("status %d", status)
	}
	for _, res := range r.Results {
		t.Logf("%s: %s, acknowledged %d, refused %d, unknown %d, gaps %d ms and %d ms", res.Scenario, res.Verdict,
			res.Counts.Acknowledged, res.Counts.Refused, res.Counts.Unknown, res.SMTP.Millis, res.IMAP.Millis)
		if res.Verdict != drill.Passed || res.Counts.Acknowledged < 100 || res.Counts.Missing > 0 {
			t.Errorf("%s: %s: %s; checks %+v; refusals %v", res.Scenario, res.Verdict, res.Reason, res.Checks, res.Refusals)
		}
	}
}

// TestDevelopmentCluster runs drills on one cluster, one after the other.
func TestDevelopmentCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "6")
	files := t.TempDir()
	html, junit, saved := filepath.Join(files, "r.html"), filepath.Join(files, "r.xml"), filepath.Join(files, "r.json")
	r, status := run(t, c.Bin, "kill-serving", "kill-relay", "pause-follower", "--dir", c.Dir, "--for", "6s",
		"--html", html, "--junit", junit, "--save", saved)
	mustPass(t, r, status)
	if len(r.Results) != 3 {
		t.Errorf("%d results", len(r.Results))
	}
	for name, root := range map[string]string{html: "html", junit: "testsuites"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var el struct{ XMLName xml.Name }
		if err := xml.Unmarshal(text, &el); err != nil || el.XMLName.Local != root {
			t.Errorf("%s: %v %v", name, el, err)
		}
	}
	if out, err := exec.Command(filepath.Join(c.Bin, "postern"), "drill", "report", saved).CombinedOutput(); err != nil || !strings.Contains(string(out), "lost: nothing") {
		t.Errorf("report: %v\n%s", err, out)
	}

	t.Run("a removed message is noticed", func(t *testing.T) {
		r, status := run(t, c.Bin, "transfer", "--dir", c.Dir, "--for", "5s", "--negative-control")
		if status != 1 {
			t.Errorf("status %d, want 1", status)
		}
		res := r.Results[0]
		if res.Control == nil || !res.Control.Noticed || res.Verdict != drill.Failed || res.Counts.Missing != 1 {
			t.Fatalf("%s: %s; control %+v", res.Verdict, res.Reason, res.Control)
		}
		if f := res.Findings[0]; f.ID != res.Control.ID || !strings.Contains(res.Reason, f.ID) {
			t.Errorf("%s was removed; found %s; reason %s", res.Control.ID, f.ID, res.Reason)
		}
	})
	t.Run("nothing fails at a hand-over", func(t *testing.T) {
		r, status := run(t, c.Bin, "transfer", "stop-serving", "--dir", c.Dir, "--for", "6s", "--sessions", "24")
		mustPass(t, r, status)
	})
	t.Run("certificates are issued again, and one runs out", func(t *testing.T) {
		r, status := run(t, c.Bin, "cert-rotation", "cert-expiry", "--dir", c.Dir, "--for", "6s")
		mustPass(t, r, status)
	})
	t.Run("a cluster described by a file", func(t *testing.T) {
		file := filepath.Join(files, "cluster.yaml")
		if err := os.WriteFile(file, describe(c), 0o600); err != nil {
			t.Fatal(err)
		}
		r, status := run(t, c.Bin, "stop-serving", "--cluster", file, "--for", "5s")
		mustPass(t, r, status)
		r, status = run(t, c.Bin, "kill-serving", "--cluster", file, "--for", "5s")
		if status != 2 || r.Results[0].Reason != "the file does not allow kill" {
			t.Errorf("status %d, %s", status, r.Results[0].Reason)
		}
	})
	t.Run("what cannot be done is no pass", func(t *testing.T) {
		r, status := run(t, c.Bin, "partition-serving", "--dir", c.Dir)
		if status != 2 || r.Results[0].Verdict != drill.Errored {
			t.Errorf("status %d, %s", status, r.Results[0].Verdict)
		}
	})
}

// TestUserMove takes users to the other pair of a development cluster and back, by
// the program and by the hook of a file; one pair is too few for it.
func TestUserMove(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	c := cluster.Start(t, "--users", "12", "--pairs", "2")
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	text := strings.NewReplacer("allow: [", "allow: [move-users, transfer, ", "hooks:\n",
		fmt.Sprintf("hooks:\n  move-users: %q\n", fmt.Sprintf(`'%s/postern' directory user move --list - --to "$DRILL_PAIR" --dir '%s' --output json`, c.Bin, c.Dir))).
		Replace(string(describe(c)))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range [][]string{{"--dir", c.Dir, "--users", "4"}, {"--cluster", file, "--pair", "pair2"}} {
		r, status := run(t, c.Bin, append([]string{"user-move", "--for", "6s"}, target...)...)
		mustPass(t, r, status)
		if m := r.Results[0].Moves; m == nil || m.Users < 4 || m.Messages == 0 {
			t.Errorf("%v: %+v", target, m)
		}
	}
	if r, status := run(t, c.Bin, "user-move", "--dir", c.Dir, "--users", "7"); status != 2 || r.Results[0].Reason != "6 users of pair1 are known, 7 are wanted" {
		t.Errorf("status %d, %s", status, r.Results[0].Reason)
	}
}

// describe is the file of a cluster as an operator would write it.
func describe(c *cluster.Cluster) []byte {
	info := c.Info()
	var b bytes.Buffer
	fmt.Fprintf(&b, "title: %s\nca: %q\nserver_name: localhost\nnodes:\n", info.Domain, info.CA)
	for _, r := range info.Relays {
		fmt.Fprintf(&b, "  - {name: %s, role: relay, smtp: %q, imaps: %q, admin_socket: %q}\n", r.Name, r.SMTP, r.IMAPS, r.Admin)
	}
	for _, p := range info.Pairs {
		for _, n := range p.Nodes {
			fmt.Fprintf(&b, "  - {name: %s, role: %s, pair: %s, admin_socket: %q}\n", n.Name, n.Role, p.Name, n.Admin)
		}
	}
	b.WriteString("users:\n")
	for _, u := range info.Users {
		fmt.Fprintf(&b, "  - {login: %s, password: %q, address: %s, pair: %s}\n", u.Login, u.Password, u.Address, u.Pair)
	}
	b.WriteString("allow: [stop, start]\nhooks:\n")
	for _, verb := range []string{"stop", "start"} {
		fmt.Fprintf(&b, "  %s: %q\n", verb, fmt.Sprintf(`'%s/postern' node %s "$DRILL_NODE" --dir '%s'`, c.Bin, verb, c.Dir))
	}
	return b.Bytes()
}

// needNamespaces skips where a cluster in namespaces cannot be made.
func needNamespaces(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIP: needs a running cluster")
	}
	why := netns.Possible()
	if why == nil {
		if out, err := exec.Command("ip", "netns", "add", "pst-try").CombinedOutput(); err != nil {
			why = fmt.Errorf("namespaces cannot be made here: %w %s", err, out)
		} else if out, err := exec.Command("ip", "netns", "del", "pst-try").CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	if why != nil {
		peertest.Lacks(t, "%v", why)
	}
}

// TestNamespaces cuts the serving replica off, and has one lose its disk, another
// its power, in clusters of which nothing is left.
func TestNamespaces(t *testing.T) {
	needNamespaces(t)
	began := time.Now()
	r, status := run(t, cluster.Binaries(t), "partition-serving", "read-only-disk", "power-cut", "--namespaces", "--for", "6s")
	mustPass(t, r, status)
	_, id, _ := strings.Cut(r.Target, "namespaces ")
	id = strings.TrimSuffix(id, "*")
	if !strings.HasPrefix(id, "pst-") || len(id) < 8 {
		t.Fatalf("target %q", r.Target)
	}
	left, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || strings.Contains(string(left), id) {
		t.Errorf("left after %v: %s %v", time.Since(began), left, err)
	}
}

// TestEveryControl runs every scenario once as it is, which must pass, and once
// with a message taken away, which must fail and name it.
func TestEveryControl(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	}
	needNamespaces(t)
	bin := cluster.Binaries(t)
	r, status := run(t, bin, "all", "--namespaces")
	possible(t, r)
	mustPass(t, r, status)
	r, status = run(t, bin, "all", "--namespaces", "--for", "8s", "--negative-control")
	possible(t, r)
	mustNotice(t, r, status)
}

// possible takes out of a report what has tests of its own, because it needs
// other programs: TestClock, and TestDrill of integration/upgrade.
func possible(t *testing.T, r *drill.Report) {
	t.Helper()
	own := []string{"clock-skew", "rolling-upgrade"}
	all := len(r.Results)
	r.Results = slices.DeleteFunc(r.Results, func(res *drill.Result) bool {
		return res.Verdict == drill.Skipped && slices.Contains(own, res.Scenario)
	})
	if all != len(drill.Scenarios()) || all-len(r.Results) != len(own) {
		t.Errorf("%d results of %d scenarios, %d of which are left out", all, len(drill.Scenarios()), all-len(r.Results))
	}
}

// mustNotice wants every scenario to fail for the message that was taken away,
// and for nothing else.
func mustNotice(t *testing.T, r *drill.Report, status int) {
	t.Helper()
	if status != 1 {
		t.Errorf("status %d, want 1", status)
	}
	for _, res := range r.Results {
		broken := 0
		for _, c := range res.Checks {
			if !c.OK {
				broken++
			}
		}
		if res.Verdict != drill.Failed || res.Control == nil || !res.Control.Noticed || broken != 1 {
			t.Errorf("%s: %s %s; control %+v; %d checks failed", res.Scenario, res.Verdict, res.Reason, res.Control, broken)
		}
	}
}

// TestClock sets clocks of daemons that were built for it.
func TestClock(t *testing.T) {
	if os.Getenv("POSTERN_NIGHTLY") == "" {
		t.Skip("SKIP: nightly")
	}
	needNamespaces(t)
	bin := t.TempDir()
	if out, err := exec.Command("../tools/skewclock", bin).CombinedOutput(); err != nil {
		t.Fatalf("skewclock: %v\n%s", err, out)
	}
	r, status := run(t, bin, "clock-skew", "--namespaces")
	mustPass(t, r, status)
	for _, res := range r.Results {
		seen := 0
		for _, c := range res.Checks {
			if strings.HasPrefix(c.Name, "fault is real: skew-clock") {
				seen++
			}
		}
		if seen != 5 {
			t.Errorf("%d clocks were seen to be wrong, want 5", seen)
		}
	}
	r, status = run(t, bin, "clock-skew", "--namespaces", "--for", "8s", "--negative-control")
	mustNotice(t, r, status)
}

// TestClean kills a drill while a disk is frozen and removes what it leaves. The
// drill itself may wait for that disk, so that it ends when it is removed.
func TestClean(t *testing.T) {
	needNamespaces(t)
	bin := cluster.Binaries(t)
	tmp := t.TempDir()
	cmd := exec.Command(filepath.Join(bin, "postern"), "drill", "run", "slow-disk", "--namespaces")
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "fault at") {
		t.Log(lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "pst-*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the killed drill has left %v, %v", left, err)
	}
	clean := exec.Command(filepath.Join(bin, "postern"), "drill", "clean")
	clean.Env = cmd.Env
	out, err := clean.CombinedOutput()
	if err != nil || !strings.Contains(string(out), left[0]) {
		t.Fatalf("%v\n%s", err, out)
	}
	_ = cmd.Wait() // it was killed
	var id string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "removed pst-"); ok {
			id, _, _ = strings.Cut(name, "-")
		}
	}
	names, err := exec.Command("ip", "netns", "list").Output()
	if err != nil || id == "" || strings.Contains(string(names), "pst-"+id) {
		t.Errorf("left of %q: %s %v", id, names, err)
	}
	if _, err := os.Stat(left[0]); err == nil {
		t.Errorf("%s is left", left[0])
	}
	devices, err := exec.Command("losetup", "-a").Output()
	for until := time.Now().Add(10 * time.Second); err == nil && strings.Contains(string(devices), filepath.Base(left[0])) && time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		devices, err = exec.Command("losetup", "-a").Output()
	}
	if err != nil || strings.Contains(string(devices), filepath.Base(left[0])) {
		t.Errorf("devices are left: %s %v", devices, err)
	}
}
