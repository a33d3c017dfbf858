package report

import (
	"fmt"
	"html"
	"html/template"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/ha/drill"
)

// The picture, in its own units. Columns is how many bars it has at most: more
// steps than that are put together.
const (
	width   = 1000
	left    = 92
	right   = 12
	columns = 300

	topDeliveries, highDeliveries = 30, 120
	topBad, highBad               = 154, 24
	topIMAP, highIMAP             = 190, 50
	topServing, highServing       = 254, 24
	topQueue, highQueue           = 292, 40
	bottom                        = 340
	height                        = 366
)

// longest is the longest load that is drawn.
const longest = 366 * 24 * time.Hour

// drawing makes the picture of one result.
type drawing struct {
	b    strings.Builder
	r    *drill.Result
	from time.Time
	long time.Duration
}

// timeline is the picture of a result: load, acknowledgements, faults, who
// served, queues, and the longest gap.
func timeline(r *drill.Result) template.HTML {
	d := &drawing{r: r, from: r.Load.From, long: r.Load.To.Sub(r.Load.From)}
	if d.long <= 0 || d.long > longest || r.Series.Step <= 0 {
		return "" // no load, or no report of ours
	}
	fmt.Fprintf(&d.b, `<svg viewBox="0 0 %d %d" role="img" aria-label="%s">`, width, height, html.EscapeString(d.words()))
	d.faults()
	d.axis()
	d.lane(topDeliveries, "deliveries")
	d.bars("s-sent", topDeliveries, highDeliveries, r.Series.Sent, d.most(r.Series.Sent, r.Series.Acked), "sent")
	d.bars("s-ack", topDeliveries, highDeliveries, r.Series.Acked, d.most(r.Series.Sent, r.Series.Acked), "acknowledged")
	bad := slices.Clone(r.Series.Refused)
	for i := range min(len(bad), len(r.Series.Unknown)) {
		bad[i] += r.Series.Unknown[i]
	}
	d.lane(topBad, "refused")
	d.bars("s-bad", topBad, highBad, bad, d.most(bad), "refused or unknown")
	d.lane(topIMAP, "IMAP")
	d.bars("s-imap", topIMAP, highIMAP, r.Series.IMAP, d.most(r.Series.IMAP), "IMAP answers")
	d.serving()
	d.queue()
	d.gap(r.SMTP, topDeliveries+14)
	d.gap(r.IMAP, topIMAP+14)
	d.b.WriteString("</svg>")
	return template.HTML(d.b.String())
}

// words say what the picture shows.
func (d *drawing) words() string {
	s := fmt.Sprintf("Timeline of %.0f seconds: %d messages acknowledged; longest gap of deliveries %s, of IMAP %s",
		d.long.Seconds(), d.r.Counts.Acknowledged, ms(d.r.SMTP.Millis), ms(d.r.IMAP.Millis))
	for _, f := range d.r.Faults {
		s += fmt.Sprintf("; %s from second %.1f to %.1f", f.What, f.From.Sub(d.from).Seconds(), f.To.Sub(d.from).Seconds())
	}
	return s
}

// x is where a time stands.
func (d *drawing) x(t time.Time) float64 {
	share := float64(t.Sub(d.from)) / float64(d.long)
	return left + min(max(share, 0), 1)*(width-left-right)
}

func (d *drawing) rect(class string, x0, x1, y, h float64, title string) {
	fmt.Fprintf(&d.b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f">`, class, x0, y, max(x1-x0, 0.5), h)
	if title != "" {
		fmt.Fprintf(&d.b, "<title>%s</title>", html.EscapeString(title))
	}
	d.b.WriteString("</rect>")
}

func (d *drawing) text(class, anchor string, x, y float64, s string) {
	fmt.Fprintf(&d.b, `<text class="%s" text-anchor="%s" x="%.1f" y="%.1f">%s</text>`, class, anchor, x, y, html.EscapeString(s))
}

func (d *drawing) lane(top int, name string) { d.text("strong", "end", left-8, float64(top)+12, name) }

// maxNamed is how many faults have their name in the picture.
const maxNamed = 6

func (d *drawing) faults() {
	last, row := -1.0, 0.0
	for i, f := range d.r.Faults {
		x0, x1 := d.x(f.From), d.x(f.To)
		d.rect("s-fault", x0, x1, topDeliveries-6, bottom-topDeliveries+6, fmt.Sprintf("%s, %.1f s", f.What, f.To.Sub(f.From).Seconds()))
		if i >= maxNamed || x0-last < 4 && i > 0 {
			continue
		}
		name := []rune(f.What)
		if len(name) > 40 {
			name = append(name[:39], '…')
		}
		if x0 < last+7*float64(len(name)) && i > 0 {
			row = 11 - row
		} else {
			row = 0
		}
		anchor, at := "start", x0
		if x0 > width*3/4 {
			anchor, at = "end", width-right
		}
		d.text("strong", anchor, at, 10+row, string(name))
		last = x0
	}
}

// axis draws the seconds.
func (d *drawing) axis() {
	every := time.Second
	for _, e := range []time.Duration{2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200} {
		if d.long/every > 12 {
			every = e * time.Second
		}
	}
	for d.long/every > 24 {
		every *= 2
	}
	for at := time.Duration(0); at <= d.long; at += every {
		x := d.x(d.from.Add(at))
		fmt.Fprintf(&d.b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, x, x, topDeliveries, bottom)
		d.text("", "middle", x, bottom+16, fmt.Sprintf("%.0f s", at.Seconds()))
	}
	fmt.Fprintf(&d.b, `<line class="axis" x1="%d" x2="%d" y1="%d" y2="%d"/>`, left, width-right, bottom, bottom)
}

// per is how many steps make a bar.
func (d *drawing) per(row []int) int { return max(1, (len(row)+columns-1)/columns) }

func (d *drawing) sums(row []int) (sums []int) {
	per := d.per(row)
	for part := range slices.Chunk(row, per) {
		n := 0
		for _, v := range part {
			n += v
		}
		sums = append(sums, n)
	}
	return sums
}

// most is the highest bar of some rows that are drawn to one scale.
func (d *drawing) most(rows ...[]int) int {
	top := 1
	for _, row := range rows {
		for _, v := range d.sums(row) {
			top = max(top, v)
		}
	}
	return top
}

func (d *drawing) bars(class string, top, high int, row []int, most int, what string) {
	length := time.Duration(d.per(row)) * time.Duration(d.r.Series.Step) * time.Millisecond
	for i, v := range d.sums(row) {
		if v == 0 {
			continue
		}
		from := d.from.Add(time.Duration(i) * length)
		h := float64(high) * float64(v) / float64(most)
		d.rect(class, d.x(from)+0.3, d.x(from.Add(length))-0.3, float64(top+high)-h, h,
			fmt.Sprintf("%.1f s: %d %s", from.Sub(d.from).Seconds(), v, what))
	}
	perSecond := float64(most) / length.Seconds()
	d.text("", "end", left-8, float64(top)+26, fmt.Sprintf("%.0f/s", perSecond))
}

func (d *drawing) serving() {
	d.lane(topServing, "serving")
	var nodes []string
	for _, s := range d.r.Serving {
		if !slices.Contains(nodes, s.Node) {
			nodes = append(nodes, s.Node)
		}
	}
	slices.Sort(nodes)
	for _, s := range d.r.Serving {
		x0, x1 := d.x(s.From), d.x(s.To)
		if s.To.Before(d.from) || x1 <= x0 {
			continue
		}
		class := []string{"s-a", "s-b"}[slices.Index(nodes, s.Node)%2]
		d.rect(class, x0, x1, topServing, highServing, fmt.Sprintf("%s, %.1f s", s.Node, s.To.Sub(s.From).Seconds()))
		if x1-x0 > 9*float64(len(s.Node)) {
			d.text("on", "middle", (x0+x1)/2, topServing+16, s.Node)
		}
	}
}

func (d *drawing) queue() {
	d.lane(topQueue, "queued")
	most := 1
	for _, q := range d.r.Queues {
		most = max(most, q.Queued)
	}
	var path strings.Builder
	for i, q := range d.r.Queues {
		if q.At.Before(d.from) || q.At.After(d.from.Add(d.long)) {
			continue
		}
		op := "L"
		if path.Len() == 0 {
			op = "M"
		}
		y := float64(topQueue+highQueue) - float64(highQueue)*float64(q.Queued)/float64(most)
		if op == "L" {
			py := float64(topQueue+highQueue) - float64(highQueue)*float64(d.r.Queues[i-1].Queued)/float64(most)
			fmt.Fprintf(&path, "L%.1f %.1f", d.x(q.At), py)
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", op, d.x(q.At), y)
	}
	if path.Len() > 0 {
		fmt.Fprintf(&d.b, `<path class="s-queue" d="%s"/>`, path.String())
	}
	d.text("", "end", left-8, topQueue+26, fmt.Sprintf("≤ %d", most))
}

// worth is the length from which a gap is drawn.
const worth = 200 * time.Millisecond

func (d *drawing) gap(g drill.Gap, y int) {
	if time.Duration(g.Millis)*time.Millisecond < worth {
		return
	}
	x0, x1 := d.x(g.From), d.x(g.To)
	fmt.Fprintf(&d.b, `<path class="s-gap" d="M%.1f %dv8m0 -4H%.1fm0 -4v8"/>`, x0, y-4, x1)
	anchor, at := "middle", (x0+x1)/2
	switch {
	case at > width-right-40:
		anchor, at = "end", width-right
	case at < left+40:
		anchor, at = "start", left
	}
	d.text("gap", anchor, at, float64(y)-6, "gap "+ms(g.Millis))
}
