/*
Package report shows what drills have found: as text for a terminal, as JSON, as
JUnit XML for a build server, and as one page of HTML that needs nothing else.

All forms are made from the same drill.Report and hold the verdict first. Read
takes back what JSON wrote. What a cluster has said (replies, errors) is quoted
in them, and escaped for each form.
*/
package report

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/postern-mail/postern/ha/drill"
)

// maxFile bounds a report that is read.
const maxFile = 256 << 20

// JSON writes the report.
func JSON(w io.Writer, r *drill.Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// Read reads a report that JSON has written.
func Read(name string) (*drill.Report, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxFile {
		return nil, fmt.Errorf("%s: %d octets are too many", name, fi.Size())
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, data)
}

// Parse is Read on octets.
func Parse(name string, data []byte) (*drill.Report, error) {
	var r drill.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Version != drill.ReportVersion {
		return nil, fmt.Errorf("%s: version %d, this program knows version %d", name, r.Version, drill.ReportVersion)
	}
	for i, res := range r.Results {
		if res == nil || res.Scenario == "" {
			return nil, fmt.Errorf("%s: result %d has no scenario", name, i+1)
		}
	}
	return &r, nil
}

// clean makes text of a node safe for a terminal and for XML.
func clean(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || c == '\t' {
			return ' '
		}
		if unicode.IsControl(c) || c == unicode.ReplacementChar || !unicode.IsGraphic(c) {
			return '?'
		}
		return c
	}, s)
}

func ms(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

// limit is a gap beside what is allowed.
func limit(g drill.Gap) string {
	if g.Limit == 0 {
		return ms(g.Millis)
	}
	return ms(g.Millis) + " of " + ms(g.Limit)
}

// lost says in a few words what is lost.
func lost(r *drill.Result) string {
	judged := slices.ContainsFunc(r.Checks, func(c drill.Check) bool { return c.Name == "every acknowledged message is there" })
	switch {
	case !judged:
		return "not known"
	case r.Counts.Missing == 0:
		return "nothing"
	case r.Counts.Missing == 1:
		return "1 message"
	}
	return fmt.Sprintf("%d messages", r.Counts.Missing)
}

// served names who served, in order, each change of hands once. A long drill has
// too many of them.
func served(r *drill.Result) string {
	var names []string
	for _, s := range r.Serving {
		if len(names) == 0 || names[len(names)-1] != s.Node {
			names = append(names, s.Node)
		}
	}
	const few = 4
	switch n := len(names); {
	case n == 0:
		return "nobody"
	case n > few:
		slices.Sort(names)
		return fmt.Sprintf("%s in %d turns", strings.Join(slices.Compact(names), ", "), n)
	}
	return strings.Join(names, " → ")
}

// waited is how many messages stood in queues at once.
func waited(r *drill.Result) (n int) {
	for _, q := range r.Queues {
		n = max(n, q.Queued)
	}
	return n
}

// Text writes the report for a terminal.
func Text(w io.Writer, r *drill.Report) error {
	var b strings.Builder
	for _, res := range r.Results {
		text(&b, res)
	}
	fmt.Fprintf(&b, "%s: %d passed, %d failed, %d could not run, %d not possible here\n", strings.ToUpper(string(r.Verdict())),
		r.Count(drill.Passed), r.Count(drill.Failed), r.Count(drill.Errored), r.Count(drill.Skipped))
	_, err := io.WriteString(w, b.String())
	return err
}

func text(b *strings.Builder, r *drill.Result) {
	fmt.Fprintf(b, "%-8s %s", strings.ToUpper(string(r.Verdict)), r.Scenario)
	if r.Summary != "" {
		fmt.Fprintf(b, ": %s", r.Summary)
	}
	b.WriteByte('\n')
	if r.Reason != "" {
		fmt.Fprintf(b, "  %s\n", clean(r.Reason))
	}
	if r.Counts.Sent == 0 {
		b.WriteByte('\n')
		return
	}
	c := &r.Counts
	fmt.Fprintf(b, "  lost: %s\n", lost(r))
	fmt.Fprintf(b, "  sent %d, acknowledged %d, refused %d, unknown %d; %d in mailboxes\n", c.Sent, c.Acknowledged, c.Refused, c.Unknown, c.Found)
	fmt.Fprintf(b, "  longest gap: deliveries %s, IMAP %s\n", limit(r.SMTP), limit(r.IMAP))
	fmt.Fprintf(b, "  served by %s; at most %d waited in queues\n", clean(served(r)), waited(r))
	if s := r.Sessions; s != nil {
		fmt.Fprintf(b, "  %d more sessions: %d answers, %d began again, longest gap %s\n", s.Count, s.Answers, s.Errors, ms(s.LongestMillis))
	}
	if m := r.Moves; m != nil {
		fmt.Fprintf(b, "  %d users with %d messages went to %s, each closed for %s at most\n", m.Users, m.Messages, clean(m.To), ms(m.ClosedMillis))
	}
	if r.Seed != 0 {
		fmt.Fprintf(b, "  again with --seed %d\n", r.Seed)
	}
	if r.Control != nil {
		noticed := "not noticed"
		if r.Control.Noticed {
			noticed = "noticed, as it must be"
		}
		fmt.Fprintf(b, "  negative control: message %s of %s was removed: %s\n", clean(r.Control.ID), clean(r.Control.Recipient), noticed)
	}
	for _, k := range r.Checks {
		mark := "ok  "
		if !k.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(b, "  %s %s: %s\n", mark, clean(k.Name), clean(k.Detail))
	}
	const most = 10
	for i := range r.Findings[:min(len(r.Findings), most)] {
		fmt.Fprintf(b, "  %s\n", clean(r.Findings[i].String()))
	}
	if n := len(r.Findings) - most; n > 0 {
		fmt.Fprintf(b, "  and %d more\n", n)
	}
	if r.Verdict != drill.Passed {
		for _, reply := range slices.Sorted(maps.Keys(r.Refusals)) {
			fmt.Fprintf(b, "  %6d times: %s\n", r.Refusals[reply], clean(reply))
		}
	}
	b.WriteByte('\n')
}

// The elements of JUnit's format, as build servers read it.
type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string     `xml:"classname,attr"`
	Name    string     `xml:"name,attr"`
	Time    string     `xml:"time,attr"`
	Failure *junitText `xml:"failure"`
	Error   *junitText `xml:"error"`
	Skipped *junitText `xml:"skipped"`
	Out     string     `xml:"system-out,omitempty"`
}

type junitText struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// JUnit writes the report as a test suite with a case for each scenario.
func JUnit(w io.Writer, r *drill.Report) error {
	s := junitSuite{
		Name: "postern drill", Tests: len(r.Results), Failures: r.Count(drill.Failed), Errors: r.Count(drill.Errored),
		Skipped: r.Count(drill.Skipped), Time: seconds(r.Ended.Sub(r.Started)), Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05"),
	}
	for _, res := range r.Results {
		var b strings.Builder
		text(&b, res)
		c := junitCase{Class: "drill", Name: res.Scenario, Time: seconds(res.Ended.Sub(res.Started)), Out: cleanLines(b.String())}
		say := &junitText{Message: clean(res.Reason), Text: failing(res)}
		switch res.Verdict {
		case drill.Failed:
			c.Failure = say
		case drill.Errored:
			c.Error = say
		case drill.Skipped:
			c.Skipped = say
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(junitSuites{Suites: []junitSuite{s}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// cleanLines is clean, line by line.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

func failing(r *drill.Result) string {
	var b strings.Builder
	for _, k := range r.Checks {
		if !k.OK {
			fmt.Fprintf(&b, "%s: %s\n", clean(k.Name), clean(k.Detail))
		}
	}
	return b.String()
}
