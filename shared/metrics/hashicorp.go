package metrics

import (
	"strings"
	"unicode"

	gometrics "github.com/hashicorp/go-metrics"
)

// named renames the figures of raft and memberlist on their way to the sink:
// appendEntries becomes append_entries, and a counter ends in _total.
type named struct{ gometrics.MetricSink }

func (n named) SetGauge(key []string, v float32) { n.MetricSink.SetGauge(snake(key), v) }

func (n named) SetGaugeWithLabels(key []string, v float32, l []gometrics.Label) {
	n.MetricSink.SetGaugeWithLabels(snake(key), v, l)
}

func (n named) EmitKey(key []string, v float32) { n.MetricSink.EmitKey(snake(key), v) }

func (n named) IncrCounter(key []string, v float32) { n.MetricSink.IncrCounter(total(key), v) }

func (n named) IncrCounterWithLabels(key []string, v float32, l []gometrics.Label) {
	n.MetricSink.IncrCounterWithLabels(total(key), v, l)
}

func (n named) AddSample(key []string, v float32) { n.MetricSink.AddSample(snake(key), v) }

func (n named) AddSampleWithLabels(key []string, v float32, l []gometrics.Label) {
	n.MetricSink.AddSampleWithLabels(snake(key), v, l)
}

func total(key []string) []string { return append(snake(key), "total") }

// snake returns a copy of key with a room for one more part.
func snake(key []string) []string {
	out := make([]string, len(key), len(key)+1)
	for i, part := range key {
		out[i] = snakePart(part)
	}
	return out
}

func snakePart(s string) string {
	if !strings.ContainsFunc(s, unicode.IsUpper) {
		return s
	}
	var b strings.Builder
	var before rune
	for _, r := range s {
		if unicode.IsUpper(r) && (unicode.IsLower(before) || unicode.IsDigit(before)) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
		before = r
	}
	return b.String()
}
