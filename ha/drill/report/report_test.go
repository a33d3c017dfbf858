package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/ha/drill"
	"github.com/postern-mail/postern/ha/drill/ledger"
)

var update = flag.Bool("update", false, "write the golden files")

var began = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }

// sample has a result of every verdict, and text that a form has to escape.
func sample() *drill.Report {
	row := func(v int) []int {
		out := make([]int, 50)
		for i := range out {
			out[i] = v
		}
		return out
	}
	acked := row(9)
	for i := 20; i < 33; i++ {
		acked[i] = 0
	}
	passed := &drill.Result{
		Scenario: "kill-serving", Summary: "SIGKILL to the replica that serves", Expect: "the other one serves", Verdict: drill.Passed, Pair: "pair1",
		Started: at(-1), Ended: at(7), Load: drill.Window{From: at(0), To: at(5)},
		Counts: drill.Counts{Sent: 340, Acknowledged: 333, Refused: 6, Unknown: 1, Found: 334, IMAP: 150, IMAPErrors: 1},
		SMTP:   drill.Gap{From: at(2), To: at(3.3), Counted: at(0), Millis: 1300, Limit: 10000},
		IMAP:   drill.Gap{From: at(2), To: at(3.1), Counted: at(0), Millis: 1100, Limit: 10000},
		Checks: []drill.Check{
			{Name: "fault is real: kill pair1-a", OK: true, Detail: "pair1-a does not answer; process 17 is gone"},
			{Name: "every acknowledged message is there", OK: true, Detail: "0 of 333 are missing"},
		},
		Faults:   []drill.Window{{What: "kill pair1-a", From: at(2), To: at(4)}},
		Events:   []drill.Event{{At: at(2), Text: "kill pair1-a"}},
		Serving:  []drill.Span{{Node: "pair1-a", From: at(0), To: at(2)}, {Node: "pair1-b", From: at(2.8), To: at(5)}},
		Series:   drill.Series{Step: 100, Sent: row(9), Acked: acked, Refused: row(0), Unknown: row(0), IMAP: row(3)},
		Queues:   []drill.QueueSample{{At: at(0), Queued: 0}, {At: at(2.5), Queued: 40}, {At: at(3.5), Queued: 0}},
		Refusals: map[string]int{"451 4.3.0 later": 6, "read: EOF": 1},
	}
	failed := &drill.Result{
		Scenario: "random", Summary: "faults by a seed", Expect: "nothing is lost", Verdict: drill.Failed, Seed: 7,
		Reason:  "every acknowledged message is there: 1 of 10 are missing",
		Started: at(8), Ended: at(12), Load: drill.Window{From: at(9), To: at(11)},
		Counts:   drill.Counts{Sent: 10, Acknowledged: 10, Found: 9, Missing: 1},
		Checks:   []drill.Check{{Name: "every acknowledged message is there", Detail: "1 of 10 are missing"}},
		Findings: []ledger.Finding{{Kind: ledger.Missing, ID: "d.1.2@drill.test", Recipient: "u@example.org", Outcome: "acknowledged", Reply: `250 <script>alert("x")</script>` + "\x1b[31m", Via: "relay1", Sent: at(9), Answered: at(9.5)}},
		Series:   drill.Series{Step: 100, Sent: row(1)[:20], Acked: row(1)[:20], Refused: row(0)[:20], Unknown: row(0)[:20], IMAP: row(0)[:20]},
		Control:  &drill.Control{ID: "d.1.2@drill.test", Recipient: "u@example.org", Noticed: true},
	}
	return &drill.Report{
		Version: drill.ReportVersion, Program: "postern 0.1.0", Target: "two relays & a pair", Started: at(-1), Ended: at(13),
		Results: []*drill.Result{
			passed, failed,
			{Scenario: "disk-full", Summary: "the disk is full", Verdict: drill.Errored, Reason: "the fault is not real: there is room\nfor more", Started: at(12), Ended: at(13), Checks: []drill.Check{}},
			{Scenario: "one-way-cut", Summary: "one way", Verdict: drill.Skipped, Reason: "needs network namespaces", Started: at(13), Ended: at(13), Checks: []drill.Check{}},
		},
	}
}

var forms = []struct {
	file  string
	write func(io.Writer, *drill.Report) error
}{{"report.txt", Text}, {"report.json", JSON}, {"report.xml", JUnit}, {"report.html", HTML}}

func TestGolden(t *testing.T) {
	for _, f := range forms {
		t.Run(f.file, func(t *testing.T) {
			var b bytes.Buffer
			if err := f.write(&b, sample()); err != nil {
				t.Fatal(err)
			}
			name := filepath.Join("testdata", f.file)
			if *update {
				if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), want) {
				t.Errorf("%s is not what is written now; -update writes it. Got:\n%s", name, b.String())
			}
		})
	}
}

// wellFormed reads text as XML and returns the attributes that name resources.
func wellFormed(t *testing.T, text []byte) (refs []string) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(text))
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return refs
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		if el, ok := tok.(xml.StartElement); ok {
			if el.Name.Local == "script" || el.Name.Local == "link" || el.Name.Local == "img" || el.Name.Local == "iframe" {
				t.Errorf("element %s", el.Name.Local)
			}
			for _, a := range el.Attr {
				if a.Name.Local == "href" || a.Name.Local == "src" {
					refs = append(refs, a.Value)
				}
				if strings.HasPrefix(a.Name.Local, "on") {
					t.Errorf("%s has %s", el.Name.Local, a.Name.Local)
				}
			}
		}
	}
}

// TestPage holds the page to what it promises: it needs nothing from elsewhere,
// every element is closed, what nodes say does not become part of it, and a
// picture has words.
func TestPage(t *testing.T) {
	var b bytes.Buffer
	if err := HTML(&b, sample()); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, ref := range wellFormed(t, b.Bytes()) {
		if !strings.HasPrefix(ref, "#") || !strings.Contains(text, `id="`+ref[1:]+`"`) {
			t.Errorf("refers to %q", ref)
		}
	}
	if m := regexp.MustCompile(`url\(|@import|https?://`).FindString(text); m != "" {
		t.Errorf("holds %q", m)
	}
	for _, want := range []string{`<html lang="en">`, `name="viewport"`, "prefers-color-scheme: dark", `role="img" aria-label="Timeline of 5 seconds`, "<title>Drill: Failed</title>"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if verdict, picture := strings.Index(text, "1 of 343 acknowledged messages lost"), strings.Index(text, "<svg"); verdict < 0 || verdict > picture {
		t.Errorf("the verdict stands at %d, the first picture at %d", verdict, picture)
	}
}

// TestPageOfNothing draws results without load.
func TestPageOfNothing(t *testing.T) {
	for _, r := range []*drill.Report{
		{Version: 1},
		{Version: 1, Results: []*drill.Result{{Scenario: "x", Verdict: drill.Errored, Counts: drill.Counts{Sent: 1}}}},
		{Version: 1, Results: []*drill.Result{{Scenario: "x", Counts: drill.Counts{Sent: 1}, Load: drill.Window{From: at(0), To: at(1)}, Series: drill.Series{Step: 100}}}},
	} {
		var b bytes.Buffer
		if err := HTML(&b, r); err != nil {
			t.Fatal(err)
		}
		wellFormed(t, b.Bytes())
	}
}

func TestJUnitIsWellFormed(t *testing.T) {
	var b bytes.Buffer
	if err := JUnit(&b, sample()); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, b.Bytes())
	var got junitSuites
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	s := got.Suites[0]
	if s.Tests != 4 || s.Failures != 1 || s.Errors != 1 || s.Skipped != 1 || s.Cases[1].Failure == nil || s.Cases[0].Failure != nil {
		t.Errorf("suite %+v", s)
	}
}

func TestRead(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, sample()); err != nil {
		t.Fatal(err)
	}
	got, err := Parse("x", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, sample()) {
		t.Error("a report is not the same after it was read back")
	}
	for _, c := range []struct{ text, want string }{
		{`{`, "x: unexpected end of JSON input"},
		{`{"version":9}`, "x: version 9, this program knows version 1"},
		{`{"version":1,"results":[null]}`, "x: result 1 has no scenario"},
	} {
		if _, err := Parse("x", []byte(c.text)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
	}
}

// FuzzParse shows whatever is taken for a report in every form.
func FuzzParse(f *testing.F) {
	var b bytes.Buffer
	if err := JSON(&b, sample()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"version":1,"results":[{"scenario":"x","counts":{"sent":1},"load":{"from":"2030-01-01T00:00:00Z","to":"2030-01-01T00:00:09Z"},"series":{"step_ms":-1}}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := Parse("x", in)
		if err != nil {
			return
		}
		for _, form := range forms {
			if err := form.write(io.Discard, r); err != nil && form.file != "report.json" {
				t.Errorf("%s: %v", form.file, err)
			}
		}
	})
}
