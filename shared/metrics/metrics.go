package metrics

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	goprom "github.com/hashicorp/go-metrics/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Counter only grows.
type Counter = prometheus.Counter

// Gauge goes up and down.
type Gauge = prometheus.Gauge

// Histogram counts observations, in seconds for times, by size.
type Histogram = prometheus.Histogram

// Counters are Counters told apart by labels. Resolve With once where it is hot.
type Counters struct{ *prometheus.CounterVec }

// With returns the counter of the label values, in the order of the names.
func (c Counters) With(values ...string) Counter { return c.WithLabelValues(values...) }

// Gauges are Gauges told apart by labels.
type Gauges struct{ *prometheus.GaugeVec }

// With returns the gauge of the label values, in the order of the names.
func (g Gauges) With(values ...string) Gauge { return g.WithLabelValues(values...) }

// Tier groups the figures by the daemons that export them.
type Tier struct {
	name       string
	collectors []prometheus.Collector
}

func (t *Tier) add(c prometheus.Collector) { t.collectors = append(t.collectors, c) }

func (t *Tier) counter(name, help string) Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	t.add(c)
	return c
}

func (t *Tier) counters(name, help string, labels ...string) Counters {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	t.add(c)
	return Counters{c}
}

func (t *Tier) gauges(name, help string, labels ...string) Gauges {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	t.add(g)
	return Gauges{g}
}

func (t *Tier) seconds(name, help string) Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help,
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	})
	t.add(h)
	return h
}

// Registry is what one daemon exports.
type Registry struct {
	reg *prometheus.Registry
}

// NewRegistry returns a registry with the figures of the tiers, of the Go
// runtime and of the process. version and node label the build.
func NewRegistry(node, version string, tiers ...*Tier) *Registry {
	r := &Registry{prometheus.NewRegistry()}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postern_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"node": node, "version": version},
	})
	build.Set(1)
	r.reg.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, t := range tiers {
		r.reg.MustRegister(t.collectors...)
	}
	return r
}

// GaugeFunc exports what f returns at each scrape. The name is one of the
// constants of names.go.
func (r *Registry) GaugeFunc(name, help string, labels map[string]string, f func() float64) {
	r.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
}

var hashicorp sync.Once

// CollectHashicorp exports the figures of raft and memberlist, under postern_
// and named as Prometheus names things: snake_case, counters ending in _total.
// They are one set for the whole process.
func (r *Registry) CollectHashicorp() error {
	sink, err := goprom.NewPrometheusSinkFrom(goprom.PrometheusOpts{Registerer: r.reg, Expiration: 10 * time.Minute})
	if err != nil {
		return fmt.Errorf("metrics of raft and memberlist: %w", err)
	}
	hashicorp.Do(func() {
		c := gometrics.DefaultConfig("postern")
		c.EnableHostname, c.EnableRuntimeMetrics, c.EnableServiceLabel = false, false, false
		_, err = gometrics.NewGlobal(c, named{sink})
	})
	return err
}

// Check is one condition of being ready.
type Check struct {
	Name string
	// Ready returns nil, or why not. It must answer at once.
	Ready func(ctx context.Context) error
}

// Handler serves /metrics, /healthz and /readyz.
func (r *Registry) Handler(checks ...Check) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, req *http.Request) {
		ctx, cancel := context.WithTimeout(req.Context(), 2*time.Second)
		defer cancel()
		var failing []string
		for _, c := range checks {
			if err := c.Ready(ctx); err != nil {
				failing = append(failing, c.Name+": "+err.Error())
			}
		}
		if failing != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, strings.Join(failing, "\n"))
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// Names returns the names of the figures of a tier, but for those that are read
// at the scrape.
func (t *Tier) Names() []string {
	descs := make(chan *prometheus.Desc)
	go func() {
		for _, c := range t.collectors {
			c.Describe(descs)
		}
		close(descs)
	}()
	var out []string
	for d := range descs {
		_, name, _ := strings.Cut(d.String(), `fqName: "`)
		name, _, _ = strings.Cut(name, `"`)
		out = append(out, name)
	}
	return out
}
