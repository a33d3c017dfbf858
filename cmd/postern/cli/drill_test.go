package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/report"
)

func TestDrillList(t *testing.T) {
	var rows []struct {
		Name string `json:"name"`
		SMTP int64  `json:"smtp_limit_ms"`
	}
	if err := json.Unmarshal([]byte(must(t, "drill", "list", "--output", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	table := must(t, "drill", "list")
	if len(rows) != len(drill.Scenarios()) {
		t.Errorf("%d scenarios, want %d", len(rows), len(drill.Scenarios()))
	}
	for _, r := range rows {
		if r.SMTP <= 0 || !strings.Contains(table, "\n"+r.Name+" ") {
			t.Errorf("%s: limit %d, in the table: %s", r.Name, r.SMTP, table)
		}
	}
}

func TestDrillGivenWrongly(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(bad, []byte("titel: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"kill-serving"}, "name the cluster: --dir DIR, --namespaces or --cluster FILE"},
		{[]string{"kill-all", "explode", "--dir", "x"}, `no scenario "explode"`},
		{[]string{"all", "kill-all", "--dir", "x"}, "all is every scenario"},
		{[]string{"kill-all", "--dir", "x", "--for", "1s"}, "a load of 1s: want 5s to 24h"},
		{[]string{"kill-all", "--cluster", bad}, "field titel not found"},
		{[]string{"kill-all", "--dir", t.TempDir()}, "no running development cluster"},
		{[]string{"kill-all", "--dir", "x", "--namespaces"}, "none of the others can be"},
	} {
		_, errOut, status := call(t, append([]string{"drill", "run"}, c.args...)...)
		if status != ExitUsage || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: status %d, %s, want %s", c.args, status, errOut, c.want)
		}
	}
}

// TestDrillReport shows saved reports; the status is that of the run.
func TestDrillReport(t *testing.T) {
	dir := t.TempDir()
	for verdict, want := range map[drill.Verdict]int{drill.Passed: ExitOK, drill.Failed: ExitFailed, drill.Errored: ExitUsage, drill.Skipped: ExitUsage} {
		r := &drill.Report{Version: 1, Started: noon, Ended: noon.Add(time.Minute), Results: []*drill.Result{{Scenario: "kill-all", Verdict: verdict, Checks: []drill.Check{}}}}
		var b bytes.Buffer
		if err := report.JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, string(verdict))
		if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errOut, status := call(t, "drill", "report", name, "--html", name+".html", "--junit", name+".xml")
		if status != want || !strings.Contains(out, strings.ToUpper(string(verdict))+" ") {
			t.Errorf("%s: status %d, want %d: %s%s", verdict, status, want, out, errOut)
		}
		for _, ext := range []string{".html", ".xml"} {
			if fi, err := os.Stat(name + ext); err != nil || fi.Size() == 0 {
				t.Errorf("%s%s: %v", name, ext, err)
			}
		}
		back, _, _ := call(t, "drill", "report", name, "--output", "json")
		if back != b.String() {
			t.Errorf("JSON is not what was saved: %s", back)
		}
	}
	if _, errOut, status := call(t, "drill", "report", filepath.Join(dir, "none")); status != ExitUsage {
		t.Errorf("status %d: %s", status, errOut)
	}
}

func TestLiveLine(t *testing.T) {
	var b bytes.Buffer
	l := newLiveLine(&b, true)
	l.begin("kill-all")
	l.show(drill.Progress{Scenario: "kill-all", Phase: "fault", Elapsed: 3 * time.Second, Sent: 12, Acknowledged: 10, Refused: 2})
	l.end(&drill.Result{Scenario: "kill-all", Verdict: drill.Failed, Reason: "a\x1b[31mb"})
	lines := strings.Split(b.String(), "\r")
	if want := "kill-all  fault               3s  sent 12  acknowledged 10  refused 2  unknown 0"; lines[2] != want {
		t.Errorf("got  %q\nwant %q", lines[2], want)
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "kill-all: failed: a") || strings.Contains(last, "\x1b") {
		t.Errorf("last %q", last)
	}
	b.Reset()
	l = newLiveLine(&b, false)
	for range 3 {
		l.show(drill.Progress{Scenario: "kill-all", Phase: "fault"})
	}
	if got, want := b.String(), "kill-all: fault at 0s, 0 acknowledged\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
