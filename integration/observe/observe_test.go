/*
Package observe checks what a monitoring system gets to see: the figures that
real daemons export, the alerts and the dashboard that read them, and the pages
that say what to do.
*/
package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/integration/cluster"
	"github.com/postern-mail/postern/shared/metrics"
	"github.com/postern-mail/postern/shared/peertest"
)

const (
	alerts    = "../../deploy/alerts"
	runbook   = "../../deploy/runbook"
	dashboard = "../../deploy/grafana/postern.json"
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	peertest.Programs(t, "promtool")
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unitTests are the files with the unit tests of the alerts.
var unitTests = []string{filepath.Join(alerts, "postern_test.yml"), filepath.Join(alerts, "postern_weeks_test.yml")}

func TestRules(t *testing.T) {
	promtool(t, nil, "check", "rules", filepath.Join(alerts, "postern.yml"))
	promtool(t, nil, append([]string{"test", "rules"}, unitTests...)...)
}

var alertName = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)

// TestRunbook: every alert has a page and two unit tests, every page an alert,
// and every command of a page exists with its flags.
func TestRunbook(t *testing.T) {
	rules, tests := read(t, filepath.Join(alerts, "postern.yml")), ""
	for _, file := range unitTests {
		tests += read(t, file)
	}
	var want []string
	for _, m := range alertName.FindAllStringSubmatch(rules, -1) {
		want = append(want, m[1]+".md")
		if !strings.Contains(rules, "runbook: deploy/runbook/"+m[1]+".md\n") {
			t.Errorf("%s names no page", m[1])
		}
		for _, of := range []string{m[1] + " fires\n", m[1] + " is quiet\n"} {
			if !strings.Contains(tests, "name: "+of) {
				t.Errorf("no unit test that %s", of)
			}
		}
	}
	var got []string
	pages, err := os.ReadDir(runbook)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		got = append(got, p.Name())
	}
	slices.Sort(want)
	if len(want) == 0 || !slices.Equal(got, want) {
		t.Errorf("pages %q, want %q", got, want)
	}
	postern := filepath.Join(cluster.Binaries(t), "postern")
	for _, p := range got {
		page := read(t, filepath.Join(runbook, p))
		_, section, _ := strings.Cut(page, "## What to run\n")
		section, _, _ = strings.Cut(section, "## What to do")
		commands := regexp.MustCompile(`(?m)^    postern (.*)$`).FindAllStringSubmatch(section, -1)
		if len(commands) == 0 {
			t.Errorf("%s has no command", p)
		}
		for _, m := range append(commands, regexp.MustCompile("`postern ([^`]*)`").FindAllStringSubmatch(page, -1)...) {
			exists(t, postern, p, m[1])
		}
	}
}

// exists looks whether a command line names a command and flags that there are.
func exists(t *testing.T, postern, page, line string) {
	t.Helper()
	var words, flags []string
	for _, w := range strings.Fields(line) {
		switch {
		case strings.HasPrefix(w, "--"):
			flags = append(flags, w)
		case w == strings.ToLower(w) && len(flags) == 0:
			words = append(words, w)
		}
	}
	help, err := exec.Command(postern, append(slices.Clone(words), "--help")...).CombinedOutput()
	if err != nil || !bytes.Contains(help, []byte("postern "+strings.Join(words, " "))) {
		t.Errorf("%s: postern %s: no such command", page, line)
	}
	for _, f := range flags {
		if !bytes.Contains(help, []byte(f)) {
			t.Errorf("%s: postern %s: no flag %s", page, line, f)
		}
	}
}

var typeLine = regexp.MustCompile(`(?m)^# TYPE (\S+)`)

var metricName = regexp.MustCompile(`\bpostern_[a-z0-9_]+`)

// TestFailures: the page on what can fail names alerts and drills that exist, and
// leaves none out.
func TestFailures(t *testing.T) {
	page := read(t, "../../deploy/FAILURES.md")
	alerting := map[string]bool{} // by name, whether the page has it
	for _, m := range alertName.FindAllStringSubmatch(read(t, filepath.Join(alerts, "postern.yml")), -1) {
		alerting[m[1]] = false
	}
	for _, a := range regexp.MustCompile(`Postern[A-Z]\w+`).FindAllString(page, -1) {
		if _, ok := alerting[a]; !ok {
			t.Errorf("no alert %s", a)
		}
		alerting[a] = true
	}
	for a, has := range alerting {
		if !has {
			t.Errorf("the page does not name the alert %s", a)
		}
	}
	named := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)\| ([^|]*) \|$`).FindAllStringSubmatch(page, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			named[name] = true
			if _, err := drill.Find(name); err != nil && !strings.Contains(name, "test") && name != "Drill" && name != "---" {
				t.Errorf("no drill %q", name)
			}
		}
	}
	for _, s := range drill.Scenarios() {
		if !named[s.Name] {
			t.Errorf("the page does not name the drill %s", s.Name)
		}
	}
}

// TestExported: what real daemons export is well named, and no rule and no
// panel reads a figure that nobody exports.
func TestExported(t *testing.T) {
	c := cluster.Start(t, "--relays", "2", "--pairs", "1", "--responder")
	c.AwaitServing("pair1", 30e9)
	exported := map[string]bool{}
	for _, tier := range []*metrics.Tier{metrics.Relay, metrics.Backend, metrics.Witness, metrics.Every} {
		for _, name := range tier.Names() {
			exported[name] = true
		}
	}
	info := c.Info()
	addrs := map[string]string{}
	for _, r := range info.Relays {
		addrs[r.Name] = r.Metrics
	}
	for _, p := range info.Pairs {
		for _, n := range p.Nodes {
			addrs[n.Name] = n.Metrics
		}
	}
	for _, node := range slices.Sorted(maps.Keys(addrs)) {
		text := scrape(t, addrs[node])
		promtool(t, text, "check", "metrics")
		for _, m := range typeLine.FindAllStringSubmatch(string(text), -1) {
			exported[m[1]] = true
		}
	}
	for _, job := range []string{"quota", "purge"} { // jobs write theirs into files
		file := filepath.Join(t.TempDir(), job+".prom")
		if out, err := c.Postern("directory", job, "--dry-run", "--metrics", file); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text := read(t, file)
		promtool(t, []byte(text), "check", "metrics")
		for _, m := range typeLine.FindAllStringSubmatch(text, -1) {
			exported[m[1]] = true
		}
	}
	for _, file := range append(slices.Clone(unitTests), filepath.Join(alerts, "postern.yml"), dashboard) {
		names := metricName.FindAllString(read(t, file), -1)
		if len(names) == 0 {
			t.Errorf("%s reads no figure", file)
		}
		for _, name := range names {
			if name != "postern_test" && !exported[name] && !exported[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s reads %s, which nobody exports", file, name)
			}
		}
	}
}

func scrape(t *testing.T, addr string) []byte {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", addr, resp.Status, err)
	}
	return text
}

// TestDashboard: it is JSON, each panel asks Prometheus something that it can
// read, and what an alert looks at can be looked at there too.
func TestDashboard(t *testing.T) {
	var d struct {
		Title  string
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboard)), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Error("no panel")
	}
	var rules strings.Builder // the panels' questions as rules, which promtool can read
	rules.WriteString("groups:\n  - name: panels\n    rules:\n")
	for i, p := range d.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for k, target := range p.Targets {
			fmt.Fprintf(&rules, "      - {record: panel_%d_%d, expr: %q}\n", i, k, target.Expr)
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, nil, "check", "rules", file)
	shown := read(t, dashboard)
	for _, name := range metricName.FindAllString(read(t, filepath.Join(alerts, "postern.yml")), -1) {
		if !regexp.MustCompile(`\b` + name + `\b`).MatchString(shown) {
			t.Errorf("an alert looks at %s, and no panel does", name)
		}
	}
}
