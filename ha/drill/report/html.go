package report

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/drill"
)

//go:embed page.html.tmpl page.css
var files embed.FS

var page = template.Must(template.New("page.html.tmpl").Funcs(template.FuncMap{
	"css":      func() (template.CSS, error) { b, err := files.ReadFile("page.css"); return template.CSS(b), err },
	"ms":       ms,
	"lost":     lost,
	"served":   served,
	"waited":   waited,
	"capital":  capital,
	"word":     word,
	"timeline": timeline,
	"clock":    func(t time.Time) string { return t.Format("15:04:05.000") },
	"day":      func(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") },
	"since":    func(r *drill.Result, t time.Time) string { return fmt.Sprintf("%+.2f s", t.Sub(r.Load.From).Seconds()) },
	"refusals": refusals,
	"sum":      summary,
	"over":     func(g drill.Gap) bool { return g.Limit > 0 && g.Millis > g.Limit },
	"share":    share,
}).ParseFS(files, "page.html.tmpl"))

// HTML writes the report as one page that needs nothing from elsewhere.
func HTML(w io.Writer, r *drill.Report) error {
	var b strings.Builder
	if err := page.Execute(&b, r); err != nil {
		return err
	}
	_, err := io.WriteString(w, cleanLines(b.String()))
	return err
}

// word is a verdict for people.
func word(v drill.Verdict) string {
	switch v {
	case drill.Passed:
		return "Passed"
	case drill.Failed:
		return "Failed"
	case drill.Skipped:
		return "Not possible here"
	}
	return "Could not run"
}

// capital makes a sentence of s.
func capital(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// summary is the answer to the first question: was anything lost.
func summary(r *drill.Report) string {
	acked, missing, doubled, known := 0, 0, 0, true
	for _, res := range r.Results {
		if res.Verdict == drill.Skipped {
			continue
		}
		known = known && lost(res) != "not known"
		acked += res.Counts.Acknowledged
		missing += res.Counts.Missing
		doubled += res.Counts.Doubled
	}
	switch {
	case missing > 0 || doubled > 0:
		return fmt.Sprintf("%d of %d acknowledged messages lost, %d doubled", missing, acked, doubled)
	case !known:
		return fmt.Sprintf("not every scenario was judged; %d messages were acknowledged", acked)
	}
	return fmt.Sprintf("nothing lost, nothing doubled: %d acknowledged messages are each there once", acked)
}

type refusal struct {
	Reply string
	Count int
}

func refusals(m map[string]int) (out []refusal) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, refusal{k, m[k]})
	}
	slices.SortStableFunc(out, func(a, b refusal) int { return b.Count - a.Count })
	return out
}

// share is how much of its limit a gap has used, in percent, at most 100.
func share(g drill.Gap) int64 {
	if g.Limit == 0 {
		return 0
	}
	return min(100, g.Millis*100/g.Limit)
}
